//! A row of the matrix: what happens in the middle of a flight, and what must hold nevertheless.

use std::fmt;
use std::time::Duration;

/// What happens while all nodes pull the same image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cell {
    /// Nothing.
    Undisturbed,
    /// A node fails when the registry has sent so many percent of the large layer.
    Node(Who, How, u64),
    /// All servers are killed at so many percent.
    ServersKilled(u64),
    /// The server with this number is killed at so many percent: one of them is the owner of the layer.
    ServerKilled(usize, u64),
    /// The same, and at the same time the fetcher's agent: the new owner collects.
    FetcherAndServerKilled(usize, u64),
    /// The registry sends at this rate, bytes a second.
    Slow(u64),
    /// The registry sends nothing for this time when it has sent so many percent.
    Silent(Duration, u64),
    /// The registry resets and refuses connections for this time when it has sent so many percent.
    Gone(Duration, u64),
    /// The registry answers each request for a blob with this status.
    Refused(u16),
    /// A byte at so many percent is wrong.
    WrongByte(u64),
    /// One node holds the image already.
    OneHolder,
    /// One node pulls in a namespace of containerd that its agent does not serve.
    OtherNamespace,
    /// One node is in no flight.
    FlightsOff,
    /// One node leaves manifests to the registry.
    ManifestsOrigin,
    /// Two images have the same layers in opposite order, which all nodes pull one after the other.
    OppositeOrder,
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
    Anybody,
    /// Every pull has to.
    All,
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
            Self::Undisturbed | Self::Slow(_) | Self::OppositeOrder => Some(1.0),
            // What may be a manifest by its length, such as the small layer, is not shared before it is whole.
            Self::ManifestsOrigin => Some(1.2),
            // The fetch is patient with a registry that pauses for less than it takes to give it up.
            Self::Silent(time, _) if time < Duration::from_secs(5) => Some(1.0),
            Self::Silent(_, 0) => Some(3.0),
            Self::FetcherAndServerKilled(..) => Some(3.0),
            Self::Node(..) | Self::ServersKilled(_) | Self::ServerKilled(..) | Self::Silent(..) => Some(2.0),
            Self::Gone(..) | Self::OtherNamespace | Self::FlightsOff => Some(2.0),
            Self::Refused(_) | Self::WrongByte(_) => None,
        }
    }

    /// Which of the first pulls may fail. They succeed when they are tried again.
    pub(super) fn may_fail(self) -> MayFail {
        match self {
            Self::Node(_, How::ContainerdKilled | How::Cancelled, _) => MayFail::Victim,
            Self::Gone(..) | Self::WrongByte(_) => MayFail::Anybody,
            Self::Refused(_) => MayFail::All,
            _ => MayFail::Nobody,
        }
    }

    /// Time by which the registry itself makes a pull longer.
    pub(super) fn delay(self) -> Duration {
        match self {
            Self::Silent(time, _) | Self::Gone(time, _) => time,
            _ => Duration::ZERO,
        }
    }

    /// When it happens: at so many percent of the large layer.
    pub(super) fn percent(self) -> Option<u64> {
        match self {
            Self::Node(_, _, percent) | Self::ServersKilled(percent) | Self::ServerKilled(_, percent) => {
                Some(percent)
            }
            Self::FetcherAndServerKilled(_, percent) | Self::Gone(_, percent) => Some(percent),
            Self::Silent(_, percent) if percent > 0 => Some(percent),
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
