//! All routes of a server, and what holds for each of them.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};

use super::app::Shared;
use super::error::{ApiError, QueryError};
use super::query::Query;
use super::write::Kind;
use super::{capabilities, findkey, health, hosts, keepalive, members, metrics, report, status, write};
use crate::api::{Capabilities, HostsResponse, MembersAction, StatusResponse, header, path};

/// The router of the API port.
pub fn router(shared: Shared) -> Router {
    Router::new()
        .route(path::ADVERTISE, post(advertise))
        .route(path::WITHDRAW, post(withdraw))
        .route(path::SYNC, post(sync))
        .route(path::KEEPALIVE, post(keep_alive))
        .route(path::REPORT, post(take_report))
        .route(path::FINDKEY, get(find_key))
        .route(path::CAPABILITIES, get(show_capabilities))
        .route(path::STATUS, get(show_status))
        .route(path::HOSTS, get(show_hosts))
        .route(path::MEMBERS, get(list_members).post(list_members))
        .merge(changes_of_members())
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

async fn advertise(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    write::handle(shared.get()?, Kind::Advertise, request).await
}

async fn withdraw(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    write::handle(shared.get()?, Kind::Withdraw, request).await
}

async fn sync(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    write::handle(shared.get()?, Kind::Sync, request).await
}

async fn keep_alive(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    keepalive::handle(shared.get()?, request).await
}

async fn take_report(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    report::handle(shared.get()?, request).await
}

/// A server without any data knows of nobody: its 404 would send the asker to the registry, a 503 sends
/// it to the next server. One that has lost its disk is still in the lists of all agents.
async fn find_key(State(shared): State<Shared>, request: Request) -> Result<Response, QueryError> {
    let app = shared.get()?;
    match findkey::handle(app, &Query::parse(request.uri().query())).await {
        Err(QueryError(ApiError::KeyNotFound { .. }))
            if app.index.applied_index() == 0 && !app.node.is_member() =>
        {
            Err(ApiError::NotServing { reason: "this server has no data yet".to_owned() }.into())
        }
        answer => answer,
    }
}

async fn show_capabilities(State(shared): State<Shared>) -> Result<Json<Capabilities>, ApiError> {
    Ok(Json(capabilities::answer(shared.get()?)))
}

async fn show_status(State(shared): State<Shared>) -> Result<Json<StatusResponse>, ApiError> {
    Ok(Json(status::answer(shared.get()?)))
}

async fn show_hosts(State(shared): State<Shared>, request: Request) -> Result<Json<HostsResponse>, ApiError> {
    Ok(Json(hosts::answer(shared.get()?, &Query::parse(request.uri().query()))?))
}

async fn list_members(State(shared): State<Shared>, request: Request) -> Result<Response, ApiError> {
    members::list(shared.get()?, request).await
}

fn changes_of_members() -> Router<Shared> {
    use MembersAction::{Add, Remove, Replace, TransferLeader};
    [Add, Replace, Remove, TransferLeader].into_iter().fold(Router::new(), |router, action| {
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
    let mut response = next.run(request).await.into_response();
    if let Ok(app) = shared.get() {
        let index = HeaderValue::from(app.index.applied_index());
        response.headers_mut().entry(HeaderName::from_static(header::APPLIED_INDEX)).or_insert(index);
    }
    response
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use axum::body::Body;
    use axum::http::StatusCode;
    use piccolo_raft::cluster::{Node, NodeConfig};
    use piccolo_raft::disk::MemoryDisk;
    use tower::ServiceExt;

    use super::super::app::App;
    use super::super::leases::Leases;
    use super::super::request::HolderPolicy;
    use super::*;
    use crate::clock::SystemClock;
    use crate::limits::WRITES_WAITING_MAX;
    use crate::task::Stop;

    #[tokio::test]
    async fn when_too_many_writes_wait_the_next_is_503_and_lookups_go_on() {
        let config = NodeConfig {
            members: vec!["127.0.0.1:1".to_owned()],
            raft_address: Some("127.0.0.1:1".to_owned()),
            api_address: "127.0.0.1:2".to_owned(),
        };
        let node = Node::start(config, Arc::new(MemoryDisk::default()), Stop::new()).await.unwrap();
        let leases = Leases::new(Duration::from_secs(60), Duration::from_secs(60));
        let holders = HolderPolicy { loopback: true };
        let app = Arc::new(App::new(node, holders, SystemClock::shared(), leases, Stop::new()));
        let shared = Shared::default();
        shared.set(Arc::clone(&app));
        let router = router(shared);
        let ask = async |method: &str, target: &str, body: &'static str| {
            let request = Request::builder().method(method).uri(target).body(Body::from(body)).unwrap();
            router.clone().oneshot(request).await.unwrap()
        };

        let waiting: Vec<_> = (0..WRITES_WAITING_MAX).map(|_| app.place_for_keepalive().unwrap()).collect();
        let write = r#"{"holder":"10.0.0.1:1","group":"g","keys":["a:1"]}"#;
        for (target, body) in [
            (path::ADVERTISE, write),
            (path::SYNC, write),
            (path::KEEPALIVE, r#"{"host":"10.0.0.1:1","Group":"g"}"#),
        ] {
            let answer = ask("POST", target, body).await;
            assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{target}");
            assert!(answer.headers().contains_key("retry-after"), "{target}");
            assert!(!answer.headers().contains_key(header::LEADER), "a client must not ask again at once");
        }
        app.node.wait_leader(Duration::from_secs(10)).await.unwrap();
        let lookup = format!("{}?key=a:1&group=g", path::FINDKEY);
        assert_eq!(ask("GET", &lookup, "").await.status(), StatusCode::NOT_FOUND);
        drop(waiting);
        assert!(app.place_for_keepalive().is_ok());
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
}
