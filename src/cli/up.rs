//! `piccolo up`: runs three discovery servers as processes on this host, and optionally an agent.

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
use crate::identity::SecretError;
use crate::value;

/// The subcommand `piccolo up`.
pub(super) const UP: Subcommand = Subcommand {
    name: "up",
    about: "Start three discovery servers on this host, and optionally an agent",
    examples: "\
Examples:
  piccolo up
  piccolo up --data-dir /var/lib/piccolo --agent --zone rack-7

Each server is a process with its own folder in --data-dir; one that ends is started again. They speak TLS \
with each other, by a cluster secret that the first start makes there. Their log lines \
appear here, prefixed with their names. Ctrl-C stops everything in order; the next start uses the same data \
and ports. With --agent the flags of `piccolo agent` are accepted; settings of `piccolo server` come from the \
environment (PICCOLO_LEASE_DEFAULT, PICCOLO_FORGET_AFTER).",
    settings: &[("", SETTINGS), ("With --agent", AGENT_WITHOUT_SERVERS)],
    words: &[],
    registries: false,
    run,
};

const SETTINGS: &[Setting] = &[
    Setting::new("data-dir", "DIR", "Where the servers keep their data; made if it is missing")
        .or(Fallback::Text("./piccolo-data")),
    Setting::new(
        "base-port",
        "PORT",
        "First of six ports on loopback: API and raft of each server in turn; kept in --data-dir [default: \
         7789]",
    ),
    config::DISK_FREE_MIN,
    Setting::switch("agent", "Also start an agent for the local containerd"),
];

/// The settings of an agent without `--servers`, which `piccolo up` sets itself.
const AGENT_WITHOUT_SERVERS: &[Setting] = AGENT.split_at(1).1;
const _: () = assert!(matches!(AGENT[0].flag.as_bytes(), b"servers"));

/// Why `piccolo up` failed.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// Another `piccolo up` uses the folder.
    #[error("{} is in use by another `piccolo up`{}", .folder.display(), holder(.pid))]
    FolderInUse {
        /// The folder of `--data-dir`.
        folder: PathBuf,
        /// Pid of the other process, if it is known.
        pid: Option<u32>,
    },
    /// `--base-port` differs from the ports of the first start, which are part of the cluster's membership.
    #[error(
        "--base-port {given} does not fit {}: its servers were started on {stored} and know each other by it; \
         leave the flag out, or give another --data-dir",
        .folder.display()
    )]
    OtherPorts {
        /// The folder of `--data-dir`.
        folder: PathBuf,
        /// The base port of the first start.
        stored: u16,
        /// The value of `--base-port`.
        given: u16,
    },
    /// Other processes listen on the ports.
    #[error("could not listen: {}", occupied(.addresses))]
    Occupied {
        /// The addresses in use, each with the server that needs it.
        addresses: Vec<(String, SocketAddr)>,
    },
    /// A file in the data folder has invalid content.
    #[error("could not understand {}", .file.display())]
    BadPorts {
        /// Path of the file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: PortsError,
    },
    /// The cluster secret in the folder cannot be made or used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A child ended because of its configuration: starting it again cannot help.
    #[error("{name} ended because of its configuration; its lines above say what is wrong")]
    BadChild {
        /// Name of the child.
        name: String,
    },
    /// The file system, or the start of a process, failed.
    #[error("could not {action} {what}")]
    Io {
        /// The action that failed, for "could not …".
        action: &'static str,
        /// The object of the action.
        what: String,
        /// The system's error.
        #[source]
        source: io::Error,
    },
}

/// Why the stored ports cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PortsError {
    /// The file is not what `piccolo up` writes.
    #[error(transparent)]
    NotOurs(#[from] toml::de::Error),
    /// The ports behind the first one would be past the last port.
    #[error("base-port {base_port} leaves no room for six")]
    NoRoom {
        /// The stored port.
        base_port: u16,
    },
}

impl UpError {
    fn exit(&self) -> Exit {
        match self {
            UpError::OtherPorts { .. } | UpError::BadChild { .. } => Exit::Usage,
            UpError::FolderInUse { .. }
            | UpError::Occupied { .. }
            | UpError::BadPorts { .. }
            | UpError::Secret(_)
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

/// Configuration of `piccolo up`.
struct Options {
    data_dir: PathBuf,
    base_port: Option<u16>,
    /// `--disk-free-min` of the servers, as it was given.
    disk_free_min: Option<String>,
    /// The agent; `None`: there is none.
    agent: Option<AgentOptions>,
}

/// Configuration of the agent.
struct AgentOptions {
    /// Flags of the agent, except `--servers`.
    flags: Vec<String>,
    /// `--mirror-listen`, for the shown `piccolo mirror install`.
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
    // The agent reads these settings again. Reading them here reports a mistake before anything is started.
    let right = config::agent_of(layers, Some(Vec::new()));
    let mut flags = Vec::new();
    for setting in AGENT_WITHOUT_SERVERS {
        if let Some(text) = layers.given(setting.flag).filter(|_| wanted) {
            flags.extend([format!("--{}", setting.flag), text]);
        }
        if !wanted && layers.is_flagged(setting.flag) {
            layers.problem(setting.flag, None, "can only be used together with --agent");
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
