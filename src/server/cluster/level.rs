//! The level of the cluster, as `status` and `/metrics` show it.

use std::time::Duration;

use metrics::{describe_gauge, gauge};
use piccolo_raft::cluster::{LevelStatus, NO_WAY_BACK, NextLevel};
use piccolo_raft::format::{Level, Range};
use piccolo_raft::limits::ACTIVATE_AFTER;

use crate::api;

/// A level as answers show it.
pub fn answer(status: LevelStatus) -> api::LevelStatus {
    let LevelStatus { active, reads, next } = status;
    api::LevelStatus {
        active: active.0,
        lowest: reads.lowest,
        highest: reads.highest,
        next: next.map(|next| next.level.0),
        begins_in_seconds: next.map(|next| next.begins_in.as_secs()),
        way_back: way_back(status),
    }
}

/// A range of levels as answers show it.
pub fn range(reads: Range) -> api::LevelRange {
    api::LevelRange { lowest: reads.lowest, highest: reads.highest }
}

fn way_back(status: LevelStatus) -> String {
    let LevelStatus { active, reads, next } = status;
    match next {
        Some(NextLevel { level, begins_in }) => format!(
            "servers can go back to the version before until {level} begins: in {} if all members go on to \
             know it, or with piccolo members activate",
            in_words(begins_in)
        ),
        None if reads.highest > active.0 => format!(
            "servers can go back to the version before: {} begins {} after all members know it",
            Level(reads.highest),
            in_words(ACTIVATE_AFTER)
        ),
        None if active > Level::FIRST => NO_WAY_BACK.to_owned(),
        None => "servers can go back to every version that knows it".to_owned(),
    }
}

/// Hours and minutes, rounded up.
fn in_words(duration: Duration) -> String {
    let minutes = duration.as_secs().div_ceil(60);
    match (minutes / 60, minutes % 60) {
        (0, minutes) => format!("{minutes} min"),
        (hours, 0) => format!("{hours} h"),
        (hours, minutes) => format!("{hours} h {minutes} min"),
    }
}

/// Describes the gauges of the level.
pub fn describe() {
    describe_gauge!("piccolo_level", "level of the cluster: what its servers write");
    describe_gauge!("piccolo_level_highest", "highest level that this server's version knows");
    describe_gauge!("piccolo_level_next", "level that begins next; 0: none is on its way");
    describe_gauge!(
        "piccolo_level_next_begins_in_seconds",
        "time until the next level begins, if all members go on to know it; the leader knows best"
    );
}

/// Sets the gauges of the level.
pub fn set_gauges(status: LevelStatus) {
    let LevelStatus { active, reads, next } = status;
    gauge!("piccolo_level").set(f64::from(active.0));
    gauge!("piccolo_level_highest").set(f64::from(reads.highest));
    gauge!("piccolo_level_next").set(next.map_or(0.0, |next| f64::from(next.level.0)));
    gauge!("piccolo_level_next_begins_in_seconds").set(next.map_or(0.0, |next| next.begins_in.as_secs_f64()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_is_shown_until_it_is_gone() {
        let status = |active, highest, next: Option<u64>| {
            let next = next
                .map(|seconds| NextLevel { level: Level(highest), begins_in: Duration::from_secs(seconds) });
            way_back(LevelStatus { active: Level(active), reads: Range { lowest: 1, highest }, next })
        };
        for (told, words) in [
            (status(1, 1, None), "can go back to every version"),
            (status(1, 2, None), "level 2 begins 24 h after all members know it"),
            (status(1, 2, Some(85_801)), "until level 2 begins: in 23 h 51 min if all"),
            (status(2, 3, Some(59)), "until level 3 begins: in 1 min if all"),
            (status(2, 2, None), "not possible any more"),
        ] {
            assert!(told.contains(words), "{told}");
        }
    }
}
