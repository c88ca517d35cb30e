//! This server among the others of its cluster: which cluster that is ([`identity`]), who leads it
//! ([`leadership`]), how a request comes to the leader ([`forward`]), where the others are
//! ([`server_addresses`]) and how they are asked ([`mod@server_client`]), and what this server does while it may
//! lack what the others have ([`behind`]).

pub mod behind;
pub mod forward;
pub mod identity;
pub mod leadership;
pub mod level;
pub mod server_addresses;
pub mod server_client;

use std::sync::Arc;

use piccolo_raft::cluster::Node;
use tokio_util::task::TaskTracker;

use crate::http::KnownAddresses;
use behind::LookupFallback;
use forward::Forwarder;
use identity::ClusterIdentity;
use leadership::Leadership;
use server_addresses::ServerAddresses;
use server_client::{ServerClient, server_client};

/// What a server knows of the others, and how it speaks with them; clones share it.
#[derive(Clone)]
pub struct Cluster {
    /// The cluster that this server belongs to.
    pub identity: ClusterIdentity,
    /// Whether this server may decide.
    pub leadership: Leadership,
    /// Connections to the other servers.
    pub client: ServerClient,
    /// Brings requests to the leader.
    pub forwarder: Forwarder,
    /// Where the other servers are.
    pub servers: ServerAddresses,
    /// Finds another server for lookups while this one may lack something.
    pub fallback: Arc<LookupFallback>,
}

impl Cluster {
    /// The cluster of `node`. Keeps the addresses of the other servers in `known`; requests on their way to
    /// the leader run in `exchanges`.
    pub fn new(node: &Node, known: KnownAddresses, exchanges: TaskTracker) -> Self {
        let client = server_client(node.names().clone());
        let identity = ClusterIdentity::new(node.clone());
        let leadership = Leadership::new(node.clone());
        Self {
            forwarder: Forwarder::new(leadership.clone(), identity.clone(), client.clone(), exchanges),
            identity,
            leadership,
            servers: ServerAddresses::new(node.clone(), known),
            fallback: Arc::new(LookupFallback::new(node.clone(), client.clone())),
            client,
        }
    }
}
