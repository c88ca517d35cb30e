//! Mistakes of an operator: each ends with a message that names it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use crate::harness::{PICCOLO, Process, SOON, free_port, status_of, within};

async fn output_of(arguments: &[&str]) -> Output {
    let run = tokio::process::Command::new(PICCOLO).args(arguments).kill_on_drop(true).output();
    tokio::time::timeout(SOON, run).await.expect("it ends by itself").unwrap()
}

/// Runs a server that must refuse to start; returns its output.
async fn refusal(arguments: &[&str]) -> String {
    let output = output_of(arguments).await;
    assert!(!output.status.success(), "{arguments:?} was accepted");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn data_dir(folder: &Path) -> String {
    folder.join("data").display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = held.local_addr().unwrap().to_string();
    let raft = format!("127.0.0.1:{}", free_port());
    let data = data_dir(folder.path());
    let said = refusal(&["server", "--data-dir", &data, "--listen", &address, "--raft-listen", &raft]).await;
    assert!(said.contains(&address), "{said}");

    let other = format!("127.0.0.1:{}", free_port());
    let arguments =
        ["agent", "--servers", "http://127.0.0.1:1", "--layout", &data, "--mirror-listen", &address];
    let said =
        refusal(&[&arguments[..], &["--peer-listen", &other, "--metrics-listen", "127.0.0.1:0"]].concat())
            .await;
    assert!(said.contains(&address), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn raft_in_the_clear_on_the_network_needs_to_be_allowed() {
    let folder = tempfile::tempdir().unwrap();
    let said =
        refusal(&["server", "--data-dir", &data_dir(folder.path()), "--raft-listen", "0.0.0.0:0"]).await;
    assert!(said.contains("--insecure"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_of_a_newer_format_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let data = data_dir(folder.path());
    let (api, raft) = (free_port(), free_port());
    let (listen, raft) = (format!("127.0.0.1:{api}"), format!("127.0.0.1:{raft}"));
    let arguments = ["server", "--data-dir", &data, "--listen", &listen, "--raft-listen", &raft];
    let mut command = Command::new(PICCOLO);
    command.args(arguments);
    let server = Process::start(folder.path(), "server", command);
    let url = format!("http://{listen}/readyz");
    within("the server is ready", SOON, || async { status_of(&url).await.filter(|s| *s == 200) }).await;
    assert!(server.stop().success());

    let identity = folder.path().join("data/node");
    let mut bytes = fs::read(&identity).unwrap();
    bytes[0] = 200;
    fs::write(&identity, bytes).unwrap();
    let said = refusal(&arguments).await;
    assert!(said.contains("format 200") && said.contains("newer"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_mistakes_are_reported_at_once() {
    let output = output_of(&[
        "agent",
        "--servers",
        "ftp://x",
        "--mirror-listen",
        "nonsense",
        "--resolve-timeout",
        "soon",
        "--heartbeat-interval",
        "-1",
    ])
    .await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for name in ["servers", "mirror-listen", "resolve-timeout", "heartbeat-interval"] {
        assert!(said.contains(name), "{name} is not named in:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_any_server_answers_404_within_the_resolve_timeout() {
    let folder = tempfile::tempdir().unwrap();
    let dead = format!("http://127.0.0.1:{}", free_port());
    let layout = folder.path().join("layout").display().to_string();
    fs::create_dir_all(&layout).unwrap();
    let agent = crate::harness::Agent::start(folder.path(), &[dead], &["--layout", &layout]);
    within("the mirror listens", SOON, || async { status_of(&format!("{}/v2/", agent.mirror_url())).await })
        .await;
    let digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let url = format!("{}/v2/library/app/blobs/{digest}?ns=docker.io", agent.mirror_url());
    for _ in 0..20 {
        let answer = tokio::time::timeout(Duration::from_secs(2), status_of(&url)).await;
        assert_eq!(answer.expect("an answer within the resolve timeout"), Some(404));
    }
}
