//! `piccolo up`: three discovery servers as processes on this host, and an agent if wanted.

mod child;
mod lines;
mod ports;
mod ready;
mod site;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::{CliError, CommandError, Exit, Invocation, Subcommand, process};
use crate::config::{self, AGENT, Fallback, Layers, Setting};
use crate::value;

/// The subcommand.
pub(super) const UP: Subcommand = Subcommand {
    name: "up",
    about: "Start three discovery servers on this host, and an agent if wanted",
    examples: "\
Examples:
  piccolo up
  piccolo up --data-dir /var/lib/piccolo --agent --zone rack-7

Each server is a process of its own with its own folder in --data-dir; one that dies is started again. \
Their log lines come out here, behind their names. Ctrl-C stops everything in order; started again, the \
servers find their data and their ports. The flags of `piccolo agent` are taken with --agent, those of \
`piccolo server` from the environment (PICCOLO_LEASE_DEFAULT, PICCOLO_FORGET_AFTER).",
    settings: &[("", SETTINGS), ("With --agent", AGENT_WITHOUT_SERVERS)],
    words: &[],
    registries: false,
    run,
};

const SETTINGS: &[Setting] = &[
    Setting::new("data-dir", "DIR", "Where the servers keep their data; made where it is missing")
        .or(Fallback::Text("./piccolo-data")),
    Setting::new(
        "base-port",
        "PORT",
        "First of six ports on loopback: API and raft of each server in turn; kept in --data-dir [default: \
         7789]",
    ),
    config::DISK_FREE_MIN,
    Setting::switch("agent", "Start an agent for the local containerd too"),
];

/// `--servers` is ours to say.
const AGENT_WITHOUT_SERVERS: &[Setting] = AGENT.split_at(1).1;
const _: () = assert!(matches!(AGENT[0].flag.as_bytes(), b"servers"));

/// Why `piccolo up` failed.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// Another one works in the same folder.
    #[error("{} is in use by another `piccolo up`{}", .folder.display(), holder(.pid))]
    FolderInUse {
        /// The folder.
        folder: PathBuf,
        /// Whose it is, as far as known.
        pid: Option<u32>,
    },
    /// The ports are part of the cluster's membership.
    #[error(
        "--base-port {given} does not fit {}: its servers were started on {stored} and know each other by it; \
         leave the flag out, or give another --data-dir",
        .folder.display()
    )]
    OtherPorts {
        /// The folder.
        folder: PathBuf,
        /// What it says.
        stored: u16,
        /// What the flag says.
        given: u16,
    },
    /// Others listen there.
    #[error("could not listen: {}", occupied(.addresses))]
    Occupied {
        /// Each with the server that needs it.
        addresses: Vec<(String, SocketAddr)>,
    },
    /// What is stored in the data folder makes no sense.
    #[error("could not understand {}: {reason}", .file.display())]
    BadPorts {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A child cannot work with what it was told; starting it again would not help.
    #[error("{name} ended because of its configuration; its lines above say what is wrong")]
    BadChild {
        /// Which.
        name: String,
    },
    /// The file system, or starting a process.
    #[error("could not {action} {what}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        what: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

impl UpError {
    fn exit(&self) -> Exit {
        match self {
            UpError::OtherPorts { .. } | UpError::BadChild { .. } => Exit::Usage,
            UpError::FolderInUse { .. }
            | UpError::Occupied { .. }
            | UpError::BadPorts { .. }
            | UpError::Io { .. } => Exit::Failed,
        }
    }
}

impl From<UpError> for CliError {
    fn from(error: UpError) -> Self {
        CommandError::new(error.exit(), error).into()
    }
}

fn holder(pid: &Option<u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

fn occupied(addresses: &[(String, SocketAddr)]) -> String {
    let each: Vec<String> = addresses.iter().map(|(name, address)| format!("{address} ({name})")).collect();
    let verb = if each.len() == 1 { "is" } else { "are" };
    format!("{} {verb} in use by another process; --base-port chooses other ports", each.join(", "))
}

/// What `piccolo up` is told.
struct Options {
    data_dir: PathBuf,
    base_port: Option<u16>,
    /// For the servers, as it was given.
    disk_free_min: Option<String>,
    /// If there is to be one.
    agent: Option<AgentOptions>,
}

/// What its agent is told.
struct AgentOptions {
    /// Flags but `--servers`.
    flags: Vec<String>,
    /// For the command that points containerd to it.
    mirror_listen: SocketAddr,
}

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let (options, logging) = invocation.configure(read)?;
    process::block_on_this_thread(site::run(options, logging))?;
    Ok(Exit::Done)
}

fn read(layers: &mut Layers) -> Option<Options> {
    let data_dir = layers.required("data-dir", value::path);
    let base_port = layers.optional("base-port", |text| value::number(text, 1, u16::MAX - ports::COUNT + 1));
    layers.optional(config::DISK_FREE_MIN.flag, value::bytes);
    let disk_free_min = layers.given(config::DISK_FREE_MIN.flag);
    let wanted = layers.switch("agent");
    // The agent reads this again; here a mistake shows before anything is started.
    let right = config::agent_of(layers, Some(Vec::new()));
    let mut flags = Vec::new();
    for setting in AGENT_WITHOUT_SERVERS {
        if let Some(text) = layers.given(setting.flag).filter(|_| wanted) {
            flags.extend([format!("--{}", setting.flag), text]);
        }
        if !wanted && layers.is_flagged(setting.flag) {
            layers.problem(setting.flag, None, "has a meaning only together with --agent");
        }
    }
    if layers.given("state-dir").is_none()
        && let Some(data_dir) = &data_dir
    {
        flags.extend(["--state-dir".to_owned(), data_dir.join("agent").display().to_string()]);
    }
    let agent = AgentOptions { flags, mirror_listen: right?.mirror_listen };
    Some(Options { data_dir: data_dir?, base_port, disk_free_min, agent: wanted.then_some(agent) })
}
