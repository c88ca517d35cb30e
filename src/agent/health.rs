//! The port for Prometheus and probes: `/metrics`, `/livez`, and `/readyz` with reasons.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::sync::watch;

use super::discovery::HolderLookup;
use super::inventory::InventoryState;
use super::notices::Notices;
use crate::api::path;

/// What decides whether this node is ready.
#[derive(Clone)]
pub(crate) struct Health {
    pub(crate) inventory: watch::Receiver<InventoryState>,
    pub(crate) discovery: Arc<HolderLookup>,
    pub(crate) notices: Notices,
}

/// Routes of the port.
pub(crate) fn router(health: Health, metrics: PrometheusHandle) -> Router {
    Router::new()
        .route(path::LIVEZ, get(|| async { "ok\n" }))
        .route(path::READYZ, get(readyz))
        .with_state(health)
        .merge(crate::metrics::router(metrics))
}

/// A node is ready when the index agrees with what it holds. Servers that do not answer are listed but do not
/// make the node unready: its peers still find and reach it.
async fn readyz(State(health): State<Health>) -> (StatusCode, String) {
    let inventory = health.inventory.borrow().clone();
    let mut reasons = vec![inventory.to_string()];
    if health.discovery.is_open() {
        reasons.push("no discovery server answers".to_owned());
    }
    reasons.extend(health.notices.texts());
    let status = if inventory.is_synced() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, reasons.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::discovery::{Lookup, LookupError};
    use crate::agent::inventory::NotRead;
    use crate::agent::notices::Topic;
    use futures_util::future::BoxFuture;
    use std::net::SocketAddr;
    use std::time::Duration;

    struct Dead;

    impl Lookup for Dead {
        fn find<'a>(
            &'a self,
            _: &'a str,
            _: usize,
            _: Duration,
        ) -> BoxFuture<'a, Result<Vec<SocketAddr>, LookupError>> {
            Box::pin(async { Err(LookupError::Late { within: Duration::ZERO }) })
        }
    }

    #[tokio::test]
    async fn readiness_follows_the_inventory_and_names_reasons() {
        let (state, inventory) = watch::channel(InventoryState::Waiting(NotRead::NotAsked));
        let discovery = Arc::new(HolderLookup::new(Arc::new(Dead)));
        let notices = Notices::default();
        let health = Health { inventory, discovery: Arc::clone(&discovery), notices: notices.clone() };
        let (status, reasons) = readyz(State(health.clone())).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(reasons.contains("not asked yet"), "{reasons}");

        state.send_replace(InventoryState::Synced);
        assert_eq!(readyz(State(health.clone())).await.0, StatusCode::OK);
        notices.set(Topic::Peers, "", "no peer can be reached");
        let (status, reasons) = readyz(State(health.clone())).await;
        assert_eq!(status, StatusCode::OK, "what lasts is a reason to look");
        assert!(reasons.contains("no peer can be reached"), "{reasons}");
        assert!(discovery.find("k", Duration::from_secs(1)).await.is_err());
        let (status, reasons) = readyz(State(health)).await;
        assert_eq!(status, StatusCode::OK);
        assert!(reasons.contains("no discovery server"), "{reasons}");
    }
}
