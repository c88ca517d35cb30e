//! What a server shows, all of it: inventories against what holders were told, and lookups against
//! inventories.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::index::{HostRecord, Index, IndexError};
use crate::model::Key;

use super::client::Shown;
use super::cluster::Cluster;
use super::host::Host;
use super::workload::{Book, all_keys};

impl Cluster {
    /// What every member shows of every holder, judged like a read.
    pub(crate) fn judge_all(&self) {
        for host in self.hosts.iter().filter(|host| !host.disk.is_off()) {
            let Some(node) = host.node().filter(|node| node.is_member()) else { continue };
            if is_closed(node.index()) {
                continue;
            }
            judge_inventories(host, node.index(), &self.book);
            for wrong in wrong_lookups(node.index()) {
                self.book.violate(format!("{}: {wrong}", host.address));
            }
        }
    }
}

/// Whether it is stopping: its inventories cannot be read any more.
fn is_closed(index: &Index) -> bool {
    let hosts = index.hosts(None);
    hosts.first().is_some_and(|host| matches!(index.inventory(&host.holder), Err(IndexError::Closed)))
}

fn judge_inventories(host: &Host, index: &Index, book: &Book) {
    let holders: Vec<_> = book.open().histories.keys().cloned().collect();
    let expected = index.hosts(None).into_iter().all(|record| holders.contains(&record.holder));
    if !expected {
        book.violate(format!("{}: a host that never wrote", host.address));
    }
    for holder in holders {
        let keys = index.inventory(&holder).expect("a readable state").unwrap_or_default();
        let pair = index.host(&holder).and_then(|record| record.pair);
        let shown = Shown { index: index.applied_index(), pair, keys };
        let last = book.open().histories[&holder].last_done();
        let after = last.filter(|(_, at)| *at <= shown.index).map(|(id, _)| id);
        book.judge(&host.address, &holder, after, &shown);
    }
}

/// A lookup of any key finds exactly the visible hosts whose inventory has it.
fn wrong_lookups(index: &Index) -> Vec<String> {
    let hosts = index.hosts(None);
    let groups: BTreeSet<&String> = hosts.iter().map(|record| &record.holder.group).collect();
    let mut held: BTreeMap<(&String, Key), BTreeSet<SocketAddr>> = BTreeMap::new();
    for group in groups {
        held.extend(all_keys().map(|key| ((group, key), BTreeSet::new())));
    }
    for HostRecord { holder, .. } in hosts.iter().filter(|record| record.is_visible()) {
        for key in index.inventory(holder).expect("a readable state").unwrap_or_default() {
            held.entry((&holder.group, key)).or_default().insert(holder.address);
        }
    }
    let mut wrong = Vec::new();
    for ((group, key), holders) in held {
        let found = index.find(group, &key, |postings| {
            (0..postings.len()).map(|at| postings.address(at)).collect::<Vec<_>>()
        });
        let found = found.unwrap_or_default();
        let distinct: BTreeSet<SocketAddr> = found.iter().copied().collect();
        if distinct != holders || distinct.len() != found.len() {
            wrong.push(format!("{key} is held by {holders:?}, and {found:?} are found"));
        }
    }
    wrong
}
