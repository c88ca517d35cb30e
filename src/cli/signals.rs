//! SIGTERM and SIGINT stop a process in order; a second one ends it at once. A supervisor is also told
//! to reload, and that a child has ended.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal as Number};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::CliError;
use crate::task::Stop;

/// Holds back the signals that would end this process before its handlers are there. They are not lost:
/// the kernel delivers them after [`release`]. An exec keeps the mask and what is held back, and a child
/// inherits the mask. It must be called on the main thread, before there are others.
pub(super) fn hold() {
    if let Err(error) = held().thread_block() {
        tracing::warn!(%error, "could not hold signals back");
    }
}

/// Delivers what [`hold`] has held back. A child of a supervisor has inherited that SIGCHLD is held back, too.
pub(super) fn release() {
    if let Err(error) = orders().thread_unblock() {
        tracing::warn!(%error, "could not release the signals that were held back");
    }
}

/// Which they are. The default action of SIGCHLD does nothing.
fn held() -> SigSet {
    [Number::SIGHUP, Number::SIGTERM, Number::SIGINT].into_iter().collect()
}

/// Those by which a supervisor is told something.
fn orders() -> SigSet {
    held().iter().chain([Number::SIGCHLD]).collect()
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

/// Sends this process SIGHUP, for the version that it is about to become.
pub(super) fn reload_again() {
    if let Err(error) = nix::sys::signal::kill(nix::unistd::Pid::this(), Number::SIGHUP) {
        tracing::warn!(%error, "could not pass SIGHUP on");
    }
}

/// Whether SIGCHLD is held back. It must not be while another version starts, which may expect it as a process
/// gets it at first.
pub(super) fn hold_child_ended(hold: bool) {
    let child = SigSet::from(Number::SIGCHLD);
    let done = if hold { child.thread_block() } else { child.thread_unblock() };
    if let Err(error) = done {
        tracing::warn!(%error, "could not change what is done with SIGCHLD");
    }
}

/// Catches SIGCHLD, so that the next exec gives it its default action. If the parent of this process ignores it, it
/// would stay ignored otherwise: the kernel would reap children itself, and send no signal. Needs a runtime.
pub(super) fn heed_children_after_exec() -> Result<(), CliError> {
    let caught = signal(SignalKind::child());
    caught.map(drop).map_err(|source| CliError::Process { action: "catch SIGCHLD", source })
}

/// Blocks SIGPIPE. An exec that fails leaves its default action, which would end this process when nobody reads its
/// log any more.
pub(super) fn hold_broken_pipe() {
    if let Err(error) = SigSet::from(Number::SIGPIPE).thread_block() {
        tracing::warn!(%error, "could not hold SIGPIPE back");
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

/// Its signals. They are held back for good, and read from a descriptor: this process has no handler that an exec
/// could take away, and a signal that was not read yet is there for the version after it.
#[derive(Debug)]
pub(super) struct Orders {
    signals: SignalFd,
    had_terminal: bool,
}

impl Orders {
    /// Takes them from now on. It must be called on the main thread, before there are others.
    pub(super) fn take() -> Result<Self, CliError> {
        let failed = |errno: nix::Error| CliError::Process {
            action: "take SIGHUP, SIGTERM, SIGINT and SIGCHLD",
            source: errno.into(),
        };
        let orders = orders();
        orders.thread_block().map_err(failed)?;
        let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
        let signals = SignalFd::with_flags(&orders, flags).map_err(failed)?;
        Ok(Self { signals, had_terminal: io::stderr().is_terminal() })
    }

    /// The next one that has come, if any.
    pub(super) fn next(&self) -> Option<Order> {
        let signal = self.signals.read_signal().ok()??;
        match Number::try_from(signal.ssi_signo.cast_signed()).ok()? {
            Number::SIGTERM => Some(Order::Stop("SIGTERM")),
            Number::SIGINT => Some(Order::Stop("SIGINT")),
            Number::SIGCHLD => Some(Order::ChildEnded),
            // A terminal that is gone says SIGHUP too, and means the other thing.
            _ if self.had_terminal && !io::stderr().is_terminal() => Some(Order::Stop("SIGHUP")),
            _ => Some(Order::Reload),
        }
    }
}

impl AsFd for Orders {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}
