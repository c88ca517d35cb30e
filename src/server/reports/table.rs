//! What nodes have reported of holders, and what follows. It is in one server's memory only. Pure: the time
//! is an argument.
//!
//! A report counts for a while, and once for each [`Source`]. While [`REPORTERS_WANTED`] sources count, the
//! holder is ranked last (it could not be reached), or left out of the answers for one key (its bytes were
//! wrong). The first ends as soon as the holder shows that it is alive; the second ends with time only,
//! because a heartbeat says nothing about bytes.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use piccolo_raft::model::{Holder, Key};

use crate::limits::{REPORT_TTL, REPORT_WRONG_TTL, REPORTED_MAX, REPORTERS_WANTED, REPORTS_PER_NODE_MAX};
use crate::server::ranking::Reputation;

/// The origin of a report, as far as a node cannot invent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A host, by the address from which it has connected.
    Host(IpAddr),
    /// An agent of a site that is all on loopback, by the address that it names. There is nothing better, and
    /// a process on that host can do anything anyway.
    Agent(SocketAddr),
}

/// What is reported: a holder could not be reached, or its bytes of a key were wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// The reported holder.
    pub holder: Holder,
    /// The key whose bytes were wrong; `None` if the holder could not be reached.
    pub wrong: Option<Key>,
}

impl Subject {
    fn ttl(&self) -> Duration {
        if self.wrong.is_some() { REPORT_WRONG_TTL } else { REPORT_TTL }
    }
}

/// What was done with a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It was new here, or would soon have ended: the other servers should have it, too.
    News,
    /// It was known already.
    Known,
    /// It was dropped: there is no room for it, or its source has used up its share.
    Full,
}

/// A host that the log has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The host.
    pub holder: Holder,
    /// Log index of its last write.
    pub written: u64,
    /// Whether the host is in answers.
    pub visible: bool,
}

/// All reports that count, by what they say.
#[derive(Debug, Default)]
pub struct ReportTable {
    lists: HashMap<Subject, List>,
    /// How many lists each source is in.
    sources: HashMap<Source, usize>,
    /// How many lists are long enough to have an effect, if none of their reports has ended meanwhile.
    effective: usize,
}

#[derive(Debug, Default)]
struct List {
    /// At most [`REPORTERS_WANTED`] reports: more would change nothing.
    reports: Vec<Report>,
    /// The log index that was applied when the last report came: a later write shows that the holder is
    /// alive.
    index: u64,
}

#[derive(Clone, Copy, Debug)]
struct Report {
    source: Source,
    until: Duration,
}

impl List {
    fn is_effective(&self) -> bool {
        self.reports.len() >= REPORTERS_WANTED
    }

    fn counts(&self, now: Duration) -> bool {
        self.reports.iter().filter(|report| now < report.until).count() >= REPORTERS_WANTED
    }
}

impl ReportTable {
    /// Adds a report of `subject` by `source`; `index` is the log index that is applied here.
    pub fn add(&mut self, subject: Subject, source: Source, index: u64, now: Duration) -> Taken {
        let ttl = subject.ttl();
        let full = self.lists.len() >= REPORTED_MAX && !self.lists.contains_key(&subject);
        let share = self.sources.get(&source).copied().unwrap_or(0);
        let listed =
            self.lists.get(&subject).is_some_and(|list| list.reports.iter().any(|s| s.source == source));
        if !listed && (full || share >= REPORTS_PER_NODE_MAX) {
            return Taken::Full;
        }
        let list = self.lists.entry(subject).or_default();
        list.index = index;
        let news = |ended: Duration| if ended < now + ttl / 2 { Taken::News } else { Taken::Known };
        let new = Report { source, until: now + ttl };
        if let Some(report) = list.reports.iter_mut().find(|report| report.source == source) {
            return news(std::mem::replace(report, new).until);
        }
        *self.sources.entry(source).or_default() += 1;
        if list.is_effective() {
            let oldest = list.reports.iter_mut().min_by_key(|report| report.until).expect("it is not empty");
            let oldest = std::mem::replace(oldest, new);
            self.release(oldest.source);
            return news(oldest.until);
        }
        list.reports.push(new);
        self.effective += usize::from(list.is_effective());
        Taken::News
    }

    /// Ends the reports that `holder` could not be reached: it is alive. Returns whether there were any.
    pub fn alive(&mut self, holder: &Holder) -> bool {
        self.remove(&Subject { holder: holder.clone(), wrong: None })
    }

    /// Brings the reports up to what is applied. `all` says that `changed` has every host there is.
    pub fn follow(&mut self, changed: &[Changed], gone: &[Holder], all: bool) {
        for holder in gone {
            self.alive(holder);
        }
        for Changed { holder, written, visible } in changed {
            let subject = Subject { holder: holder.clone(), wrong: None };
            if self.lists.get(&subject).is_some_and(|list| list.index < *written || !visible) {
                self.remove(&subject);
            }
        }
        if all {
            let known: HashSet<_> = changed.iter().map(|changed| &changed.holder).collect();
            let lost = self.lists.keys().filter(|subject| !known.contains(&subject.holder));
            let lost: Vec<_> = lost.cloned().collect();
            for subject in lost {
                self.remove(&subject);
            }
        }
    }

    /// Forgets reports that have ended.
    pub fn expire(&mut self, now: Duration) {
        let mut ended = Vec::new();
        self.effective = 0;
        self.lists.retain(|_, list| {
            list.reports.retain(|report| {
                let counts = now < report.until;
                if !counts {
                    ended.push(report.source);
                }
                counts
            });
            self.effective += usize::from(list.is_effective());
            !list.reports.is_empty()
        });
        for source in ended {
            self.release(source);
        }
    }

    /// Whether there are no reports.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// How many holders are ranked last, and how many pairs of holder and key are left out. Some of them may
    /// have ended since the last [`ReportTable::expire`].
    pub fn effective(&self) -> usize {
        self.effective
    }

    /// The reputation of each holder of `key` in `group`.
    pub fn reputation(&self, group: &str, key: &Key, now: Duration) -> impl FnMut(SocketAddr) -> Reputation {
        let holder = Holder { group: group.to_owned(), address: SocketAddr::new([0, 0, 0, 0].into(), 0) };
        let mut wrong = Subject { holder: holder.clone(), wrong: Some(key.clone()) };
        let mut unreached = Subject { holder, wrong: None };
        move |address| {
            wrong.holder.address = address;
            unreached.holder.address = address;
            let counts = |subject: &Subject| self.lists.get(subject).is_some_and(|list| list.counts(now));
            match () {
                () if counts(&wrong) => Reputation::LeftOut,
                () if counts(&unreached) => Reputation::Last,
                () => Reputation::Sound,
            }
        }
    }

    fn remove(&mut self, subject: &Subject) -> bool {
        let Some(list) = self.lists.remove(subject) else { return false };
        self.effective -= usize::from(list.is_effective());
        for report in list.reports {
            self.release(report.source);
        }
        true
    }

    fn release(&mut self, source: Source) {
        if let Some(count) = self.sources.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.sources.remove(&source);
            }
        }
    }
}

#[cfg(test)]
mod tests;
