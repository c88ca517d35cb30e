//! The one way to do work that waits for the disk.

use tokio::task::JoinError;

/// Runs `work` off the runtime's threads; in a simulation, which has one thread, after a random time on
/// it.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    #[cfg(test)]
    if crate::sim::world::is_inside() {
        crate::sim::world::disk_delay().await;
        return Ok(work());
    }
    tokio::task::spawn_blocking(work).await
}
