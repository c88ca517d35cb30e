//! Description of a snapshot, for people and for programs.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use piccolo_raft::snapshot::SnapshotError;
use piccolo_raft::snapshot::file::{FileReceiver, Saved};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::SnapshotCliError;
use crate::cli::CliError;
use crate::cli::client::print_json;
use crate::cli::output::print;
use crate::limits::SNAPSHOT_READ_BYTES;
use crate::server::offline::Founded;
use crate::value::format_duration;

/// Content of a checked snapshot.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    file: String,
    /// Cluster id, 32 hex digits.
    cluster: String,
    /// Node id of the server that the snapshot was taken of, 16 hex digits.
    node: String,
    /// Unix milliseconds, by that server's clock.
    taken_unix_ms: u64,
    /// Version of that server.
    version: String,
    /// Log index of the last entry in the state.
    log_index: u64,
    hosts: u64,
    keys: u64,
    pairs: u64,
    /// Checksum of the state, as `piccolo status` shows it.
    checksum: String,
    bytes: u64,
    /// SHA-256 of the file.
    sha256: String,
}

/// Checks a snapshot while it is read or written.
#[derive(Default)]
pub(super) struct Checked {
    receiver: FileReceiver,
    sha256: Sha256,
    pub(super) bytes: u64,
}

impl Checked {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
        self.receiver.push(bytes)
    }

    /// The report, after the last byte; an error if the snapshot is not whole.
    pub(super) fn report(self, path: &Path) -> Result<Report, SnapshotError> {
        let (saved, received) = self.receiver.finish()?;
        let Saved { cluster_id, node_id, unix_ms, version } = saved;
        let summary = received.summary();
        Ok(Report {
            file: path.display().to_string(),
            cluster: cluster_id.to_string(),
            node: format!("{node_id:016x}"),
            taken_unix_ms: unix_ms,
            version,
            log_index: summary.log_index,
            hosts: summary.counts.hosts,
            keys: summary.counts.keys,
            pairs: summary.counts.pairs,
            checksum: format!("{:032x}", summary.checksum),
            bytes: self.bytes,
            sha256: format!("{:x}", self.sha256.finalize()),
        })
    }
}

impl Report {
    pub(super) fn of_file(path: &Path) -> Result<Self, SnapshotCliError> {
        let mut file = File::open(path).map_err(SnapshotCliError::file("open", path))?;
        let (mut checked, mut buffer) = (Checked::default(), vec![0; SNAPSHOT_READ_BYTES]);
        let content = |source| SnapshotCliError::Content { path: path.to_owned(), source };
        loop {
            let length = file.read(&mut buffer).map_err(SnapshotCliError::file("read", path))?;
            if length == 0 {
                return checked.report(path).map_err(content);
            }
            checked.push(&buffer[..length]).map_err(content)?;
        }
    }

    pub(super) fn print(&self, json: bool) -> Result<(), CliError> {
        if json {
            return print_json(self);
        }
        print(&format!(
            "{}: cluster {}, of server {} (version {}), taken {} ago\n\
             state up to log entry {}, checksum {}\n\
             {} hosts, {} keys, {} pairs of key and holder\n\
             {} bytes, sha256 {}\n",
            self.file,
            self.cluster,
            self.node,
            self.version,
            age(self.taken_unix_ms),
            self.log_index,
            self.checksum,
            self.hosts,
            self.keys,
            self.pairs,
            self.bytes,
            self.sha256
        ))
    }
}

/// Age of the snapshot. The clocks may differ: a time in the future counts as now.
fn age(unix_ms: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = now.saturating_sub(Duration::from_millis(unix_ms)).as_secs();
    // An age of hours is rounded.
    let age = match age {
        0..3_600 => age.max(1),
        3_600..86_400 => age / 60 * 60,
        _ => age / 3_600 * 3_600,
    };
    format_duration(Duration::from_secs(age))
}

/// Describes what a new cluster starts with.
pub(in crate::cli) fn summary_of(founded: &Founded) -> String {
    format!(
        "cluster {} with one server, {:016x}, raft at {}, API at {}\n\
         it starts with {} hosts, {} keys and {} pairs of key and holder, at log entry {}\n",
        founded.cluster_id,
        founded.node_id,
        founded.member.raft_address,
        founded.member.api_address,
        founded.counts.hosts,
        founded.counts.keys,
        founded.counts.pairs,
        founded.log_index
    )
}

/// Says what to do on the other servers.
pub(in crate::cli) fn newcomers(founded: &Founded) -> String {
    format!(
        "On each of the other hosts: empty the data folder, start piccolo server with its usual flags (or \
         --join {}), then add all of them with one command:\n  piccolo members add HOST:PORT … --server http://{}\n\
         Never start a server with data of the old cluster again: it would continue as a second cluster beside this one.\n",
        founded.member.raft_address, founded.member.api_address
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_as_exact_as_it_is_young() {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        assert_eq!(age(now + 60_000), "1s");
        assert_eq!(age(now - 90_500), "1m30s");
        assert_eq!(age(now - 3_700_000), "1h1m");
        assert_eq!(age(now - 90_000_000), "25h");
    }
}
