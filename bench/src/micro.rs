//! The index without network and log: the cost of adding and removing pairs, and of finding the nearest
//! holders, beside simple implementations. All have the same fleet, and ratios are from the same run.

mod indexed;
mod naive;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use piccolo_raft::model::Key;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::Settings;
use crate::fleet::Fleet;
use crate::plot::log_bars::{Group, Series, draw};
use crate::report::Report;
use crate::stats::Spread;

use indexed::Indexed;
use naive::{Sets, Vectors};

const SEED: u64 = 0x11c0;
/// Number of hosts whose whole inventories are added and removed.
const HOSTS_WITH_INVENTORIES: u32 = 2_000;
/// Numbers of holders of the key that is advertised, withdrawn and looked up.
const HOLDERS: [u32; 3] = [40, 1_000, 50_000];
/// Number of changes of that key in a round, and of lookups.
const OPERATIONS: usize = 2_000;
/// Number of holders that an agent asks for.
const COUNT: usize = 16;

/// A map from keys to holders.
trait Holdings {
    /// Adds keys (sorted) to hosts. Each change is a request of its own; as many are applied together as
    /// arrive together.
    fn add(&mut self, changes: &[(u32, Vec<Key>)]) -> Result<()>;
    /// Removes keys from hosts.
    fn remove(&mut self, changes: &[(u32, Vec<Key>)]) -> Result<()>;
    /// Number of nearest holders that were found: at most [`COUNT`], never the asker.
    fn nearest(&self, key: &Key, asker: u32) -> usize;
}

/// An operation's texts for table and plot, and its duration, nanoseconds.
type Measured = ((String, String), f64);

/// Measurements of one operation on every side.
struct Row {
    what: String,
    /// Name of the operation for the plot.
    short: String,
    /// Nanoseconds of one operation, by side and round.
    sides: Vec<Vec<f64>>,
}

const SIDES: [Series; 3] =
    [("Piccolo", "#d9480f"), ("sorted sets", "#868e96"), ("sorted vectors", "#1971c2")];

/// Runs the scenario and writes its section.
pub(crate) fn micro(settings: &Settings, fleet: Fleet, report: &Report) -> Result<()> {
    eprintln!("micro");
    let mut rows: Vec<Row> = Vec::new();
    let changes = inventories(fleet)?;
    for round in 0..settings.rounds as usize {
        for turn in 0..SIDES.len() {
            let side = (turn + round) % SIDES.len();
            let mut made = make(side, fleet)?;
            let mut measured = whole(&mut *made, fleet, &changes)?;
            for holders in HOLDERS.into_iter().filter(|holders| *holders <= fleet.hosts) {
                let mut made = make(side, fleet)?;
                measured.extend(one_key(&mut *made, fleet, holders)?);
            }
            for (place, ((what, short), nanos)) in measured.into_iter().enumerate() {
                if rows.len() == place {
                    rows.push(Row { what, short, sides: vec![Vec::new(); SIDES.len()] });
                }
                rows[place].sides[side].push(nanos);
            }
        }
    }
    let plot = draw("Nanoseconds of one operation", &SIDES, &groups(&rows));
    let body = format!("{}\n{}", table(&rows), report.plot("micro", &plot)?);
    report.section("micro", "Adding, removing and finding holders, without network and log", &body)
}

fn make(side: usize, fleet: Fleet) -> Result<Box<dyn Holdings>> {
    Ok(match side {
        0 => Box::new(Indexed::new(fleet)?),
        1 => Box::new(Sets::new(fleet)),
        _ => Box::new(Vectors::new(fleet)),
    })
}

/// Nanoseconds for each of `operations`.
fn timed(operations: usize, work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_nanos() as f64 / operations as f64)
}

/// Whole inventories as syncs bring them: hosts in random order, keys sorted.
fn inventories(fleet: Fleet) -> Result<Vec<(u32, Vec<Key>)>> {
    let hosts = fleet.hosts.min(HOSTS_WITH_INVENTORIES);
    let keys = keys(fleet)?;
    let inventory = |host| {
        let mut held: Vec<Key> =
            fleet.inventory(host).into_iter().map(|key| keys[key as usize].clone()).collect();
        held.sort_unstable();
        (host, held)
    };
    let mut changes: Vec<(u32, Vec<Key>)> = (0..hosts).map(inventory).collect();
    changes.shuffle(&mut StdRng::seed_from_u64(SEED));
    Ok(changes)
}

/// Measures whole inventories, for each pair.
fn whole(side: &mut dyn Holdings, fleet: Fleet, changes: &[(u32, Vec<Key>)]) -> Result<Vec<Measured>> {
    let hosts = changes.len();
    let pairs = hosts * fleet.keys_per_host as usize;
    let added = timed(pairs, || side.add(changes))?;
    let removed = timed(pairs, || side.remove(changes))?;
    let named = |what: &str, nanos| {
        let long = format!("{what} a pair, {hosts} whole inventories of {} keys", fleet.keys_per_host);
        ((long, format!("{what} a pair")), nanos)
    };
    Ok(vec![named("add", added), named("remove", removed)])
}

fn keys(fleet: Fleet) -> Result<Vec<Key>> {
    (0..fleet.distinct_keys)
        .map(|key| fleet.key(key).parse().with_context(|| format!("key {key} is none")))
        .collect()
}

/// Measures a key with `holders` holders: single changes in random order, and lookups by random hosts.
fn one_key(side: &mut dyn Holdings, fleet: Fleet, holders: u32) -> Result<Vec<Measured>> {
    let key: Key = fleet.key(0).parse().context("a key is none")?;
    let mut random = StdRng::seed_from_u64(SEED);
    let mut changes: Vec<(u32, Vec<Key>)> =
        spread_hosts(fleet, holders).map(|host| (host, vec![key.clone()])).collect();
    changes.shuffle(&mut random);
    side.add(&changes)?;
    let askers: Vec<u32> = (0..OPERATIONS).map(|_| random.random_range(0..fleet.hosts)).collect();
    let mut found = 0;
    let nearest = timed(OPERATIONS, || {
        found = askers.iter().map(|asker| side.nearest(&key, *asker)).sum();
        Ok(())
    })?;
    // The asker may be one of the holders.
    let least = COUNT.min(holders as usize - 1) * OPERATIONS;
    ensure!(found >= least, "{found} holders were found, not {least}");
    let some = &changes[..OPERATIONS.min(changes.len())];
    let removed = timed(some.len(), || side.remove(some))?;
    let added = timed(some.len(), || side.add(some))?;
    let named = |what: &str, nanos| {
        ((format!("{what} of a key with {holders} holders"), format!("{what} of {holders}")), nanos)
    };
    Ok(vec![
        named("add one", added),
        named("remove one", removed),
        named(&format!("nearest {COUNT}"), nearest),
    ])
}

/// `count` hosts, evenly spread over the fleet.
fn spread_hosts(fleet: Fleet, count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(move |number| (u64::from(number) * u64::from(fleet.hosts) / u64::from(count)) as u32)
}

fn table(rows: &[Row]) -> String {
    let mut text = "Nanoseconds of one operation, medians (lowest–highest), and ratios taken round by round. Piccolo is \
        the index as a server runs it, by its public interface (apply of log entries, up to 256 at once; find and \
        rank): host records, order of writes, fingerprints and the tables of `state.redb` (in memory here) are in \
        its figures for adding and removing, and in nobody else's. Sorted sets: a `HashMap` of `BTreeSet`s of (zone, \
        address); sorted vectors: of `Vec`s; both find the nearest by looking at all holders.\n\n\
        | operation | Piccolo | sorted sets | sorted vectors | sets ÷ Piccolo | vectors ÷ Piccolo |\n\
        |---|---|---|---|---|---|\n"
        .to_owned();
    for row in rows {
        let side = |side: usize| Spread::of(row.sides[side].iter().copied());
        let over = |side: usize| {
            let pairs = row.sides[side].iter().zip(&row.sides[0]);
            Spread::of(pairs.map(|(other, ours)| other / ours.max(1e-9)))
        };
        text.push_str(&format!(
            "| {} | {:.0} | {:.0} | {:.0} | {:.3} | {:.3} |\n",
            row.what,
            side(0),
            side(1),
            side(2),
            over(1),
            over(2)
        ));
    }
    text
}

/// One group for each operation.
fn groups(rows: &[Row]) -> Vec<Group> {
    let spreads = |row: &Row| row.sides.iter().map(|side| Spread::of(side.iter().copied())).collect();
    rows.iter().map(|row| (row.short.clone(), spreads(row))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sides_find_as_many_holders_and_nobody_after_the_removal() {
        let fleet = Fleet::FULL.with_hosts(80);
        let key: Key = fleet.key(0).parse().unwrap();
        let changes: Vec<_> = (0..40).map(|host| (host * 2, vec![key.clone()])).collect();
        for (side, (name, _)) in SIDES.iter().enumerate() {
            let mut made = make(side, fleet).unwrap();
            made.add(&changes).unwrap();
            made.add(&changes[..3]).unwrap();
            assert_eq!((made.nearest(&key, 1), made.nearest(&key, 2)), (COUNT, COUNT), "{name}");
            made.remove(&changes[5..]).unwrap();
            assert_eq!(
                (made.nearest(&key, 1), made.nearest(&key, 2)),
                (5, 4),
                "{name}: all, all but the asker"
            );
            made.remove(&changes).unwrap();
            assert_eq!(made.nearest(&key, 1), 0, "{name}");
        }
    }
}
