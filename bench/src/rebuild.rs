//! Rebuild of the index: all servers lose their disks and start empty while the fleet continues to run.
//! Answers to heartbeats ask for a sync, and so all pairs come back.

mod living;

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use rustix::process::Signal;

use crate::Settings;
use crate::agents::Agents;
use crate::cluster::{Cluster, Status};
use crate::drive::Record;
use crate::enroll::enroll;
use crate::fleet::Fleet;
use crate::meter::{Meter, Shares};
use crate::plot::lines;
use crate::report::Report;
use crate::usage::process::peak_resident;
use living::{Lived, Living};

const SERVERS: usize = 3;
/// Budget of section 11: share of the pairs that must be back in time.
const SHARE: f64 = 0.95;
const BUDGET: Duration = Duration::from_secs(120);
/// Time between two reads of the servers' number of pairs.
const LOOK: Duration = Duration::from_millis(250);
/// Longer than any rebuild takes.
const PATIENCE: Duration = Duration::from_secs(600);

/// Arguments of `rebuild`.
#[derive(Args, Clone, Debug)]
pub(crate) struct RebuildArgs {
    /// Nodes of the fleet.
    #[arg(long, default_value_t = 12_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    nodes: u32,
    /// Time between two heartbeats of a node, seconds.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    interval: u64,
    /// Time before the loss, seconds.
    #[arg(long, default_value_t = 35)]
    before: u64,
    /// Time without servers, seconds.
    #[arg(long, default_value_t = 10)]
    away: u64,
}

/// Measurements since the servers' start.
struct Seen {
    /// Pairs of each server, with the time since the start, seconds.
    pairs: Vec<(f64, Vec<u64>)>,
    /// Time until all servers were ready, and until one led, seconds.
    ready: f64,
    led: f64,
    /// Start of the servers, in seconds of the fleet's time.
    started: f64,
    shares: Shares,
    peak: Vec<f64>,
    status: Status,
}

/// Runs the scenario and writes its section.
pub(crate) fn rebuild(settings: &Settings, args: &RebuildArgs, report: &Report, folder: &Path) -> Result<()> {
    let fleet = Fleet::FULL.with_hosts(args.nodes);
    let mut cluster = Cluster::start(&settings.binary, folder, SERVERS)?;
    let agents = enroll(&cluster, Agents::started_now(fleet, 0)?)?;
    let interval = Duration::from_secs(args.interval);
    let living = Living { agents, servers: cluster.addresses(), interval };
    let stop = Arc::new(AtomicBool::new(false));
    let (lived, seen) = thread::scope(|scope| {
        let running = scope.spawn(|| living.run(&stop));
        let seen = measure(&mut cluster, fleet, args);
        stop.store(true, Ordering::Relaxed);
        (running.join(), seen)
    });
    let lived = lived.map_err(|_| anyhow!("the fleet panicked"))??;
    report.section("rebuild", "Rebuild: all servers start empty", &body(fleet, args, &lived, &seen?, report)?)
}

fn measure(cluster: &mut Cluster, fleet: Fleet, args: &RebuildArgs) -> Result<Seen> {
    let begun = Instant::now();
    thread::sleep(Duration::from_secs(args.before));
    for number in 0..SERVERS {
        cluster.end(number, Signal::KILL)?;
        std::fs::remove_dir_all(cluster.data(number)).context("could not remove a data folder")?;
    }
    thread::sleep(Duration::from_secs(args.away));
    let (start, started) = (Instant::now(), begun.elapsed().as_secs_f64());
    for number in 0..SERVERS {
        cluster.spawn(number)?;
    }
    for number in 0..SERVERS {
        cluster.wait_ready(number)?;
    }
    let ready = start.elapsed().as_secs_f64();
    let meter = Meter::start(cluster)?;
    cluster.wait_leader()?;
    let led = start.elapsed().as_secs_f64();
    let mut pairs = vec![(0.0, vec![0; SERVERS])];
    while pairs.last().is_some_and(|(_, seen)| seen.iter().any(|pairs| *pairs < fleet.pairs())) {
        ensure!(start.elapsed() < PATIENCE, "not all pairs are back after {PATIENCE:?}: {:?}", pairs.last());
        thread::sleep(LOOK);
        let of = |number| cluster.status(number).map_or(0, |status: Status| status.pairs);
        let seen = (0..SERVERS).map(of).collect();
        pairs.push((start.elapsed().as_secs_f64(), seen));
    }
    let shares = meter.read(cluster)?;
    let peak = (0..SERVERS).map(|number| peak_resident(cluster.pid(number)?)).collect::<Result<_>>()?;
    let status = cluster.wait_equal()?;
    ensure!(status.pairs == fleet.pairs(), "{} pairs are there of {}", status.pairs, fleet.pairs());
    Ok(Seen { pairs, ready, led, started, shares, peak, status })
}

fn body(fleet: Fleet, args: &RebuildArgs, lived: &Lived, seen: &Seen, report: &Report) -> Result<String> {
    let Seen { pairs, ready, led, started, shares, peak, status } = seen;
    let back = |share: f64| {
        let wanted = (fleet.pairs() as f64 * share).ceil() as u64;
        let all = pairs.iter().find(|(_, seen)| seen.iter().all(|pairs| *pairs >= wanted));
        all.map_or(f64::INFINITY, |(at, _)| *at)
    };
    let within = back(SHARE);
    let verdict = if within <= BUDGET.as_secs_f64() { "" } else { " **missed**" };
    let mut text = format!(
        "{} nodes × {} keys = {} pairs on {SERVERS} servers. Each node sends a heartbeat every {} s, at its own time; after {} s all \
         servers are killed (kill -9) and their data folders removed, {} s later they are started, empty: a new cluster \
         at the same addresses. A node whose heartbeat fails pauses as the agent does (any time up to 0.5 s, doubled each \
         time, {} s at most); one that is asked for a sync sends its whole inventory at once. Times count from the \
         servers' start, pairs on the server that has the fewest. Load and servers share the machine.\n\n| | seen | budget |\n|---|---|---|\n",
        fleet.hosts,
        fleet.keys_per_host,
        fleet.pairs(),
        args.interval,
        args.before,
        args.away,
        args.interval
    );
    let mut row = |what: &str, seen: String, budget: &str| {
        writeln!(text, "| {what} | {seen} | {budget} |").expect("a string takes everything");
    };
    row("ready / a leader after, s", format!("{ready:.1} / {led:.1}"), "");
    row("half of the pairs back within, s", format!("{:.1}", back(0.5)), "");
    row(
        &format!("{:.0} % of the pairs back within, s", SHARE * 100.0),
        format!("{within:.1}{verdict}"),
        &format!("≤ {} s", BUDGET.as_secs()),
    );
    row("all of them, s", format!("{:.1}", back(1.0)), "");
    row("heartbeats", lived.heartbeats.statuses_text(), "");
    row("syncs", lived.syncs.statuses_text(), "");
    row("latency of a sync, p50 / p99 / max, ms", lived.syncs.latency_text(), "");
    let cores: Vec<String> = shares.servers.iter().map(|cores| format!("{cores:.2}")).collect();
    row("cores of the servers until then", cores.join(", "), "");
    row("cores of the load; machine idle", format!("{:.2}; {:.0} %", shares.load, shares.idle * 100.0), "");
    row(
        "the most resident, MiB",
        peak.iter().map(|mib| format!("{mib:.0}")).collect::<Vec<_>>().join(", "),
        "",
    );
    row("hosts hidden in the end", status.hosts_hidden.to_string(), "0");
    text.push('\n');
    text.push_str(&plots(fleet, lived, seen, *started, report)?);
    Ok(text)
}

fn plots(fleet: Fleet, lived: &Lived, seen: &Seen, started: f64, report: &Report) -> Result<String> {
    let share =
        |pairs: &[u64]| pairs.iter().min().map_or(0.0, |pairs| *pairs as f64 / fleet.pairs() as f64 * 100.0);
    let curve = seen.pairs.iter().map(|(at, pairs)| (*at, share(pairs))).collect();
    let svg = lines("Rebuild: pairs that are back", "seconds", "per cent", &[("pairs", curve)]);
    let mut text = report.plot("rebuild", &svg)?;
    let from = started.floor() as usize;
    let points = |record: &Record, value: fn(&crate::drive::Second) -> u64| {
        let seconds = record.seconds.iter().skip(from).enumerate();
        seconds.map(|(at, second)| (at as f64, value(second) as f64)).collect::<Vec<_>>()
    };
    let series = [
        ("heartbeats", points(&lived.heartbeats, |second| second.good)),
        ("syncs", points(&lived.syncs, |second| second.good)),
        ("503", points(&lived.syncs, |second| second.unavailable)),
    ];
    let svg = lines("Rebuild: answers", "seconds", "in each second", &series);
    text.push_str(&report.plot("rebuild-answers", &svg)?);
    Ok(text)
}
