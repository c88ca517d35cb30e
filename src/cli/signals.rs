//! SIGTERM and SIGINT stop a process in order; a second one ends it at once.

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::CliError;
use crate::task::Stop;

/// The two signals, caught from now on.
#[derive(Debug)]
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// Catches them.
    pub(super) fn catch() -> Result<Self, CliError> {
        let catch = |kind| {
            signal(kind).map_err(|source| CliError::Process { action: "catch SIGTERM and SIGINT", source })
        };
        Ok(Self { terminate: catch(SignalKind::terminate())?, interrupt: catch(SignalKind::interrupt())? })
    }

    /// Waits for the next one and tells its name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Cancels `stop` at the first one, returns at the second.
    pub(super) async fn stop_then_give_up(&mut self, stop: &Stop) {
        let name = self.next().await;
        tracing::info!(signal = name, "stopping; a second signal ends this at once");
        stop.cancel();
        self.next().await;
    }
}
