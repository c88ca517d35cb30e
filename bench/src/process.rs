//! A child process with a log, ended when dropped.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

const POLL: Duration = Duration::from_millis(5);
/// Time after which a daemon that has not started or stopped is broken.
pub(crate) const DAEMON_TIMEOUT: Duration = Duration::from_secs(60);

/// A daemon of the bench.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output in `<folder>/<name>.log`.
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

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed()).expect("a pid is not zero");
        kill_process(pid, signal).context("could not send a signal to a child")
    }

    /// Waits until the process has ended.
    pub(crate) fn wait_end(mut self, time: Duration) -> Result<()> {
        let child = &mut self.child;
        within("a child ends", time, || child.try_wait().context("could not wait for a child"))?;
        Ok(())
    }

    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Polls until `ready` returns a value; fails early if the process ends.
    pub(crate) fn wait_until<T>(&mut self, what: &str, mut ready: impl FnMut() -> Option<T>) -> Result<T> {
        let end = Instant::now() + DAEMON_TIMEOUT;
        loop {
            if let Some(value) = ready() {
                return Ok(value);
            }
            let ended = self.child.try_wait().context("could not wait for a child")?;
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

/// Runs a command to its end and returns its output.
pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("could not start {command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !output.status.success() {
        bail!("{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

/// Polls until `condition` returns a value.
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
