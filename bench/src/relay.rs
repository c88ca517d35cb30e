//! Scenario 3: source → mirror → client, beside nginx as a relay that does not hash.

use std::path::Path;
use std::time::Instant;

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

use crate::Settings;
use crate::compare::{Budget, Cell, Comparison, compare};
use crate::layout::Layout;
use crate::net::Network;
use crate::nginx::{RELAYS, relay as nginx_relay};
use crate::piccolo::{Piccolo, Server, wait_findable};
use crate::plot::plot;
use crate::report::Report;
use crate::side::Side;

const SEED: u64 = 13;
/// Bytes in whole requests for each millisecond of the window.
const WHOLE_BYTES_PER_MILLISECOND: u64 = 512 << 10;
/// Cap of source and sink: 5 Gbit/s (docs/budgets.md).
const CAP_BYTES_PER_SECOND: u64 = 625_000_000;
/// Budget of section 11: core-seconds that hashing adds to a GiB.
const HASHING_MAX: f64 = 0.6;
/// Budget of section 11: rate divided by the unhashed one, with capped source and sink.
const OVER_UNHASHED_MIN: f64 = 0.8;

/// Scenario without a cap.
pub(crate) fn uncapped(settings: &Settings, report: &Report, folder: &Path) -> Result<()> {
    let title = "Relay: peer agent → mirror → client, loopback";
    let comparison = measure(settings, folder, title, &settings.sizes, None)?;
    let rates = plot(&comparison, &format!("{title}: GiB/s"), Cell::rate);
    let cpu = plot(&comparison, &format!("{title}: CPU seconds of the relay for a GiB"), Cell::cpu);
    let body = format!(
        "Every side has the same agent as its source; CPU is that of the relay alone. Blobs up to 16 MiB are \
         counted in whole requests from the first connection on, larger ones in a window. Three processes share the CPUs \
         here, so the rates measure the machine.\n\n{}\n{}\n{}\n{}\n{}",
        hashing(&comparison),
        comparison.table(|_| Budget::default()),
        report.plot("relay-rate", &rates)?,
        report.plot("relay-cpu", &cpu)?,
        comparison.all_sides()
    );
    report.section("relay", title, &body)
}

/// Scenario with source and sink capped at 5 Gbit/s.
pub(crate) fn capped(settings: &Settings, report: &Report, folder: &Path) -> Result<()> {
    let title = "Relay with source and sink capped at 5 Gbit/s";
    let largest = settings.sizes.iter().copied().max().unwrap_or_default();
    let comparison = measure(settings, folder, title, &[largest], Some(CAP_BYTES_PER_SECOND))?;
    let budget = |_: &Cell| Budget { over_best: Some(OVER_UNHASHED_MIN), ..Budget::default() };
    let body = format!(
        "Source: an agent with `--upload-bytes-per-second {CAP_BYTES_PER_SECOND}`; the client reads no faster than \
         that. Best: the best unhashed relay.\n\n{}\n{}",
        comparison.table(budget),
        comparison.all_sides()
    );
    report.section("relay-capped", title, &body)
}

fn measure(
    settings: &Settings,
    folder: &Path,
    title: &str,
    sizes: &[u64],
    cap: Option<u64>,
) -> Result<Comparison> {
    eprintln!("{title}");
    let Some(binary) = settings.piccolo() else { bail!("a relay needs Piccolo as its source") };
    let host = Network::host();
    let piccolo = Piccolo::new(&binary, folder)?;
    let server = piccolo.server(&host)?;
    let layout = Layout::make(&folder.join("layout"), SEED, sizes)?;
    let limit = cap.unwrap_or_default().to_string();
    let source = piccolo.layout_agent(
        &host,
        &server,
        &layout,
        &["--uploads-max", "0", "--upload-bytes-per-second", &limit],
    )?;
    wait_findable(&host, server.api, &layout.layers)?;
    let mut sides = vec![mirror(&piccolo, &host, &server, folder)?];
    for variant in RELAYS.iter().filter(|variant| settings.wants(variant.name)) {
        sides.push(nginx_relay(folder, &host, variant, source.peer)?);
    }
    let mut grid = settings.grid();
    grid.load.sink_bytes_per_second = cap;
    // Token buckets start full, so that the warm-up is longer.
    grid.load.warm_up = settings.window / 2;
    grid.load.window = settings.window * 2;
    // Blobs that a mirror verifies whole before their first byte come in bursts: count whole blobs.
    grid.load.whole_bytes = Some(WHOLE_BYTES_PER_MILLISECOND * settings.window.as_millis() as u64);
    compare(&grid, &host, &sides, true, &layout.layers)
}

fn mirror(piccolo: &Piccolo, host: &Network, server: &Server, folder: &Path) -> Result<Side> {
    let empty = Layout::empty(&folder.join("empty"))?;
    let agent = piccolo.layout_agent(host, server, &empty, &[])?;
    Ok(Side {
        name: "Piccolo".to_owned(),
        what: "piccolo agent --layout EMPTY --log-level warn, its mirror port".to_owned(),
        address: agent.mirror,
        pid: agent.process.pid(),
        _running: vec![agent.process],
    })
}

/// Cost of hashing: the mirror's CPU minus that of an unhashed relay, and SHA-256 alone.
fn hashing(comparison: &Comparison) -> String {
    let mut text = format!(
        "SHA-256 of a GiB in memory takes {:.2} core-seconds here. The mirror's CPU less that of the unhashed relay \
         that is the cheapest in the row (budget for hashing: {HASHING_MAX}):\n\n\
         | blob | connections | mirror | cheapest unhashed | difference |\n|---|---|---|---|---|\n",
        sha256_seconds_per_gib()
    );
    for cell in &comparison.cells {
        let unhashed = (1..comparison.sides.len()).map(|side| cell.cpu(side).median);
        let (mirror, unhashed) = (cell.cpu(0).median, unhashed.fold(f64::INFINITY, f64::min));
        let difference = mirror - unhashed;
        let mark = if difference > HASHING_MAX { "**" } else { "" };
        text.push_str(&format!(
            "| {} | {} | {mirror:.2} | {unhashed:.2} | {mark}{difference:.2}{mark} |\n",
            crate::stats::size_text(cell.blob_bytes),
            cell.connections
        ));
    }
    text
}

/// The fastest of several attempts, because other processes may be busy.
fn sha256_seconds_per_gib() -> f64 {
    const PIECE: usize = 1 << 20;
    let piece = vec![7u8; PIECE];
    let tries = (0..64).map(|_| {
        let started = Instant::now();
        std::hint::black_box(Sha256::digest(&piece));
        started.elapsed()
    });
    tries.min().unwrap_or_default().as_secs_f64() * 1024.0
}
