//! Ends a child of `piccolo up` with its parent, even if the parent is killed with -9.

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::CliError;
use crate::config::Setting;
use crate::value;

/// Flag that `piccolo up` gives to its children.
pub(super) const EXIT_WITH_PARENT: &[Setting] =
    &[Setting::new("exit-with-parent", "PID", "End when this parent process ends").hide()];

/// Parses a pid.
pub(super) fn pid(given: &str) -> value::Parsed<u32> {
    value::number(given, 1, i32::MAX as u32)
}

/// Makes the kernel kill this process when its parent ends. It is SIGKILL because nobody is left to kill a
/// process that hangs, and because acknowledged writes are on disk.
///
/// The kernel ties this to the *thread* that started the process: `piccolo up` starts its children from its
/// main thread, which lives as long as the process.
pub(super) fn exit_with(parent: Option<u32>) -> Result<(), CliError> {
    let Some(parent) = parent else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|errno| CliError::Process {
        action: "tie this process to its parent",
        source: errno.into(),
    })?;
    // The parent may have ended before the call above.
    let alive = getppid().is_some_and(|pid| pid.as_raw_nonzero().get().unsigned_abs() == parent);
    if alive { Ok(()) } else { Err(CliError::ParentGone { parent }) }
}
