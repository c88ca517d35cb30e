//! The routes of the API port, one file for each endpoint. A new endpoint is a file here and a line in
//! [`router`]; its handler takes the parts of the server that it uses
//! ([`Loaded`]).
//!
//! Who answers:
//!
//! | endpoint | who answers |
//! |---|---|
//! | `findkey`, `hosts`, `flights`, `status`, `capabilities`, `report`, `snapshot`, health, metrics | any server, from what it has |
//! | `advertise`, `withdraw`, `sync`, `keepalive`, changes of `members` | the leader; the others forward to it |
//! | the list of `members` | the leader, or any server while there is none |
//!
//! A server that may lack what the others have marks a 404 of `findkey` and every `hosts` with
//! [`header::BEHIND`](crate::api::header::BEHIND), and its `/readyz` fails once another server has
//! everything.

pub mod advertise;
pub mod capabilities;
pub mod findkey;
pub mod flights;
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

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::app::{AppHandle, Loaded};
use super::error::ApiError;
use super::headers;
use super::permits::bodies::discard_refused;
use crate::api::{MembersAction, path};

/// The router of the API port.
pub fn router(app: AppHandle) -> Router {
    Router::new()
        .merge(writes(app.clone()))
        // GET is answered in front of the routes, by `ApiService`; HEAD comes here.
        .route(path::FINDKEY, get(findkey::handle))
        .route(path::CAPABILITIES, get(capabilities::handle))
        .route(path::STATUS, get(status::handle))
        .route(path::HOSTS, get(hosts::handle))
        .route(path::FLIGHTS, get(flights::list))
        .route(path::MEMBERS, get(members::list).post(members::list))
        .merge(changes_of_members())
        .route(path::SNAPSHOT, post(snapshot::handle))
        .route(path::HEALTHZ, get(health::live))
        .route(path::LIVEZ, get(health::live))
        .route(path::READYZ, get(health::ready))
        .merge(metrics::router(app.clone()))
        .fallback(unknown_route)
        .method_not_allowed_fallback(unknown_route)
        .layer(middleware::from_fn_with_state(app.clone(), mark_answer))
        .layer(middleware::from_fn(metrics::count))
        .with_state(app)
}

/// Routes for agents, which refuse those of another cluster.
fn writes(app: AppHandle) -> Router<AppHandle> {
    Router::new()
        .route(path::ADVERTISE, post(advertise::handle))
        .route(path::WITHDRAW, post(withdraw::handle))
        .route(path::SYNC, post(sync::handle))
        .route(path::KEEPALIVE, post(keepalive::handle))
        .route(path::REPORT, post(report::handle))
        .route(path::FLIGHTS_PROGRESS, post(flights::progress))
        .route(path::FLIGHTS_OWNED, post(flights::owned))
        .route_layer(middleware::from_fn_with_state(app, refuse_other_clusters))
}

fn changes_of_members() -> Router<AppHandle> {
    use MembersAction::{Activate, Add, Remove, Replace, TransferLeader};
    [Add, Replace, Remove, TransferLeader, Activate].into_iter().fold(Router::new(), |router, action| {
        let change = async move |members: Loaded<members::Members>, request: Request| {
            members::change(members, action, request).await
        };
        router.route(action.path(), post(change))
    })
}

/// Answers an unknown path, and a known one with another method, as gin does.
async fn unknown_route() -> ApiError {
    ApiError::UnknownRoute
}

/// Refuses a request that names another cluster.
async fn refuse_other_clusters(State(app): State<AppHandle>, request: Request<Body>, next: Next) -> Response {
    if let Ok(app) = app.get()
        && let Err(error) = app.cluster.identity.check(request.headers())
    {
        discard_refused(&mut request.into_body()).await;
        return error.into_response();
    }
    next.run(request).await
}

/// Adds the marks of [`with_marks`] to the answer of a route.
async fn mark_answer(State(app): State<AppHandle>, request: Request, next: Next) -> Response {
    with_marks(&app, next.run(request).await)
}

/// Adds to an answer what this server has applied, unless it names the log index of its own write, and which
/// cluster it is.
pub fn with_marks(app: &AppHandle, mut response: Response) -> Response {
    if let Ok(app) = app.get() {
        let (name, index) = headers::applied_index(app.index.applied_index());
        response.headers_mut().entry(name).or_insert(index);
        app.cluster.identity.mark_answer(response.headers_mut());
    }
    response
}

#[cfg(test)]
mod tests;
