//! What the supervisor waits for: descriptors, and a time. It has no async runtime: everything that it does is
//! tried again after each wait, and says in the next one what it still needs.

use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// One wait, from its list to its end.
#[derive(Debug, Default)]
pub(super) struct Wait<'a> {
    descriptors: Vec<PollFd<'a>>,
    until: Option<Instant>,
}

impl<'a> Wait<'a> {
    /// Ends the wait when there is something to read, or nothing any more.
    pub(super) fn readable(&mut self, descriptor: &'a impl AsFd) {
        self.descriptors.push(PollFd::new(descriptor, PollFlags::IN));
    }

    /// Ends the wait when something can be written.
    pub(super) fn writable(&mut self, descriptor: &'a impl AsFd) {
        self.descriptors.push(PollFd::new(descriptor, PollFlags::OUT));
    }

    /// Ends the wait at `time`, if not before.
    pub(super) fn until(&mut self, time: Instant) {
        self.until = Some(self.until.map_or(time, |until| until.min(time)));
    }

    /// Waits.
    pub(super) fn wait(mut self) -> io::Result<()> {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        let left = left.map(|left| Timespec::try_from(left).expect("at most minutes"));
        match poll(&mut self.descriptors, left.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::time::Duration;

    #[test]
    fn a_wait_ends_at_its_earliest_time_or_when_there_is_something_to_read() {
        let (reader, mut writer) = io::pipe().unwrap();
        let begun = Instant::now();
        let mut wait = Wait::default();
        wait.readable(&reader);
        wait.until(begun + Duration::from_millis(20));
        wait.until(begun + Duration::from_secs(3600));
        wait.wait().unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(20));

        writer.write_all(b"x").unwrap();
        let mut wait = Wait::default();
        wait.readable(&reader);
        wait.wait().unwrap();
    }
}
