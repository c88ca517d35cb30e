//! `piccolo snapshot restore`: makes a new cluster from a snapshot.

use std::fs::File;
use std::path::PathBuf;

use super::{FILE, SnapshotCliError, file_of, newcomers, summary_of};
use crate::cli::output::print;
use crate::cli::{CliError, Exit, Invocation, Subcommand, process};
use crate::config::{Fallback, Layers, Setting};
use crate::server::offline::{self, Addresses};
use crate::value;

const SETTINGS: &[Setting] = &[
    Setting::new("data-dir", "DIR", "Data folder of the new cluster's first server: empty or missing"),
    Setting::new("raft-address", "HOST:PORT", "Where the other servers will reach it")
        .or(Fallback::Text("127.0.0.1:7790")),
    Setting::new("api-address", "HOST:PORT", "Where other servers and clients will reach its API")
        .or(Fallback::Text("127.0.0.1:7789")),
];

/// The subcommand `piccolo snapshot restore`.
pub(in crate::cli) const RESTORE: Subcommand = Subcommand {
    name: "restore",
    about: "Make the data folder of a new cluster from a snapshot; no server may run on the folder",
    examples: "\
Example:
  piccolo snapshot restore backup.snapshot --data-dir /var/lib/piccolo \\
      --raft-address node-1:7790 --api-address node-1:7789
  piccolo server --data-dir /var/lib/piccolo --cluster-secret FILE \\
      --cluster node-1:7790,node-2:7790,node-3:7790
  piccolo members add node-2:7790        once node-2 runs with an empty folder, and so on

The new cluster has its own id and does not accept servers of the old one. It lacks what was written after the \
snapshot was taken; agents notice that with their next heartbeats and send what they hold.",
    settings: &[("", SETTINGS)],
    words: &[FILE],
    registries: false,
    run,
};

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let ((folder, addresses), _) = invocation.configure(read)?;
    let path = file_of(invocation);
    let file = File::open(&path).map_err(SnapshotCliError::file("open", &path))?;
    let restoring = async { Ok(offline::restore(&folder, file, addresses).await?) };
    let (founded, saved) = process::block_on_this_thread(restoring)?;
    let mut text = match &saved {
        Some(saved) => format!("{}: restored, of cluster {}\n", folder.display(), saved.cluster_id),
        None => format!("{}: an earlier restore is finished, this snapshot was not read\n", folder.display()),
    };
    text.push_str(&summary_of(&founded));
    text.push_str(&format!("Start it: piccolo server --data-dir {} …\n", folder.display()));
    text.push_str(&newcomers(&founded));
    print(&text)?;
    Ok(Exit::Done)
}

fn read(layers: &mut Layers) -> Option<(PathBuf, Addresses)> {
    let folder = layers.required("data-dir", value::path);
    let raft = layers.required("raft-address", value::host_port);
    let api = layers.required("api-address", value::host_port);
    Some((folder?, Addresses { raft: raft?, api: api? }))
}
