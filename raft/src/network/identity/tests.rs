//! Tests of a node's identity: what its file keeps, and which messages are for the node.

use std::sync::Barrier;

use super::*;
use crate::disk::{FolderDisk, MemoryDisk};
use crate::random::SystemRandom;

fn load(disk: &MemoryDisk, list: &[&str]) -> Identity {
    let list = list.iter().map(|entry| (*entry).to_owned()).collect();
    let (disk, api) = (Arc::new(disk.clone()), "a:7789".to_owned());
    Identity::load(disk, &SystemRandom, list, None, api, false, Active::default()).unwrap()
}

#[test]
fn an_identity_survives_a_restart_with_another_nonce() {
    let disk = MemoryDisk::default();
    let first = load(&disk, &["b:1", "a:1"]);
    first.adopt(ClusterId(7)).unwrap();
    first.adopt(ClusterId(8)).unwrap();
    let second = load(&disk, &["a:1", "b:1"]);
    assert_eq!((second.node_id, second.cluster_id()), (first.node_id, Some(ClusterId(7))));
    assert_eq!(second.list_hash, first.list_hash);
    assert_ne!(second.boot_nonce, first.boot_nonce);
}

/// A vote and an append of a new leader came at the same time, each renamed the other's temporary file away, and
/// the server ended.
#[test]
fn messages_that_arrive_together_adopt_a_cluster_once() {
    for _ in 0..50 {
        let folder = tempfile::tempdir().unwrap();
        let disk = Arc::new(FolderDisk::open(folder.path()).unwrap());
        let api = "a:7789".to_owned();
        let node = Identity::load(disk, &SystemRandom, vec![], None, api, false, Active::default()).unwrap();
        let together = Barrier::new(4);
        std::thread::scope(|scope| {
            let adopt = || {
                together.wait();
                node.adopt_from_message(ClusterId(7)).unwrap();
            };
            for _ in 0..4 {
                scope.spawn(adopt);
            }
        });
        assert!(node.is_adopted());
    }
}

#[test]
fn what_came_by_a_message_is_told_from_what_was_founded() {
    let disk = MemoryDisk::default();
    let node = load(&disk, &["a:1"]);
    assert!(!node.is_adopted());
    node.adopt_from_message(ClusterId(7)).unwrap();
    assert!(node.is_adopted() && load(&disk, &["a:1"]).is_adopted());
    let founder = load(&MemoryDisk::default(), &["a:1"]);
    founder.adopt(ClusterId(7)).unwrap();
    founder.adopt_from_message(ClusterId(7)).unwrap();
    assert!(!founder.is_adopted());
    // A power cut between the two files: it belongs to nobody yet.
    let disk = MemoryDisk::default();
    disk.write(ADOPTED_FILE, &STORAGE.encode(Level::FIRST, &ClusterId(7))).unwrap();
    let node = load(&disk, &["a:1"]);
    assert!(!node.is_adopted() && node.cluster_id().is_none());
}

#[test]
fn a_joining_node_waits_for_one_cluster() {
    let node = load(&MemoryDisk::default(), &[]);
    let header =
        Header { cluster_id: ClusterId(7), list_hash: node.list_hash, sender: 1, target: node.node_id };
    assert_eq!(node.check(&header), Ok(true));
    node.wait_for(ClusterId(8));
    assert!(matches!(node.check(&header), Err(Misdirected::Cluster { is: ClusterId(8), .. })));
    assert_eq!(node.check(&Header { cluster_id: ClusterId(8), ..header }), Ok(true));
}

#[test]
fn a_removal_is_noted_for_the_next_start_and_only_the_right_words_count() {
    let disk = MemoryDisk::default();
    let node = load(&disk, &["a:1"]);
    node.adopt(ClusterId(7)).unwrap();
    assert!(!node.was_removed().unwrap());
    let gone = |status, reason: String| CallError::Refused { address: "b:1".to_owned(), status, reason };
    let words = removed_text(node.node_id, ClusterId(7));
    assert!(!node.hear(&gone(StatusCode::GONE, "gone".to_owned())));
    assert!(!node.hear(&gone(StatusCode::GONE, removed_text(node.node_id, ClusterId(8)))));
    assert!(!node.hear(&gone(StatusCode::MISDIRECTED_REQUEST, words.clone())));
    assert!(!node.removed().latest());
    assert!(node.hear(&gone(StatusCode::GONE, words)));
    assert!(node.removed().latest());
    node.store_removed().unwrap();
    assert!(load(&disk, &["a:1"]).was_removed().unwrap());
}

#[test]
fn a_guessed_host_of_the_api_becomes_that_of_the_own_entry() {
    let named = |api_host_follows| {
        let api_address = "10.0.0.9:7789".to_owned();
        let names = NodeNames { api_address, api_host_follows, ..NodeNames::default() };
        let node = load(&MemoryDisk::default(), &[]).named(names);
        node.set_raft_address("[fd00::1]:7790");
        (node.raft_address().unwrap(), node.api_address())
    };
    assert_eq!(named(true), ("[fd00::1]:7790".to_owned(), "[fd00::1]:7789".to_owned()));
    assert_eq!(named(false).1, "10.0.0.9:7789");
}

#[test]
fn a_log_without_an_identity_is_refused() {
    let disk = Arc::new(MemoryDisk::default());
    let error = Identity::load(disk, &SystemRandom, vec![], None, String::new(), true, Active::default())
        .unwrap_err();
    assert!(error.to_string().contains("raft log but no file node"), "{error}");
}

#[test]
fn only_messages_to_this_node_of_this_cluster_pass() {
    let node = load(&MemoryDisk::default(), &["a:1", "b:1"]);
    let header =
        Header { cluster_id: ClusterId(7), list_hash: node.list_hash, sender: 1, target: node.node_id };
    assert_eq!(node.check(&header), Ok(true));
    assert!(matches!(node.check(&Header { target: 5, ..header }), Err(Misdirected::Target { asked: 5, .. })));
    let other_list = Header { list_hash: ListHash::of(&[]), ..header };
    assert!(matches!(node.check(&other_list), Err(Misdirected::List { .. })));
    node.adopt(ClusterId(7)).unwrap();
    assert_eq!(node.check(&header), Ok(false));
    assert_eq!(node.check(&other_list), Ok(false), "the list is compared between pristine nodes only");
    let other = Header { cluster_id: ClusterId(8), ..header };
    assert!(matches!(node.check(&other), Err(Misdirected::Cluster { .. })));
}

#[test]
fn the_first_format_of_the_node_file_is_read() {
    let file = NodeFile { node_id: 0x1234_5678_9abc, cluster_id: Some(ClusterId(0xfeed)) };
    let golden = include_str!("../../../tests/golden/node_file.hex").trim();
    let hex: String = STORAGE.encode(Level::FIRST, &file).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden);
}

#[test]
fn whoami_keeps_its_json() {
    let whoami = Whoami {
        node_id: u64::MAX,
        boot_nonce: 2,
        cluster_id: Some(ClusterId(0xfeed).to_string()),
        list_hash: ListHash(1).to_string(),
        list: vec!["a:7790".to_owned(), "b:7790".to_owned()],
        raft_address: Some("a:7790".to_owned()),
        api_address: "a:7789".to_owned(),
        reads: Reads::levels(Level::FIRST, Level::FIRST),
        level: Some(Level::FIRST),
        last_log_index: None,
        last_log_term: None,
        disk: None,
        missed_by: None,
    };
    let golden = include_str!("../../../tests/golden/whoami.json").trim();
    assert_eq!(serde_json::to_string(&whoami).unwrap(), golden);
    let newer = golden.replacen('{', "{\"of_a_newer_build\":true,", 1);
    assert_eq!(serde_json::from_str::<Whoami>(&newer).unwrap(), whoami);
}
