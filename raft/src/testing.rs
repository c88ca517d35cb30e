//! Short names for the tests of this crate.

use openraft::entry::RaftEntry;

use crate::command::{Command, Holder, Key, Write};
use crate::types::{Entry, LogId, TypeConfig};

/// `10.0.0.<host>:7781` in group `g`.
pub(crate) fn holder(host: u8) -> Holder {
    Holder { group: "g".into(), address: ([10, 0, 0, host], 7781).into() }
}

/// The key of that text.
pub(crate) fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// A write of [`holder`] without a pair.
pub(crate) fn write(host: u8, keys: &[&str]) -> Write {
    let keys = keys.iter().map(|text| key(text)).collect();
    Write { holder: holder(host), pair: None, stores_pair: false, keys }
}

/// A log id of term 1, node 1.
pub(crate) fn log_id(index: u64) -> LogId {
    let leader = openraft::impls::leader_id_adv::LeaderId { term: 1, node_id: 1 };
    openraft::type_config::alias::LogIdOf::<TypeConfig>::new(leader, index)
}

/// A log entry with `command`.
pub(crate) fn entry(index: u64, command: Command) -> Entry {
    Entry::new_normal(log_id(index), command)
}
