//! A server of three that was away, or lost its disk, catches up under the fleet's normal load.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use rustix::process::Signal;

use crate::Settings;
use crate::agents::Agents;
use crate::cluster::Cluster;
use crate::drive::{Outcome, Record};
use crate::enroll::enroll;
use crate::plot::lines;
use crate::process::run;
use crate::report::Report;
use crate::steady::life::{self, ADVERTISE, KINDS, LOOKUP, Life, Rates};
use crate::usage::process::{Memory, forget_peak, peak_resident};

const SERVERS: usize = 3;
/// Longest time of the load.
const LENGTH: Duration = Duration::from_secs(1_800);
const POLL: Duration = Duration::from_millis(50);

/// How a server comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// With its disk, after a while.
    Away,
    /// Without its disk: a server with `--join` replaces it (`piccolo members replace`).
    Wiped,
}

/// Arguments of `catch-up`.
#[derive(Args, Clone, Debug)]
pub(crate) struct CatchUpArgs {
    /// Cases to run.
    #[arg(long, value_delimiter = ',', default_value = "away,wiped")]
    cases: Vec<Case>,
    /// Time that the server is away, seconds; the log is kept for 600 s, or 1 GiB.
    #[arg(long, default_value_t = 660)]
    away: u64,
    /// Time of load before and after, seconds.
    #[arg(long, default_value_t = 20)]
    around: u64,
}

/// Measurements of one case.
struct Seen {
    case: Case,
    /// Time of the stop, and then of the start, in seconds of the load.
    stopped: f64,
    started: f64,
    /// Time from the start to the first answered lookup, and to the state of the others, seconds.
    ready: f64,
    equal: f64,
    /// Log entries that it lacked at its start.
    lacked: u64,
    /// Memory at the end and at its peak, MiB.
    memory: Memory,
    peak: f64,
    /// Peak memory of the leader since the start of the server, MiB.
    leader_peak: f64,
    elections: u64,
}

/// Runs the scenario and writes its section.
pub(crate) fn catch_up(
    settings: &Settings,
    args: &CatchUpArgs,
    report: &Report,
    folder: &Path,
) -> Result<()> {
    let fleet = settings.fleet();
    let rates = Rates::of(fleet);
    let mut cluster = Cluster::start(&settings.binary, folder, SERVERS)?;
    let mut runs = Vec::new();
    for case in &args.cases {
        // The agents of the case before have new keys; these start with a new epoch.
        let agents = Agents::started_now(fleet, life::new_keys(fleet, rates, SERVERS, LENGTH))?;
        let life = Life::new(enroll(&cluster, agents)?, rates, SERVERS, LENGTH);
        let (drive, stop) = (life.drive(&cluster), life.stop_signal());
        let (ran, seen) = thread::scope(|scope| {
            let running = scope.spawn(|| drive.run(life));
            let seen = measure(&mut cluster, *case, args);
            stop.store(true, Ordering::Relaxed);
            (running.join(), seen)
        });
        let (_, outcome) = ran.map_err(|_| anyhow!("the load panicked"))??;
        runs.push((seen?, outcome));
    }
    report.section("catch-up", "A server catches up under load", &body(fleet.pairs(), rates, &runs, report)?)
}

fn measure(cluster: &mut Cluster, case: Case, args: &CatchUpArgs) -> Result<Seen> {
    let begun = Instant::now();
    let around = Duration::from_secs(args.around);
    thread::sleep(around);
    let leader = cluster.wait_leader()?;
    let victim = (leader + 1) % cluster.len();
    let before = cluster.status(victim).context("it has no status")?;
    let stopped = begun.elapsed().as_secs_f64();
    cluster.end(victim, Signal::KILL)?;
    if case == Case::Away {
        thread::sleep(Duration::from_secs(args.away));
    }
    let leader = cluster.wait_leader()?;
    forget_peak(cluster.pid(leader)?)?;
    let now = cluster.status(leader).context("the leader has no status")?;
    let (start, started) = (Instant::now(), begun.elapsed().as_secs_f64());
    match case {
        Case::Away => cluster.spawn(victim)?,
        Case::Wiped => {
            cluster.spawn_joining(victim, leader)?;
            let raft = cluster.raft(victim).to_string();
            let server = format!("http://{}", cluster.addresses()[leader]);
            let mut replace = Command::new(cluster.binary());
            replace.args(["members", "replace", &raft, &raft, "--server", &server, "--patience", "15m"]);
            run(&mut replace).context("could not replace the server")?;
        }
    }
    cluster.wait_ready(victim)?;
    let ready = start.elapsed().as_secs_f64();
    wait_same(cluster, leader, victim)?;
    let equal = start.elapsed().as_secs_f64();
    thread::sleep(around);
    let end = cluster.status(cluster.wait_leader()?).context("the leader has no status")?;
    Ok(Seen {
        case,
        stopped,
        started,
        ready,
        equal,
        lacked: now.applied - if case == Case::Away { before.applied } else { 0 },
        memory: cluster.memory(victim)?,
        peak: peak_resident(cluster.pid(victim)?)?,
        leader_peak: peak_resident(cluster.pid(leader)?)?,
        elections: end.term - before.term,
    })
}

/// Waits until both show the same state at the same log index, although the load changes it all the time.
fn wait_same(cluster: &Cluster, leader: usize, victim: usize) -> Result<()> {
    let end = Instant::now() + LENGTH;
    while Instant::now() < end {
        if let (Some(one), Some(other)) = (cluster.status(leader), cluster.status(victim))
            && one.applied == other.applied
            && one.applied > 0
        {
            if one.checksum != other.checksum {
                bail!("states differ at log index {}: {one:?}, {other:?}", one.applied);
            }
            return Ok(());
        }
        thread::sleep(POLL);
    }
    bail!("it did not catch up within {LENGTH:?}")
}

fn body(pairs: u64, rates: Rates, runs: &[(Seen, Outcome)], report: &Report) -> Result<String> {
    let mut text = format!(
        "Three servers with {pairs} pairs, and all the while {:.0} heartbeats, {:.0} findkeys and {:.0} advertises a \
         second, a third of them to the server that is gone (its agents go on to the next). A follower is killed; *away*: it is started \
         again later with its disk; *wiped*: a new one with an empty folder takes its place. Servers and load share the \
         machine.\n\n| | away for, s | entries it lacked | answers lookups after, s | same checksum at the same index after, s | \
         its memory then / the most, MiB | the leader's most, MiB | elections |\n|---|---|---|---|---|---|---|---|\n",
        rates.heartbeats, rates.lookups, rates.advertises
    );
    for (seen, _) in runs {
        writeln!(
            text,
            "| {} | {:.0} | {} | {:.1} | {:.1} | {:.0} / {:.0} | {:.0} | {} |",
            name(seen.case),
            seen.started - seen.stopped,
            seen.lacked,
            seen.ready,
            seen.equal,
            seen.memory.resident,
            seen.peak,
            seen.leader_peak,
            seen.elections
        )
        .expect("a string takes everything");
    }
    add_load(&mut text, runs, report)?;
    text.push('\n');
    for (seen, _) in runs {
        let plot = format!("catch-up-{}", name(seen.case));
        writeln!(text, "![{plot}](plots/{plot}.svg)").expect("a string takes everything");
    }
    Ok(text)
}

/// Adds the load before, during and after as a table and plots.
fn add_load(text: &mut String, runs: &[(Seen, Outcome)], report: &Report) -> Result<()> {
    text.push_str("\nThe load meanwhile, p50 / p99 / max in ms:\n\n| | | before | while it was away | while it caught up | answers |\n|---|---|---|---|---|---|\n");
    for (seen, outcome) in runs {
        for kind in [LOOKUP, ADVERTISE] {
            let record = &outcome.records[kind];
            let part = |from: f64, to: f64| record.between(from as usize, to.ceil() as usize).latency.text();
            let caught_up = seen.started + seen.equal;
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} |",
                name(seen.case),
                KINDS[kind],
                part(0.0, seen.stopped.floor()),
                part(seen.stopped, seen.started),
                part(seen.started, caught_up),
                record.statuses_text()
            )
            .expect("a string takes everything");
        }
        let p99 = |record: &Record| record.quantile_by_second(0.99);
        let series = [
            (KINDS[LOOKUP], p99(&outcome.records[LOOKUP])),
            (KINDS[ADVERTISE], p99(&outcome.records[ADVERTISE])),
        ];
        let title = format!(
            "{}: p99 of each second; killed at {:.0} s, started at {:.0} s, caught up at {:.0} s",
            name(seen.case),
            seen.stopped,
            seen.started,
            seen.started + seen.equal
        );
        let plot = format!("catch-up-{}", name(seen.case));
        let svg = lines(&title, "seconds", "milliseconds", &series);
        report.plot(&plot, &svg)?;
    }
    Ok(())
}

fn name(case: Case) -> &'static str {
    match case {
        Case::Away => "away",
        Case::Wiped => "wiped",
    }
}
