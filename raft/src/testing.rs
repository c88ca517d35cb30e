//! Short names for the tests of this crate.

use std::sync::Arc;

use openraft::entry::RaftEntry;
use rand::Rng;
use rand::rngs::StdRng;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) mod sim_disk;

use crate::command::{Command, Write};
use crate::disk::MemoryDisk;
use crate::model::{Holder, Key, Pair};
use crate::network::Http;
use crate::network::client::RpcClient;
use crate::network::names::{Names, SystemResolver};
use crate::types::{Entry, LogId, TypeConfig};

/// The holder `10.0.0.<host>:7781` in group `g`.
pub(crate) fn holder(host: u8) -> Holder {
    Holder { group: "g".into(), address: ([10, 0, 0, host], 7781).into() }
}

/// The key that `text` names.
pub(crate) fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// A client that belongs to no node, with the network and the resolver of the system.
pub(crate) fn lone_client() -> RpcClient {
    let (tasks, stop, disk) = (TaskTracker::new(), CancellationToken::new(), MemoryDisk::default());
    let names = Names::load(Arc::new(SystemResolver), &disk, tasks.clone(), stop.clone());
    RpcClient::new(&Http::default(), names, tasks, stop)
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

/// Any command about a few hosts and keys, as it could be proposed when the log has `index` entries.
pub(crate) fn random_command(random: &mut StdRng, index: u64) -> Command {
    let group = ["g", "other"][random.random_range(0..2)].to_owned();
    let holder = Holder { group, address: ([10, 0, 0, random.random_range(0..6)], 7781).into() };
    let mut keys = |max| {
        (0..random.random_range(0..max))
            .map(|_| key(&format!("r/k:{}", random.random_range(0..120))))
            .collect()
    };
    let keys: Vec<Key> = keys(12);
    let pair = random.random_bool(0.6).then(|| Pair { epoch: index / 100, seq: random.random_range(0..4) });
    let write = Write { holder: holder.clone(), pair, stores_pair: random.random_bool(0.7), keys };
    match random.random_range(0..16) {
        0..=5 => Command::Advertise(write),
        6..=9 => Command::Withdraw(write),
        10 => Command::SetHost {
            holder,
            zone: ["", "a", "b"][random.random_range(0..3)].into(),
            ttl_seconds: 9,
        },
        11 | 12 => Command::Hide {
            holder,
            last_write_index: index.saturating_sub(random.random_range(0..40)),
            unix_ms: 1,
        },
        13 => Command::Unhide { holder },
        14 => Command::Forget { holder, hidden_unix_ms: random.random_range(0..2) },
        _ => Command::Tombstone { node_id: random.random_range(0..9) },
    }
}
