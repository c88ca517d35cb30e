//! `piccolo agent`: the agent of one node, as two processes: a supervisor and its worker.

mod handover;
mod silence;
mod stand_in;
mod supervisor;
mod wait;
mod wire;
mod worker;

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;

use super::parent::{self, EXIT_WITH_PARENT};
use super::{CliError, Exit, Invocation, Subcommand, process, signals};
use crate::agent;
use crate::config::{self, Layers, Setting, WITHOUT_COUNTERPART};
use handover::{Duty, Ports, Received, Told};
use wire::Program;

/// The subcommand.
pub(super) const AGENT: Subcommand = Subcommand {
    name: "agent",
    about: "Run the agent of this node: containerd's mirror, and blob server for the other nodes",
    examples: "\
Examples:
  piccolo agent --servers http://node-1:7789,http://node-2:7789,http://node-3:7789
  piccolo agent --servers http://node-1:7789 --layout /media/images     seed a site from a disk

What is shared is decided for each registry in the file of --config; the first value is the default:
  [registry.\"registry.example.com:5000\"]
  tags = \"origin-first\"                  peers, origin, off: who says what a tag is
  manifests = \"peers\"                    origin: each pull is checked by the registry
  blobs = \"peers\"                        origin: config and layers come from it, too
  filter = [\":latest$\"]                 what matches is not shared; default: nothing
  origin = \"http://10.0.0.9:5000\"         where https://<name> is wrong
  ca = \"/etc/ssl/registry.pem\"           its CA, if it has one of its own
  [registry._default]                    for all registries without a table

A small process owns the ports and keeps a worker behind them: one that dies or hangs is replaced. SIGHUP \
starts a new worker, of a new version if there is one and with the file of --config as it is then; the \
ports stay open.
TIME is like 500ms, 2s, 31m, 24h or 1m30s. Variables of the Go pi are understood ([also: …]).",
    settings: &[("", config::AGENT), ("", EXIT_WITH_PARENT), ("", TO_OURSELVES)],
    words: &[],
    registries: true,
    run,
};

const WORKER_OF: &str = "worker-of";
const HANDED_OVER: &str = "handed-over";
/// What the supervisor says to its worker, and to the version after it.
const TO_OURSELVES: &[Setting] = &[
    Setting::new(WORKER_OF, "PID", "Take the ports from stdin and end when this supervisor ends").hide(),
    Setting::switch(HANDED_OVER, "Take ports and worker from stdin").hide(),
];

/// Who is running.
enum Role {
    Supervisor { parent: Option<u32>, handed_over: bool },
    Worker { supervisor: u32 },
}

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let ((config, role), logging) = invocation.configure(read)?;
    let (parent, handed_over) = match role {
        Role::Worker { supervisor } => return worker::run(config, supervisor).map(|()| Exit::Done),
        Role::Supervisor { parent, handed_over } => (parent, handed_over),
    };
    parent::exit_with(parent)?;
    for name in WITHOUT_COUNTERPART.iter().filter(|name| invocation.given.environment.contains_key(**name)) {
        tracing::warn!(variable = name, "ignored: this setting of the Go pi has no counterpart here");
    }
    let never = become_supervisor(Told::of(&config), handed_over, Duty { logging, parent })?;
    match never {}
}

/// Opens the ports, or takes them from the version before, and starts this program anew as the supervisor that
/// has them: a process that waits for months keeps nothing of what reading the configuration has left in memory.
/// Signals are held back until the supervisor has its handlers. Returns only if that fails.
fn become_supervisor(told: Told, handed_over: bool, duty: Duty) -> Result<Infallible, CliError> {
    let (ports, workers) = if handed_over {
        let Received { ports, workers, duty: _ } = Ports::receive(io::stdin()).map_err(not_taken)?;
        (ports, workers)
    } else {
        (process::block_on_this_thread(async { Ok(Ports::open(told).await?) })?, None)
    };
    let program = Program::this()?;
    process::block_on_this_thread(async { signals::heed_children_after_exec() })?;
    let failed = |source| CliError::Process { action: "start the supervisor", source };
    let stdin = ports.for_duty(workers.as_ref(), duty).map_err(failed)?;
    Err(failed(program.become_supervisor(stdin)))
}

/// How this program was called, if as the supervisor that [`become_supervisor`] starts.
pub(super) fn supervisor_of(arguments: &[OsString]) -> Option<Program> {
    Program::of_supervisor(arguments)
}

/// Runs that supervisor until it is told to stop.
pub(super) fn supervise(program: Program) -> Result<Exit, CliError> {
    let Received { ports, workers, duty } = Ports::receive(io::stdin()).map_err(not_taken)?;
    let Duty { logging, parent } =
        duty.ok_or_else(|| not_taken(io::Error::other("the message on stdin is for a worker")))?;
    process::start_logging(&logging);
    // The kernel forgets the parent at an exec that gives capabilities.
    parent::exit_with(parent)?;
    program.name_process();
    supervisor::run(program, ports, workers)?;
    Ok(Exit::Done)
}

fn not_taken(source: io::Error) -> CliError {
    CliError::Process { action: "take over from the version before", source }
}

fn read(layers: &mut Layers) -> Option<(agent::Config, Role)> {
    let config = config::agent(layers);
    let parent = layers.optional("exit-with-parent", parent::pid);
    let worker_of = layers.optional(WORKER_OF, parent::pid);
    let handed_over = layers.switch(HANDED_OVER);
    let role = match worker_of {
        Some(supervisor) => Role::Worker { supervisor },
        None => Role::Supervisor { parent, handed_over },
    };
    Some((config?, role))
}
