//! Metrics of both roles: one recorder a process, rendered for Prometheus on a port that the role
//! already has. Each subsystem describes and registers its own metrics.

use std::convert::Infallible;
use std::sync::OnceLock;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

use crate::limits::METRICS_UPKEEP_INTERVAL;
use crate::task::Stop;

/// Buckets of every `_seconds` histogram, from a lookup in memory to a very slow blob.
const SECONDS_BUCKETS: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Buckets of every `_count` histogram, for holders in an answer or keys in a request.
const COUNT_BUCKETS: &[f64] =
    &[0.0, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 3_000.0, 10_000.0, 100_000.0];

static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// The process's recorder, which the first call installs.
pub fn install() -> PrometheusHandle {
    HANDLE
        .get_or_init(|| {
            PrometheusBuilder::new()
                .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), SECONDS_BUCKETS)
                .and_then(|b| b.set_buckets_for_metric(Matcher::Suffix("_count".into()), COUNT_BUCKETS))
                .expect("the buckets are not empty")
                .install_recorder()
                .expect("nothing else installs a recorder")
        })
        .clone()
}

/// Keeps the recorder small until `stop`; run it once in a process.
pub async fn upkeep(handle: PrometheusHandle, stop: Stop) -> Result<(), Infallible> {
    while stop.run_until_cancelled(tokio::time::sleep(METRICS_UPKEEP_INTERVAL)).await.is_some() {
        handle.run_upkeep();
    }
    Ok(())
}

/// Router of `GET /metrics`.
pub fn router<S: Clone + Send + Sync + 'static>(handle: PrometheusHandle) -> Router<S> {
    let render = move || {
        let handle = handle.clone();
        async move {
            handle.run_upkeep();
            ([(CONTENT_TYPE, "text/plain; version=0.0.4")], handle.render()).into_response()
        }
    };
    Router::new().route(crate::api::path::METRICS, get(render))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_shows_up_under_its_name() {
        let handle = install();
        metrics::counter!("piccolo_test_total").increment(3);
        assert!(handle.render().contains("piccolo_test_total 3"), "{}", handle.render());
    }
}
