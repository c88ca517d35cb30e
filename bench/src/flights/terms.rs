//! What a simulated site is like, and what goes wrong on it.

use piccolo::limits::CHILDREN_MAX;

/// Pieces of the blob: bytes move a piece at a time, so that each hop costs at least the time of one.
pub(super) const PIECES: u64 = 256;
/// How many discovery servers a simulated site has.
pub(super) const SERVERS: usize = 3;
/// Nodes of a rack.
const RACK_NODES: usize = 40;
/// A slow node has this part of the link and of the writes of another one: one in ten.
pub(super) const SLOW_SHARE: f64 = 10.0;

/// The site and the blob; rates in bytes a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) nodes: usize,
    pub(super) zones: usize,
    pub(super) bytes: u64,
    pub(super) link: f64,
    pub(super) registry: f64,
    /// Rate at which a node writes.
    pub(super) write: f64,
    /// Time within which all nodes come, at random.
    pub(super) arrive_seconds: f64,
    /// One way between two servers, seconds.
    pub(super) server_lag: f64,
    /// When the machine of the server that owns the key stops, seconds.
    pub(super) owner_stops: Option<f64>,
    /// Share of the nodes whose machine stops while the blob comes.
    pub(super) failing: f64,
    /// Whether the first node that fetches from the registry is one of them.
    pub(super) fetcher_fails: bool,
    /// Share of the nodes that are slow; the one that fetches is not.
    pub(super) slow: f64,
}

impl Terms {
    /// A site where all come within a second, and nothing goes wrong.
    pub(super) fn calm(nodes: usize, zones: usize, bytes: u64, link: f64, registry: f64, write: f64) -> Self {
        Self {
            nodes,
            zones,
            bytes,
            link,
            registry,
            write,
            arrive_seconds: 1.0,
            server_lag: 0.000_25,
            owner_stops: None,
            failing: 0.0,
            fetcher_fails: false,
            slow: 0.0,
        }
    }

    /// Time of one transfer between two nodes that do nothing else.
    pub(super) fn transfer_seconds(&self) -> f64 {
        self.bytes as f64 / self.link.min(self.write)
    }

    /// Size of a piece.
    pub(super) fn piece_bytes(&self) -> u64 {
        self.bytes / PIECES
    }

    /// The rack of a node.
    pub(super) fn rack(node: usize) -> usize {
        node / RACK_NODES
    }

    /// How many racks there are.
    pub(super) fn racks(&self) -> usize {
        self.nodes.div_ceil(RACK_NODES)
    }

    /// The zone of a node: whole racks, and about as many in each.
    pub(super) fn zone(&self, node: usize) -> usize {
        Self::rack(node) * self.zones / self.racks()
    }
}

/// What a receiver gets that can take `most`, of a `link` that all in `takes` share, it among them: an equal share, and
/// its part of what others cannot take.
pub(super) fn share_of(most: f64, mut takes: [Option<f64>; CHILDREN_MAX], link: f64) -> f64 {
    takes.sort_by(|a, b| a.unwrap_or(f64::INFINITY).total_cmp(&b.unwrap_or(f64::INFINITY)));
    let (mut left, mut count) = (link, takes.iter().flatten().count());
    for takes in takes.into_iter().flatten() {
        let share = left / count as f64;
        if takes >= share {
            return most.min(share);
        }
        (left, count) = (left - takes, count - 1);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receivers_share_a_link_and_what_a_slow_one_leaves() {
        for (most, others, expected) in [
            (9.0, [None, None], 9.0),
            (11.0, [None, None], 10.0),
            (9.0, [None, Some(9.0)], 5.0),
            (9.0, [Some(1.0), None], 9.0),
            (9.5, [Some(1.0), None], 9.0),
            (1.0, [Some(9.0), Some(9.0)], 1.0),
            (9.0, [Some(1.0), Some(9.0)], 4.5),
        ] {
            let takes = [others[0], Some(most), None, others[1]];
            assert_eq!(share_of(most, takes, 10.0), expected, "{most} {others:?}");
        }
    }

    #[test]
    fn zones_are_whole_racks() {
        let terms = Terms::calm(1_000, 4, 0, 0.0, 0.0, 0.0);
        assert_eq!((terms.racks(), terms.zone(0), terms.zone(999)), (25, 0, 3));
        assert!((1..1_000).all(|node| terms.zone(node) == terms.zone(node - 1) || node % RACK_NODES == 0));
    }
}
