//! Tests of the raft log, on real files and on a disk that loses its power.

#![expect(clippy::disallowed_methods, reason = "a deadline of a test is in real time")]

use std::collections::BTreeMap;
use std::path::Path;

use openraft::entry::{EntryPayload, RaftEntry};
use openraft::storage::RaftLogStorageExt;
use redb::{Database, ReadableDatabase, ReadableTable};

use super::segment::Segment;
use super::*;
use crate::command::{Command, Write};
use crate::disk::FolderDisk;
use crate::model::{Holder, Key};
use crate::testing::sim_disk::SimDisk;

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(openraft::impls::leader_id_adv::LeaderId { term, node_id: 1 }, index)
}

fn blank(index: u64) -> Entry {
    Entry::new_blank(log_id(1, index))
}

fn entry_of_bytes(index: u64, size: usize) -> Entry {
    let group = "g".repeat(size);
    let holder = Holder { group, address: "10.0.0.1:7781".parse().unwrap() };
    Entry::new(log_id(1, index), EntryPayload::Normal(Command::Unhide { holder }))
}

/// Stored entries, purged ones that are still to be deleted included.
fn count(database: &Database) -> u64 {
    let transaction = database.begin_read().unwrap();
    let length = |segment: Segment| segment.range().1 - segment.range().0;
    let tail = length(tables::read_tail(&transaction.open_table(tables::TAIL).unwrap()).unwrap());
    let segments = transaction.open_table(tables::SEGMENTS).unwrap();
    let stored =
        segments.iter().unwrap().map(|row| length(tables::segment_of(row.unwrap().1.value()).unwrap()));
    stored.sum::<u64>() + tail
}

fn open(folder: &Path) -> LogStore {
    LogStore::open(&FolderDisk::open(folder).unwrap()).unwrap()
}

/// What a machine shows that lost its power now: the file as it is, never closed.
fn cut_power(folder: &Path) -> tempfile::TempDir {
    let after = tempfile::tempdir().unwrap();
    std::fs::copy(folder.join(LOG_FILE), after.path().join(LOG_FILE)).unwrap();
    after
}

async fn indices(log: &mut LogStore) -> Vec<u64> {
    log.try_get_log_entries(..).await.unwrap().iter().map(|entry| entry.log_id.index).collect()
}

#[tokio::test]
async fn acknowledged_entries_vote_and_committed_survive_a_power_cut() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.save_vote(&Vote::new_committed(3, 7)).await.unwrap();
    log.blocking_append((0..5).map(blank)).await.unwrap();
    log.save_committed(Some(log_id(1, 3))).await.unwrap();
    log.blocking_append((5..6).map(blank)).await.unwrap();

    let after = cut_power(folder.path());
    let mut log = open(after.path());
    assert_eq!(indices(&mut log).await, [0, 1, 2, 3, 4, 5]);
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(3, 7)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(1, 3)));
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(1, 5)));
}

#[tokio::test]
async fn committed_ahead_of_the_disk_is_not_stored() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.save_committed(Some(log_id(1, 9))).await.unwrap();
    log.blocking_append((0..2).map(blank)).await.unwrap();
    log.close().await;
    assert_eq!(open(folder.path()).read_committed().await.unwrap(), None);
}

#[tokio::test]
async fn saving_committed_writes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.blocking_append((0..2).map(blank)).await.unwrap();
    let before = (log.commits(), std::fs::read(folder.path().join(LOG_FILE)).unwrap());
    log.save_committed(Some(log_id(1, 1))).await.unwrap();
    assert!(before == (log.commits(), std::fs::read(folder.path().join(LOG_FILE)).unwrap()));
}

#[tokio::test]
async fn entries_are_readable_as_soon_as_append_returns() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    for index in 0..50 {
        log.append([blank(index)], IOFlushed::noop()).await.unwrap();
        assert_eq!(indices(&mut log).await, (0..=index).collect::<Vec<_>>());
    }
}

/// The pages of a row that is being read are not the writer's. redb checks that in builds with debug assertions,
/// and its panic ended the log.
#[tokio::test(flavor = "multi_thread")]
async fn readers_and_the_writer_do_not_disturb_each_other() {
    const ENTRIES: u64 = 500;
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.blocking_append([blank(0)]).await.unwrap();
    let reading = |mut log: LogStore| async move {
        let mut seen = 0;
        while seen < ENTRIES {
            let last = log.get_log_state().await.unwrap().last_log_id.unwrap().index;
            let from = last.saturating_sub(40);
            let read = log.try_get_log_entries(from..=last).await.unwrap();
            assert!(read.iter().map(|entry| entry.log_id.index).eq(from..=last));
            seen = last;
            tokio::task::yield_now().await;
        }
    };
    let mut readers: tokio::task::JoinSet<()> = (0..3).map(|_| reading(log.clone())).collect();
    for index in 1..=ENTRIES {
        log.blocking_append([entry_of_bytes(index, 200)]).await.unwrap();
    }
    while let Some(read) = readers.join_next().await {
        read.unwrap();
    }
}

#[tokio::test]
async fn appends_that_wait_together_share_commits() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    for index in 0..500 {
        log.append([blank(index)], IOFlushed::noop()).await.unwrap();
    }
    log.blocking_append([blank(500)]).await.unwrap();
    assert!(log.commits() < 400, "{} commits for 501 appends", log.commits());
    log.close().await;
    assert_eq!(indices(&mut open(folder.path())).await.len(), 501);
}

#[tokio::test]
async fn a_truncated_tail_is_gone_and_can_be_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.append((0..8).map(blank), IOFlushed::noop()).await.unwrap();
    log.truncate_after(Some(log_id(1, 4))).await.unwrap();
    assert_eq!(indices(&mut log).await, [0, 1, 2, 3, 4]);
    log.blocking_append([Entry::new_blank(log_id(2, 5))]).await.unwrap();

    let mut log = open(cut_power(folder.path()).path());
    assert_eq!(indices(&mut log).await, [0, 1, 2, 3, 4, 5]);
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(2, 5)));
}

#[tokio::test]
async fn purged_entries_are_unreadable_at_once_and_deleted_in_steps() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.blocking_append((0..5000).map(blank)).await.unwrap();
    log.purge(log_id(1, 4000)).await.unwrap();
    assert_eq!(indices(&mut log).await, (4001..5000).collect::<Vec<_>>());
    let stored = |log: &LogStore| log.shared.with_database(|database| Ok(count(database))).unwrap();
    let most = crate::limits::SEGMENT_BYTES_MAX as u64 / 8;
    assert!((999..999 + most).contains(&stored(&log)), "{} stored: all but a segment's part", stored(&log));
    for index in 5000..5000 + most {
        log.blocking_append([blank(index)]).await.unwrap();
    }
    log.purge(log_id(1, 4999)).await.unwrap();
    assert!((most..2 * most).contains(&stored(&log)), "{} stored", stored(&log));
    log.blocking_append([blank(5000 + most)]).await.unwrap();
    let state = open(cut_power(folder.path()).path()).get_log_state().await.unwrap();
    assert_eq!(state.last_purged_log_id, Some(log_id(1, 4999)));
}

#[tokio::test]
async fn a_purge_past_the_end_leaves_a_log_that_goes_on_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.blocking_append((0..5).map(blank)).await.unwrap();
    log.purge(log_id(1, 90)).await.unwrap();
    log.blocking_append([blank(91)]).await.unwrap();
    log.close().await;
    let mut log = open(folder.path());
    assert_eq!(indices(&mut log).await, [91]);
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(1, 91)));
}

#[tokio::test]
async fn a_purge_past_the_durable_state_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.guard_purge(|| 3);
    log.blocking_append((0..9).map(blank)).await.unwrap();
    let message = log.purge(log_id(1, 4)).await.unwrap_err().to_string();
    assert!(message.contains("durable state ends at 3"), "{message}");
    assert_eq!(indices(&mut log).await.len(), 9);
    log.purge(log_id(1, 3)).await.unwrap();
}

#[tokio::test]
async fn one_read_is_bounded_by_bytes_and_never_empty() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.blocking_append((0..30).map(|index| entry_of_bytes(index, 256 * 1024))).await.unwrap();
    let piece = log.limited_get_log_entries(0, 30).await.unwrap();
    let bytes: usize = piece.iter().map(|entry| encode_entry(Level::FIRST, entry).len()).sum();
    assert!(bytes <= LOG_READ_BYTES_MAX && bytes > LOG_READ_BYTES_MAX / 2, "{bytes}");

    log.blocking_append([entry_of_bytes(30, LOG_READ_BYTES_MAX + 1)]).await.unwrap();
    assert_eq!(log.limited_get_log_entries(30, 31).await.unwrap().len(), 1);

    let mut reader = log.get_log_reader().await;
    let stream = reader.entries_stream(2..31).await;
    let all: Vec<Entry> = futures_util::TryStreamExt::try_collect(stream).await.unwrap();
    assert_eq!(all.iter().map(|e| e.log_id.index).collect::<Vec<_>>(), (2..31).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_file_of_a_newer_format_is_refused_and_named() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path()).close().await;
    let database = redb::Database::open(folder.path().join(LOG_FILE)).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(tables::META).unwrap().insert(tables::META_FORMAT, &[9, 0][..]).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let disk = FolderDisk::open(folder.path()).unwrap();
    let LogError::Format(format) = LogStore::open(&disk).err().unwrap() else { panic!() };
    assert!(format.to_string().contains("raft log has storage format 9"), "{format}");
}

#[tokio::test]
async fn after_close_the_file_is_free_and_calls_fail() {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    log.append([blank(0)], IOFlushed::noop()).await.unwrap();
    log.close().await;
    assert!(log.blocking_append([blank(1)]).await.is_err());
    assert_eq!(indices(&mut open(folder.path())).await, [0]);
}

/// What the log must show: term by index, the voted term, and up to where it is purged.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    entries: BTreeMap<u64, u64>,
    voted: u64,
    purged: u64,
}

/// One step of every kind in turn, each acknowledged before the next; the model after each, and one
/// more if the power went off: the step that was not acknowledged.
async fn live_until_the_power_is_cut(disk: &SimDisk) -> Vec<Model> {
    let mut history = vec![Model::default()];
    let Ok(mut log) = LogStore::open(disk) else { return history };
    for step in 1..40u64 {
        let mut model = history.last().unwrap().clone();
        let next = model.entries.last_key_value().map_or(model.purged + 1, |(index, _)| index + 1);
        let result = match step % 8 {
            3 => {
                model.voted = step;
                log.save_vote(&Vote::new(step, 1)).await
            }
            5 => {
                model.entries.split_off(&(next - 1));
                let last = model.entries.iter().next_back().map(|(index, term)| log_id(*term, *index));
                log.truncate_after(last).await
            }
            7 => {
                let (index, term) = model.entries.iter().nth(1).map(|(i, t)| (*i, *t)).unwrap();
                model.purged = index;
                model.entries = model.entries.split_off(&(index + 1));
                log.purge(log_id(term, index)).await
            }
            _ => {
                let new: Vec<Entry> =
                    (next..next + step % 3 + 1).map(|i| Entry::new_blank(log_id(step, i))).collect();
                model.entries.extend(new.iter().map(|entry| (entry.log_id.index, step)));
                log.blocking_append(new).await.map_err(io::Error::other)
            }
        };
        history.push(model);
        if result.is_err() {
            return history;
        }
    }
    history
}

async fn shown(log: &mut LogStore, purged: u64) -> Model {
    let entries = log.try_get_log_entries(purged + 1..).await.unwrap();
    let term = |entry: &Entry| entry.log_id.committed_leader_id().term;
    let voted = log.read_vote().await.unwrap().map_or(0, |vote| vote.leader_id.term);
    Model { entries: entries.iter().map(|entry| (entry.log_id.index, term(entry))).collect(), voted, purged }
}

#[tokio::test]
async fn a_power_cut_at_any_sync_shows_every_acknowledged_step_and_no_half_one() {
    let whole = SimDisk::default();
    assert_eq!(live_until_the_power_is_cut(&whole).await.len(), 40);
    let syncs = whole.activity(LOG_FILE).0;
    let created = SimDisk::default();
    LogStore::open(&created).unwrap().close().await;
    for sync in created.activity(LOG_FILE).0..=syncs {
        let disk = SimDisk::default();
        disk.cut_power_at(LOG_FILE, sync);
        let history = live_until_the_power_is_cut(&disk).await;
        for seed in 0..3 {
            let mut log = LogStore::open(&disk.after_power_cut(seed)).unwrap();
            let mut accepted = history.iter().rev().take(2);
            let mut all = Vec::new();
            let matches = loop {
                let Some(model) = accepted.next() else { break false };
                let shown = shown(&mut log, model.purged).await;
                if shown == *model {
                    break true;
                }
                all.push((shown, model));
            };
            assert!(matches, "cut at sync {sync} of {syncs}, seed {seed}: {all:#?}");
        }
    }
}

#[test]
fn entries_of_the_first_format_are_read() {
    let write = Write {
        holder: Holder { group: "default".to_owned(), address: "10.0.0.1:7781".parse().unwrap() },
        pair: Some(crate::model::Pair { epoch: 1_700_000_000_000, seq: 9 }),
        stores_pair: true,
        keys: vec![Key::Sha256([7; 32]), "registry.local/app:1".parse().unwrap()],
    };
    let entry = Entry::new(log_id(2, 300), EntryPayload::Normal(Command::Advertise(write)));
    let golden = include_str!("../../tests/golden/log_entry_advertise.hex").trim();
    let hex: String = encode_entry(Level::FIRST, &entry).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden);
    let bytes: Vec<u8> =
        (0..golden.len()).step_by(2).map(|at| u8::from_str_radix(&golden[at..at + 2], 16).unwrap()).collect();
    assert_eq!(decode_entry(&bytes).unwrap(), entry);
}

/// What a file takes up of its disk, bytes.
fn on_disk(folder: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(folder.join(LOG_FILE)).unwrap()) * 512
}

/// Fills a log with so many entries of 100 KiB, purges all but some, and shrinks it: bytes on disk when it
/// was full, after some more appends, and after that.
async fn filled_purged_and_shrunk(entries: u64) -> [u64; 3] {
    let folder = tempfile::tempdir().unwrap();
    let mut log = open(folder.path());
    for index in 0..entries {
        log.blocking_append([entry_of_bytes(index, 100 * 1024)]).await.unwrap();
    }
    let full = on_disk(folder.path());
    log.purge(log_id(1, entries - 11)).await.unwrap();
    for index in entries..entries + 10 {
        log.blocking_append([blank(index)]).await.unwrap();
    }
    let purged = on_disk(folder.path());
    let start = std::time::Instant::now();
    log.shrink().await.unwrap();
    println!("{entries} entries: shrunk within {:?}", start.elapsed());
    assert_eq!(indices(&mut log).await, (entries - 10..entries + 10).collect::<Vec<_>>());
    log.blocking_append([blank(entries + 10)]).await.unwrap();
    let shrunk = on_disk(folder.path());
    let after = cut_power(folder.path());
    assert_eq!(indices(&mut open(after.path())).await.len(), 21);
    println!("{full} bytes full, {purged} purged, {shrunk} shrunk");
    [full, purged, shrunk]
}

#[tokio::test]
async fn a_purged_log_gives_its_room_back_when_it_is_told_to() {
    let [full, _, shrunk] = filled_purged_and_shrunk(300).await;
    assert!(shrunk < full / 4, "{shrunk} of {full} bytes");
}

#[tokio::test]
async fn soak_a_log_of_its_largest_size_shrinks_within_seconds() {
    let [full, _, shrunk] = filled_purged_and_shrunk(11_000).await;
    assert!(full > 1 << 30 && shrunk < full / 16, "{shrunk} of {full} bytes");
}
