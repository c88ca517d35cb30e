//! Cache of what is known about registries: the outcome for each repository, and the tags for which
//! containerd was sent to its registry without fetching anything since. Pure, except for the handles of
//! running probes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::outcome::{Last, Outcome};
use super::probe::Progress;
use crate::limits::{ORIGIN_ASKED_AGAIN, ORIGIN_PROBE_FRESH, ORIGIN_PROBE_TTL, ORIGIN_TAGS_MAX, ORIGINS_MAX};

/// A running probe.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) since: Instant,
    pub(super) progress: Arc<Progress>,
    /// Its outcome, once it has ended.
    pub(super) ended: watch::Receiver<Option<Outcome>>,
    /// The outcome of the probe before.
    pub(super) last: Option<Last>,
}

/// The answer of the cache.
#[derive(Debug)]
pub(super) enum Consulted {
    Known(Outcome),
    Join(Running),
    /// A probe has to run; with the outcome of the last one.
    Start(Option<Last>),
    /// There is no room for another probe.
    Full,
}

#[derive(Debug, Default)]
struct Entry {
    last: Option<(Instant, Last)>,
    running: Option<Running>,
}

/// The cache of one agent.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Entries by `registry/repository`.
    entries: HashMap<String, Entry>,
    /// Registries none of whose hosts accepted a connection. That holds for all their repositories.
    gone: HashMap<String, Instant>,
    /// Tags for which containerd was sent to the registry, with the time, by `registry/repository`; the
    /// latest is last.
    sent_away: HashMap<String, Vec<(String, Instant)>>,
}

impl Memory {
    /// Whether containerd was sent to its registry for this tag a moment ago, and has fetched nothing of the
    /// repository since.
    pub(super) fn is_asked_again(&self, repository: &str, tag: &str, now: Instant) -> bool {
        let mut sent = self.sent_away.get(repository).into_iter().flatten();
        sent.any(|(of, at)| of == tag && now - *at < ORIGIN_ASKED_AGAIN)
    }

    /// Records that containerd is sent to its registry for this tag.
    pub(super) fn sent_away(&mut self, repository: &str, tag: &str, now: Instant) {
        if self.sent_away.len() >= ORIGINS_MAX && !self.sent_away.contains_key(repository) {
            let last = |sent: &Vec<(String, Instant)>| sent.last().map(|(_, at)| *at);
            let oldest =
                self.sent_away.iter().min_by_key(|(_, sent)| last(sent)).map(|(name, _)| name.clone());
            oldest.map(|oldest| self.sent_away.remove(&oldest));
        }
        let sent = self.sent_away.entry(repository.to_owned()).or_default();
        sent.retain(|(of, at)| of != tag && now - *at < ORIGIN_ASKED_AGAIN);
        if sent.len() >= ORIGIN_TAGS_MAX {
            sent.remove(0);
        }
        sent.push((tag.to_owned(), now));
    }

    /// Records that content of a repository is asked for by digest, which means that its registry has
    /// answered for a tag.
    pub(super) fn fetched(&mut self, repository: impl FnOnce() -> String) {
        if !self.sent_away.is_empty() {
            self.sent_away.remove(&repository());
        }
    }

    /// The answer for a repository. A known outcome is valid for a shorter time where a tag is asked for
    /// again.
    pub(super) fn consult(
        &mut self,
        (registry, repository): (&str, &str),
        is_asked_again: bool,
        now: Instant,
    ) -> Consulted {
        let age_max = if is_asked_again { ORIGIN_PROBE_FRESH } else { ORIGIN_PROBE_TTL };
        let is_fresh = |at: Instant, age_max: Duration| now - at < age_max;
        if self.gone.get(registry).is_some_and(|at| is_fresh(*at, ORIGIN_PROBE_TTL)) {
            return Consulted::Known(Outcome::Gone);
        }
        let Some(entry) = self.entry(repository) else { return Consulted::Full };
        let known = entry.last.filter(|(at, _)| is_fresh(*at, age_max));
        match (known, &entry.running) {
            (Some((_, last)), _) => Consulted::Known(last.outcome),
            (None, Some(running)) => Consulted::Join(running.clone()),
            (None, None) => Consulted::Start(entry.last.map(|(_, last)| last)),
        }
    }

    /// Records that a probe of a repository runs.
    pub(super) fn started(&mut self, repository: &str, running: Running) {
        if let Some(entry) = self.entries.get_mut(repository) {
            entry.running = Some(running);
        }
    }

    /// Records the outcome of a probe.
    pub(super) fn ended(&mut self, (registry, repository): (&str, &str), last: Last, now: Instant) {
        if last.outcome == Outcome::Gone {
            self.gone.retain(|_, at| now - *at < ORIGIN_PROBE_TTL);
            if self.gone.len() < ORIGINS_MAX {
                self.gone.insert(registry.to_owned(), now);
            }
        } else {
            self.gone.remove(registry);
        }
        if let Some(entry) = self.entries.get_mut(repository) {
            *entry = Entry { last: Some((now, last)), running: None };
        }
    }

    /// The entry of a repository. The entry that was probed longest ago makes room for a new one.
    fn entry(&mut self, repository: &str) -> Option<&mut Entry> {
        if self.entries.len() >= ORIGINS_MAX && !self.entries.contains_key(repository) {
            let idle = self.entries.iter().filter(|(_, entry)| entry.running.is_none());
            let oldest =
                idle.min_by_key(|(_, entry)| entry.last.map(|(at, _)| at)).map(|(name, _)| name.clone());
            self.entries.remove(&oldest?);
        }
        Some(self.entries.entry(repository.to_owned()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const R: (&str, &str) = ("r.example", "r.example/app");

    fn last(outcome: Outcome) -> Last {
        Last { outcome, took: Duration::from_millis(5) }
    }

    fn known(memory: &mut Memory, of: (&str, &str), again: bool, now: Instant) -> Option<Outcome> {
        match memory.consult(of, again, now) {
            Consulted::Known(outcome) => Some(outcome),
            Consulted::Join(_) | Consulted::Start(_) | Consulted::Full => None,
        }
    }

    #[test]
    fn an_answer_holds_for_ten_seconds_and_for_one_when_the_tag_is_asked_for_again() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        assert_eq!(known(&mut memory, R, false, start), None);
        memory.ended(R, last(Outcome::Answers), start);
        for (seconds, again, expected) in [
            (0, true, Some(Outcome::Answers)),
            (1, true, None),
            (9, false, Some(Outcome::Answers)),
            (10, false, None),
        ] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(known(&mut memory, R, again, now), expected, "{seconds} s, {again}");
        }
    }

    #[test]
    fn a_registry_that_is_gone_is_gone_for_all_its_repositories_and_one_that_is_half_down_is_not() {
        let (mut memory, start) = (Memory::default(), Instant::now());
        let other = ("r.example", "r.example/other");
        memory.consult(R, false, start);
        memory.ended(R, last(Outcome::HalfDown), start);
        assert_eq!(known(&mut memory, other, false, start), None);
        memory.ended(R, last(Outcome::Gone), start);
        assert_eq!(known(&mut memory, other, false, start), Some(Outcome::Gone));
        assert_eq!(known(&mut memory, ("s.example", "s.example/app"), false, start), None);
        memory.ended(other, last(Outcome::Answers), start);
        assert_eq!(known(&mut memory, R, false, start), Some(Outcome::Gone), "its own answer still holds");
        assert_eq!(known(&mut memory, R, false, start + Duration::from_secs(10)), None);
    }

    #[test]
    fn a_tag_is_asked_for_again_until_something_is_fetched() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        assert!(!memory.is_asked_again(R.1, "v1", now));
        memory.sent_away(R.1, "v1", now);
        assert!(memory.is_asked_again(R.1, "v1", now) && !memory.is_asked_again(R.1, "v2", now));
        assert!(!memory.is_asked_again("r.example/other", "v1", now));
        assert!(!memory.is_asked_again(R.1, "v1", now + ORIGIN_ASKED_AGAIN));
        memory.fetched(|| "r.example/other".to_owned());
        assert!(memory.is_asked_again(R.1, "v1", now));
        // Two deployments of one repository, asked for in turn.
        memory.sent_away(R.1, "v2", now);
        assert!(memory.is_asked_again(R.1, "v1", now) && memory.is_asked_again(R.1, "v2", now));
        memory.fetched(|| R.1.to_owned());
        assert!(!memory.is_asked_again(R.1, "v1", now) && !memory.is_asked_again(R.1, "v2", now));
        (0..=ORIGIN_TAGS_MAX).for_each(|tag| memory.sent_away(R.1, &tag.to_string(), now));
        assert!(!memory.is_asked_again(R.1, "0", now) && memory.is_asked_again(R.1, "1", now));
    }

    #[test]
    fn the_memory_is_bounded() {
        let (mut memory, now) = (Memory::default(), Instant::now());
        for number in 0..ORIGINS_MAX + 10 {
            let (registry, name) = (format!("r-{number}.example"), format!("r-{number}.example/app"));
            memory.consult((&registry, &name), false, now);
            memory.ended((&registry, &name), last(Outcome::Gone), now);
            memory.sent_away(&name, "v1", now);
        }
        let lengths = [memory.entries.len(), memory.sent_away.len(), memory.gone.len()];
        assert_eq!(lengths, [ORIGINS_MAX; 3]);
    }
}
