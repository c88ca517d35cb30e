//! Black-box benchmarks of the real binary: rates and CPU beside nginx, pull times beside a
//! registry. Writes RESULTS.md and plots.

mod agent_cost;
mod agents;
mod catch_up;
mod client;
mod cluster;
mod compare;
mod crowd;
mod daemons;
mod drive;
mod enroll;
mod findkey;
mod fleet;
mod flights;
mod herd;
mod http_load;
mod jitter;
mod lan;
mod layout;
mod load;
mod mariadb;
mod meter;
mod micro;
mod names;
mod net;
mod new_image;
mod nginx;
mod piccolo;
mod plot;
#[path = "../../tests/support/ports.rs"]
mod ports;
mod process;
mod pull;
mod rebuild;
mod register;
mod relay;
mod report;
mod serve;
mod side;
mod sizes;
mod stats;
mod steady;
mod tmpfs;
mod usage;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};

use compare::Grid;
use fleet::Fleet;
use load::Load;
use report::{Report, SECTIONS};

/// Measures Piccolo beside nginx and a registry, in one run, in turns.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Subcommand)]
enum Scenario {
    /// Blobs from the page cache over loopback.
    Loopback,
    /// Blobs from the page cache over a veth with MTU 1500 (as root).
    Veth,
    /// Peer agent → mirror agent → client, as fast as it goes.
    Relay,
    /// Peer agent → mirror agent → client, with source and sink capped at 5 Gbit/s.
    RelayCapped,
    /// Real containerds: time to findable, pull beside the registry, memory (as root).
    Pull,
    /// A new image on all nodes at once, over links of given rates, with and without flights (as root).
    NewImage(new_image::NewImageArgs),
    /// Memory and CPU of one idle agent, and its memory under many concurrent requests.
    Agent(agent_cost::AgentArgs),
    /// Heartbeats of a fleet that starts at once, simulated.
    Jitter,
    /// A new blob on all nodes of a site at once, simulated by the rules of flights.
    Flights(flights::FlightsArgs),
    /// Cold registration of a fleet into three servers, beside MariaDB.
    Register(register::RegisterArgs),
    /// A registered fleet pulls one new image within a minute.
    Crowd(crowd::CrowdArgs),
    /// A registered fleet at its normal rates.
    Steady(steady::SteadyArgs),
    /// All agents of a fleet come back at once after an outage of all servers.
    Herd(herd::HerdArgs),
    /// Part of `herd`, in a process of its own.
    #[command(hide = true)]
    HerdPart(herd::FlockArgs),
    /// All servers start empty while the fleet continues to run.
    Rebuild(rebuild::RebuildArgs),
    /// A server that was away, or lost its disk, catches up while the load goes on.
    CatchUp(catch_up::CatchUpArgs),
    /// Memory, disk, restart and snapshot of a server by the number of pairs.
    Sizes {
        /// Sizes in millions of pairs.
        #[arg(long, value_delimiter = ',', default_value = "1,5,20")]
        millions: Vec<f64>,
        /// Open connections while memory is measured at the largest size.
        #[arg(long, default_value_t = 5_000)]
        open: usize,
    },
    /// Part of `sizes`, in a process of its own.
    #[command(hide = true)]
    SnapshotPart(sizes::part::Part),
    /// Lookups beside a constant answer and the Go Piccolo's query on MariaDB.
    Findkey,
    /// Adding, removing and finding holders, without network and log.
    Micro,
    /// All scenarios.
    All,
    /// A side of findkey with a constant answer.
    #[command(hide = true)]
    ServeConstant(findkey::constant::Options),
    /// A side of findkey with MariaDB.
    #[command(hide = true)]
    ServeMariadb(mariadb::Options),
}

/// Settings of all scenarios.
#[derive(Args, Clone, Debug)]
struct Settings {
    /// The binary to measure.
    #[arg(long, global = true, default_value = "target/release/piccolo")]
    binary: PathBuf,
    /// Measures only the sides other than Piccolo (loopback and veth), to tune those.
    #[arg(long, global = true)]
    without_piccolo: bool,
    /// Only nginx configurations whose name contains one of these; the default always takes part.
    #[arg(long, global = true, value_delimiter = ',')]
    only: Vec<String>,
    /// Folder for RESULTS.md and plots/.
    #[arg(long, global = true, default_value = "bench")]
    out: PathBuf,
    /// Sizes of the blobs.
    #[arg(long, global = true, value_delimiter = ',', value_parser = stats::parse_size,
          default_value = "100KiB,1MiB,16MiB,512MiB")]
    sizes: Vec<u64>,
    /// Numbers of connections.
    #[arg(long, global = true, value_delimiter = ',', default_value = "1,8,64")]
    connections: Vec<usize>,
    /// Rounds of each cell.
    #[arg(long, global = true, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Length of one sample.
    #[arg(long, global = true, default_value = "250", value_parser = milliseconds, value_name = "MS")]
    window: Duration,
    /// Agents of a simulated fleet.
    #[arg(long, global = true, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    agents: u64,
    /// Layers of the image that `pull` pulls.
    #[arg(long, global = true, value_delimiter = ',', value_parser = stats::parse_size,
          default_value = "1MiB,15MiB,64MiB,120MiB")]
    layers: Vec<u64>,
    #[command(flatten)]
    findkey: findkey::Options,
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.parse().ok().filter(|number| (20..=60_000).contains(number));
    number.map(Duration::from_millis).ok_or_else(|| format!("{text:?}: expected 20 to 60000 milliseconds"))
}

impl Settings {
    fn piccolo(&self) -> Option<PathBuf> {
        (!self.without_piccolo).then(|| self.binary.clone())
    }

    fn fleet(&self) -> Fleet {
        Fleet::FULL.with_hosts(self.findkey.hosts)
    }

    fn wants(&self, variant: &str) -> bool {
        self.only.is_empty()
            || variant.contains("default")
            || self.only.iter().any(|part| variant.contains(part))
    }

    fn grid(&self) -> Grid {
        let load = Load {
            connections: 1,
            warm_up: self.window / 4,
            window: self.window,
            whole_bytes: None,
            sink_bytes_per_second: None,
        };
        Grid { connections: self.connections.clone(), rounds: self.rounds as usize, load }
    }
}

fn main() -> Result<()> {
    let Cli { scenario, settings } = Cli::parse();
    match &scenario {
        Scenario::ServeConstant(options) => return findkey::constant::serve(options),
        Scenario::ServeMariadb(options) => return mariadb::serve(options),
        Scenario::SnapshotPart(part) => return sizes::part::run(part),
        Scenario::HerdPart(part) => return herd::run_flock(part),
        _ => {}
    }
    if settings.piccolo().is_some_and(|binary| !binary.is_file()) {
        bail!(
            "there is no {}: run `make build` (tests: `cargo test --workspace`)",
            settings.binary.display()
        );
    }
    let report = Report::new(&settings.out, settings.piccolo().as_deref())?;
    let scenarios = match scenario {
        Scenario::All => {
            // Each with its defaults on the command line.
            let named = |name: &&str| Cli::try_parse_from(["piccolo-bench", name]).map(|cli| cli.scenario);
            SECTIONS.iter().map(named).collect::<Result<_, _>>()?
        }
        one => vec![one],
    };
    for scenario in scenarios {
        let folder = tempfile::Builder::new().prefix("piccolo-bench-").tempdir();
        let folder = folder.context("could not make a temporary folder")?;
        match scenario {
            Scenario::Loopback => serve::loopback(&settings, &report, folder.path())?,
            Scenario::Veth => serve::veth(&settings, &report, folder.path())?,
            Scenario::Relay => relay::uncapped(&settings, &report, folder.path())?,
            Scenario::RelayCapped => relay::capped(&settings, &report, folder.path())?,
            Scenario::Agent(args) => agent_cost::agent(&settings, &args, &report, folder.path())?,
            Scenario::Jitter => jitter::jitter(settings.agents as usize, &report)?,
            Scenario::Flights(args) => flights::flights(&args, &report)?,
            Scenario::Register(args) => register::register(&settings, &args, &report, folder.path())?,
            Scenario::Crowd(args) => crowd::crowd(&settings, &args, &report, folder.path())?,
            Scenario::Steady(args) => steady::steady(&settings, &args, &report, folder.path())?,
            Scenario::Herd(args) => herd::herd(&settings, &args, &report, folder.path())?,
            Scenario::Rebuild(args) => rebuild::rebuild(&settings, &args, &report, folder.path())?,
            Scenario::CatchUp(args) => catch_up::catch_up(&settings, &args, &report, folder.path())?,
            Scenario::Sizes { millions, open } => {
                sizes::sizes(&settings, &millions, open, &report, folder.path())?;
            }
            Scenario::NewImage(args) => new_image::new_image(&settings, &args, &report, folder.path())?,
            Scenario::Pull => pull::pull(&settings, &report, folder.path())?,
            Scenario::Findkey => findkey::findkey(&settings, &report, folder.path())?,
            Scenario::Micro => micro::micro(&settings, settings.fleet(), &report)?,
            Scenario::All
            | Scenario::SnapshotPart(_)
            | Scenario::HerdPart(_)
            | Scenario::ServeConstant(_)
            | Scenario::ServeMariadb(_) => {
                unreachable!("taken apart above")
            }
        }
    }
    Ok(())
}
