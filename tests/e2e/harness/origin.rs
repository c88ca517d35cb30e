//! HTTP servers that misbehave or delay: a registry with a gate, a peer that sends wrong bytes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Method, Response, Uri};
use piccolo::http::{ConnectionLimits, bind, serve};
use piccolo::oci::Digest;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::Image;

/// A server that ends when dropped.
struct Server {
    address: SocketAddr,
    _stop: DropGuard,
}

impl Server {
    async fn start(router: Router) -> Self {
        let listener = bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        TaskTracker::new().spawn(serve(listener, router, ConnectionLimits::default(), stop.clone()));
        Self { address, _stop: stop.drop_guard() }
    }
}

/// A registry of one image that delays one blob until its gate opens.
pub struct Origin {
    server: Server,
    gate: watch::Sender<bool>,
}

#[derive(Clone)]
struct OriginState {
    blobs: PathBuf,
    manifest: Digest,
    held: Digest,
    gate: watch::Receiver<bool>,
}

impl Origin {
    pub async fn start(image: &Image, held: &Digest) -> Self {
        let (gate, receiver) = watch::channel(false);
        let state = OriginState {
            blobs: image.folder.join("blobs/sha256"),
            manifest: image.manifest.clone(),
            held: held.clone(),
            gate: receiver,
        };
        Self { server: Server::start(Router::new().fallback(answer_as_origin).with_state(state)).await, gate }
    }

    pub fn name(&self) -> String {
        self.server.address.to_string()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    pub fn open(&self) {
        self.gate.send(true).unwrap();
    }
}

async fn answer_as_origin(State(mut state): State<OriginState>, method: Method, uri: Uri) -> Response<Body> {
    let last = uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    if last.is_empty() || last == "v2" {
        return Response::new(Body::empty());
    }
    let digest = last.parse::<Digest>().unwrap_or_else(|_| state.manifest.clone());
    if digest == state.held && method == Method::GET {
        state.gate.wait_for(|open| *open).await.unwrap();
    }
    let Ok(bytes) = std::fs::read(state.blobs.join(digest.hex())) else {
        return Response::builder().status(404).body(Body::empty()).unwrap();
    };
    let kind = if digest == state.manifest {
        "application/vnd.oci.image.manifest.v1+json"
    } else {
        "application/octet-stream"
    };
    Response::builder()
        .header("content-type", kind)
        .header("content-length", bytes.len())
        .header("docker-content-digest", digest.as_str())
        .body(if method == Method::HEAD { Body::empty() } else { Body::from(bytes) })
        .unwrap()
}

/// A peer that answers every blob of an image with wrong bytes of the right length.
pub struct Liar {
    server: Server,
    state: LiarState,
}

#[derive(Clone)]
struct LiarState {
    blobs: PathBuf,
    asked: Arc<AtomicUsize>,
}

impl Liar {
    pub async fn start(image: &Image) -> Self {
        let state = LiarState { blobs: image.folder.join("blobs/sha256"), asked: Arc::default() };
        let router = Router::new().fallback(answer_as_liar).with_state(state.clone());
        Self { server: Server::start(router).await, state }
    }

    pub fn holder(&self) -> String {
        self.server.address.to_string()
    }

    pub fn asked(&self) -> usize {
        self.state.asked.load(Ordering::Relaxed)
    }
}

async fn answer_as_liar(State(state): State<LiarState>, method: Method, uri: Uri) -> Response<Body> {
    state.asked.fetch_add(1, Ordering::Relaxed);
    let digest = uri.path().rsplit('/').next().unwrap_or_default().to_owned();
    let file = digest.rsplit(':').next().map(|hex| state.blobs.join(hex));
    let Some(length) = file.and_then(|file| std::fs::metadata(file).ok()).map(|metadata| metadata.len())
    else {
        return Response::builder().status(404).body(Body::empty()).unwrap();
    };
    let body = if method == Method::HEAD { Body::empty() } else { Body::from(vec![b'x'; length as usize]) };
    Response::builder()
        .header("content-type", "application/octet-stream")
        .header("content-length", length)
        .header("docker-content-digest", digest)
        .body(body)
        .unwrap()
}
