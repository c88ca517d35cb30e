//! One child process with its log, ended when dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const POLL: Duration = Duration::from_millis(5);
/// A daemon that takes longer to start or stop is broken.
pub(crate) const DAEMON_TIMEOUT: Duration = Duration::from_secs(60);

/// A daemon of the bench.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; what it prints goes to `<folder>/<name>.log`.
    pub(crate) fn start(folder: &Path, name: &str, mut command: Command) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("could not create {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("could not share the log")?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("could not start {name} ({command:?})"))?;
        Ok(Self { child, log })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a pid is not zero");
        kill_process(pid, signal).context("could not signal a child")
    }

    /// Waits until it has ended by itself or by a signal.
    pub(crate) fn wait_end(mut self, time: Duration) -> Result<()> {
        let child = &mut self.child;
        within("a child ends", time, || child.try_wait().context("could not look after a child"))?;
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Asks it to end, and gives it `time` to do so in good order.
    pub(crate) fn stop(self, time: Duration) -> Result<()> {
        self.signal(Signal::TERM)?;
        self.wait_end(time)
    }

    /// Polls until `ready` gives a value; fails early when the process ends.
    pub(crate) fn wait_until<T>(&mut self, what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let end = Instant::now() + DAEMON_TIMEOUT;
        loop {
            if let Some(value) = ready() {
                return Ok(value);
            }
            let ended = self.child.try_wait().context("could not look after a child")?;
            if ended.is_some() || Instant::now() > end {
                let state = ended.map_or("still running".to_owned(), |status| status.to_string());
                bail!("not seen: {what} ({state}); its log:\n{}", self.log());
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a pid is not zero");
        kill_process(pid, Signal::TERM).ok();
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(POLL);
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("could not start {command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        bail!("{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

/// Polls until `condition` gives a value.
pub(crate) fn within<T>(
    what: &str,
    time: Duration,
    mut condition: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + time;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() > end {
            bail!("not within {time:?}: {what}");
        }
        std::thread::sleep(POLL);
    }
}
