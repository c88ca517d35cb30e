//! `piccolo agent`: the agent of one node.

use super::parent::{self, EXIT_WITH_PARENT};
use super::signals::Signals;
use super::{CliError, Exit, Invocation, Subcommand, process};
use crate::agent;
use crate::config::{self, Layers, WITHOUT_COUNTERPART};
use crate::task::Stop;

/// The subcommand.
pub(super) const AGENT: Subcommand = Subcommand {
    name: "agent",
    about: "Run the agent of this node: containerd's mirror, and blob server for the other nodes",
    examples: "\
Examples:
  piccolo agent --servers http://node-1:7789,http://node-2:7789,http://node-3:7789
  piccolo agent --servers http://node-1:7789 --layout /media/images     seed a site from a disk

What is shared is decided for each registry in the file of --config; the first value is the default:
  [registry.\"registry.example.com:5000\"]
  tags = \"origin-first\"                  peers, origin, off: who says what a tag is
  manifests = \"peers\"                    origin: each pull is checked by the registry
  blobs = \"peers\"                        origin: config and layers come from it, too
  filter = [\":latest$\"]                 what matches is not shared; default: nothing
  origin = \"http://10.0.0.9:5000\"         where https://<name> is wrong
  ca = \"/etc/ssl/registry.pem\"           its CA, if it has one of its own
  [registry._default]                    for all registries without a table

TIME is like 500ms, 2s, 31m, 24h or 1m30s. Variables of the Go pi are understood ([also: …]).",
    settings: &[("", config::AGENT), ("", EXIT_WITH_PARENT)],
    word: None,
    registries: true,
    run,
};

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let ((config, parent), _) = invocation.configure(read)?;
    parent::exit_with(parent)?;
    for name in WITHOUT_COUNTERPART.iter().filter(|name| invocation.given.environment.contains_key(**name)) {
        tracing::warn!(variable = name, "ignored: this setting of the Go pi has no counterpart here");
    }
    process::block_on_all_cores(async {
        let mut signals = Signals::catch()?;
        let stop = Stop::new();
        let ready = |addresses: agent::Addresses| {
            let agent::Addresses { mirror, peer, metrics, advertise } = addresses;
            tracing::info!(%mirror, %peer, %metrics, %advertise, "serving");
        };
        tokio::select! {
            result = agent::run(config, stop.clone(), ready) => Ok(result?),
            () = signals.stop_then_give_up(&stop) => Err(CliError::StoppedTwice),
        }
    })?;
    Ok(Exit::Done)
}

fn read(layers: &mut Layers) -> Option<(agent::Config, Option<u32>)> {
    let config = config::agent(layers);
    let parent = layers.optional("exit-with-parent", parent::pid);
    Some((config?, parent))
}
