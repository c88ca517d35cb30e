//! One child process: started, watched, started again, stopped.

use std::cell::Cell;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child as Process, Command};

use super::{UpError, lines};
use crate::cli::Exit;
use crate::limits::{CHILD_BACK_OFF, CHILD_HEALTHY_AFTER, UP_STOP_TIMEOUT};
use crate::task::Stop;
use crate::value::format_duration;

/// Program and arguments of a child, and the pid of the running process.
#[derive(Debug)]
pub(super) struct Child {
    name: String,
    binary: PathBuf,
    arguments: Vec<String>,
    pid: Cell<Option<u32>>,
}

/// Why a process ended.
enum Ended {
    /// It ended without having been asked to.
    Early(ExitStatus),
    /// It was asked to stop.
    Stopped,
}

impl Child {
    pub(super) fn new(name: String, binary: PathBuf, arguments: Vec<String>) -> Self {
        Self { name, binary, arguments, pid: Cell::new(None) }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Pid of the running process; `None` while none runs.
    pub(super) fn pid(&self) -> Option<u32> {
        self.pid.get()
    }

    /// Keeps the child running until `stop`, then stops it. Must be polled from the thread that lives
    /// longest: the kernel kills the child when the thread that started it ends.
    pub(super) async fn keep(&self, stop: &Stop) -> Result<(), UpError> {
        let mut pause = CHILD_BACK_OFF.0;
        while !stop.is_cancelled() {
            let started = Instant::now();
            let status = match self.run_once(stop).await? {
                Ended::Stopped => return Ok(()),
                Ended::Early(status) => status,
            };
            if status.code() == Some(Exit::Usage as i32) {
                return Err(UpError::BadChild { name: self.name.clone() });
            }
            if status.code() == Some(Exit::Removed as i32) {
                tracing::warn!("{} was removed from its cluster; the others go on without it", self.name);
                stop.cancelled().await;
                return Ok(());
            }
            if started.elapsed() >= CHILD_HEALTHY_AFTER {
                pause = CHILD_BACK_OFF.0;
            }
            let (how, wait) = (describe(status), format_duration(pause));
            tracing::warn!("{} ended: {how}; starting it again in {wait}", self.name);
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
            pause = (pause * 2).min(CHILD_BACK_OFF.1);
        }
        Ok(())
    }

    async fn run_once(&self, stop: &Stop) -> Result<Ended, UpError> {
        let mut process = self.start()?;
        let pid = process.id().expect("not waited for yet");
        self.pid.set(Some(pid));
        tracing::info!(pid, "{} started", self.name);
        let log = process.stderr.take().expect("its stderr is a pipe");
        let mut whole = std::pin::pin!(async {
            let (status, ()) = tokio::join!(process.wait(), lines::copy(&self.name, log));
            status
        });
        let ended = tokio::select! {
            status = &mut whole => status.map(Ended::Early),
            () = stop.cancelled() => {
                self.signal(pid, Signal::TERM);
                match tokio::time::timeout(UP_STOP_TIMEOUT, &mut whole).await {
                    Ok(status) => tracing::info!("{} stopped: {}", self.name, status.map_or_else(|e| e.to_string(), describe)),
                    Err(_) => {
                        tracing::error!("{} did not stop in time; killing it", self.name);
                        self.signal(pid, Signal::KILL);
                    }
                }
                Ok(Ended::Stopped)
            }
        };
        self.pid.set(None);
        ended.map_err(|source| UpError::Io { action: "wait for", what: self.name.clone(), source })
    }

    fn start(&self) -> Result<Process, UpError> {
        Command::new(&self.binary)
            .args(&self.arguments)
            // The child gets its settings as arguments; the file of `piccolo up` has other keys.
            .env_remove("PICCOLO_CONFIG")
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C goes to the whole foreground process group; only `piccolo up` must act on it.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| UpError::Io { action: "start", what: self.name.clone(), source })
    }

    fn signal(&self, pid: u32, signal: Signal) {
        // The process has not been waited for, so that the pid is still its own.
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a pid of the system is one");
        if let Err(error) = kill_process(pid, signal) {
            tracing::debug!("{} could not be sent a signal: {error}", self.name);
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(0), _) => "exit code 0".to_owned(),
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}
