//! Counts which clusters the servers of an agent name.

use std::collections::{BTreeMap, BTreeSet};

use crate::api::client::Sighting;

/// What each server has named last, in one look or in several.
#[derive(Debug, Default)]
pub(super) struct Ballot {
    /// By the label of the server and the number of its sighting, because a lone address is looked at several
    /// times.
    named: BTreeMap<(String, usize), Option<String>>,
}

/// How many voters name each cluster, and how many name none.
#[derive(Debug)]
struct Votes<'a> {
    of: BTreeMap<&'a str, usize>,
    /// Voters that have named no cluster.
    open: usize,
}

impl Ballot {
    /// What the servers name in one look.
    pub(super) fn of(seen: &[(String, Sighting)]) -> Self {
        let mut ballot = Self::default();
        ballot.add(seen);
        ballot
    }

    /// Adds one look. A server that names no cluster in it keeps what it named before; a server that is no
    /// longer in the list does not count any more.
    pub(super) fn add(&mut self, seen: &[(String, Sighting)]) {
        let mut before = std::mem::take(&mut self.named);
        let mut sightings: BTreeMap<&str, usize> = BTreeMap::new();
        for (server, sighting) in seen {
            let number = sightings.entry(server).or_default();
            let key = (server.clone(), *number);
            *number += 1;
            let named = match sighting {
                Sighting::Of { cluster, .. } => Some(cluster.clone()),
                Sighting::Silent | Sighting::Unnamed => before.remove(&key).flatten(),
            };
            self.named.insert(key, named);
        }
    }

    /// Number of servers, as far as labels show it.
    pub(super) fn servers(&self) -> usize {
        self.named.keys().map(|(server, _)| server).collect::<BTreeSet<_>>().len()
    }

    /// The servers that name each cluster.
    pub(super) fn by_cluster(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut clusters: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for ((server, _), named) in &self.named {
            if let Some(cluster) = named {
                clusters.entry(cluster).or_default().insert(server);
            }
        }
        clusters
    }

    /// The cluster that most voters name.
    pub(super) fn most(&self) -> Option<&str> {
        self.votes().most()
    }

    /// The cluster that most voters name, other than `own`.
    pub(super) fn most_besides(&self, own: &str) -> Option<&str> {
        let mut votes = self.votes();
        votes.of.remove(own);
        votes.most()
    }

    /// The cluster that more voters name than `own`, if there is one.
    pub(super) fn outvotes(&self, own: &str) -> Option<&str> {
        let votes = self.votes();
        votes.most().filter(|cluster| votes.count(cluster) > votes.count(own))
    }

    /// Whether `own` is chosen for good: all voters have named a cluster, or the others cannot change that
    /// most name `own`.
    pub(super) fn is_decided_for(&self, own: &str) -> bool {
        let mut votes = self.votes();
        let of_own = votes.of.remove(own).unwrap_or_default();
        let of_other = votes.most().map_or(0, |cluster| votes.count(cluster));
        votes.open == 0 || of_own > of_other + votes.open
    }

    /// Counts each server as one voter. Several servers may stand behind a lone address, so that each
    /// sighting of it counts as one.
    fn votes(&self) -> Votes<'_> {
        let is_lone = self.servers() == 1;
        let mut voters: BTreeMap<Option<&str>, BTreeSet<(&str, usize)>> = BTreeMap::new();
        for ((server, number), named) in &self.named {
            let voter = (server.as_str(), if is_lone { *number } else { 0 });
            voters.entry(named.as_deref()).or_default().insert(voter);
        }
        let open = voters.remove(&None).map_or(0, |voters| voters.len());
        let of = voters.into_iter().filter_map(|(cluster, voters)| Some((cluster?, voters.len())));
        Votes { of: of.collect(), open }
    }
}

impl<'a> Votes<'a> {
    fn count(&self, cluster: &str) -> usize {
        self.of.get(cluster).copied().unwrap_or_default()
    }

    /// The cluster with most votes. Among equals the smallest id wins, so that all agents choose the same.
    fn most(&self) -> Option<&'a str> {
        self.of.iter().rev().max_by_key(|(_, count)| **count).map(|(cluster, _)| *cluster)
    }
}
