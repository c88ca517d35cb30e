//! Seeds from disks: golden values, the files of a real node, folders of images.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use piccolo::oci::Digest;
use piccolo_raft::cluster::{Env, Node, NodeConfig};
use piccolo_raft::command::{Command, Write};
use piccolo_raft::disk::FolderDisk;
use piccolo_raft::model::{Holder, Key, Pair};
use redb::{Builder, ReadableDatabase, ReadableTable, TableDefinition};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{Seed, golden, seed};
use crate::targets::{LOG_ROWS, SEGMENTS, VALUES};

pub(super) fn all() -> Vec<Seed> {
    [values(), real_node(), folders()].concat()
}

fn values() -> Vec<Seed> {
    let mut seeds = Vec::new();
    for (name, bytes) in golden("raft/tests/golden") {
        let kind = match name.as_str() {
            "host_record" | "host_record_new" => "host_record",
            "key_digest" | "key_text" => "key",
            "log_entry_advertise" => "log_entry",
            "meta_membership" => "membership",
            "node_file" => "identity",
            "replies" => "reply",
            command if command.starts_with("command_") => "command",
            _ => continue,
        };
        let kind = VALUES.iter().position(|(known, _)| *known == kind).expect("a kind of value") as u8;
        seeds.push(seed("stored_values", format!("golden-{name}"), [&[kind], &bytes[..]].concat()));
    }
    for (kind, (name, _)) in (0..).zip(VALUES) {
        // A length far beyond the bytes, and a number without an end.
        seeds.push(seed(
            "stored_values",
            format!("long-{name}"),
            [&[kind, 2, 0][..], &[0xff; 9], &[1]].concat(),
        ));
        seeds.push(seed(
            "stored_values",
            format!("endless-{name}"),
            [&[kind, 2, 0, 0][..], &[0x80; 40]].concat(),
        ));
    }
    seeds
}

/// A row in the format of [`crate::targets`].
fn row(table: u8, key: u64, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("a small value").to_le_bytes();
    [&[table][..], &key.to_le_bytes(), &length, value].concat()
}

/// Files of a node that has run for a while and closed them.
fn real_node() -> Vec<Seed> {
    let folder = tempfile::tempdir().expect("there is a place for temporary files");
    let runtime = tokio::runtime::Runtime::new().expect("the system gives threads");
    runtime.block_on(live(folder.path()));
    let node = std::fs::read(folder.path().join("node")).expect("the node knows who it is");
    let (state, log) = (folder.path().join("state.redb"), folder.path().join("log.redb"));
    let ids = ["hosts", "keys", "inventories"].into_iter().enumerate().flat_map(|(table, name)| {
        rows(&state, TableDefinition::<u32, &[u8]>::new(name), |id| (table as u8, u64::from(id)))
    });
    const META: [&str; 5] = ["applied", "membership", "tombstones", "level", "next level"];
    let meta = rows(&state, TableDefinition::<&str, &[u8]>::new("meta"), |name| {
        (3 + META.iter().position(|known| *known == name).expect("a row of ours") as u8, 0)
    });
    let state_rows: Vec<u8> = ids.chain(meta).flatten().collect();
    let segments = rows(&log, SEGMENTS, |index| (0, index));
    let log_rows = (1..).zip(LOG_ROWS).flat_map(|(number, (table, name))| {
        let named = rows(&log, table, |stored| (if stored == name { number } else { 0 }, 0));
        named.into_iter().filter(|row| row[0] != 0)
    });
    let log_rows: Vec<u8> = segments.into_iter().chain(log_rows).flatten().collect();
    // A key far away from all others.
    let far_key = [row(1, u64::from(u32::MAX), b"\x02\x00\x01\x01a"), state_rows.clone()].concat();
    vec![
        seed("stored_state", "real", state_rows),
        seed("stored_state", "far-key", far_key),
        seed("stored_log", "real", log_rows),
        seed("stored_node", "real", row(0, 0, &node)),
        seed("stored_node", "removed", [row(0, 0, &node), row(2, 0, &node[..6])].concat()),
    ]
}

async fn live(folder: &Path) {
    let config = NodeConfig {
        members: vec!["127.0.0.1:1".to_owned()],
        raft_address: Some("127.0.0.1:1".to_owned()),
        api_address: "127.0.0.1:1".to_owned(),
        disk_free_min: Some(0),
        found_after: Duration::ZERO,
        api_port: None,
    };
    let disk = Arc::new(FolderDisk::open(folder).expect("a folder of ours"));
    let env = Env::system(disk, Handle::current());
    let node = Node::start(config, env, CancellationToken::new()).await.expect("a new node starts");
    node.wait_leader(Duration::from_secs(30)).await.expect("a cluster of one has a leader");
    let holder = |n: u8| Holder { group: format!("g{}", n % 2), address: ([10, 0, 0, n], 7781).into() };
    for n in 1..6 {
        let keys = (0..n * 3).map(|k| Key::Text(format!("a/b:{k}"))).chain([Key::Sha256([n; 32])]).collect();
        let pair = Some(Pair { epoch: 1, seq: n.into() });
        let write = Write { holder: holder(n), pair, stores_pair: true, keys };
        node.propose(Command::Advertise(write)).await.expect("it is taken");
    }
    for command in [
        Command::SetHost { holder: holder(1), zone: "z".to_owned(), ttl_seconds: 90 },
        Command::Hide { holder: holder(2), last_write_index: 100, unix_ms: 7 },
        Command::Tombstone { node_id: 9 },
    ] {
        node.propose(command).await.expect("it is taken");
    }
    node.shutdown().await;
}

/// All rows of a table in the format of inputs.
fn rows<K: redb::Key + 'static>(
    file: &Path,
    table: TableDefinition<K, &'static [u8]>,
    place: impl for<'a> Fn(K::SelfType<'a>) -> (u8, u64),
) -> Vec<Vec<u8>> {
    let database = Builder::new().open(file).expect("the node has closed it");
    let transaction = database.begin_read().expect("it can be read");
    let table = transaction.open_table(table).expect("the table is there");
    let rows = table.iter().expect("it can be read").map(|stored| {
        let (key, value) = stored.expect("it can be read");
        let (table, key) = place(key.value());
        row(table, key, value.value())
    });
    rows.collect()
}

fn folders() -> Vec<Seed> {
    let digest = Digest::of(b"layer");
    let blob = row(4, 0, b"layer");
    let name = r#""annotations":{"org.opencontainers.image.ref.name":"docker.io/library/alpine:3.20"}"#;
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{digest}","size":5,{name}}}]}}"#);
    let reference = format!("k8s.io/1/layer-{digest}");
    let ingest =
        |total: &[u8]| [row(1, 0, reference.as_bytes()), row(2, 0, total), row(3, 0, b"lay")].concat();
    vec![
        seed("store_folder", "image", [row(0, 0, index.as_bytes()), blob.clone()].concat()),
        seed("store_folder", "image-without-blob", row(0, 0, index.as_bytes())),
        seed("store_folder", "ingest", [ingest(b"5"), blob].concat()),
        seed("store_folder", "ingest-unknown-total", ingest(b"0")),
        seed("store_folder", "ingest-far-total", ingest(b"18446744073709551616\n")),
        seed(
            "store_folder",
            "ingest-no-text",
            [row(1, 1, b"\xff\xfesha256:\xff"), row(2, 1, b"\x00-1")].concat(),
        ),
        seed("store_folder", "ingest-cut-letter", row(1, 2, "sha256:\u{e4}sha512:\u{e4}".as_bytes())),
    ]
}
