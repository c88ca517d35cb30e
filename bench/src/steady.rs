//! A steady fleet: heartbeats, lookups and advertises at the rates of docs/budgets.md for some minutes.

pub(crate) mod life;

use std::fmt::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::Args;

use crate::Settings;
use crate::agents::Agents;
use crate::cluster::{Cluster, Status};
use crate::drive::{Outcome, Record};
use crate::enroll::enroll;
use crate::meter::{Meter, Shares};
use crate::plot::lines;
use crate::report::Report;
use crate::usage::process::Memory;
use life::{KINDS, Life, Rates};

/// Budget of docs/budgets.md for each server, cores.
const CORES: f64 = 0.5;
const SERVERS: usize = 3;
/// A bit longer than a heartbeat's interval: every agent has sent one.
const WARM_UP: Duration = Duration::from_secs(33);

/// Arguments of `steady`.
#[derive(Args, Clone, Debug)]
pub(crate) struct SteadyArgs {
    /// Length of the measurement, seconds. The servers flush their states every 300 s: the written bytes are
    /// right for multiples of that.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Length of the warm-up, seconds.
    #[arg(long, default_value_t = WARM_UP.as_secs())]
    warm_up_seconds: u64,
}

/// Measurements after the warm-up.
struct Seen {
    shares: Shares,
    memory: Vec<Memory>,
    status: Status,
    elections: u64,
    /// Number of hosts hidden when the measurement began.
    hidden_before: u64,
}

/// Runs the scenario and writes its section.
pub(crate) fn steady(settings: &Settings, args: &SteadyArgs, report: &Report, folder: &Path) -> Result<()> {
    let fleet = settings.fleet();
    let rates = Rates::of(fleet);
    let (warm_up, length) = (Duration::from_secs(args.warm_up_seconds), Duration::from_secs(args.seconds));
    let cluster = Cluster::start(&settings.binary, folder, SERVERS)?;
    let agents = Agents::started_now(fleet, life::new_keys(fleet, rates, SERVERS, warm_up + length))?;
    let agents = enroll(&cluster, agents)?;
    let life = Life::new(agents, rates, SERVERS, warm_up + length);
    let drive = life.drive(&cluster);
    let (run, seen) = thread::scope(|scope| {
        let run = scope.spawn(|| drive.run(life));
        thread::sleep(warm_up);
        let seen = watch(&cluster, length);
        (run.join(), seen)
    });
    let (life, outcome) = run.map_err(|_| anyhow!("the load panicked"))??;
    let body = body(&life, &outcome, &seen?, args, report)?;
    report.section("steady", "Steady fleet", &body)
}

fn watch(cluster: &Cluster, length: Duration) -> Result<Seen> {
    let leader = cluster.wait_leader()?;
    let missing = || anyhow!("the leader has no status");
    let before = cluster.status(leader).ok_or_else(missing)?;
    let meter = Meter::start(cluster)?;
    // Ends before the load does: no further requests follow the last ones.
    thread::sleep(length.mul_f64(0.98));
    let shares = meter.read(cluster)?;
    let memory = (0..cluster.len()).map(|number| cluster.memory(number)).collect::<Result<_>>()?;
    let status = cluster.status(shares.leader).ok_or_else(missing)?;
    let elections = status.term - before.term;
    Ok(Seen { shares, memory, status, elections, hidden_before: before.hosts_hidden })
}

fn body(life: &Life, outcome: &Outcome, seen: &Seen, args: &SteadyArgs, report: &Report) -> Result<String> {
    let (fleet, rates) = (life.agents.fleet, life.rates);
    let mut text = format!(
        "{} agents with {} pairs on {SERVERS} servers: {:.0} heartbeats, {:.0} findkeys and {:.0} advertises a second, \
         at random times; {} s after {} s of the same. A heartbeat or advertise comes on a connection of its own, as \
         from an agent that has closed the last one for being idle, and stays open for 5 s; lookups share a \
         pool of connections ({} for a full fleet). Servers and load share the machine.\n\n| server | cores | budget | resident / anonymous, MiB | \
         written, MiB/h |\n|---|---|---|---|---|\n",
        fleet.hosts,
        fleet.pairs(),
        rates.heartbeats,
        rates.lookups,
        rates.advertises,
        args.seconds,
        args.warm_up_seconds,
        life::LOOKUP_CONNECTIONS
    );
    let shares = &seen.shares;
    for (number, cores) in shares.servers.iter().enumerate() {
        let (name, memory) =
            (if number == shares.leader { "leader" } else { "follower" }, seen.memory[number]);
        let hourly = shares.written_mib[number] / shares.seconds * 3600.0;
        writeln!(
            text,
            "| {name} | {cores:.2} | ≤ {CORES} | {:.0} / {:.0} | {hourly:.0} |",
            memory.resident, memory.anonymous
        )
        .expect("a string takes everything");
    }
    writeln!(
        text,
        "\nLoad {:.2} cores; machine idle {:.0} %, others {:.2} cores. Connections open: {} beside the lookups'. \
         Elections: {}. Hidden hosts: {} before, {} after (agents that had to wait longer than their lease). Heartbeats \
         that were asked for a sync: {}.\n\n| | answered | p50 / p99 / max, ms | answers, warm-up included |\n|---|---|---|---|",
        shares.load,
        shares.idle * 100.0,
        shares.others,
        outcome.parked,
        seen.elections,
        seen.hidden_before,
        seen.status.hosts_hidden,
        life.resyncs
    )
    .expect("a string takes everything");
    let from = args.warm_up_seconds as usize;
    for (name, record) in KINDS.iter().zip(&outcome.records) {
        let late = record.since(from);
        writeln!(text, "| {name} | {} | {} | {} |", late.good, late.latency.text(), record.statuses_text())
            .expect("a string takes everything");
    }
    let p99 = |record: &Record| record.quantile_by_second(0.99);
    let series: Vec<(&str, Vec<(f64, f64)>)> =
        KINDS.iter().copied().zip(outcome.records.iter().map(p99)).collect();
    text.push('\n');
    text.push_str(
        &report
            .plot("steady", &lines("Steady fleet: p99 of each second", "seconds", "milliseconds", &series))?,
    );
    Ok(text)
}
