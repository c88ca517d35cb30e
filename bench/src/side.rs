//! A side of a comparison: a process that serves blobs at an address and whose CPU time is counted.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use sha2::{Digest, Sha256};

use crate::client::Client;
use crate::layout::{Blob, hex};
use crate::net::Network;
use crate::process::Process;

/// One side of a comparison.
pub(crate) struct Side {
    /// Short name for tables and legends.
    pub(crate) name: String,
    /// Its configuration in one line.
    pub(crate) what: String,
    pub(crate) address: SocketAddr,
    /// Root of the process tree whose CPU time belongs to this side.
    pub(crate) pid: u32,
    /// Processes that end with this side, in this order.
    pub(crate) _running: Vec<Process>,
}

impl Side {
    /// Fetches every blob and checks its digest, which also warms the page cache.
    pub(crate) fn check(&self, client: &Network, blobs: &[Blob]) -> Result<()> {
        client.run(|| {
            for blob in blobs {
                let mut hasher = Sha256::new();
                let (status, _) = Client::new(self.address).get(&blob.path(), |piece| {
                    hasher.update(piece);
                    true
                })?;
                let seen = hex(&hasher.finalize());
                ensure!(
                    status == 200 && seen == blob.hex,
                    "{}: {status}, sha256:{seen} for {blob:?}",
                    self.name
                );
            }
            Ok(())
        })
    }
}
