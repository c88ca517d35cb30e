//! Limits of the comparison of peers with the registry.

use std::time::Duration;

/// Factor by which a registry must be faster than this node's transfers before a transfer from peers is
/// abandoned for it.
pub const REGISTRY_TIMES_FASTER: u64 = 8;
/// Shortest time that abandoning a transfer for the registry must save.
pub const REGISTRY_SAVES_MIN: Duration = Duration::from_secs(10);
/// Time for which a measurement of a registry is valid.
pub const REGISTRY_MEASURED_TTL: Duration = Duration::from_secs(600);
/// Registries whose rate is remembered.
pub const REGISTRIES_MEASURED_MAX: usize = 64;
/// Growth of an ingest from which the rate of a registry is measured, bytes.
pub const REGISTRY_MEASURED_BYTES_MIN: u64 = 1024 * 1024;
/// Shortest time of growth of an ingest from which the rate of a registry is measured.
pub const REGISTRY_MEASURED_FOR_MIN: Duration = Duration::from_millis(200);
/// Pause between two samples of an ingest that measures the rate of a registry.
pub const REGISTRY_SAMPLE_PAUSE: Duration = Duration::from_millis(100);
/// Longest time for which an ingest is sampled.
pub const REGISTRY_SAMPLED_FOR_MAX: Duration = Duration::from_secs(10);
/// Time without growth after which an ingest is no longer sampled.
pub const REGISTRY_SAMPLED_FOR_SILENCE: Duration = Duration::from_secs(5);
