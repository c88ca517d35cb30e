//! A new image on all nodes in the same second, with real containerds over links of given rates: what leaves the
//! registry, and when each node is done. Beside it the same without Piccolo, without flights, and from one holder.

mod plan;
mod running;
mod side;
mod site;
mod table;
mod watch;

use std::path::Path;

use anyhow::{Result, bail};
use clap::Args;

use crate::Settings;
use crate::piccolo::Piccolo;
use crate::report::Report;
use crate::stats::{parse_size, size_text};
use plan::Plan;
use site::Site;
use table::Table;

const SEED: u64 = 23;
/// Sizes of twelve layers of mixed size, about 100 MiB in all, in the order of a usual image: a large one first.
const MIXED: &str = "24MiB,100KiB,6MiB,1MiB,18MiB,200KiB,14MiB,2MiB,20MiB,500KiB,10MiB,4MiB";

/// Size of the site, rates of its links, and its images.
#[derive(Args, Clone, Debug)]
pub(crate) struct NewImageArgs {
    /// Numbers of nodes that pull, a site for each.
    #[arg(long, value_delimiter = ',', default_value = "8,16", value_parser = clap::value_parser!(u8).range(2..=200))]
    nodes: Vec<u8>,
    /// Sizes of the layers of an image; may be given several times.
    #[arg(long = "image", value_parser = layers, default_values = ["32MiB,32MiB,32MiB,32MiB", MIXED])]
    images: Vec<Layers>,
    /// How many discovery servers the site has.
    #[arg(long, default_value = "1", value_parser = clap::builder::PossibleValuesParser::new(["1", "3"]))]
    servers: String,
    /// Link of the registry, Mbit/s, for up to 8 nodes; with more of them all links are slower in proportion, so that
    /// the machine has the same work.
    #[arg(long, default_value_t = 100.0)]
    registry_mbit: f64,
    /// Link of a node, Mbit/s each way, for up to 8 nodes.
    #[arg(long, default_value_t = 200.0)]
    node_mbit: f64,
    /// Measures what takes long, many nodes at the registry without flights, with each number of nodes, and not only
    /// with the first.
    #[arg(long)]
    all_sides: bool,
}

/// Sizes of an image's layers, bytes.
#[derive(Clone, Debug)]
struct Layers(Vec<u64>);

fn layers(text: &str) -> Result<Layers, String> {
    text.split(',').map(parse_size).collect::<Result<_, _>>().map(Layers)
}

impl Layers {
    fn name(&self) -> String {
        let Self(sizes) = self;
        match sizes.as_slice() {
            [first, rest @ ..] if rest.iter().all(|size| size == first) => {
                format!("{} layers of {}", sizes.len(), size_text(*first))
            }
            sizes => {
                let mib = sizes.iter().sum::<u64>() as f64 / f64::from(1 << 20);
                let (least, most) = (sizes.iter().min(), sizes.iter().max());
                let text = |size: Option<&u64>| size.map(|size| size_text(*size)).unwrap_or_default();
                format!("{} layers of {} to {}, {mib:.0} MiB in all", sizes.len(), text(least), text(most))
            }
        }
    }
}

/// Runs the scenario and writes its section; needs root.
pub(crate) fn new_image(
    settings: &Settings,
    args: &NewImageArgs,
    report: &Report,
    folder: &Path,
) -> Result<()> {
    let Some(binary) = settings.piccolo() else { bail!("there are no flights without Piccolo") };
    let piccolo = Piccolo::new(&binary, folder)?;
    let mut body = table::INTRODUCTION.to_owned();
    for (place, nodes) in args.nodes.iter().enumerate() {
        let plan = Plan::new(args, *nodes, place == 0);
        eprintln!("{}", plan.name());
        let site = Site::start(&piccolo, &folder.join(format!("site-{nodes}")), &plan)?;
        for (number, layers) in args.images.iter().enumerate() {
            let image = site.push(SEED + number as u64, &layers.0)?;
            let mut table = Table::new(&plan, &layers.name(), image.bytes);
            for side in plan.sides() {
                let outcome = site.measure(side, &image)?;
                eprintln!("  {}: {}", side.name(&plan), outcome.line());
                table.add(side, outcome);
            }
            body.push_str(&table.markdown()?);
            let name = format!("new-image-{nodes}-{}", number + 1);
            body.push_str(&report.plot(&name, &table.plot())?);
            body.push('\n');
        }
    }
    report.section("new-image", "A new image on all nodes in the same second", &body)
}
