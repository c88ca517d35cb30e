//! The flash crowd of docs/budgets.md: every agent of a registered fleet pulls the same new image within a
//! minute.

mod pull;

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use crate::Settings;
use crate::agents::Agents;
use crate::cluster::Cluster;
use crate::drive::{Drive, Record};
use crate::enroll::enroll;
use crate::meter::{Meter, Shares};
use crate::plot::lines;
use crate::report::Report;
use pull::{ADVERTISE, Crowd, LAYERS, LOOKUP, Shape};

/// Budget of docs/budgets.md for the p99 of lookups.
const LOOKUP_P99: Duration = Duration::from_millis(20);
const LEADER_CORES: f64 = 2.0;
/// Number of runs that narrow down the highest rate.
const STEPS: u32 = 4;
/// Connections for lookups and for writes to all servers: far more than are in use at once while the servers
/// keep up.
const POOLS: [usize; 2] = [2_000, 6_000];

/// Arguments of `crowd`.
#[derive(Args, Clone, Debug)]
pub(crate) struct CrowdArgs {
    /// Numbers of servers.
    #[arg(long, value_delimiter = ',', default_value = "3,1")]
    servers: Vec<usize>,
    /// Layers that arrive together and are advertised in one request. 1 is the hardest reading of the budget;
    /// containerd downloads 3 at once.
    #[arg(long, value_delimiter = ',', default_value = "1,3")]
    coalesced: Vec<u32>,
    /// Length of the crowd, seconds.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Length of one agent's pull, seconds.
    #[arg(long, default_value_t = 5)]
    pull_seconds: u64,
    /// Asks as agents do that share what is arriving (`intent=fetch`).
    #[arg(long)]
    flights: bool,
    /// Only the whole crowd, without a search for the highest share that meets the budgets.
    #[arg(long)]
    whole_only: bool,
}

/// Measurements of one crowd.
struct Run {
    /// Share of all agents that took part.
    share: f64,
    lookups: Record,
    advertises: Record,
    writes: u64,
    layers: u64,
    refused: u64,
    shares: Shares,
    /// Second from which no 503 may come.
    half: usize,
    /// Time until the last answer, seconds.
    length: f64,
}

impl Run {
    fn late_unavailable(&self) -> u64 {
        let records = [&self.lookups, &self.advertises];
        let late = records.iter().flat_map(|record| record.seconds.iter().skip(self.half));
        late.map(|second| second.unavailable + second.failures).sum()
    }

    fn served(&self) -> bool {
        self.lookups.bad() + self.advertises.bad() + self.refused == 0
    }

    /// True if all budgets are met.
    fn holds(&self) -> bool {
        self.served()
            && self.late_unavailable() == 0
            && self.lookups.latency.quantile(0.99) <= LOOKUP_P99
            && self.shares.leader() <= LEADER_CORES
    }
}

/// Runs the scenario and writes its section.
pub(crate) fn crowd(settings: &Settings, args: &CrowdArgs, report: &Report, folder: &Path) -> Result<()> {
    let fleet = settings.fleet();
    let mut text = format!(
        "{} registered hosts with {} pairs. Every agent pulls one image of {LAYERS} new layers over {} s, the pulls \
         spread over {} s: 14.4 lookups (one layer in five is asked for twice) and {LAYERS} layers to advertise each; \
         that is {:.0} lookups and {:.0} layers a second (budget: 12,000 and 10,000 for 50,000 hosts in 60 s). \
         Requests are due at fixed times, and latency counts from then. *Together*: layers that arrive, and are \
         advertised, at once, 5 being what agents with flights collect in 2 s of such a pull; an agent whose write is still on its way sends what came meanwhile after it. Servers and \
         load share the machine. *Held*: all served, lookup p99 ≤ {} ms, no 503 or lost connection in the second half, \
         leader ≤ {LEADER_CORES} cores.\n\n",
        fleet.hosts,
        fleet.pairs(),
        args.pull_seconds,
        args.seconds,
        14.4 * f64::from(fleet.hosts) / args.seconds as f64,
        f64::from(LAYERS * fleet.hosts) / args.seconds as f64,
        LOOKUP_P99.as_millis()
    );
    text.push_str("| servers | together | share of the crowd | held | lookups/s | lookup p50 / p99 / max, ms | layers/s | advertises/s | advertise p50 / p99 / max, ms | answers | 503 or nothing in the second half | CPU |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n");
    let mut plots = String::new();
    for servers in &args.servers {
        let folder = folder.join(servers.to_string());
        std::fs::create_dir(&folder).context("could not make a folder")?;
        let images = args.coalesced.len() as u32 * (STEPS + 1);
        let cluster = Cluster::start(&settings.binary, &folder, *servers)?;
        let mut site = Site { cluster, agents: None, images: 0 };
        site.agents = Some(enroll(&site.cluster, Agents::started_now(fleet, images * LAYERS)?)?);
        for together in &args.coalesced {
            let runs = ladder(&mut site, args, *together)?;
            for run in &runs {
                row(&mut text, *servers, *together, run);
            }
            let name = format!("crowd-{servers}-{together}");
            let held = runs.iter().filter(|run| run.holds()).max_by(|a, b| a.share.total_cmp(&b.share));
            plots.push_str(&report.plot(&name, &plot(*servers, *together, &runs[0], held))?);
        }
    }
    report.section("crowd", "Flash crowd: every node pulls the same new image", &format!("{text}\n{plots}"))
}

/// Servers with a registered fleet.
struct Site {
    cluster: Cluster,
    agents: Option<Agents>,
    /// Number of images that were pulled so far.
    images: u32,
}

/// Runs the whole crowd, and if that misses a budget, searches for the highest share that does not.
fn ladder(site: &mut Site, args: &CrowdArgs, together: u32) -> Result<Vec<Run>> {
    let mut runs = vec![run(site, args, together, 1.0)?];
    if runs[0].holds() || args.whole_only {
        return Ok(runs);
    }
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..STEPS {
        let middle = f64::midpoint(low, high);
        let run = run(site, args, together, middle)?;
        *(if run.holds() { &mut low } else { &mut high }) = middle;
        runs.push(run);
    }
    Ok(runs)
}

fn run(site: &mut Site, args: &CrowdArgs, together: u32, share: f64) -> Result<Run> {
    let agents = site.agents.take().context("the last run gave no agents back")?;
    let fleet = agents.fleet;
    let shape = Shape {
        agents: ((f64::from(fleet.hosts) * share) as u32).max(1),
        length: Duration::from_secs(args.seconds),
        pull: Duration::from_secs(args.pull_seconds),
        together,
        flights: args.flights,
        first_key: fleet.distinct_keys + site.images * LAYERS,
    };
    site.images += 1;
    let crowd = Crowd::new(agents, shape, site.cluster.len());
    let servers = site.cluster.addresses();
    let drive = Drive { servers, pools: POOLS.to_vec(), fresh_most: 0, kinds: POOLS.len() };
    let meter = Meter::start(&site.cluster)?;
    let (crowd, outcome) = drive.run(crowd)?;
    let shares = meter.read(&site.cluster)?;
    site.cluster.wait_equal()?;
    let [lookups, advertises] =
        [LOOKUP, ADVERTISE].map(|kind| outcome.records.get(kind).cloned().unwrap_or_default());
    let Crowd { agents, writes, layers, refused, .. } = crowd;
    site.agents = Some(agents);
    let half = (args.seconds / 2) as usize;
    let length = outcome.elapsed.as_secs_f64();
    Ok(Run { share, lookups, advertises, writes, layers, refused, shares, half, length })
}

fn row(text: &mut String, servers: usize, together: u32, run: &Run) {
    writeln!(
        text,
        "| {servers} | {together} | {:.0} % | {} | {:.0} | {} | {:.0} | {:.0} | {} | lookups {}; advertises {} | {} | {} |",
        run.share * 100.0,
        if run.holds() { "yes" } else { "no" },
        run.lookups.latency.count() as f64 / run.length,
        run.lookups.latency_text(),
        run.layers as f64 / run.length,
        run.writes as f64 / run.length,
        run.advertises.latency_text(),
        run.lookups.statuses_text(),
        run.advertises.statuses_text(),
        run.late_unavailable(),
        run.shares.text()
    )
    .expect("a string takes everything");
}

fn plot(servers: usize, together: u32, whole: &Run, held: Option<&Run>) -> String {
    let p99 = |record: &Record| record.quantile_by_second(0.99);
    let mut series: Vec<(String, Vec<(f64, f64)>)> = vec![
        ("lookups, whole crowd".to_owned(), p99(&whole.lookups)),
        ("advertises, whole crowd".to_owned(), p99(&whole.advertises)),
    ];
    if let Some(held) = held.filter(|held| held.share < 1.0) {
        let percent = held.share * 100.0;
        series.push((format!("lookups, {percent:.0} % of it"), p99(&held.lookups)));
        series.push((format!("advertises, {percent:.0} %"), p99(&held.advertises)));
    }
    let series: Vec<(&str, Vec<(f64, f64)>)> =
        series.iter().map(|(name, points)| (name.as_str(), points.clone())).collect();
    let title = format!("Flash crowd: p99 of each second, {servers} servers, {together} layers together");
    lines(&title, "seconds", "milliseconds", &series)
}
