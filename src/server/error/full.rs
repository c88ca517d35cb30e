//! Limits of the index, as errors.

use crate::limits::{INDEX_GROUPS_MAX, INDEX_HOSTS_MAX, INDEX_KEYS_OF_A_HOLDER_MAX, INDEX_PAIRS_MAX};

/// The limit of the index that a write would pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The number of distinct groups.
    #[error("the index holds {INDEX_GROUPS_MAX} groups, the limit")]
    Groups,
    /// The number of hosts, hidden ones included.
    #[error("the index holds {INDEX_HOSTS_MAX} hosts, the limit")]
    Hosts,
    /// The number of keys of one holder.
    #[error("the holder would have {keys} keys or more, the limit is {INDEX_KEYS_OF_A_HOLDER_MAX}")]
    KeysOfAHolder {
        /// Keys that the holder would have at least.
        keys: u64,
    },
    /// The number of pairs of key and holder.
    #[error("the index holds {pairs} pairs of key and holder, the limit is {INDEX_PAIRS_MAX}")]
    Pairs {
        /// Pairs in the index.
        pairs: u64,
    },
}
