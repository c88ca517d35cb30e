//! The bytes of one peer, while a transfer takes them from one peer at a time.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::agent::fetch::peers::client::PeerBody;
use crate::agent::fetch::peers::error::PeerError;
use crate::limits::{DELIVERED_BYTES_MIN, DELIVERED_EVERY_BYTES};

/// The peer that sends now.
pub(super) struct SingleSource {
    holder: SocketAddr,
    body: PeerBody,
    /// What is still to come from it, bytes.
    left_bytes: u64,
    delivered: Delivered,
}

/// How much a source has sent.
#[derive(Debug, Default)]
struct Delivered {
    bytes: u64,
}

impl SingleSource {
    /// `holder` sends `left_bytes`, or more if it does not know ranges.
    pub(super) fn new(holder: SocketAddr, body: PeerBody, left_bytes: u64) -> Self {
        Self { holder, body, left_bytes, delivered: Delivered::default() }
    }

    /// The peer.
    pub(super) fn holder(&self) -> SocketAddr {
        self.holder
    }

    /// Whether all bytes that it was asked for have come.
    pub(super) fn is_at_end(&self) -> bool {
        self.left_bytes == 0
    }

    /// The next bytes. Returns also whether they show anew that large packets of the peer arrive.
    pub(super) async fn next(&mut self) -> Result<(Bytes, bool), PeerError> {
        let mut bytes = self.body.next().await?.ok_or(PeerError::Short)?;
        // A peer that does not know ranges sends more than was asked for.
        bytes.truncate(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
        self.left_bytes -= bytes.len() as u64;
        let is_news = self.delivered.add(bytes.len() as u64);
        Ok((bytes, is_news))
    }

    /// Ends the transfer from this peer, whose connection is free for the next request. Returns the peer.
    pub(super) fn release(mut self) -> SocketAddr {
        self.body.keep_connection();
        self.holder
    }
}

impl Delivered {
    /// Whether `bytes` more show anew that large packets arrive: the first ones do, and some now and then.
    fn add(&mut self, bytes: u64) -> bool {
        let before = self.bytes;
        self.bytes += bytes;
        let is_first = (before..self.bytes).contains(&(DELIVERED_BYTES_MIN - 1));
        is_first || before / DELIVERED_EVERY_BYTES < self.bytes / DELIVERED_EVERY_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_large_bytes_are_news_and_then_each_mebibyte() {
        let mut delivered = Delivered::default();
        assert!(!delivered.add(DELIVERED_BYTES_MIN - 1) && delivered.add(1) && !delivered.add(1));
        let to_next = DELIVERED_EVERY_BYTES - delivered.bytes;
        assert!(!delivered.add(to_next - 1) && delivered.add(1) && !delivered.add(1));
    }
}
