//! Requests to the discovery API: the product's router with an in-memory cluster of one.
//!
//! An input is a request as text: `METHOD target`, header lines, an empty line, the body.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response};
use piccolo::clock::SystemClock;
use piccolo::http::{Connection, KnownAddresses};
use piccolo::server::app::{App, AppHandle, Policy};
use piccolo::server::endpoints;
use piccolo::server::leases::Leases;
use piccolo::server::operators::Operators;
use piccolo::server::requests::accepted::HolderPolicy;
use piccolo::server::requests::json::Fields;
use piccolo::task::Stop;
use piccolo_raft::address::is_address;
use tokio::runtime::Runtime;
use tower::ServiceExt;

use super::in_process::{self, NOBODY};

/// Number of requests to one server: its index must not grow forever, nor a finding depend on hours of
/// requests.
const REQUESTS_MAX: u32 = 5_000;
/// Time for a lookup that waits for a log index; then its client closes the connection.
const WAITING_LOOKUP: Duration = Duration::from_millis(5);
/// Time for all other answers, which come at once, or after a disk that is busy with other work.
const ANSWER_MAX: Duration = Duration::from_secs(15);
/// Longest answer, bytes: requests of [`crate::corpus::INPUT_BYTES_MAX`] put little into the index.
const ANSWER_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Server errors that are allowed: never 500.
const SERVER_ERRORS: [u16; 3] = [503, 504, 507];

struct Server {
    runtime: Runtime,
    app: Arc<App>,
    router: Router,
    requests: u32,
}

static SERVER: Mutex<Option<Server>> = Mutex::new(None);

pub(super) fn run(input: &[u8]) {
    let Some(request) = request(input) else { return };
    let is_head = request.method() == Method::HEAD;
    let waits = request.uri().query().is_some_and(|query| query.contains("min_index"));
    let mut server = SERVER.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let serving = server.get_or_insert_with(Server::start);
    serving.requests += 1;
    let answer = serving.router.clone().oneshot(request);
    let patience = if waits { WAITING_LOOKUP } else { ANSWER_MAX };
    serving.runtime.block_on(async {
        let answer = tokio::time::timeout(patience, answer).await;
        match answer {
            Ok(answer) => check(answer.unwrap_or_else(|never| match never {}), is_head).await,
            Err(_) => assert!(waits, "no answer within {ANSWER_MAX:?}"),
        }
    });
    if serving.requests >= REQUESTS_MAX
        && let Some(server) = server.take()
    {
        server.runtime.block_on(server.app.node.shutdown());
    }
}

impl Server {
    fn start() -> Self {
        let runtime = in_process::runtime();
        let (app, router) = runtime.block_on(async {
            let node = in_process::node().await;
            let policy = Policy {
                holders: HolderPolicy { loopback: true },
                operators: Operators::default(),
                leases: Leases::new(Duration::from_secs(60), Duration::from_secs(60)),
            };
            let app = App::new(node, policy, SystemClock::shared(), KnownAddresses::default(), Stop::new());
            let app = Arc::new(app);
            let leadership = &app.cluster.leadership;
            while !leadership.is_ready() {
                leadership.begin_term(app.node.term());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let handle = AppHandle::default();
            handle.set(Arc::clone(&app));
            (app, endpoints::router(handle))
        });
        Self { runtime, app, router, requests: 0 }
    }
}

/// The request in `input`, if it is one.
fn request(input: &[u8]) -> Option<Request<Body>> {
    let split = input.windows(2).position(|two| two == b"\n\n");
    let (head, body) = split.map_or((input, &[][..]), |end| (&input[..end], &input[end + 2..]));
    let mut lines = std::str::from_utf8(head).ok()?.lines();
    let (method, target) = lines.next()?.split_once(' ')?;
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        request = request.header(name.trim(), value.trim());
    }
    let mut request = request.body(Body::from(body.to_vec())).ok()?;
    // The server must not contact existing servers.
    if request.uri().path().starts_with("/api/v1/members/") && names_somebody(body) {
        return None;
    }
    let local: SocketAddr = ([127, 0, 0, 1], 1).into();
    request.extensions_mut().insert(Connection::new(local, local));
    Some(request)
}

/// True if the change of members would contact a server that may exist.
fn names_somebody(body: &[u8]) -> bool {
    let address =
        Fields::parse(body, &["address"]).ok().and_then(|mut fields| fields.text("address").ok().flatten());
    address.is_some_and(|address| is_address(&address) && address != NOBODY)
}

async fn check(answer: Response<Body>, is_head: bool) {
    let status = answer.status().as_u16();
    let right = matches!(status, 200..=299 | 400..=499) || SERVER_ERRORS.contains(&status);
    let is_json = answer.headers().get("content-type").is_some_and(|kind| kind == "application/json");
    let body = axum::body::to_bytes(answer.into_body(), ANSWER_BYTES_MAX).await;
    let body = body.expect("an answer is not that long");
    assert!(right, "answered {status}: {}", String::from_utf8_lossy(&body));
    if is_json && !is_head {
        serde_json::from_slice::<serde::de::IgnoredAny>(&body).expect("an answer in JSON is JSON");
    }
}
