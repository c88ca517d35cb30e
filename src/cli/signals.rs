//! SIGTERM and SIGINT stop a process in order; a second one ends it at once. A supervisor is also told
//! to reload, and that a child has ended.

use std::io::{self, IsTerminal};

use nix::sys::signal::{SigSet, Signal as Number};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::CliError;
use crate::limits::SIGNAL_CAUGHT_WITHIN;
use crate::task::Stop;

/// Holds back the signals that would end this process before its handlers are there. They are not lost:
/// the kernel delivers them after [`release`]. An exec keeps the mask and what is held back, and a child
/// inherits the mask. It must be called on the main thread, before there are others.
pub(super) fn hold() {
    if let Err(error) = held().thread_block() {
        tracing::warn!(%error, "could not hold signals back");
    }
}

/// Delivers what [`hold`] has held back.
pub(super) fn release() {
    if let Err(error) = held().thread_unblock() {
        tracing::warn!(%error, "could not release the signals that were held back");
    }
}

/// Which they are. The default action of SIGCHLD does nothing.
fn held() -> SigSet {
    [Number::SIGHUP, Number::SIGTERM, Number::SIGINT].into_iter().collect()
}

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

/// Sends this process a signal.
fn send_again(number: Number) {
    if let Err(error) = nix::sys::signal::kill(nix::unistd::Pid::this(), number) {
        tracing::warn!(%error, signal = number.as_str(), "could not pass a signal on");
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

    /// Sends this process again, while signals are held back, the signals that were caught and not yet
    /// obeyed: they are obeyed after the exec. `reload` is such an order that was taken already. SIGCHLD needs
    /// none: children are looked for at each start.
    pub(super) async fn pass_on(&mut self, reload: bool) {
        if reload {
            send_again(Number::SIGHUP);
        }
        let end = tokio::time::Instant::now() + SIGNAL_CAUGHT_WITHIN;
        while let Ok(order) = tokio::time::timeout_at(end, self.next()).await {
            match order {
                Order::Stop("SIGINT") => send_again(Number::SIGINT),
                Order::Stop(_) => send_again(Number::SIGTERM),
                Order::Reload => send_again(Number::SIGHUP),
                Order::ChildEnded => {}
            }
        }
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
