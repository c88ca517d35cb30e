//! Holders that no request waits for, asked in the background for what was last wanted of them: the
//! first that answers, or delivers, is asked by requests again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::Method;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::client::PeerClient;
use super::error::PeerError;
use super::health::PeerHealth;
use crate::agent::backoff::Backoff;
use crate::agent::fetch::background::Background;
use crate::limits::{DELIVERED_BYTES_MIN, PROBE_PAUSE, PROBE_TIMEOUT};
use crate::oci::{ContentPath, RangeHeader};

/// Probes peers that requests do not wait for, in one task.
pub(crate) struct Prober {
    client: PeerClient,
    health: Arc<PeerHealth>,
    background: Background,
    is_running: AtomicBool,
}

impl Prober {
    /// A prober whose task does not run yet.
    pub(crate) fn new(client: PeerClient, health: Arc<PeerHealth>, background: Background) -> Self {
        Self { client, health, background, is_running: AtomicBool::new(false) }
    }

    /// Starts the task, if there is a peer to be probed and it does not run.
    pub(crate) fn start_if_needed(self: &Arc<Self>) {
        if !self.health.needs_probes() || self.is_running.swap(true, Ordering::AcqRel) {
            return;
        }
        let prober = Arc::clone(self);
        self.background.spawn(async move {
            prober.background.until_stop(prober.probe_until_reached()).await;
            prober.is_running.store(false, Ordering::Release);
        });
    }

    async fn probe_until_reached(&self) {
        let mut backoff = Backoff::new(PROBE_PAUSE.0, PROBE_PAUSE.1);
        loop {
            let round = self.health.probes();
            if round.is_empty() {
                return;
            }
            let reached = join_all(round.iter().map(|(holder, path)| self.probe(*holder, path))).await;
            if reached.contains(&true) {
                backoff.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_pause()) => {}
                () = self.health.lost_one() => backoff.reset(),
            }
        }
    }

    /// Whether requests may ask `holder` after this. What it sends is of no use except for its length.
    async fn probe(&self, holder: SocketAddr, path: &ContentPath) -> bool {
        let range = (!path.is_manifest()).then_some(RangeHeader::Between(0, DELIVERED_BYTES_MIN - 1));
        let asked = self.client.ask(holder, path, &Method::GET, range);
        let answer = timeout(PROBE_TIMEOUT, asked).await.unwrap_or(Err(PeerError::HeaderTimeout));
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.health.probe_failed(holder, path, &error);
                return false;
            }
        };
        self.health.answered(holder);
        if !answer.status.is_success() {
            self.health.probed(holder, path, false);
        }
        let mut bytes = 0;
        while answer.status.is_success() && bytes < DELIVERED_BYTES_MIN {
            match answer.body.next().await {
                Ok(Some(piece)) => bytes += piece.len() as u64,
                Ok(None) => {
                    self.health.probed(holder, path, true);
                    break;
                }
                Err(error) => {
                    self.health.probe_failed(holder, path, &error);
                    break;
                }
            }
        }
        if bytes >= DELIVERED_BYTES_MIN {
            self.health.delivered(holder);
        }
        self.health.admits(holder)
    }
}
