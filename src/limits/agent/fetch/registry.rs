//! Limits of the comparison of peers with the registry.

use std::time::Duration;

/// Times by which a registry must be faster than this node's transfers for a transfer from peers to be given up.
pub const REGISTRY_TIMES_FASTER: u64 = 8;
/// Least time that giving up a transfer for the registry must save.
pub const REGISTRY_SAVES_MIN: Duration = Duration::from_secs(10);
/// Time for which a measurement of a registry counts.
pub const REGISTRY_MEASURED_TTL: Duration = Duration::from_secs(600);
/// Registries whose rate is remembered.
pub const REGISTRIES_MEASURED_MAX: usize = 64;
/// Size by which an ingest must grow to tell the rate of a registry, bytes.
pub const REGISTRY_MEASURED_BYTES_MIN: u64 = 1024 * 1024;
/// Least time over which an ingest must grow to tell the rate of a registry.
pub const REGISTRY_MEASURED_FOR_MIN: Duration = Duration::from_millis(200);
/// Pause between two looks at an ingest that tells the rate of a registry.
pub const REGISTRY_SAMPLE_PAUSE: Duration = Duration::from_millis(100);
/// Time for which an ingest is watched at most.
pub const REGISTRY_SAMPLED_FOR_MAX: Duration = Duration::from_secs(10);
/// Time without growth after which an ingest is watched no longer.
pub const REGISTRY_SAMPLED_FOR_SILENCE: Duration = Duration::from_secs(5);
