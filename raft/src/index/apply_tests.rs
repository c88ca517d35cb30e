//! What each command does, as a table, and against a naive model.

use std::collections::{BTreeMap, BTreeSet};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::state::Parts;
use super::*;
use crate::model::Pair;
use crate::testing::{holder, key, random_command, write};

const UNKNOWN: Reply = Reply::UnknownHost;
const NOT_APPLICABLE: Reply = Reply::NotApplicable;

fn applied(changed: u32) -> Reply {
    Reply::Applied { changed }
}

/// A state and one batch that never ends: it holds every inventory.
#[derive(Default)]
struct Machine {
    state: IndexState,
    batch: Batch,
    index: u64,
}

impl Machine {
    fn apply(&mut self, command: &Command) -> Reply {
        self.index += 1;
        self.state.apply(&mut self.batch, self.index, command)
    }

    /// Builds the state anew from what would be stored, which checks every count and sum.
    fn rebuilt(&self) -> IndexState {
        let parts = Parts {
            applied: None,
            membership: self.state.membership.clone(),
            tombstones: self.state.tombstones.clone(),
            levels: self.state.levels,
            noted: self.state.noted,
            keys: self.state.keys.iter().map(|(id, key)| (id, key.clone())).collect(),
            hosts: self.state.hosts.iter().map(|(id, slot)| (id, slot.record.clone())).collect(),
        };
        let append = |id, ids: &mut Vec<u32>| {
            ids.extend(self.batch.inventory(id));
            Ok(())
        };
        IndexState::build(parts, append).unwrap()
    }

    fn assert_whole(&self, context: &str) {
        let rebuilt = self.rebuilt();
        assert_eq!(rebuilt.checksum, self.state.checksum, "{context}");
        assert_eq!(rebuilt.counts(), self.state.counts(), "{context}");
        for (_, key) in self.state.keys.iter() {
            for (group, _) in self.state.groups.iter() {
                let found = |state: &IndexState| {
                    let found = state.postings(group, key)?;
                    Some((0..found.len()).map(|at| found.address(at)).collect::<Vec<_>>())
                };
                assert_eq!(found(&rebuilt), found(&self.state), "{context}, {key} in {group}");
            }
        }
    }
}

fn holders(state: &IndexState, name: &str) -> Vec<String> {
    let found = state.postings("g", &key(name));
    found.map_or(vec![], |found| (0..found.len()).map(|at| found.address(at).ip().to_string()).collect())
}

fn pair(epoch: u64, seq: u64) -> Pair {
    Pair { epoch, seq }
}

/// A write that is the last entry of its request.
fn last(host: u8, keys: &[&str], pair: Pair) -> Write {
    Write { pair: Some(pair), stores_pair: true, ..write(host, keys) }
}

fn advertise(host: u8, keys: &[&str]) -> Command {
    Command::Advertise(write(host, keys))
}

fn withdraw(host: u8, keys: &[&str]) -> Command {
    Command::Withdraw(write(host, keys))
}

fn hide(host: u8, last_write_index: u64) -> Command {
    Command::Hide { holder: holder(host), last_write_index, unix_ms: 1_000 }
}

fn unhide(host: u8) -> Command {
    Command::Unhide { holder: holder(host) }
}

fn forget(host: u8, hidden_unix_ms: u64) -> Command {
    Command::Forget { holder: holder(host), hidden_unix_ms }
}

fn set_host(host: u8, zone: &str) -> Command {
    Command::SetHost { holder: holder(host), zone: zone.into(), ttl_seconds: 90 }
}

/// (claim, commands before at index 1…, command, reply, holders of `r/a:1` after it)
type Case = (&'static str, Vec<Command>, Command, Reply, &'static [&'static str]);

fn check(cases: Vec<Case>) {
    for (claim, before, command, reply, expected) in cases {
        let mut machine = Machine::default();
        for command in &before {
            machine.apply(command);
        }
        assert_eq!(machine.apply(&command), reply, "{claim}");
        assert_eq!(holders(&machine.state, "r/a:1"), expected, "{claim}");
        machine.assert_whole(claim);
        let slot = machine.state.host_id(&holder(1)).map(|id| machine.state.host_slot(id));
        let refused = matches!(reply, Reply::Stale { .. } | Reply::UnknownHost | Reply::NotApplicable);
        assert!(!refused || slot.is_none_or(|slot| slot.changed < machine.index), "{claim}: nothing changed");
    }
}

const ONE: &[&str] = &["10.0.0.1"];
const NOBODY: &[&str] = &[];

#[test]
fn writes_change_the_inventory_and_show_the_host() {
    let a = || advertise(1, &["r/a:1"]);
    let hidden = || vec![a(), hide(1, 1)];
    check(vec![
        ("advertise creates the host", vec![], a(), applied(1), ONE),
        ("an empty advertise creates it too", vec![], advertise(1, &[]), applied(0), NOBODY),
        ("a key again changes nothing", vec![a()], a(), applied(0), ONE),
        (
            "a key twice in one command counts once",
            vec![],
            advertise(1, &["r/a:1", "r/a:1"]),
            applied(1),
            ONE,
        ),
        ("withdraw takes the key", vec![a()], withdraw(1, &["r/a:1"]), applied(1), NOBODY),
        (
            "withdraw of a key twice counts once",
            vec![a()],
            withdraw(1, &["r/a:1", "r/a:1"]),
            applied(1),
            NOBODY,
        ),
        ("withdraw of what it has not", vec![a()], withdraw(1, &["r/b:1"]), applied(0), ONE),
        (
            "withdraw of what another has",
            vec![a(), advertise(2, &["r/b:1"])],
            withdraw(1, &["r/b:1"]),
            applied(0),
            ONE,
        ),
        ("withdraw of an unknown host without a pair", vec![], withdraw(1, &["r/a:1"]), UNKNOWN, NOBODY),
        (
            "an advertise shows a hidden host with all it has",
            hidden(),
            advertise(1, &["r/b:1"]),
            applied(1),
            ONE,
        ),
        ("an empty advertise shows it too", hidden(), advertise(1, &[]), applied(0), ONE),
        (
            "a withdraw shows a hidden host with what is left",
            hidden(),
            withdraw(1, &["r/b:1"]),
            applied(0),
            ONE,
        ),
        ("a withdraw of a hidden host's key", hidden(), withdraw(1, &["r/a:1"]), applied(1), NOBODY),
    ]);
}

#[test]
fn a_lower_pair_is_stale_and_an_equal_one_is_done_again() {
    let a = |pair| Command::Advertise(last(1, &["r/a:1"], pair));
    let stale = |stored| Reply::Stale { stored };
    check(vec![
        (
            "a lower seq",
            vec![a(pair(5, 2))],
            Command::Withdraw(last(1, &["r/a:1"], pair(5, 1))),
            stale(pair(5, 2)),
            ONE,
        ),
        (
            "a lower epoch",
            vec![a(pair(5, 2))],
            Command::Withdraw(last(1, &["r/a:1"], pair(4, 9))),
            stale(pair(5, 2)),
            ONE,
        ),
        ("the same pair", vec![a(pair(5, 2))], a(pair(5, 2)), applied(0), ONE),
        (
            "a higher pair",
            vec![a(pair(5, 2))],
            Command::Withdraw(last(1, &["r/a:1"], pair(5, 3))),
            applied(1),
            NOBODY,
        ),
        ("no pair is last writer wins", vec![a(pair(5, 2))], withdraw(1, &["r/a:1"]), applied(1), NOBODY),
        (
            "no pair leaves the stored one",
            vec![a(pair(5, 2)), withdraw(1, &["r/a:1"])],
            a(pair(5, 1)),
            stale(pair(5, 2)),
            NOBODY,
        ),
        (
            "stale does not show a hidden host",
            vec![a(pair(5, 2)), hide(1, 1)],
            a(pair(5, 1)),
            stale(pair(5, 2)),
            NOBODY,
        ),
        (
            "the first entries of a request do not store its pair",
            vec![
                a(pair(5, 2)),
                Command::Withdraw(Write { stores_pair: false, ..last(1, &["r/b:1"], pair(5, 3)) }),
            ],
            Command::Withdraw(last(1, &["r/a:1"], pair(5, 2))),
            applied(1),
            NOBODY,
        ),
        (
            "a withdraw of an unknown host",
            vec![],
            Command::Withdraw(last(1, &["r/a:1"], pair(5, 3))),
            applied(0),
            NOBODY,
        ),
        (
            "a withdraw of an unknown host keeps its pair",
            vec![Command::Withdraw(last(1, &["r/a:1"], pair(5, 3)))],
            a(pair(5, 2)),
            stale(pair(5, 3)),
            NOBODY,
        ),
    ]);
}

#[test]
fn leases_hide_and_show() {
    let a = || advertise(1, &["r/a:1"]);
    check(vec![
        ("hide takes the host out of the answers", vec![a()], hide(1, 1), applied(0), NOBODY),
        ("hide of what wrote later", vec![a(), a()], hide(1, 1), NOT_APPLICABLE, ONE),
        ("hide of an unknown host", vec![], hide(1, 1), UNKNOWN, NOBODY),
        ("hide again", vec![a(), hide(1, 1)], hide(1, 1), applied(0), NOBODY),
        (
            "hide after an unhide that it had not seen",
            vec![a(), hide(1, 1), unhide(1)],
            hide(1, 1),
            NOT_APPLICABLE,
            ONE,
        ),
        (
            "hide after a set that it had not seen",
            vec![a(), set_host(1, "z")],
            hide(1, 1),
            NOT_APPLICABLE,
            ONE,
        ),
        ("unhide shows it again", vec![a(), hide(1, 1)], unhide(1), applied(0), ONE),
        ("unhide of a visible host", vec![a()], unhide(1), applied(0), ONE),
        ("unhide of an unknown host", vec![], unhide(1), UNKNOWN, NOBODY),
        ("forget", vec![a(), hide(1, 1)], forget(1, 1_000), applied(1), NOBODY),
        ("forget of another hiding", vec![a(), hide(1, 1)], forget(1, 999), NOT_APPLICABLE, NOBODY),
        ("forget of a visible host", vec![a()], forget(1, 1_000), NOT_APPLICABLE, ONE),
        ("forget of an unknown host", vec![], forget(1, 1_000), UNKNOWN, NOBODY),
    ]);
}

#[test]
fn a_zone_moves_the_host_in_the_postings() {
    let two = || vec![advertise(1, &["r/a:1"]), advertise(2, &["r/a:1"])];
    let hidden = || [two(), vec![hide(1, 1)]].concat();
    check(vec![
        ("into a later zone", two(), set_host(1, "z"), applied(0), &["10.0.0.2", "10.0.0.1"]),
        ("into the same zone", two(), set_host(1, ""), applied(0), &["10.0.0.1", "10.0.0.2"]),
        ("a hidden host stays hidden", hidden(), set_host(1, "z"), applied(0), &["10.0.0.2"]),
        (
            "and comes back in its new place",
            [hidden(), vec![set_host(1, "z")]].concat(),
            unhide(1),
            applied(0),
            &["10.0.0.2", "10.0.0.1"],
        ),
        ("an unknown host", vec![], set_host(1, "z"), UNKNOWN, NOBODY),
    ]);
}

#[test]
fn a_record_says_what_was_written() {
    let mut machine = Machine::default();
    machine.apply(&Command::Advertise(last(1, &["r/a:1", "r/b:1"], pair(5, 2))));
    machine.apply(&set_host(1, "z"));
    machine.apply(&hide(1, 2));
    let record = machine.state.host(&holder(1)).unwrap().clone();
    let expected = HostRecord {
        holder: holder(1),
        zone: "z".into(),
        ttl_seconds: 90,
        pair: Some(pair(5, 2)),
        fingerprint: [&key("r/a:1"), &key("r/b:1")].into_iter().collect(),
        count: 2,
        last_write_index: 2,
        hidden_unix_ms: Some(1_000),
    };
    assert_eq!(record, expected);
    machine.apply(&withdraw(1, &["r/b:1"]));
    let record = machine.state.host(&holder(1)).unwrap().clone();
    let fingerprint = [&key("r/a:1")].into_iter().collect();
    assert_eq!(
        record,
        HostRecord { fingerprint, count: 1, last_write_index: 4, hidden_unix_ms: None, ..expected }
    );
}

#[test]
fn a_tombstone_stays() {
    let mut machine = Machine::default();
    let empty = machine.state.checksum;
    assert_eq!(machine.apply(&Command::Tombstone { node_id: 7 }), applied(0));
    let once = machine.state.checksum;
    assert_ne!(once, empty);
    assert_eq!(machine.apply(&Command::Tombstone { node_id: 7 }), applied(0));
    assert_eq!(machine.state.checksum, once);
    assert!(machine.state.tombstones.contains(&7));
}

#[test]
fn ids_go_lowest_free_first_and_do_not_count_in_the_checksum() {
    let commands = [advertise(1, &["r/a:1", "r/b:1"]), advertise(2, &["r/c:1", "r/b:1"])];
    let (mut forward, mut backward) = (Machine::default(), Machine::default());
    forward.apply(&commands[0]);
    forward.apply(&commands[1]);
    // The same commands at the same log indices, but after hosts and keys that are gone by then.
    for host in [8, 9] {
        backward.apply(&advertise(host, &["r/x:1", "r/c:1"]));
    }
    backward.index = 0;
    backward.apply(&commands[0]);
    backward.apply(&commands[1]);
    for host in [8, 9] {
        backward.apply(&hide(host, 2));
        backward.apply(&forget(host, 1_000));
    }
    assert_ne!(forward.state.keys.find(&key("r/a:1")), backward.state.keys.find(&key("r/a:1")));
    assert_eq!(forward.state.checksum, backward.state.checksum);
    backward.apply(&advertise(3, &["r/new:1"]));
    assert_eq!(backward.state.host_id(&holder(3)), Some(0), "the lowest free id");
    assert_eq!(backward.state.keys.find(&key("r/new:1")), Some(0), "the lowest free id");
}

/// What the index should hold, kept the naive way.
#[derive(Default)]
struct Model {
    hosts: BTreeMap<Holder, ModelHost>,
}

#[derive(Default)]
struct ModelHost {
    keys: BTreeSet<Key>,
    stored: Option<Pair>,
    written: u64,
    hidden: Option<u64>,
    zone: String,
}

impl Model {
    fn apply(&mut self, index: u64, command: &Command) -> Reply {
        let Some(holder) = holder_of(command) else { return DONE };
        let creates = match command {
            Command::Advertise(_) => true,
            Command::Withdraw(write) => write.pair.is_some(),
            _ => false,
        };
        if creates {
            self.hosts.entry(holder.clone()).or_default();
        }
        let Some(host) = self.hosts.get_mut(holder) else { return UNKNOWN };
        match command {
            Command::Advertise(write) | Command::Withdraw(write) => return host.write(index, command, write),
            Command::SetHost { zone, .. } => (host.written, host.zone) = (index, zone.clone()),
            Command::Unhide { .. } => (host.written, host.hidden) = (index, None),
            Command::Hide { last_write_index, .. } if host.written > *last_write_index => {
                return NOT_APPLICABLE;
            }
            Command::Hide { unix_ms, .. } => host.hidden = host.hidden.or(Some(*unix_ms)),
            Command::Forget { hidden_unix_ms, .. } if host.hidden != Some(*hidden_unix_ms) => {
                return NOT_APPLICABLE;
            }
            Command::Forget { .. } => {
                let changed = host.keys.len() as u32;
                self.hosts.remove(&holder.clone());
                return applied(changed);
            }
            // Of no host; `level_tests` has them.
            Command::Tombstone { .. }
            | Command::Activate { .. }
            | Command::Readable { .. }
            | Command::NotedAdvertise(_) => {}
        }
        DONE
    }

    /// Visible holders of `key` in `group`, in the order of postings.
    fn holders(&self, group: &str, key: &Key) -> Vec<String> {
        let mut found: Vec<_> = self
            .hosts
            .iter()
            .filter(|(holder, host)| {
                holder.group == group && host.hidden.is_none() && host.keys.contains(key)
            })
            .map(|(holder, host)| (host.zone.clone(), holder.address))
            .collect();
        found.sort();
        found.into_iter().map(|(_, address)| address.to_string()).collect()
    }
}

impl ModelHost {
    fn write(&mut self, index: u64, command: &Command, write: &Write) -> Reply {
        if let (Some(pair), Some(stored)) = (write.pair, self.stored)
            && pair < stored
        {
            return Reply::Stale { stored };
        }
        let before = self.keys.len();
        for key in &write.keys {
            match command {
                Command::Advertise(_) => self.keys.insert(key.clone()),
                _ => self.keys.remove(key),
            };
        }
        if write.stores_pair {
            self.stored = write.pair.or(self.stored);
        }
        (self.written, self.hidden) = (index, None);
        applied(self.keys.len().abs_diff(before) as u32)
    }
}

#[test]
fn random_commands_do_what_they_do_to_a_naive_model() {
    for seed in 0..8 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let (mut machine, mut model) = (Machine { index: 50, ..Machine::default() }, Model::default());
        for step in 0..3_000 {
            let context = format!("seed {seed}, step {step}");
            let command = random_command(&mut random, machine.index);
            let reply = machine.apply(&command);
            assert_eq!(reply, model.apply(machine.index, &command), "{context}: {command:?}");
            let key = key(&format!("r/k:{}", random.random_range(0..120)));
            for group in ["g", "other"] {
                let found = machine.state.postings(group, &key);
                let found =
                    found.map_or(vec![], |f| (0..f.len()).map(|at| f.address(at).to_string()).collect());
                assert_eq!(found, model.holders(group, &key), "{context}");
            }
            if step % 250 == 0 {
                machine.assert_whole(&context);
            }
        }
    }
}
