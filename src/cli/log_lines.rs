//! Log lines on stderr that never block the process. If nobody reads the pipe (a frozen `piccolo up`, a stuck
//! log driver), lines are dropped.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::limits::LOG_READER_WAIT;

/// Lines dropped since the last one that was written.
static LOST: AtomicU64 = AtomicU64::new(0);

/// A writer that writes each line whole or drops it.
#[derive(Debug)]
pub(super) struct LogLines;

impl Write for LogLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        // Only the first line waits for the reader; while lines are being dropped, waiting again would delay
        // each of them.
        let wait = if LOST.load(Ordering::Relaxed) == 0 { LOG_READER_WAIT } else { Duration::ZERO };
        if !has_room(&stderr, wait) {
            LOST.fetch_add(1, Ordering::Relaxed);
            return Ok(line.len());
        }
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost > 0 {
            write_lost(&mut stderr, line, lost)?;
        }
        stderr.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes the number of dropped lines, in the format of `line`, which follows it.
fn write_lost(to: &mut impl Write, line: &[u8], lost: u64) -> io::Result<()> {
    if line.starts_with(b"{") {
        writeln!(
            to,
            "{{\"level\":\"WARN\",\"message\":\"log lines were dropped: nobody read them\",\"lines\":{lost}}}"
        )
    } else {
        writeln!(to, "WARN log lines were dropped: nobody read them lines={lost}")
    }
}

/// True if `target` can take a line within `wait`. A pipe is writable when a page is free, which is more than
/// a line.
fn has_room(target: &impl AsFd, wait: Duration) -> bool {
    let wait = Timespec::try_from(wait).expect("a short time");
    let mut asked = [PollFd::new(target, PollFlags::OUT)];
    // If poll fails, the write is tried.
    poll(&mut asked, Some(&wait)).map_or(true, |_| !asked[0].revents().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_pipe_has_no_room_and_an_emptied_or_closed_one_has() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut lines = 0;
        while has_room(&writer, Duration::ZERO) {
            (&writer).write_all(&[b'x'; 1024]).unwrap();
            lines += 1;
        }
        assert!(lines > 0);
        assert!(!has_room(&writer, Duration::from_millis(1)));
        io::Read::read_exact(&mut reader, &mut vec![0; lines * 1024]).unwrap();
        assert!(has_room(&writer, Duration::ZERO));
        drop(reader);
        assert!(has_room(&writer, Duration::ZERO), "the write tells the error");
    }

    #[test]
    fn dropped_lines_are_reported_in_the_format_of_the_others() {
        let written = |line: &[u8]| {
            let mut text = Vec::new();
            write_lost(&mut text, line, 7).unwrap();
            String::from_utf8(text).unwrap()
        };
        assert!(written(b"2026 INFO x").ends_with("lines=7\n"));
        let json: serde_json::Value = serde_json::from_str(&written(b"{\"level\":\"INFO\"}")).unwrap();
        assert_eq!(json["lines"], 7);
    }
}
