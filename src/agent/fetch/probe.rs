//! Holders that no request waits for, asked in the background for what was last wanted of them: the
//! first that answers, or delivers, is asked by requests again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::http::Method;
use futures_util::future::join_all;
use tokio::time::timeout;

use super::peer::PeerError;
use super::{Fetcher, ask};
use crate::agent::backoff::Backoff;
use crate::limits::{DELIVERED_BYTES_MIN, PROBE_PAUSE, PROBE_TIMEOUT};
use crate::oci::{ContentPath, RangeHeader};

impl Fetcher {
    /// Starts the probes, if there is somebody to be probed and they do not run.
    pub(super) fn probe_later(self: &Arc<Self>) {
        if !self.troubles.needs_probes() || self.probes.swap(true, Ordering::AcqRel) {
            return;
        }
        let fetcher = Arc::clone(self);
        self.tasks.spawn(async move {
            fetcher.probe_until_reached().await;
            fetcher.probes.store(false, Ordering::Release);
        });
    }

    async fn probe_until_reached(&self) {
        let mut backoff = Backoff::new(PROBE_PAUSE.0, PROBE_PAUSE.1);
        loop {
            let round = self.troubles.probes();
            if round.is_empty() {
                return;
            }
            let probes = join_all(round.iter().map(|(holder, path)| self.probe(*holder, path)));
            let Some(reached) = self.stop.run_until_cancelled(probes).await else { return };
            if reached.contains(&true) {
                backoff.reset();
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next_pause()) => {}
                () = self.troubles.new_suspect() => backoff.reset(),
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Whether `holder` may be asked by requests after this. What it sends is of no use but for its length.
    async fn probe(&self, holder: SocketAddr, path: &ContentPath) -> bool {
        let range = (!path.is_manifest()).then_some(RangeHeader::Between(0, DELIVERED_BYTES_MIN - 1));
        let asked = ask(&self.peers, holder, path, &Method::GET, range);
        let answer = timeout(PROBE_TIMEOUT, asked).await.unwrap_or(Err(PeerError::HeaderTimeout));
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                self.troubles.probe_failed(holder, path, &error);
                return false;
            }
        };
        self.troubles.answered(holder);
        if !answer.status.is_success() {
            self.troubles.probed(holder, path, false);
        }
        let mut bytes = 0;
        while answer.status.is_success() && bytes < DELIVERED_BYTES_MIN {
            match answer.body.next().await {
                Ok(Some(piece)) => bytes += piece.len() as u64,
                Ok(None) => {
                    self.troubles.probed(holder, path, true);
                    break;
                }
                Err(error) => {
                    self.troubles.probe_failed(holder, path, &error);
                    break;
                }
            }
        }
        if bytes >= DELIVERED_BYTES_MIN {
            self.troubles.delivered(holder);
        }
        self.troubles.admits(holder)
    }
}
