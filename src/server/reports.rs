//! What nodes have reported of holders, and what follows. Soft state in one server's memory; pure:
//! the time is an argument.
//!
//! A report counts for a while and once for each [`Source`]. While [`REPORTERS_WANTED`] of them
//! count, the holder is ranked last (it could not be had), or is left out of the answers for one key
//! (its bytes were wrong). The first ends as soon as the holder is heard of; the second with time
//! only, for a heartbeat says nothing about bytes.

pub mod pass_on;

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use piccolo_raft::model::{Holder, Key};

use crate::limits::{REPORT_TTL, REPORT_WRONG_TTL, REPORTED_MAX, REPORTERS_WANTED, REPORTS_PER_NODE_MAX};
use crate::server::ranking::Standing;

/// Who reports, as far as it cannot be made up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A host, by the address that its connection came from.
    Host(IpAddr),
    /// An agent of a site that is all on loopback, by what it calls itself: there is nothing better,
    /// and whoever is on that host can do anything.
    Agent(SocketAddr),
}

/// A holder that could not be had, or with a key: whose bytes of that key were wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Subject {
    /// Who.
    pub holder: Holder,
    /// `None`: whatever is asked of it.
    pub wrong: Option<Key>,
}

impl Subject {
    fn ttl(&self) -> Duration {
        if self.wrong.is_some() { REPORT_WRONG_TTL } else { REPORT_TTL }
    }
}

/// What became of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It is new here, or its older like would soon have ended: the other servers want it, too.
    News,
    /// It was known.
    Known,
    /// There is no room for it, or its source has filled its share.
    Full,
}

/// A host that the log has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Which.
    pub holder: Holder,
    /// Log index of its last write.
    pub written: u64,
    /// Whether it is in answers.
    pub visible: bool,
}

/// All reports that count.
#[derive(Debug, Default)]
pub struct Reports {
    lists: HashMap<Subject, List>,
    /// How many lists each source is in.
    sources: HashMap<Source, usize>,
    /// Lists that are long enough to matter, if none of them has ended meanwhile.
    effective: usize,
}

#[derive(Debug, Default)]
struct List {
    /// At most [`REPORTERS_WANTED`]: more would change nothing.
    said: Vec<Said>,
    /// Log index applied when the last report came: a write behind it is a sign of life.
    index: u64,
}

#[derive(Clone, Copy, Debug)]
struct Said {
    source: Source,
    until: Duration,
}

impl List {
    fn is_effective(&self) -> bool {
        self.said.len() >= REPORTERS_WANTED
    }

    fn counts(&self, now: Duration) -> bool {
        self.said.iter().filter(|said| now < said.until).count() >= REPORTERS_WANTED
    }
}

impl Reports {
    /// `source` says this of `subject`; `index` is what is applied here.
    pub fn add(&mut self, subject: Subject, source: Source, index: u64, now: Duration) -> Taken {
        let ttl = subject.ttl();
        let full = self.lists.len() >= REPORTED_MAX && !self.lists.contains_key(&subject);
        let share = self.sources.get(&source).copied().unwrap_or(0);
        let listed =
            self.lists.get(&subject).is_some_and(|list| list.said.iter().any(|s| s.source == source));
        if !listed && (full || share >= REPORTS_PER_NODE_MAX) {
            return Taken::Full;
        }
        let list = self.lists.entry(subject).or_default();
        list.index = index;
        let news = |ended: Duration| if ended < now + ttl / 2 { Taken::News } else { Taken::Known };
        let new = Said { source, until: now + ttl };
        if let Some(said) = list.said.iter_mut().find(|said| said.source == source) {
            return news(std::mem::replace(said, new).until);
        }
        *self.sources.entry(source).or_default() += 1;
        if list.is_effective() {
            let oldest = list.said.iter_mut().min_by_key(|said| said.until).expect("it is not empty");
            let oldest = std::mem::replace(oldest, new);
            self.release(oldest.source);
            return news(oldest.until);
        }
        list.said.push(new);
        self.effective += usize::from(list.is_effective());
        Taken::News
    }

    /// The holder was heard of; whether that changes anything.
    pub fn heard(&mut self, holder: &Holder) -> bool {
        self.remove(&Subject { holder: holder.clone(), wrong: None })
    }

    /// Brings the reports up to what is applied. `all`: who is not in `changed` is no more.
    pub fn follow(&mut self, changed: &[Changed], gone: &[Holder], all: bool) {
        for holder in gone {
            self.heard(holder);
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

    /// Forgets what has ended.
    pub fn expire(&mut self, now: Duration) {
        let mut ended = Vec::new();
        self.effective = 0;
        self.lists.retain(|_, list| {
            list.said.retain(|said| {
                let counts = now < said.until;
                if !counts {
                    ended.push(said.source);
                }
                counts
            });
            self.effective += usize::from(list.is_effective());
            !list.said.is_empty()
        });
        for source in ended {
            self.release(source);
        }
    }

    /// Whether nobody is reported.
    pub fn is_empty(&self) -> bool {
        self.lists.is_empty()
    }

    /// Holders ranked last, and pairs of holder and key left out; some of them may have ended since
    /// the last [`Reports::expire`].
    pub fn effective(&self) -> usize {
        self.effective
    }

    /// What is to be made of the holders of `key` in `group`.
    pub fn standing(&self, group: &str, key: &Key, now: Duration) -> impl FnMut(SocketAddr) -> Standing {
        let holder = Holder { group: group.to_owned(), address: SocketAddr::new([0, 0, 0, 0].into(), 0) };
        let mut wrong = Subject { holder: holder.clone(), wrong: Some(key.clone()) };
        let mut unheard = Subject { holder, wrong: None };
        move |address| {
            wrong.holder.address = address;
            unheard.holder.address = address;
            let counts = |subject: &Subject| self.lists.get(subject).is_some_and(|list| list.counts(now));
            match () {
                () if counts(&wrong) => Standing::LeftOut,
                () if counts(&unheard) => Standing::Last,
                () => Standing::Sound,
            }
        }
    }

    fn remove(&mut self, subject: &Subject) -> bool {
        let Some(list) = self.lists.remove(subject) else { return false };
        self.effective -= usize::from(list.is_effective());
        for said in list.said {
            self.release(said.source);
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
