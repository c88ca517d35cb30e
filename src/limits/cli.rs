//! Limits of commands: the agent's supervisor, `piccolo up`, and short ones.

use std::time::Duration;

use super::DRAIN_TIMEOUT;

/// Time between two requests of the agent's supervisor to its worker.
pub const WORKER_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Size of the worker's answer to its supervisor, bytes: far more than it has.
pub const WORKER_PROBE_ANSWER_BYTES_MAX: usize = 4096;
/// Time without an answer after which a worker is killed.
pub const WORKER_SILENT_MAX: Duration = Duration::from_secs(3);
/// Time between two updates of a worker's silence.
pub const WORKER_SILENCE_TICK: Duration = Duration::from_millis(100);
/// Time that one update adds to a worker's silence at most: the supervisor may have been stopped or starved
/// for longer, together with the worker.
pub const WORKER_SILENCE_COUNTED_MAX: Duration = Duration::from_millis(500);
/// Time for a new worker to become ready; it may have to wait for the resolver.
pub const WORKER_START_TIMEOUT: Duration = Duration::from_secs(60);
/// First and longest pause before a worker that ended is started again.
pub const WORKER_BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Time of serving after which a worker counts as able to serve.
pub const WORKER_HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// Time for a worker to drain and end: a little more than it needs, and less than `piccolo up` gives to the
/// whole agent.
pub const WORKER_STOP_TIMEOUT: Duration = DRAIN_TIMEOUT.saturating_add(Duration::from_secs(7));
/// Time that the supervisor waits for a killed worker. One that hangs in the kernel is abandoned.
pub const WORKER_KILLED_TIMEOUT: Duration = Duration::from_secs(2);
/// Concurrent connections on one port that the supervisor answers while no worker runs.
pub const STAND_IN_CONNECTIONS_MAX: usize = 256;
/// Time for one connection that the supervisor answers in place of a worker.
pub const STAND_IN_TIMEOUT: Duration = Duration::from_secs(2);
/// Time at the end in which the supervisor still accepts connections that are being made.
pub const STAND_IN_LAST_LOOK: Duration = Duration::from_millis(50);

/// First and longest pause before `piccolo up` restarts a child that ended.
pub const CHILD_BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Time after which a child of `piccolo up` counts as able to start.
pub const CHILD_HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// Time for a child of `piccolo up` to stop: a little more than the longest that it needs.
pub const UP_STOP_TIMEOUT: Duration = DRAIN_TIMEOUT.saturating_add(Duration::from_secs(10));
/// Longest line of a child's log, bytes; longer ones are split.
pub const CHILD_LINE_BYTES_MAX: u64 = 64 * 1024;
/// Time between two checks of `piccolo up` whether its servers are ready.
pub const READY_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Time for a server's answer to a readiness check of `piccolo up`.
pub const READY_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after which `piccolo up` logs again what is still missing.
pub const READY_REMIND_AFTER: Duration = Duration::from_secs(10);

/// Time that a log line waits for a slow reader.
pub const LOG_READER_WAIT: Duration = Duration::from_millis(100);
/// Time that a command waits for the answer of a server, as long as a person would wait.
pub const COMMAND_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Flights that `piccolo status` shows.
pub const FLIGHTS_SHOWN_MAX: usize = 20;
/// Time that a command waits for the answer of the agent on this node.
pub const AGENT_ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// Time for one holder to tell `piccolo find` what a tag is there.
pub const FIND_HOLDER_TIMEOUT: Duration = Duration::from_secs(2);

/// Time for one step of a changed membership, as the command line waits for it.
pub const MEMBERS_STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Pause between two questions how far a changed membership is.
pub const MEMBERS_POLL_INTERVAL: Duration = Duration::from_millis(300);
/// Time after which the command line gives up a changed membership that stands still.
pub const MEMBERS_PATIENCE_DEFAULT: Duration = Duration::from_secs(60);
/// Shortest and longest time that `--patience` may have.
pub const MEMBERS_PATIENCE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// Time after which the progress of a changed membership is told again where stderr is no terminal.
pub const MEMBERS_PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Time without a byte after which the command line gives up a snapshot.
pub const SNAPSHOT_SILENT_MAX: Duration = Duration::from_secs(60);
/// Time between two shows of the progress of a snapshot on a terminal.
pub const SNAPSHOT_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Size of what the command line reads of a snapshot's file at a time, bytes.
pub const SNAPSHOT_READ_BYTES: usize = 1024 * 1024;

/// Shortest `dial_timeout` that `piccolo mirror install` writes.
pub const DIAL_TIMEOUT_MIN: Duration = Duration::from_millis(10);
/// Longest `dial_timeout` that `piccolo mirror install` writes: containerd's own.
pub const DIAL_TIMEOUT_MAX: Duration = Duration::from_secs(30);
/// Time that one `piccolo mirror install` or `remove` waits for another one that works on the same folder.
pub const MIRROR_LOCK_WAIT: Duration = Duration::from_secs(30);
/// Pause between two attempts to lock the folder of `--certs-dir`.
pub const MIRROR_LOCK_PAUSE: Duration = Duration::from_millis(20);
/// Time for `containerd config dump` to end.
pub const CONTAINERD_DUMP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for containerd to tell `piccolo mirror check` its version.
pub const CONTAINERD_VERSION_TIMEOUT: Duration = Duration::from_secs(3);
