//! Brings an empty server the state before it becomes a member.
//!
//! openraft would send a new learner the log from its beginning where that is still there: after a
//! cold registration of 20 million pairs that is most of a gigabyte for a state of a tenth. Purging the
//! log instead would take it from members that are a little behind. So the leader streams a snapshot
//! first, to a server that is not a member yet: the membership never waits for it, and what a broken
//! transfer leaves behind is nothing. The log is kept from there on while the stream runs, and a while
//! longer. A receiver that takes it in by drops does not fill the disk: the stream ends once a lot has
//! been written meanwhile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use openraft::raft::SnapshotResponse;
use openraft::type_config::alias::SnapshotOf;

use super::{Changes, Phase, Progress};
use crate::cluster::contacts::Contacts;
use crate::cluster::lifetime::Ends;
use crate::format::WIRE;
use crate::limits::{SEED_APPENDED_BYTES_MAX, SEED_LOOK_INTERVAL};
use crate::network::{ListHash, Whoami, snapshot};
use crate::snapshot::{SnapshotData, about_bytes};
use crate::types::{NodeId, TypeConfig};

/// The one transfer to a server that is not a member yet.
#[derive(Debug, Default)]
pub(in crate::cluster) struct Seeding(Mutex<Option<Seed>>);

#[derive(Clone, Debug)]
struct Seed {
    node_id: NodeId,
    sent: Arc<AtomicU64>,
    about: u64,
    /// The last attempt's failure; a new attempt has begun.
    failed: Option<String>,
    running: bool,
}

impl Seeding {
    fn slot(&self) -> MutexGuard<'_, Option<Seed>> {
        self.0.lock().expect("nothing panics while it holds the transfer")
    }

    pub(super) fn is_running_for(&self, node_id: NodeId) -> bool {
        self.slot().as_ref().is_some_and(|seed| seed.running && seed.node_id == node_id)
    }
}

impl Changes {
    /// Starts the transfer, or says how far it is.
    pub(super) fn seed(
        self: &Arc<Self>,
        node_id: NodeId,
        address: String,
        list_hash: Option<ListHash>,
    ) -> Progress {
        let mut slot = self.seeding.slot();
        let other = slot.as_ref().filter(|seed| seed.running && seed.node_id != node_id);
        if let Some(seed) = other {
            let message = format!("waits until server {:016x} has its snapshot", seed.node_id);
            return Progress::of(Phase::Step, Some(seed.node_id), message);
        }
        let before = slot.take().filter(|seed| seed.node_id == node_id);
        let seed = match before {
            Some(seed) if seed.running => seed,
            before => {
                let sent = Arc::default();
                let about = about_bytes(self.stores.index.counts());
                let failed = before.and_then(|seed| seed.failed);
                let seed = Seed { node_id, sent, about, failed, running: true };
                let (changes, sent) = (self.clone(), seed.sent.clone());
                self.lifetime.watch_task("seed", Ends::WhenDone, async move {
                    let sending = changes.send_seed(node_id, &address, list_hash, &sent);
                    if let Some(result) = changes.lifetime.stop.run_until_cancelled(sending).await {
                        changes.end_seed(result);
                    }
                    Ok(())
                });
                seed
            }
        };
        let (position, about) = (seed.sent.load(Ordering::Relaxed), seed.about);
        let after = seed.failed.as_ref().map(|reason| format!(" (again, after: {reason})"));
        let message = format!(
            "server {node_id:016x} gets a snapshot: {} of about {} KiB{}",
            position / 1024,
            about / 1024,
            after.unwrap_or_default()
        );
        *slot = Some(seed);
        Progress { phase: Phase::Snapshot, node_id: Some(node_id), position, goal: about, message }
    }

    /// Tells a pristine server which cluster it belongs to from now on. Its own list, if it has one,
    /// says whose servers it expects: that the leader's is another does not matter, an operator has
    /// asked for it.
    pub(super) async fn invite(&self, address: &str, whoami: &Whoami) -> Result<(), String> {
        let Contacts { identity, client, .. } = &self.contacts;
        let header = identity.header(whoami.node_id).ok_or("this node belongs to no cluster")?;
        let list_hash = whoami.list_hash().unwrap_or(header.list_hash);
        let header = crate::network::Header { list_hash, ..header };
        let standing = client.standing(address, header, identity.level(), None);
        standing.await.map_err(|error| error.to_string())
    }

    async fn send_seed(
        &self,
        node_id: NodeId,
        address: &str,
        list_hash: Option<ListHash>,
        sent: &Arc<AtomicU64>,
    ) -> Result<(), String> {
        let header = self.contacts.identity.header(node_id).ok_or("this node belongs to no cluster")?;
        let header = crate::network::Header { list_hash: list_hash.unwrap_or(header.list_hash), ..header };
        let vote = self.leadership.metrics().vote;
        let _log_is_kept = self.streams.begin(self.stores.index.applied_index());
        let (meta, data) = SnapshotData::of(&self.stores.index).await.map_err(|error| error.to_string())?;
        tracing::info!(%meta, node_id, address, "brings a new server a snapshot");
        let snapshot: SnapshotOf<TypeConfig, _> = SnapshotOf::<TypeConfig, _> { meta, snapshot: data };
        let sending = snapshot::send(
            &self.contacts.client,
            address,
            (header, self.contacts.identity.level()),
            vote,
            snapshot,
            sent.clone(),
        );
        let answer = tokio::select! {
            biased;
            answer = sending => answer.map_err(|error| error.to_string())?,
            () = until_long(|| self.stores.log.appended_bytes(), SEED_LOOK_INTERVAL) => {
                return Err(format!("it was too slow: {} GiB were written meanwhile", SEED_APPENDED_BYTES_MAX >> 30));
            }
        };
        let answer: SnapshotResponse<TypeConfig> =
            WIRE.decode("raft answer", &answer).map_err(|error| error.to_string())?;
        if answer.vote != vote {
            return Err(format!("it has heard of another leader: {}", answer.vote));
        }
        Ok(())
    }

    fn end_seed(&self, result: Result<(), String>) {
        let mut slot = self.seeding.slot();
        match result {
            Ok(()) => *slot = None,
            Err(reason) => {
                tracing::warn!(reason, "could not bring a new server its snapshot");
                if let Some(seed) = slot.as_mut() {
                    seed.running = false;
                    seed.failed = Some(reason);
                }
            }
        }
    }
}

/// Returns when [`SEED_APPENDED_BYTES_MAX`] more bytes have been appended to the log than at first.
async fn until_long(appended: impl Fn() -> u64, look_interval: Duration) {
    let first = appended();
    while appended().saturating_sub(first) < SEED_APPENDED_BYTES_MAX {
        tokio::time::sleep(look_interval).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LOG_KEEP_BYTES;

    #[tokio::test]
    async fn a_transfer_holds_no_more_of_the_log_than_its_cap() {
        // Two looks find it a little short of the cap.
        let (start, looks) = (7 * LOG_KEEP_BYTES, AtomicU64::new(0));
        let appended = || match looks.fetch_add(1, Ordering::Relaxed) {
            0 => start,
            look => start + SEED_APPENDED_BYTES_MAX - 3 + look,
        };
        until_long(appended, Duration::from_millis(1)).await;
        assert_eq!(
            looks.load(Ordering::Relaxed),
            4,
            "the first, two short of it, and the one that reaches it"
        );
    }
}
