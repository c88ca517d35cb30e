//! SIGTERM and SIGINT stop a process in order; a second one ends it at once. A supervisor is also told
//! to reload, and that a child has ended.

use std::io::{self, IsTerminal};

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

/// What a supervisor is told by signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    /// By which signal.
    Stop(&'static str),
    /// SIGHUP.
    Reload,
    /// One or several.
    ChildEnded,
}

/// Its signals, caught from now on.
#[derive(Debug)]
pub(super) struct Orders {
    stop: Signals,
    hangup: Signal,
    child: Signal,
    had_terminal: bool,
}

impl Orders {
    /// Catches them.
    pub(super) fn catch() -> Result<Self, CliError> {
        let catch = |kind| {
            signal(kind).map_err(|source| CliError::Process { action: "catch SIGHUP and SIGCHLD", source })
        };
        let (hangup, child) = (catch(SignalKind::hangup())?, catch(SignalKind::child())?);
        Ok(Self { stop: Signals::catch()?, hangup, child, had_terminal: io::stderr().is_terminal() })
    }

    /// Waits for the next one.
    pub(super) async fn next(&mut self) -> Order {
        tokio::select! {
            name = self.stop.next() => Order::Stop(name),
            // A terminal that is gone says SIGHUP too, and means the other thing.
            _ = self.hangup.recv() => match self.had_terminal && !io::stderr().is_terminal() {
                true => Order::Stop("SIGHUP"),
                false => Order::Reload,
            },
            _ = self.child.recv() => Order::ChildEnded,
        }
    }
}
