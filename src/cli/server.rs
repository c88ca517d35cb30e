//! `piccolo server`: one discovery server.

use super::parent::{self, EXIT_WITH_PARENT};
use super::signals::Signals;
use super::{CliError, Exit, Invocation, Subcommand, process};
use crate::config::{self, Layers};
use crate::server;
use crate::task::Stop;

/// The subcommand.
pub(super) const SERVER: Subcommand = Subcommand {
    name: "server",
    about: "Run one discovery server",
    examples: "\
Examples:
  piccolo server --data-dir /var/lib/piccolo                            a cluster of one
  piccolo server --data-dir /var/lib/piccolo --insecure \\
      --cluster node-1:7790,node-2:7790,node-3:7790                     the same on each of three hosts

The list is fixed text, the same everywhere; each server finds its own entry. A server that has data goes \
on as what its data says. --insecure is needed as long as raft has no TLS: keep its port in a network that \
you trust. TIME is like 500ms, 2s, 31m, 24h or 1m30s.",
    settings: &[("", config::SERVER), ("", EXIT_WITH_PARENT)],
    words: &[],
    registries: false,
    run,
};

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let ((config, parent), _) = invocation.configure(read)?;
    parent::exit_with(parent)?;
    process::block_on_all_cores(async {
        let mut signals = Signals::catch()?;
        let stop = Stop::new();
        tokio::select! {
            result = server::run(config, stop.clone(), |_| ()) => Ok(result?),
            () = signals.stop_then_give_up(&stop) => Err(CliError::StoppedTwice),
        }
    })?;
    Ok(Exit::Done)
}

fn read(layers: &mut Layers) -> Option<(server::Config, Option<u32>)> {
    let config = config::server(layers);
    let parent = layers.optional("exit-with-parent", parent::pid);
    Some((config?, parent))
}
