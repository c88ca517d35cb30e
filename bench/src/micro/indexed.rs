//! The product's index on an in-memory disk.

use anyhow::{Context, Result, ensure};
use openraft::entry::RaftEntry;
use piccolo::server::ranking::{Asker, rank};
use piccolo_raft::command::{Command, Reply, Write};
use piccolo_raft::disk::MemoryDisk;
use piccolo_raft::index::Index;
use piccolo_raft::model::{Holder, Key, Pair};
use piccolo_raft::types::{Entry, LogId};
use tokio::runtime::Runtime;

use super::{COUNT, Holdings};
use crate::fleet::{Fleet, GROUP};

/// Number of entries that a server under load applies at once.
const ENTRIES: usize = 256;

pub(super) struct Indexed {
    fleet: Fleet,
    index: Index,
    runtime: Runtime,
    /// Log index of the last entry.
    last: u64,
}

impl Indexed {
    /// An index that knows every host and its zone, like that of a running server.
    pub(super) fn new(fleet: Fleet) -> Result<Self> {
        let index = Index::open(&MemoryDisk::default()).context("could not open an index")?;
        let runtime = tokio::runtime::Builder::new_current_thread().build().context("no runtime")?;
        let mut made = Self { fleet, index, runtime, last: 0 };
        let unchanged: Vec<(u32, Vec<Key>)> = (0..fleet.hosts).map(|host| (host, Vec::new())).collect();
        made.add(&unchanged)?;
        let zones = (0..fleet.hosts).map(|host| Command::SetHost {
            holder: holder(fleet, host),
            zone: fleet.zone(host),
            ttl_seconds: 90,
        });
        made.apply(zones.collect())?;
        Ok(made)
    }

    fn apply(&mut self, commands: Vec<Command>) -> Result<()> {
        let entries: Vec<Entry> = commands
            .into_iter()
            .map(|command| {
                self.last += 1;
                Entry::new_normal(log_id(self.last), command)
            })
            .collect();
        for batch in entries.chunks(ENTRIES) {
            let replies = self.runtime.block_on(self.index.apply(batch)).context("could not apply")?;
            let refused = replies.iter().find(|reply| !matches!(reply, Reply::Applied { .. }));
            ensure!(refused.is_none(), "an entry was answered {refused:?}");
        }
        Ok(())
    }

    fn write(&self, number: usize, (host, keys): &(u32, Vec<Key>)) -> Write {
        let pair = Pair { epoch: 1, seq: self.last + number as u64 + 1 };
        Write { holder: holder(self.fleet, *host), pair: Some(pair), stores_pair: true, keys: keys.clone() }
    }

    fn writes(&self, changes: &[(u32, Vec<Key>)]) -> Vec<Write> {
        changes.iter().enumerate().map(|(number, change)| self.write(number, change)).collect()
    }
}

impl Holdings for Indexed {
    fn add(&mut self, changes: &[(u32, Vec<Key>)]) -> Result<()> {
        self.apply(self.writes(changes).into_iter().map(Command::Advertise).collect())
    }

    fn remove(&mut self, changes: &[(u32, Vec<Key>)]) -> Result<()> {
        self.apply(self.writes(changes).into_iter().map(Command::Withdraw).collect())
    }

    /// Like findkey, with the asker's zone.
    fn nearest(&self, key: &Key, asker: u32) -> usize {
        let holder = holder(self.fleet, asker);
        let zone = self.index.host(&holder).map(|record| record.zone).unwrap_or_default();
        let asker = Asker::Holder { address: holder.address, zone: &zone, prefix_order: false };
        let found = self.index.find(GROUP, key, |postings| rank(postings, key, &asker, COUNT).len());
        found.unwrap_or(0)
    }
}

fn holder(fleet: Fleet, host: u32) -> Holder {
    Holder { group: GROUP.to_owned(), address: fleet.address(host) }
}

fn log_id(index: u64) -> LogId {
    let leader = openraft::impls::leader_id_adv::LeaderId { term: 1, node_id: 1 };
    LogId::new(leader, index)
}
