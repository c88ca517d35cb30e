//! What openraft writes to in a simulation: the log of the server, behind faults that a broken build would have.

use std::io;
use std::time::Duration;

use openraft::storage::{IOFlushed, LogState, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use rand::Rng;

use crate::command::Command;
use crate::log::{LogReader, LogStore};
use crate::types::{Entry, LogId, TypeConfig, Vote};

use super::net::HostId;
use super::world::{self, Fault};

/// An append that was acknowledged too early is committed so much later.
const COMMIT_LATE: Duration = Duration::from_millis(100);
/// The host on which the faults of one host are.
const FAULTY_HOST: HostId = 1;
/// One write in so many is lost on a host that loses some.
const LOST_IN: u32 = 16;

/// A log and its faults; without one of them it does what the log does.
pub(super) struct SimLog {
    log: LogStore,
    host: HostId,
    /// A vote that was answered and is not on disk yet.
    vote: Option<Vote>,
}

impl SimLog {
    pub(super) fn new(log: LogStore, host: HostId) -> Self {
        Self { log, host, vote: None }
    }

    /// The entry as one host stores it, which loses the keys of some writes.
    fn altered(&self, mut entry: Entry) -> Entry {
        if self.host == FAULTY_HOST
            && let EntryPayload::Normal(command) = &mut entry.payload
        {
            match command {
                Command::Withdraw(write) if world::is_broken(Fault::WithdrawsLostOnOne) => write.keys.clear(),
                Command::Advertise(write)
                    if world::is_broken(Fault::AdvertisesLostAtRandomOnOne)
                        && world::inside(|world| world.rng.random_ratio(1, LOST_IN)) =>
                {
                    write.keys.clear();
                }
                _ => {}
            }
        }
        entry
    }

    async fn save_late_vote(&mut self) -> io::Result<()> {
        match self.vote.take() {
            Some(vote) => self.log.save_vote(&vote).await,
            None => Ok(()),
        }
    }
}

impl RaftLogStorage<TypeConfig> for SimLog {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        self.log.get_log_state().await
    }

    async fn get_log_reader(&mut self) -> LogReader {
        self.log.get_log_reader().await
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        if world::is_broken(Fault::VoteIsNotSynced) {
            self.vote = Some(*vote);
            return Ok(());
        }
        self.log.save_vote(vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        self.log.save_committed(committed).await
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        self.log.read_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.save_late_vote().await?;
        let entries: Vec<Entry> = entries.into_iter().map(|entry| self.altered(entry)).collect();
        if world::is_broken(Fault::AppendAckedBeforeCommit) {
            callback.io_completed(Ok(()));
            world::inside(|world| world.acknowledged_early.insert(self.host));
            return self.log.append(entries, IOFlushed::noop()).await;
        }
        self.log.append(entries, callback).await
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.save_late_vote().await?;
        self.log.truncate_after(last_log_id).await
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        self.save_late_vote().await?;
        self.log.purge(log_id).await
    }
}

/// Waits in front of the commit of an append that was acknowledged before it.
pub(super) async fn late_commit() {
    let early = world::inside(|world| {
        let host = world.current.expect("some host's code runs").host;
        world.acknowledged_early.remove(&host)
    });
    if early {
        tokio::time::sleep(COMMIT_LATE).await;
    }
}
