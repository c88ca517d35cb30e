//! The service of the API port: it answers lookups itself and passes everything else to the routes. A pull
//! waits for its lookups. Through the routes a lookup takes twice as long, for finding its route, wrapping its
//! answer in layers and making labels for the metrics: 10.6 µs instead of 4.7 µs, with 40 holders on one core of
//! a Xeon with SHA instructions, in a release build without the connection, whose part is some 9 µs.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::FromRef;
use axum::http::request::Parts;
use axum::http::{Method, Request, Response};
use axum::response::IntoResponse;
use futures_util::future::Either;
use hyper::body::Incoming;
use metrics::{Counter, Histogram, counter, histogram};

use super::app::AppHandle;
use super::endpoints::{self, findkey::Lookups};
use super::error::{ApiError, QueryError};
use super::requests::query::Query;
use crate::api::{header, path};
use crate::http::{Answer, Connection};

/// Answers all requests to the API port. Cheap to clone, as each request does.
#[derive(Clone)]
pub struct ApiService(Arc<Inner>);

struct Inner {
    app: AppHandle,
    /// Set with the first lookup once the index is loaded.
    lookups: OnceLock<Lookups>,
    routes: Router,
    metrics: Metrics,
}

/// The metrics that the routes count a findkey with, found once instead of at each request.
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

impl Inner {
    fn lookups(&self) -> Result<&Lookups, ApiError> {
        match self.lookups.get() {
            Some(lookups) => Ok(lookups),
            None => self.app.get().map(|app| self.lookups.get_or_init(|| Lookups::from_ref(app))),
        }
    }
}

impl ApiService {
    /// The service of `app`.
    pub fn new(app: AppHandle) -> Self {
        let routes = endpoints::router(app.clone());
        Self(Arc::new(Inner { app, lookups: OnceLock::new(), routes, metrics: Metrics::new() }))
    }

    fn is_lookup<B>(request: &Request<B>) -> bool {
        *request.method() == Method::GET && request.uri().path() == path::FINDKEY
    }

    /// Whether a request is a probe, or is answered from memory in a few bytes.
    fn is_short<B>(request: &Request<B>) -> bool {
        const SHORT: [&str; 6] =
            [path::LIVEZ, path::READYZ, path::HEALTHZ, path::METRICS, path::FINDKEY, path::STATUS];
        [Method::GET, Method::HEAD].contains(request.method()) && SHORT.contains(&request.uri().path())
    }

    async fn look_up(self, head: Parts) -> Response<Body> {
        let Inner { app, metrics, .. } = &*self.0;
        let start = Instant::now();
        let query = Query::parse(head.uri.query());
        let answer = match self.0.lookups() {
            Ok(lookups) => lookups.answer(&query).await,
            Err(loading) => Err(loading.into()),
        };
        let answer = match answer {
            Err(QueryError(error @ (ApiError::KeyNotFound { behind: true, .. } | ApiError::NotMember))) => {
                // In a box: otherwise each lookup would move the memory for this future.
                Box::pin(Self::ask_elsewhere(app, &head, error)).await
            }
            answer => answer.into_response(),
        };
        let answer = endpoints::with_marks(app, answer);
        metrics.count(answer.status().as_u16(), start.elapsed().as_secs_f64());
        answer
    }

    /// Asks another server for a client whose lookup this server cannot answer, because it may lack what
    /// others have or is no member yet. A client that knows of other servers asks them itself; the Go `pi`
    /// knows one address and takes a 404 for the last word.
    async fn ask_elsewhere(app: &AppHandle, head: &Parts, error: ApiError) -> Response<Body> {
        let asks_itself = head.headers.contains_key(header::ASKS_OTHERS);
        let target = head.uri.path_and_query().filter(|_| !asks_itself);
        if let (Ok(app), Some(target)) = (app.get(), target)
            && let Some(answer) = app.cluster.fallback.find(target.as_str()).await
        {
            return answer;
        }
        QueryError(error).into_response()
    }
}

impl Answer for ApiService {
    fn answer(
        self,
        request: Request<Incoming>,
        connection: Connection,
    ) -> impl Future<Output = Response<Body>> + Send + 'static {
        if connection.is_over_limit && !Self::is_short(&request) {
            // A write, or an answer of megabytes, could occupy this connection for long.
            Either::Right(Either::Left(std::future::ready(ApiError::Overloaded.into_response())))
        } else if Self::is_lookup(&request) {
            let (head, _no_body) = request.into_parts();
            Either::Left(self.look_up(head))
        } else {
            // In a box: otherwise each lookup would move the memory for this future.
            Either::Right(Either::Right(Box::pin(self.0.routes.clone().answer(request, connection))))
        }
    }
}

#[cfg(test)]
mod tests {
    use tower::ServiceExt;

    use super::*;

    #[test]
    fn beyond_the_limit_only_what_is_short_is_answered() {
        let is_short = |method: &str, target: &str| {
            ApiService::is_short(&Request::builder().method(method).uri(target).body(()).unwrap())
        };
        for target in [path::LIVEZ, path::READYZ, path::METRICS, path::STATUS] {
            assert!(is_short("GET", target) && is_short("HEAD", target), "{target}");
        }
        assert!(is_short("GET", &format!("{}?key=k&group=g", path::FINDKEY)));
        for (method, target) in
            [("POST", path::KEEPALIVE), ("GET", path::HOSTS), ("POST", path::LIVEZ), ("POST", path::SNAPSHOT)]
        {
            assert!(!is_short(method, target), "{method} {target}");
        }
    }

    #[tokio::test]
    async fn a_lookup_is_answered_and_counted_as_its_route_would() {
        let recorder = crate::metrics::install();
        let service = ApiService::new(AppHandle::default());
        let request = || {
            let target = format!("{}?key=k&group=g", path::FINDKEY);
            Request::builder().uri(target).body(Body::empty()).unwrap()
        };
        assert!(ApiService::is_lookup(&request()));
        let mut routed = service.0.routes.clone().oneshot(request()).await.unwrap();
        // hyper adds it to an answer that has none.
        routed.headers_mut().remove("content-length");
        let direct = service.look_up(request().into_parts().0).await;
        assert_eq!(direct.status(), routed.status());
        // The values of Retry-After are random.
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
