//! What answers the API port: lookups at once, everything else through the routes. A lookup takes a
//! few microseconds, and is what a pull waits for: finding its route, wrapping its answer in layers and
//! its labels up for the metrics are not worth as many.

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::http::{Method, Request, Response, Uri};
use axum::response::IntoResponse;
use futures_util::future::Either;
use hyper::body::Incoming;
use metrics::{Counter, Histogram, counter, histogram};

use super::app::Shared;
use super::error::QueryError;
use super::query::Query;
use super::{findkey, routes};
use crate::api::path;
use crate::http::{Answer, Connection};

/// All endpoints of a server; cheap to clone, as each request does.
#[derive(Clone)]
pub struct Endpoints(Arc<Inner>);

struct Inner {
    shared: Shared,
    routes: Router,
    metrics: Metrics,
}

/// As the routes count themselves, found once instead of at each request.
struct Metrics {
    seconds: Histogram,
    found: Counter,
    not_found: Counter,
}

impl Metrics {
    fn new() -> Self {
        let requests = |status: &'static str| counter!("http_requests_total", "route" => path::FINDKEY, "method" => "GET", "status" => status);
        Self {
            seconds: histogram!("http_request_duration_seconds", "route" => path::FINDKEY, "method" => "GET"),
            found: requests("200"),
            not_found: requests("404"),
        }
    }

    fn count(&self, status: u16, seconds: f64) {
        self.seconds.record(seconds);
        match status {
            200 => self.found.increment(1),
            404 => self.not_found.increment(1),
            other => {
                let labels = [
                    ("route", path::FINDKEY.to_owned()),
                    ("method", "GET".to_owned()),
                    ("status", other.to_string()),
                ];
                counter!("http_requests_total", &labels).increment(1);
            }
        }
    }
}

impl Endpoints {
    /// Over `shared`.
    pub fn new(shared: Shared) -> Self {
        let routes = routes::router(shared.clone());
        Self(Arc::new(Inner { shared, routes, metrics: Metrics::new() }))
    }

    fn is_lookup<B>(request: &Request<B>) -> bool {
        *request.method() == Method::GET && request.uri().path() == path::FINDKEY
    }

    async fn look_up(self, uri: Uri) -> Response<Body> {
        let Inner { shared, metrics, .. } = &*self.0;
        let start = Instant::now();
        let query = Query::parse(uri.query());
        let found = async { findkey::handle(shared.get()?, &query).await };
        let answer: Result<_, QueryError> = found.await;
        let answer = routes::with_applied_index(shared, answer.into_response());
        metrics.count(answer.status().as_u16(), start.elapsed().as_secs_f64());
        answer
    }
}

impl Answer for Endpoints {
    fn answer(
        self,
        request: Request<Incoming>,
        connection: Connection,
    ) -> impl Future<Output = Response<Body>> + Send + 'static {
        if Self::is_lookup(&request) {
            let (head, _no_body) = request.into_parts();
            Either::Left(self.look_up(head.uri))
        } else {
            // In a box, because every lookup would move the room for it.
            Either::Right(Box::pin(self.0.routes.clone().answer(request, connection)))
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;

    #[tokio::test]
    async fn a_lookup_is_answered_and_counted_as_its_route_would() {
        let recorder = crate::metrics::install();
        let endpoints = Endpoints::new(Shared::default());
        let request = || {
            let target = format!("{}?key=k&group=g", path::FINDKEY);
            Request::builder().uri(target).body(Body::empty()).unwrap()
        };
        assert!(Endpoints::is_lookup(&request()));
        let mut routed = endpoints.0.routes.clone().oneshot(request()).await.unwrap();
        // hyper adds it to an answer that has none.
        routed.headers_mut().remove("content-length");
        let direct = endpoints.look_up(request().into_parts().0.uri).await;
        assert_eq!(direct.status(), routed.status());
        // Their values differ by chance: when to come again.
        let names = |answer: &Response<Body>| {
            let mut names: Vec<_> = answer.headers().keys().map(ToString::to_string).collect();
            names.sort();
            names
        };
        assert_eq!(names(&direct), names(&routed));
        let [direct, routed] = [direct, routed].map(|answer| axum::body::to_bytes(answer.into_body(), 1_000));
        assert_eq!(direct.await.unwrap(), routed.await.unwrap());
        let counted = recorder.render();
        let line = counted.lines().find(|line| {
            line.starts_with("http_requests_total") && line.contains(path::FINDKEY) && line.contains("503")
        });
        assert_eq!(line.and_then(|line| line.rsplit(' ').next()), Some("2"), "{counted}");
    }
}
