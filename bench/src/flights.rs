//! A new blob on a large site: all nodes pull it at once, and nobody holds it. The rules are the product's own: the
//! owner's table, who takes which child, and what a node does next. Links, writes and the registry are simulated.

mod site;
mod terms;

use anyhow::Result;
use clap::Args;

use crate::report::Report;
use crate::stats::size_text;
use site::Site;
use terms::{Outcome, Terms};

const SEED: u64 = 15;
const GIGABIT: f64 = 1e9 / 8.0;

/// Size of the simulated site.
#[derive(Args, Clone, Debug)]
pub(crate) struct FlightsArgs {
    /// Numbers of nodes.
    #[arg(long, value_delimiter = ',', default_value = "8,16,1000,10000,50000")]
    nodes: Vec<usize>,
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
}

/// Runs the simulation and writes its section.
pub(crate) fn flights(args: &FlightsArgs, report: &Report) -> Result<()> {
    let bytes = args.mib << 20;
    let mut body = format!(
        "{} on nodes of {} Gbit/s, a registry of {} Gbit/s, all nodes without it, seed {SEED}; times × one transfer \
         between two nodes.\n\n\
         | nodes | within | writes | one transfer, s | p50 | p99 | last | copies | most nodes in a row | sources \
         asked a node: p99, most | lookups a node |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
        size_text(bytes),
        args.node_gigabits,
        args.registry_gigabits
    );
    for write_mb in &args.write_mb {
        for nodes in &args.nodes {
            for seconds in [1.0, 60.0] {
                let terms = Terms {
                    nodes: *nodes,
                    bytes: bytes as f64,
                    link: args.node_gigabits * GIGABIT,
                    registry: args.registry_gigabits * GIGABIT,
                    write: if *write_mb > 0.0 { write_mb * 1e6 } else { f64::INFINITY },
                    arrive_seconds: seconds,
                };
                let outcome = Site::new(terms, SEED).run();
                body.push_str(&row(terms, &outcome));
            }
        }
    }
    report.section("flights", "Flights: a new blob on all nodes at once, simulated", &body)
}

fn row(terms: Terms, outcome: &Outcome) -> String {
    let transfer = terms.transfer_seconds();
    let at = |share: f64| outcome.at(share) / transfer;
    let writes =
        if terms.write.is_finite() { format!("{} MB/s", terms.write / 1e6) } else { "–".to_owned() };
    format!(
        "| {} | {} s | {writes} | {transfer:.1} | {:.2} | {:.2} | {:.2} | {} | {} | {}, {} | {:.2} |\n",
        terms.nodes,
        terms.arrive_seconds,
        at(0.5),
        at(0.99),
        at(1.0),
        outcome.copies,
        outcome.depth,
        outcome.asked_p99,
        outcome.asked_most,
        outcome.lookups as f64 / terms.nodes as f64,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(nodes: usize, registry: f64, arrive_seconds: f64) -> (Terms, Outcome) {
        // A link of 25 MB/s, and a blob of 128 MiB: one transfer takes 5.4 s.
        let link = 25e6;
        let bytes = f64::from(128 << 20);
        let terms = Terms { nodes, bytes, link, registry, write: f64::INFINITY, arrive_seconds };
        (terms, Site::new(terms, SEED).run())
    }

    #[test]
    fn one_copy_leaves_the_registry_and_the_last_of_sixteen_is_done_soon_after_the_first() {
        for (nodes, most) in [(8, 1.15), (16, 1.25)] {
            let (terms, outcome) = run(nodes, 25e6, 1.0);
            assert_eq!(outcome.copies, 1);
            let last = outcome.at(1.0) / terms.transfer_seconds();
            assert!(last < most, "{nodes} nodes: {last}");
        }
    }

    #[test]
    fn a_registry_at_half_the_rate_decides_the_time() {
        let (terms, outcome) = run(8, 12.5e6, 1.0);
        let last = outcome.at(1.0) / (2.0 * terms.transfer_seconds());
        assert!(outcome.copies == 1 && last < 1.15, "{last}");
    }

    #[test]
    fn a_thousand_nodes_take_little_more_than_two_transfers_where_the_link_is_the_bound() {
        let (terms, outcome) = run(1_000, 25e6, 1.0);
        let last = outcome.at(1.0) / terms.transfer_seconds();
        assert!(outcome.copies == 1 && last < 2.4, "{} copies, {last}", outcome.copies);
        assert!(outcome.depth < 40, "{}", outcome.depth);
    }
}
