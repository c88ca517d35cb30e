//! The thundering herd: all servers are down for a while, and when they are back every agent of the fleet
//! connects in the same second.
//!
//! Each agent is one task in one of several processes (one process may not have that many descriptors). It
//! connects, sends a heartbeat, and after a failure pauses as the agent does, until it gets a 201. No agent
//! has sent a heartbeat during the outage, which is the worst case: after a long one real agents come back
//! over half a minute.

mod flock;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use clap::Args;
use rustix::process::Signal;

use crate::Settings;
use crate::agents::Agents;
use crate::cluster::Cluster;
use crate::enroll::{heartbeat_all, sync_all};
use crate::meter::{Meter, Shares};
use crate::plot::lines;
use crate::report::Report;
use crate::usage::process::peak_resident;
use flock::{Flock, Tally};
pub(crate) use flock::{FlockArgs, run as run_flock};

const SERVERS: usize = 3;
/// Time between two samples of memory and state.
const LOOK: Duration = Duration::from_millis(500);
/// Longer than any herd takes.
const PATIENCE: Duration = Duration::from_secs(600);

/// Arguments of `herd`.
#[derive(Args, Clone, Debug)]
pub(crate) struct HerdArgs {
    /// Keys of each host; an agent that comes back sends none of them.
    #[arg(long, default_value_t = 40)]
    keys: u32,
}

/// Measurements of the scenario.
struct Seen {
    tally: Tally,
    /// Memory of each server before the outage, at the end, and at its peak, MiB.
    before: Vec<f64>,
    after: Vec<f64>,
    peak: Vec<f64>,
    hidden: u64,
    /// Time from the restart until every server was ready, seconds.
    ready: f64,
    /// CPU shares from the release until every agent was answered.
    shares: Shares,
}

/// Runs the scenario and writes its section.
pub(crate) fn herd(settings: &Settings, args: &HerdArgs, report: &Report, folder: &Path) -> Result<()> {
    let fleet = settings.fleet().with_keys(args.keys);
    let mut cluster = Cluster::start(&settings.binary, folder, SERVERS)?;
    let agents = Agents::started_now(fleet, 0)?;
    let agents = sync_all(&cluster, agents)?.agents;
    let agents = heartbeat_all(&cluster, agents)?.agents;
    cluster.wait_applied()?;
    let resident = |cluster: &Cluster| -> Result<Vec<f64>> {
        (0..SERVERS).map(|number| Ok(cluster.memory(number)?.resident)).collect()
    };
    let before = resident(&cluster)?;
    for number in 0..SERVERS {
        cluster.end(number, Signal::KILL)?;
    }
    let mut flock = Flock::gather(&agents, &cluster.addresses(), folder)?;
    let start = Instant::now();
    for number in 0..SERVERS {
        cluster.spawn(number)?;
    }
    for number in 0..SERVERS {
        cluster.wait_ready(number)?;
    }
    let ready = start.elapsed().as_secs_f64();
    let meter = Meter::start(&cluster)?;
    flock.release()?;
    let end = Instant::now() + PATIENCE;
    let mut hidden = 0;
    while !flock.is_done()? {
        ensure!(Instant::now() < end, "some agents have no answer after {PATIENCE:?}");
        std::thread::sleep(LOOK);
        let statuses = (0..SERVERS).filter_map(|number| cluster.status(number));
        hidden = statuses.map(|status| status.hosts_hidden).max().unwrap_or(0).max(hidden);
    }
    let shares = meter.read(&cluster)?;
    let tally = flock.tally()?;
    let peak = (0..SERVERS).map(|number| peak_resident(cluster.pid(number)?)).collect::<Result<_>>()?;
    let seen = Seen { tally, before, after: resident(&cluster)?, peak, hidden, ready, shares };
    report.section(
        "herd",
        "Thundering herd: every agent comes back at once",
        &body(&seen, fleet.hosts, report)?,
    )
}

fn body(seen: &Seen, hosts: u32, report: &Report) -> Result<String> {
    let Seen { tally, before, after, peak, hidden, ready, shares } = seen;
    let whole = tally.seconds.len();
    let answered = |share: f64| {
        let wanted = (f64::from(hosts) * share).ceil() as u64;
        let mut sum = 0;
        let second = tally.seconds.iter().position(|second| {
            sum += second.answered;
            sum >= wanted
        });
        second.map_or("never".to_owned(), |second| format!("{} s", second + 1))
    };
    let total = |value: fn(&flock::Second) -> u64| tally.seconds.iter().map(value).sum::<u64>();
    ensure!(total(|second| second.answered) == u64::from(hosts), "somebody was not answered");
    let mib = |values: &[f64]| values.iter().map(|mib| format!("{mib:.0}")).collect::<Vec<_>>().join(", ");
    let mut text = format!(
        "{hosts} agents on {SERVERS} servers that were killed (kill -9) and started again, ready after {ready:.2} s. Then every \
         agent heartbeats in the same moment, each over a new connection from an address of its own to its server (a third to each), tries the others \
         when that one does not answer, and pauses as the agent does (any time up to 0.5 s, doubled each time, 30 s at \
         most, and no less than `Retry-After`). Load and servers share the machine.\n\n| | seen |\n|---|---|\n"
    );
    let mut row = |what: &str, seen: String| {
        writeln!(text, "| {what} | {seen} |").expect("a string takes everything");
    };
    row("half / 99 % / all answered 201 within", [0.5, 0.99, 1.0].map(answered).join(" / "));
    let attempts = total(|second| second.attempts);
    row("attempts; of one agent", format!("{attempts}; {:.2}", attempts as f64 / f64::from(hosts)));
    row("answers 503", total(|second| second.unavailable).to_string());
    row("no connection, or no answer in time", total(|second| second.failures).to_string());
    row("other answers", total(|second| second.others).to_string());
    row("answers that ask for a sync", tally.resyncs.to_string());
    row("hosts hidden at most", hidden.to_string());
    row(
        "cores of the leader, of the busiest follower, of the load and others; machine idle",
        format!(
            "{:.2}, {:.2}, {:.2}; {:.0} %",
            shares.leader(),
            shares.follower(),
            // The agents are processes other than this one.
            shares.load + shares.others,
            shares.idle * 100.0
        ),
    );
    row("resident before, MiB", mib(before));
    row("the most meanwhile, MiB", mib(peak));
    row("resident after, MiB", mib(after));
    let points = |value: fn(&flock::Second) -> f64| {
        (0..whole).map(|at| (at as f64, value(&tally.seconds[at]))).collect::<Vec<_>>()
    };
    let series = [
        ("attempts", points(|second| second.attempts as f64)),
        ("201", points(|second| second.answered as f64)),
        ("503", points(|second| second.unavailable as f64)),
        ("nothing", points(|second| second.failures as f64)),
    ];
    text.push('\n');
    text.push_str(&report.plot("herd", &lines("Thundering herd", "seconds", "in each second", &series))?);
    let latency = [("p50", points(|second| second.p50)), ("p99", points(|second| second.p99))];
    let svg = lines(
        "Thundering herd: time to a 201, by the second it came in",
        "seconds",
        "milliseconds",
        &latency,
    );
    text.push_str(&report.plot("herd-latency", &svg)?);
    Ok(text)
}
