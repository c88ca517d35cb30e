//! This server among the others of its cluster: which cluster it is ([`cluster_id`]), where the others are
//! ([`server_addresses`]) and how they are asked ([`server_client`]), what goes to the leader ([`forward`]), and
//! what a server does that may lack what the others have ([`behind`]).

pub mod behind;
pub(super) mod cluster_id;
pub mod forward;
pub(super) mod level;
pub mod server_addresses;
pub(super) mod server_client;
