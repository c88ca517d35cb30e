//! `POST /api/v1/snapshot`: the whole state, for an operator's backup.
//!
//! Any member answers from a view of its own state, which is made durable first; writes go on meanwhile. The
//! rows are read on a thread of their own, as fast as the client takes them. While a snapshot is sent,
//! `state.redb` grows by what is written. So only few are sent at once, and a client that takes nothing is
//! cut.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::body::Body;
use axum::extract::{FromRef, Request};
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use piccolo_raft::cluster::Node;
use piccolo_raft::index::Index;
use piccolo_raft::snapshot::file::Saved;
use piccolo_raft::snapshot::{SnapshotData, SnapshotError, about_bytes};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};

use crate::api::header;
use crate::limits::{CLIENT_SILENT_MAX, SNAPSHOT_CHUNKS_AHEAD, SNAPSHOT_SEND_TIMEOUT};
use crate::server::app::{App, Loaded};
use crate::server::cluster::behind::LookupFallback;
use crate::server::error::ApiError;
use crate::server::operators::Operators;
use crate::server::permits::Permits;

/// The parts that a snapshot uses.
#[derive(Clone)]
pub struct Snapshots {
    node: Node,
    index: Index,
    fallback: Arc<LookupFallback>,
    permits: Permits,
    operators: Operators,
}

impl FromRef<App> for Snapshots {
    fn from_ref(app: &App) -> Self {
        Self {
            node: app.node.clone(),
            index: app.index.clone(),
            fallback: Arc::clone(&app.cluster.fallback),
            permits: app.permits.clone(),
            operators: app.operators,
        }
    }
}

/// The way to a client: chunks of the snapshot, and whether those were all.
struct Sending {
    chunks: mpsc::Sender<Bytes>,
    whole: Arc<AtomicBool>,
}

/// Answers with a snapshot file.
pub async fn handle(Loaded(parts): Loaded<Snapshots>, incoming: Request) -> Result<Response, ApiError> {
    let Snapshots { node, index, fallback, permits, operators } = parts;
    operators.check(&incoming)?;
    let permit = permits.snapshots.try_acquire_owned().map_err(|_| ApiError::Overloaded)?;
    let status = node.status();
    let Some(cluster_id) = status.cluster_id.filter(|_| node.is_member()) else {
        return Err(ApiError::NotMember);
    };
    if let Some(unready) = fallback.unready() {
        // A backup should have all that was acknowledged.
        return Err(ApiError::Unready(unready));
    }
    // A view begins with a commit, which needs room.
    if let Some(reason) = node.no_room_for_upkeep() {
        return Err(ApiError::NoRoom { reason });
    }
    let (meta, data) = SnapshotData::of(&index).await?;
    tracing::info!(%meta, "sending a snapshot to an operator");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let saved = Saved {
        cluster_id,
        node_id: status.node_id,
        unix_ms: u64::try_from(now.as_millis()).unwrap_or(u64::MAX),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let head = saved.to_bytes(index.level().get());
    let about = head.len() as u64 + about_bytes(index.counts());
    let mut response = Response::new(body(head.into(), data, permit));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(HeaderName::from_static(header::ABOUT_BYTES), HeaderValue::from(about));
    Ok(response)
}

/// A body that holds `permit` until all of it is sent or given up.
fn body(first: Bytes, data: SnapshotData, permit: OwnedSemaphorePermit) -> Body {
    let (chunks, receiver) = mpsc::channel(SNAPSHOT_CHUNKS_AHEAD);
    let whole = Arc::new(AtomicBool::new(false));
    let sending = Sending { chunks, whole: Arc::clone(&whole) };
    let threads = Handle::current();
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        send(&threads, first, data, &sending);
    });
    received(receiver, whole)
}

/// The body of `receiver`. It ends with an error, which cuts the connection, unless `whole` says that all is
/// sent: a snapshot that was given up must not look like a whole one.
fn received(receiver: mpsc::Receiver<Bytes>, whole: Arc<AtomicBool>) -> Body {
    Body::from_stream(stream::unfold(Some((receiver, whole)), async |state| {
        let (mut receiver, whole) = state?;
        match receiver.recv().await {
            Some(chunk) => Some((Ok(chunk), Some((receiver, whole)))),
            None if whole.load(Ordering::Acquire) => None,
            None => Some((Err(io::Error::other("the snapshot was given up")), None)),
        }
    }))
}

fn send(threads: &Handle, first: Bytes, data: SnapshotData, sending: &Sending) {
    let begun = Instant::now();
    let chunks = data.into_chunks().map(|chunks| std::iter::once(Ok(first)).chain(chunks));
    let give_up = |error: io::Error| tracing::warn!(%error, "could not send a snapshot to the end");
    let chunks = match chunks {
        Ok(chunks) => chunks,
        Err(error) => return give_up(io::Error::other(error)),
    };
    for chunk in chunks {
        let chunk: Result<Bytes, SnapshotError> = chunk;
        let chunk = match chunk {
            Ok(chunk) => chunk,
            Err(error) => return give_up(io::Error::other(error)),
        };
        if begun.elapsed() > SNAPSHOT_SEND_TIMEOUT {
            return give_up(io::Error::other("its client was too slow"));
        }
        match threads.block_on(async { timeout(CLIENT_SILENT_MAX, sending.chunks.send(chunk)).await }) {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return tracing::info!("the client of a snapshot has left"),
            Err(_) => return give_up(io::Error::other("the client takes nothing")),
        }
    }
    sending.whole.store(true, Ordering::Release);
    tracing::info!("a snapshot was sent");
}

#[cfg(test)]
mod tests {
    use axum::http::StatusCode;
    use axum::response::IntoResponse;
    use futures_util::StreamExt;
    use piccolo_raft::snapshot::file::FileReceiver;

    use super::*;
    use crate::http::Connection;
    use crate::limits::SNAPSHOTS_SENT_MAX;
    use crate::server::testing::{app_without_room, leading_app};

    async fn save(app: &App, request: Request) -> Result<Response, ApiError> {
        handle(Loaded(Snapshots::from_ref(app)), request).await
    }

    fn asked_from(peer: &str) -> Request {
        let mut request = Request::builder()
            .method("POST")
            .header(CONTENT_TYPE, "application/json")
            .body(Body::empty())
            .expect("a request");
        let peer = peer.parse().expect("an address");
        request.extensions_mut().insert(Connection::new(peer, peer));
        request
    }

    #[tokio::test]
    async fn a_few_are_sent_at_once_and_each_is_whole() {
        let app = leading_app().await;
        let snapshots = &app.permits.snapshots;
        let permits: Vec<_> = (0..SNAPSHOTS_SENT_MAX).map(|_| snapshots.try_acquire().unwrap()).collect();
        let refused = save(&app, asked_from("127.0.0.1:9")).await.unwrap_err();
        assert_eq!(refused.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(permits);
        for _ in 0..2 * SNAPSHOTS_SENT_MAX {
            let body = save(&app, asked_from("127.0.0.1:9")).await.unwrap().into_body();
            let mut receiver = FileReceiver::default();
            let mut chunks = body.into_data_stream();
            while let Some(chunk) = chunks.next().await {
                receiver.push(&chunk.unwrap()).unwrap();
            }
            let (saved, received) = receiver.finish().unwrap();
            assert_eq!(Some(saved.cluster_id), app.node.status().cluster_id);
            assert_eq!(received.summary().checksum, app.index.checksum().1);
            let end = Instant::now() + std::time::Duration::from_secs(20);
            while app.permits.snapshots.available_permits() < SNAPSHOTS_SENT_MAX {
                assert!(Instant::now() < end, "a permit is not given back");
                tokio::task::yield_now().await;
            }
        }
    }

    /// The error found no room in a full queue, and the body ended like a whole one.
    #[tokio::test]
    async fn what_is_given_up_ends_with_an_error_also_behind_a_full_queue() {
        for is_whole in [false, true] {
            let (chunks, receiver) = mpsc::channel(1);
            let whole = Arc::new(AtomicBool::new(false));
            let mut body = received(receiver, Arc::clone(&whole)).into_data_stream();
            chunks.try_send(Bytes::from_static(b"first")).unwrap();
            assert!(chunks.try_send(Bytes::new()).is_err(), "it is full");
            whole.store(is_whole, Ordering::Release);
            drop(chunks);
            assert_eq!(body.next().await.unwrap().unwrap(), "first");
            assert_eq!(body.next().await.map(|end| end.is_err()), (!is_whole).then_some(true));
        }
    }

    #[tokio::test]
    async fn on_a_disk_without_room_there_is_none() {
        let app = app_without_room(async |app| {
            save(app, asked_from("127.0.0.1:9")).await.map(drop).unwrap();
        })
        .await;
        let refused = save(&app, asked_from("127.0.0.1:9")).await.unwrap_err();
        assert!(refused.to_string().contains("the disk is all but full"), "{refused}");
        assert_eq!(refused.into_response().status(), StatusCode::INSUFFICIENT_STORAGE);
        app.node.shutdown().await;
    }

    #[tokio::test]
    async fn only_an_operator_gets_one() {
        let app = leading_app().await;
        let refused = save(&app, asked_from("10.0.0.9:9")).await.unwrap_err();
        assert_eq!(refused.into_response().status(), StatusCode::FORBIDDEN);
        assert_eq!(app.permits.snapshots.available_permits(), SNAPSHOTS_SENT_MAX);
    }
}
