//! What peers brought, or why they did not bring what was wanted.

use std::net::SocketAddr;

use bytes::Bytes;

use super::spool::Whole;
use crate::agent::content::byte_stream::ByteStream;
use crate::agent::content::head::Head;
use crate::agent::discovery::LookupError;
use crate::agent::flight::follow::Why;

/// What a peer had.
pub(crate) enum Fetched {
    /// All of a blob, verified.
    Whole { whole: Whole, head: Head, source: SocketAddr },
    /// A manifest, verified.
    Manifest { bytes: Bytes, media_type: &'static str, source: SocketAddr },
    /// The part of a large blob that was asked for, on its way.
    Stream { head: Head, stream: ByteStream, source: SocketAddr },
    /// The size of a blob; nothing else was asked for.
    Size { total: u64, source: SocketAddr },
    /// The length of a blob; the range that was asked for is outside of it.
    Unsatisfiable { total: u64, source: SocketAddr },
}

impl Fetched {
    /// The peer that brought it.
    pub(crate) fn source(&self) -> SocketAddr {
        match self {
            Fetched::Whole { source, .. } | Fetched::Manifest { source, .. } => *source,
            Fetched::Stream { source, .. } | Fetched::Size { source, .. } => *source,
            Fetched::Unsatisfiable { source, .. } => *source,
        }
    }
}

/// Why no peer brought it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Missed {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("as many transfers as there may be are running")]
    Busy,
    #[error("no peer holds it")]
    NoHolder,
    #[error("{attempts} attempts at peers, none could deliver it")]
    NoSource { attempts: usize },
    #[error("the bytes of peers stopped coming, after {attempts} attempts")]
    Stalled { attempts: usize },
    #[error(
        "none of its {holders} holders answered and delivered lately; they are tried again in the background"
    )]
    OutOfReach { holders: usize },
    #[error("its registry is faster by far than the peers that hold it")]
    Slower,
    #[error("peers hold it with {said} bytes, but containerd expects {expected}")]
    OtherLength { expected: u64, said: u64 },
    #[error(
        "this node has no room to check it before it is passed on: too many blobs at once, or --state-dir is full or \
         not writable (see /readyz)"
    )]
    NoRoom,
    #[error(transparent)]
    LeftToRegistry(Why),
    #[error("its turn is given to a blob that this node fetches from the registry for others")]
    Yields,
    #[error("the answer before this one was cut")]
    JustCut,
}

impl Missed {
    /// How many peers were asked in vain.
    pub(crate) fn attempts(&self) -> usize {
        match self {
            Missed::NoSource { attempts } | Missed::Stalled { attempts } => *attempts,
            _ => 0,
        }
    }
}
