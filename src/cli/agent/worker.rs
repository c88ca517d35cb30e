//! The worker: the process that is the agent. It listens on what its supervisor gives it, says when it
//! serves, and ends with it.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use tokio::signal::unix::{SignalKind, signal};

use super::handover::{Ports, Told};
use super::wire::Word;
use crate::agent;
use crate::cli::signals::Signals;
use crate::cli::{CliError, parent, process, signals};
use crate::task::Stop;

/// How much rather than its supervisor the kernel should end the worker when memory is short: a tiny
/// part, so that the agent as a whole stands where the operator has put it.
const OOM_SCORE_ABOVE_SUPERVISOR: i32 = 5;
/// Processes with this score are never ended for memory.
const OOM_NEVER: i32 = -1000;
const OOM_MOST: i32 = 1000;
const OOM_FILE: &str = "/proc/self/oom_score_adj";

/// Runs until the supervisor says stop.
pub(super) fn run(config: agent::Config, supervisor: u32) -> Result<(), CliError> {
    let config = agent::Config { supervisor, ..config };
    parent::exit_with(Some(supervisor))?;
    set_apart();
    let taken = |source| CliError::Process { action: "take the ports over from the supervisor", source };
    let ports = Ports::receive(io::stdin()).map_err(taken)?.ports;
    if !ports.told.serves_for(&Told::of(&config)) {
        return Err(CliError::OtherPorts);
    }
    let wire = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(taken)?);
    process::block_on_all_cores(async {
        let mut caught = Signals::catch()?;
        // For the supervisor; whoever signals all processes of a service should not end this one.
        let _hangup = signal(SignalKind::hangup())
            .map_err(|source| CliError::Process { action: "catch SIGHUP", source })?;
        signals::release();
        let listeners = ports.into_listeners().map_err(taken)?;
        let stop = Stop::new();
        let ready = |addresses: agent::Addresses| {
            let agent::Addresses { mirror, peer, metrics, advertise } = addresses;
            say(&wire, Word::Serving);
            let advertise =
                advertise.map_or_else(|| "not known yet".to_owned(), |address| address.to_string());
            tracing::info!(%mirror, %peer, %metrics, advertise, "serving");
        };
        let told = async {
            let name = caught.next().await;
            say(&wire, Word::Stopping);
            tracing::info!(signal = name, "the worker is stopping");
            stop.cancel();
            // A service manager may signal us beside our supervisor. Whoever is out of patience tells
            // the supervisor, which kills.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = agent::run_on(listeners, config, stop.clone(), ready) => Ok(result?),
            () = told => Ok(()),
        }
    })
}

/// One byte: the buffer of the socket always has room for it. A supervisor that has gone ends us.
fn say(mut wire: &UnixStream, word: Word) {
    if let Err(error) = wire.write_all(&[word.byte()]) {
        tracing::debug!(%error, "could not tell the supervisor");
    }
}

/// Names this process for `ps` and `top`, and offers it first when memory is short.
fn set_apart() {
    if let Err(error) = rustix::thread::set_name(c"piccolo-worker") {
        tracing::debug!(%error, "could not name this process");
    }
    let own = fs::read_to_string(OOM_FILE).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if let Some(own) = own.filter(|own| *own > OOM_NEVER) {
        let raised = (own + OOM_SCORE_ABOVE_SUPERVISOR).min(OOM_MOST);
        if let Err(error) = fs::write(OOM_FILE, raised.to_string()) {
            tracing::debug!(%error, "could not set {OOM_FILE}");
        }
    }
}
