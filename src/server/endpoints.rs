//! All routes of a server, and what holds for each of them.

pub mod advertise;
pub mod capabilities;
pub mod findkey;
pub mod health;
pub mod hosts;
pub mod keepalive;
pub mod members;
pub mod metrics;
pub mod report;
pub mod snapshot;
pub mod status;
pub mod sync;
pub mod withdraw;

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, Router};

use crate::api::{Capabilities, MembersAction, StatusResponse, header, path};
use crate::server::app::Shared;
use crate::server::cluster::behind::behind_header;
use crate::server::cluster::cluster_id;
use crate::server::error::{ApiError, QueryError};
use crate::server::requests::query::Query;
use crate::server::writes;
use crate::server::writes::Kind;

/// The router of the API port.
pub fn router(shared: Shared) -> Router {
    Router::new()
        .merge(writes(shared.clone()))
        // GET comes here by `lookups`, HEAD by its route.
        .route(path::FINDKEY, get(find_key))
        .route(path::CAPABILITIES, get(show_capabilities))
        .route(path::STATUS, get(show_status))
        .route(path::HOSTS, get(show_hosts))
        .route(path::MEMBERS, get(list_members).post(list_members))
        .merge(changes_of_members())
        .route(path::SNAPSHOT, post(save_snapshot))
        .route(path::HEALTHZ, get(async || health::live()))
        .route(path::LIVEZ, get(async || health::live()))
        .route(path::READYZ, get(async |State(shared): State<Shared>| health::ready(&shared)))
        .merge(metrics::router(shared.clone()))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_route)
        .layer(middleware::from_fn_with_state(shared.clone(), tell_applied_index))
        .layer(middleware::from_fn(metrics::count))
        .with_state(shared)
}

/// Of this cluster's agents, and of those that know none.
fn writes(shared: Shared) -> Router<Shared> {
    Router::new()
        .route(path::ADVERTISE, post(advertise))
        .route(path::WITHDRAW, post(withdraw))
        .route(path::SYNC, post(sync))
        .route(path::KEEPALIVE, post(keep_alive))
        .route(path::REPORT, post(take_report))
        .route_layer(middleware::from_fn_with_state(shared, cluster_id::admit))
}

async fn advertise(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    writes::handle(shared.get()?, Kind::Advertise, request).await
}

async fn withdraw(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    writes::handle(shared.get()?, Kind::Withdraw, request).await
}

async fn sync(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    writes::handle(shared.get()?, Kind::Sync, request).await
}

async fn keep_alive(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    keepalive::handle(shared.get()?, request).await
}

async fn take_report(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    report::handle(shared.get()?, request).await
}

async fn find_key(State(shared): State<Shared>, request: Request) -> Result<Response, QueryError> {
    findkey::handle(shared.get()?, &Query::parse(request.uri().query())).await
}

async fn show_capabilities(State(shared): State<Shared>) -> Result<Json<Capabilities>, ApiError> {
    Ok(Json(capabilities::answer(shared.get()?)))
}

async fn show_status(State(shared): State<Shared>) -> Result<Json<StatusResponse>, ApiError> {
    Ok(Json(status::answer(shared.get()?)))
}

async fn show_hosts(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    let app = shared.get()?;
    // What it lacks now it may have after the answer was made, not the other way round.
    let behind = app.node.behind().is_some();
    let mut answer = hosts::answer(app, &Query::parse(request.uri().query()))?;
    if behind {
        answer.headers_mut().extend([behind_header()]);
    }
    Ok(answer)
}

async fn list_members(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    members::list(shared.get()?, request).await
}

async fn save_snapshot(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    snapshot::save(shared.get()?, request).await
}

fn changes_of_members() -> Router<Shared> {
    use MembersAction::{Activate, Add, Remove, Replace, TransferLeader};
    [Add, Replace, Remove, TransferLeader, Activate].into_iter().fold(Router::new(), |router, action| {
        let change = async move |State(shared): State<Shared>, request: Request| {
            members::change(shared.get()?, action, request).await
        };
        router.route(action.path(), post(change))
    })
}

/// Also for a known path with another method, as gin does.
async fn unknown_route() -> ApiError {
    ApiError::UnknownRoute
}

/// Every answer says what this server has applied, unless it tells of a write of its own.
async fn tell_applied_index(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    with_applied_index(&shared, next.run(request).await)
}

/// See [`tell_applied_index`].
pub(in crate::server) fn with_applied_index(shared: &Shared, mut response: Response) -> Response {
    if let Ok(app) = shared.get() {
        let index = HeaderValue::from(app.index.applied_index());
        response.headers_mut().entry(HeaderName::from_static(header::APPLIED_INDEX)).or_insert(index);
        cluster_id::tell(app, response.headers_mut());
    }
    response
}

#[cfg(test)]
pub(in crate::server) mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::StatusCode;
    use piccolo_raft::cluster::{Node, NodeConfig};
    use piccolo_raft::command::Command;
    use piccolo_raft::disk::{MemoryDisk, Space};
    use piccolo_raft::model::Holder;
    use tower::ServiceExt;

    use super::*;
    use crate::api::client::{Client, Sighting};
    use crate::clock::{SharedClock, SystemClock};
    use crate::limits::{
        API_BODIES_BYTES_MAX, BEAT_BODY_BYTES_MAX, BEAT_CHANGES_WAITING_MAX, BEATS_WAITING_MAX,
        HOLDER_BEATS_WAITING_MAX, HOLDER_WRITES_WAITING_MAX, INDEX_KEYS_OF_A_HOLDER_MAX,
        OVERLOAD_RETRY_AFTER_SECONDS, WRITES_WAITING_MAX,
    };
    use crate::server::app::App;
    use crate::server::leases::Leases;
    use crate::server::requests::accepted::HolderPolicy;
    use crate::task::Stop;

    /// The app of a cluster of one, in memory.
    async fn app() -> Arc<App> {
        app_on(MemoryDisk::default(), 0).await
    }

    /// The same, by that clock.
    pub(in crate::server) async fn app_with_clock(clock: SharedClock) -> Arc<App> {
        app_of(MemoryDisk::default(), 0, clock).await
    }

    async fn app_on(disk: MemoryDisk, disk_free_min: u64) -> Arc<App> {
        app_of(disk, disk_free_min, SystemClock::shared()).await
    }

    async fn app_of(disk: MemoryDisk, disk_free_min: u64, clock: SharedClock) -> Arc<App> {
        let config = NodeConfig {
            members: vec!["127.0.0.1:1".to_owned()],
            raft_address: Some("127.0.0.1:1".to_owned()),
            api_address: "127.0.0.1:2".to_owned(),
            disk_free_min: Some(disk_free_min),
            found_after: Duration::ZERO,
            api_port: None,
        };
        let node = Node::start(config, Arc::new(disk), Stop::new()).await.unwrap();
        let leases = Leases::new(Duration::from_secs(60), Duration::from_secs(60));
        let holders = HolderPolicy { loopback: true };
        Arc::new(App::new(node, holders, clock, leases, Stop::new()))
    }

    /// The same, once it leads. The task that ends leases does not run.
    pub(in crate::server) async fn leading_app() -> Arc<App> {
        leading(app().await).await
    }

    /// That app, once it leads.
    pub(in crate::server) async fn leading(app: Arc<App>) -> Arc<App> {
        until("it leads", || {
            app.set_leading_term(app.node.term());
            app.leads()
        })
        .await;
        app
    }

    /// The same on a disk without room, once that is known. It had room while `before` ran.
    pub(in crate::server) async fn app_without_room(before: impl AsyncFnOnce(&Arc<App>)) -> Arc<App> {
        let disk = MemoryDisk::default();
        let bytes = |free_bytes| Space { free_bytes, total_bytes: 1 << 30 };
        disk.set_space(bytes(1 << 29));
        let app = leading(app_on(disk.clone(), 16 << 20).await).await;
        before(&app).await;
        // Less than what is left for upkeep, too.
        disk.set_space(bytes(0));
        until("it is without room", || app.node.no_room().is_some()).await;
        app
    }

    async fn until(what: &str, mut is: impl FnMut() -> bool) {
        let end = tokio::time::Instant::now() + Duration::from_secs(60);
        while !is() {
            assert!(tokio::time::Instant::now() < end, "not {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn serving(app: &Arc<App>) -> Router {
        let shared = Shared::default();
        shared.set(Arc::clone(app));
        router(shared)
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
    async fn writes_that_take_up_everything_keep_no_host_from_beating() {
        let app = leading_app().await;
        let router = serving(&app);
        let places: Vec<_> =
            (0..WRITES_WAITING_MAX).map(|n| app.place_for_write(&of_group(n)).unwrap()).collect();
        let bodies = app.bodies.take(API_BODIES_BYTES_MAX).unwrap();
        let beat = r#"{"host":"10.0.0.1:1","Group":"g"}"#.to_owned();
        assert_refused(&post(&router, path::ADVERTISE, advertise_of(&holder(1))).await);
        assert_eq!(post(&router, path::KEEPALIVE, beat.clone()).await.status(), StatusCode::CREATED);
        drop((places, bodies));
        let fill = |bytes: usize| format!("{beat}{}", " ".repeat(bytes - beat.len()));
        let answer = post(&router, path::KEEPALIVE, fill(BEAT_BODY_BYTES_MAX)).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        let answer = post(&router, path::KEEPALIVE, fill(BEAT_BODY_BYTES_MAX + 1)).await;
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
        let places = (0..BEATS_WAITING_MAX).map(|_| app.place_for_keepalive());
        assert!(places.collect::<Result<Vec<_>, _>>().is_ok(), "all have their places back");
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
        // The holder has no place left: who is refused with 507 has not asked for one.
        let places: Vec<_> =
            (0..HOLDER_WRITES_WAITING_MAX).map(|_| app.place_for_write(&holder(1)).unwrap()).collect();
        for target in [path::ADVERTISE, path::SYNC, path::WITHDRAW] {
            let answer = post(&router, target, body(INDEX_KEYS_OF_A_HOLDER_MAX + 1)).await;
            assert_eq!(answer.status(), StatusCode::INSUFFICIENT_STORAGE, "{target}");
            assert_refused(&post(&router, target, body(INDEX_KEYS_OF_A_HOLDER_MAX)).await);
        }
        drop(places);
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
    async fn a_holder_that_has_all_its_places_is_refused_and_others_are_served() {
        let app = leading_app().await;
        let router = serving(&app);
        let waiting: Vec<_> =
            (0..HOLDER_WRITES_WAITING_MAX).map(|_| app.place_for_write(&holder(1)).unwrap()).collect();
        assert_refused(&post(&router, path::ADVERTISE, advertise_of(&holder(1))).await);
        let answer = post(&router, path::ADVERTISE, advertise_of(&holder(2))).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        drop(waiting);
        let answer = post(&router, path::ADVERTISE, advertise_of(&holder(1))).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        app.node.shutdown().await;
    }

    #[tokio::test]
    async fn when_too_many_hidden_hosts_come_back_the_next_is_503_and_writes_and_beats_go_on() {
        let app = leading_app().await;
        let router = serving(&app);
        for n in [1, 2] {
            post(&router, path::ADVERTISE, advertise_of(&holder(n))).await;
        }
        let last_write_index = app.index.host(&holder(1)).unwrap().last_write_index;
        let hide = Command::Hide { holder: holder(1), last_write_index, unix_ms: 7 };
        app.node.propose(hide).await.unwrap();
        let beat = |n: u8| format!(r#"{{"host":"10.0.0.{n}:1","Group":"g"}}"#);

        let waiting: Vec<_> =
            (0..BEAT_CHANGES_WAITING_MAX).map(|n| app.place_for_beat_change(&of_group(n)).unwrap()).collect();
        assert_refused(&post(&router, path::KEEPALIVE, beat(1)).await);
        assert_eq!(post(&router, path::KEEPALIVE, beat(2)).await.status(), StatusCode::CREATED);
        let answer = post(&router, path::ADVERTISE, advertise_of(&holder(2))).await;
        assert_eq!(answer.status(), StatusCode::CREATED);
        assert!(!app.index.host(&holder(1)).unwrap().is_visible());

        drop(waiting);
        let applied = app.index.applied_index();
        let beats = (0..HOLDER_BEATS_WAITING_MAX).map(|_| post(&router, path::KEEPALIVE, beat(1)));
        for answer in futures_util::future::join_all(beats).await {
            assert_eq!(answer.status(), StatusCode::CREATED);
        }
        assert!(app.index.host(&holder(1)).unwrap().is_visible());
        assert_eq!(app.index.applied_index(), applied + 1, "beats of one host at once propose once");
        app.node.shutdown().await;
    }

    #[tokio::test]
    async fn a_write_keeps_its_place_when_its_client_leaves() {
        let app = leading_app().await;
        let router = serving(&app);
        let place = app.place_for_write(&holder(1)).unwrap();
        let turn = place.turn().await;
        let left = tokio::time::timeout(
            Duration::from_millis(100),
            post(&router, path::ADVERTISE, advertise_of(&holder(1))),
        );
        assert!(left.await.is_err(), "it waits for its turn");
        let places = (2..HOLDER_WRITES_WAITING_MAX).map(|_| app.place_for_write(&holder(1)));
        let places: Vec<_> = places.collect::<Result<_, _>>().unwrap();
        assert!(app.place_for_write(&holder(1)).is_err(), "who left still has a place");
        drop((turn, place, places));
        app.writes.close();
        app.writes.wait().await;
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
            (0..WRITES_WAITING_MAX).map(|n| app.place_for_write(&of_group(n)).unwrap()).collect();
        let beats: Vec<_> = (0..BEATS_WAITING_MAX).map(|_| app.place_for_keepalive().unwrap()).collect();
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
        drop((waiting, beats));
        assert!(app.place_for_keepalive().is_ok() && app.place_for_write(&holder(1)).is_ok());
        app.node.shutdown().await;
    }

    #[tokio::test]
    async fn while_the_index_loads_the_server_lives_but_is_not_ready() {
        let router = router(Shared::default());
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

    /// A server that loads answered like one that belongs to no cluster: agents took the cluster that was
    /// left for the only one.
    #[tokio::test]
    async fn while_the_index_loads_a_server_does_not_say_that_it_belongs_to_no_cluster() {
        let shared = Shared::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut tasks = tokio::task::JoinSet::new();
        let routes = router(shared.clone());
        tasks.spawn(async move { axum::serve(listener, routes).await.unwrap() });
        let client = Client::new(vec![url]).unwrap();
        let seen = async || {
            let seen = client.clusters(Duration::from_secs(10)).await;
            seen.into_iter().map(|(_, sighting)| sighting).collect::<Vec<_>>()
        };
        let loading = seen().await;
        assert!(loading.iter().all(|one| *one == Sighting::Silent), "{loading:?}");
        let app = leading_app().await;
        shared.set(Arc::clone(&app));
        let cluster = app.node.cluster_id().unwrap().to_string();
        let loaded = seen().await;
        let of_it = Sighting::Of { cluster, servers: 1 };
        assert!(loaded.iter().all(|one| *one == of_it), "{loaded:?}");
        app.node.shutdown().await;
    }
}
