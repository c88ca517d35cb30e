//! Setup of a process: logs, runtime, panic hook, descriptors.

use std::future::Future;
use std::panic;
use std::sync::Once;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::CliError;
use super::log_lines::LogLines;
use crate::config::{LogFormat, Logging};
use crate::limits::{CONNECTIONS_MAX, CONNECTIONS_OVER_LIMIT_MAX, SERVER_CONNECTIONS_MAX};

/// Open files that one busy listener needs, for its connections and for the files and fetches behind them.
const DESCRIPTORS_WANTED: u64 =
    (CONNECTIONS_MAX + CONNECTIONS_OVER_LIMIT_MAX + SERVER_CONNECTIONS_MAX) as u64 + 1_024;

/// Starts logging to stderr. A panic becomes a log line with its location.
pub(super) fn start_logging(logging: &Logging) {
    let filter: Targets = logging.filter.parse().expect("the configuration makes only such filters");
    let lines = tracing_subscriber::fmt::layer().with_writer(|| LogLines);
    let filtered = tracing_subscriber::registry().with(filter);
    let started = match logging.format {
        LogFormat::Text => {
            let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
            filtered.with(lines.with_ansi(terminal).with_target(false)).try_init()
        }
        LogFormat::Json => filtered.with(lines.json().flatten_event(true)).try_init(),
    };
    started.expect("a process starts its logs once");
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let default = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            let payload = info.payload();
            let text = payload.downcast_ref::<&str>().copied();
            let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
            tracing::error!(place, "panicked: {}", text.unwrap_or("without a text"));
            default(info);
        }));
    });
}

/// Runs `work` on a runtime with all cores. Tasks that still run when `work` ends are abandoned.
pub(super) fn block_on_all_cores<T>(work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    raise_descriptor_limit();
    finish(Builder::new_multi_thread(), work)
}

/// Raises the soft limit of open files to the hard limit. The soft limit of 1,024 that systemd and shells set
/// protects programs that use `select`, which Piccolo does not.
fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, ?current, "could not raise the limit of open files");
    }
    if let Some(maximum) = maximum.filter(|maximum| *maximum < DESCRIPTORS_WANTED) {
        let wanted = DESCRIPTORS_WANTED;
        tracing::warn!(
            maximum,
            wanted,
            "this process may open too few files for its connections: raise LimitNOFILE of the unit, or the \
             hard ulimit -n"
        );
    }
}

/// Runs a command that mostly waits, on this thread.
pub(super) fn block_on_this_thread<T>(
    work: impl Future<Output = Result<T, CliError>>,
) -> Result<T, CliError> {
    finish(Builder::new_current_thread(), work)
}

fn finish<T>(mut builder: Builder, work: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
    let runtime: Runtime = builder
        .enable_all()
        .build()
        .map_err(|source| CliError::Process { action: "start the async runtime", source })?;
    let result = runtime.block_on(work);
    runtime.shutdown_background();
    result
}
