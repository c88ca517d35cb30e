//! What this node holds, what discovery has acknowledged, and which request comes next. Pure: neither I/O nor
//! time.
//!
//! Keys are compared, not queued: a key is held or not, and acknowledged or not. Opposite changes therefore
//! cancel each other, nothing that failed is lost, and at most what is or was held is pending. One request is
//! outstanding at a time, and keeps its pair until its outcome is known.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use piccolo_raft::model::{Fingerprint, Key};

use super::index_api::Write;
use crate::agent::content::store::{Scan, StoreEvent};
use crate::limits::{API_BODY_BYTES_MAX, BATCH_KEYS_MAX, REQUEST_KEYS_MAX, WRITE_ENVELOPE_BYTES_MAX};
use crate::oci::Digest;

/// Two quotes and a comma of each key in JSON.
const KEY_OVERHEAD_BYTES: usize = 3;

/// Position of a write among the writes of this holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pair {
    pub(super) epoch: u64,
    pub(super) seq: u64,
}

/// One write, which is sent until its outcome is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) kind: Write,
    pub(super) pair: Pair,
    pub(super) keys: Vec<Key>,
}

/// What discovery is believed to hold for this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acknowledged {
    pub(super) pair: Pair,
    pub(super) fingerprint: Fingerprint,
    pub(super) count: u64,
}

/// A former address of this node, and the pair of the write that removes its keys from the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) holder: SocketAddr,
    pub(super) pair: Pair,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Entry {
    held: bool,
    acknowledged: bool,
}

/// The state of the inventory.
pub(super) struct Ledger {
    /// Address under which this node writes; `None` if it is not known yet.
    holder: Option<SocketAddr>,
    epoch: u64,
    seq: u64,
    /// Largest number of keys in one sync.
    sync_keys_max: usize,
    entries: BTreeMap<Key, Entry>,
    /// Advertised tags and their targets: a tag is advertised together with its target.
    tags: BTreeMap<String, Digest>,
    acknowledged: Option<Acknowledged>,
    outstanding: Option<Arc<Request>>,
    /// The sync of a complete scan, which has not been sent yet.
    sync: Option<Request>,
    /// Changes since the running scan began. They override the result of the scan.
    meanwhile: Option<BTreeMap<Key, bool>>,
    /// Whether the index had no room: then withdrawals are sent first.
    full: bool,
}

impl Ledger {
    pub(super) fn new(epoch: u64) -> Self {
        Self {
            holder: None,
            epoch,
            seq: 0,
            sync_keys_max: REQUEST_KEYS_MAX,
            entries: BTreeMap::new(),
            tags: BTreeMap::new(),
            acknowledged: None,
            outstanding: None,
            sync: None,
            meanwhile: None,
            full: false,
        }
    }

    fn next_pair(&mut self) -> Pair {
        self.seq += 1;
        Pair { epoch: self.epoch, seq: self.seq }
    }

    /// The address under which this node writes.
    pub(super) fn holder(&self) -> Option<SocketAddr> {
        self.holder
    }

    /// Moves to another address, about which discovery knows nothing. Returns the former address if anything
    /// was written under it. A scan is needed afterwards.
    pub(super) fn move_to(&mut self, holder: SocketAddr, unix_ms: u64) -> Option<Left> {
        let before = self.holder.replace(holder)?;
        let has_written = self.acknowledged.take().is_some() | self.outstanding.take().is_some();
        let pair = self.next_pair();
        self.full = false;
        self.entries.retain(|_, entry| {
            entry.acknowledged = false;
            entry.held
        });
        // This node may have had the address before: the epoch must be above what it wrote there.
        self.begin_epoch(unix_ms.max(self.epoch.saturating_add(1)));
        has_written.then_some(Left { holder: before, pair })
    }

    /// What discovery has acknowledged; `None` before the first sync.
    pub(super) fn acknowledged(&self) -> Option<Acknowledged> {
        self.acknowledged
    }

    /// Whether a scan, or the sync of one, is on its way.
    pub(super) fn is_syncing(&self) -> bool {
        self.meanwhile.is_some() || self.sync_is_next()
    }

    /// Whether a sync has not been sent, or has no outcome yet.
    pub(super) fn sync_is_next(&self) -> bool {
        self.sync.is_some() || self.outstanding.as_ref().is_some_and(|request| request.kind == Write::Sync)
    }

    /// Records a change of the store.
    pub(super) fn changed(&mut self, event: &StoreEvent, advertises_tag: &dyn Fn(&str) -> bool) {
        match event {
            StoreEvent::Added { digest, .. } => self.set_held(key_of(digest), true),
            StoreEvent::Removed { digest } => {
                self.set_held(key_of(digest), false);
                let pointing = self.tags.iter().filter(|(_, target)| *target == digest);
                let pointing: Vec<String> = pointing.map(|(name, _)| name.clone()).collect();
                pointing.iter().for_each(|name| self.untag(name));
            }
            StoreEvent::Tagged { name, digest } if advertises_tag(name) => {
                if let Ok(key) = name.parse() {
                    self.tags.insert(name.clone(), digest.clone());
                    self.set_held(key, true);
                }
            }
            StoreEvent::Tagged { .. } | StoreEvent::Sourced => {}
            StoreEvent::Untagged { name } => self.untag(name),
        }
    }

    fn untag(&mut self, name: &str) {
        self.tags.remove(name);
        if let Ok(key) = name.parse() {
            self.set_held(key, false);
        }
    }

    fn set_held(&mut self, key: Key, held: bool) {
        if let Some(meanwhile) = &mut self.meanwhile {
            meanwhile.insert(key.clone(), held);
        }
        self.update(key, |entry| entry.held = held);
    }

    fn update(&mut self, key: Key, change: impl FnOnce(&mut Entry)) {
        let mut entry = self.entries.get(&key).copied().unwrap_or_default();
        change(&mut entry);
        if entry == Entry::default() {
            self.entries.remove(&key);
        } else {
            self.entries.insert(key, entry);
        }
    }

    /// Begins a scan, which gets its position among the writes now. No new request begins before the scan
    /// ends.
    pub(super) fn begin_scan(&mut self) -> Pair {
        self.sync = None;
        self.meanwhile = Some(BTreeMap::new());
        self.next_pair()
    }

    /// Ends a scan that failed or was given up: nothing changes (I3).
    pub(super) fn scan_failed(&mut self) {
        self.meanwhile = None;
    }

    /// Ends a complete scan. Its keys are synced as they are; what changed meanwhile is sent afterwards.
    ///
    /// What is kept is built last and at once: it then fills the memory that the scan frees, so that no
    /// remnant of the scan keeps pages from going back to the system.
    pub(super) fn scanned(&mut self, pair: Pair, scan: Scan, advertises_tag: &dyn Fn(&str) -> bool) {
        let meanwhile = self.meanwhile.take().unwrap_or_default();
        let Scan { content, mut tags } = scan;
        let mut found: Vec<Key> = content.keys().map(key_of).collect();
        drop(content);
        tags.retain(|name, _| advertises_tag(name));
        found.extend(tags.keys().filter_map(|name| name.parse::<Key>().ok()));
        found.sort_unstable();
        found.dedup();
        self.tags = tags;
        // The order began again after the scan started. Any later pair is right, because this node wrote
        // nothing in between.
        let pair = if pair.epoch == self.epoch { pair } else { self.next_pair() };
        let mut before = std::mem::take(&mut self.entries);
        let held = found.iter().map(|key| {
            let acknowledged = before.remove(key).is_some_and(|entry| entry.acknowledged);
            (key.clone(), Entry { held: true, acknowledged })
        });
        self.entries = held.collect();
        before.retain(|_, entry| {
            entry.held = false;
            entry.acknowledged
        });
        self.entries.append(&mut before);
        meanwhile.into_iter().for_each(|(key, held)| self.update(key, |entry| entry.held = held));
        // Keys beyond the limit of one request are advertised after the sync.
        let keys = bounded(found.into_iter(), self.sync_keys_max);
        self.sync = Some(Request { kind: Write::Sync, pair, keys });
    }

    /// The request to send now: the outstanding one again, a sync, or the differences. `None` if there are
    /// none, while a scan runs, and before the first sync.
    pub(super) fn next_request(&mut self) -> Option<Arc<Request>> {
        if self.outstanding.is_none() {
            self.outstanding = self.choose().map(Arc::new);
        }
        self.outstanding.clone()
    }

    fn choose(&mut self) -> Option<Request> {
        if self.meanwhile.is_some() {
            return None;
        }
        let mut order = [(Write::Advertise, true), (Write::Withdraw, false)];
        if self.full {
            order.reverse();
        }
        if self.sync.is_some() {
            return self.sync.take();
        }
        self.acknowledged?;
        for (kind, held) in order {
            let differing = Entry { held, acknowledged: !held };
            let of_kind = self.entries.iter().filter(|(_, entry)| **entry == differing);
            let keys = bounded(of_kind.map(|(key, _)| key.clone()), BATCH_KEYS_MAX);
            if !keys.is_empty() {
                return Some(Request { kind, pair: self.next_pair(), keys });
            }
        }
        None
    }

    /// Records that discovery has durably taken the outstanding request.
    pub(super) fn succeeded(&mut self) {
        let Some(request) = self.outstanding.take() else { return };
        self.full &= request.kind == Write::Withdraw;
        let before = self.acknowledged.map_or(Fingerprint::default(), |before| before.fingerprint);
        let mut fingerprint = before;
        if request.kind == Write::Sync {
            fingerprint = Fingerprint::default();
            self.entries.retain(|_, entry| {
                entry.acknowledged = false;
                entry.held
            });
        }
        let acknowledged = request.kind != Write::Withdraw;
        for key in &request.keys {
            let was = self.entries.get(key).is_some_and(|entry| entry.acknowledged);
            match (was, acknowledged) {
                (false, true) => fingerprint.add(key),
                (true, false) => fingerprint.remove(key),
                _ => {}
            }
            self.update(key.clone(), |entry| entry.acknowledged = acknowledged);
        }
        let count = self.entries.values().filter(|entry| entry.acknowledged).count() as u64;
        self.acknowledged = Some(Acknowledged { pair: request.pair, fingerprint, count });
    }

    /// Continues behind a later pair that discovery knows of this holder. A scan is needed, because whoever
    /// wrote that pair wrote other keys.
    pub(super) fn stale(&mut self, stored_epoch: Option<u64>) {
        self.outstanding = None;
        self.begin_epoch(stored_epoch.unwrap_or(0).max(self.epoch).saturating_add(1));
    }

    fn begin_epoch(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.seq = 0;
        if self.sync.is_some() {
            let pair = self.next_pair();
            self.sync.iter_mut().for_each(|sync| sync.pair = pair);
        }
    }

    /// Gives up the outstanding request, which discovery will never take. A scan is needed.
    ///
    /// If discovery has never taken any request, the reason may be an epoch from a wrong clock at the start:
    /// the clock is read again.
    pub(super) fn refused(&mut self, unix_ms: u64) {
        self.outstanding = None;
        if self.acknowledged.is_none() && unix_ms != self.epoch {
            self.begin_epoch(unix_ms);
        }
    }

    /// Gives up the outstanding request, because the index may hold no more keys. A scan is needed.
    pub(super) fn found_full(&mut self) {
        self.outstanding = None;
        self.full = true;
    }
}

fn key_of(digest: &Digest) -> Key {
    digest.as_str().parse().expect("a well-formed digest is a key")
}

/// As many keys as one request may carry.
fn bounded(keys: impl Iterator<Item = Key>, count_max: usize) -> Vec<Key> {
    let mut room = API_BODY_BYTES_MAX - WRITE_ENVELOPE_BYTES_MAX;
    keys.take(count_max)
        .take_while(|key| {
            let size = key.to_string().len() + KEY_OVERHEAD_BYTES;
            let fits = size <= room;
            room = room.saturating_sub(size);
            fits
        })
        .collect()
}

#[cfg(test)]
mod tests;
