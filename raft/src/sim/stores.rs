//! Log and index of one server on one disk, with the power cut at every sync of either: what was
//! acknowledged is in the log or applied, and nothing is purged that is not applied for good.

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{LogIdOptionExt, RaftLogReader};

use crate::command::Command;
use crate::disk::MemoryDisk;
use crate::index::Index;
use crate::log::LogStore;
use crate::snapshot::SnapshotData;
use crate::testing::sim_disk::SimDisk;
use crate::testing::{entry, log_id, write};
use crate::types::Entry;

/// Each appends and applies, makes it durable and purges.
const ROUNDS: u64 = 4;
const ENTRIES: u64 = 6;
/// Kept behind what is durable, as for a slow follower.
const KEPT: u64 = 3;
/// A snapshot of another server brings so many entries more.
const SNAPSHOT_AHEAD: u64 = 20;

fn entries(first: u64, count: u64) -> Vec<Entry> {
    let command = |at: u64| Command::Advertise(write((at % 5) as u8, &[&format!("r/k:{at}")]));
    (first..first + count).map(|at| entry(at, command(at))).collect()
}

/// What was acknowledged before the power cut.
#[derive(Debug, Default)]
struct Told {
    /// Log indices up to it are on disk, in the log or in the state.
    kept: u64,
    /// Log indices up to this one were purged.
    purged: u64,
    ended: bool,
}

/// Runs until the power is cut, or to the end.
async fn live_until_the_power_is_cut(disk: &SimDisk) -> Told {
    let mut told = Told::default();
    _ = live(disk, &mut told).await;
    told
}

async fn live(disk: &SimDisk, told: &mut Told) -> Result<(), String> {
    let mut log = LogStore::open(disk).map_err(|error| error.to_string())?;
    let index = Index::open(disk).map_err(|error| error.to_string())?;
    for round in 0..ROUNDS {
        let new = entries(told.kept + 1, ENTRIES);
        log.blocking_append(new.clone()).await.map_err(|error| error.to_string())?;
        told.kept += ENTRIES;
        index.apply(&new).await.map_err(|error| error.to_string())?;
        index.flush_durable().await.map_err(|error| error.to_string())?;
        log.purge(log_id(told.kept - KEPT)).await.map_err(|error| error.to_string())?;
        told.purged = told.kept - KEPT;
        if round == ROUNDS / 2 {
            let other = Index::open(&MemoryDisk::default()).map_err(|error| error.to_string())?;
            let upto = told.kept + SNAPSHOT_AHEAD;
            other.apply(&entries(1, upto)).await.map_err(|error| error.to_string())?;
            let (meta, data) = SnapshotData::of(&other).await.map_err(|error| error.to_string())?;
            let chunks: Vec<_> = data.into_chunks().unwrap().map(Result::unwrap).collect();
            let (_, data) = crate::snapshot::verify(&chunks.concat()).map_err(|error| error.to_string())?;
            let received = data.into_whole(&meta).map_err(|error| error.to_string())?;
            index.install(received).await.map_err(|error| error.to_string())?;
            told.kept = upto;
            log.purge(log_id(upto)).await.map_err(|error| error.to_string())?;
            told.purged = upto;
        }
    }
    told.ended = true;
    Ok(())
}

/// Checks what is found when the power is back.
async fn look(disk: &SimDisk, told: &Told, cut: &str) {
    let mut log = LogStore::open(disk).unwrap_or_else(|error| panic!("{cut}: {error}"));
    let index = Index::open(disk).unwrap_or_else(|error| panic!("{cut}: {error}"));
    let applied = index.applied_index();
    let purged = log.get_log_state().await.unwrap().last_purged_log_id.index().unwrap_or(0);
    assert!(applied >= purged, "{cut}: applied {applied}, purged {purged}: {told:?}");
    assert!(applied >= told.purged, "{cut}: applied {applied}: {told:?}");
    let there: Vec<u64> =
        log.try_get_log_entries(..).await.unwrap().iter().map(|one| one.log_id.index).collect();
    let missing = (applied + 1..=told.kept).find(|at| !there.contains(at));
    assert_eq!(missing, None, "{cut}: applied {applied}, the log has {there:?}: {told:?}");
}

#[tokio::test]
async fn a_power_cut_at_any_sync_of_log_or_state_loses_nothing_acknowledged() {
    let whole = SimDisk::default();
    let told = live_until_the_power_is_cut(&whole).await;
    assert!(told.ended, "{told:?}");
    let syncs = whole.syncs();
    let mut cut_short = 0;
    for sync in 1..=syncs {
        let disk = SimDisk::default();
        disk.cut_power_at_sync(sync);
        let told = live_until_the_power_is_cut(&disk).await;
        cut_short += u64::from(!told.ended);
        for seed in 0..4 {
            look(&disk.after_power_cut(seed), &told, &format!("sync {sync} of {syncs}, seed {seed}")).await;
        }
    }
    println!("{cut_short} cuts at {syncs} syncs");
    assert!(cut_short > 3 * ROUNDS, "{cut_short} of {syncs}");
}
