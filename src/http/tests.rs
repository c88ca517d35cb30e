//! A listener as its clients see it.

use super::*;
use axum::routing::get;
use futures_util::stream;
use std::convert::Infallible;
use std::net::Ipv4Addr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Time for what should happen soon, on a busy machine.
const SOON: Duration = Duration::from_secs(60);

async fn start(router: Router, limits: ConnectionLimits) -> (SocketAddr, Stop, TaskTracker) {
    let listener = bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = Stop::new();
    let tracker = TaskTracker::new();
    tracker.spawn(serve(listener, router, limits, stop.clone()));
    (address, stop, tracker)
}

async fn exchange(address: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map(|_| answer)
}

/// A body that breaks after five of its ten bytes.
fn broken_body(connection: &Connection, reset: bool) -> axum::response::Response {
    if reset {
        connection.reset_on_close();
    }
    let pieces = [Ok(bytes::Bytes::from_static(b"12345")), Err(io::Error::other("broken"))];
    let body = Body::from_stream(stream::iter(pieces));
    axum::http::Response::builder().header("content-length", "10").body(body).unwrap()
}

#[tokio::test]
async fn a_broken_body_ends_with_a_reset_where_asked_for_and_cleanly_otherwise() {
    for reset in [true, false] {
        let handler =
            move |axum::Extension(c): axum::Extension<Connection>| async move { broken_body(&c, reset) };
        let (address, _stop, _tasks) =
            start(Router::new().route("/", get(handler)), ConnectionLimits::default()).await;
        let ended = exchange(address).await;
        match ended {
            Err(error) => {
                assert!(reset, "no reset was asked for, got {error}");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            }
            Ok(_) => assert!(!reset, "a clean end where a reset was asked for"),
        }
    }
}

#[tokio::test]
async fn headers_that_never_come_end_the_connection() {
    let limits =
        ConnectionLimits { header_timeout: Duration::from_millis(100), ..ConnectionLimits::default() };
    let (address, _stop, _tasks) = start(Router::new(), limits).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HT").await.unwrap();
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the connection is still open");
}

/// The kernel of the client acknowledges the probes of the closed window, so TCP alone would wait forever.
#[tokio::test]
async fn a_client_that_is_alive_and_takes_nothing_does_not_keep_its_slot() {
    let endless = || async {
        let zeros = || Ok::<_, Infallible>(bytes::Bytes::from_static(&[0; 65_536]));
        Body::from_stream(stream::repeat_with(zeros))
    };
    let limits = ConnectionLimits {
        connections_max: 1,
        over_limit_max: 0,
        client_silent_max: Duration::from_millis(200),
        ..ConnectionLimits::default()
    };
    let router = Router::new().route("/endless", get(endless)).route("/", get(|| async { "ok" }));
    let (address, _stop, _tasks) = start(router, limits).await;
    let mut stuck = TcpStream::connect(address).await.unwrap();
    stuck.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    stuck.read_exact(&mut [0; 1_000]).await.unwrap();

    let mut next = TcpStream::connect(address).await.unwrap();
    next.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let served = tokio::time::timeout(SOON, next.read_exact(&mut [0; 10])).await;
    assert!(served.is_ok_and(|read| read.is_ok()), "the slot is still taken");
}

/// Silent connections kept their slots for the whole header timeout, and later ones waited in the kernel's
/// queue: 10,240 connections of a local process stopped the mirror's own probe.
#[tokio::test]
async fn silent_connections_never_keep_a_request_from_its_answer() {
    const LIMIT: usize = 20;
    let limits =
        ConnectionLimits { connections_max: LIMIT, over_limit_max: 0, ..ConnectionLimits::default() };
    let router = Router::new().route("/", get(|| async { "ok" }));
    let (address, _stop, _tasks) = start(router, limits).await;
    let all = async {
        let mut silent = Vec::new();
        for n in 0..3 * LIMIT {
            let mut stream = TcpStream::connect(address).await.unwrap();
            match n % 3 {
                0 => {}
                // The headers never end.
                1 => stream.write_all(b"GET / HT").await.unwrap(),
                // The connection is kept open after an answer.
                _ => {
                    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
                    stream.read_exact(&mut [0]).await.unwrap();
                }
            }
            silent.push(stream);
        }
        let mut next = TcpStream::connect(address).await.unwrap();
        next.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        next.read_exact(&mut [0; 10]).await
    };
    let served = tokio::time::timeout(limits.header_timeout / 2, all).await;
    assert!(served.is_ok_and(|read| read.is_ok()), "it waited for silent connections");
}

/// Connects from a thread that does not let the listener run: nothing is accepted before this is done.
fn at_once(address: SocketAddr, count: usize) -> Vec<std::net::TcpStream> {
    let connect = |_| {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        std::io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
        stream
    };
    (0..count).map(connect).collect()
}

/// When all agents came back at once, each accepted connection was closed for the next one, with its request
/// unread.
#[tokio::test]
async fn a_request_that_came_with_its_connection_is_answered_however_many_come_with_it() {
    let limits = ConnectionLimits { connections_max: 4, over_limit_max: 0, ..ConnectionLimits::default() };
    let (address, _stop, _tasks) = start(Router::new().route("/", get(|| async { "ok" })), limits).await;
    for stream in at_once(address, 100) {
        stream.set_nonblocking(true).unwrap();
        let mut stream = TcpStream::from_std(stream).unwrap();
        let mut answer = [0; 12];
        let read = tokio::time::timeout(SOON, stream.read_exact(&mut answer)).await.unwrap();
        assert!(read.is_ok() && answer == *b"HTTP/1.1 200", "{read:?}");
    }
}

/// A server that had fallen behind answered only clients that had given up, and so never caught up.
#[tokio::test]
async fn nothing_is_done_for_clients_that_have_left() {
    let answered = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&answered);
    let handler = move || {
        counted.fetch_add(1, Ordering::SeqCst);
        async { "ok" }
    };
    let (address, _stop, _tasks) =
        start(Router::new().route("/", get(handler)), ConnectionLimits::default()).await;
    drop(at_once(address, 50));
    // Accepts are in order, so that all of those were accepted before this one is answered.
    let mut last = TcpStream::connect(address).await.unwrap();
    last.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    tokio::time::timeout(SOON, last.read_exact(&mut [0; 12])).await.unwrap().unwrap();
    assert_eq!(answered.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn from_three_quarters_on_answers_ask_to_close() {
    let limits = ConnectionLimits { connections_max: 8, over_limit_max: 0, ..ConnectionLimits::default() };
    let (address, _stop, _tasks) = start(Router::new().route("/", get(|| async { "ok" })), limits).await;
    let mut held = Vec::new();
    for open in 1..=6 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok") {
            assert!(stream.read_buf(&mut answer).await.unwrap() > 0);
        }
        let asks = String::from_utf8_lossy(&answer).contains("\r\nconnection: close\r\n");
        assert_eq!(asks, open >= 6, "{open} open");
        held.push(stream);
    }
}

/// A connection beyond the limit must end soon, whatever its client does.
#[tokio::test]
async fn beyond_the_limit_no_connection_stays() {
    let limits = ConnectionLimits {
        connections_max: 0,
        over_limit_max: 1,
        over_limit_timeout: Duration::from_millis(200),
        ..ConnectionLimits::default()
    };
    let endless = || async {
        let zeros = || Ok::<_, Infallible>(bytes::Bytes::from_static(&[0; 65_536]));
        Body::from_stream(stream::repeat_with(zeros))
    };
    let router = Router::new().route("/endless", get(endless)).route("/", get(|| async { "ok" }));
    let (address, _stop, _tasks) = start(router, limits).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    slow.read_exact(&mut [0; 1_000]).await.unwrap();
    let probe = tokio::time::timeout(SOON.min(limits.client_silent_max / 2), exchange(address)).await;
    assert!(probe.is_ok_and(|answer| answer.unwrap().starts_with(b"HTTP/1.1 200")), "the probe waits");
}

#[tokio::test]
async fn over_the_limit_one_answer_is_given_and_requests_in_flight_go_on() {
    let limits = ConnectionLimits { connections_max: 2, over_limit_max: 1, ..ConnectionLimits::default() };
    let (entered, mut has_entered) = tokio::sync::mpsc::channel(2);
    let (release, released) = tokio::sync::watch::channel(false);
    let slow = move || {
        let (entered, mut released) = (entered.clone(), released.clone());
        async move {
            entered.send(()).await.unwrap();
            released.wait_for(|is| *is).await.unwrap();
            "slow"
        }
    };
    let over = |axum::Extension(connection): axum::Extension<Connection>| async move {
        connection.is_over_limit.to_string()
    };
    let router = Router::new().route("/", get(slow)).route("/over", get(over));
    let (address, _stop, _tasks) = start(router, limits).await;
    let get = async |path: &str| {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
        stream
    };
    let mut in_flight = [get("/").await, get("/").await];
    for _ in &in_flight {
        has_entered.recv().await.unwrap();
    }
    for _ in 0..3 {
        let mut answer = String::new();
        get("/over").await.read_to_string(&mut answer).await.unwrap();
        assert!(answer.contains("\r\nconnection: close\r\n") && answer.ends_with("true"), "{answer}");
    }
    release.send(true).unwrap();
    for stream in &mut in_flight {
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, *b"HTTP/1.1 200");
    }
}

#[tokio::test]
async fn stopping_lets_a_request_in_flight_end() {
    let (entered, mut has_entered) = tokio::sync::mpsc::channel(1);
    let (release, released) = tokio::sync::watch::channel(false);
    let handler = move || {
        let (entered, mut released) = (entered.clone(), released.clone());
        async move {
            entered.send(()).await.unwrap();
            released.wait_for(|is| *is).await.unwrap();
            "done"
        }
    };
    let (address, stop, tasks) =
        start(Router::new().route("/", get(handler)), ConnectionLimits::default()).await;
    let request = tasks.spawn(exchange(address));
    has_entered.recv().await.unwrap();
    stop.cancel();
    release.send(true).unwrap();
    let answer = request.await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&answer).ends_with("done"));
}

/// hyper's own graceful shutdown closes such a connection: its client saw an end without an answer.
#[tokio::test]
async fn stopping_answers_a_request_that_follows_its_connection() {
    let (address, stop, tasks) =
        start(Router::new().route("/", get(|| async { "ok" })), ConnectionLimits::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    // Accepts are in order, so that the first one is accepted when the second is answered.
    let mut second = TcpStream::connect(address).await.unwrap();
    second.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    second.read_exact(&mut [0]).await.unwrap();
    stop.cancel();
    tokio::task::yield_now().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer).ends_with("ok"), "{answer:?}");
    tasks.close();
    let ended = tokio::time::timeout(SOON, tasks.wait()).await;
    assert!(ended.is_ok(), "the listener still waits");
}

#[tokio::test]
async fn threads_of_their_own_share_the_connections_and_stop_as_one_listener() {
    let (entered, mut has_entered) = tokio::sync::mpsc::channel(64);
    let (release, released) = tokio::sync::watch::channel(false);
    let handler = move || {
        let (entered, mut released) = (entered.clone(), released.clone());
        async move {
            entered.send(()).await.unwrap();
            released.wait_for(|is| *is).await.unwrap();
            std::thread::current().name().unwrap_or_default().to_owned()
        }
    };
    let listener = bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap();
    let (address, stop, tasks) = (listener.local_addr().unwrap(), Stop::new(), TaskTracker::new());
    let router = Router::new().route("/", get(handler));
    let serving = serve_on_threads(listener, "served", router, ConnectionLimits::default(), stop.clone());
    let serving = tasks.spawn(serving);
    let requests: Vec<_> = (0..16).map(|_| tasks.spawn(exchange(address))).collect();
    for _ in &requests {
        has_entered.recv().await.unwrap();
    }
    stop.cancel();
    release.send(true).unwrap();
    let mut names = std::collections::BTreeSet::new();
    for request in requests {
        let answer = String::from_utf8(request.await.unwrap().unwrap()).unwrap();
        names.insert(answer.rsplit("\r\n").next().unwrap_or_default().to_owned());
    }
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    assert_eq!(names.len(), cpus.min(limits::SERVING_THREADS_MAX), "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("served-")), "{names:?}");
    let ended = tokio::time::timeout(SOON, serving).await;
    assert!(ended.is_ok_and(|ended| ended.is_ok_and(|ended| ended.is_ok())), "it does not end");
}

/// Reports count by source address, and operators are recognized by it: one client must have one address.
#[tokio::test]
async fn a_client_over_ipv4_has_its_ipv4_address_on_a_port_of_both_families() {
    let router = Router::new().route(
        "/",
        get(|request: Request<Body>| async move {
            let connection = request.extensions().get::<Connection>().unwrap();
            format!("{} {}", connection.peer.ip(), connection.local.ip())
        }),
    );
    let listener = bind("[::]:0".parse().unwrap(), "a test").await.unwrap();
    let (address, stop, tasks) = (listener.local_addr().unwrap(), Stop::new(), TaskTracker::new());
    tasks.spawn(serve(listener, router, ConnectionLimits::default(), stop.clone()));
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("127.0.0.1 127.0.0.1"), "{answer}");
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

/// Wants certificates of servers on `listener`, and takes plain connections too.
fn start_guarded(listener: TcpListener, limits: ConnectionLimits) -> (Stop, TaskTracker) {
    let clock = crate::clock::SystemClock::shared();
    let now = crate::identity::credentials::unix_seconds(&clock);
    let secret = crate::identity::ClusterSecret::generate(now);
    let tls = crate::identity::Tls::new(secret, Role::Server { node_id: 1 }, clock).unwrap();
    let guard = Guard::new("test", tls.server, true);
    let (stop, tracker) = (Stop::new(), TaskTracker::new());
    let router = Router::new().route("/", get(|| async { "ok" }));
    let known = KnownAddresses::default();
    tracker.spawn(serve_guarded(listener, router, limits, known, Some(guard), stop.clone()));
    (stop, tracker)
}

/// The begin of a record with a handshake.
const HANDSHAKE_BEGINS: &[u8] = &[0x16, 3, 1, 0x20, 0];

#[tokio::test]
async fn a_handshake_that_is_silent_or_trickles_ends_in_time() {
    let limits =
        ConnectionLimits { handshake_timeout: Duration::from_millis(200), ..ConnectionLimits::default() };
    let listener = bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (_stop, _tasks) = start_guarded(listener, limits);
    stream.write_all(HANDSHAKE_BEGINS).await.unwrap();
    let trickle = async {
        // Ends when the server has closed: each byte would be progress.
        while stream.write_all(&[0]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, trickle).await.is_ok(), "the connection is still open");
}

#[tokio::test]
async fn handshakes_that_do_not_end_do_not_keep_others_out() {
    let limits = ConnectionLimits {
        connections_max: 4,
        over_limit_max: 0,
        handshake_timeout: SOON,
        ..ConnectionLimits::default()
    };
    let listener = bind("127.0.0.1:0".parse().unwrap(), "a test").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(HANDSHAKE_BEGINS).await.unwrap();
        held.push(stream);
    }
    // Their bytes have arrived when they are accepted.
    let (_stop, _tasks) = start_guarded(listener, limits);
    let answer = tokio::time::timeout(SOON / 2, async {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.map(|_| answer)
    });
    let answer = answer.await.expect("a plain client waits for them").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}
