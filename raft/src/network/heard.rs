//! What a node hears of its leader: when, and how much of the log is committed. From that a follower
//! knows whether it has all that was acknowledged to clients.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::{LAG_MARK_INTERVAL, LAG_MARKS_MAX, QUORUM_HEARD_MAX};

/// What was heard of the leader.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<LeaderContact>);

#[derive(Debug, Default)]
struct LeaderContact {
    /// When the leader was last heard.
    at: Option<Instant>,
    /// The term of that leader.
    term: u64,
    /// All that was committed when a leader was heard again, after a silence, the start or another leader, has
    /// been applied.
    caught_up: bool,
    /// Committed entries that were heard of and are not known to be applied, ascending.
    missing: VecDeque<Mark>,
}

/// A committed entry that is not applied yet.
#[derive(Clone, Copy, Debug)]
struct Mark {
    index: u64,
    /// When it, or one before it, was first heard of.
    since: Instant,
}

/// How a follower stands to its leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Following {
    /// No leader was heard for [`QUORUM_HEARD_MAX`].
    Silent,
    /// What was committed when the leader was heard again is not applied yet.
    CatchingUp,
    /// Entries up to `committed` are known to be committed and not applied, for this time; zero if there are
    /// none.
    Follows {
        /// Index of the last log entry that the leader has reported as committed.
        committed: u64,
        /// How long the server has known of an entry that it lacks.
        missing_for: Duration,
    },
}

impl LeaderContact {
    /// From now on the leader must first show what is committed.
    fn begin_anew(&mut self) {
        self.caught_up = false;
        self.missing.clear();
    }

    /// Follows what is applied here.
    fn note_applied(&mut self, applied: u64) {
        while self.missing.front().is_some_and(|mark| mark.index <= applied) {
            self.missing.pop_front();
            self.caught_up = true;
        }
    }

    /// Entries up to `committed`, which are not applied, were heard of.
    fn note_committed(&mut self, committed: u64, now: Instant) {
        // A server that catches up must not have to reach the end of a log that grows: its first mark stays.
        let count = self.missing.len();
        let is_goal = !self.caught_up && count == 1;
        match self.missing.back_mut() {
            Some(last) if committed <= last.index => {}
            Some(last) if now - last.since < LAG_MARK_INTERVAL && !is_goal => last.index = committed,
            _ if count < LAG_MARKS_MAX => self.missing.push_back(Mark { index: committed, since: now }),
            _ => {}
        }
    }
}

impl Heard {
    fn state(&self) -> MutexGuard<'_, LeaderContact> {
        self.0.lock().expect("nothing panics while it holds what was heard")
    }

    /// The leader of `term` was heard: entries up to `committed` are committed, those up to `applied` are applied
    /// here. `None` of a leader that has committed nothing of its own yet: what it says may lack the last entries
    /// that the leader before it has acknowledged.
    pub(crate) fn leader(&self, term: u64, committed: Option<u64>, applied: u64) {
        let mut state = self.state();
        let now = Instant::now();
        if state.term != term || state.at.is_none_or(|at| now - at > QUORUM_HEARD_MAX) {
            state.begin_anew();
        }
        (state.at, state.term) = (Some(now), term);
        let Some(committed) = committed else {
            state.begin_anew();
            return;
        };
        state.note_applied(applied);
        if committed <= applied {
            state.caught_up = true;
        } else {
            state.note_committed(committed, now);
        }
    }

    /// True if the leader was heard no longer ago than `age`.
    pub(crate) fn within(&self, age: Duration) -> bool {
        self.state().at.is_some_and(|at| at.elapsed() <= age)
    }

    /// How this node stands, with entries up to `applied` applied.
    pub(crate) fn standing(&self, applied: u64) -> Following {
        let mut state = self.state();
        if state.at.is_none_or(|at| at.elapsed() > QUORUM_HEARD_MAX) {
            return Following::Silent;
        }
        state.note_applied(applied);
        if !state.caught_up {
            return Following::CatchingUp;
        }
        Following::Follows {
            committed: state.missing.back().map_or(applied, |mark| mark.index),
            missing_for: state.missing.front().map_or(Duration::ZERO, |mark| mark.since.elapsed()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEARTBEAT: Duration = Duration::from_millis(100);

    fn follows(committed: u64, missing_for: Duration) -> Following {
        Following::Follows { committed, missing_for }
    }

    #[tokio::test(start_paused = true)]
    async fn who_starts_or_comes_back_is_behind_until_what_was_committed_then_is_applied() {
        let heard = Heard::default();
        assert_eq!(heard.standing(7), Following::Silent);
        heard.leader(1, Some(9), 7);
        assert_eq!(heard.standing(7), Following::CatchingUp);
        tokio::time::advance(HEARTBEAT).await;
        // Writes go on: it must not have to reach the end of a log that grows.
        heard.leader(1, Some(20), 8);
        assert_eq!(heard.standing(8), Following::CatchingUp);
        heard.leader(1, Some(30), 9);
        assert_eq!(heard.standing(9), follows(30, Duration::ZERO));
        heard.leader(1, Some(30), 30);
        assert_eq!(heard.standing(30), follows(30, Duration::ZERO));

        tokio::time::advance(QUORUM_HEARD_MAX).await;
        assert_eq!(heard.standing(30), follows(30, Duration::ZERO));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(heard.standing(30), Following::Silent);
        heard.leader(1, Some(31), 30);
        assert_eq!(heard.standing(30), Following::CatchingUp);
        assert_eq!(heard.standing(31), follows(31, Duration::ZERO));
    }

    /// A follower caught up with what a new leader had heard of, one acknowledged entry short, and said "nobody".
    #[tokio::test(start_paused = true)]
    async fn a_leader_that_has_committed_nothing_of_its_own_shows_nobody_to_be_current() {
        let heard = Heard::default();
        heard.leader(1, None, 7);
        assert_eq!(heard.standing(7), Following::CatchingUp);
        heard.leader(1, Some(9), 7);
        heard.leader(1, Some(9), 9);
        assert_eq!(heard.standing(9), follows(9, Duration::ZERO));
        // Another one, and one more that has committed an entry before it is heard here.
        heard.leader(2, None, 9);
        assert_eq!(heard.standing(9), Following::CatchingUp);
        for (term, committed) in [(2, 11), (3, 13)] {
            heard.leader(term, Some(committed), committed - 2);
            assert_eq!(heard.standing(committed - 2), Following::CatchingUp);
            assert_eq!(heard.standing(committed), follows(committed, Duration::ZERO));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lag_is_as_old_as_the_oldest_entry_that_is_missing() {
        let heard = Heard::default();
        heard.leader(1, Some(5), 5);
        for committed in 6..=15 {
            tokio::time::advance(HEARTBEAT).await;
            heard.leader(1, Some(committed), 5);
        }
        assert_eq!(heard.standing(5), follows(15, 9 * HEARTBEAT));
        // It comes forward, and is still behind what came meanwhile.
        assert_eq!(heard.standing(8), follows(15, 6 * HEARTBEAT));
        assert_eq!(heard.standing(15), follows(15, Duration::ZERO));
    }

    /// The clock of a lag began anew with each entry that was reached, so that a server which was three seconds
    /// behind counted as current most of the time.
    #[tokio::test(start_paused = true)]
    async fn a_steady_lag_is_never_taken_for_none() {
        for lag_beats in [25, 30, 300, 1000] {
            let heard = Heard::default();
            heard.leader(1, Some(1_000), 1_000);
            let mut least = Duration::MAX;
            for beat in 1..3_000 {
                tokio::time::advance(HEARTBEAT).await;
                let applied = 1_000 + (beat * 10_u64).saturating_sub(lag_beats * 10);
                heard.leader(1, Some(1_000 + beat * 10), applied);
                if beat > lag_beats + 1 {
                    let Following::Follows { missing_for, .. } = heard.standing(applied) else {
                        panic!("{beat}")
                    };
                    least = least.min(missing_for);
                }
            }
            let lag = HEARTBEAT * u32::try_from(lag_beats).unwrap();
            let told = lag.min(Duration::from_secs(8));
            assert!(least + LAG_MARK_INTERVAL + HEARTBEAT >= told, "{lag:?} is told as {least:?}");
        }
    }

    /// A restarted server that is far behind, in a stream of writes.
    #[tokio::test(start_paused = true)]
    async fn who_has_reached_its_goal_late_knows_of_all_that_came_meanwhile() {
        let heard = Heard::default();
        heard.leader(1, Some(100), 0);
        for beat in 1..=300 {
            tokio::time::advance(HEARTBEAT).await;
            heard.leader(1, Some(100 + beat), beat / 4);
        }
        let Following::Follows { missing_for, .. } = heard.standing(100) else {
            panic!("the goal is reached")
        };
        assert!(missing_for > Duration::from_secs(29), "{missing_for:?}");
    }
}
