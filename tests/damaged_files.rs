//! The real binary with damaged, missing or newer files in its data folder: it refuses them with a clear
//! message, and the server can be restored.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/site.rs"]
mod site;

use std::fs;
use std::path::Path;

use cluster::{Server, agree, run, text, three};
use redb::{ReadableTable, TableDefinition};
use tempfile::TempDir;

const KEY: &str = "registry.example/app:v1";
const BY_TEXT: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");

/// A change of a folder, and the server's message for it.
struct Case {
    name: &'static str,
    damage: fn(&Path),
    says: &'static str,
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

/// Truncates a file to half.
fn cut(path: &Path) {
    change(path, |bytes| bytes.truncate(bytes.len() / 2));
}

/// Flips one bit of the first occurrence of the key.
fn flip(path: &Path) {
    change(path, |bytes| {
        let at = bytes.windows(KEY.len()).position(|window| window == KEY.as_bytes()).unwrap();
        bytes[at + 3] ^= 1;
    });
}

fn newer(path: &Path) {
    change(path, |bytes| bytes[0] = 9);
}

/// Changes a value to a newer format, in the table with names.
fn newer_value(path: &Path, row: &str) {
    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(BY_TEXT).unwrap();
        let mut value = table.get(row).unwrap().unwrap().value().to_vec();
        value[0] = 9;
        table.insert(row, value.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

/// Changes the first row of a table with numbers to a newer format.
fn newer_row(path: &Path, table: &str) {
    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut table = transaction.open_table(TableDefinition::<u32, &[u8]>::new(table)).unwrap();
        let (id, mut value) =
            table.first().unwrap().map(|(id, value)| (id.value(), value.value().to_vec())).unwrap();
        value[0] = 9;
        table.insert(id, value.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

/// Changes the last entries of the log to a newer format.
fn newer_entries(path: &Path) {
    const TAIL: TableDefinition<&str, &[u8]> = TableDefinition::new("tail");
    let database = redb::Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    {
        let mut tail = transaction.open_table(TAIL).unwrap();
        let mut value = tail.get("entries").unwrap().unwrap().value().to_vec();
        value[0] = 9;
        tail.insert("entries", value.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

const NEWER: &str = "start a newer piccolo";

#[rustfmt::skip]
const CASES: &[Case] = &[
    Case { name: "a cut log", damage: |folder| cut(&folder.join("log.redb")), says: "log.redb is damaged (" },
    Case { name: "a cut state", damage: |folder| cut(&folder.join("state.redb")), says: "state.redb is damaged (" },
    Case {
        name: "an empty log",
        damage: |folder| fs::write(folder.join("log.redb"), "").unwrap(),
        says: "log.redb is damaged (it is empty)",
    },
    Case {
        name: "an empty state",
        damage: |folder| fs::write(folder.join("state.redb"), "").unwrap(),
        says: "state.redb is damaged (it is empty)",
    },
    Case {
        name: "a log that is a text",
        damage: |folder| fs::write(folder.join("log.redb"), "text\n".repeat(9999)).unwrap(),
        says: "log.redb is damaged (it is no redb file)",
    },
    Case {
        name: "a state that is zeros",
        damage: |folder| change(&folder.join("state.redb"), |bytes| bytes.fill(0)),
        says: "state.redb is damaged (it is no redb file)",
    },
    Case { name: "a bit of the log", damage: |folder| flip(&folder.join("log.redb")), says: "log.redb is damaged (" },
    Case { name: "a bit of the state", damage: |folder| flip(&folder.join("state.redb")), says: "state.redb is damaged (" },
    Case {
        name: "a lost log",
        damage: |folder| fs::remove_file(folder.join("log.redb")).unwrap(),
        says: "log.redb with the vote and the entries is lost",
    },
    Case {
        name: "both lost",
        damage: |folder| ["log.redb", "state.redb"].iter().for_each(|name| fs::remove_file(folder.join(name)).unwrap()),
        says: "log.redb is not the one that this server wrote its votes and entries to",
    },
    Case {
        name: "a lost identity",
        damage: |folder| fs::remove_file(folder.join("node")).unwrap(),
        says: "the data folder has a raft log but no file node",
    },
    Case {
        name: "a version of redb's format to come",
        damage: |folder| change(&folder.join("log.redb"), |bytes| (bytes[64], bytes[192]) = (9, 9)),
        says: "log.redb is damaged (",
    },
    Case { name: "a newer node", damage: |folder| newer(&folder.join("node")), says: NEWER },
    Case { name: "a newer note of the log", damage: |folder| newer(&folder.join("log.id")), says: NEWER },
    Case { name: "a newer note of the removal", damage: |folder| fs::write(folder.join("removed"), [9, 0, 1]).unwrap(), says: NEWER },
    Case { name: "a newer note of the cluster", damage: |folder| fs::write(folder.join("adopted"), [9, 0, 1]).unwrap(), says: NEWER },
    Case { name: "a newer log", damage: |folder| newer_value(&folder.join("log.redb"), "format"), says: NEWER },
    Case { name: "a newer id of the log", damage: |folder| newer_value(&folder.join("log.redb"), "id"), says: NEWER },
    Case { name: "a newer vote", damage: |folder| newer_value(&folder.join("log.redb"), "vote"), says: NEWER },
    Case { name: "a newer log entry", damage: |folder| newer_entries(&folder.join("log.redb")), says: NEWER },
    Case { name: "a newer applied state", damage: |folder| newer_value(&folder.join("state.redb"), "applied"), says: NEWER },
    Case { name: "a newer membership", damage: |folder| newer_value(&folder.join("state.redb"), "membership"), says: NEWER },
    Case { name: "a newer host", damage: |folder| newer_row(&folder.join("state.redb"), "hosts"), says: NEWER },
    Case { name: "a newer key", damage: |folder| newer_row(&folder.join("state.redb"), "keys"), says: NEWER },
    Case { name: "a newer inventory", damage: |folder| newer_row(&folder.join("state.redb"), "inventories"), says: NEWER },
];

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// Checks that it ends with an error, that says what to do, without a panic.
#[track_caller]
fn expect_words(name: &str, status: std::process::ExitStatus, said: &str, words: &str) {
    assert_eq!(status.code(), Some(1), "{name}: {said}");
    assert!(said.contains(words), "{name}: wanted {words:?} in {said}");
    assert!(!said.contains("panicked"), "{name}: {said}");
    let helps =
        ["members replace", NEWER, "start with an empty folder"].iter().any(|help| said.contains(help));
    assert!(helps, "{name}: not what to do: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_lost_or_newer_file_is_refused_in_words() {
    let root = TempDir::new().unwrap();
    let mut server = Server::new(root.path(), &[]);
    server.start();
    server.ready().await;
    server.advertise("127.0.0.1:4001", vec![KEY.to_owned()]).await;
    server.stop().await;
    let whole = root.path().join("whole");
    copy(&server.folder, &whole);
    for Case { name, damage, says } in CASES {
        copy(&whole, &server.folder);
        damage(&server.folder);
        for start in ["first", "second"] {
            let (status, said) = server.refuses().await;
            expect_words(&format!("{name}, {start} start"), status, &said, says);
        }
    }
    copy(&whole, &server.folder);
    server.start();
    server.ready().await;
    assert_eq!(server.holders(KEY).await.unwrap(), ["127.0.0.1:4001"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_from_before_the_log_had_an_id_starts_and_gets_one() {
    let root = TempDir::new().unwrap();
    let mut server = Server::new(root.path(), &[]);
    server.start();
    server.ready().await;
    server.advertise("127.0.0.1:4001", vec![KEY.to_owned()]).await;
    server.kill();
    let note = server.folder.join("log.id");
    fs::remove_file(&note).unwrap();
    let database = redb::Database::open(server.folder.join("log.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(BY_TEXT).unwrap().remove("id").unwrap().unwrap();
    transaction.commit().unwrap();
    drop(database);
    server.start();
    server.ready().await;
    assert_eq!(server.holders(KEY).await.unwrap(), ["127.0.0.1:4001"]);
    assert!(note.exists());
    server.kill();
    ["log.redb", "state.redb"].iter().for_each(|name| fs::remove_file(server.folder.join(name)).unwrap());
    let (status, said) = server.refuses().await;
    expect_words("both lost", status, &said, "log.redb is not the one that this server wrote");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_a_damaged_file_comes_back_empty_in_its_own_place() {
    let root = TempDir::new().unwrap();
    let mut servers = three(root.path()).await;
    servers[0].advertise("127.0.0.1:4001", vec![KEY.to_owned()]).await;
    servers[2].stop().await;
    cut(&servers[2].folder.join("state.redb"));
    let (status, said) = servers[2].refuses().await;
    expect_words("a cut state", status, &said, "state.redb is damaged (");
    fs::remove_dir_all(&servers[2].folder).unwrap();
    servers[2].start();
    servers[2].answers().await;
    let address = servers[2].raft_address();
    let replace = run(["members", "replace", &address, &address, "--server", &servers[0].url()]).await;
    assert!(replace.status.success(), "{}", text(&replace.stderr));
    servers[2].ready().await;
    agree(&servers).await;
    assert_eq!(servers[2].holders(KEY).await.unwrap(), ["127.0.0.1:4001"]);
}
