//! Why a membership is not changed, in words for the operator.

use openraft::errors::ClientWriteError;

use super::Who;
use crate::cluster::ProposeError;
use crate::format::{Level, Range};
use crate::limits::MEMBERS_MAX;
use crate::types::{NodeId, TypeConfig};

/// Why a change is not made. Nothing was changed by the step that was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The address of a new server does not answer.
    #[error("could not ask {address} who it is: {reason}")]
    Unreachable {
        /// Address that was asked.
        address: String,
        /// Error of the request.
        reason: String,
    },
    /// No server answers at the address of one that is to be admitted.
    #[error(
        "could not ask {address} who it is: {reason}; start the new server there with --join {join}, and name it by \
         its raft address"
    )]
    NotStarted {
        /// Raft address that was given for the new server.
        address: String,
        /// Error of the request.
        reason: String,
        /// Raft address of a member.
        join: String,
    },
    /// The server has data of another cluster.
    #[error(
        "{address} has data of cluster {cluster}, this is cluster {own}: start it with an empty folder{}",
        founds_again(list, join)
    )]
    OtherCluster {
        /// Address of the server.
        address: String,
        /// Id of the server's cluster.
        cluster: String,
        /// Id of this cluster.
        own: String,
        /// Its `--cluster`, where that names no member of ours: it founds a cluster with every empty folder.
        list: Vec<String>,
        /// The raft address of a member.
        join: String,
    },
    /// The server waits to found a cluster of its own.
    #[error(
        "{address} waits to found a cluster of {list}: start it with --join {join} in place of --cluster"
    )]
    Founds {
        /// Address of the server.
        address: String,
        /// The server's list of members, separated by commas.
        list: String,
        /// The raft address of a member.
        join: String,
    },
    /// The server does not read what the members write.
    #[error(
        "{address} reads levels {reads}, and the cluster runs at {active}: start the members' piccolo there"
    )]
    Level {
        /// Address of the server.
        address: String,
        /// The levels that the server at that address can run at.
        reads: Range,
        /// The level at which the cluster runs.
        active: Level,
    },
    /// A level cannot begin: nobody knows what this member reads.
    #[error(
        "server {node_id:016x} at {address} does not answer: a level begins only when all members say that they \
         can run at it; start it, or remove it"
    )]
    Unreadable {
        /// Id of the member that does not answer.
        node_id: NodeId,
        /// Raft address of that member.
        address: String,
    },
    /// A level cannot begin: some members do not know it.
    #[error("not all members can run at more than {active}: {}: start the newer piccolo there first", unable.join("; "))]
    NotAll {
        /// The level at which the cluster runs.
        active: Level,
        /// The members that cannot run at a later level, each with the levels that it reads.
        unable: Vec<String>,
    },
    /// The server was removed, or is being removed.
    #[error(
        "{address} is server {node_id:016x}, which was removed: start it with an empty folder and --join"
    )]
    Tombstone {
        /// Address of the server.
        address: String,
        /// Id of the server.
        node_id: NodeId,
    },
    /// Others could not reach it.
    #[error(
        "the server at {address}, with its API at {api_address}, is on loopback, but the member at {other} is not: \
         start it with addresses that the other hosts reach"
    )]
    Loopback {
        /// Raft address of the server.
        address: String,
        /// Address of the server's discovery API, as the server reports it.
        api_address: String,
        /// A member on another host.
        other: String,
    },
    /// A newcomer and a member do not reach each other.
    #[error("{}; {advice}", told.join("; "))]
    Unreached {
        /// A sentence for each port that was not reached: who does not reach whom, and where.
        told: Vec<String>,
        /// What the operator should do.
        advice: String,
    },
    /// Another member has that address.
    #[error(
        "{address} is the address of member {by:016x}, but server {is:016x} answers there: if that one takes \
         its place, replace {by:016x} by {address}"
    )]
    AddressTaken {
        /// Address that was given.
        address: String,
        /// Id of the member that has the address.
        by: NodeId,
        /// Id of the server that answers there.
        is: NodeId,
    },
    /// A member has another address.
    #[error(
        "{address} is member {node_id:016x}, known at {known}: if it has moved, replace {node_id:016x} by {address}"
    )]
    OtherAddress {
        /// Id of the member.
        node_id: NodeId,
        /// Address that was given, at which the member answers.
        address: String,
        /// Address of the member in the membership.
        known: String,
    },
    /// A server is named twice.
    #[error("{other} and {address} are one server, {node_id:016x}: name each server once")]
    SameServer {
        /// Id of the server.
        node_id: NodeId,
        /// The later one of the two addresses that were given.
        address: String,
        /// The earlier one of these two addresses.
        other: String,
    },
    /// Two processes have one id.
    #[error(
        "{address} and {known} both answer as member {node_id:016x}: one runs on a copy of the other's data \
         folder. Stop the one at {address} and start it with an empty folder and --join"
    )]
    Copy {
        /// Id that both servers have.
        node_id: NodeId,
        /// Address that was given.
        address: String,
        /// Address of the member in the membership; it answers there too.
        known: String,
    },
    /// No member has the id or the address that was given.
    #[error("{who} is not a member: piccolo members list shows the ids and addresses of all members")]
    NoMember {
        /// Id or address that was given.
        who: Who,
    },
    /// A member was named by the address of its discovery API.
    #[error(
        "{address} is the discovery API of member {node_id:016x}: name it by its raft address {raft_address}, or by \
         its id"
    )]
    ApiAddress {
        /// Address that was given.
        address: String,
        /// Id of the member whose API is there.
        node_id: NodeId,
        /// Raft address of that member.
        raft_address: String,
    },
    /// Several members have that address.
    #[error("{address} is the address of several members, give the id: {}", list_ids(ids))]
    Ambiguous {
        /// Address that was given.
        address: String,
        /// Ids of the members at that address.
        ids: Vec<NodeId>,
    },
    /// The cluster is large enough.
    #[error("the cluster has {MEMBERS_MAX} members, which is the limit: remove one first, or replace one")]
    TooMany,
    /// No majority would answer afterwards.
    #[error(
        "{what} would lose the quorum: of {voters} voters then, {majority} must answer, and {answering} do now \
         (silent: {})",
        silent.join(", ")
    )]
    Quorum {
        /// The step that would lose the quorum.
        what: &'static str,
        /// Voters after the change.
        voters: usize,
        /// Voters after the change that answer now.
        answering: usize,
        /// Voters of which answers are needed after the change.
        majority: usize,
        /// Raft addresses of the voters that do not answer.
        silent: Vec<String>,
    },
    /// The member is the only voter.
    #[error("server {node_id:016x} is the only voter: without it there is no cluster")]
    LastVoter {
        /// Id of the voter.
        node_id: NodeId,
    },
    /// The member cannot lead, because it does not vote.
    #[error("server {node_id:016x} does not vote: it cannot lead")]
    NotVoter {
        /// Id of the member.
        node_id: NodeId,
    },
    /// The member cannot lead, because it does not answer.
    #[error("server {node_id:016x} at {address} does not answer: it cannot lead")]
    Silent {
        /// Id of the member.
        node_id: NodeId,
        /// Raft address of the member, as far as it is known.
        address: String,
    },
    /// The member cannot lead yet, because it lacks log entries.
    #[error("server {node_id:016x} lacks {lag} log entries: it cannot lead yet")]
    Behind {
        /// Id of the member.
        node_id: NodeId,
        /// Log entries that the member lacks.
        lag: u64,
    },
    /// No other voter can lead.
    #[error("no other voter answers and is near the end of the log: none can lead")]
    NoSuccessor,
}

/// An empty folder alone does not help a server that founds a cluster whenever it has one.
fn founds_again(list: &[String], join: &str) -> String {
    if list.is_empty() {
        return String::new();
    }
    format!(
        " and with --join {join} in place of --cluster: by its own list ({}) it founds another cluster whenever its \
         folder is empty",
        list.join(",")
    )
}

fn list_ids(ids: &[NodeId]) -> String {
    ids.iter().map(|id| format!("{id:016x}")).collect::<Vec<_>>().join(", ")
}

/// Why a step has no result.
#[derive(Debug, thiserror::Error)]
pub enum MembersError {
    /// The step must not be done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// This node cannot propose it.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// openraft refused the change.
    #[error("could not change the membership: {error}")]
    Raft {
        /// Error of openraft.
        error: Box<ClientWriteError<TypeConfig>>,
    },
}
