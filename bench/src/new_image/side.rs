//! The sides of the comparison, what was seen of one, and the budgets.

use super::plan::Plan;

/// Whether nodes share content that is still arriving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flights {
    Off,
    On,
}

/// Who pulls, and from where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// One node, from the registry, without Piccolo.
    Single,
    /// One node, from the only one that has the image.
    Transfer,
    /// All others, from the only node that has the image.
    OneHolder(Flights),
    /// All nodes, from the registry, without Piccolo.
    Straight,
    /// All nodes, through Piccolo; no node has the image.
    New(Flights),
}

/// Most that a side may take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Budget {
    /// Bytes that leave the registry, as a share of the image.
    pub(super) registry: f64,
    /// Time of the last node, as a multiple of [`Side::reference`].
    pub(super) last: f64,
}

/// Manifests, and answers about the tag, to every node; no layers.
const NO_LAYERS: f64 = 0.01;
/// Askers up to which the smaller budget of one holder holds.
const FEW_ASKERS: usize = 7;

impl Side {
    pub(super) fn name(self, plan: &Plan) -> String {
        let (all, others) = (plan.nodes, plan.nodes - 1);
        match self {
            Self::Single => "one node, straight from the registry".to_owned(),
            Self::Transfer => "one node, from one holder".to_owned(),
            Self::OneHolder(flights) => format!("{others} nodes, from one holder, {}", flights.name()),
            Self::Straight => format!("{all} nodes, straight from the registry"),
            Self::New(flights) => format!("{all} nodes, new image, {}", flights.name()),
        }
    }

    /// A name for the legend of a plot.
    pub(super) fn short_name(self) -> &'static str {
        match self {
            Self::Single => "one node",
            Self::Transfer => "one transfer",
            Self::OneHolder(Flights::Off) => "one holder, off",
            Self::OneHolder(Flights::On) => "one holder, on",
            Self::Straight => "without Piccolo",
            Self::New(Flights::Off) => "flights off",
            Self::New(Flights::On) => "flights on",
        }
    }

    /// The flights of the agents; `None` without agents.
    pub(super) fn flights(self) -> Option<Flights> {
        match self {
            Self::Single | Self::Straight => None,
            Self::Transfer => Some(Flights::Off),
            Self::OneHolder(flights) | Self::New(flights) => Some(flights),
        }
    }

    /// True if the first node has the image before.
    pub(super) fn has_holder(self) -> bool {
        matches!(self, Self::Transfer | Self::OneHolder(_))
    }

    /// The numbers of the nodes that pull, of so many nodes in all.
    pub(super) fn pullers(self, nodes: usize) -> std::ops::Range<usize> {
        match self {
            Self::Single => 0..1,
            Self::Transfer => 1..2,
            Self::OneHolder(_) => 1..nodes,
            Self::Straight | Self::New(_) => 0..nodes,
        }
    }

    /// The undisturbed pull that this side's times are compared with.
    pub(super) fn reference(self) -> Self {
        if self.has_holder() { Self::Transfer } else { Self::Single }
    }

    pub(super) fn budget(self, nodes: usize) -> Option<Budget> {
        match self {
            Self::New(Flights::On) => Some(Budget { registry: 1.05, last: 1.15 }),
            Self::OneHolder(Flights::On) if nodes - 1 <= FEW_ASKERS => {
                Some(Budget { registry: NO_LAYERS, last: 1.3 })
            }
            Self::OneHolder(Flights::On) => Some(Budget { registry: NO_LAYERS, last: 1.4 }),
            _ => None,
        }
    }
}

impl Flights {
    fn name(self) -> &'static str {
        match self {
            Self::Off => "flights off",
            Self::On => "flights on",
        }
    }
}

/// What the servers listed of flights while a side ran: the highest of all keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Most nodes between one and the first one.
    pub(super) depth: u64,
    /// How often nodes were told to fetch the same content from the registry.
    pub(super) copies: u64,
}

/// What was measured of a side.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// When each node was done, seconds since the common start, sorted.
    pub(super) done: Vec<f64>,
    /// Bytes that left the registry, headers of packets included.
    pub(super) registry_bytes: u64,
    /// Share of all CPUs that did nothing.
    pub(super) idle: f64,
    /// Share of all CPUs that processes outside of the bench took.
    pub(super) others: f64,
    /// With flights only.
    pub(super) seen: Option<Seen>,
}

impl Outcome {
    pub(super) fn last(&self) -> f64 {
        self.done.last().copied().unwrap_or_default()
    }

    pub(super) fn line(&self) -> String {
        format!(
            "last {:.2} s, {:.1} MiB from the registry, {:.0} % idle, {:.0} % others",
            self.last(),
            self.registry_bytes as f64 / f64::from(1 << 20),
            self.idle * 100.0,
            self.others * 100.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_askers_of_one_holder_have_more_time_and_no_bytes_of_the_registry() {
        let last = |nodes| Side::OneHolder(Flights::On).budget(nodes).map(|budget| budget.last);
        assert_eq!((last(8), last(9), last(16)), (Some(1.3), Some(1.4), Some(1.4)));
        assert_eq!(Side::OneHolder(Flights::Off).budget(8), None);
    }

    #[test]
    fn a_holder_does_not_pull_and_its_askers_are_compared_with_one_transfer() {
        for side in [Side::Transfer, Side::OneHolder(Flights::On)] {
            assert!(!side.pullers(8).contains(&0) && side.reference() == Side::Transfer, "{side:?}");
        }
        assert_eq!(Side::New(Flights::On).pullers(8).len(), 8);
        assert_eq!(Side::New(Flights::On).reference(), Side::Single);
    }
}
