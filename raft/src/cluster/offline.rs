//! A new cluster of one from what is left: from a snapshot ([`restore`]) or from the data folder of one
//! server ([`force_new_cluster`]). No server runs meanwhile.
//!
//! The new cluster has another id and its server another node id, so that servers of the old one that
//! come back are strangers to it: what they send is answered 421, and what they ask for is refused. It
//! goes on behind the last log index of the old state, in a later term, with a log that looks as if it
//! had been purged up to there. So a server that joins gets a snapshot: there is no log that it could
//! begin with instead, and miss the state below it. The numbers in the host records stay right.
//! Nobody is removed from the new cluster yet, so the tombstones go, like the notes `adopted` and
//! `removed`: they are about ids that mean nothing here.
//!
//! The new files are made in a folder beside the old ones (`swap`) and take their place at once.

mod swap;

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use openraft::{EntryPayload, Membership, RaftLogReader};
use tokio::time::Instant;

use crate::disk::{Disk, FileUser, FolderDisk};
use crate::index::{Counts, Index, IndexError, WholeState};
use crate::limits::{OFFLINE_LOCK_POLL, OFFLINE_LOCK_WAIT, OFFLINE_READ_BYTES};
use crate::log::{LOG_NOTE_FILE, LogError, LogStore};
use crate::network::IdentityError;
use crate::network::identity::{self, NodeFile};
use crate::random::SystemRandom;
use crate::snapshot::file::{FileReceiver, Saved};
use crate::snapshot::{SnapshotData, SnapshotError};
use crate::types::{ClusterId, Entry, LogId, Member, NodeId, StoredMembership, TypeConfig, Vote};

use super::StartError;
use super::stores::check_stores;

pub use swap::settle;

/// Why there is no new cluster. The data folder is as it was, but for one case: new files that count already
/// could not all be put in their places, and whoever comes next goes on with that.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The file system refused a call.
    #[error("could not {action} {}", path.display())]
    Io {
        /// The call, as a verb.
        action: &'static str,
        /// The file or folder that the call was for.
        path: PathBuf,
        /// Error of the system.
        #[source]
        source: io::Error,
    },
    /// Another process has the data folder open.
    #[error("the data folder is in use{}: stop its server first", by(user.as_ref()))]
    InUse {
        /// The process that has it open, as far as this one can see.
        user: Option<FileUser>,
    },
    /// A restore begins with nothing.
    #[error("the data folder is not empty, it has {name}: give an empty one, or none that exists")]
    NotEmpty {
        /// Something that is there.
        name: String,
    },
    /// There is nothing to go on from.
    #[error("the data folder has no data of a cluster: start the server without --force-new-cluster")]
    NoData,
    /// A part of the old data is gone.
    #[error(
        "the data folder has no {name}, and other files of a server: it is lost; put it back, or choose \
         another server to go on from"
    )]
    Missing {
        /// Name of the file.
        name: &'static str,
    },
    /// The snapshot cannot be used.
    #[error("could not use the snapshot")]
    Snapshot(#[from] SnapshotError),
    /// The old data cannot be used.
    #[error("could not use the data folder")]
    Data(#[from] StartError),
    /// The membership does not know it.
    #[error(
        "this server is no member of its cluster, so its addresses are unknown: give --advertise HOST, with \
         --listen and --raft-listen where the ports are not the usual ones"
    )]
    NoAddress,
}

fn by(user: Option<&FileUser>) -> String {
    user.map(|user| format!(" by {user}")).unwrap_or_default()
}

impl OfflineError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| OfflineError::Io { action, path, source }
    }
}

macro_rules! by_way_of_start {
    ($($error:ty),*) => {$(
        impl From<$error> for OfflineError {
            fn from(error: $error) -> Self {
                OfflineError::Data(error.into())
            }
        }
    )*};
}
by_way_of_start!(LogError, IndexError, IdentityError);

/// How the others reach the server of the new cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// `host:port` of its raft RPC.
    pub raft: String,
    /// `host:port` of its discovery API.
    pub api: String,
}

/// A new cluster of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founded {
    /// Id of the new cluster.
    pub cluster_id: ClusterId,
    /// Id of the server in the new cluster.
    pub node_id: NodeId,
    /// Addresses of that server.
    pub member: Member,
    /// Log index of the first state.
    pub log_index: u64,
    /// What the first state holds.
    pub counts: Counts,
    /// Raft addresses of the old members, without this server's own.
    pub left_out: Vec<String>,
    /// It was there before: an earlier call had done all but the last steps, if not those, too.
    pub finished_only: bool,
}

/// Makes `folder`, which is empty or not there, the data folder of a new cluster of one that begins with
/// the snapshot. Gives what the snapshot says of itself, too, unless an earlier call had got so far.
pub async fn restore(
    folder: &Path,
    mut snapshot: impl Read,
    addresses: Addresses,
) -> Result<(Founded, Option<Saved>), OfflineError> {
    fs::create_dir_all(folder).map_err(OfflineError::io("make the folder", folder))?;
    let _lock = lock(folder)?;
    if settle(folder).map_err(OfflineError::io("finish the work in", folder))? {
        return Ok((finished(folder).await?, None));
    }
    swap::check_empty(folder)?;
    let mut receiver = FileReceiver::default();
    let mut buffer = vec![0; OFFLINE_READ_BYTES];
    loop {
        let read = snapshot.read(&mut buffer).map_err(OfflineError::io("read the snapshot for", folder))?;
        if read == 0 {
            break;
        }
        receiver.push(&buffer[..read])?;
    }
    let (saved, received) = receiver.finish()?;
    let new = swap::begin(folder).map_err(OfflineError::io("make the new files in", folder))?;
    let built = async {
        let index = begin(&new, received).await?;
        let founded = found(&new, &index, |_| Some(addresses), 0).await?;
        swap::check_empty(folder)?;
        Ok(founded)
    };
    let founded = swap::commit_or_clean(folder, built.await)?;
    Ok((founded, Some(saved)))
}

/// Makes the server with this data folder the only one of a new cluster: with its state and all of its log,
/// also what no majority may have had. `addresses` is given those of its own entry in the old membership.
/// A server that is alone in its cluster already stays what it is.
pub async fn force_new_cluster(
    folder: &Path,
    addresses: impl FnOnce(Option<Addresses>) -> Option<Addresses>,
) -> Result<Founded, OfflineError> {
    if !fs::exists(folder).map_err(OfflineError::io("read", folder))? {
        return Err(OfflineError::NoData);
    }
    let _lock = lock(folder)?;
    if settle(folder).map_err(OfflineError::io("finish the work in", folder))? {
        return finished(folder).await;
    }
    swap::check_data(folder)?;
    let disk = FolderDisk::open(folder).map_err(OfflineError::io("open", folder))?;
    // Held until the new files have taken their place: no server starts in between.
    let (log, old) = open(&disk).await?;
    let outcome = convert(folder, &disk, &log, &old, addresses).await;
    log.close().await;
    old.close().await.ok();
    outcome
}

async fn convert(
    folder: &Path,
    disk: &FolderDisk,
    log: &LogStore,
    old: &Index,
    addresses: impl FnOnce(Option<Addresses>) -> Option<Addresses>,
) -> Result<Founded, OfflineError> {
    check_stores(log, old)?;
    // Without a note there is nothing to compare, and none is to be made.
    if disk.read(LOG_NOTE_FILE).map_err(|source| LogError::Note { verb: "read", source })?.is_some() {
        log.check_note(disk)?;
    }
    let NodeFile { node_id, cluster_id } = identity::stored(disk)?.ok_or(IdentityError::Lost)?;
    let applied = old.applied_state().0;
    if cluster_id.is_none() || (applied.is_none() && log.last().is_none()) {
        return Err(OfflineError::NoData);
    }
    if let Some(alone) = alone(log, old, node_id, cluster_id).await? {
        return Ok(alone);
    }
    // Nothing was applied since it was opened, so this writes nothing.
    let (meta, view) = SnapshotData::of(old).await?;
    let received = view.into_whole(&meta)?;
    let new = swap::begin(folder).map_err(OfflineError::io("make the new files in", folder))?;
    let built = async {
        let index = begin(&new, received).await?;
        replay(log, &index).await?;
        found(&new, &index, addresses, node_id).await
    };
    swap::commit_or_clean(folder, built.await)
}

/// The cluster that this server is alone in: by its state, and by every membership in the log behind it.
async fn alone(
    log: &LogStore,
    old: &Index,
    node_id: NodeId,
    cluster_id: Option<ClusterId>,
) -> Result<Option<Founded>, OfflineError> {
    let (applied, membership) = old.applied_state();
    let members = membership.membership();
    let is_alone = members.voter_ids().eq([node_id]) && members.nodes().count() == 1;
    let (Some(applied), Some(cluster_id), true) = (applied, cluster_id, is_alone) else { return Ok(None) };
    let mut next = applied.index + 1;
    while let Some(entries) = entries(log, next).await? {
        if entries.iter().any(|entry| matches!(entry.payload, EntryPayload::Membership(_))) {
            return Ok(None);
        }
        next += entries.len() as u64;
    }
    let Some(member) = members.get_node(&node_id).cloned() else { return Ok(None) };
    let (log_index, counts) = (applied.index, old.counts());
    Ok(Some(Founded {
        cluster_id,
        node_id,
        member,
        log_index,
        counts,
        left_out: vec![],
        finished_only: true,
    }))
}

/// One at a time. Where the file system has no locks, those of redb must do.
fn lock(folder: &Path) -> Result<File, OfflineError> {
    let handle = File::open(folder).map_err(OfflineError::io("open", folder))?;
    match handle.try_lock() {
        Err(TryLockError::WouldBlock) => Err(OfflineError::InUse { user: None }),
        Err(TryLockError::Error(_)) | Ok(()) => Ok(handle),
    }
}

async fn open(disk: &FolderDisk) -> Result<(LogStore, Index), OfflineError> {
    let end = Instant::now() + OFFLINE_LOCK_WAIT;
    let both = || {
        let index = Index::open(disk)?;
        Ok::<_, StartError>((LogStore::open(disk)?, index))
    };
    let both = || both().map_err(|error| StartError::opening(error, disk));
    loop {
        match both() {
            Ok(both) => return Ok(both),
            Err(StartError::InUse { user }) if Instant::now() >= end => {
                return Err(OfflineError::InUse { user });
            }
            Err(error @ StartError::InUse { .. }) => {
                tracing::debug!(%error, "waits for the data folder");
                tokio::time::sleep(OFFLINE_LOCK_POLL).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A new index with the state, in the folder of the new files.
async fn begin(new: &Path, received: WholeState) -> Result<Index, OfflineError> {
    let disk = FolderDisk::open(new).map_err(OfflineError::io("open", new))?;
    let index = Index::open(&disk)?;
    index.install(received).await?;
    Ok(index)
}

/// Applies what the log has beyond the state. Whether a majority had it is not known here: a write that
/// was answered with success may be among it, and one that was not does no harm, its client was told that
/// it may have happened.
async fn replay(log: &LogStore, index: &Index) -> Result<(), OfflineError> {
    let mut next = index.applied_state().0.map_or(0, |id| id.index + 1);
    while let Some(entries) = entries(log, next).await? {
        next += entries.len() as u64;
        index.apply(&entries).await?;
    }
    Ok(())
}

/// A piece of the log from `next` on; `None` at its end.
async fn entries(log: &LogStore, next: u64) -> Result<Option<Vec<Entry>>, OfflineError> {
    let damaged = |reason: String| OfflineError::from(LogError::Damaged { reason });
    let end = log.last().map_or(0, |id| id.index + 1);
    if next >= end {
        return Ok(None);
    }
    let entries = log.clone().limited_get_log_entries(next, end).await;
    let entries = entries.map_err(|error| damaged(error.to_string()))?;
    let indices = entries.iter().map(|entry| entry.log_id.index);
    if entries.is_empty() || !indices.eq((next..).take(entries.len())) {
        return Err(damaged(format!("it has no entry {next}")));
    }
    Ok(Some(entries))
}

/// Writes everything but the state's rows: the membership of one, the log behind it, who this is.
async fn found(
    new: &Path,
    index: &Index,
    addresses: impl FnOnce(Option<Addresses>) -> Option<Addresses>,
    before: NodeId,
) -> Result<Founded, OfflineError> {
    let disk = FolderDisk::open(new).map_err(OfflineError::io("open", new))?;
    let level = index.level().get();
    let (applied, membership) = index.applied_state();
    let own = membership.membership().get_node(&before).cloned();
    let own = own.map(|member| Addresses { raft: member.raft_address, api: member.api_address });
    let others = membership.membership().nodes().filter(|(id, _)| **id != before);
    let left_out = others.map(|(_, member)| member.raft_address.clone()).collect();
    let Addresses { raft, api } = addresses(own).ok_or(OfflineError::NoAddress)?;
    let (node_id, cluster_id) = identity::write_new(&disk, &SystemRandom, level)?;
    let member = Member { raft_address: raft, api_address: api };
    let (term, index_before) = applied.map_or((0, 0), |id| (id.committed_leader_id().term, id.index));
    let leader = openraft::impls::leader_id_adv::LeaderId { term: term + 1, node_id };
    let log_id: LogId = openraft::type_config::alias::LogIdOf::<TypeConfig>::new(leader, index_before + 1);
    let alone = Membership::new(vec![[node_id].into()], BTreeMap::from([(node_id, member.clone())]));
    let alone = alone.expect("the only voter is among the nodes");
    index.begin_anew(StoredMembership::new(Some(log_id), alone)).await?;
    LogStore::create_after(&disk, &SystemRandom, level, &Vote::new(term + 1, node_id), &log_id)?;
    let counts = index.counts();
    index.close().await?;
    let log_index = log_id.index;
    Ok(Founded { cluster_id, node_id, member, log_index, counts, left_out, finished_only: false })
}

/// What an earlier call has made.
async fn finished(folder: &Path) -> Result<Founded, OfflineError> {
    let disk = FolderDisk::open(folder).map_err(OfflineError::io("open", folder))?;
    let NodeFile { node_id, cluster_id } = identity::stored(&disk)?.ok_or(IdentityError::Lost)?;
    let index = Index::open(&disk)?;
    let (_, membership) = index.applied_state();
    let member = membership.membership().get_node(&node_id).cloned().ok_or(OfflineError::NoAddress)?;
    let founded = Founded {
        cluster_id: cluster_id.ok_or(OfflineError::NoData)?,
        node_id,
        member,
        log_index: index.applied_index(),
        counts: index.counts(),
        left_out: Vec::new(),
        finished_only: true,
    };
    index.close().await?;
    Ok(founded)
}
