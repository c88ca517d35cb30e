//! Snapshots: what is sent arrives, and nothing else is accepted.

use super::*;
use crate::command::Command;
use crate::disk::MemoryDisk;
use crate::limits::RECORD_BYTES_MAX;
use crate::testing::{entry, holder, key, log_id, write};

fn index() -> Index {
    Index::open(&MemoryDisk::default()).unwrap()
}

/// Hosts, hidden and not, a forgotten one before them (so that ids have gaps), a tombstone.
async fn filled() -> Index {
    let index = index();
    let many: Vec<String> = (0..20_000).map(|n| format!("r/many:{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let commands = [
        Command::Advertise(write(1, &["r/gone:1"])),
        Command::Advertise(write(2, &["r/a:1", "r/b:1"])),
        Command::Hide { holder: holder(1), last_write_index: 1, unix_ms: 5 },
        Command::Forget { holder: holder(1), hidden_unix_ms: 5 },
        Command::Advertise(write(3, &many)),
        Command::Advertise(write(4, &["r/a:1"])),
        Command::Hide { holder: holder(4), last_write_index: 6, unix_ms: 9 },
        Command::SetHost { holder: holder(2), zone: "z".into(), ttl_seconds: 90 },
        Command::Advertise(write(5, &[])),
        Command::Tombstone { node_id: 77 },
    ];
    let entries: Vec<_> = (1..).zip(commands).map(|(at, command)| entry(at, command)).collect();
    index.apply(&entries).await.unwrap();
    index
}

async fn bytes(index: &Index) -> Vec<u8> {
    let (_, data) = SnapshotData::of(index).await.unwrap();
    let chunks: Vec<Bytes> = data.into_chunks().unwrap().map(Result::unwrap).collect();
    assert!(chunks.iter().all(|chunk| chunk.len() < CHUNK_BYTES + RECORD_BYTES_MAX));
    chunks.concat()
}

async fn install(index: &Index, bytes: &[u8]) {
    let (meta, data) = verify(bytes).unwrap();
    index.install(data.into_whole(&meta).unwrap()).await.unwrap();
}

#[tokio::test]
async fn an_installed_snapshot_is_the_state_that_was_sent() {
    let (sender, receiver) = (filled().await, index());
    receiver.apply(&[entry(1, Command::Advertise(write(9, &["r/old:1"])))]).await.unwrap();
    let sent = bytes(&sender).await;
    install(&receiver, &sent).await;
    assert_eq!(receiver.checksum(), sender.checksum());
    assert_eq!(receiver.hosts(None), sender.hosts(None));
    assert_eq!(receiver.applied_state(), sender.applied_state());
    assert_eq!(receiver.durable_applied(), sender.applied_state().0);
    assert_eq!(receiver.counts(), sender.counts());
    assert!(receiver.is_tombstone(77));
    for host in [2, 3, 4, 5] {
        assert_eq!(receiver.inventory(&holder(host)).unwrap(), sender.inventory(&holder(host)).unwrap());
    }
    assert_eq!(receiver.inventory(&holder(9)).unwrap(), None);
    assert_eq!(bytes(&receiver).await, sent, "to the byte");
    // Ids are the same too: what is applied next gives the same bytes.
    let next = [entry(11, Command::Advertise(write(6, &["r/new:1", "r/new:2"])))];
    sender.apply(&next).await.unwrap();
    receiver.apply(&next).await.unwrap();
    assert_eq!(receiver.checksum(), sender.checksum());
    assert_eq!(bytes(&receiver).await, bytes(&sender).await);
}

#[tokio::test]
async fn an_empty_state_can_be_sent_too() {
    let (sender, receiver) = (index(), filled().await);
    let sent = bytes(&sender).await;
    install(&receiver, &sent).await;
    assert_eq!(receiver.counts(), sender.counts());
    assert_eq!(receiver.find("g", &key("r/a:1"), |found| found.len()), None);
}

#[tokio::test]
async fn a_view_stays_as_it_was_while_writes_go_on() {
    let index = filled().await;
    let before = bytes(&index).await;
    let (meta, view) = SnapshotData::of(&index).await.unwrap();
    index.apply(&[entry(11, Command::Advertise(write(2, &["r/late:1"])))]).await.unwrap();
    let streamed: Vec<Bytes> = view.into_chunks().unwrap().map(Result::unwrap).collect();
    assert_eq!(streamed.concat(), before);
    assert_eq!(meta.last_log_id.unwrap().index, 10);
}

#[tokio::test]
async fn what_a_snapshot_says_is_durable() {
    let index = filled().await;
    assert_eq!(index.durable_applied(), None);
    let (meta, _) = SnapshotData::of(&index).await.unwrap();
    assert_eq!(meta.last_log_id, Some(log_id(10)));
    assert_eq!(index.durable_applied(), meta.last_log_id);
}

#[tokio::test]
async fn pieces_of_any_size_are_taken() {
    let sent = bytes(&filled().await).await;
    for size in [1, 3, 4_096, 1_000_000] {
        let mut receiver = Receiver::default();
        sent.chunks(size).for_each(|piece| receiver.push(piece).unwrap());
        let (meta, _) = receiver.finish().unwrap();
        assert_eq!(meta.last_log_id.unwrap().index, 10, "pieces of {size}");
    }
}

#[tokio::test]
async fn a_changed_or_cut_snapshot_is_refused() {
    let sent = bytes(&filled().await).await;
    for cut in [0, 1, 2, 5, sent.len() / 2, sent.len() - 1] {
        assert!(verify(&sent[..cut]).is_err(), "cut at {cut}");
    }
    for position in (0..sent.len()).step_by(sent.len() / 97) {
        let mut changed = sent.clone();
        changed[position] ^= 0x11;
        assert!(verify(&changed).is_err(), "byte {position} changed");
    }
    let longer = [&sent[..], &[0]].concat();
    assert!(verify(&longer).is_err());
}

#[tokio::test]
async fn a_newer_snapshot_is_refused_by_name() {
    let mut sent = bytes(&filled().await).await;
    sent[0] = 9;
    let error = verify(&sent).err().unwrap();
    let SnapshotError::Format(format) = error else { panic!("{error}") };
    assert!(format.to_string().contains("snapshot has storage format 9"), "{format}");
}

/// A sender with a bug, or a liar: the hash is right, the content is not.
#[test]
fn what_does_not_fit_together_is_refused_even_with_the_right_hash() {
    let header = |hosts, keys, pairs| {
        let applied = Applied { hosts, keys, pairs, ..Applied::default() };
        Record::Header(Box::new(Header {
            applied,
            membership: Default::default(),
            tombstones: Default::default(),
            levels: Default::default(),
        }))
    };
    let host = |id| Record::Host { id, record: Box::new(HostRecord::new(holder(1))) };
    let keys = || Record::Keys(vec![(0, key("r/a:1"))]);
    let ids = |ids: &[u32]| {
        let mut bytes = Vec::new();
        inventory::encode_ids(ids, &mut bytes);
        Record::Inventory(bytes)
    };
    for (reason, records) in [
        ("out of order", vec![host(0)]),
        ("out of order", vec![header(0, 0, 0), header(0, 0, 0)]),
        ("an inventory without a host", vec![header(0, 0, 0), ids(&[])]),
        ("host 0 has the unknown key 3", vec![header(1, 0, 1), host(0), ids(&[3])]),
        ("nobody has key 0", vec![header(0, 1, 0), keys()]),
        (
            "key 4294967295 is past the last id",
            vec![header(0, 1, 0), Record::Keys(vec![(u32::MAX, key("r/a:1"))])],
        ),
        ("host 788529154 is past the last id", vec![header(1, 0, 0), host(788_529_154)]),
        ("key 0 is there twice", vec![header(0, 1, 0), keys(), keys()]),
        ("its record says 0 with", vec![header(1, 1, 1), keys(), host(0), ids(&[0])]),
        ("host 10.0.0.1:7781 is there twice", vec![header(2, 0, 0), host(0), host(1)]),
        ("an inventory is not sorted", vec![header(1, 1, 2), keys(), host(0), ids(&[1]), ids(&[0])]),
        ("its header says", vec![header(1, 0, 0), host(0)]),
        ("its SHA-256 does not match", vec![header(0, 0, 0), Record::End { sha256: [0; 32] }]),
    ] {
        let mut chunks =
            Chunks { next: Stage::Done, rows: Rows { tables: None }, hash: Sha256::new(), noted: 0 };
        let mut bytes = Vec::new();
        chunks.write(&mut bytes, |bytes| bytes.extend(STORAGE.at(crate::format::Level::FIRST).to_le_bytes()));
        records.iter().for_each(|record| chunks.record(&mut bytes, record));
        chunks.next = Stage::Hosts;
        chunks.advance(&mut bytes).unwrap();
        let error = verify(&bytes).err().unwrap();
        let message = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
        let message: Vec<String> = message.map(ToString::to_string).collect();
        assert!(message.join(": ").contains(reason), "{message:?}, expected {reason}");
    }
}

/// It was copied whole at each byte: 1 MiB so was half a terabyte of copying.
#[test]
fn a_record_that_comes_byte_by_byte_is_put_together_once() {
    const RECORD_BYTES: usize = 1024 * 1024;
    let mut receiver = Receiver::default();
    receiver.push(&STORAGE.at(crate::format::Level::FIRST).to_le_bytes()).unwrap();
    receiver.push(&(RECORD_BYTES as u32).to_le_bytes()).unwrap();
    for _ in 1..RECORD_BYTES {
        receiver.push(&[0xff]).unwrap();
    }
    let error = receiver.push(&[0xff]).unwrap_err().to_string();
    assert!(error.contains("a record is unreadable"), "{error}");
}
