//! Limits of time and memory for an input, and panics on any thread.
//!
//! The running input is in a file, so that it is still there if the process is killed, aborts, or overflows
//! its stack.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::targets::Target;

/// Longest time for one input. None needs a hundredth of it on an idle machine.
pub const INPUT_TIME_MAX: Duration = Duration::from_secs(20);
/// Memory that one input of at most [`INPUT_BYTES_MAX`](crate::corpus::INPUT_BYTES_MAX) may add to the
/// process, bytes.
pub const INPUT_MEMORY_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Memory of the process, bytes: an allocation beyond it fails, and aborts the process instead of the
/// machine.
const PROCESS_MEMORY_BYTES_MAX: u64 = 3 * 1024 * 1024 * 1024;

/// Messages of panics on any thread since the last read.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A violation that an input caused.
#[derive(Debug)]
pub struct Finding {
    /// Description of the violation.
    pub what: String,
}

/// Runs inputs one after the other.
pub struct Watch {
    /// Path of the running input.
    current: PathBuf,
    /// Milliseconds from `start` to the start of the running input; 0: none runs.
    began: Arc<AtomicU64>,
    start: Instant,
}

impl Watch {
    /// A watch that keeps the running input in `folder`. From now on panics are recorded instead of printed,
    /// and the memory of this process is limited.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(folder: &Path) -> io::Result<Self> {
        note_panics();
        limit_memory();
        fs::create_dir_all(folder)?;
        let watch = Self {
            current: folder.join("current"),
            began: Arc::new(AtomicU64::new(0)),
            start: Instant::now(),
        };
        watch.guard_time();
        Ok(watch)
    }

    /// Path of the running input.
    pub fn current(&self) -> &Path {
        &self.current
    }

    /// Runs one input.
    ///
    /// # Errors
    /// The violation that the input caused.
    pub fn run(&self, target: &Target, input: &[u8]) -> Result<(), Finding> {
        fs::write(&self.current, input).expect("the folder takes a small file");
        let before = peak_memory_bytes();
        self.began.store(self.start.elapsed().as_millis().max(1) as u64, Ordering::SeqCst);
        let ended = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
        self.began.store(0, Ordering::SeqCst);
        let panics = std::mem::take(&mut *PANICS.lock().expect("nothing panics while it notes"));
        if ended.is_err() || !panics.is_empty() {
            return Err(Finding { what: panics.join("\n") });
        }
        let more = peak_memory_bytes().saturating_sub(before);
        if more > INPUT_MEMORY_BYTES_MAX {
            return Err(Finding { what: format!("{} MiB of memory for one input", more >> 20) });
        }
        Ok(())
    }

    /// Starts a thread that ends the process when an input takes too long, because a hanging input cannot be
    /// stopped.
    fn guard_time(&self) {
        let (began, start, current) = (Arc::clone(&self.began), self.start, self.current.clone());
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(200));
                let since = began.load(Ordering::SeqCst);
                let took = start.elapsed().saturating_sub(Duration::from_millis(since));
                if since > 0 && took > INPUT_TIME_MAX {
                    eprintln!("an input takes longer than {INPUT_TIME_MAX:?}: {}", current.display());
                    std::process::abort();
                }
            }
        });
    }
}

fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let backtrace = std::backtrace::Backtrace::force_capture();
            let mut panics = PANICS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            panics.push(format!("{info}\n{}", own_frames(&backtrace.to_string())));
        }));
    });
}

/// Frames of this workspace and of openraft in a backtrace.
fn own_frames(backtrace: &str) -> String {
    let lines: Vec<&str> = backtrace.lines().collect();
    let ours = |line: &str| line.contains("piccolo") || line.contains("openraft");
    lines.windows(2).filter(|pair| ours(pair[0])).map(|pair| pair.join("\n")).collect::<Vec<_>>().join("\n")
}

fn limit_memory() {
    let limit = getrlimit(Resource::Data);
    let current = limit.current.map_or(PROCESS_MEMORY_BYTES_MAX, |now| now.min(PROCESS_MEMORY_BYTES_MAX));
    setrlimit(Resource::Data, Rlimit { current: Some(current), ..limit }).expect("a limit may be lowered");
}

/// Peak memory of this process.
fn peak_memory_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
}
