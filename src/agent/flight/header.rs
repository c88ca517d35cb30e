//! The header with which nodes speak of a flight: on a request for a blob, and on the answer to it.
//!
//! Its value is a list of `name=value`, separated by `; `. Unknown names are skipped, so that later versions may say
//! more. An agent that knows no flights does not look at it, and serves as ever.

use std::net::SocketAddr;

use super::children::Applicant;
use crate::limits::FLIGHT_CHILDREN_NAMED_MAX;

/// Name of the header.
pub(crate) const FLIGHT: &str = "piccolo-flight";

/// What a node asks with the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    /// To receive the blob while it arrives.
    Receive(Applicant, Known),
    /// How far this node is, and whether there is a better source for the one that asks.
    Probe(SocketAddr),
}

/// What a node that asks knows of the flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// How many nodes have come.
    pub(crate) came: u64,
    /// The number of the attempt that its bytes are of.
    pub(crate) attempt: u64,
}

/// What a node says of itself in its answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// Contiguous bytes of the blob that it has.
    pub(crate) have_bytes: u64,
    /// How many nodes are before it.
    pub(crate) depth: u32,
    /// How many nodes have come, as far as it knows.
    pub(crate) came: u64,
    /// Whether its store holds all of the blob, verified.
    pub(crate) is_holder: bool,
    /// Where its bytes come from, if from another node.
    pub(crate) source: Option<SocketAddr>,
    /// The nodes that receive the blob from it, if it takes no further one, in the order in which they are asked.
    pub(crate) children: Vec<SocketAddr>,
    /// The node that it waits for, if it has no source.
    pub(crate) waits_for: Option<SocketAddr>,
    /// What the node that asked is advised to do.
    pub(crate) advice: Advice,
    /// The number of the attempt that the bytes are of.
    pub(crate) attempt: u64,
}

/// What a source advises a node that receives from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Advice {
    /// The children of this node should leave it for the source, because it is slow.
    pub(crate) should_be_left: bool,
    /// This node should look for another source, because it is slow and others have taken its place.
    pub(crate) should_leave: bool,
    /// This node should receive from there, because the source is slow.
    pub(crate) instead: Option<SocketAddr>,
}

impl Asked {
    /// The value of the header.
    pub(crate) fn value(&self) -> String {
        let (applicant, Known { came, attempt }) = match self {
            Self::Receive(applicant, known) => (applicant, known),
            Self::Probe(from) => return format!("probe={from}"),
        };
        let Applicant { address, zone, have_bytes, has_children, has_left_slow } = applicant;
        let (children, slow) = (u8::from(*has_children), u8::from(*has_left_slow));
        let mut value =
            format!("from={address}; have={have_bytes}; children={children}; left_slow={slow}; came={came}");
        if *attempt > 0 {
            value.push_str(&format!("; attempt={attempt}"));
        }
        // A zone is a word. One that is none would not survive the header; without it the node counts as far.
        if !zone.is_empty() && zone.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';') {
            value.push_str(&format!("; zone={zone}"));
        }
        value
    }

    /// Reads the value of the header; `None` if it is none.
    pub(crate) fn parse(value: &str) -> Option<Self> {
        let (mut address, mut known) = (None, Known::default());
        let (mut zone, mut have_bytes) = (String::new(), 0);
        let (mut has_children, mut has_left_slow) = (false, false);
        for (name, value) in fields(value) {
            match name {
                "probe" => return value.parse().ok().map(Self::Probe),
                "from" => address = Some(value.parse().ok()?),
                "have" => have_bytes = value.parse().ok()?,
                "children" => has_children = value != "0",
                "left_slow" => has_left_slow = value != "0",
                "came" => known.came = value.parse().ok()?,
                "attempt" => known.attempt = value.parse().ok()?,
                "zone" => zone = value.to_owned(),
                _ => {}
            }
        }
        let applicant = Applicant { address: address?, zone, have_bytes, has_children, has_left_slow };
        Some(Self::Receive(applicant, known))
    }
}

impl Told {
    /// The value of the header.
    pub(crate) fn value(&self) -> String {
        let Self { have_bytes, depth, came, is_holder, source, children, waits_for, advice, attempt } = self;
        let holder = u8::from(*is_holder);
        let mut value = format!("have={have_bytes}; depth={depth}; came={came}; holder={holder}");
        if let Some(source) = source {
            value.push_str(&format!("; source={source}"));
        }
        if let Some(node) = waits_for {
            value.push_str(&format!("; waits={node}"));
        }
        if *attempt > 0 {
            value.push_str(&format!("; attempt={attempt}"));
        }
        if advice.should_be_left {
            value.push_str("; slow=1");
        }
        if advice.should_leave {
            value.push_str("; leave=1");
        }
        if let Some(node) = advice.instead {
            value.push_str(&format!("; instead={node}"));
        }
        if !children.is_empty() {
            let children: Vec<_> = children.iter().map(ToString::to_string).collect();
            value.push_str(&format!("; children={}", children.join(",")));
        }
        value
    }

    /// Reads the value of the header. What cannot be read counts as not said.
    pub(crate) fn parse(value: &str) -> Self {
        let mut told = Self::default();
        for (name, value) in fields(value) {
            match name {
                "have" => told.have_bytes = value.parse().unwrap_or_default(),
                "depth" => told.depth = value.parse().unwrap_or_default(),
                "attempt" => told.attempt = value.parse().unwrap_or_default(),
                "came" => told.came = value.parse().unwrap_or_default(),
                "holder" => told.is_holder = value == "1",
                "source" => told.source = value.parse().ok(),
                "waits" => told.waits_for = value.parse().ok(),
                "slow" => told.advice.should_be_left = value == "1",
                "leave" => told.advice.should_leave = value == "1",
                "instead" => told.advice.instead = value.parse().ok(),
                "children" => {
                    let named = value.split(',').filter_map(|address| address.parse().ok());
                    told.children = named.take(FLIGHT_CHILDREN_NAMED_MAX).collect();
                }
                _ => {}
            }
        }
        told
    }
}

fn fields(value: &str) -> impl Iterator<Item = (&str, &str)> {
    value.split(';').filter_map(|field| field.trim().split_once('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], number))
    }

    #[test]
    fn what_is_asked_is_read_as_it_was_written() {
        for zone in ["", "eu-west/1a"] {
            let zone = zone.to_owned();
            let applicant =
                Applicant { address: node(1), zone, have_bytes: 5, has_children: true, has_left_slow: true };
            let asked = Asked::Receive(applicant, Known { came: 17, attempt: 2 });
            assert_eq!(Asked::parse(&asked.value()), Some(asked));
        }
        let probe = Asked::Probe("[fd00::1]:7781".parse().unwrap());
        assert_eq!(Asked::parse(&probe.value()), Some(probe));
    }

    #[test]
    fn a_zone_that_is_no_word_is_left_out() {
        let zone = "a; have=9".to_owned();
        let applicant =
            Applicant { address: node(1), zone, have_bytes: 5, has_children: false, has_left_slow: false };
        let asked = Asked::Receive(applicant, Known::default());
        let Some(Asked::Receive(read, _)) = Asked::parse(&asked.value()) else { panic!() };
        assert_eq!((read.zone.as_str(), read.have_bytes), ("", 5));
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let told = Told {
            have_bytes: 7,
            depth: 3,
            came: 12,
            is_holder: true,
            source: Some("[fd00::1]:7781".parse().unwrap()),
            children: vec![node(1), node(2)],
            waits_for: Some(node(3)),
            advice: Advice { should_be_left: true, should_leave: true, instead: Some(node(4)) },
            attempt: 5,
        };
        assert_eq!(Told::parse(&told.value()), told);
        assert_eq!(Told::parse(&Told::default().value()), Told::default());
    }

    #[test]
    fn what_cannot_be_read_is_no_question_and_says_nothing() {
        for bad in [
            "",
            "have=5",
            "from=x; have=5",
            "from=10.0.0.1:1; have=-1",
            "from=10.0.0.1:1; came=x",
            "from=10.0.0.1:1; attempt=x",
            "probe=",
            "probe",
        ] {
            assert_eq!(Asked::parse(bad), None, "{bad}");
        }
        assert!(matches!(Asked::parse("from=10.0.0.1:1; later=x"), Some(Asked::Receive(..))));
        assert_eq!(Told::parse("have=x; children=a,b; source=; ;;"), Told::default());
    }

    #[test]
    fn only_so_many_children_are_read() {
        let children = vec![node(1); FLIGHT_CHILDREN_NAMED_MAX + 1];
        let told = Told { children, ..Told::default() };
        assert_eq!(Told::parse(&told.value()).children.len(), FLIGHT_CHILDREN_NAMED_MAX);
    }
}
