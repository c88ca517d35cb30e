//! Flights: this node receives a blob while it is still arriving elsewhere, and passes it on meanwhile.
//!
//! The rules are pure: which nodes receive a blob from this one ([`children`]), what a node does next that receives
//! one ([`follow`]), and when its requests give their turn in containerd's queue away (`yields`); `piccolo-bench
//! flights` simulates sites that follow them. `table` has the flights of this node,
//! `running` its part in one of them, `growing` the bytes that have come. Nodes speak to each other by a `header`;
//! `progress` tells the servers how far this node is, and `attempt` says which bytes go together when some were wrong.
//! Requests that receive are in `fetch::blob`, those that are served in `serve::blob_server`.

mod attempt;
pub mod children;
pub mod follow;
pub(crate) mod growing;
pub(crate) mod header;
pub(crate) mod progress;
pub(crate) mod running;
pub(crate) mod table;
mod yields;
