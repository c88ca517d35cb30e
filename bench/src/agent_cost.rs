//! Cost of one agent: memory and CPU while it is idle and holds many images, and memory under many concurrent
//! requests.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use clap::Args;

use crate::Settings;
use crate::drive::allow_descriptors;
use crate::http_load::exchange;
use crate::layout::{Blob, Layout};
use crate::net::Network;
use crate::piccolo::{Agent, Piccolo, wait_findable};
use crate::report::Report;
use crate::usage::process::{Memory, peak_resident, resident_of_files};
use crate::usage::{cpu_seconds_of_tree, pids_of_tree};

/// Budget of docs/budgets.md for both processes of an idle agent with 1,000 images, MiB resident.
const IDLE_RESIDENT_MIB: f64 = 20.0;
/// Budget of docs/budgets.md for the supervisor of the same agent, MiB resident.
const SUPERVISOR_RESIDENT_MIB: f64 = 4.0;
/// Budget of docs/budgets.md for both processes of the same agent with shared pages counted once, MiB.
const IDLE_PROPORTIONAL_MIB: f64 = 12.0;
/// Budget of docs/budgets.md for the share of a core of the same agent.
const IDLE_CORES: f64 = 0.001;
/// Budget of docs/budgets.md for the memory of an agent at its connection limits, MiB.
const BUSY_MIB: f64 = 64.0;
const LAYERS: u32 = 12;
/// Number of different blobs that are requested; several requests ask for the same one.
const BLOBS: usize = 20;
const BLOB_BYTES: u64 = 700 * 1024;
const SEED: u64 = 23;

/// Size and duration of the scenario.
#[derive(Args, Clone, Debug)]
pub(crate) struct AgentArgs {
    /// Images that the idle agent holds.
    #[arg(long, default_value_t = 1_000)]
    images: u32,
    /// Time after the start before CPU is measured, seconds.
    #[arg(long, default_value_t = 20)]
    settle_seconds: u64,
    /// Time over which CPU is measured, seconds.
    #[arg(long, default_value_t = 120)]
    seconds: u64,
    /// Number of concurrent requests.
    #[arg(long, default_value_t = 1_000)]
    requests: usize,
}

/// Memory of one process of the agent.
struct Part {
    name: &'static str,
    memory: Memory,
}

/// Result of the concurrent requests.
struct Crowd {
    from_peer: usize,
    total: usize,
    /// Peak of the asking agent's own memory, MiB.
    asker_mib: f64,
    holder_mib: f64,
}

/// Measures one agent at rest and under many requests, and writes a section of the report.
pub(crate) fn agent(settings: &Settings, args: &AgentArgs, report: &Report, folder: &Path) -> Result<()> {
    eprintln!("What one agent takes");
    let Some(binary) = settings.piccolo() else { bail!("there is no agent without Piccolo") };
    let piccolo = Piccolo::new(&binary, folder)?;
    let (parts, cores) = idle(&piccolo, args, folder)?;
    let crowd = crowd(&piccolo, args, folder)?;
    report.section("agent", "One agent", &body(args, &parts, cores, &crowd))
}

/// Memory of each process, and the share of a core of both.
fn idle(piccolo: &Piccolo, args: &AgentArgs, folder: &Path) -> Result<(Vec<Part>, f64)> {
    let host = Network::host();
    let layout = Layout::many(&folder.join("images"), args.images, LAYERS)?;
    let server = piccolo.server(&host)?;
    let agent = piccolo.layout_agent(&host, &server, &layout, &[])?;
    thread::sleep(Duration::from_secs(args.settle_seconds));
    let root = agent.process.pid();
    let before = cpu_seconds_of_tree(root)?;
    thread::sleep(Duration::from_secs(args.seconds));
    let cores = (cpu_seconds_of_tree(root)? - before) / args.seconds as f64;
    let pids = pids_of_tree(root)?;
    ensure!(pids.len() == 2, "an agent is a supervisor and a worker, not {} processes", pids.len());
    let part = |(name, pid)| Ok(Part { name, memory: Memory::of(pid)? });
    let parts = ["supervisor", "worker"].into_iter().zip(pids).map(part).collect::<Result<_>>()?;
    Ok((parts, cores))
}

/// Many concurrent requests for blobs that a neighbour holds.
fn crowd(piccolo: &Piccolo, args: &AgentArgs, folder: &Path) -> Result<Crowd> {
    allow_descriptors(args.requests as u64)?;
    let host = Network::host();
    let layout = Layout::make(&folder.join("held"), SEED, &[BLOB_BYTES; BLOBS])?;
    let empty = Layout::empty(&folder.join("empty"))?;
    let server = piccolo.server(&host)?;
    let holder = piccolo.layout_agent(&host, &server, &layout, &[])?;
    let asker = piccolo.layout_agent(&host, &server, &empty, &[])?;
    wait_findable(&host, server.api, &layout.layers)?;
    let from_peer = ask_at_once(asker.mirror, &layout.layers, args.requests)?;
    Ok(Crowd {
        from_peer,
        total: args.requests,
        asker_mib: own_peak(&asker)?,
        holder_mib: own_peak(&holder)?,
    })
}

/// Number of requests that are served. The others are sent on to the registry, because the holder's slots are
/// limited.
fn ask_at_once(mirror: SocketAddr, blobs: &[Blob], requests: usize) -> Result<usize> {
    let (mut asked, mut served) = (0, 0);
    exchange(
        mirror,
        requests,
        |request| {
            if asked == requests {
                return false;
            }
            let path = blobs[asked % blobs.len()].path();
            request.extend_from_slice(format!("GET {path} HTTP/1.1\r\nHost: {mirror}\r\n\r\n").as_bytes());
            asked += 1;
            true
        },
        |answer| {
            ensure!([200, 404].contains(&answer.status), "the mirror answered {}", answer.status);
            served += usize::from(answer.status == 200);
            Ok(())
        },
    )?;
    Ok(served)
}

/// Peak memory of both processes of an agent without the pages of the binary, MiB.
fn own_peak(agent: &Agent) -> Result<f64> {
    let own = |pid: u32| Ok((peak_resident(pid)? - resident_of_files(pid)?).max(0.0));
    pids_of_tree(agent.process.pid())?.into_iter().map(own).sum()
}

fn body(args: &AgentArgs, parts: &[Part], cores: f64, crowd: &Crowd) -> String {
    let mut text = format!(
        "An agent that holds {} images of {LAYERS} layers and has nothing to do: memory, and CPU over {} s that begin \
         {} s after it is ready. **Bold: budget missed.**\n\n\
         | | resident, MiB | proportional, MiB | of its own, MiB |\n|---|---|---|---|\n",
        args.images, args.seconds, args.settle_seconds
    );
    for Part { name, memory: Memory { resident, proportional, anonymous } } in parts {
        writeln!(text, "| {name} | {resident:.1} | {proportional:.1} | {anonymous:.1} |")
            .expect("a string takes everything");
    }
    let proportional: f64 = parts.iter().map(|part| part.memory.proportional).sum();
    let resident: f64 = parts.iter().map(|part| part.memory.resident).sum();
    let supervisor = parts.first().map_or(0.0, |part| part.memory.resident);
    let marked = |text: String, missed: bool| if missed { format!("**{text}**") } else { text };
    writeln!(
        text,
        "\nBoth resident: {} MiB (budget ≤ {IDLE_RESIDENT_MIB}), the supervisor alone {} (budget ≤ \
         {SUPERVISOR_RESIDENT_MIB}). Both, shared pages counted once: {} MiB (budget ≤ {IDLE_PROPORTIONAL_MIB}). CPU: \
         {} % of a core (budget < {} %).\n\n\
         {} requests at once for {BLOBS} blobs of {} KiB that a neighbour holds: {} were served by it, the others were \
         sent on to the registry. The most memory of its own: {} MiB at the agent that was asked, {:.1} MiB at the \
         neighbour (budget ≤ {BUSY_MIB} each).",
        marked(format!("{resident:.1}"), resident > IDLE_RESIDENT_MIB),
        marked(format!("{supervisor:.1}"), supervisor > SUPERVISOR_RESIDENT_MIB),
        marked(format!("{proportional:.1}"), proportional > IDLE_PROPORTIONAL_MIB),
        marked(format!("{:.3}", cores * 100.0), cores >= IDLE_CORES),
        IDLE_CORES * 100.0,
        crowd.total,
        BLOB_BYTES / 1024,
        crowd.from_peer,
        marked(format!("{:.1}", crowd.asker_mib), crowd.asker_mib > BUSY_MIB),
        crowd.holder_mib,
    )
    .expect("a string takes everything");
    text
}
