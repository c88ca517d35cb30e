//! Starts that must fail, with messages that say what to do.

use std::error::Error as _;
use std::net::TcpListener;

use piccolo::server::{self, Config};
use piccolo::task::Stop;

use crate::harness::{PATIENCE, Server, config};

/// Error of a start, with its causes.
async fn failure(config: Config) -> String {
    let run = server::run(config, Stop::new(), |addresses| panic!("started: {addresses:?}"));
    let error = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap_err();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_with_its_purpose() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let message = failure(Config { listen: address, ..config(folder.path()) }).await;
    assert!(message.contains(&address.to_string()) && message.contains("the discovery API"), "{message}");
    let message = failure(Config { raft_listen: Some(address), ..config(folder.path()) }).await;
    assert!(message.contains(&address.to_string()) && message.contains("raft"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn raft_off_loopback_without_consent_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let raft_listen = Some("0.0.0.0:0".parse().unwrap());
    let message = failure(Config { raft_listen, ..config(folder.path()) }).await;
    assert!(message.contains("--insecure"), "{message}");
    let server = Server::with(|config| (config.raft_listen, config.insecure) = (raft_listen, true)).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_has_one_server() {
    let server = Server::one().await;
    let folder = server.config().data_dir.clone();
    let message = failure(config(&folder)).await;
    assert!(message.contains(&folder.display().to_string()), "{message}");
    let process = format!("another server uses this data folder: process {} (", std::process::id());
    assert!(message.contains(&process), "{message}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_folder_that_is_a_file_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let message = failure(config(file.path())).await;
    assert!(message.contains(&file.path().display().to_string()), "{message}");
}
