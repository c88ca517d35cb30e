//! Scenarios 1 and 2: one blob from the page cache, on loopback and over a veth.

use std::path::Path;

use anyhow::Result;

use crate::Settings;
use crate::compare::{Budget, Cell, compare};
use crate::layout::Layout;
use crate::net::{Network, Veth};
use crate::nginx::{FILES, serve_files};
use crate::piccolo::{Piccolo, wait_findable};
use crate::plot::plot;
use crate::report::Report;
use crate::side::Side;

const SEED: u64 = 11;
/// Budget of the design, section 11: rate divided by that of nginx's default.
const OVER_DEFAULT_MIN: f64 = 1.5;
const OVER_BEST_MIN: f64 = 1.0;
const CPU_OVER_BEST_MAX: f64 = 1.2;

/// Scenario on the host's loopback.
pub(crate) fn loopback(settings: &Settings, report: &Report, folder: &Path) -> Result<()> {
    let host = Network::host();
    let largest = settings.sizes.iter().copied().max().unwrap_or_default();
    let budget = |cell: &Cell| Budget {
        over_default: (cell.blob_bytes == largest).then_some(OVER_DEFAULT_MIN),
        over_best: Some(OVER_BEST_MIN),
        cpu_over_best: Some(CPU_OVER_BEST_MAX),
    };
    serve(settings, report, folder, "loopback", "Blobs from the page cache, loopback", (&host, &host), budget)
}

/// Scenario between two network namespaces; needs root.
pub(crate) fn veth(settings: &Settings, report: &Report, folder: &Path) -> Result<()> {
    let veth = Veth::make()?;
    let budget = |_: &Cell| Budget {
        over_default: None,
        over_best: Some(OVER_BEST_MIN),
        cpu_over_best: Some(CPU_OVER_BEST_MAX),
    };
    let title = "Blobs from the page cache, veth with MTU 1500 between two network namespaces";
    serve(settings, report, folder, "veth", title, (&veth.server, &veth.client), budget)
}

fn serve(
    settings: &Settings,
    report: &Report,
    folder: &Path,
    name: &str,
    title: &str,
    (server_network, client_network): (&Network, &Network),
    budget: impl Fn(&Cell) -> Budget,
) -> Result<()> {
    eprintln!("{title}");
    let layout = Layout::make(&folder.join("layout"), SEED, &settings.sizes)?;
    let mut sides = Vec::new();
    if let Some(binary) = &settings.piccolo() {
        let piccolo = Piccolo::new(binary, folder)?;
        let server = piccolo.server(server_network)?;
        let agent = piccolo.layout_agent(server_network, &server, &layout, &["--uploads-max", "0"])?;
        wait_findable(server_network, server.api, &layout.layers)?;
        sides.push(Side {
            name: "Piccolo".to_owned(),
            what: "piccolo agent --layout DIR --uploads-max 0 --log-level warn, its peer port".to_owned(),
            address: agent.peer,
            pid: agent.process.pid(),
            _running: vec![agent.process, server.process],
        });
    }
    for variant in FILES.iter().filter(|variant| settings.wants(variant.name)) {
        sides.push(serve_files(folder, server_network, variant, &layout)?);
    }
    let has_subject = settings.piccolo().is_some();
    let comparison = compare(&settings.grid(), client_network, &sides, has_subject, &layout.layers)?;
    drop(sides);
    let rates = plot(&comparison, &format!("{title}: GiB/s"), Cell::rate);
    let cpu = plot(&comparison, &format!("{title}: CPU seconds of the server for a GiB"), Cell::cpu);
    let body = format!(
        "{}\n{}\n{}\n{}",
        comparison.table(budget),
        report.plot(&format!("{name}-rate"), &rates)?,
        report.plot(&format!("{name}-cpu"), &cpu)?,
        comparison.all_sides()
    );
    report.section(name, title, &body)
}
