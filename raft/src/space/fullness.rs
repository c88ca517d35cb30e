//! How full is too full: the marks of a disk, and the level between them. Pure.

use crate::disk::Space;
use crate::limits::{
    BALLAST_BYTES, BALLAST_SHARE, CRITICAL_SHARE, GRACE_BYTES_MAX, GRACE_SHARE, MINIMUM_BYTES_LEAST,
    MINIMUM_BYTES_MOST, MINIMUM_SHARE, MINIMUM_SHARE_MOST, RESUME_SHARE,
};

/// What free bytes are compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Marks {
    /// Free bytes below which the disk is low.
    pub(crate) minimum: u64,
    /// From here on it has room again.
    pub(crate) resume: u64,
    /// Free bytes below which the disk is critical.
    pub(crate) critical: u64,
    /// How large the ballast is.
    pub(crate) ballast: u64,
    /// Entries that are taken although it is low.
    pub(crate) grace: u64,
}

impl Marks {
    /// The marks of a disk of `total` bytes. `setting` is what the operator wants: the minimum, 0 to watch nothing,
    /// or `None` for what fits the disk.
    pub(crate) fn of(setting: Option<u64>, total: u64) -> Self {
        let fitting = (total / MINIMUM_SHARE)
            .clamp(MINIMUM_BYTES_LEAST, MINIMUM_BYTES_MOST)
            .min(total / MINIMUM_SHARE_MOST);
        Self::above(setting.unwrap_or(fitting), total)
    }

    fn above(minimum: u64, total: u64) -> Self {
        Self {
            minimum,
            resume: minimum + minimum / RESUME_SHARE,
            critical: minimum / CRITICAL_SHARE,
            ballast: BALLAST_BYTES.min(total / BALLAST_SHARE).min(minimum / 2),
            grace: GRACE_BYTES_MAX.min(minimum / GRACE_SHARE),
        }
    }

    /// These marks with a minimum of at least `wanted` bytes.
    pub(crate) fn at_least(self, wanted: u64) -> Self {
        if wanted <= self.minimum {
            return self;
        }
        Self { minimum: wanted, resume: wanted.max(self.resume), ..self }
    }

    /// Whether the ballast can be made and the disk still has room.
    pub(crate) fn has_room_for_ballast(&self, space: Space) -> bool {
        self.ballast > 0 && space.free_bytes >= self.resume + self.ballast
    }
}

/// Where the free bytes are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fullness {
    /// The disk has room.
    #[default]
    Fine,
    /// The node stores no more entries.
    Low,
    /// The next write may fail.
    Critical,
}

impl Fullness {
    /// What `free` bytes are after this level: who was low is so until there is clearly more.
    pub(crate) fn next(self, free: u64, marks: &Marks) -> Self {
        match free {
            _ if free < marks.critical => Fullness::Critical,
            _ if free < marks.minimum => Fullness::Low,
            _ if free < marks.resume && self != Fullness::Fine => Fullness::Low,
            _ => Fullness::Fine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    #[test]
    fn the_minimum_fits_the_disk() {
        for (what, total, minimum) in [
            ("a test's", 64 * MIB, 16 * MIB),
            ("a small volume", 2 * GIB, 512 * MIB),
            ("where a gibibyte begins to be a quarter", 4 * GIB, GIB),
            ("where 5 % begin to be more", 20 * GIB, GIB),
            ("a usual disk", 100 * GIB, 5 * GIB),
            ("a large disk", 4096 * GIB, 8 * GIB),
        ] {
            assert_eq!(Marks::of(None, total).minimum, minimum, "{what}");
        }
    }

    #[test]
    fn marks_are_in_order_on_every_disk() {
        for total in (10..=45).map(|power| 1 << power) {
            for setting in [None, Some(0), Some(1), Some(3 * MIB), Some(GIB), Some(1 << 50)] {
                let marks = Marks::of(setting, total);
                let Marks { minimum, resume, critical, ballast, grace } = marks;
                assert!(critical <= minimum && minimum <= resume, "{marks:?}");
                assert!(ballast <= minimum && ballast <= total && grace <= minimum - critical, "{marks:?}");
            }
        }
    }

    #[test]
    fn nothing_is_watched_with_zero() {
        let marks = Marks::of(Some(0), GIB);
        assert_eq!(Fullness::Fine.next(0, &marks), Fullness::Fine);
        assert_eq!(marks.ballast, 0);
    }

    #[test]
    fn a_level_holds_until_there_is_clearly_more() {
        let marks = Marks::of(Some(800), 1 << 40);
        assert_eq!((marks.critical, marks.resume), (100, 900));
        use Fullness::{Critical, Fine, Low};
        for (before, free, after) in [
            (Fine, 800, Fine),
            (Fine, 799, Low),
            (Fine, 99, Critical),
            (Low, 899, Low),
            (Low, 900, Fine),
            (Low, 100, Low),
            (Low, 99, Critical),
            (Critical, 100, Low),
            (Critical, 899, Low),
            (Critical, 900, Fine),
        ] {
            assert_eq!(before.next(free, &marks), after, "{before:?} at {free}");
        }
    }

    #[test]
    fn a_snapshot_that_wants_more_raises_the_minimum() {
        let marks = Marks::of(Some(800), 1 << 40);
        assert_eq!(marks.at_least(800), marks);
        let raised = marks.at_least(5000);
        assert_eq!((raised.minimum, raised.resume, raised.critical), (5000, 5000, 100));
    }

    #[test]
    fn the_ballast_is_made_only_where_room_is_left_beside_it() {
        let marks = Marks::of(Some(800), 1 << 40);
        let space = |free_bytes| Space { free_bytes, total_bytes: 1 << 40 };
        assert_eq!(marks.ballast, 400);
        assert!(!marks.has_room_for_ballast(space(1299)));
        assert!(marks.has_room_for_ballast(space(1300)));
        assert!(!Marks::of(Some(0), 1 << 40).has_room_for_ballast(space(1 << 40)));
    }
}
