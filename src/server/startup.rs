//! What a server does before it serves: finds its addresses and its name, waits for what is missing, starts the
//! threads of raft; and what is done to a data folder while no server runs on it ([`offline`]).

pub mod addresses;
pub(super) mod api_port;
pub mod offline;
pub(super) mod raft_threads;
pub(super) mod waiting;
