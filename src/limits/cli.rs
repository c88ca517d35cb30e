//! Limits of the commands: the agent's supervisor, `piccolo up`, and those that ask and end.

use std::time::Duration;

use super::DRAIN_TIMEOUT;

/// Time between two requests of the agent's supervisor to its worker.
pub const WORKER_PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// Size of the worker's answer to its supervisor, bytes: far more than it has.
pub const WORKER_PROBE_ANSWER_BYTES_MAX: u64 = 4096;
/// Time without an answer after which a worker is killed.
pub const WORKER_SILENT_MAX: Duration = Duration::from_secs(3);
/// Time between two counts of a worker's silence.
pub const WORKER_SILENCE_TICK: Duration = Duration::from_millis(100);
/// Time that one count adds to a worker's silence at most: the supervisor may have been stopped or starved for longer,
/// and the worker with it.
pub const WORKER_SILENCE_COUNTED_MAX: Duration = Duration::from_millis(500);
/// Time for a new worker to serve: it may have to wait for the resolver.
pub const WORKER_START_TIMEOUT: Duration = Duration::from_secs(60);
/// First and longest pause before a worker that ended is started again.
pub const WORKER_BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// Time after which a worker that serves is not taken for one that cannot.
pub const WORKER_HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// Time for a worker to drain and end: a little more than it takes itself, and less than `piccolo up` gives to the
/// whole agent.
pub const WORKER_STOP_TIMEOUT: Duration = DRAIN_TIMEOUT.saturating_add(Duration::from_secs(7));
/// Time that the supervisor waits for a killed worker. One that hangs in the kernel is left to it.
pub const WORKER_KILLED_TIMEOUT: Duration = Duration::from_secs(2);
/// Connections on one port that the supervisor answers at once while no worker does.
pub const STAND_IN_CONNECTIONS_MAX: usize = 256;
/// Time for one connection that the supervisor answers in place of a worker.
pub const STAND_IN_TIMEOUT: Duration = Duration::from_secs(2);
/// Time at the very end in which the supervisor still accepts those who are connecting just then.
pub const STAND_IN_LAST_LOOK: Duration = Duration::from_millis(50);
/// Time that the runtime may take to tell of a signal that the handler has seen.
pub const SIGNAL_CAUGHT_WITHIN: Duration = Duration::from_millis(20);

/// First and longest pause before `piccolo up` starts a dead child again.
pub const CHILD_BACK_OFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(10));
/// Time after which a child of `piccolo up` is not taken for one that cannot start.
pub const CHILD_HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// Time for a child of `piccolo up` to stop in order: a little more than it takes itself at most.
pub const UP_STOP_TIMEOUT: Duration = DRAIN_TIMEOUT.saturating_add(Duration::from_secs(10));
/// Length of a line of a child's log, bytes: longer ones are cut into several.
pub const CHILD_LINE_BYTES_MAX: u64 = 64 * 1024;
/// Time between two looks of `piccolo up` whether its servers are ready.
pub const READY_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Time for a server's answer to the question of `piccolo up` whether it is ready.
pub const READY_ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Time after which `piccolo up` tells again what is still missing.
pub const READY_REMIND_AFTER: Duration = Duration::from_secs(10);

/// Time that a line of the log waits for a reader that is merely slow.
pub const LOG_READER_WAIT: Duration = Duration::from_millis(100);
/// Time that a command waits for the answer of a server: a person waits no longer.
pub const COMMAND_ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
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
