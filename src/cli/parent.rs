//! A child of `piccolo up` must not outlive it, even if that is killed with -9.

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

use super::CliError;
use crate::config::Setting;
use crate::value;

/// Set by `piccolo up` for its children.
pub(super) const EXIT_WITH_PARENT: &[Setting] =
    &[Setting::new("exit-with-parent", "PID", "End when this parent process ends").hide()];

/// A pid.
pub(super) fn pid(given: &str) -> value::Parsed<u32> {
    value::number(given, 1, i32::MAX as u32)
}

/// From here on the kernel kills this process when its parent ends. SIGKILL, because nobody is left
/// to finish off one that hangs, and what was acknowledged is on disk.
///
/// The kernel ties this to the *thread* that started us: `piccolo up` starts its children from its
/// main thread, which lives as long as it.
pub(super) fn exit_with(parent: Option<u32>) -> Result<(), CliError> {
    let Some(parent) = parent else { return Ok(()) };
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|errno| CliError::Process {
        action: "tie this process to its parent",
        source: errno.into(),
    })?;
    // It may have ended before the call above.
    let alive = getppid().is_some_and(|pid| pid.as_raw_nonzero().get().unsigned_abs() == parent);
    if alive { Ok(()) } else { Err(CliError::ParentGone { parent }) }
}
