//! Tests of names with several addresses, and of one address with several servers behind it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

/// Longer than any wait in these tests, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

/// A client of one name. `found` gives its addresses for each resolution, counted from 0.
fn client_of_a_name(
    found: impl Fn(usize) -> io::Result<Vec<SocketAddr>> + Send + Sync + 'static,
) -> (Client, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let resolver: Resolver = Arc::new(move |name, port| {
        assert_eq!((name, port), ("servers.example", 7789));
        found(count.fetch_add(1, Ordering::SeqCst))
    });
    (Client::resolving_by(vec!["http://servers.example:7789".to_owned()], resolver).unwrap(), asked)
}

async fn until(what: &str, is: impl AsyncFn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is().await {
        assert!(Instant::now() < end, "not {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A name was one server: if one of its three addresses was frozen or answered 503, that one was asked
/// forever.
#[tokio::test]
async fn every_address_of_a_name_is_a_server_of_its_own() {
    let frozen = Fake::with(Duration::from_secs(60), 200, FOUND).await;
    let ill = Fake::answering(503, r#"{"error":"the index is loading"}"#).await;
    let good = Fake::answering(200, FOUND).await;
    let addresses = [&frozen.url, &dead().await, &ill.url, &good.url].map(|url| address(url)).to_vec();
    let (client, _) = client_of_a_name(move |_| Ok(addresses.clone()));
    for _ in 0..3 {
        assert!(client.find(&query(), DEADLINE).await.unwrap().is_some());
    }
    assert_eq!((frozen.asked(), ill.asked(), good.asked()), (1, 1, 3));
    let heartbeat =
        KeepaliveRequest { host: "10.0.0.1:7781".into(), group: "g".into(), ..Default::default() };
    // The answer is not one of keepalive, but the server was asked.
    _ = client.keepalive(&heartbeat, DEADLINE).await;
    assert_eq!(good.asked(), 4);
}

#[tokio::test]
async fn servers_behind_a_name_are_called_by_it_and_named_with_their_address() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&asked);
    let router = Router::new().fallback(move |request: AxumRequest| {
        note.lock().unwrap().push(request.headers()["host"].to_str().unwrap().to_owned());
        async { (StatusCode::BAD_REQUEST, r#"{"error":"no"}"#) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut task = JoinSet::new();
    task.spawn(async move { axum::serve(listener, router).await.unwrap() });
    let (client, _) = client_of_a_name(move |_| Ok(vec![address]));
    let error = client.find(&query(), DEADLINE).await.unwrap_err().to_string();
    assert!(error.contains(&format!("http://servers.example:7789 ({address}) refused")), "{error}");
    assert_eq!(*asked.lock().unwrap(), ["servers.example:7789"]);
}

#[tokio::test]
async fn addresses_that_lead_nowhere_are_asked_of_the_resolver_again() {
    let good = Fake::answering(200, FOUND).await;
    let (before, after) = (address(&dead().await), address(&good.url));
    let (client, asked) = client_of_a_name(move |n| Ok(vec![if n == 0 { before } else { after }]));
    let error = client.find(&query(), DEADLINE).await.unwrap_err();
    assert!(error.to_string().contains(&before.to_string()), "{error}");
    until("it follows the name", async || client.find(&query(), DEADLINE).await.is_ok()).await;
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

/// No call waits for DNS while addresses are known, and a failed resolution removes none.
#[tokio::test]
async fn a_resolver_that_hangs_or_fails_costs_nobody_the_addresses_that_are_known() {
    let good = Fake::answering(200, FOUND).await;
    let known = address(&good.url);
    let (go_on, hangs) = mpsc::channel::<()>();
    let hangs = Mutex::new(hangs);
    let (client, asked) = client_of_a_name(move |n| match n {
        0 => Ok(vec![known]),
        1 => {
            _ = hangs.lock().unwrap().recv();
            Err(io::Error::other("the resolver has failed"))
        }
        _ => Ok(Vec::new()),
    });
    assert!(client.find(&query(), DEADLINE).await.unwrap().is_some());
    let is_asked = |count: usize| {
        let (client, asked) = (&client, &asked);
        async move || {
            // The state after a call that no server answered.
            client.shared.servers.doubt();
            asked.load(Ordering::SeqCst) == count
        }
    };
    until("the resolver is asked again", is_asked(2)).await;
    for _ in 0..3 {
        assert!(client.find(&query(), DEADLINE).await.unwrap().is_some(), "while the resolver hangs");
    }
    drop(go_on);
    until("it is asked after its failure", is_asked(3)).await;
    assert!(client.find(&query(), DEADLINE).await.unwrap().is_some(), "after it has said: no address");
}

#[tokio::test]
async fn a_slow_answer_of_the_resolver_is_there_for_the_next_call() {
    let good = Fake::answering(200, FOUND).await;
    let known = address(&good.url);
    let (go_on, hangs) = mpsc::channel::<()>();
    let hangs = Mutex::new(hangs);
    let (client, asked) = client_of_a_name(move |_| {
        _ = hangs.lock().unwrap().recv();
        Ok(vec![known])
    });
    for _ in 0..2 {
        let error = client.find(&query(), Duration::from_millis(50)).await.unwrap_err();
        assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("could not resolve the name servers.example"), "{error}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "one question at a time");
    drop(go_on);
    assert!(client.find(&query(), DEADLINE).await.unwrap().is_some());
}

#[tokio::test]
async fn a_name_that_does_not_resolve_keeps_nobody_from_the_other_servers() {
    let good = Fake::answering(200, FOUND).await;
    let (go_on, hangs) = mpsc::channel::<()>();
    let hangs = Mutex::new(hangs);
    let resolver: Resolver = Arc::new(move |_, _| {
        _ = hangs.lock().unwrap().recv();
        Ok(Vec::new())
    });
    let servers = vec!["http://nowhere.example:7789".to_owned(), good.url.clone()];
    let client = Client::resolving_by(servers, resolver).unwrap();
    assert!(client.find(&query(), DEADLINE).await.unwrap().is_some());
    // The runtime waits for the resolver when it is dropped.
    drop(go_on);
}

/// What a connection does after its last answer. A stream that it returns stays open.
type Then = fn(TcpStream) -> Option<TcpStream>;

/// A virtual address: each connection leads to another server, and an open one may be dead.
struct Virtual {
    url: String,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Virtual {
    /// The first connection answers one request and then does `next`; all others answer everything.
    async fn with_first_connection(next: Then) -> Self {
        Self::answering(FOUND, 1, next).await
    }

    /// The first connection answers `requests` requests and then does `next`; all others answer everything.
    async fn answering(body: &'static str, requests: usize, next: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections = Arc::new(AtomicUsize::new(0));
        let (count, mut tasks) = (Arc::clone(&connections), JoinSet::new());
        tasks.spawn(async move {
            let mut all = JoinSet::new();
            loop {
                let (wire, _) = listener.accept().await.unwrap();
                let is_first = count.fetch_add(1, Ordering::SeqCst) == 0;
                all.spawn(serve(wire, body, is_first.then_some((requests, next))));
            }
        });
        Self { url, connections, _tasks: tasks }
    }
}

async fn serve(mut wire: TcpStream, body: &'static str, ends: Option<(usize, Then)>) {
    let mut answered = 0;
    let mut buffer = [0; 4_096];
    while wire.read(&mut buffer).await.is_ok_and(|length| length > 0) {
        if let Some((requests, next)) = ends
            && answered == requests
        {
            let _silent = next(wire);
            return std::future::pending().await;
        }
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: ";
        let answer = format!("{head}{}\r\n\r\n{body}", body.len());
        wire.write_all(answer.as_bytes()).await.unwrap();
        answered += 1;
    }
}

#[tokio::test]
async fn a_lone_address_is_asked_again_on_a_new_connection_when_the_open_one_breaks_or_is_silent() {
    let breaks: Then = |_| None;
    let is_silent: Then = Some;
    for next in [breaks, is_silent] {
        let one = Virtual::with_first_connection(next).await;
        let client = Client::new(vec![one.url.clone()]).unwrap();
        assert!(client.find(&query(), DEADLINE).await.unwrap().is_some());
        assert_eq!(one.connections.load(Ordering::SeqCst), 1);
        assert!(client.find(&query(), DEADLINE).await.unwrap().is_some());
        assert_eq!(one.connections.load(Ordering::SeqCst), 2);
    }
}

/// The first attempt used the whole deadline, so that there was no second one.
#[tokio::test]
async fn a_call_leaves_a_lone_address_time_for_a_second_connection() {
    let one = Virtual::answering(r#"{"success":true,"message":"ok"}"#, 0, Some).await;
    let client = Client::new(vec![one.url.clone()]).unwrap();
    let heartbeat: KeepaliveRequest = serde_json::from_str(r#"{"host":"10.0.0.1:1","Group":"g"}"#).unwrap();
    let answer = client.keepalive(&heartbeat, DEADLINE).await;
    assert!(answer.is_ok(), "{answer:?}");
    assert_eq!(one.connections.load(Ordering::SeqCst), 2);
}

/// A virtual address may lead to a server that is just starting, and to others.
#[tokio::test]
async fn a_lookup_that_a_lone_address_answers_with_a_503_is_asked_once_more() {
    let ill = Fake::answering(503, r#"{"error":"the index is loading"}"#).await;
    let client = Client::new(vec![ill.url.clone()]).unwrap();
    assert!(client.find(&query(), DEADLINE).await.is_err());
    assert_eq!(ill.asked(), 2);
    assert!(client.advertise(&request(), DEADLINE).await.is_err());
    assert_eq!(ill.asked(), 3, "a write is refused by whoever has too much to do");
}
