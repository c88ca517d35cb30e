//! `POST /raft/v1/reach`: which of these servers the asked node does not reach where they say they are.
//! JSON like `whoami`: nodes of different formats ask it of each other.
//!
//! An address that a server gives itself may lead nowhere from another host, or to somebody else: 127.0.0.1
//! leads to the asked node itself. So each port is asked whose it is.

use std::fmt;
use std::sync::Arc;

use futures_util::future::{BoxFuture, join_all};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::client::{CallError, RpcClient};
use crate::address::is_address;
use crate::limits::{REACH_ATTEMPTS, REACH_TIMEOUT, WHOAMI_TIMEOUT};
use crate::types::NodeId;

/// Asks whose the discovery API at an address is. The routes of that API are not known in this crate.
pub trait ApiPort: fmt::Debug + Send + Sync {
    /// Node id of the server whose API answers at `address` (`host:port`), or why none does.
    fn node_at<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<NodeId, String>>;
}

/// A server, and where it says it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claimed {
    pub(crate) node_id: NodeId,
    /// `host:port` of its raft RPC.
    pub(crate) raft_address: String,
    /// `host:port` of its discovery API.
    pub(crate) api_address: String,
}

/// A port of a server that was not reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unreached {
    pub(crate) node_id: NodeId,
    pub(crate) port: Port,
    /// Address that was asked.
    pub(crate) address: String,
    /// Error of the attempt.
    pub(crate) reason: String,
}

/// One of the two ports of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Port {
    Raft,
    Api,
}

/// Looks for other servers.
#[derive(Clone)]
pub(crate) struct Scout {
    pub(crate) client: RpcClient,
    /// Absent: nobody looks at that port.
    pub(crate) api: Option<Arc<dyn ApiPort>>,
}

impl Scout {
    /// Those that this node does not reach, all asked at once.
    pub(crate) async fn look(&self, servers: &[Claimed]) -> Vec<Unreached> {
        let raft = servers.iter().map(|server| self.look_at(server, Port::Raft));
        let api = servers.iter().filter(|_| self.api.is_some()).map(|server| self.look_at(server, Port::Api));
        join_all(raft.chain(api)).await.into_iter().flatten().collect()
    }

    /// Those that the node at `address` does not reach.
    pub(crate) async fn ask(&self, address: &str, servers: &[Claimed]) -> Result<Vec<Unreached>, CallError> {
        let body = serde_json::to_vec(servers).expect("plain data is JSON");
        let answer = self.client.call(address, "reach", body, REACH_TIMEOUT).await?;
        serde_json::from_slice(&answer)
            .map_err(|error| CallError::Unreadable { address: address.to_owned(), reason: error.to_string() })
    }

    async fn look_at(&self, server: &Claimed, port: Port) -> Option<Unreached> {
        let address = match port {
            Port::Raft => &server.raft_address,
            Port::Api => &server.api_address,
        };
        let unreached =
            |reason| Unreached { node_id: server.node_id, port, address: address.clone(), reason };
        // Anybody may ask: what is no address is looked up nowhere.
        if !is_address(address) {
            return Some(unreached("it is not host:port".to_owned()));
        }
        let mut reason = String::new();
        for _ in 0..REACH_ATTEMPTS {
            match self.whose(address, port).await {
                Ok(node_id) if node_id == server.node_id => return None,
                Ok(other) => {
                    reason = format!("server {other:016x} answers there");
                    break;
                }
                Err(error) => reason = error,
            }
        }
        Some(unreached(reason))
    }

    async fn whose(&self, address: &str, port: Port) -> Result<NodeId, String> {
        match (port, &self.api) {
            (Port::Api, Some(api)) => {
                let late = |_| format!("no answer within {} ms", WHOAMI_TIMEOUT.as_millis());
                timeout(WHOAMI_TIMEOUT, api.node_at(address)).await.map_err(late)?
            }
            _ => match self.client.whoami(address).await {
                Ok(whoami) => Ok(whoami.node_id),
                Err(error) => Err(error.to_string()),
            },
        }
    }
}
