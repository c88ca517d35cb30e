//! A new blob on a large site: all nodes pull it at once, and nobody holds it. The rules are the product's own: the
//! owner's table, who takes which child, and what a node does next. Links, writes, servers and the registry are
//! simulated.

mod events;
mod outcome;
mod servers;
mod site;
mod terms;

use anyhow::Result;
use clap::Args;

use crate::report::Report;
use crate::stats::size_text;
use outcome::{Outcome, at};
use site::Site;
use terms::Terms;

const SEED: u64 = 15;
const GIGABIT: f64 = 1e9 / 8.0;

/// Size of the simulated site.
#[derive(Args, Clone, Debug)]
pub(crate) struct FlightsArgs {
    /// Numbers of nodes.
    #[arg(long, value_delimiter = ',', default_value = "1000,10000,50000")]
    nodes: Vec<usize>,
    /// Zones of the site.
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
    #[arg(long, value_delimiter = ',')]
    scenes: Vec<String>,
    /// Seed.
    #[arg(long, default_value_t = SEED)]
    seed: u64,
}

/// The scenes: what happens beside the pulls, and how that changes the terms.
const SCENES: [(&str, fn(&mut Terms)); 7] = [
    ("all within a second", |_| ()),
    ("all within a minute", |terms| terms.arrive_seconds = 60.0),
    ("500 ms between servers", |terms| terms.server_lag = 0.5),
    ("owner stops after 0.5 s", |terms| terms.owner_stops = Some(0.5)),
    ("1 % fail", |terms| terms.failing = 0.01),
    ("1 % fail, and the fetcher", |terms| (terms.failing, terms.fetcher_fails) = (0.01, true)),
    ("1 % are ten times slower", |terms| terms.slow = 0.01),
];

/// Runs the simulation and writes its section.
pub(crate) fn flights(args: &FlightsArgs, report: &Report) -> Result<()> {
    let mut body = String::new();
    for write_mb in &args.write_mb {
        let terms = Terms {
            nodes: 0,
            zones: args.zones,
            bytes: args.mib << 20,
            link: args.node_gigabits * GIGABIT,
            registry: args.registry_gigabits * GIGABIT,
            write: if *write_mb > 0.0 { write_mb * 1e6 } else { f64::INFINITY },
            arrive_seconds: 1.0,
            server_lag: 0.000_25,
            owner_stops: None,
            failing: 0.0,
            fetcher_fails: false,
            slow: 0.0,
        };
        body.push_str(&head(terms));
        for (name, change) in SCENES {
            if !args.scenes.is_empty() && !args.scenes.iter().any(|scene| name.starts_with(scene)) {
                continue;
            }
            for nodes in &args.nodes {
                let mut terms = Terms { nodes: *nodes, ..terms };
                change(&mut terms);
                let outcome = Site::new(terms, args.seed).run();
                let row = row(name, terms, &outcome);
                eprint!("{row}");
                body.push_str(&row);
            }
        }
    }
    report.section("flights", "Flights: a new blob on all nodes at once, simulated", &body)
}

fn head(terms: Terms) -> String {
    let writes = match terms.write.is_finite() {
        true => format!("that write at most {} MB/s", terms.write / 1e6),
        false => "that write as fast as they receive".to_owned(),
    };
    format!(
        "{} on nodes of {} Gbit/s {writes}: one transfer between two of them takes {:.1} s.\n\n\
         | scene | nodes | p50 | p99 | p99.9 | last | slow ones: p50, last | copies | most in a row | steps from full sources: \
         p50, p99, most | busiest node × mean | busiest rack × mean | across zones | lookups a node | most a \
         second at one server |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
        size_text(terms.bytes),
        terms.link / GIGABIT,
        terms.transfer_seconds()
    )
}

fn row(name: &str, terms: Terms, outcome: &Outcome) -> String {
    let transfer = terms.transfer_seconds();
    let [p50, p99, p999, last] = [0.5, 0.99, 0.999, 1.0].map(|share| outcome.at(share) / transfer);
    let slow = match outcome.slow_took.is_empty() {
        true => "–".to_owned(),
        false => format!("{:.2}, {:.2}", outcome.slow_at(0.5) / transfer, outcome.slow_at(1.0) / transfer),
    };
    let [steps, steps_p99, steps_most] = [0.5, 0.99, 1.0].map(|share| at(&outcome.steps, share));
    format!(
        "| {name} | {} | {p50:.2} | {p99:.2} | {p999:.2} | {last:.2} | {slow} | {} | {} | {steps}, {steps_p99}, {steps_most} \
         | {:.1} | {:.1} | {:.1} | {:.2} | {} |\n",
        terms.nodes,
        outcome.copies,
        outcome.depth,
        outcome.busiest_node(),
        outcome.busiest_rack(),
        outcome.across_zones,
        outcome.lookups as f64 / terms.nodes as f64,
        outcome.lookups_most,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(nodes: usize, registry: f64) -> (Terms, Outcome) {
        // A link of 25 MB/s, and a blob of 128 MiB: one transfer takes 5.4 s.
        let terms = Terms {
            nodes,
            zones: 1,
            bytes: 128 << 20,
            link: 25e6,
            registry,
            write: f64::INFINITY,
            arrive_seconds: 1.0,
            server_lag: 0.000_25,
            owner_stops: None,
            failing: 0.0,
            fetcher_fails: false,
            slow: 0.0,
        };
        (terms, Site::new(terms, SEED).run())
    }

    #[test]
    fn one_copy_leaves_the_registry_and_the_last_of_sixteen_is_done_soon_after_the_first() {
        for (nodes, most) in [(8, 1.15), (16, 1.25)] {
            let (terms, outcome) = run(nodes, 25e6);
            assert_eq!(outcome.copies, 1);
            let last = outcome.at(1.0) / terms.transfer_seconds();
            assert!(last < most, "{nodes} nodes: {last}");
        }
    }

    #[test]
    fn a_registry_at_half_the_rate_decides_the_time() {
        let (terms, outcome) = run(8, 12.5e6);
        let last = outcome.at(1.0) / (2.0 * terms.transfer_seconds());
        assert!(outcome.copies == 1 && last < 1.15, "{last}");
    }

    #[test]
    fn a_thousand_nodes_take_little_more_than_two_transfers_where_the_link_is_the_bound() {
        let (terms, outcome) = run(1_000, 25e6);
        let last = outcome.at(1.0) / terms.transfer_seconds();
        assert!(outcome.copies == 1 && last < 2.4, "{} copies, {last}", outcome.copies);
        assert!(outcome.depth < 40, "{}", outcome.depth);
    }
}
