//! How openraft runs here, where its defaults do not fit.

use std::sync::Arc;

use openraft::{Config, ConfigError, SnapshotPolicy};

use crate::limits::{APPEND_ENTRIES_MAX, ELECTION_MS, HEARTBEAT_MS, SNAPSHOT_IDLE_TIMEOUT};

/// Waits between attempts to reach a member, up to the last.
const BACKOFF: &str = "50ms 100ms 200ms ...500ms";

pub(super) fn settings() -> Result<Arc<Config>, ConfigError> {
    let config = Config {
        cluster_name: "piccolo".to_owned(),
        heartbeat_interval: HEARTBEAT_MS,
        election_timeout_min: ELECTION_MS.0,
        election_timeout_max: ELECTION_MS.1,
        install_snapshot_timeout: SNAPSHOT_IDLE_TIMEOUT.as_millis() as u64,
        max_payload_entries: APPEND_ENTRIES_MAX,
        // When to purge is decided in `compaction`, by time and bytes; openraft counts entries.
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_pre_vote: Some(true),
        // State commits are not durable at once: a restarted leader could serve an older state.
        enable_leader_restore: Some(false),
        backoff: BACKOFF.to_owned(),
        ..Config::default()
    };
    config.validate().map(Arc::new)
}

#[cfg(test)]
mod tests {
    #[test]
    fn openraft_accepts_the_settings() {
        super::settings().unwrap();
    }
}
