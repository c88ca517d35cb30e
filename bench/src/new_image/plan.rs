//! What is measured with one number of nodes.

use super::NewImageArgs;
use super::side::{Flights, Side};
use crate::lan::Rates;

/// Nodes for which the rates of the command line hold.
const NODES_AT_FULL_RATE: f64 = 8.0;

/// A number of nodes, the rates of the links, and the sides.
pub(super) struct Plan {
    pub(super) nodes: usize,
    pub(super) servers: usize,
    pub(super) registry_mbit: f64,
    pub(super) node_mbit: f64,
    with_slow_sides: bool,
}

impl Plan {
    pub(super) fn new(args: &NewImageArgs, nodes: u8, is_first: bool) -> Self {
        let slower = (f64::from(nodes) / NODES_AT_FULL_RATE).max(1.0);
        Self {
            nodes: nodes.into(),
            servers: if args.servers == "3" { 3 } else { 1 },
            registry_mbit: args.registry_mbit / slower,
            node_mbit: args.node_mbit / slower,
            with_slow_sides: is_first || args.all_sides,
        }
    }

    pub(super) fn name(&self) -> String {
        let servers = if self.servers == 1 { "server" } else { "servers" };
        format!(
            "{} nodes of {:.0} Mbit/s, a registry of {:.0} Mbit/s, {} discovery {servers}",
            self.nodes, self.node_mbit, self.registry_mbit, self.servers
        )
    }

    /// In the order in which they are measured: a holder keeps the image from one to the next.
    pub(super) fn sides(&self) -> Vec<Side> {
        let mut sides = vec![Side::Single, Side::Transfer];
        if self.with_slow_sides {
            sides.push(Side::OneHolder(Flights::Off));
        }
        sides.push(Side::OneHolder(Flights::On));
        if self.with_slow_sides {
            sides.extend([Side::Straight, Side::New(Flights::Off)]);
        }
        sides.push(Side::New(Flights::On));
        sides
    }

    /// Rates of the links of all hosts: nodes, registry, servers.
    pub(super) fn rates(&self) -> Vec<Rates> {
        let node = Rates { sends: Some(self.node_mbit), receives: Some(self.node_mbit) };
        let registry = Rates { sends: Some(self.registry_mbit), receives: None };
        let mut rates = vec![node; self.nodes];
        rates.push(registry);
        rates.resize(rates.len() + self.servers, Rates::default());
        rates
    }

    /// Number of the registry among the hosts.
    pub(super) fn registry(&self) -> usize {
        self.nodes
    }

    /// Numbers of the servers among the hosts.
    pub(super) fn server_hosts(&self) -> std::ops::Range<usize> {
        self.nodes + 1..self.nodes + 1 + self.servers
    }

    /// Seconds in which the registry sends `bytes` to every node, one after the other.
    pub(super) fn seconds_for_all(&self, bytes: u64) -> f64 {
        self.nodes as f64 * bytes as f64 * 8.0 / (self.registry_mbit * 1e6)
    }
}

#[cfg(test)]
impl Plan {
    /// One server, and the slow sides too.
    pub(super) fn of(nodes: usize, registry_mbit: f64, node_mbit: f64) -> Self {
        Self { nodes, servers: 1, registry_mbit, node_mbit, with_slow_sides: true }
    }
}

#[cfg(test)]
mod tests {
    use super::super::side::Side;
    use super::*;

    #[test]
    fn the_first_node_has_the_image_before_a_side_in_which_it_is_the_holder() {
        let sides = Plan::of(8, 100.0, 200.0).sides();
        for (number, side) in sides.iter().enumerate().filter(|(_, side)| side.has_holder()) {
            let before = sides[number - 1];
            assert!(before.has_holder() || before.pullers(8).contains(&0), "{side:?} after {before:?}");
        }
        assert_eq!(sides.first(), Some(&Side::Single));
    }

    #[test]
    fn hosts_are_nodes_then_the_registry_then_servers() {
        let plan = Plan::of(8, 100.0, 200.0);
        let rates = plan.rates();
        assert_eq!((rates.len(), plan.registry(), plan.server_hosts()), (10, 8, 9..10));
        assert_eq!((rates[7].receives, rates[8].sends, rates[9].sends), (Some(200.0), Some(100.0), None));
    }
}
