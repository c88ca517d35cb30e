//! Tests against small servers on loopback with scripted answers.

mod behind;
mod names;

use std::sync::Mutex;

use axum::Router;
use axum::extract::Request as AxumRequest;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use hyper::header::{HeaderValue, RETRY_AFTER};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// Deadline of calls while some servers are dead or silent; long enough for a busy machine.
const DEADLINE: Duration = Duration::from_secs(4);

/// A server that gives every request the same answer and records the requests.
struct Fake {
    url: String,
    seen: Arc<Mutex<Vec<String>>>,
    _task: JoinSet<()>,
}

impl Fake {
    async fn answering(status: u16, body: &'static str) -> Self {
        Self::with(Duration::ZERO, status, body).await
    }

    async fn with(delay: Duration, status: u16, body: &'static str) -> Self {
        Self::saying(delay, status, body, "x-nothing").await
    }

    /// A server that answers after `delay`, with one more header.
    async fn saying(delay: Duration, status: u16, body: &'static str, name: &'static str) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let note = seen.clone();
        let router = Router::new().fallback(move |request: AxumRequest| {
            let note = note.clone();
            async move {
                note.lock().unwrap().push(format!("{} {}", request.method(), request.uri()));
                tokio::time::sleep(delay).await;
                let mut headers = HeaderMap::new();
                headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
                headers.insert(name, HeaderValue::from_static("1"));
                let status = StatusCode::from_u16(status).unwrap();
                Response::into_response((status, headers, body).into_response())
            }
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut task = JoinSet::new();
        task.spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { url, seen, _task: task }
    }

    fn asked(&self) -> usize {
        self.seen.lock().unwrap().len()
    }
}

/// A URL at which nothing listens.
async fn dead() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn query() -> FindQuery {
    FindQuery {
        key: "docker.io/library/a b:1".into(),
        group: "g&h".into(),
        count: Some(3),
        request_host: Some("10.0.0.1:7781".into()),
        ..FindQuery::default()
    }
}

fn request() -> WriteRequest {
    WriteRequest {
        holder: "10.0.0.1:7781".into(),
        group: "default".into(),
        keys: vec!["a/b:1".into()],
        epoch: Some(5),
        seq: Some(2),
        zone: None,
        ttl_seconds: None,
    }
}

const FOUND: &str = r#"{"key":"k","Group":"g","holders":["10.0.0.2:7781"],"total":0}"#;

#[tokio::test]
async fn a_query_arrives_with_every_special_character_encoded() {
    let fake = Fake::answering(200, FOUND).await;
    let client = Client::new(vec![format!("{}/prefix/", fake.url)]).unwrap();
    let found = client.find(&query(), DEADLINE).await.unwrap().unwrap();
    assert_eq!(found.holders, ["10.0.0.2:7781"]);
    assert_eq!(
        fake.seen.lock().unwrap()[0],
        "GET /prefix/api/v1/distribution/findkey?key=docker.io%2Flibrary%2Fa%20b%3A1&group=g%26h&count=3\
         &request_host=10.0.0.1%3A7781"
    );
}

#[tokio::test]
async fn a_404_of_the_api_is_none_and_a_foreign_404_is_an_error() {
    let fake = Fake::answering(404, r#"{"message":"Didn't find the key k in piccolo"}"#).await;
    let client = Client::new(vec![fake.url.clone()]).unwrap();
    assert_eq!(client.find(&query(), DEADLINE).await.unwrap(), None);

    let foreign = Fake::answering(404, "404 page not found").await;
    let client = Client::new(vec![foreign.url.clone()]).unwrap();
    let error = client.find(&query(), DEADLINE).await.unwrap_err();
    assert!(matches!(error, ClientError::Unreachable { .. }), "{error}");
    assert!(
        error.to_string().contains("not the discovery API: 404 Not Found (404 page not found)"),
        "{error}"
    );
}

/// An agent with the raft port of a server in its list was refused forever, with an empty reason.
#[tokio::test]
async fn another_program_at_the_address_is_named_and_the_next_server_is_asked() {
    let raft =
        Fake::answering(421, r#"{"message":"this is the raft port; the API is at http://a:7789"}"#).await;
    let silent = Fake::answering(404, "").await;
    let mirror = Fake::answering(404, r#"{"errors":[{"code":"NAME_INVALID","message":"x"}]}"#).await;
    let good = Fake::answering(200, FOUND).await;
    let wrong = [&raft, &silent, &mirror].map(|fake| fake.url.clone());
    let client = Client::new([&wrong[..], std::slice::from_ref(&good.url)].concat()).unwrap();
    assert!(client.find(&query(), DEADLINE).await.unwrap().is_some());
    let error = Client::new(wrong.to_vec()).unwrap().find(&query(), DEADLINE).await.unwrap_err().to_string();
    assert!(error.contains("the API is at http://a:7789"), "{error}");
    assert_eq!(error.matches("the API has port 7789 by default").count(), 2, "{error}");
}

#[tokio::test]
async fn the_next_server_is_asked_when_one_is_dead_or_ill_and_is_remembered() {
    let ill = Fake::answering(500, r#"{"message":"ill"}"#).await;
    let good = Fake::answering(200, FOUND).await;
    let client = Client::new(vec![dead().await, ill.url.clone(), good.url.clone()]).unwrap();
    for _ in 0..3 {
        assert!(client.find(&query(), DEADLINE).await.unwrap().is_some());
    }
    assert_eq!((ill.asked(), good.asked()), (1, 3));
}

#[tokio::test]
async fn a_frozen_server_leaves_time_for_the_others() {
    let frozen = Fake::with(Duration::from_secs(60), 200, FOUND).await;
    let good = Fake::answering(200, FOUND).await;
    let client = Client::new(vec![frozen.url.clone(), good.url.clone()]).unwrap();
    let start = Instant::now();
    assert!(client.find(&query(), DEADLINE).await.unwrap().is_some());
    assert!(start.elapsed() < DEADLINE);
}

#[tokio::test]
async fn the_deadline_holds_over_all_servers_and_each_reason_is_named() {
    let frozen = [(); 2].map(|()| Fake::with(Duration::from_secs(60), 200, FOUND));
    let frozen = futures_util::future::join_all(frozen).await;
    let dead = dead().await;
    let client = Client::new(vec![frozen[0].url.clone(), dead.clone(), frozen[1].url.clone()]).unwrap();
    let start = Instant::now();
    let error = client.find(&query(), DEADLINE).await.unwrap_err();
    assert!(start.elapsed() < 2 * DEADLINE);
    let ClientError::Unreachable { servers } = &error else { panic!("{error}") };
    assert_eq!(servers.len(), 3);
    assert!(error.to_string().contains(&dead) && error.to_string().contains("no answer within"), "{error}");
}

/// A single server is asked twice, and was listed twice in the error.
#[tokio::test]
async fn a_lone_server_that_does_not_answer_is_named_once() {
    let dead = dead().await;
    let error = Client::new(vec![dead.clone()]).unwrap().find(&query(), DEADLINE).await.unwrap_err();
    assert_eq!(error.to_string().matches(&dead).count(), 1, "{error}");
}

#[tokio::test]
async fn a_refusal_is_an_answer_and_nobody_else_is_asked() {
    let strict = Fake::answering(400, r#"{"success":false,"message":"Wrong request format: x"}"#).await;
    let other = Fake::answering(201, r#"{"success":true,"message":""}"#).await;
    let client = Client::new(vec![strict.url.clone(), other.url.clone()]).unwrap();
    let error = client.advertise(&request(), DEADLINE).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused { status, message, .. }
        if *status == 400 && message == "Wrong request format: x"));
    assert_eq!(other.asked(), 0);
}

#[tokio::test]
async fn a_stale_pair_is_an_answer_with_the_stored_one() {
    let fake = Fake::answering(409, r#"{"success":false,"stale":true,"epoch":9,"seq":4}"#).await;
    let client = Client::new(vec![fake.url.clone()]).unwrap();
    let answer = client.sync(&request(), DEADLINE).await.unwrap();
    assert!(answer.stale && !answer.success);
    assert_eq!((answer.epoch, answer.seq), (Some(9), Some(4)));
}

#[tokio::test]
async fn when_all_are_unavailable_the_wish_to_wait_is_passed_on() {
    let fake = Fake::answering(503, r#"{"success":false,"message":"no leader"}"#).await;
    let client = Client::new(vec![fake.url.clone(), dead().await]).unwrap();
    let error = client.withdraw(&request(), DEADLINE).await.unwrap_err();
    let ClientError::Unavailable { status, retry_after, servers, .. } = error else { panic!("{error}") };
    assert_eq!((status.as_u16(), retry_after, servers.len()), (503, Some(SECOND), 2));
    assert!(servers[0].reason.contains("no leader"));
}

#[test]
fn an_invalid_server_url_is_refused_with_the_reason() {
    for (server, reason) in [
        ("10.0.0.1:7789", "scheme"),
        ("https://a:7789", "https"),
        ("http://", "scheme"),
        ("http://a b", "URL"),
        ("http://a:1/?x=1", "form"),
    ] {
        let error = Client::new(vec![server.into()]).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains(server), "{error}");
    }
    assert!(matches!(Client::new(vec![]), Err(ClientError::NoServer)));
}
