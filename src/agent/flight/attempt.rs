//! Which bytes of a blob go together. Pure.
//!
//! When a node finds that the bytes of a flight are wrong, the owner of the key ends their *attempt*: one node fetches
//! the blob anew, and that is the next attempt. Nodes pass bytes on with the number of their attempt, so that no wrong
//! byte outlives it: who has bytes of one that has ended gives them to nobody of a later one, and drops them if
//! containerd does not have them yet.

/// What a node has of a blob, as a source or as one that asks for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The number of the attempt.
    pub(crate) attempt: u64,
    /// Number of contiguous bytes that the node has of the blob.
    pub(crate) have_bytes: u64,
}

/// Whether a node may receive from a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Match {
    /// Their bytes go together, as bytes of the attempt with this number.
    Fits(u64),
    /// The source has bytes of an attempt that has ended.
    SourceHasEnded,
    /// The node that asks has bytes of an attempt that has ended.
    AskerHasEnded,
}

/// Compares what `asker` has with what `source` has. What a source has verified is right whatever ends. Bytes that a node
/// keeps when their attempt ends may be completed, but are given to no newer attempt.
pub(crate) fn compare(asker: Part, source: Part, is_verified: bool, are_kept: bool) -> Match {
    if source.attempt > asker.attempt && asker.have_bytes > 0 {
        if are_kept { Match::Fits(asker.attempt) } else { Match::AskerHasEnded }
    } else if source.attempt < asker.attempt && source.have_bytes > 0 && !is_verified {
        Match::SourceHasEnded
    } else {
        Match::Fits(source.attempt.max(asker.attempt))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_an_attempt_that_has_ended_go_nowhere() {
        let part = |(attempt, have_bytes)| Part { attempt, have_bytes };
        for (asker, source, is_verified, expected) in [
            ((0, 0), (0, 9), false, Match::Fits(0)),
            ((2, 5), (2, 9), false, Match::Fits(2)),
            ((1, 0), (2, 9), false, Match::Fits(2)),
            ((1, 5), (2, 9), false, Match::AskerHasEnded),
            ((1, 5), (2, 9), true, Match::AskerHasEnded),
            ((1, 5), (2, 0), false, Match::AskerHasEnded),
            ((2, 0), (1, 9), false, Match::SourceHasEnded),
            ((2, 5), (1, 9), false, Match::SourceHasEnded),
            ((2, 5), (1, 9), true, Match::Fits(2)),
            // Nothing has come there: it is of any attempt.
            ((2, 0), (1, 0), false, Match::Fits(2)),
        ] {
            let found = compare(part(asker), part(source), is_verified, false);
            assert_eq!(found, expected, "{asker:?} {source:?}");
            let kept = if expected == Match::AskerHasEnded { Match::Fits(asker.0) } else { expected };
            assert_eq!(compare(part(asker), part(source), is_verified, true), kept, "{asker:?} {source:?}");
        }
    }
}
