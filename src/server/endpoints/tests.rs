//! Requests through the routes: permits, refusals, a full disk, and a server that loads.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use piccolo_raft::command::Command;
use piccolo_raft::model::Holder;
use tokio::sync::OwnedSemaphorePermit;
use tower::ServiceExt;

use super::*;
use crate::api::client::{Client, Sighting};
use crate::api::header;
use crate::limits::{
    API_BODIES_BYTES_MAX, HEARTBEAT_BODY_BYTES_MAX, HEARTBEAT_CHANGES_WAITING_MAX, HEARTBEATS_WAITING_MAX,
    HOLDER_HEARTBEATS_WAITING_MAX, HOLDER_WRITES_WAITING_MAX, INDEX_KEYS_OF_A_HOLDER_MAX,
    OVERLOAD_RETRY_AFTER_SECONDS, WRITES_WAITING_MAX,
};
use crate::server::app::App;
use crate::server::permits::holder_locks::HolderPermit;
use crate::server::testing::{app, app_without_room, leading_app};

fn serving(app: &Arc<App>) -> Router {
    let handle = AppHandle::default();
    handle.set(Arc::clone(app));
    router(handle)
}

fn write_permit(app: &App, holder: &Holder) -> Result<HolderPermit, ApiError> {
    app.permits.writes.take(holder)
}

fn heartbeat_permit(app: &App) -> Option<OwnedSemaphorePermit> {
    Arc::clone(&app.permits.heartbeats).try_acquire_owned().ok()
}

async fn post(router: &Router, target: &str, body: String) -> Response {
    let request = Request::builder().method("POST").uri(target).body(Body::from(body)).unwrap();
    router.clone().oneshot(request).await.unwrap()
}

fn advertise_of(holder: &Holder) -> String {
    format!(r#"{{"holder":"{}","group":"{}","keys":["a:1"]}}"#, holder.address, holder.group)
}

#[track_caller]
fn assert_refused(answer: &Response) {
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let again: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(OVERLOAD_RETRY_AFTER_SECONDS.contains(&again), "{again}");
    assert!(!answer.headers().contains_key(header::LEADER), "a client must not ask again at once");
}

fn holder(n: u8) -> Holder {
    Holder { group: "g".into(), address: ([10, 0, 0, n], 1).into() }
}

fn of_group(n: usize) -> Holder {
    Holder { group: format!("g{n}"), ..holder(9) }
}

#[tokio::test]
async fn writes_that_take_all_permits_leave_heartbeats_theirs() {
    let app = leading_app().await;
    let router = serving(&app);
    let permits: Vec<_> =
        (0..WRITES_WAITING_MAX).map(|n| write_permit(&app, &of_group(n)).unwrap()).collect();
    let bodies = app.permits.bodies.take(API_BODIES_BYTES_MAX).unwrap();
    let heartbeat = r#"{"host":"10.0.0.1:1","Group":"g"}"#.to_owned();
    assert_refused(&post(&router, path::ADVERTISE, advertise_of(&holder(1))).await);
    assert_eq!(post(&router, path::KEEPALIVE, heartbeat.clone()).await.status(), StatusCode::CREATED);
    drop((permits, bodies));
    let fill = |bytes: usize| format!("{heartbeat}{}", " ".repeat(bytes - heartbeat.len()));
    let answer = post(&router, path::KEEPALIVE, fill(HEARTBEAT_BODY_BYTES_MAX)).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    let answer = post(&router, path::KEEPALIVE, fill(HEARTBEAT_BODY_BYTES_MAX + 1)).await;
    assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let permits = (0..HEARTBEATS_WAITING_MAX).map(|_| heartbeat_permit(&app));
    assert!(permits.collect::<Option<Vec<_>>>().is_some(), "all permits are given back");
    app.node.shutdown().await;
}

/// Without a pair a list has no length of its own: a body holds millions of short names.
#[tokio::test]
async fn more_keys_than_a_holder_may_have_are_refused_before_they_wait() {
    let app = leading_app().await;
    let router = serving(&app);
    let body = |count: u64| {
        let keys: Vec<String> = (0..count).map(|n| format!(r#""a:{n}""#)).collect();
        format!(r#"{{"holder":"10.0.0.1:1","group":"g","keys":[{}]}}"#, keys.join(","))
    };
    // The holder has no permit left: a write that is refused with 507 has not asked for one.
    let permits: Vec<_> =
        (0..HOLDER_WRITES_WAITING_MAX).map(|_| write_permit(&app, &holder(1)).unwrap()).collect();
    for target in [path::ADVERTISE, path::SYNC, path::WITHDRAW] {
        let answer = post(&router, target, body(INDEX_KEYS_OF_A_HOLDER_MAX + 1)).await;
        assert_eq!(answer.status(), StatusCode::INSUFFICIENT_STORAGE, "{target}");
        assert_refused(&post(&router, target, body(INDEX_KEYS_OF_A_HOLDER_MAX)).await);
    }
    drop(permits);
    app.node.shutdown().await;
}

/// A write that was done, and whose answer was lost, was refused with "nothing was done".
#[tokio::test]
async fn without_room_on_the_disk_what_is_stored_is_acknowledged_and_nothing_else_is() {
    let with_pair = |seq: u64, key: &str| {
        format!(r#"{{"holder":"10.0.0.1:1","group":"g","keys":["{key}"],"epoch":1,"seq":{seq}}}"#)
    };
    let written = [
        (path::ADVERTISE, with_pair(1, "b:1")),
        (path::WITHDRAW, with_pair(2, "b:1")),
        (path::SYNC, with_pair(3, "a:1")),
    ];
    let app = app_without_room(async |app| {
        for (target, body) in &written {
            assert_eq!(post(&serving(app), target, body.clone()).await.status(), StatusCode::CREATED);
        }
        post(&serving(app), path::ADVERTISE, advertise_of(&holder(2))).await;
    })
    .await;
    let router = serving(&app);
    let applied = app.index.applied_index();
    let unchanged = advertise_of(&holder(2));
    for (target, body) in [(path::SYNC, written[2].1.clone()), (path::SYNC, unchanged.clone())] {
        assert_eq!(post(&router, target, body.clone()).await.status(), StatusCode::CREATED, "{body}");
    }
    let repeated = with_pair(3, "a:1");
    for target in [path::ADVERTISE, path::WITHDRAW] {
        assert_eq!(post(&router, target, repeated.clone()).await.status(), StatusCode::CREATED);
    }
    for (target, body) in [
        (path::ADVERTISE, with_pair(4, "a:1")),
        (path::SYNC, with_pair(4, "a:1")),
        (path::SYNC, advertise_of(&holder(3))),
        (path::ADVERTISE, unchanged),
    ] {
        let answer = post(&router, target, body.clone()).await;
        assert_eq!(answer.status(), StatusCode::INSUFFICIENT_STORAGE, "{body}");
        assert!(!answer.headers().contains_key(header::FULL), "the index is not full");
    }
    assert_eq!(app.index.applied_index(), applied);
    app.node.shutdown().await;
}

#[tokio::test]
async fn a_holder_that_has_all_its_permits_is_refused_and_others_are_served() {
    let app = leading_app().await;
    let router = serving(&app);
    let waiting: Vec<_> =
        (0..HOLDER_WRITES_WAITING_MAX).map(|_| write_permit(&app, &holder(1)).unwrap()).collect();
    assert_refused(&post(&router, path::ADVERTISE, advertise_of(&holder(1))).await);
    let answer = post(&router, path::ADVERTISE, advertise_of(&holder(2))).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    drop(waiting);
    let answer = post(&router, path::ADVERTISE, advertise_of(&holder(1))).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    app.node.shutdown().await;
}

#[tokio::test]
async fn when_too_many_hidden_hosts_come_back_the_next_is_503_and_writes_and_heartbeats_go_on() {
    let app = leading_app().await;
    let router = serving(&app);
    for n in [1, 2] {
        post(&router, path::ADVERTISE, advertise_of(&holder(n))).await;
    }
    let last_write_index = app.index.host(&holder(1)).unwrap().last_write_index;
    let hide = Command::Hide { holder: holder(1), last_write_index, unix_ms: 7 };
    app.node.propose(hide).await.unwrap();
    let heartbeat = |n: u8| format!(r#"{{"host":"10.0.0.{n}:1","Group":"g"}}"#);

    let waiting: Vec<_> = (0..HEARTBEAT_CHANGES_WAITING_MAX)
        .map(|n| app.permits.heartbeat_changes.take(&of_group(n)).unwrap())
        .collect();
    assert_refused(&post(&router, path::KEEPALIVE, heartbeat(1)).await);
    assert_eq!(post(&router, path::KEEPALIVE, heartbeat(2)).await.status(), StatusCode::CREATED);
    let answer = post(&router, path::ADVERTISE, advertise_of(&holder(2))).await;
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert!(!app.index.host(&holder(1)).unwrap().is_visible());

    drop(waiting);
    let applied = app.index.applied_index();
    let heartbeats = (0..HOLDER_HEARTBEATS_WAITING_MAX).map(|_| post(&router, path::KEEPALIVE, heartbeat(1)));
    for answer in futures_util::future::join_all(heartbeats).await {
        assert_eq!(answer.status(), StatusCode::CREATED);
    }
    assert!(app.index.host(&holder(1)).unwrap().is_visible());
    assert_eq!(app.index.applied_index(), applied + 1, "heartbeats of one host at once propose once");
    app.node.shutdown().await;
}

#[tokio::test]
async fn a_write_keeps_its_permit_when_its_client_leaves() {
    let app = leading_app().await;
    let router = serving(&app);
    let permit = write_permit(&app, &holder(1)).unwrap();
    let lock = permit.lock().await;
    let left = tokio::time::timeout(
        Duration::from_millis(100),
        post(&router, path::ADVERTISE, advertise_of(&holder(1))),
    );
    assert!(left.await.is_err(), "it waits for the lock");
    let permits = (2..HOLDER_WRITES_WAITING_MAX).map(|_| write_permit(&app, &holder(1)));
    let permits: Vec<_> = permits.collect::<Result<_, _>>().unwrap();
    assert!(write_permit(&app, &holder(1)).is_err(), "a write whose client has left keeps its permit");
    drop((lock, permit, permits));
    app.writes.running.close();
    app.writes.running.wait().await;
    assert!(app.index.host(&holder(1)).is_some(), "and its write is done");
    app.node.shutdown().await;
}

#[tokio::test]
async fn when_too_many_writes_wait_the_next_is_503_and_lookups_go_on() {
    let app = app().await;
    let router = serving(&app);
    let ask = async |method: &str, target: &str, body: &'static str| {
        let request = Request::builder().method(method).uri(target).body(Body::from(body)).unwrap();
        router.clone().oneshot(request).await.unwrap()
    };

    let waiting: Vec<_> =
        (0..WRITES_WAITING_MAX).map(|n| write_permit(&app, &of_group(n)).unwrap()).collect();
    let heartbeats: Vec<_> = (0..HEARTBEATS_WAITING_MAX).map(|_| heartbeat_permit(&app).unwrap()).collect();
    let write = r#"{"holder":"10.0.0.1:1","group":"g","keys":["a:1"]}"#;
    for (target, body) in [
        (path::ADVERTISE, write),
        (path::SYNC, write),
        (path::KEEPALIVE, r#"{"host":"10.0.0.1:1","Group":"g"}"#),
    ] {
        let answer = ask("POST", target, body).await;
        assert_refused(&answer);
    }
    app.node.wait_leader(Duration::from_secs(10)).await.unwrap();
    let lookup = format!("{}?key=a:1&group=g", path::FINDKEY);
    assert_eq!(ask("GET", &lookup, "").await.status(), StatusCode::NOT_FOUND);
    drop((waiting, heartbeats));
    assert!(heartbeat_permit(&app).is_some() && write_permit(&app, &holder(1)).is_ok());
    app.node.shutdown().await;
}

#[tokio::test]
async fn while_the_index_loads_the_server_lives_but_is_not_ready() {
    let router = router(AppHandle::default());
    let ask = async |method: &str, target: &str| {
        let request = Request::builder().method(method).uri(target).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    };
    for target in [path::LIVEZ, path::HEALTHZ, path::METRICS] {
        assert_eq!(ask("GET", target).await.status(), StatusCode::OK, "{target}");
    }
    let ready = ask("GET", path::READYZ).await;
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = axum::body::to_bytes(ready.into_body(), 1_000).await.unwrap();
    assert_eq!(body, r#"{"ready":false,"reasons":["the index is loading"]}"#);
    let lookup = format!("{}?key=k&group=g", path::FINDKEY);
    for (method, target) in [("GET", lookup.as_str()), ("POST", path::ADVERTISE), ("GET", path::STATUS)] {
        let answer = ask(method, target).await;
        assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{target}");
        assert!(answer.headers().contains_key("retry-after"), "{target}");
    }
}

/// A loading server answered like one that belongs to no cluster: agents believed that the other cluster was
/// the only one.
#[tokio::test]
async fn while_the_index_loads_a_server_does_not_say_that_it_belongs_to_no_cluster() {
    let handle = AppHandle::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    let routes = router(handle.clone());
    tasks.spawn(async move { axum::serve(listener, routes).await.unwrap() });
    let client = Client::new(vec![url]).unwrap();
    let seen = async || {
        let seen = client.clusters(Duration::from_secs(10)).await;
        seen.into_iter().map(|(_, sighting)| sighting).collect::<Vec<_>>()
    };
    let loading = seen().await;
    assert!(loading.iter().all(|one| *one == Sighting::Silent), "{loading:?}");
    let app = leading_app().await;
    handle.set(Arc::clone(&app));
    let cluster = app.node.cluster_id().unwrap().to_string();
    let loaded = seen().await;
    let of_it = Sighting::Of { cluster, servers: 1 };
    assert!(loaded.iter().all(|one| *one == of_it), "{loaded:?}");
    app.node.shutdown().await;
}
