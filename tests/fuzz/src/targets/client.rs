//! Answers of discovery servers to agents and the command line.
//!
//! An input is a byte for the call, and all bytes that the server sends.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use piccolo::api::client::{Client, ClientError};
use piccolo::api::{FindQuery, KeepaliveRequest, ReportReason, ReportRequest, WriteRequest};
use tokio::runtime::Runtime;

use super::in_process;
use super::raw::{Bytes, Listener};

/// Deadline of a call.
const DEADLINE: Duration = Duration::from_secs(3);
/// Time that a call may take beyond its deadline.
const SLACK: Duration = Duration::from_secs(5);

struct Server {
    runtime: Runtime,
    bytes: Bytes,
    client: Client,
    _listener: Listener,
}

impl Server {
    fn start() -> Self {
        let runtime = in_process::runtime();
        let bytes = Bytes::default();
        let listener = runtime.block_on(Listener::start([127, 0, 0, 1], bytes.answers()));
        let client = Client::new(vec![format!("http://{}", listener.address)]).expect("it is a URL");
        Self { runtime, bytes, client, _listener: listener }
    }
}

pub(super) fn run(input: &[u8]) {
    static SERVER: OnceLock<Server> = OnceLock::new();
    let [call, answer @ ..] = input else { return };
    let Server { runtime, bytes, client, .. } = SERVER.get_or_init(Server::start);
    bytes.set(answer.to_vec());
    let began = Instant::now();
    if let Err(error) = runtime.block_on(ask(client, *call)) {
        assert!(!error.to_string().is_empty());
        // Callers add it to a time.
        let wait = error.retry_after().unwrap_or_default();
        assert!(Instant::now().checked_add(wait.min(Duration::from_secs(86_400))).is_some());
    }
    assert!(began.elapsed() < DEADLINE + SLACK, "a call takes {:?}", began.elapsed());
}

async fn ask(client: &Client, call: u8) -> Result<(), ClientError> {
    let holder = || "127.0.0.1:7781".to_owned();
    let write = WriteRequest {
        holder: holder(),
        group: "g".to_owned(),
        keys: vec!["a/b:1".to_owned()],
        epoch: Some(1),
        seq: Some(1),
        zone: None,
        ttl_seconds: None,
    };
    match call % 9 {
        0 => {
            let query = FindQuery { key: "k".to_owned(), group: "g".to_owned(), ..FindQuery::default() };
            client.find(&query, DEADLINE).await.map(drop)
        }
        1 => client.advertise(&write, DEADLINE).await.map(drop),
        2 => client.sync(&write, DEADLINE).await.map(drop),
        3 => {
            let heartbeat =
                KeepaliveRequest { host: holder(), group: "g".to_owned(), ..KeepaliveRequest::default() };
            client.keepalive(&heartbeat, DEADLINE).await.map(drop)
        }
        4 => {
            let report = ReportRequest {
                host: holder(),
                holder: holder(),
                group: "g".to_owned(),
                key: "k".to_owned(),
                reason: ReportReason::Wrong,
            };
            client.report(&report, DEADLINE).await.map(drop)
        }
        5 => client.status(DEADLINE).await.map(drop),
        6 => client.hosts(Some("g"), DEADLINE).await.map(drop),
        7 => client.capabilities(DEADLINE).await.map(drop),
        _ => client.members(DEADLINE).await.map(drop),
    }
}
