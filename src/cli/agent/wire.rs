//! A worker as its supervisor has it: a pid, and a wire on which it says how it is.

use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::handover::Ports;
use super::wait::Wait;
use super::{HANDED_OVER, WORKER_OF};
use crate::cli::CliError;
use rustix::process::{Pid, Signal, kill_process};

/// This very program, also after its file was replaced.
const RUNNING: &str = "/proc/self/exe";

/// What a worker says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Its ports are served.
    Serving,
    /// It accepts no more.
    Stopping,
}

impl Word {
    /// On the wire.
    pub(super) fn byte(self) -> u8 {
        match self {
            Word::Serving => b'R',
            Word::Stopping => b'S',
        }
    }

    fn of(byte: u8) -> Option<Self> {
        [Word::Serving, Word::Stopping].into_iter().find(|word| word.byte() == byte)
    }
}

/// The last argument of a supervisor. It stands behind the arguments that the operator gave, and is looked for
/// before any of them is parsed.
const SUPERVISE: &str = "--supervise";

/// How this program was called.
#[derive(Debug)]
pub(in crate::cli) struct Program {
    /// Where it is, and where a new version will be.
    path: PathBuf,
    /// Without the name, and without what only we say to ourselves.
    arguments: Vec<OsString>,
}

impl Program {
    /// Of this process.
    pub(super) fn this() -> Result<Self, CliError> {
        let path = std::env::current_exe()
            .map_err(|source| CliError::Process { action: "find the path of this program", source })?;
        let mut given = std::env::args_os();
        // A link that an upgrade turns to the next version is better than what it points to now.
        let called = given.next().map(PathBuf::from).filter(|called| called.is_absolute());
        let path = called.filter(|called| is_same_file(called, &path)).unwrap_or(path);
        let handed_over = OsString::from(format!("--{HANDED_OVER}"));
        Ok(Self { path, arguments: given.filter(|argument| *argument != handed_over).collect() })
    }

    /// Of a process that [`Self::become_supervisor`] has started; `None`: it was started by somebody else.
    pub(super) fn of_supervisor(arguments: &[OsString]) -> Option<Self> {
        match arguments {
            [path, given @ .., last] if last == SUPERVISE => {
                Some(Self { path: path.into(), arguments: given.to_vec() })
            }
            _ => None,
        }
    }

    /// Whether another version lies at our path.
    pub(super) fn is_replaced(&self) -> bool {
        self.path.exists() && !is_same_file(&self.path, Path::new(RUNNING))
    }

    /// The same program again, or the version that lies at its path.
    fn command(&self, newest: bool) -> Command {
        let newest = newest && self.is_replaced();
        let mut command = Command::new(if newest { self.path.as_path() } else { Path::new(RUNNING) });
        command.arg0(&self.path).args(&self.arguments);
        command
    }

    /// Becomes the supervisor, the same version as this process; returns only if that fails.
    pub(super) fn become_supervisor(&self, stdin: OwnedFd) -> io::Error {
        self.command(false).arg(SUPERVISE).stdin(Stdio::from(stdin)).exec()
    }

    /// Names this process after its file for `ps` and `top`: the kernel calls it after the link that it was
    /// started by.
    pub(super) fn name_process(&self) {
        let name = self.path.file_name().and_then(|name| CString::new(name.as_encoded_bytes()).ok());
        if let Err(error) = rustix::thread::set_name(&name.unwrap_or_default()) {
            tracing::debug!(%error, "could not name this process");
        }
    }

    /// Becomes the version at our path; returns only if that fails.
    pub(super) fn become_newest(&self, stdin: OwnedFd) -> io::Error {
        self.command(true).arg(format!("--{HANDED_OVER}")).stdin(Stdio::from(stdin)).exec()
    }
}

/// What glibc's allocator reads at the start of a worker.
///
/// One heap for all threads: it makes one for each that finds the others busy, and each keeps what a scan
/// has once taken. Blocks of this size, four buffers of a connection, go back to the system at once, and
/// so does that much at the end of the heap; left alone, both limits grow with the largest block freed.
const ALLOCATOR: [(&str, &str); 3] =
    [("MALLOC_ARENA_MAX", "1"), ("MALLOC_MMAP_THRESHOLD_", "1048576"), ("MALLOC_TRIM_THRESHOLD_", "1048576")];

/// What of it the operator has not decided.
fn allocator() -> impl Iterator<Item = (&'static str, &'static str)> {
    ALLOCATOR.into_iter().filter(|(name, _)| std::env::var_os(name).is_none())
}

fn is_same_file(a: &Path, b: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    identity(a).is_some_and(|a| Some(a) == identity(b))
}

/// A worker that was started and not yet waited for.
#[derive(Debug)]
pub(super) struct Worker {
    pid: Pid,
    wire: Option<UnixStream>,
}

impl Worker {
    /// Starts one on `ports`. It must be called from the main thread: the kernel ends the worker with
    /// the thread that started it.
    pub(super) fn start(program: &Program, ports: &Ports, newest: bool) -> io::Result<Self> {
        let (wire, stdin) = ports.for_worker()?;
        let child = program
            .command(newest)
            .args([format!("--{WORKER_OF}"), std::process::id().to_string()])
            .envs(allocator())
            .stdin(Stdio::from(stdin))
            // Ctrl-C goes to the whole foreground group; only the supervisor is to act on it.
            .process_group(0)
            .spawn()?;
        wire.set_nonblocking(true)?;
        Ok(Self { pid: Pid::from_child(&child), wire: Some(wire) })
    }

    /// One that an earlier version of this process has started.
    pub(super) fn take_over(pid: i32, wire: Option<OwnedFd>) -> io::Result<Self> {
        let pid = Pid::from_raw(pid).ok_or_else(|| io::Error::other("0 is no pid"))?;
        let wire = wire.map(UnixStream::from);
        wire.iter().try_for_each(|wire| wire.set_nonblocking(true))?;
        Ok(Self { pid, wire })
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    pub(super) fn wire(&self) -> Option<&UnixStream> {
        self.wire.as_ref()
    }

    /// Ends a wait when it says something.
    pub(super) fn wait_for<'a>(&'a self, wait: &mut Wait<'a>) {
        self.wire.iter().for_each(|wire| wait.readable(wire));
    }

    /// What it has said next; `None`: nothing yet. A wire that is closed says nothing more: the end of a process
    /// has its own signal.
    pub(super) fn says(&mut self) -> Option<Word> {
        loop {
            let mut byte = [0];
            match self.wire.as_mut()?.read(&mut byte) {
                Ok(1) => match Word::of(byte[0]) {
                    Some(word) => return Some(word),
                    None => tracing::debug!(byte = byte[0], "a worker said what this version does not know"),
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => self.wire = None,
            }
        }
    }

    /// It was not waited for yet, so that the pid is still its own.
    pub(super) fn signal(&self, signal: Signal) {
        if let Err(error) = kill_process(self.pid, signal) {
            tracing::debug!(pid = self.pid(), %error, "could not signal a worker");
        }
    }
}
