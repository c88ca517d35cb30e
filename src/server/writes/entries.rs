//! Cuts a write into log entries of bounded size, and finds the difference that a sync makes.

use std::collections::BTreeSet;

use piccolo_raft::command::{Command, Write};
use piccolo_raft::model::{Holder, Key, Pair};

use crate::limits::ENTRY_KEY_BYTES_MAX;

/// Whether a holder gets keys or loses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The holder has the keys.
    Advertise,
    /// The holder has the keys no longer.
    Withdraw,
}

/// What a sync must change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Keys in the index that are not in the request.
    pub withdraw: Vec<Key>,
    /// Keys in the request that are not in the index.
    pub advertise: Vec<Key>,
}

impl Difference {
    /// The difference from the applied keys to the wanted ones, which are sorted and without duplicates.
    pub fn between(applied: &BTreeSet<Key>, wanted: &[Key]) -> Self {
        let absent = |key: &&Key| wanted.binary_search(key).is_err();
        Self {
            withdraw: applied.iter().filter(absent).cloned().collect(),
            advertise: wanted.iter().filter(|key| !applied.contains(*key)).cloned().collect(),
        }
    }

    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.withdraw.is_empty() && self.advertise.is_empty()
    }

    /// The log entries of the difference: at least one, the last of which stores the pair.
    pub fn entries(self, holder: &Holder, pair: Option<Pair>) -> Vec<Command> {
        let mut entries = Vec::new();
        for keys in chunks(self.withdraw) {
            entries.push((Direction::Withdraw, keys));
        }
        for keys in chunks(self.advertise) {
            entries.push((Direction::Advertise, keys));
        }
        if entries.is_empty() {
            entries.push((Direction::Advertise, Vec::new()));
        }
        commands(entries, holder, pair)
    }
}

/// The log entries of an advertise or withdraw; the last one stores the pair.
pub fn entries(direction: Direction, holder: &Holder, pair: Option<Pair>, keys: Vec<Key>) -> Vec<Command> {
    commands(chunks(keys).into_iter().map(|keys| (direction, keys)).collect(), holder, pair)
}

fn commands(entries: Vec<(Direction, Vec<Key>)>, holder: &Holder, pair: Option<Pair>) -> Vec<Command> {
    let last = entries.len() - 1;
    let command = |(position, (direction, keys)): (usize, (Direction, Vec<Key>))| {
        let write = Write { holder: holder.clone(), pair, stores_pair: position == last, keys };
        match direction {
            Direction::Advertise => Command::Advertise(write),
            Direction::Withdraw => Command::Withdraw(write),
        }
    };
    entries.into_iter().enumerate().map(command).collect()
}

/// Splits keys into runs of at most [`ENTRY_KEY_BYTES_MAX`] encoded bytes.
fn chunks(keys: Vec<Key>) -> Vec<Vec<Key>> {
    let mut chunks: Vec<Vec<Key>> = Vec::new();
    let mut room = 0;
    for key in keys {
        let size = key.bytes_at_most();
        if size > room {
            chunks.push(Vec::new());
            room = ENTRY_KEY_BYTES_MAX;
        }
        room -= size;
        chunks.last_mut().expect("one was pushed for the first key").push(key);
    }
    chunks
}

#[cfg(test)]
mod tests {
    use piccolo_raft::format::{ENTRY, Level};
    use piccolo_raft::model::{COMMAND_BYTES_MAX, GROUP_BYTES_MAX};

    use super::*;

    fn holder() -> Holder {
        Holder { group: "g".repeat(GROUP_BYTES_MAX), address: "[fd00::1]:65535".parse().unwrap() }
    }

    fn keys(names: &[&str]) -> Vec<Key> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    fn write_of(command: &Command) -> &Write {
        match command {
            Command::Advertise(write) | Command::Withdraw(write) => write,
            other => panic!("{other}"),
        }
    }

    const PAIR: Option<Pair> = Some(Pair { epoch: u64::MAX, seq: u64::MAX });

    #[test]
    fn every_entry_fits_and_only_the_last_stores_the_pair() {
        let many: Vec<Key> = (0..5_000).map(|n| Key::Text(format!("{n:0>255}"))).collect();
        let commands = entries(Direction::Advertise, &holder(), PAIR, many.clone());
        assert!(commands.len() > 4);
        for (position, command) in commands.iter().enumerate() {
            assert!(ENTRY.encode(Level::FIRST, command).len() <= COMMAND_BYTES_MAX);
            assert_eq!(write_of(command).stores_pair, position + 1 == commands.len());
        }
        let again: Vec<Key> = commands.iter().flat_map(|c| write_of(c).keys.clone()).collect();
        assert_eq!(again, many);
    }

    #[test]
    fn a_difference_names_what_goes_and_what_comes() {
        let applied: BTreeSet<Key> = keys(&["a:1", "b:1", "c:1"]).into_iter().collect();
        let difference = Difference::between(&applied, &keys(&["b:1", "d:1"]));
        assert_eq!(difference.withdraw, keys(&["a:1", "c:1"]));
        assert_eq!(difference.advertise, keys(&["d:1"]));
        let commands = difference.entries(&holder(), PAIR);
        assert!(matches!(&commands[..], [Command::Withdraw(first), Command::Advertise(last)]
            if !first.stores_pair && last.stores_pair));
    }

    #[test]
    fn a_sync_that_changes_nothing_still_stores_its_pair() {
        let applied: BTreeSet<Key> = keys(&["a:1"]).into_iter().collect();
        let difference = Difference::between(&applied, &keys(&["a:1"]));
        assert!(difference.is_empty());
        let commands = difference.entries(&holder(), PAIR);
        assert!(matches!(&commands[..], [Command::Advertise(write)]
            if write.keys.is_empty() && write.stores_pair && write.pair == PAIR));
    }
}
