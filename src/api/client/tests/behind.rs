//! Tests of servers that may be behind the others.

use super::*;
use crate::api::header;

const NOBODY: &str = r#"{"message":"Didn't find the key k in piccolo"}"#;

/// A server that is behind and finds nothing.
async fn behind() -> Fake {
    Fake::saying(Duration::ZERO, 404, NOBODY, header::BEHIND).await
}

fn client(servers: &[&str]) -> Client {
    Client::new(servers.iter().map(|server| (*server).to_owned()).collect()).unwrap()
}

#[tokio::test]
async fn the_404_of_a_server_that_is_behind_is_asked_of_the_next_one_which_is_remembered() {
    let (behind, ill) = (behind().await, Fake::answering(503, r#"{"error":"loading"}"#).await);
    let current = Fake::answering(200, FOUND).await;
    let client = client(&[&behind.url, &ill.url, &current.url]);
    for _ in 0..3 {
        assert!(client.find(&query(), DEADLINE).await.unwrap().is_some());
    }
    assert_eq!((behind.asked(), current.asked()), (1, 3));
}

#[tokio::test]
async fn a_404_of_a_server_that_is_current_stands_against_all_others() {
    let (behind, current) = (behind().await, Fake::answering(404, NOBODY).await);
    let client = client(&[&behind.url, &current.url]);
    assert_eq!(client.find(&query(), DEADLINE).await.unwrap(), None);
    assert_eq!(client.find(&query(), DEADLINE).await.unwrap(), None);
    assert_eq!((behind.asked(), current.asked()), (1, 2));
}

#[tokio::test]
async fn holders_of_a_server_that_is_behind_are_holders() {
    let behind = Fake::saying(Duration::ZERO, 200, FOUND, "x-nothing").await;
    let other = Fake::answering(404, NOBODY).await;
    assert!(client(&[&behind.url, &other.url]).find(&query(), DEADLINE).await.unwrap().is_some());
    assert_eq!(other.asked(), 0);
}

/// If only one server of a site is left, a pull must neither give up on peers nor wait for the others.
#[tokio::test]
async fn if_all_servers_are_behind_none_is_the_answer_and_silent_ones_are_awaited_once() {
    let (one, two) = (behind().await, behind().await);
    assert_eq!(client(&[&one.url, &two.url]).find(&query(), DEADLINE).await.unwrap(), None);

    let silent = Fake::with(Duration::from_secs(60), 200, FOUND).await;
    let dead = dead().await;
    let client = client(&[&one.url, &silent.url, &dead]);
    let start = Instant::now();
    assert_eq!(client.find(&query(), DEADLINE).await.unwrap(), None);
    assert!(start.elapsed() < DEADLINE * 3 / 4, "waited {:?} for the silent one", start.elapsed());
    for _ in 0..5 {
        assert_eq!(client.find(&query(), DEADLINE).await.unwrap(), None);
    }
    assert_eq!(silent.asked(), 1, "a pull of many blobs would wait for it at each");
}

/// The server asks others itself only for a client that has no other server.
#[tokio::test]
async fn a_request_says_whether_its_client_can_ask_another_server() {
    let asks_others = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&asks_others);
    let router = Router::new().fallback(move |request: AxumRequest| {
        note.lock().unwrap().push(request.headers().contains_key(header::ASKS_OTHERS));
        async { (StatusCode::OK, FOUND) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut task = JoinSet::new();
    task.spawn(async move { axum::serve(listener, router).await.unwrap() });
    for servers in [vec![url.as_str()], vec![url.as_str(), "http://127.0.0.1:1"]] {
        assert!(client(&servers).find(&query(), DEADLINE).await.unwrap().is_some());
    }
    assert_eq!(*asks_others.lock().unwrap(), [false, true]);
}

#[tokio::test]
async fn a_list_of_hosts_comes_from_a_server_that_is_current_if_there_is_one() {
    const HOSTS: &str = r#"{"hosts":[{"group":"g","holder":"10.0.0.1:1","zone":"","keys":1}]}"#;
    let behind = Fake::saying(Duration::ZERO, 200, r#"{"hosts":[]}"#, header::BEHIND).await;
    let current = Fake::answering(200, HOSTS).await;
    let hosts = client(&[&behind.url, &current.url]).hosts(None, DEADLINE).await.unwrap().hosts;
    assert_eq!(hosts.len(), 1);
    let dead = dead().await;
    let hosts = client(&[&behind.url, &dead]).hosts(None, DEADLINE).await.unwrap().hosts;
    assert_eq!(hosts.len(), 0, "what there is");
}
