//! The index as a whole: on disk and in memory.

use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::{Builder, ReadableTable};

use super::*;
use crate::command::{Command, Pair, Reply, Write};
use crate::disk::{FolderDisk, MemoryDisk};
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

#[tokio::test]
async fn the_flusher_makes_news_durable_within_its_interval_and_at_the_stop() {
    let index = memory();
    let stop = CancellationToken::new();
    let flusher = index.run_flusher(stop.clone(), || true);
    let test = async {
        apply(&index, 1, [advertise(1, &["r/a:1"])]).await;
        while index.durable_applied() != index.applied_state().0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        apply(&index, 2, [advertise(2, &["r/a:1"])]).await;
        stop.cancel();
    };
    let both = tokio::time::timeout(FLUSH_INTERVAL * 5, async { tokio::join!(flusher, test) });
    both.await.expect("flushed in time").0.unwrap();
    assert_eq!(index.durable_applied(), index.applied_state().0, "flushed once more at the stop");
}

#[tokio::test]
async fn a_file_of_a_newer_format_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path());
    apply(&index, 1, [advertise(1, &["r/a:1"])]).await;
    drop(index);
    change_row(folder.path(), |row| row[0] = 9);
    let error = Index::open(&FolderDisk::open(folder.path()).unwrap()).err().unwrap();
    let IndexError::Format(format) = error else { panic!("{error}") };
    assert!(format.to_string().contains("host record has format 9"), "{format}");
}

#[tokio::test]
async fn a_changed_fingerprint_is_found_at_open() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path());
    apply(&index, 1, [advertise(1, &["r/a:1"])]).await;
    drop(index);
    change_row(folder.path(), |row| {
        let mut record: HostRecord = crate::format::decode("host record", row).unwrap();
        record.fingerprint.0 ^= 1;
        *row = crate::format::encode(&record);
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

#[tokio::test]
async fn at_rest_nothing_is_written() {
    let disk = SimDisk::default();
    let index = Index::open(&disk).unwrap();
    let stop = CancellationToken::new();
    let flusher = index.run_flusher(stop.clone(), || true);
    let test = async {
        apply(&index, 1, [advertise(1, &["r/a:1"])]).await;
        while index.durable_applied() != index.applied_state().0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let flushed = disk.activity(STATE_FILE);
        tokio::time::sleep(FLUSH_INTERVAL * 2).await;
        assert_eq!(disk.activity(STATE_FILE), flushed, "syncs and writes");
        stop.cancel();
    };
    tokio::join!(flusher, test).0.unwrap();
}

#[tokio::test]
async fn a_closed_index_answers_from_memory_and_can_be_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path());
    apply(&index, 1, [advertise(1, &["r/a:1"])]).await;
    let (_, view) = index.snapshot().await.unwrap();
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
    let (_, data) = index.snapshot().await.unwrap();
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
                    server.install(data.into_received(&meta).unwrap()).await.unwrap();
                }
                _ => {}
            }
        }
        assert_eq!(answered, replies, "seed {seed}");
        assert_eq!(server.checksum(), reference.checksum(), "seed {seed}");
        assert_eq!(snapshot_bytes(&server).await, snapshot_bytes(&reference).await, "seed {seed}");
    }
}
