//! Why peers did not bring what was wanted.

use std::net::SocketAddr;

use super::hedging::Ended;
use super::transfer::{Item, Transfer};
use crate::agent::discovery::LookupError;

/// Why no peer had it.
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
    #[error("the answer before this one was cut")]
    JustCut,
}

impl Missed {
    /// Peers asked in vain.
    pub(crate) fn attempts(&self) -> usize {
        match self {
            Missed::NoSource { attempts } | Missed::Stalled { attempts } => *attempts,
            _ => 0,
        }
    }
}

/// Why a source, or several, did not bring a blob.
pub(super) enum Failed {
    Source {
        has_stalled: bool,
    },
    /// No other source is tried.
    Ended(Ended),
    /// This node has no room for it: no other source would help.
    NoRoom,
    /// The bytes of several sources together are wrong.
    Mixture,
}

impl Failed {
    pub(super) fn of(transfer: &Transfer) -> Self {
        match transfer.ended() {
            Some(ended) => Failed::Ended(ended),
            None => Failed::Source { has_stalled: transfer.has_stalled() },
        }
    }
}

/// No holder has what containerd expects. Only they say so, and the registry has the last word: the size in
/// the manifest may be wrong.
pub(super) fn contradicted(item: &Item, expected: u64, other_lengths: &[(SocketAddr, u64)]) -> Missed {
    let (holder, said) = other_lengths[0];
    let agree = other_lengths.iter().filter(|(_, length)| *length == said).count();
    tracing::warn!(
        digest = %item.digest,
        registry = item.path.registry.as_deref().unwrap_or_default(),
        repository = item.path.repository,
        expected,
        said,
        %holder,
        "containerd expects another length than {agree} of {} holders have: the size in a manifest of this \
         repository is wrong, unless these holders are; the registry is left to decide",
        other_lengths.len(),
    );
    Missed::OtherLength { expected, said }
}
