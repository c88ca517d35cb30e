//! What is compared: something that serves blobs at an address, and whose CPU time is counted.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use sha2::{Digest, Sha256};

use crate::client::Client;
use crate::layout::{Blob, hex};
use crate::net::Network;
use crate::process::Process;

/// One of those that are compared.
pub(crate) struct Side {
    /// Short, for tables and legends.
    pub(crate) name: String,
    /// How it is configured, in one line.
    pub(crate) what: String,
    pub(crate) address: SocketAddr,
    /// Root of the process tree whose CPU time is its own.
    pub(crate) pid: u32,
    /// Ends with the side; the first one first.
    pub(crate) _running: Vec<Process>,
}

impl Side {
    /// Fetches every blob whole and compares its digest; warms the page cache as it does.
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
