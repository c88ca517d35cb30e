//! Every stored format, byte for byte, as the files in `tests/golden` hold it. A change that breaks
//! one needs a new format version, and a reader of the old one.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::path::Path;

use openraft::Membership;
use serde::{Serialize, de::DeserializeOwned};

use super::*;
use crate::command::{Command, Reply, Write};
use crate::disk::MemoryDisk;
use crate::format::{ENTRY, Format, Level, Next, STORAGE};
use crate::model::{Fingerprint, Pair};
use crate::snapshot::SnapshotData;
use crate::testing::{entry, holder, key, log_id, write};
use crate::types::Member;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Compares with the golden file and gives its bytes to be read.
pub(crate) fn golden(name: &str, written: &[u8]) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{name}.hex"));
    let file = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(hex(written), file.trim(), "left: what today's code writes; right: {}", path.display());
    let digits = file.trim().as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

fn golden_value<T: Serialize + DeserializeOwned + PartialEq + Debug>(format: Format, name: &str, value: &T) {
    let bytes = golden(name, &format.encode(Level::FIRST, value));
    assert_eq!(format.decode::<T>("golden file", &bytes).unwrap(), *value, "{name}");
}

fn ipv6_holder() -> Holder {
    Holder { group: "default".into(), address: "[fd00::1]:7781".parse().unwrap() }
}

fn digest() -> Key {
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08".parse().unwrap()
}

#[test]
fn commands_are_written_as_ever() {
    let pair = Some(Pair { epoch: 1_700_000_000_000, seq: 300 });
    let keys = vec![digest(), key("registry.example/library/app:1.0")];
    let full = Write { holder: ipv6_holder(), pair, stores_pair: true, keys };
    golden_value(ENTRY, "command_advertise", &Command::Advertise(full));
    golden_value(ENTRY, "command_withdraw", &Command::Withdraw(write(1, &["r/a:1"])));
    let set_host = Command::SetHost { holder: holder(1), zone: "rack-7".into(), ttl_seconds: 90 };
    golden_value(ENTRY, "command_set_host", &set_host);
    let hide = Command::Hide { holder: holder(1), last_write_index: 1_000_000, unix_ms: 1_700_000_000_000 };
    golden_value(ENTRY, "command_hide", &hide);
    golden_value(ENTRY, "command_unhide", &Command::Unhide { holder: ipv6_holder() });
    let forget = Command::Forget { holder: holder(1), hidden_unix_ms: 1_700_000_000_000 };
    golden_value(ENTRY, "command_forget", &forget);
    golden_value(ENTRY, "command_tombstone", &Command::Tombstone { node_id: u64::MAX });
    golden_value(ENTRY, "command_activate", &Command::Activate { level: Level(300) });
    golden_value(ENTRY, "command_readable", &Command::Readable { level: Level(2), seconds: 86_400 });
}

#[test]
fn replies_are_written_as_ever() {
    let replies = vec![
        Reply::None,
        Reply::Applied { changed: 300 },
        Reply::Stale { stored: Pair { epoch: 7, seq: 8 } },
        Reply::UnknownHost,
        Reply::NotApplicable,
        Reply::BeyondLevel { needs: Level(2), active: Level::FIRST },
    ];
    golden_value(STORAGE, "replies", &replies);
}

#[test]
fn rows_are_written_as_ever() {
    let record = HostRecord {
        holder: ipv6_holder(),
        zone: "rack-7".into(),
        ttl_seconds: 90,
        pair: Some(Pair { epoch: 1_700_000_000_000, seq: 300 }),
        fingerprint: [&digest()].into_iter().collect(),
        count: 1,
        last_write_index: 1_000_000,
        hidden_unix_ms: Some(1_700_000_000_001),
    };
    golden_value(STORAGE, "host_record", &record);
    golden_value(STORAGE, "host_record_new", &HostRecord::new(holder(1)));
    golden_value(STORAGE, "key_digest", &digest());
    golden_value(STORAGE, "key_text", &key("registry.example/library/app:1.0"));
    let ids = [0, 1, 127, 128, 300, 70_000, u32::MAX];
    assert_eq!(inventory::decode(&golden("inventory", &inventory::encode(Level::FIRST, &ids))).unwrap(), ids);
    golden_value(STORAGE, "meta_tombstones", &BTreeSet::from([1u64, 2, u64::MAX]));
    let applied = tables::Applied { log_id: Some(log_id(300)), checksum: 7, hosts: 1, keys: 2, pairs: 3 };
    golden_value(STORAGE, "meta_applied", &applied);
    golden_value(STORAGE, "meta_membership", &membership());
    golden_value(STORAGE, "meta_next_level", &Some(Next { level: Level(2), seconds: 86_400 }));
}

fn membership() -> StoredMembership {
    let member = Member { raft_address: "a:7790".into(), api_address: "a:7789".into() };
    let nodes =
        BTreeMap::from([(1u64, member.clone()), (2, Member { raft_address: "b:7790".into(), ..member })]);
    let membership = Membership::new(vec![BTreeSet::from([1])], nodes).unwrap();
    StoredMembership::new(Some(log_id(3)), membership)
}

#[tokio::test]
async fn a_snapshot_is_written_as_ever() {
    let index = Index::open(&MemoryDisk::default()).unwrap();
    let commands = [
        Command::Advertise(write(1, &["r/a:1", "r/b:1"])),
        Command::Advertise(Write { keys: vec![digest()], ..write(2, &[]) }),
        Command::Hide { holder: holder(2), last_write_index: 2, unix_ms: 1_700_000_000_000 },
        Command::Tombstone { node_id: 9 },
    ];
    let entries: Vec<_> = (1..).zip(commands).map(|(at, command)| entry(at, command)).collect();
    index.apply(&entries).await.unwrap();
    let (_, data) = SnapshotData::of(&index).await.unwrap();
    let chunks: Vec<_> = data.into_chunks().unwrap().map(Result::unwrap).collect();
    let bytes = golden("snapshot", &chunks.concat());
    let (meta, data) = crate::snapshot::verify(&bytes).unwrap();
    assert_eq!(meta.last_log_id, Some(log_id(4)));
    let reader = Index::open(&MemoryDisk::default()).unwrap();
    reader.install(data.into_whole(&meta).unwrap()).await.unwrap();
    assert_eq!(reader.hosts(None), index.hosts(None));
    assert_eq!(reader.checksum(), index.checksum());
    let sum: Fingerprint = [&digest()].into_iter().collect();
    assert_eq!(reader.host(&holder(2)).unwrap().fingerprint, sum);
}
