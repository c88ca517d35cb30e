//! The simulation as tables of RESULTS.md, and what misses its budget.

use std::net::SocketAddr;

use piccolo::limits::PARTIAL_HOLDERS_PER_ZONE_MAX;
use piccolo::server::flights::sample::PartialHolder;

use super::GIGABIT;
use super::outcome::{Outcome, at};
use super::terms::{SERVERS, SLOW_SHARE, Terms};
use crate::stats::size_text;

/// Copies that may leave the registry.
const COPIES_MOST: usize = 3;
/// Bytes of the busiest uplink × the mean.
const UPLINK_MOST: f64 = 3.0;

/// What the tables say, and how much a server needs.
pub(super) fn introduction(zones: usize, registry_gigabits: f64, seed: u64) -> String {
    format!(
        "Racks of 40 nodes in {zones} zones, a registry of {registry_gigabits} Gbit/s, {SERVERS} servers, all nodes \
         without the blob, seed {seed}. Times from a node's start to its last byte, × one transfer between two idle \
         nodes, which is the lower bound; of healthy nodes, and apart of those whose link and writes are \
         {SLOW_SHARE} times slower. The fetcher is never one of the slow ones. A node that fails is a machine that \
         stops without a word, at any time of its transfer. Bytes move in 256 pieces, and a hop costs at least the \
         time of one. *Busiest*: bytes sent × the mean, of a node, and of what leaves a rack. *Across zones*: blobs \
         that came from another zone.\n\n\
         A server keeps at most {} a key for {zones} zones, by the size of its types, however many nodes come; if \
         each agent keeps one connection to its server, 50,000 agents are {} connections a server, {} when one of \
         three is gone.\n\n",
        size_text(table_bytes(zones)),
        50_000 / SERVERS,
        50_000 / (SERVERS - 1),
    )
}

/// Bytes of the samples of one key: holders, and a hash table of their positions, whose size is a power of two and
/// which has one byte a slot beside it.
fn table_bytes(zones: usize) -> u64 {
    let slots = (PARTIAL_HOLDERS_PER_ZONE_MAX * 8 / 7).next_power_of_two();
    let holders = PARTIAL_HOLDERS_PER_ZONE_MAX * size_of::<PartialHolder>();
    (zones * (holders + slots * (size_of::<(SocketAddr, usize)>() + 1))) as u64
}

/// The table of one kind of node.
pub(super) struct Table {
    text: String,
    last_most: f64,
    missed: Vec<String>,
}

impl Table {
    /// An empty table of nodes like those of `terms`, whose last healthy one should be done within `last_most`
    /// transfers.
    pub(super) fn new(terms: Terms, last_most: f64) -> Self {
        let writes = match terms.write.is_finite() {
            true => format!("write at most {} MB/s", terms.write / 1e6),
            false => "write as fast as they receive".to_owned(),
        };
        let text = format!(
            "{} on nodes of {} Gbit/s that {writes}; one transfer takes {:.1} s.\n\n\
             | scene | nodes | p50 | p99 | p99.9 | last | slow: p50, last | copies | most nodes in a row | steps from \
             full sources a node: p50, p99, most | busiest node | busiest rack | across zones | lookups a node | \
             most a second at a server |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
            size_text(terms.bytes),
            terms.link / GIGABIT,
            terms.transfer_seconds()
        );
        Self { text, last_most, missed: Vec::new() }
    }

    /// Adds a row, and notes what misses its budget.
    pub(super) fn add(&mut self, scene: &str, terms: Terms, outcome: &Outcome) {
        let row = row(scene, terms, outcome);
        eprint!("{row}");
        self.text.push_str(&row);
        let nodes = terms.nodes;
        let last = outcome.at(1.0) / terms.transfer_seconds();
        for (what, value, most) in [
            ("last node", last, self.last_most),
            ("copies", outcome.copies as f64, COPIES_MOST as f64),
            ("busiest rack", outcome.busiest_rack(), UPLINK_MOST),
            ("busiest node", outcome.busiest_node(), UPLINK_MOST),
        ] {
            if value > most {
                let by = (value / most - 1.0) * 100.0;
                self.missed.push(format!("- {scene}, {nodes} nodes: {what} {value:.2}, by {by:.0} %\n"));
            }
        }
    }

    /// The text, with what is missed below the table.
    pub(super) fn finish(self) -> String {
        let missed = if self.missed.is_empty() { "- nothing\n".to_owned() } else { self.missed.concat() };
        format!(
            "{}\nOver the budget (last node {}, copies {COPIES_MOST}, busiest {UPLINK_MOST}):\n\n{missed}\n",
            self.text, self.last_most
        )
    }
}

fn row(scene: &str, terms: Terms, outcome: &Outcome) -> String {
    let transfer = terms.transfer_seconds();
    let [p50, p99, p999, last] = [0.5, 0.99, 0.999, 1.0].map(|share| outcome.at(share) / transfer);
    let slow = match outcome.slow_took.is_empty() {
        true => "–".to_owned(),
        false => format!("{:.2}, {:.2}", outcome.slow_at(0.5) / transfer, outcome.slow_at(1.0) / transfer),
    };
    let [steps, steps_p99, steps_most] = [0.5, 0.99, 1.0].map(|share| at(&outcome.steps, share));
    format!(
        "| {scene} | {} | {p50:.2} | {p99:.2} | {p999:.2} | {last:.2} | {slow} | {} | {} | {steps}, {steps_p99}, \
         {steps_most} | {:.1} | {:.1} | {:.1} | {:.2} | {} |\n",
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
