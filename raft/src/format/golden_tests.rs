//! What is stored and sent beside commands and rows, byte for byte as the files in `tests/golden` hold it:
//! the log's values, the small files, each frame of raft RPC, the beginning of a snapshot file; and both
//! redb files as wholes, which must be read, not written alike.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use openraft::Membership;
use openraft::entry::RaftEntry;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};
use openraft::storage::RaftLogStorage;
use openraft::{EntryPayload, RaftLogReader};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Format, Level, STORAGE, WIRE};
use crate::command::{Command, Write};
use crate::disk::FolderDisk;
use crate::index::golden_tests::golden;
use crate::index::{Index, STATE_FILE};
use crate::log::{LOG_FILE, LogStore, decode_entry, encode_entry};
use crate::model::Pair;
use crate::network::frame::{self, Message};
use crate::network::{Header, ListHash};
use crate::snapshot::file::Saved;
use crate::testing::{entry, holder, key, log_id, write};
use crate::types::{ClusterId, Entry, LogId, Member, NodeId, TypeConfig, Vote};

/// Values without an equality are compared as they show themselves.
fn golden_bytes<T: Serialize + DeserializeOwned + Debug>(format: Format, name: &str, value: &T) {
    let bytes = golden(name, &format.encode(Level::FIRST, value));
    let read = format.decode::<T>("golden file", &bytes).unwrap();
    assert_eq!(format!("{read:?}"), format!("{value:?}"), "{name}");
}

fn golden_entry(name: &str, entry: &Entry) {
    let bytes = golden(name, &encode_entry(Level::FIRST, entry));
    assert_eq!(decode_entry(&bytes).unwrap(), *entry, "{name}");
}

fn golden_frame<M: Message + Debug>(name: &str, message: &M) {
    let bytes = golden(name, &message.frame(&header(), Level::FIRST));
    let read = frame::read::<M>(&bytes).unwrap();
    assert_eq!(format!("{:?}", (read.header, read.message)), format!("{:?}", (header(), message)), "{name}");
}

fn header() -> Header {
    Header { cluster_id: ClusterId(0xfeed), list_hash: ListHash(0xbee), sender: 1, target: 2 }
}

fn members() -> Membership<NodeId, Member> {
    let member =
        |name: &str| Member { raft_address: format!("{name}:7790"), api_address: format!("{name}:7789") };
    let nodes = BTreeMap::from([(1, member("a")), (2, member("b"))]);
    Membership::new(vec![BTreeSet::from([1]), BTreeSet::from([1, 2])], nodes).unwrap()
}

#[test]
fn values_of_the_log_are_written_as_ever() {
    golden_bytes(STORAGE, "log_format", &());
    golden_bytes(STORAGE, "log_id_of_file", &0x0123_4567_89ab_cdef_u128);
    golden_bytes::<Vote>(STORAGE, "log_vote", &Vote::new(3, 1));
    golden_bytes::<Vote>(STORAGE, "log_vote_committed", &Vote::new_committed(3, u64::MAX));
    // Also of what is purged.
    golden_bytes::<LogId>(STORAGE, "log_committed", &log_id(1_000_000));
    golden_entry("log_entry_blank", &Entry::new_blank(log_id(7)));
    golden_entry("log_entry_membership", &Entry::new_membership(log_id(8), members()));
}

#[test]
fn small_files_are_written_as_ever() {
    golden_bytes(STORAGE, "file_log_id", &0x0123_4567_89ab_cdef_u128);
    golden_bytes(STORAGE, "file_adopted", &ClusterId(0xfeed));
    golden_bytes::<NodeId>(STORAGE, "file_removed", &u64::MAX);
    let at = |ip: &str| ip.parse::<IpAddr>().unwrap();
    let addresses = BTreeMap::from([("a".to_owned(), at("10.0.0.1")), ("b".to_owned(), at("fd00::1"))]);
    golden_bytes(STORAGE, "file_addresses", &addresses);
    let saved = Saved {
        cluster_id: ClusterId(0xfeed),
        node_id: 7,
        unix_ms: 1_700_000_000_000,
        version: "0.1.0".to_owned(),
    };
    golden("snapshot_file_begin", &saved.to_bytes(Level::FIRST));
}

#[test]
fn frames_are_written_as_ever() {
    let vote: Vote = Vote::new(3, 1);
    let append = AppendEntriesRequest::<TypeConfig> {
        vote,
        prev_log_id: None,
        entries: vec![Entry::new_blank(log_id(1)), Entry::new_membership(log_id(2), members())],
        leader_commit: None,
    };
    golden_frame("rpc_append_first", &append);
    let pre_vote = VoteRequest::<TypeConfig>::new(vote, None);
    golden_frame("rpc_pre_vote", &pre_vote);
    let transfer = TransferLeaderRequest::<TypeConfig>::new(Vote::new_committed(3, 1), 2, Some(log_id(8)));
    golden_frame("rpc_transfer", &transfer);
    golden_frame("rpc_standing", &None::<String>);
    golden_frame("rpc_standing_claim", &Some("a:7790".to_owned()));
    golden_frame("rpc_snapshot_preface", &Vote::new_committed(3, 1));
}

#[test]
fn answers_are_written_as_ever() {
    type Append = AppendEntriesResponse<TypeConfig>;
    golden_bytes(WIRE, "rpc_append_success", &Append::Success);
    golden_bytes(WIRE, "rpc_append_partial", &Append::PartialSuccess(Some(log_id(8))));
    golden_bytes(WIRE, "rpc_append_conflict", &Append::Conflict);
    golden_bytes(WIRE, "rpc_append_higher", &Append::HigherVote(Vote::new(4, 2)));
    let vote: Vote = Vote::new(3, 1);
    golden_bytes(WIRE, "rpc_vote_answer", &VoteResponse::<TypeConfig>::new(vote, Some(log_id(8)), true));
    golden_bytes(WIRE, "rpc_snapshot_answer", &SnapshotResponse::<TypeConfig>::new(vote));
}

fn golden_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Both files as a server of the first format left them, in a folder that may be written to.
fn golden_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in [LOG_FILE, STATE_FILE] {
        std::fs::copy(golden_path(name), folder.path().join(name)).unwrap();
    }
    folder
}

/// What is in both.
fn entries() -> Vec<Entry> {
    let pair = Some(Pair { epoch: 1_700_000_000_000, seq: 3 });
    let keys = vec![key("r/a:1"), key(&format!("sha256:{}", "ab".repeat(32)))];
    let commands = [
        Command::Advertise(Write { pair, stores_pair: true, ..Write { keys, ..write(1, &[]) } }),
        Command::Advertise(write(2, &["r/a:1", "r/b:1"])),
        Command::SetHost { holder: holder(1), zone: "rack-7".into(), ttl_seconds: 90 },
        Command::Hide { holder: holder(2), last_write_index: 3, unix_ms: 1_700_000_000_000 },
        Command::Tombstone { node_id: 9 },
    ];
    let first = [Entry::new_membership(log_id(0), members()), Entry::new_blank(log_id(1))];
    first.into_iter().chain((2..).zip(commands).map(|(at, command)| entry(at, command))).collect()
}

#[tokio::test]
async fn whole_files_of_the_first_format_are_read() {
    let folder = golden_folder();
    let disk = FolderDisk::open(folder.path()).unwrap();
    let mut log = LogStore::open(&disk).unwrap();
    assert_eq!(log.vote(), Some(Vote::new_committed(1, 1)));
    assert_eq!(log.purged(), Some(log_id(0)));
    assert_eq!(log.read_committed().await.unwrap(), Some(log_id(5)));
    assert_eq!(log.try_get_log_entries(0..).await.unwrap(), entries()[1..]);
    log.check_note(&disk).unwrap();

    let index = Index::open(&disk).unwrap();
    let expected = Index::open(&crate::disk::MemoryDisk::default()).unwrap();
    expected.apply(&entries()).await.unwrap();
    assert_eq!(index.applied_state(), expected.applied_state());
    assert_eq!((index.checksum(), index.hosts(None)), (expected.checksum(), expected.hosts(None)));
    for host in index.hosts(None) {
        let inventory = |index: &Index| index.inventory(&host.holder).unwrap();
        assert_eq!(inventory(&index), inventory(&expected));
    }
    assert!(index.is_tombstone(9));
    assert!(matches!(entries()[0].payload, EntryPayload::Membership(_)));
    // And they go on.
    let next = entry(7, Command::Unhide { holder: holder(2) });
    index.apply(std::slice::from_ref(&next)).await.unwrap();
    index.flush_durable().await.unwrap();
}

/// How the whole files came to be; by hand, with another format.
#[tokio::test]
#[ignore = "writes the golden files, into the folder that GOLDEN_FOLDER names"]
async fn write_whole_files() {
    let folder = PathBuf::from(std::env::var("GOLDEN_FOLDER").expect("a folder for the files"));
    let disk = FolderDisk::open(&folder).unwrap();
    let mut log = LogStore::open(&disk).unwrap();
    let index = Index::open(&disk).unwrap();
    log.save_vote(&Vote::new_committed(1, 1)).await.unwrap();
    for entry in entries() {
        if entry.log_id.index == 6 {
            log.save_committed(Some(log_id(5))).await.unwrap();
        }
        openraft::storage::RaftLogStorageExt::blocking_append(&mut log, [entry]).await.unwrap();
    }
    index.apply(&entries()).await.unwrap();
    log.purge(log_id(0)).await.unwrap();
    log.close().await;
    index.close().await.unwrap();
}
