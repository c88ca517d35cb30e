//! Flights: what a node and the servers say to each other of content that is still arriving. Ours: the Go Piccolo has
//! no flights. A findkey with `intent=fetch` is answered with [`FlightSources`].

use serde::{Deserialize, Serialize};

/// Value of `intent` in a findkey of a node that receives the content, and passes it on meanwhile.
pub const INTENT_FETCH: &str = "fetch";

/// Where content that is still arriving may come from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlightSources {
    /// `ip:port` of nodes that have a part of it, those of the asker's zone first.
    #[serde(default)]
    pub partial: Vec<String>,
    /// `ip:port` of the node that fetches it from the registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetcher: Option<String>,
    /// The ruling on the claim; absent if the asker needs none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claim: Option<FlightClaim>,
    /// How many nodes have come.
    #[serde(default)]
    pub came: u64,
    /// The number of the attempt. Bytes of one with a lower number were found to be wrong.
    #[serde(default)]
    pub attempt: u64,
}

/// Who fetches content from the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlightClaim {
    /// The asker.
    Yours,
    /// The node that the answer names.
    Held,
    /// Nobody yet: the asker asks again.
    Undecided,
    /// Every node.
    Open,
}

/// What a node does in a flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlightState {
    /// It receives the content from another node.
    Receives,
    /// It fetches the content from the registry.
    Fetches,
    /// The transfer that is named has ended: the node has all of the content, or has given up.
    Ended,
}

/// Body of flights: how far a node is in its flights.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlightsRequest {
    /// `ip:port` of the node's blob server.
    pub host: String,
    /// Its group.
    pub group: String,
    /// Its flights.
    pub flights: Vec<FlightProgress>,
}

/// How far a node is in one flight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlightProgress {
    /// Key of the content.
    pub key: String,
    /// What the node does.
    pub state: FlightState,
    /// Contiguous bytes of the content that it has.
    #[serde(default)]
    pub have: u64,
    /// Number of the node's transfer of the content, as in its question. A message of a former one is ignored.
    #[serde(default)]
    pub transfer: u64,
    /// How many nodes are between it and the first one.
    #[serde(default)]
    pub depth: u32,
    /// With [`FlightState::Ended`]: the attempt whose bytes this node has found to be wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wrong_attempt: Option<u64>,
    /// With `wrong_attempt`: whether nodes that have bytes of that attempt go on with them.
    #[serde(default)]
    pub keeps_bytes: bool,
}

/// 200 of flights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlightsResponse {
    /// Keys that the node said it fetches, and whose claim has passed on to another node.
    pub passed_on: Vec<String>,
}

/// 200 of the list of flights.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlightList {
    /// The flights of all servers that answered, by group and key.
    pub flights: Vec<FlightStatus>,
    /// API addresses of servers that did not answer: their flights are missing.
    #[serde(default)]
    pub unanswered: Vec<String>,
}

/// One flight.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FlightStatus {
    /// Group of its nodes.
    pub group: String,
    /// Key of the content.
    pub key: String,
    /// How many nodes have come.
    pub nodes: u64,
    /// Most nodes between one of them and the first one.
    pub depth: u32,
    /// How often a node was told to fetch from the registry: at most so many copies have left it.
    pub copies: u64,
    /// `ip:port` of the node that fetches now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetcher: Option<String>,
}
