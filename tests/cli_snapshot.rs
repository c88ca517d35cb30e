//! The real binary: backup and disaster recovery with `piccolo snapshot save|verify|restore` and `piccolo
//! server --force-new-cluster`.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/cluster.rs"]
mod cluster;
#[path = "support/site.rs"]
mod site;

use std::fs;
use std::path::Path;
use std::time::Duration;

use cluster::{Server, agree, refused, run, succeeded, text, three};
use serde_json::Value;
use site::{Agent, Layout, SOON, Setup, within};
use tempfile::TempDir;

fn key(number: usize) -> String {
    format!("registry.example/app:v{number}")
}

fn holder(number: usize) -> String {
    format!("127.0.0.1:{}", 4000 + number)
}

async fn save(server: &Server, file: &Path, more: &[&str]) -> std::process::Output {
    let (file, url) = (file.display().to_string(), server.url());
    run(["snapshot", "save", &file, "--server", &url].into_iter().chain(more.iter().copied())).await
}

async fn restore(file: &Path, server: &Server) -> std::process::Output {
    let (file, folder) = (file.display().to_string(), server.folder.display().to_string());
    let (raft, api) = (server.raft_address(), server.api_address());
    let words = ["snapshot", "restore", &file, "--data-dir", &folder];
    run(words.into_iter().chain(["--raft-address", &raft, "--api-address", &api])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_saved_verified_and_restored_to_the_same_state() {
    let root = TempDir::new().unwrap();
    let mut server = Server::new(root.path(), &[]);
    server.start();
    server.ready().await;
    for number in 0..20 {
        server
            .advertise(&holder(number), (0..50).map(|key_number| key(number * 10 + key_number)).collect())
            .await;
    }
    let before = server.status().await.unwrap();

    let file = root.path().join("a.snapshot");
    let said = succeeded(&save(&server, &file, &[]).await);
    for word in [&before.cluster, &before.checksum, "20 hosts, 240 keys, 1000 pairs"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    let error = refused(&save(&server, &file, &[]).await);
    assert!(error.contains("exists already: give another name, or --force"), "{error}");
    let saved: Value =
        serde_json::from_str(&succeeded(&save(&server, &file, &["--force", "--json"]).await)).unwrap();
    let verified = run(["snapshot", "verify", &file.display().to_string(), "--json"]).await;
    assert_eq!(serde_json::from_str::<Value>(&succeeded(&verified)).unwrap(), saved);
    assert_eq!(
        (&saved["checksum"], &saved["pairs"]),
        (&Value::from(before.checksum.clone()), &Value::from(1000))
    );
    let names: Vec<_> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().ends_with(".partial")), "{names:?}");

    // A truncated file is detected, and no data folder is made from it.
    let bytes = fs::read(&file).unwrap();
    let bad = root.path().join("bad.snapshot");
    fs::write(&bad, &bytes[..bytes.len() - 1]).unwrap();
    let error = refused(&run(["snapshot", "verify", &bad.display().to_string()]).await);
    assert!(error.contains("it is cut"), "{error}");
    let mut new = Server::new(root.path(), &[]);
    assert!(refused(&restore(&bad, &new).await).contains("it is cut"));

    let said = succeeded(&restore(&file, &new).await);
    assert!(
        said.contains("20 hosts, 240 keys and 1000 pairs") && said.contains("piccolo members add"),
        "{said}"
    );
    let error = refused(&restore(&file, &new).await);
    assert!(error.contains("the data folder is not empty"), "{error}");
    server.kill();
    new.start();
    let after = new.ready().await;
    assert_eq!((after.checksum, after.pairs), (before.checksum, 1000));
    assert_ne!(after.cluster, before.cluster);
    assert_eq!(after.reasons, Vec::<String>::new());
    assert_eq!(new.holders(&key(0)).await.unwrap(), [holder(0)]);
    new.advertise(&holder(0), vec![key(999)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_notice_a_restored_older_state_and_send_what_they_hold() {
    let root = TempDir::new().unwrap();
    let mut server = Server::new(root.path(), &[]);
    server.start();
    server.ready().await;
    let layout = Layout::empty();
    let stays = layout.put(b"stays").to_string();
    let goes_digest = layout.put(b"goes");
    let goes = goes_digest.to_string();
    let setup = Setup {
        servers: vec![server.url()],
        layout: Some(layout.path()),
        flags: &["--heartbeat-interval", "1s"],
        ..Setup::default()
    };
    let agent = Agent::start(setup).await;
    agent.synced().await;
    let own = vec![agent.peer.to_string()];
    let of_agent = |found: Option<Vec<String>>| found.filter(|holders| *holders == own);
    let nobody = |found: Option<Vec<String>>| found.filter(Vec::is_empty);
    for digest in [&stays, &goes] {
        within("what the agent holds", SOON, async || of_agent(server.holders(digest).await)).await;
    }
    let file = root.path().join("old.snapshot");
    succeeded(&save(&server, &file, &[]).await);

    let comes = layout.put(b"comes").to_string();
    fs::remove_file(layout.path().join("blobs/sha256").join(goes_digest.hex())).unwrap();
    within("what came", SOON, async || of_agent(server.holders(&comes).await)).await;
    within("what went", SOON, async || nobody(server.holders(&goes).await)).await;
    server.kill();
    fs::remove_dir_all(&server.folder).unwrap();
    let said = succeeded(&restore(&file, &server).await);
    assert!(said.contains("1 hosts, 2 keys and 2 pairs"), "the older state: {said}");
    server.start();
    server.ready().await;
    // Two heartbeats, and the time of a sync on a busy machine.
    const NOTICED: Duration = Duration::from_secs(30);
    within("what came after the snapshot", NOTICED, async || of_agent(server.holders(&comes).await)).await;
    within("what went after the snapshot", NOTICED, async || nobody(server.holders(&goes).await)).await;
    assert_eq!(server.holders(&stays).await.unwrap(), own);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_server_of_three_goes_on_alone_and_gets_new_ones() {
    let root = TempDir::new().unwrap();
    let mut servers = three(root.path()).await;
    for number in 0..10 {
        servers[0].advertise(&holder(number), vec![key(number)]).await;
    }
    agree(&servers).await;
    let before = servers[1].status().await.unwrap();
    let force = async |server: &Server| {
        run(server.arguments().into_iter().chain(["--force-new-cluster".to_owned()])).await
    };
    let error = refused(&force(&servers[1]).await);
    let its_pid = format!("the data folder is in use by process {}", servers[1].pid());
    assert!(error.contains(&its_pid) && error.contains("stop its server first"), "{error}");
    servers.iter_mut().for_each(Server::kill);

    // The advertised name of the API is not the raft address.
    let named = ["--advertise", "api.example", "--force-new-cluster"].map(str::to_owned);
    let output = run(servers[1].arguments().into_iter().chain(named)).await;
    let said = succeeded(&output);
    let raft_address = servers[1].raft_address();
    for words in [
        "10 hosts, 10 keys and 10 pairs",
        "Start it again without --force-new-cluster",
        "had not received is lost",
        &raft_address,
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    assert!(said.contains(&servers[0].raft_address()) && said.contains(&servers[2].raft_address()), "{said}");
    let again = succeeded(&force(&servers[1]).await);
    assert!(again.contains("alone in its cluster already, nothing was changed"), "{again}");

    servers[1].start();
    let after = servers[1].ready().await;
    assert_ne!(after.cluster, before.cluster);
    assert_eq!((after.checksum, after.members.len()), (before.checksum, 1));
    for at in [0, 2] {
        fs::remove_dir_all(&servers[at].folder).unwrap();
        servers[at].start();
        servers[at].answers().await;
        let address = servers[at].raft_address();
        let add = run(["members", "add", &address, "--server", &servers[1].url()]).await;
        assert!(add.status.success(), "{}", text(&add.stderr));
    }
    servers[0].advertise(&holder(11), vec![key(11)]).await;
    agree(&servers).await;
    assert_eq!(servers[2].holders(&key(3)).await.unwrap(), [holder(3)]);
    assert_eq!(servers[2].ready().await.members.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_save_leaves_no_file() {
    let root = TempDir::new().unwrap();
    let server = Server::new(root.path(), &[]);
    let file = root.path().join("none.snapshot");
    let output = save(&server, &file, &[]).await;
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    let missing = root.path().join("missing/none.snapshot");
    assert!(refused(&save(&server, &missing, &[]).await).contains("missing/none.snapshot.partial"));
    assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
}
