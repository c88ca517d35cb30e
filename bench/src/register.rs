//! Cold registration: a whole fleet syncs to three empty servers, beside the same rows in MariaDB.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;

use crate::Settings;
use crate::agents::Agents;
use crate::cluster::{Cluster, Used};
use crate::enroll::{CONNECTIONS, Enrolled, heartbeat_all, sync_all};
use crate::fleet::Fleet;
use crate::mariadb::{MariaDb, ROWS_PER_INSERT};
use crate::names::KeyNames;
use crate::plot::lines;
use crate::report::Report;
use crate::stats::Spread;
use crate::usage::process::{cpu_seconds, peak_resident};

/// Budget of docs/budgets.md for registering the fleet, on two cores.
const BUDGET: Duration = Duration::from_secs(60);
const SERVERS: usize = 3;

/// Connections to MariaDB; with more, hosts would wait for each other's index pages.
const DATABASE_CONNECTIONS: usize = 8;
/// Budget for rows a second, divided by MariaDB's.
const RATIO_BUDGET: f64 = 4.0;

/// Arguments of `register`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RegisterArgs {
    /// Number of rounds.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repeats: u32,
    /// Number of hosts that MariaDB gets in each round, other ones each time; 0 leaves MariaDB out.
    #[arg(long, default_value_t = 2_500)]
    mariadb_hosts: u32,
}

/// Results of MariaDB.
struct Database {
    hosts: u32,
    what: String,
    rate: Spread,
}

/// One registration with fresh servers.
struct Round {
    /// Time until every agent had its 201, seconds.
    acknowledged: f64,
    /// Time until all servers showed the same state with every pair, seconds.
    applied: f64,
    /// Time of the first heartbeats, which bring zone and lease, seconds.
    heartbeats: f64,
    leader: Side,
    followers: Side,
    load_cpu: f64,
    /// Number of elections during the registration.
    elections: u64,
    statuses: String,
    latency: String,
    /// Rows acknowledged in each second.
    rate: Vec<(f64, f64)>,
}

/// Resources that servers used for the syncs, averaged over them.
#[derive(Clone, Copy)]
struct Side {
    cpu: f64,
    written: f64,
    peak: f64,
}

/// Runs the scenario and writes its section.
pub(crate) fn register(
    settings: &Settings,
    args: &RegisterArgs,
    report: &Report,
    folder: &Path,
) -> Result<()> {
    let fleet = settings.fleet();
    let repeats = args.repeats;
    let mut rounds = Vec::new();
    for number in 0..repeats {
        let folder = folder.join(format!("round-{number}"));
        std::fs::create_dir(&folder)?;
        rounds.push(round(settings, fleet, &folder)?);
        std::fs::remove_dir_all(&folder)?;
    }
    let database = match args.mariadb_hosts.min(fleet.hosts) {
        0 => None,
        hosts => Some(database(fleet, hosts, repeats, folder)?),
    };
    let body = body(fleet, &rounds, database.as_ref(), report)?;
    report.section("register", "Cold registration of a fleet", &body)
}

/// Registers the rows of some hosts with MariaDB, which is enough for a rate.
fn database(fleet: Fleet, hosts: u32, repeats: u32, folder: &Path) -> Result<Database> {
    let names = Arc::new(KeyNames::of(fleet));
    let database = MariaDb::start(&folder.join("mariadb"), fleet)?;
    let mut rates = Vec::new();
    for number in 0..repeats.min(fleet.hosts / hosts) {
        let part = number * hosts..(number + 1) * hosts;
        let seen = database.register(fleet, &names, part, DATABASE_CONNECTIONS, ROWS_PER_INSERT)?;
        ensure!(seen.rows == u64::from(hosts) * u64::from(fleet.keys_per_host), "{} rows came", seen.rows);
        rates.push(seen.rows_per_second());
    }
    let what = database.what()?;
    database.stop()?;
    Ok(Database { hosts, what, rate: Spread::of(rates) })
}

fn round(settings: &Settings, fleet: Fleet, folder: &Path) -> Result<Round> {
    let cluster = Cluster::start(&settings.binary, folder, SERVERS)?;
    let agents = Agents::started_now(fleet, 0)?;
    let term = cluster.wait_equal()?.term;
    let (used, load) = (cluster.used_by_all()?, cpu_seconds(std::process::id())?);
    let start = Instant::now();
    let Enrolled { agents, outcome } = sync_all(&cluster, agents)?;
    let acknowledged = start.elapsed().as_secs_f64();
    let load_cpu = cpu_seconds(std::process::id())? - load;
    let status = cluster.wait_equal()?;
    let applied = start.elapsed().as_secs_f64();
    ensure!(status.pairs == fleet.pairs(), "{} pairs arrived of {}", status.pairs, fleet.pairs());
    let leader = cluster.wait_leader()?;
    let sides = sides(&cluster, leader, &used)?;
    let start = Instant::now();
    heartbeat_all(&cluster, agents)?;
    // States may differ: leases of agents with a single heartbeat may end meanwhile.
    cluster.wait_applied()?;
    let record = &outcome.records[0];
    let rate = record.seconds.iter().enumerate();
    Ok(Round {
        acknowledged,
        applied,
        heartbeats: start.elapsed().as_secs_f64(),
        leader: sides.0,
        followers: sides.1,
        load_cpu,
        elections: status.term - term,
        statuses: record.statuses_text(),
        latency: record.latency_text(),
        rate: rate
            .map(|(second, seen)| (second as f64, seen.good as f64 * f64::from(fleet.keys_per_host)))
            .collect(),
    })
}

/// Resources of the leader, and the average of the followers.
fn sides(cluster: &Cluster, leader: usize, before: &[Used]) -> Result<(Side, Side)> {
    let one = |number: usize| -> Result<Side> {
        let now = cluster.used(number)?;
        Ok(Side {
            cpu: now.cpu_seconds - before[number].cpu_seconds,
            written: now.written_mib - before[number].written_mib,
            peak: peak_resident(cluster.pid(number)?)?,
        })
    };
    let others: Vec<Side> =
        (0..cluster.len()).filter(|number| *number != leader).map(one).collect::<Result<_>>()?;
    let mean = |value: fn(&Side) -> f64| others.iter().map(value).sum::<f64>() / others.len() as f64;
    let followers = Side { cpu: mean(|s| s.cpu), written: mean(|s| s.written), peak: mean(|s| s.peak) };
    Ok((one(leader)?, followers))
}

fn body(fleet: Fleet, rounds: &[Round], database: Option<&Database>, report: &Report) -> Result<String> {
    let of = |value: &dyn Fn(&Round) -> f64| Spread::of(rounds.iter().map(value));
    let rows = fleet.pairs() as f64;
    let mut text = format!(
        "{} hosts × {} keys = {} pairs over {} distinct keys, synced into {SERVERS} empty servers over \
         {CONNECTIONS} connections, spread evenly over the servers (two thirds of the syncs are forwarded to \
         the leader); {} rounds. Load and servers share the machine.\n\n| | seen | budget |\n|---|---|---|\n",
        fleet.hosts,
        fleet.keys_per_host,
        fleet.pairs(),
        fleet.distinct_keys,
        rounds.len()
    );
    let mut row = |what: &str, seen: String, budget: &str| {
        writeln!(text, "| {what} | {seen} | {budget} |").expect("a string takes everything");
    };
    let budget = format!("≤ {} s for {} pairs", BUDGET.as_secs(), Fleet::FULL.pairs());
    row("every agent has its 201, s", format!("{:.1}", of(&|r| r.acknowledged)), "");
    row("equal checksums with every pair on all servers, s", format!("{:.1}", of(&|r| r.applied)), &budget);
    row("rows a second, until then", format!("{:.0}", of(&|r| rows / r.applied)), "");
    row("first heartbeats (zone, lease), s", format!("{:.1}", of(&|r| r.heartbeats)), "");
    row("CPU of the leader, s", format!("{:.1}", of(&|r| r.leader.cpu)), "");
    row("CPU of a follower, s", format!("{:.1}", of(&|r| r.followers.cpu)), "");
    row("CPU of the load, s", format!("{:.1}", of(&|r| r.load_cpu)), "");
    row("written by the leader, MiB", format!("{:.0}", of(&|r| r.leader.written)), "");
    row("written by a follower, MiB", format!("{:.0}", of(&|r| r.followers.written)), "");
    row("peak resident, leader, MiB", format!("{:.0}", of(&|r| r.leader.peak)), "");
    row("peak resident, follower, MiB", format!("{:.0}", of(&|r| r.followers.peak)), "");
    row("elections meanwhile", format!("{:.0}", of(&|r| r.elections as f64)), "0");
    let last = &rounds[rounds.len() - 1];
    row("last round: latency of a sync, p50 / p99 / max, ms", last.latency.clone(), "");
    row("last round: answers", last.statuses.clone(), "all 201");
    if let Some(Database { hosts, what, rate }) = database {
        row(&format!("rows a second into MariaDB, {hosts} hosts a round"), format!("{rate:.0}"), "");
        let ratio = of(&|r| rows / r.applied).median / rate.median;
        row("rows a second, beside MariaDB's", format!("{ratio:.1} ×"), &format!("≥ {RATIO_BUDGET} ×"));
        writeln!(
            text,
            "\nMariaDB: one copy, {what}; {DATABASE_CONNECTIONS} connections, {ROWS_PER_INSERT} rows an insert, one \
             transaction a host, nothing in front of it."
        )
        .expect("a string takes everything");
    }
    let names: Vec<String> = (1..=rounds.len()).map(|number| format!("round {number}")).collect();
    let series: Vec<(&str, Vec<(f64, f64)>)> =
        names.iter().zip(rounds).map(|(name, round)| (name.as_str(), round.rate.clone())).collect();
    let svg = lines("Cold registration", "seconds", "rows acknowledged in each second", &series);
    text.push('\n');
    text.push_str(&report.plot("register", &svg)?);
    Ok(text)
}
