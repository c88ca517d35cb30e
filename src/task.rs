//! Tasks with an owner, a name and a stop signal: those of `piccolo_raft`, which runs tasks of its own.

pub use piccolo_raft::task::{Stop, TaskError, Tasks};
