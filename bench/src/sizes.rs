//! Cost of a server by its number of pairs: resident memory, disk, time until it is ready again, snapshots.

pub(crate) mod part;

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::Signal;

use crate::Settings;
use crate::agents::Agents;
use crate::cluster::{Cluster, disk_mib};
use crate::drive::hold_open;
use crate::enroll::enroll;
use crate::fleet::Fleet;
use crate::plot::lines;
use crate::report::Report;
use crate::usage::process::{Memory, peak_resident};
use part::Took;

/// Time after the last write before memory is measured: the state has been flushed, and the allocator has
/// settled.
const SETTLE: Duration = Duration::from_secs(3);
/// Budget of docs/budgets.md for resident memory at 20 million pairs, MiB.
const RESIDENT_BUDGET_MIB: f64 = 300.0;
const RESTART_BUDGET: Duration = Duration::from_secs(5);

/// Measurements at one size.
struct Size {
    fleet: Fleet,
    /// Memory after the fleet has registered.
    fresh: Memory,
    /// Peak memory since the start of the process, MiB.
    peak: f64,
    /// Number of open connections, and memory with them.
    open: Option<(usize, Memory)>,
    /// Memory after a restart.
    restarted: Memory,
    disk: Vec<(String, f64)>,
    /// Time from SIGTERM to the end of the process, seconds.
    stop: f64,
    /// Time from the start until ready, after SIGTERM, seconds.
    ready: f64,
    /// Time from the start until ready, after kill -9, seconds.
    ready_killed: f64,
    saved: Took,
    /// Install of a snapshot into an empty folder, and over the same state.
    empty: Took,
    over: Took,
}

/// Runs the scenario and writes its section.
pub(crate) fn sizes(
    settings: &Settings,
    millions: &[f64],
    open: usize,
    report: &Report,
    folder: &Path,
) -> Result<()> {
    let mut sizes = Vec::new();
    let largest = millions.iter().copied().fold(0.0, f64::max);
    for number in millions {
        let hosts = number * 1e6 / f64::from(Fleet::FULL.keys_per_host);
        let fleet = Fleet::FULL.with_hosts((hosts.round() as u32).max(1));
        let folder = folder.join(format!("{number}"));
        fs::create_dir(&folder).context("could not make a folder")?;
        let open = (*number == largest).then_some(open);
        sizes.push(measure(settings, fleet, open, &folder).with_context(|| format!("{number} million"))?);
        fs::remove_dir_all(&folder).context("could not remove a folder")?;
    }
    report.section("sizes", "A server by the number of pairs", &body(&sizes, report)?)
}

fn measure(settings: &Settings, fleet: Fleet, open: Option<usize>, folder: &Path) -> Result<Size> {
    let mut cluster = Cluster::start(&settings.binary, folder, 1)?;
    drop(enroll(&cluster, Agents::started_now(fleet, 0)?)?);
    std::thread::sleep(SETTLE);
    let (fresh, peak) = (cluster.memory(0)?, peak_resident(cluster.pid(0)?)?);
    let disk = disk_mib(cluster.data(0))?;
    let stop = cluster.end(0, Signal::TERM)?.as_secs_f64();
    let ready = start_again(&mut cluster)?;
    std::thread::sleep(SETTLE);
    let restarted = cluster.memory(0)?;
    let open = match open {
        Some(count) => {
            let memory = hold_open(cluster.addresses()[0], count, || cluster.memory(0))?;
            Some((count, memory))
        }
        None => None,
    };
    cluster.end(0, Signal::KILL)?;
    let ready_killed = start_again(&mut cluster)?;
    cluster.end(0, Signal::TERM)?;
    let file = folder.join("snapshot");
    let saved = part::save(cluster.data(0), &file)?;
    let empty = part::install(&folder.join("empty"), &file)?;
    let over = part::install(cluster.data(0), &file)?;
    Ok(Size { fleet, fresh, peak, open, restarted, disk, stop, ready, ready_killed, saved, empty, over })
}

/// Seconds from the start of the process until it answers lookups.
fn start_again(cluster: &mut Cluster) -> Result<f64> {
    let start = Instant::now();
    cluster.spawn(0)?;
    cluster.wait_ready(0)?;
    let ready = start.elapsed().as_secs_f64();
    cluster.wait_leader()?;
    Ok(ready)
}

fn body(sizes: &[Size], report: &Report) -> Result<String> {
    let mut text = "One server; each agent syncs and sends one heartbeat, then memory is measured, *as it is then* and *after \
        a restart*: resident / proportional (Pss) / anonymous, MiB. Snapshots are saved and installed by the same code in a \
        process of its own.\n\n|"
        .to_owned();
    let mut row = |what: &str, value: &dyn Fn(&Size) -> String| {
        let values: Vec<String> = sizes.iter().map(value).collect();
        writeln!(text, " {what} | {} |", values.join(" | ")).expect("a string takes everything");
        text.push('|');
    };
    let memory = |memory: &Memory| {
        format!("{:.0} / {:.0} / {:.0}", memory.resident, memory.proportional, memory.anonymous)
    };
    row("", &|size| format!("{} pairs, {} hosts", size.fleet.pairs(), size.fleet.hosts));
    row("---", &|_| "---".to_owned());
    row("as it is then", &|size| memory(&size.fresh));
    row("the most until then", &|size| format!("{:.0}", size.peak));
    row("after a restart", &|size| memory(&size.restarted));
    row("the same with open connections", &|size| {
        size.open.as_ref().map_or(String::new(), |(count, open)| format!("{} ({count} open)", memory(open)))
    });
    row("disk, MiB", &|size| {
        let file = |(name, mib): &(String, f64)| format!("{name} {mib:.1}");
        size.disk.iter().filter(|(_, mib)| *mib >= 0.1).map(file).collect::<Vec<_>>().join(", ")
    });
    row("stops after SIGTERM, s", &|size| format!("{:.2}", size.stop));
    row("ready again after that, s", &|size| format!("{:.2}", size.ready));
    row("ready again after kill -9, s", &|size| format!("{:.2}", size.ready_killed));
    row("of that, opening the index, s", &|size| format!("{:.2}", size.saved.open));
    row("snapshot, MiB", &|size| format!("{:.1}", size.saved.bytes / 1048576.0));
    row("saving it, s", &|size| format!("{:.2}", size.saved.transfer));
    let installed = |took: &Took| {
        format!("{:.2} + {:.2} s, {:.0} → {:.0}", took.transfer, took.install, took.before, took.peak)
    };
    row(
        "installing it into an empty folder: taking in + installing, resident before → most, MiB",
        &|size| installed(&size.empty),
    );
    row("the same over an equal state", &|size| installed(&size.over));
    text.pop();
    writeln!(
        text,
        "\nBudgets, at {} pairs with 5,000 connections open: ≤ {RESIDENT_BUDGET_MIB} MiB resident, ≤ 2 × that during \
         a snapshot install, ready again in ≤ {} s.\n",
        Fleet::FULL.pairs(),
        RESTART_BUDGET.as_secs()
    )
    .expect("a string takes everything");
    let points = |value: &dyn Fn(&Size) -> f64| {
        sizes.iter().map(|size| (size.fleet.pairs() as f64 / 1e6, value(size))).collect::<Vec<_>>()
    };
    let series = [
        ("as it is after registration", points(&|size| size.fresh.resident)),
        ("after a restart", points(&|size| size.restarted.resident)),
        ("most during a snapshot install over it", points(&|size| size.over.peak)),
    ];
    let svg = lines("Resident memory of a server", "million pairs", "MiB", &series);
    text.push_str(&report.plot("sizes-memory", &svg)?);
    Ok(text)
}
