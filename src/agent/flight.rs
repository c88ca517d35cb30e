//! The rules of a flight on one node, pure: which nodes receive a blob from this one while it is still arriving
//! ([`children`]), and what a node does next that receives one ([`follow`]). `piccolo-bench flights` simulates sites
//! that follow them; the agent's requests do not yet.

pub mod children;
pub mod follow;
