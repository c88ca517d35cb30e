//! A lookup of content that may still be arriving elsewhere.

use std::net::SocketAddr;

use crate::api::flight::FlightClaim;

/// What a node says of itself that receives content, and passes it on meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlightQuestion {
    /// Contiguous bytes of the content that it has.
    pub(crate) have_bytes: u64,
    /// Number of the transfer.
    pub(crate) transfer: u64,
    /// Whether its pull begins now.
    pub(crate) begins: bool,
    /// Whether its source brings nothing more.
    pub(crate) is_starved: bool,
    /// A source that it has lost, as long as it has no other one.
    pub(crate) lost: Option<SocketAddr>,
    /// Claims on other keys that it holds and that have not had a byte yet.
    pub(crate) owes: u32,
    /// The number of the attempt that its bytes are of, if it knows it.
    pub(crate) attempt: Option<u64>,
}

/// Who has content, or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlightFound {
    /// Nodes that have all of it, the nearest first.
    pub(crate) holders: Vec<SocketAddr>,
    /// `None`: the server knows no flights.
    pub(crate) flight: Option<FlightOffer>,
}

/// What a server says of a flight.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct FlightOffer {
    /// Nodes that have a part of the content, those of this node's zone first, and last the one that fetches it from
    /// the registry.
    pub(crate) partial: Vec<SocketAddr>,
    /// The node that fetches the content from the registry, if one does.
    pub(crate) fetcher: Option<SocketAddr>,
    /// The ruling on who fetches; `None` if this node needs none.
    pub(crate) claim: Option<FlightClaim>,
    /// How many nodes have come.
    pub(crate) came: u64,
    /// The number of the attempt. Bytes of one with a lower number were found to be wrong.
    pub(crate) attempt: u64,
}
