//! A row of the matrix: what happens in the middle of a flight, and what must hold nevertheless.

use std::fmt;
use std::time::Duration;

const MIB: usize = 1 << 20;
/// Lengths of the layers of an image: [`At::Large`] and [`At::Small`].
pub(super) const LAYER_BYTES: [usize; 2] = [24 * MIB, 6 * MIB];

/// What happens while all nodes pull the same image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// Nothing.
    Undisturbed,
    /// A node fails.
    Node(Who, How, At),
    /// The agents of the fetcher and of a node in the middle are killed at the same time.
    FetcherAndMiddleKilled(At),
    /// One node begins when the others have a part.
    Late(At),
    /// One node begins when the first of the others has the whole image.
    LateByAll,
    /// All servers are killed.
    ServersKilled(At),
    /// The server with this number is killed: one of the three is the owner of the layer.
    ServerKilled(usize, At),
    /// The same, and at the same time the fetcher's agent: the new owner collects.
    FetcherAndServerKilled(usize, At),
    /// The registry sends at this rate, bytes a second.
    Slow(u64),
    /// The registry sends nothing for this time, from the first byte on.
    SilentAtFirst(Duration),
    /// The registry sends nothing for this time.
    Silent(Duration, At),
    /// The registry resets and refuses connections for this time.
    Gone(Duration, At),
    /// The registry answers each request for a blob with this status.
    Refused(u16),
    /// The registry sends a wrong byte.
    WrongByte(At),
    /// The registry sends a wrong byte once.
    WrongByteOnce(At),
    /// One node holds the image already.
    OneHolder,
    /// One node holds the image already, and a byte of its large layer has become wrong.
    DamagedHolder,
    /// One node holds the image already, and its agent has been killed.
    DeadHolder,
    /// One node pulls in a namespace of containerd that its agent does not serve.
    OtherNamespace,
    /// One node pulls in such a namespace and in its own at the same time.
    TwoNamespaces,
    /// One node is in no flight.
    FlightsOff,
    /// One node leaves manifests to the registry.
    ManifestsOrigin,
    /// Two images have the same layers in opposite order, which all nodes pull one after the other.
    OppositeOrder,
}

/// Which layer, and how many percent of it have come from the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At {
    /// A layer that is passed on while it comes.
    Large(u64),
    /// A layer that every node verifies before its containerd gets it.
    Small(u64),
}

/// The node that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Who {
    /// The one that fetches from the registry.
    Fetcher,
    /// One that has a source and a child.
    Middle,
}

/// How a node fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Supervisor and worker of its agent are killed.
    AgentKilled,
    /// The agent's worker is killed, and started again.
    WorkerKilled,
    /// The agent's worker is frozen, until its supervisor replaces it.
    WorkerFrozen,
    /// Its containerd is killed.
    ContainerdKilled,
    /// Its pull is cancelled.
    Cancelled,
}

/// Which pulls may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MayFail {
    Nobody,
    Victim,
    /// The one that has got wrong bytes from the registry.
    One,
    Anybody,
    /// Every pull has to.
    All,
}

impl At {
    /// The layer's index in [`LAYER_BYTES`], and the offset in it.
    pub(super) fn place(self) -> (usize, u64) {
        let (layer, percent) = match self {
            Self::Large(percent) => (0, percent),
            Self::Small(percent) => (1, percent),
        };
        (layer, LAYER_BYTES[layer] as u64 * percent / 100)
    }
}

impl How {
    pub(super) const ALL: [Self; 5] =
        [Self::AgentKilled, Self::WorkerKilled, Self::WorkerFrozen, Self::ContainerdKilled, Self::Cancelled];
}

impl Cell {
    /// Copies of the layers that may leave the registry, in bytes: one, and one for each incident. `None`: as many as
    /// there are pulls, because every node has to go there.
    pub(super) fn copies_max(self) -> Option<f64> {
        match self {
            Self::OneHolder => Some(0.0),
            Self::Undisturbed | Self::Slow(_) | Self::OppositeOrder | Self::Late(_) | Self::LateByAll => {
                Some(1.0)
            }
            // What may be a manifest by its length, such as the small layer, is not shared before it is whole.
            Self::ManifestsOrigin => Some(1.2),
            // The fetch is patient with a registry that pauses for less than it takes to give it up.
            Self::Silent(time, _) if time < Duration::from_secs(5) => Some(1.0),
            Self::SilentAtFirst(_) => Some(3.0),
            Self::FetcherAndServerKilled(..) | Self::FetcherAndMiddleKilled(_) => Some(3.0),
            Self::Node(..) | Self::ServersKilled(_) | Self::ServerKilled(..) | Self::Silent(..) => Some(2.0),
            Self::Gone(..) | Self::OtherNamespace | Self::TwoNamespaces | Self::FlightsOff => Some(2.0),
            Self::DamagedHolder | Self::DeadHolder => Some(1.0),
            // The small layer once more. Where a pull has failed, containerd forgets the other layer, too.
            Self::WrongByteOnce(At::Small(_)) => {
                Some(1.0 + LAYER_BYTES[1] as f64 / LAYER_BYTES.iter().sum::<usize>() as f64)
            }
            Self::WrongByteOnce(At::Large(_)) => Some(2.0),
            Self::Refused(_) | Self::WrongByte(_) => None,
        }
    }

    /// Which of the first pulls may fail. They succeed when they are tried again.
    pub(super) fn may_fail(self) -> MayFail {
        match self {
            Self::Node(_, How::ContainerdKilled | How::Cancelled, _) => MayFail::Victim,
            Self::WrongByteOnce(At::Small(_)) => MayFail::One,
            Self::WrongByteOnce(At::Large(_)) => MayFail::Anybody,
            Self::Gone(..) | Self::WrongByte(_) | Self::DamagedHolder => MayFail::Anybody,
            Self::Refused(_) => MayFail::All,
            _ => MayFail::Nobody,
        }
    }

    /// Time by which the registry itself makes a pull longer.
    pub(super) fn delay(self) -> Duration {
        match self {
            Self::Silent(time, _) | Self::SilentAtFirst(time) | Self::Gone(time, _) => time,
            _ => Duration::ZERO,
        }
    }

    /// When it happens, if not at the beginning.
    pub(super) fn at(self) -> Option<At> {
        match self {
            Self::Node(_, _, at) | Self::ServersKilled(at) | Self::ServerKilled(_, at) => Some(at),
            Self::FetcherAndServerKilled(_, at) | Self::Gone(_, at) | Self::Silent(_, at) => Some(at),
            Self::FetcherAndMiddleKilled(at) | Self::Late(at) => Some(at),
            _ => None,
        }
    }

    /// The configuration of the last node's agent.
    pub(super) fn config(self) -> &'static str {
        match self {
            Self::FlightsOff => "[registry._default]\nflights = \"off\"\n",
            Self::ManifestsOrigin => "[registry._default]\nmanifests = \"origin\"\n",
            _ => "",
        }
    }

    /// Whether the first node has the image already.
    pub(super) fn has_holder(self) -> bool {
        matches!(self, Self::OneHolder | Self::DamagedHolder | Self::DeadHolder)
    }

    /// Whether the last node begins later.
    pub(super) fn is_late(self) -> bool {
        matches!(self, Self::Late(_) | Self::LateByAll)
    }

    /// Whether the last node, or the one in another namespace, may give nothing that is still arriving.
    pub(super) fn gives_nothing(self) -> bool {
        matches!(self, Self::FlightsOff | Self::OtherNamespace)
    }
}

impl fmt::Display for Cell {
    /// Formats the cell as it is selected by the variable CELLS.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}
