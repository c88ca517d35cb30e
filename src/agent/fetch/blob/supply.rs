//! Where the bytes of a blob come from: peers that hold all of it, or a flight.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::in_flight::{self, FlightTransfer};
use super::transfer::{GaveUp, Transfer};
use crate::agent::content::byte_stream::Cut;
use crate::agent::fetch::peers::health::PeerHealth;
use crate::agent::fetch::spool::{Spool, Whole};
use crate::agent::fetch::wanted::Wanted;
use crate::oci::ByteRange;

/// The bytes of a part of a blob, in order.
pub(super) enum Supply {
    /// From peers that hold all of it.
    Peers(Box<Transfer>),
    /// From nodes at which it may still be arriving.
    Flight(Box<FlightTransfer>),
}

impl Supply {
    /// The next bytes; `None` at the end of the part, or if nobody sends the rest: then there is something left.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        match self {
            Self::Peers(transfer) => transfer.next().await,
            Self::Flight(transfer) => transfer.next().await,
        }
    }

    /// What is transferred.
    pub(super) fn wanted(&self) -> &Wanted {
        match self {
            Self::Peers(transfer) => transfer.wanted(),
            Self::Flight(transfer) => transfer.wanted(),
        }
    }

    /// Peers whose bytes have come.
    pub(super) fn senders(&self) -> Vec<SocketAddr> {
        match self {
            Self::Peers(transfer) => transfer.senders().to_vec(),
            Self::Flight(transfer) => transfer.senders().collect(),
        }
    }

    /// What has not come yet.
    pub(super) fn left(&self) -> ByteRange {
        match self {
            Self::Peers(transfer) => transfer.left(),
            Self::Flight(transfer) => transfer.left(),
        }
    }

    /// Why the response ends, of which the rest has not come.
    pub(super) fn cut(&self) -> Cut {
        match self {
            Self::Flight(transfer) => match transfer.gave_up() {
                Some(in_flight::GaveUp::Registry(why)) => Cut::LeftToRegistry(why.to_string()),
                Some(in_flight::GaveUp::Yields) => Cut::Yields,
                Some(in_flight::GaveUp::Ended) => Cut::WrongBytes,
                None => Cut::SourceBroken,
            },
            Self::Peers(transfer) => match transfer.gave_up() {
                Some(GaveUp::Slower) => Cut::SourceSlower,
                Some(GaveUp::Stalled) => Cut::SourceStalled,
                Some(GaveUp::NoSource) | None if transfer.has_just_stalled() => Cut::SourceStalled,
                Some(GaveUp::NoSource) | None => Cut::SourceBroken,
            },
        }
    }

    /// Whether what has come is of a flight that has ended with wrong bytes.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self, Self::Flight(transfer) if transfer.gave_up() == Some(in_flight::GaveUp::Ended))
    }

    /// Begins a flight again, without the nodes whose bytes were wrong.
    pub(super) fn begin_again(&mut self) {
        if let Self::Flight(transfer) = self {
            transfer.begin_again();
        }
    }

    /// Notes that all bytes have come, and whether all that containerd has of them are known to be right.
    pub(super) fn are_whole(&self, is_verified: bool) {
        if let Self::Flight(transfer) = self {
            transfer.reception().is_whole(is_verified);
        }
    }

    /// Passes on to other nodes what `spool` has of the blob by now.
    pub(super) fn spools(&self, spool: &Spool) {
        if let (Self::Flight(transfer), Some((spooled, written))) = (self, spool.file()) {
            let growing = transfer.reception().flight().growing();
            growing.spooled(spooled.file(), written, Arc::clone(spooled) as _);
        }
    }

    /// Passes on to other nodes all of the blob, which is verified.
    pub(super) fn is_whole(&self, whole: &Whole) {
        let Self::Flight(transfer) = self else { return };
        let growing = transfer.reception().flight().growing();
        match whole {
            Whole::Memory(bytes) => growing.is_whole_in_memory(bytes.clone()),
            Whole::File(spooled) => growing.is_whole_in_file(spooled.file(), Arc::clone(spooled) as _),
        }
        // What containerd had before this request came from elsewhere.
        self.are_whole(self.wanted().start().unwrap_or(0) == 0);
    }

    /// Notes that the bytes of `senders` are wrong, and has the servers end their flight. In a flight, only a node that
    /// holds the blob had to know it.
    pub(super) async fn are_wrong(&self, senders: &[SocketAddr], health: &PeerHealth) {
        let digest = &self.wanted().digest;
        match self {
            Self::Flight(transfer) => {
                transfer.reception().is_wrong().await;
                if transfer.may_blame() {
                    health.blame(senders, digest);
                } else {
                    senders.iter().for_each(|sender| health.suspect(*sender, digest));
                }
            }
            Self::Peers(_) => health.blame(senders, digest),
        }
    }
}
