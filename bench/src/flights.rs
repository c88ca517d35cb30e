//! A new blob on a large site: all nodes pull it at once, and nobody holds it. The rules are the product's own: the
//! owner's table, who takes which child, and what a node does next. Links, writes, servers and the registry are
//! simulated.

mod events;
mod outcome;
mod servers;
mod site;
mod table;
mod terms;

use anyhow::Result;
use clap::Args;

use crate::report::Report;
use site::Site;
use table::Table;
use terms::Terms;

const SEED: u64 = 15;
const GIGABIT: f64 = 1e9 / 8.0;
/// The last healthy node × one transfer where nodes write slower than their link, and where they do not.
const LAST_MOST: (f64, f64) = (1.3, 2.2);

/// Size of the simulated site.
#[derive(Args, Clone, Debug)]
pub(crate) struct FlightsArgs {
    /// Numbers of nodes of the sites that are simulated.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,50000")]
    nodes: Vec<usize>,
    /// Zones of the site, in racks of 40 nodes.
    #[arg(long, default_value_t = 4)]
    zones: usize,
    /// Size of the blob, MiB.
    #[arg(long, default_value_t = 10_240)]
    mib: u64,
    /// Link of a node, Gbit/s.
    #[arg(long, default_value_t = 25.0)]
    node_gigabits: f64,
    /// Link of the registry, Gbit/s.
    #[arg(long, default_value_t = 100.0)]
    registry_gigabits: f64,
    /// Bytes that a node writes, MB/s: with the default and a link of 25 Gbit/s writing is the bound; 0: no bound.
    #[arg(long, value_delimiter = ',', default_value = "1000,0")]
    write_mb: Vec<f64>,
    /// Scenes, by their first words; all if none is named.
    #[arg(long, value_delimiter = ';')]
    scenes: Vec<String>,
    /// Seed of the random numbers: the same one gives the same run.
    #[arg(long, default_value_t = SEED)]
    seed: u64,
}

/// What happens beside the pulls.
struct Scene {
    name: &'static str,
    /// How it changes the terms.
    change: fn(&mut Terms),
}

const SCENES: [Scene; 7] = [
    Scene { name: "all within a second", change: |_| () },
    Scene { name: "all within a minute", change: |terms| terms.arrive_seconds = 60.0 },
    Scene { name: "500 ms between servers", change: |terms| terms.server_lag = 0.5 },
    Scene { name: "owner stops after 0.5 s", change: |terms| terms.owner_stops = Some(0.5) },
    Scene { name: "1 % fail", change: |terms| terms.failing = 0.01 },
    Scene {
        name: "1 % fail, and the fetcher",
        change: |terms| (terms.failing, terms.fetcher_fails) = (0.01, true),
    },
    Scene { name: "1 % are ten times slower", change: |terms| terms.slow = 0.01 },
];

/// Runs the simulation and writes its section.
pub(crate) fn flights(args: &FlightsArgs, report: &Report) -> Result<()> {
    let (link, registry) = (args.node_gigabits * GIGABIT, args.registry_gigabits * GIGABIT);
    let mut body = table::introduction(args.zones, args.registry_gigabits, args.seed);
    for write_mb in &args.write_mb {
        let write = if *write_mb > 0.0 { write_mb * 1e6 } else { f64::INFINITY };
        let calm = Terms::calm(0, args.zones, args.mib << 20, link, registry, write);
        let mut table = Table::new(calm, if write < link { LAST_MOST.0 } else { LAST_MOST.1 });
        for scene in SCENES.into_iter().filter(|scene| is_asked_for(args, scene.name)) {
            for nodes in &args.nodes {
                let mut terms = Terms { nodes: *nodes, ..calm };
                (scene.change)(&mut terms);
                table.add(scene.name, terms, &Site::new(terms, args.seed).run());
            }
        }
        body.push_str(&table.finish());
    }
    if is_asked_for(args, KRAKEN) {
        body.push_str(&beside_kraken(args.seed));
    }
    report.section("flights", "Flights: a new blob on all nodes at once, simulated", &body)
}

fn is_asked_for(args: &FlightsArgs, scene: &str) -> bool {
    args.scenes.is_empty() || args.scenes.iter().any(|asked| scene.starts_with(asked))
}

const KRAKEN: &str = "kraken";

/// The site of Kraken's published figure: two layers at once share the cap of each host.
fn beside_kraken(seed: u64) -> String {
    const HOSTS: usize = 2_600;
    const LAYER_BYTES: u64 = 1_500_000_000;
    let cap = 300e6 / 2.0;
    let terms = Terms::calm(HOSTS, 1, LAYER_BYTES, cap, 100.0 * GIGABIT, f64::INFINITY);
    let outcome = Site::new(terms, seed).run();
    let [p50, p99, p999, last] = [0.5, 0.99, 0.999, 1.0].map(|share| outcome.at(share));
    format!(
        "Beside the figure that Kraken publishes (its README, not run here): an image of 3 GB in 2 layers to {HOSTS} \
         hosts capped at 300 MB/s, which is at least 10 s.\n\n\
         | | p50 | p99 | p99.9 | last | copies |\n|---|---|---|---|---|---|\n\
         | Kraken, on hosts | 10 s | 18 s | 22 s | – | – |\n\
         | flights, simulated | {p50:.0} s | {p99:.0} s | {p999:.0} s | {last:.0} s | {} |\n",
        outcome.copies
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use outcome::Outcome;

    /// A link of 25 MB/s, and a blob of 128 MiB: one transfer takes 5.4 s.
    fn calm(nodes: usize, registry: f64) -> Terms {
        Terms::calm(nodes, 1, 128 << 20, 25e6, registry, f64::INFINITY)
    }

    fn run(terms: Terms) -> (f64, Outcome) {
        let outcome = Site::new(terms, SEED).run();
        (outcome.at(1.0) / terms.transfer_seconds(), outcome)
    }

    #[test]
    fn one_copy_leaves_the_registry_and_the_last_of_sixteen_is_done_soon_after_the_first() {
        for (nodes, most) in [(8, 1.15), (16, 1.25)] {
            let (last, outcome) = run(calm(nodes, 25e6));
            assert!(outcome.copies == 1 && last < most, "{nodes} nodes: {last}");
        }
    }

    #[test]
    fn a_registry_at_half_the_rate_decides_the_time() {
        let (last, outcome) = run(calm(8, 12.5e6));
        assert!(outcome.copies == 1 && last < 2.3, "{last}");
    }

    #[test]
    fn a_thousand_nodes_take_little_more_than_two_transfers_where_the_link_is_the_bound() {
        let (last, outcome) = run(calm(1_000, 25e6));
        assert!(outcome.copies == 1 && last < 2.4, "{} copies, {last}", outcome.copies);
        assert!(outcome.depth < 40, "{}", outcome.depth);
    }

    #[test]
    fn slow_nodes_and_lost_ones_hold_back_themselves_only() {
        // One transfer takes 11 s.
        let large = Terms { bytes: 1 << 30, link: 100e6, ..calm(200, 100e6) };
        for (scene, copies, terms) in [
            ("slow", 1, Terms { slow: 0.03, ..large }),
            ("fail", 1, Terms { failing: 0.03, ..large }),
            ("the fetcher fails", 2, Terms { fetcher_fails: true, ..large }),
            ("the owner of the key stops", 2, Terms { owner_stops: Some(0.5), ..large }),
            ("the servers are far from each other", 3, Terms { server_lag: 0.5, ..large }),
        ] {
            let (last, outcome) = run(terms);
            assert!(last < 2.4, "{scene}: {last}");
            assert!(outcome.copies <= copies, "{scene}: {} copies", outcome.copies);
        }
    }
}
