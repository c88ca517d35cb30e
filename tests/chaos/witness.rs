//! Watches every server during a scenario: which one leads, and which holders are hidden.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use piccolo::api::{HostsResponse, StatusResponse, path};
use tokio::task::JoinSet;

use crate::history::History;
use crate::wire::ask;

/// Timeout; a dead or frozen server does not answer.
const PATIENCE: Duration = Duration::from_millis(500);
const EVERY: Duration = Duration::from_millis(150);

pub struct Witness {
    stop: Arc<AtomicBool>,
    looks: JoinSet<()>,
}

impl Witness {
    pub fn of(servers: &[SocketAddr], history: &Arc<History>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut looks = JoinSet::new();
        for server in servers.iter().copied() {
            let (history, stop) = (Arc::clone(history), Arc::clone(&stop));
            looks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    look(server, &history).await;
                    tokio::time::sleep(EVERY).await;
                }
            });
        }
        Self { stop, looks }
    }

    pub async fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.looks.join_next().await {
            ended.unwrap();
        }
    }
}

async fn look(server: SocketAddr, history: &History) {
    let status = ask(server, "GET", path::STATUS, "", PATIENCE).await;
    if let Some(status) = status.and_then(|said| said.read::<StatusResponse>())
        && status.leader.as_ref() == Some(&status.node)
    {
        history.leads(status.term, server, status.node);
    }
    let hosts = ask(server, "GET", path::HOSTS, "", PATIENCE).await;
    let hosts = hosts.and_then(|said| said.read::<HostsResponse>());
    for host in hosts.into_iter().flat_map(|answer| answer.hosts) {
        if let Some(at_ms) = host.hidden_unix_ms {
            history.hidden(&host.holder, at_ms);
        }
    }
}
