//! Who this node is: its id and its cluster, in the small file `node`.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::damage::WHAT_TO_DO;
use crate::disk::Disk;
use crate::format::{Active, FormatError, Level, Reads, STORAGE};
use crate::random::Random;
use crate::types::{ClusterId, NodeId};
use crate::watch;

use super::client::CallError;
use super::{Header, Whoami};

/// Name of the file on the disk.
pub(crate) const NODE_FILE: &str = "node";
/// Name of the file that says which cluster the node has joined by somebody's message: who has it founds
/// none, whatever list it is started with.
pub(crate) const ADOPTED_FILE: &str = "adopted";
/// Name of the file that says that the node was removed from its cluster.
pub(crate) const REMOVED_FILE: &str = "removed";

/// First 16 bytes of SHA-256 over the sorted list, one entry a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListHash(pub u128);

impl ListHash {
    /// The hash of a sorted list.
    pub fn of(list: &[String]) -> Self {
        let digest = Sha256::digest(list.join("\n").as_bytes());
        let (first, _) = digest.split_first_chunk::<16>().expect("SHA-256 has 32 bytes");
        Self(u128::from_be_bytes(*first))
    }
}

impl fmt::Display for ListHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// How a removed sender is told so; it knows the words and compares all of them.
pub(crate) fn removed_text(node_id: NodeId, cluster_id: ClusterId) -> String {
    format!("server {node_id:016x} was removed from cluster {cluster_id}")
}

/// Why the node does not know who it is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file cannot be read or written.
    #[error("could not {verb} the file {name} in the data folder")]
    File {
        /// Name of the file.
        name: &'static str,
        /// What was tried: `read` or `write`.
        verb: &'static str,
        /// Error of the disk.
        #[source]
        source: io::Error,
    },
    /// The content of a file cannot be read.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// The file is gone, but the raft log is there.
    #[error("the data folder has a raft log but no file {NODE_FILE}: put it back, or {WHAT_TO_DO}")]
    Lost,
}

/// Why a message is not for this node; answered with 421.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Misdirected {
    #[error("this is node {is}, not {asked}")]
    Target { is: NodeId, asked: NodeId },
    #[error("this node belongs to cluster {is}, not {asked}")]
    Cluster { is: ClusterId, asked: ClusterId },
    #[error("this node was started with another --cluster: {list}")]
    List { list: String },
}

/// What a node is called, and whom it was told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeNames {
    /// Raft addresses of all servers, `host:port`; none for a node that is to be admitted by a member.
    pub members: Vec<String>,
    /// This node's own entry, or the address at which the others reach it, if it is known.
    pub raft_address: Option<String>,
    /// `host:port` of this node's discovery API, for the membership.
    pub api_address: String,
    /// The host of `api_address` is a guess: it becomes that of this node's entry once that is found.
    pub api_host_follows: bool,
}

/// What the file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeFile {
    pub node_id: NodeId,
    pub cluster_id: Option<ClusterId>,
}

/// Shared by client, server and bootstrap.
#[derive(Debug)]
pub(crate) struct Identity {
    pub node_id: NodeId,
    pub boot_nonce: u64,
    /// Raft addresses of the servers that the node was started with, sorted.
    pub list: Vec<String>,
    pub list_hash: ListHash,
    disk: Arc<dyn Disk>,
    /// The level at which the node writes.
    level: Active,
    known: Mutex<Known>,
    /// Held while a message's cluster is written to the disk.
    adopting: Mutex<()>,
    /// Another member has said that this node was removed.
    removed: watch::Sender<bool>,
}

/// What a node learns while it runs.
#[derive(Debug)]
struct Known {
    cluster_id: Option<ClusterId>,
    /// True if the node joined its cluster by a message of another server.
    adopted: bool,
    raft_address: Option<String>,
    api_address: String,
    /// The host of `api_address` is a guess until this node finds its own entry in the list.
    api_host_follows: bool,
    /// Id of the cluster of the member that a joining node was given; it joins no other.
    joins: Option<ClusterId>,
    missed: Option<Missed>,
}

/// A cluster that sends to this node's address what is meant for a member. If this node is pristine, it has
/// lost that member's data, or was given its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Missed {
    /// The cluster that sent the message.
    pub(crate) cluster_id: ClusterId,
    /// Id of the member for which the message was meant.
    pub(crate) target: NodeId,
}

impl Identity {
    /// Reads the file, or makes a node id and writes it. `has_log`: there is a raft log, so there
    /// must be an identity.
    pub(crate) fn load(
        disk: Arc<dyn Disk>,
        random: &dyn Random,
        mut list: Vec<String>,
        raft_address: Option<String>,
        api_address: String,
        has_log: bool,
        level: Active,
    ) -> Result<Self, IdentityError> {
        list.sort();
        list.dedup();
        let file = match stored(disk.as_ref())? {
            Some(file) => file,
            None if has_log => return Err(IdentityError::Lost),
            None => {
                let file = NodeFile { node_id: random.nonzero(), cluster_id: None };
                write(disk.as_ref(), level.get(), file)?;
                file
            }
        };
        let failed = |source| IdentityError::File { name: ADOPTED_FILE, verb: "read", source };
        let adopted = match disk.read(ADOPTED_FILE).map_err(failed)? {
            Some(bytes) => Some(STORAGE.decode::<ClusterId>("note of the cluster joined", &bytes)?),
            None => None,
        };
        let adopted = adopted.is_some() && adopted == file.cluster_id;
        Ok(Self {
            node_id: file.node_id,
            boot_nonce: random.nonzero(),
            list_hash: ListHash::of(&list),
            list,
            disk,
            level,
            known: Mutex::new(Known {
                cluster_id: file.cluster_id,
                adopted,
                raft_address,
                api_address,
                api_host_follows: false,
                joins: None,
                missed: None,
            }),
            adopting: Mutex::default(),
            removed: watch::Sender::new(false),
        })
    }

    /// The same node with the names that it was started with.
    pub(crate) fn named(mut self, names: NodeNames) -> Self {
        let NodeNames { mut members, raft_address, api_address, api_host_follows } = names;
        members.sort();
        members.dedup();
        (self.list_hash, self.list) = (ListHash::of(&members), members);
        {
            let mut known = self.known();
            (known.raft_address, known.api_address) = (raft_address, api_address);
            known.api_host_follows = api_host_follows;
        }
        self
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nothing panics while it holds the identity")
    }

    pub(crate) fn cluster_id(&self) -> Option<ClusterId> {
        self.known().cluster_id
    }

    /// What is written is of this level.
    pub(crate) fn level(&self) -> Level {
        self.level.get()
    }

    pub(crate) fn raft_address(&self) -> Option<String> {
        self.known().raft_address.clone()
    }

    /// This node has found itself at `address`.
    pub(crate) fn set_raft_address(&self, address: &str) {
        let mut known = self.known();
        known.raft_address = Some(address.to_owned());
        let api_port = known.api_address.rsplit_once(':').map(|(_, port)| port.to_owned());
        if let (true, Some((host, _)), Some(port)) =
            (known.api_host_follows, address.rsplit_once(':'), api_port)
        {
            known.api_address = format!("{host}:{port}");
        }
    }

    /// `host:port` of this node's discovery API.
    pub(crate) fn api_address(&self) -> String {
        self.known().api_address.clone()
    }

    /// The cluster that this node waits to be admitted to.
    pub(crate) fn wait_for(&self, cluster_id: ClusterId) {
        self.known().joins = Some(cluster_id);
    }

    /// Follows whether somebody has said that this node was removed.
    pub(crate) fn removed(&self) -> watch::Receiver<bool> {
        self.removed.subscribe()
    }

    /// Listens to what an answer says of this node's standing; true if it was removed.
    pub(crate) fn hear(&self, error: &CallError) -> bool {
        let CallError::Refused { status: StatusCode::GONE, reason, .. } = error else { return false };
        let removed = self.cluster_id().is_some_and(|id| *reason == removed_text(self.node_id, id));
        if removed {
            self.removed.set(true);
        }
        removed
    }

    /// Notes the removal for the next start.
    pub(crate) fn store_removed(&self) -> Result<(), IdentityError> {
        let bytes = STORAGE.encode(self.level.get(), &self.node_id);
        let failed = |source| IdentityError::File { name: REMOVED_FILE, verb: "write", source };
        self.disk.write(REMOVED_FILE, &bytes).map_err(failed)
    }

    /// Whether the removal of this node is noted on its disk.
    pub(crate) fn was_removed(&self) -> Result<bool, IdentityError> {
        let failed = |source| IdentityError::File { name: REMOVED_FILE, verb: "read", source };
        match self.disk.read(REMOVED_FILE).map_err(failed)? {
            Some(bytes) => Ok(STORAGE.decode::<NodeId>("note of the removal", &bytes)? == self.node_id),
            None => Ok(false),
        }
    }

    /// Joins the cluster of whoever has sent a message: durable when this returns. Of messages that arrive together
    /// one writes and the others wait: a file is written beside its place first, by the same name.
    pub(crate) fn adopt_from_message(&self, cluster_id: ClusterId) -> Result<(), IdentityError> {
        let _one = self.adopting.lock().expect("nothing panics while it adopts a cluster");
        if self.cluster_id().is_none() {
            let failed = |source| IdentityError::File { name: ADOPTED_FILE, verb: "write", source };
            self.disk.write(ADOPTED_FILE, &STORAGE.encode(self.level.get(), &cluster_id)).map_err(failed)?;
            self.adopt(cluster_id)?;
            let mut known = self.known();
            known.adopted = known.cluster_id == Some(cluster_id);
        }
        Ok(())
    }

    /// Whether the cluster came by somebody's message: it exists, and is not to be founded again.
    pub(crate) fn is_adopted(&self) -> bool {
        self.known().adopted
    }

    /// Joins the cluster: durable when this returns. A node never changes its cluster.
    pub(crate) fn adopt(&self, cluster_id: ClusterId) -> Result<(), IdentityError> {
        let mut known = self.known();
        if known.cluster_id.is_none() {
            let file = NodeFile { node_id: self.node_id, cluster_id: Some(cluster_id) };
            write(self.disk.as_ref(), self.level.get(), file)?;
            known.cluster_id = Some(cluster_id);
            tracing::info!(node_id = self.node_id, %cluster_id, "joined the cluster");
        }
        Ok(())
    }

    /// The cluster whose message was the last one here that was not for this node.
    pub(crate) fn missed(&self) -> Option<Missed> {
        self.known().missed
    }

    /// Whether a message with this header is for this node; true if the node must adopt its
    /// cluster first. What is not for it is noted: see [`Identity::missed`].
    pub(crate) fn check(&self, header: &Header) -> Result<bool, Misdirected> {
        self.check_header(header).inspect_err(|_| {
            let Header { cluster_id, target, .. } = *header;
            self.known().missed = Some(Missed { cluster_id, target });
        })
    }

    fn check_header(&self, header: &Header) -> Result<bool, Misdirected> {
        if header.target != self.node_id {
            return Err(Misdirected::Target { is: self.node_id, asked: header.target });
        }
        let (cluster_id, joins) = {
            let known = self.known();
            (known.cluster_id, known.joins)
        };
        match cluster_id.or(joins.filter(|joins| *joins != header.cluster_id)) {
            Some(is) if is == header.cluster_id => Ok(false),
            Some(is) => Err(Misdirected::Cluster { is, asked: header.cluster_id }),
            None if header.list_hash == self.list_hash => Ok(true),
            None => Err(Misdirected::List { list: self.list.join(",") }),
        }
    }

    pub(crate) fn header(&self, target: NodeId) -> Option<Header> {
        let cluster_id = self.cluster_id()?;
        Some(Header { cluster_id, list_hash: self.list_hash, sender: self.node_id, target })
    }

    pub(crate) fn whoami(&self) -> Whoami {
        let known = self.known();
        Whoami {
            node_id: self.node_id,
            boot_nonce: self.boot_nonce,
            cluster_id: known.cluster_id.map(|id| id.to_string()),
            list_hash: self.list_hash.to_string(),
            list: self.list.clone(),
            raft_address: known.raft_address.clone(),
            api_address: known.api_address.clone(),
            reads: Reads::of_this_build(),
            level: known.cluster_id.map(|_| self.level()),
            last_log_index: None,
            last_log_term: None,
            disk: None,
            missed_by: known
                .missed
                .filter(|_| known.cluster_id.is_none())
                .map(|missed| missed.cluster_id.to_string()),
        }
    }
}

/// Writes the file of a new node, which is the only member of a new cluster.
pub(crate) fn write_new(
    disk: &dyn Disk,
    random: &dyn Random,
    level: Level,
) -> Result<(NodeId, ClusterId), IdentityError> {
    let (node_id, cluster_id) = (random.nonzero(), ClusterId(random.bits()));
    write(disk, level, NodeFile { node_id, cluster_id: Some(cluster_id) })?;
    Ok((node_id, cluster_id))
}

/// What the file says, if there is one.
pub(crate) fn stored(disk: &dyn Disk) -> Result<Option<NodeFile>, IdentityError> {
    let failed = |source| IdentityError::File { name: NODE_FILE, verb: "read", source };
    match disk.read(NODE_FILE).map_err(failed)? {
        Some(bytes) => Ok(Some(STORAGE.decode("node identity", &bytes)?)),
        None => Ok(None),
    }
}

fn write(disk: &dyn Disk, level: Level, file: NodeFile) -> Result<(), IdentityError> {
    let bytes = STORAGE.encode(level, &file);
    let failed = |source| IdentityError::File { name: NODE_FILE, verb: "write", source };
    disk.write(NODE_FILE, &bytes).map_err(failed)
}

#[cfg(test)]
mod tests;
