//! Writes that come close together go into the log together, as one append and one sync on every server.
//!
//! A commit of a few bytes costs some twenty KiB of whole pages, so at hundreds of writes a second the number
//! of commits is what wears the disks. A write waits for others as long as others are likely: while several
//! holders write within a short time. A holder has one write on its way at a time, so a lone holder never
//! waits, however fast its writes follow each other, and neither does a lone write.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, MutexGuard};

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::command::Command;
use crate::limits::{LINGER_BUSY_HOLDERS, LINGER_BUSY_WITHIN, LINGER_BYTES_MAX};
use crate::model::Holder;

/// The writes of a leader that wait for others; `R` is what becomes of one.
#[derive(Debug)]
pub(super) struct Together<R> {
    writes: Mutex<Writes<R>>,
}

#[derive(Debug)]
struct Writes<R> {
    /// When who wrote last; the oldest first, each holder once.
    recent: VecDeque<(Instant, u64)>,
    waiting: Vec<Waiting<R>>,
    bytes: usize,
    /// Ends the wait of the first.
    full: Option<oneshot::Sender<()>>,
}

/// A write that waits.
#[derive(Debug)]
pub(super) struct Waiting<R> {
    pub(super) command: Command,
    pub(super) done: oneshot::Sender<R>,
}

/// What a write that waits for others has to do.
#[derive(Debug)]
pub(super) struct Joined<R> {
    /// Comes when all of them are done.
    pub(super) result: oneshot::Receiver<R>,
    /// The first one takes them to the log: when this comes, after [`LINGER`] at the latest.
    pub(super) first: Option<oneshot::Receiver<()>>,
}

impl<R> Default for Together<R> {
    fn default() -> Self {
        let writes = Writes { recent: VecDeque::new(), waiting: Vec::new(), bytes: 0, full: None };
        Self { writes: Mutex::new(writes) }
    }
}

impl<R> Together<R> {
    /// `None`: the command of `holder` waits for nobody.
    pub(super) fn join(&self, now: Instant, holder: &Holder, command: &Command) -> Option<Joined<R>> {
        let mut writes = self.writes();
        if writes.others(now, holder) < LINGER_BUSY_HOLDERS {
            return None;
        }
        let (done, result) = oneshot::channel();
        let first = writes.waiting.is_empty().then(|| {
            let (full, is_full) = oneshot::channel();
            writes.full = Some(full);
            is_full
        });
        writes.bytes += command.bytes_at_most();
        writes.waiting.push(Waiting { command: command.clone(), done });
        if writes.bytes >= LINGER_BYTES_MAX
            && let Some(full) = writes.full.take()
        {
            full.send(()).ok();
        }
        Some(Joined { result, first })
    }

    /// The writes that wait; the next one is the first again.
    pub(super) fn take(&self) -> Vec<Waiting<R>> {
        let mut writes = self.writes();
        (writes.bytes, writes.full) = (0, None);
        std::mem::take(&mut writes.waiting)
    }

    fn writes(&self) -> MutexGuard<'_, Writes<R>> {
        self.writes.lock().expect("nothing panics while it holds the writes")
    }
}

impl<R> Writes<R> {
    /// How many others wrote lately, at most [`LINGER_BUSY_HOLDERS`]; notes that this one does now.
    fn others(&mut self, now: Instant, holder: &Holder) -> usize {
        let mut hasher = DefaultHasher::new();
        holder.hash(&mut hasher);
        let holder = hasher.finish();
        self.recent.retain(|(at, other)| now - *at < LINGER_BUSY_WITHIN && *other != holder);
        let others = self.recent.len();
        self.recent.push_back((now, holder));
        while self.recent.len() > LINGER_BUSY_HOLDERS + 1 {
            self.recent.pop_front();
        }
        others
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::command::Write;
    use crate::model::Key;

    fn unhide(number: u16) -> (Holder, Command) {
        let holder = Holder { group: "g".to_owned(), address: ([10, 0, 0, 1], number).into() };
        (holder.clone(), Command::Unhide { holder })
    }

    /// Writes that come `gap` apart, the holder of each by its number: which of them waited.
    fn waited(gap: Duration, holders: impl IntoIterator<Item = u16>) -> Vec<bool> {
        let (together, start) = (Together::<()>::default(), Instant::now());
        let writes = (0u32..).zip(holders).map(|(number, holder)| {
            let (holder, command) = unhide(holder);
            together.join(start + gap * number, &holder, &command).is_some()
        });
        writes.collect()
    }

    #[tokio::test]
    async fn a_write_waits_only_while_several_others_write() {
        let many = waited(Duration::from_millis(5), 0..200);
        assert_eq!(many.iter().filter(|waited| !**waited).count(), LINGER_BUSY_HOLDERS, "200 a second");
        assert!(waited(Duration::from_millis(60), 0..200).iter().all(|waited| !waited), "16 a second");
        let one = waited(Duration::from_millis(1), std::iter::repeat_n(7, 200));
        assert!(one.iter().all(|waited| !waited), "one holder, 1000 a second");
        let few =
            waited(Duration::from_millis(1), (0..200).map(|number| number % LINGER_BUSY_HOLDERS as u16));
        assert!(few.iter().all(|waited| !waited), "{LINGER_BUSY_HOLDERS} holders by turns");
    }

    #[tokio::test]
    async fn those_that_wait_are_taken_together_and_the_first_is_told_when_they_are_enough() {
        let (together, now) = (Together::<u16>::default(), Instant::now());
        for number in 0..LINGER_BUSY_HOLDERS as u16 {
            let (holder, command) = unhide(number);
            assert!(together.join(now, &holder, &command).is_none());
        }
        let join = |number, command: &Command| together.join(now, &unhide(number).0, command).unwrap();
        let small = unhide(100).1;
        let mut first = join(100, &small).first.expect("the first takes them");
        assert!(join(101, &small).first.is_none());
        assert!(first.try_recv().is_err(), "there is room");
        let keys = vec![Key::Sha256([7; 32]); LINGER_BYTES_MAX / 32];
        let large = Write { holder: unhide(102).0, pair: None, stores_pair: true, keys };
        assert!(join(102, &Command::Advertise(large)).first.is_none());
        first.try_recv().expect("they are enough");
        assert_eq!(together.take().len(), 3);
        assert!(join(103, &small).first.is_some(), "and the next one is the first again");
    }
}
