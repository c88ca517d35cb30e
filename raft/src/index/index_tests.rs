//! The index as a whole: on disk and in memory.

#![expect(clippy::disallowed_methods, reason = "a deadline of a test is in real time")]

use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt;
use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::{Builder, ReadableTable};

use super::*;
use crate::command::{Command, Reply, Write};
use crate::disk::{FolderDisk, MemoryDisk};
use crate::limits::{FLUSH_INTERVAL, UNFLUSHED_ENTRIES_MAX, UNFLUSHED_KEYS_MAX};
use crate::model::Pair;
use crate::snapshot::SnapshotData;
use crate::state_machine::StateMachine;
use crate::testing::sim_disk::SimDisk;
use crate::testing::{entry, holder, key, random_command, write};
use crate::types::Entry;
use tokio_util::sync::CancellationToken;

fn open(folder: &Path) -> Index {
    Index::open(&FolderDisk::open(folder).unwrap()).unwrap()
}

fn memory() -> Index {
    Index::open(&MemoryDisk::default()).unwrap()
}

async fn apply(index: &Index, first: u64, commands: impl IntoIterator<Item = Command>) -> Vec<Reply> {
    let entries: Vec<Entry> = (first..).zip(commands).map(|(at, command)| entry(at, command)).collect();
    index.apply(&entries).await.unwrap()
}

fn holders(index: &Index, name: &str) -> Vec<String> {
    let list = |found: &Postings<'_>| (0..found.len()).map(|i| found.address(i).to_string()).collect();
    index.find("g", &key(name), list).unwrap_or_default()
}

fn advertise(host: u8, keys: &[&str]) -> Command {
    Command::Advertise(write(host, keys))
}

#[tokio::test]
async fn what_was_advertised_is_found_in_its_group_only() {
    let index = memory();
    apply(&index, 1, [advertise(1, &["r/a:1", "r/b:1"]), advertise(2, &["r/a:1"])]).await;
    assert_eq!(holders(&index, "r/a:1"), ["10.0.0.1:7781", "10.0.0.2:7781"]);
    assert_eq!(holders(&index, "r/b:1"), ["10.0.0.1:7781"]);
    assert_eq!(index.find("other", &key("r/a:1"), |found| found.len()), None);
    assert_eq!(index.counts(), Counts { groups: 1, hosts: 2, hosts_hidden: 0, keys: 2, pairs: 3 });
    let inventory = index.inventory(&holder(1)).unwrap().unwrap();
    assert_eq!(inventory, BTreeSet::from([key("r/a:1"), key("r/b:1")]));
    assert_eq!(index.inventory(&holder(9)).unwrap(), None);
}

#[tokio::test]
async fn who_waits_for_an_index_sees_it_applied() {
    let index = memory();
    let waiting = index.wait_applied(2);
    let applying = async {
        apply(&index, 1, [advertise(1, &["r/a:1"])]).await;
        apply(&index, 2, [advertise(2, &["r/a:1"])]).await;
    };
    let ((), ()) = tokio::join!(waiting, applying);
    assert_eq!(holders(&index, "r/a:1").len(), 2);
    assert_eq!(index.applied_index(), 2);
}

#[tokio::test]
async fn a_reopened_index_is_the_one_that_was_closed() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path());
    let hide = Command::Hide { holder: holder(2), last_write_index: 2, unix_ms: 77 };
    let zone = Command::SetHost { holder: holder(1), zone: "z".into(), ttl_seconds: 90 };
    let commands = [
        advertise(1, &["r/a:1", "r/b:1"]),
        advertise(2, &["r/b:1"]),
        hide,
        zone,
        Command::Tombstone { node_id: 5 },
    ];
    apply(&index, 1, commands).await;
    index.flush_durable().await.unwrap();
    let (hosts, checksum, state) = (index.hosts(None), index.checksum(), index.applied_state());
    drop(index);
    let index = open(folder.path());
    assert_eq!(
        (index.hosts(None), index.checksum(), index.applied_state()),
        (hosts, checksum, state.clone())
    );
    assert_eq!(index.durable_applied(), state.0);
    assert!(index.is_tombstone(5) && !index.is_tombstone(6));
    assert_eq!(holders(&index, "r/b:1"), ["10.0.0.1:7781"], "the other one is hidden");
    apply(&index, 6, [Command::Unhide { holder: holder(2) }]).await;
    assert_eq!(holders(&index, "r/b:1"), ["10.0.0.2:7781", "10.0.0.1:7781"], "no zone before zone z");
}

/// A copy of the file taken while it is open is what a power cut leaves: redb makes the last commits
/// durable when it is closed, so dropping the index would prove nothing.
#[tokio::test]
async fn a_crash_leaves_the_last_durable_state_and_says_so() {
    let (folder, crashed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let index = open(folder.path());
    apply(&index, 1, [advertise(1, &["r/a:1"]), advertise(2, &["r/a:1"])]).await;
    index.flush_durable().await.unwrap();
    let durable = (index.checksum(), index.applied_state());
    let lost = || [advertise(1, &["r/c:1"]), Command::Withdraw(write(2, &["r/a:1"]))];
    apply(&index, 3, lost()).await;
    let newest = (index.checksum(), index.hosts(None));
    assert_eq!(index.durable_applied(), durable.1.0);
    std::fs::copy(folder.path().join(STATE_FILE), crashed.path().join(STATE_FILE)).unwrap();

    let after = open(crashed.path());
    assert_eq!((after.checksum(), after.applied_state()), durable);
    assert_eq!(holders(&after, "r/a:1").len(), 2);
    apply(&after, 3, lost()).await;
    assert_eq!((after.checksum(), after.hosts(None)), newest, "applied again from the log");
}

async fn until_durable(index: &Index) {
    while index.durable_applied() != index.applied_state().0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The clock stands still while somebody works.
#[tokio::test(start_paused = true)]
async fn the_flusher_makes_news_durable_within_its_interval_and_at_the_stop() {
    let index = memory();
    let stop = CancellationToken::new();
    let flusher = index.run_flusher(FLUSH_INTERVAL, stop.clone(), || Room::Plenty);
    let test = async {
        let start = tokio::time::Instant::now();
        apply(&index, 1, [advertise(1, &["r/a:1"])]).await;
        until_durable(&index).await;
        assert!(start.elapsed() > FLUSH_INTERVAL / 2, "writes that follow share the pages");
        apply(&index, 2, [advertise(2, &["r/a:1"])]).await;
        stop.cancel();
    };
    let both = tokio::time::timeout(FLUSH_INTERVAL * 2, async { tokio::join!(flusher, test) });
    both.await.expect("flushed in time").0.unwrap();
    assert_eq!(index.durable_applied(), index.applied_state().0, "flushed once more at the stop");
}

#[tokio::test(start_paused = true)]
async fn what_a_restart_would_have_to_apply_again_is_bounded() {
    let index = memory();
    let stop = CancellationToken::new();
    let flusher = index.run_flusher(FLUSH_INTERVAL, stop.clone(), || Room::Plenty);
    let test = async {
        let start = tokio::time::Instant::now();
        let beats = (0..UNFLUSHED_ENTRIES_MAX).map(|_| Command::Unhide { holder: holder(1) });
        apply(&index, 1, beats).await;
        until_durable(&index).await;
        let keys: Vec<String> = (0..UNFLUSHED_KEYS_MAX).map(|number| format!("r/a:{number}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        apply(&index, UNFLUSHED_ENTRIES_MAX + 1, [advertise(1, &keys)]).await;
        until_durable(&index).await;
        assert!(start.elapsed() < FLUSH_INTERVAL / 2, "entries, then keys");
        stop.cancel();
    };
    tokio::join!(flusher, test).0.unwrap();
}

/// A host that is read, forgotten, made anew with its id, and read again, between flushes and after a restart.
#[tokio::test]
async fn an_inventory_shows_what_is_applied_whatever_of_it_is_flushed() {
    let shown = |index: &Index, host: u8| index.inventory(&holder(host)).unwrap();
    let hide = Command::Hide { holder: holder(1), last_write_index: 99, unix_ms: 7 };
    let forget = Command::Forget { holder: holder(1), hidden_unix_ms: 7 };
    let steps = [
        (1, advertise(1, &["r/a:1", "r/b:1"]), Some(vec!["r/a:1", "r/b:1"])),
        (1, Command::Withdraw(write(1, &["r/a:1"])), Some(vec!["r/b:1"])),
        (1, advertise(1, &["r/c:1"]), Some(vec!["r/b:1", "r/c:1"])),
        (1, hide, Some(vec!["r/b:1", "r/c:1"])),
        (1, forget, None),
        (2, advertise(2, &["r/d:1"]), Some(vec!["r/d:1"])),
        (2, advertise(2, &["r/b:1", "r/e:1"]), Some(vec!["r/b:1", "r/d:1", "r/e:1"])),
    ];
    for flushes in 0..1 << steps.len() {
        let disk = SimDisk::default();
        let index = Index::open(&disk).unwrap();
        for (at, (host, command, expected)) in steps.iter().enumerate() {
            apply(&index, 1 + at as u64, [command.clone()]).await;
            let expected = expected.as_ref().map(|keys| keys.iter().map(|name| key(name)).collect());
            assert_eq!(shown(&index, *host), expected, "step {at}");
            if flushes & 1 << at != 0 {
                index.flush_durable().await.unwrap();
                assert_eq!(shown(&index, *host), expected, "step {at}, flushed: {flushes:b}");
            }
        }
        index.close().await.unwrap();
        let index = Index::open(&disk).unwrap();
        assert_eq!(shown(&index, 1), None);
        assert_eq!(shown(&index, 2).unwrap().len(), 3, "flushed: {flushes:b}");
    }
}

#[tokio::test]
async fn a_file_of_a_newer_format_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path());
    apply(&index, 1, [advertise(1, &["r/a:1"])]).await;
    index.close().await.unwrap();
    change_row(folder.path(), |row| row[0] = 9);
    let error = Index::open(&FolderDisk::open(folder.path()).unwrap()).err().unwrap();
    let IndexError::Format(format) = error else { panic!("{error}") };
    assert!(format.to_string().contains("host record has storage format 9"), "{format}");
}

#[tokio::test]
async fn a_changed_fingerprint_is_found_at_open() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path());
    apply(&index, 1, [advertise(1, &["r/a:1"])]).await;
    index.close().await.unwrap();
    change_row(folder.path(), |row| {
        let mut record: HostRecord = crate::format::STORAGE.decode("host record", row).unwrap();
        record.fingerprint.0 ^= 1;
        *row = crate::format::STORAGE.encode(crate::format::Level::FIRST, &record);
    });
    let error = Index::open(&FolderDisk::open(folder.path()).unwrap()).err().unwrap();
    assert!(matches!(error, IndexError::DamagedFile { .. }), "{error}");
    assert!(error.to_string().starts_with("state.redb is damaged (host "), "{error}");
}

/// Changes the row of host 0 behind the back of the index.
fn change_row(folder: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let disk = FolderDisk::open(folder).unwrap();
    let database = disk.database(STATE_FILE, Builder::new()).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(tables::HOSTS).unwrap();
        let mut row = table.get(0).unwrap().unwrap().value().to_vec();
        change(&mut row);
        table.insert(0, row.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

#[tokio::test]
async fn changes_tell_of_every_host_since_an_index() {
    let index = memory();
    apply(&index, 1, [advertise(1, &["r/a:1"]), advertise(2, &[]), advertise(3, &[])]).await;
    let names = |since| {
        let changes = index.hosts_changed_since(since);
        assert!(!changes.all);
        let changed: Vec<_> = changes.changed.iter().map(|host| host.holder.clone()).collect();
        (changes.index, changed, changes.gone)
    };
    assert_eq!(names(0), (3, vec![holder(1), holder(2), holder(3)], vec![]));
    let hide = Command::Hide { holder: holder(2), last_write_index: 2, unix_ms: 7 };
    let forget = Command::Forget { holder: holder(2), hidden_unix_ms: 7 };
    apply(&index, 4, [hide, forget.clone(), advertise(1, &[])]).await;
    assert_eq!(names(3), (6, vec![holder(1)], vec![holder(2)]));
    assert_eq!(names(6), (6, vec![], vec![]));
    apply(&index, 7, [advertise(2, &[]), forget]).await;
    assert_eq!(names(3), (8, vec![holder(1), holder(2)], vec![]), "it came back");
}

/// A host of one of three groups, in no order.
fn spread(n: u32) -> Holder {
    let address = std::net::Ipv4Addr::from_bits(0x0a00_0000 + n * 7_919 % 10_007);
    Holder { group: ["g", "a/b", "z"][n as usize % 3].into(), address: (address, 7781).into() }
}

/// All hosts were copied in one stretch, while writers waited and other readers for them.
#[tokio::test]
async fn hosts_and_their_changes_are_copied_in_stretches_and_none_is_missed() {
    let index = memory();
    let count = 2 * HOSTS_UNDER_LOCK_MAX as u32 + 7;
    let new = |n| Command::Advertise(Write { holder: spread(n), ..write(0, &[]) });
    apply(&index, 1, (0..count).map(new)).await;
    let mut all: Vec<Holder> = (0..count).map(spread).collect();
    let changes = index.hosts_changed_since(0);
    assert!(!changes.all);
    assert!(changes.changed.iter().map(|host| &host.holder).eq(&all), "in the order of their changes");
    let last = index.hosts_changed_since(u64::from(count) - 1);
    assert!(last.changed.iter().map(|host| &host.holder).eq(all.last()));
    all.sort();
    assert!(index.hosts(None).iter().map(|host| &host.holder).eq(&all));
    for group in ["a/b", "g", "z", "none"] {
        let of_group = || all.iter().filter(|holder| holder.group == group);
        assert!(index.hosts(Some(group)).iter().map(|host| &host.holder).eq(of_group()), "{group}");
        let after = Holder { group: group.into(), ..spread(5) };
        let page = index.hosts_after(Some(group), Some(&after), 3);
        let expected = of_group().filter(|holder| **holder > after).take(3);
        assert!(page.iter().map(|host| &host.holder).eq(expected), "{group}");
        assert_eq!(index.hosts_after(Some(group), Some(&Holder { group: "zz".into(), ..after }), 3), []);
    }
    let between = Holder { group: "b".into(), ..spread(0) };
    let page = index.hosts_after(None, Some(&between), 5);
    assert!(page.iter().map(|host| &host.holder).eq(all.iter().filter(|holder| **holder > between).take(5)));
}

#[tokio::test]
async fn a_withdrawn_pair_and_a_lower_pair_are_told_apart() {
    let index = memory();
    let with = |seq, keys: &[&str]| Write {
        pair: Some(Pair { epoch: 1, seq }),
        stores_pair: true,
        ..write(1, keys)
    };
    let late = Command::Advertise(with(1, &["r/a:1"]));
    let replies = apply(&index, 1, [late.clone(), Command::Withdraw(with(2, &["r/a:1"])), late]).await;
    let stored = Pair { epoch: 1, seq: 2 };
    assert_eq!(
        replies,
        [Reply::Applied { changed: 1 }, Reply::Applied { changed: 1 }, Reply::Stale { stored }]
    );
    assert_eq!(holders(&index, "r/a:1"), [] as [&str; 0]);
    assert_eq!(index.counts().keys, 0);
}

#[tokio::test(start_paused = true)]
async fn at_rest_nothing_is_written() {
    let disk = SimDisk::default();
    let index = Index::open(&disk).unwrap();
    let stop = CancellationToken::new();
    let flusher = index.run_flusher(FLUSH_INTERVAL, stop.clone(), || Room::Plenty);
    let test = async {
        apply(&index, 1, [advertise(1, &["r/a:1"])]).await;
        until_durable(&index).await;
        let flushed = disk.activity(STATE_FILE);
        tokio::time::sleep(FLUSH_INTERVAL * 2).await;
        assert_eq!(disk.activity(STATE_FILE), flushed, "syncs and writes");
        stop.cancel();
    };
    tokio::join!(flusher, test).0.unwrap();
}

/// openraft applies nothing while it waits for this, and a disk that is full refuses the write.
#[tokio::test]
async fn a_snapshot_for_a_follower_is_the_durable_state_and_costs_no_write() {
    let disk = SimDisk::default();
    let index = Index::open(&disk).unwrap();
    let mut machine = StateMachine::new(index.clone());
    apply(&index, 1, [advertise(1, &["r/a:1"])]).await;
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let durable = index.durable_applied();
    apply(&index, 2, [advertise(2, &["r/a:1"])]).await;
    let (syncs, writes) = disk.activity(STATE_FILE);
    disk.cut_power_at(STATE_FILE, syncs + 1);
    let snapshot = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(snapshot.meta.last_log_id, durable);
    assert_eq!(disk.activity(STATE_FILE), (syncs, writes));
    apply(&index, 3, [advertise(3, &["r/a:1"])]).await;
}

/// The changes that it took would be missing in the next flush, which might succeed.
#[tokio::test]
async fn a_flush_that_fails_when_nobody_waits_for_it_any_more_breaks_the_index_all_the_same() {
    let disk = SimDisk::default();
    let index = Index::open(&disk).unwrap();
    apply(&index, 1, [advertise(1, &["r/a:1"])]).await;
    let (syncs, _) = disk.activity(STATE_FILE);
    disk.cut_power_at(STATE_FILE, syncs + 1);
    {
        let _until_given_up = index.state();
        let gone = index.flush_durable().now_or_never();
        assert!(gone.is_none(), "the flush is begun, and nobody waits for it");
    }
    let end = std::time::Instant::now() + Duration::from_secs(30);
    let mut at = 2;
    while let Ok(_applied) = index.apply(&[entry(at, advertise(2, &["r/a:1"]))]).await {
        assert!(std::time::Instant::now() < end, "it goes on as if the flush had succeeded");
        at += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(matches!(index.flush_durable().await, Err(IndexError::Broken)));
}

#[tokio::test]
async fn a_closed_index_answers_from_memory_and_can_be_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path());
    apply(&index, 1, [advertise(1, &["r/a:1"])]).await;
    let (_, view) = SnapshotData::of(&index).await.unwrap();
    apply(&index, 2, [advertise(2, &["r/a:1"])]).await;
    index.close().await.unwrap();
    assert_eq!(holders(&index, "r/a:1").len(), 2);
    assert!(matches!(index.inventory(&holder(1)), Err(IndexError::Closed)));
    assert!(matches!(index.apply(&[entry(3, advertise(3, &[]))]).await, Err(IndexError::Closed)));
    let again = open(folder.path());
    assert_eq!(again.checksum(), index.checksum());
    drop(view);
}

/// What the crash test does, as far as the power lasts: states that were durable, in order, each
/// with its log index.
async fn live_until_the_power_is_cut(disk: &SimDisk) -> Vec<(u64, u128)> {
    let Ok(index) = Index::open(disk) else { return vec![] };
    let mut durable = vec![];
    for round in 0..4u64 {
        let keys: Vec<String> = (0..60).map(|n| format!("r/{round}:{n}")).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let commands =
            [advertise(round as u8, &keys), Command::Withdraw(write(0, &keys[..9])), advertise(9, &keys)];
        for (at, command) in commands.into_iter().enumerate() {
            if index.apply(&[entry(1 + round * 3 + at as u64, command)]).await.is_err() {
                return durable;
            }
        }
        if index.flush_durable().await.is_err() {
            return durable;
        }
        durable.push(index.checksum());
    }
    durable
}

#[tokio::test]
async fn a_power_cut_at_any_sync_leaves_a_state_that_was_durable() {
    let whole = SimDisk::default();
    let states = live_until_the_power_is_cut(&whole).await;
    assert_eq!(states.len(), 4);
    let (syncs, _) = whole.activity(STATE_FILE);
    // The syncs of redb's creation of the file: a cut there is a matter of `Disk`, not of the index.
    let created = SimDisk::default();
    let _open = created.database(STATE_FILE, Builder::new()).unwrap();
    let (creation_syncs, _) = created.activity(STATE_FILE);
    let mut cut_inside = 0;
    for sync in creation_syncs + 1..=syncs {
        let disk = SimDisk::default();
        disk.cut_power_at(STATE_FILE, sync);
        let durable = live_until_the_power_is_cut(&disk).await;
        for seed in 0..4 {
            println!("sync {sync} of {syncs}, seed {seed}");
            let after = Index::open(&disk.after_power_cut(seed));
            let found = after.unwrap().checksum();
            // The commit that was cut may have arrived whole, or not at all.
            let acknowledged = durable.len();
            let expected = [(0, 0)].into_iter().chain(states.iter().copied());
            let allowed: Vec<_> = expected.skip(acknowledged).take(2).collect();
            assert!(allowed.contains(&found), "sync {sync}, seed {seed}: {found:?} of {allowed:?}");
            cut_inside += usize::from(acknowledged < states.len());
        }
    }
    assert!(cut_inside > 8, "the power was cut inside {cut_inside} commits");
}

async fn snapshot_bytes(index: &Index) -> Vec<u8> {
    let (_, data) = SnapshotData::of(index).await.unwrap();
    data.into_chunks().unwrap().map(|chunk| chunk.unwrap().to_vec()).collect::<Vec<_>>().concat()
}

/// I2: neither batches nor restarts nor snapshots on the way make a difference, to the byte.
#[tokio::test]
async fn the_same_log_gives_the_same_state_on_every_server() {
    for seed in 0..4 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let log: Vec<Entry> = (1..600).map(|at| entry(at, random_command(&mut random, at))).collect();
        let reference = memory();
        let replies = reference.apply(&log).await.unwrap();

        let mut folder = tempfile::tempdir().unwrap();
        let mut server = open(folder.path());
        let (mut answered, mut rest) = (vec![], &log[..]);
        while !rest.is_empty() {
            let (batch, later) = rest.split_at(random.random_range(1..=rest.len().min(60)));
            answered.extend(server.apply(batch).await.unwrap());
            rest = later;
            match random.random_range(0..4) {
                0 => {
                    server.close().await.unwrap();
                    server = open(folder.path());
                }
                1 => {
                    let (meta, data) = crate::snapshot::verify(&snapshot_bytes(&server).await).unwrap();
                    folder = tempfile::tempdir().unwrap();
                    server = open(folder.path());
                    server.install(data.into_whole(&meta).unwrap()).await.unwrap();
                }
                _ => {}
            }
        }
        assert_eq!(answered, replies, "seed {seed}");
        assert_eq!(server.checksum(), reference.checksum(), "seed {seed}");
        assert_eq!(snapshot_bytes(&server).await, snapshot_bytes(&reference).await, "seed {seed}");
    }
}
