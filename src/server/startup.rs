//! What a server does before it serves, and after. It finds its addresses and its names ([`addresses`]),
//! waits for what is missing ([`waiting`]), and starts the threads of raft ([`raft_threads`]) and its links to
//! the other servers ([`links`]); its tasks stop in [`phases`]; [`failure`] says why it ended. [`offline`] changes a data folder while no server runs on
//! it.

pub mod addresses;
pub mod api_port;
pub mod failure;
pub mod links;
pub mod offline;
pub mod phases;
pub mod raft_threads;
pub mod waiting;
