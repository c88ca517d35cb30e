//! When the next level begins. Decides, without I/O, by what all members say they can read.
//!
//! It is not a matter of clocks on walls: counted is the time in which a leader looked and all members could
//! run at the level, by its monotonic clock. What was counted is replicated in pieces of [`LEVEL_NOTE_INTERVAL`]
//! ([`crate::command::Command::Readable`]), so that a new leader goes on from there: a change of leaders costs
//! less than one piece, and no clock that is wrong can take the way back from an operator too early. A member
//! that is silent stops the count; one that cannot run at the level ends it.

use std::time::Duration;

use crate::format::{Level, Levels, Next, Reads};
use crate::limits::{ACTIVATE_AFTER, LEVEL_NOTE_INTERVAL, LEVELS_LOOK_INTERVAL};

/// When the next level begins, and how that is counted.
#[derive(Clone, Copy, Debug)]
pub struct LevelTimes {
    /// Time for which all members must have been able to run at a level before it is activated.
    pub activate_after: Duration,
    /// Counted time that one replicated note carries.
    pub note_interval: Duration,
    /// Between two looks of a leader.
    pub look_interval: Duration,
}

impl Default for LevelTimes {
    fn default() -> Self {
        Self {
            activate_after: ACTIVATE_AFTER,
            note_interval: LEVEL_NOTE_INTERVAL,
            look_interval: LEVELS_LOOK_INTERVAL,
        }
    }
}

/// The next step of a leader towards the next level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There is nothing to do for now.
    Wait,
    /// What was counted is to be replicated.
    Note(Next),
    /// A member cannot run at the level that was on its way: nothing is on its way any more.
    GiveUp,
    /// The time has passed: the level is to begin.
    Activate(Level),
}

/// What a leader has counted and not replicated yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Count {
    /// What is replicated: while that changes, the count begins anew.
    of: Option<Next>,
    counted: Duration,
}

impl Count {
    /// What is counted for `next`, replicated or not.
    pub(super) fn total(&self, next: Next) -> Duration {
        let counted = if self.of == Some(next) { self.counted } else { Duration::ZERO };
        Duration::from_secs(next.seconds) + counted
    }
}

/// The highest level above the active one, and not above `most`, that all of them can run at, this build
/// included.
pub(super) fn common(active: Level, most: Level, members: &[Option<Reads>]) -> Option<Level> {
    let highest = Reads::of_this_build().highest().min(most);
    let can = |level: &Level| members.iter().flatten().all(|reads| reads.can_run_at(*level));
    (active.0 + 1..=highest.0).rev().map(Level).find(can)
}

/// One look of a leader, `passed` after the one before; `members` is what each of the others last said, `None`
/// of one that is silent.
pub(super) fn look(
    count: &mut Count,
    times: &LevelTimes,
    levels: Levels,
    members: &[Option<Reads>],
    passed: Duration,
) -> Step {
    let silent = members.iter().any(Option::is_none);
    let common = common(levels.active, Reads::of_this_build().highest(), members);
    match (levels.next, common) {
        (Some(_), None) => Step::GiveUp,
        (None, None) => Step::Wait,
        (Some(next), Some(level)) if next.level == level => {
            if count.of != Some(next) {
                *count = Count { of: Some(next), counted: Duration::ZERO };
            }
            if silent {
                return Step::Wait;
            }
            count.counted += passed;
            let total = count.total(next);
            if total >= times.activate_after {
                Step::Activate(level)
            } else if count.counted >= times.note_interval {
                Step::Note(Next { level, seconds: total.as_secs() })
            } else {
                Step::Wait
            }
        }
        // Of a level that not all can run at any more nothing is left, whoever is silent.
        (Some(next), Some(level)) if level < next.level => Step::Note(Next { level, seconds: 0 }),
        (_, Some(_)) if silent => Step::Wait,
        (_, Some(level)) => Step::Note(Next { level, seconds: 0 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn old() -> Option<Reads> {
        Some(Reads::levels(Level::FIRST, Level::FIRST))
    }

    fn new() -> Option<Reads> {
        Some(Reads::levels(Level::FIRST, Level(2)))
    }

    /// A leader that looks each second at the same members, and what is replicated of it.
    struct Leader {
        levels: Levels,
        count: Count,
        notes: usize,
    }

    impl Leader {
        fn new(levels: Levels) -> Self {
            Self { levels, count: Count::default(), notes: 0 }
        }

        /// True once the level begins.
        fn looks(&mut self, times: u64, members: &[Option<Reads>]) -> bool {
            for _ in 0..times {
                match look(&mut self.count, &LevelTimes::default(), self.levels, members, SECOND) {
                    Step::Wait => {}
                    Step::Note(next) => {
                        self.notes += 1;
                        self.levels.next = Some(next);
                    }
                    Step::GiveUp => self.levels.next = None,
                    Step::Activate(level) => {
                        self.levels = Levels { active: level, next: None };
                        return true;
                    }
                }
            }
            false
        }
    }

    /// What an operator, or the count of a day, allows is all that begins, whatever members can do by then.
    #[test]
    fn no_level_begins_above_the_one_that_was_counted() {
        let _next = crate::format::next::on_this_thread();
        let all = [new(), new()];
        assert_eq!(common(Level::FIRST, Level(2), &all), Some(Level(2)));
        assert_eq!(common(Level::FIRST, Level::FIRST, &all), None);
    }

    const DAY: u64 = ACTIVATE_AFTER.as_secs();

    #[test]
    fn a_level_begins_a_day_after_all_members_can_run_at_it_and_not_before() {
        let _next = crate::format::next::on_this_thread();
        let mut leader = Leader::new(Levels::default());
        assert!(!leader.looks(3 * DAY, &[new(), old()]) && leader.levels.next.is_none(), "one cannot");
        assert!(!leader.looks(3 * DAY, &[new(), None]) && leader.levels.next.is_none(), "one is silent");
        assert!(!leader.looks(DAY, &[new(), new()]), "the first look only notes it");
        assert!(leader.looks(2, &[new(), new()]));
        assert_eq!(leader.levels, Levels { active: Level(2), next: None });
        assert!(leader.notes <= 24 * 6 + 1, "{} entries in a day", leader.notes);
        assert!(!leader.looks(DAY, &[new(), new()]), "there is no further one");
    }

    #[test]
    fn a_new_leader_goes_on_counting_where_the_one_before_was() {
        let _next = crate::format::next::on_this_thread();
        let mut levels = Levels::default();
        let term = 3600;
        for hour in 0..30 {
            let mut leader = Leader::new(levels);
            if leader.looks(term, &[new(), new()]) {
                assert!((24..29).contains(&hour), "after {hour} hours");
                return;
            }
            levels = leader.levels;
        }
        panic!("30 terms of an hour were not enough");
    }

    #[test]
    fn a_silent_member_stops_the_count_and_one_that_went_back_ends_it() {
        let _next = crate::format::next::on_this_thread();
        let mut leader = Leader::new(Levels::default());
        assert!(!leader.looks(DAY / 2, &[new(), new()]));
        let before = leader.levels.next.unwrap();
        assert!(!leader.looks(3 * DAY, &[None, new()]));
        assert_eq!(leader.levels.next, Some(before), "silence says nothing about what it can read");
        assert!(!leader.looks(1, &[None, old()]));
        assert_eq!(leader.levels.next, None, "one of them went back, whoever is silent");
        assert!(!leader.looks(DAY, &[new(), new()]), "it begins anew");
        assert!(leader.looks(2, &[new(), new()]));
    }

    #[test]
    fn an_older_leader_gives_up_what_it_cannot_run_at() {
        let next = Some(Next { level: Level(2), seconds: DAY - 1 });
        let mut leader = Leader::new(Levels { active: Level::FIRST, next });
        assert!(!leader.looks(1, &[new(), new()]));
        assert_eq!(leader.levels.next, None);
    }
}
