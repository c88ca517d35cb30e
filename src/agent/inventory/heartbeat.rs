//! Sends heartbeats: this node is alive, for how long that holds, and what it is believed to hold.

use std::convert::Infallible;
use std::time::Duration;

use super::Upkeep;
use crate::agent::backoff::HeartbeatSchedule;
use crate::api::client::ClientError;
use crate::api::{KeepaliveRequest, KeepaliveResponse};
use crate::limits::{HEARTBEAT_TIMEOUT, HEARTBEATS_PER_LEASE, LEASE_SECONDS_MAX, LEASE_SECONDS_MIN};

/// Sends heartbeats, from the first acknowledged sync on, which has carried zone and lease, or from a sync
/// that the index had no room for. The first heartbeat comes at a random time within the interval, so that a
/// fleet that started together spreads out.
pub(super) async fn run(shared: &Upkeep) -> Infallible {
    // The sender is a field of `shared`, so that waiting cannot fail.
    _ = shared.known.subscribe().wait_for(|known| *known).await;
    let mut schedule = HeartbeatSchedule::new(shared.config.heartbeat_interval);
    let mut pause = schedule.first(&mut rand::rng());
    loop {
        tokio::time::sleep(pause).await;
        let Some(result) = send(shared).await else {
            // Without an address there is no holder to report.
            pause = schedule.after_success(&mut rand::rng());
            continue;
        };
        let status = if result.is_ok() { "success" } else { "error" };
        ::metrics::counter!("piccolo_keepalive_total", "status" => status).increment(1);
        pause = match result {
            Ok(response) => {
                shared.settle_claims();
                if response.resync {
                    shared.want_scan("discovery asks for a sync");
                }
                schedule.after_success(&mut rand::rng())
            }
            Err(error) => {
                tracing::warn!(%error, "a heartbeat failed");
                schedule.after_failure(&mut rand::rng(), error.retry_after())
            }
        };
    }
}

async fn send(shared: &Upkeep) -> Option<Result<KeepaliveResponse, ClientError>> {
    let config = &shared.config;
    let (holder, acknowledged) = {
        let ledger = shared.ledger();
        (ledger.holder()?, ledger.acknowledged())
    };
    let request = KeepaliveRequest {
        host: holder.to_string(),
        group: config.group.clone(),
        ttl_seconds: Some(lease_seconds(config.heartbeat_interval)),
        zone: Some(config.zone.clone()),
        fingerprint: acknowledged.map(|acknowledged| acknowledged.fingerprint.to_string()),
        count: acknowledged.map(|acknowledged| acknowledged.count),
        epoch: acknowledged.map(|acknowledged| acknowledged.pair.epoch),
        seq: acknowledged.map(|acknowledged| acknowledged.pair.seq),
        bytes_from_peers: Some(config.counters.bytes_from_peers()),
        bytes_served: Some(config.counters.bytes_served()),
        misses: Some(config.counters.misses()),
    };
    Some(shared.discovery.keepalive(&request, HEARTBEAT_TIMEOUT).await)
}

/// The lease in seconds: three heartbeats, of which two may be lost.
pub(super) fn lease_seconds(interval: Duration) -> u32 {
    let seconds = (interval * HEARTBEATS_PER_LEASE).as_secs_f64().ceil();
    (seconds as u32).clamp(LEASE_SECONDS_MIN, LEASE_SECONDS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_three_heartbeats_within_its_limits() {
        assert_eq!(lease_seconds(Duration::from_secs(30)), 90);
        assert_eq!(lease_seconds(Duration::from_millis(1_100)), 4);
        assert_eq!(lease_seconds(Duration::from_millis(10)), LEASE_SECONDS_MIN);
        assert_eq!(lease_seconds(Duration::from_secs(1_000_000)), LEASE_SECONDS_MAX);
    }
}
