//! `piccolo server`: runs one discovery server.

use super::output::print;
use super::parent::{self, EXIT_WITH_PARENT};
use super::signals::Signals;
use super::snapshot::{newcomers, summary_of};
use super::{CliError, Exit, Invocation, Subcommand, process};
use crate::config::{self, Layers, Setting};
use crate::server::{self, offline};
use crate::task::Stop;

const FORCE_NEW_CLUSTER: &[Setting] = &[Setting::switch(
    "force-new-cluster",
    "Makes the server with this data folder the only one of a new cluster, with the addresses in its data, \
     when all others are lost for good; prints what to do next and ends without serving",
)];

/// The subcommand `piccolo server`.
pub(super) const SERVER: Subcommand = Subcommand {
    name: "server",
    about: "Run one discovery server",
    examples: "\
Examples:
  piccolo server --data-dir /var/lib/piccolo                            a cluster of one
  piccolo server --data-dir /var/lib/piccolo --cluster-secret /etc/piccolo/cluster-secret.pem \\
      --cluster node-1:7790,node-2:7790,node-3:7790                     the same on each of three hosts

--cluster is the same text on all servers; each finds its own entry. A server with data continues as the \
member that its data names. The secret is made once with piccolo cluster-secret create, and copied to all: \
with it servers speak TLS, and only with each other. TIME is like 500ms, 2s, 31m, 24h or 1m30s.

If a majority of servers is lost for good, including their disks:
  piccolo server --data-dir /var/lib/piccolo --force-new-cluster      on one that is left; it ends at once
  piccolo server --data-dir /var/lib/piccolo …                        as usual, without the flag
and the others join it with empty folders (piccolo members add).",
    settings: &[("", config::SERVER), ("", FORCE_NEW_CLUSTER), ("", EXIT_WITH_PARENT)],
    words: &[],
    registries: false,
    run,
};

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let ((config, force_new_cluster, parent), _) = invocation.configure(read)?;
    parent::exit_with(parent)?;
    if force_new_cluster {
        return begin_anew(&config);
    }
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

/// Makes this server a new cluster of its own, and ends. It does not serve: if the flag stayed in a unit
/// file, each start would cut the cluster apart again.
fn begin_anew(config: &server::Config) -> Result<Exit, CliError> {
    let founded = async { Ok(offline::force_new_cluster(config).await?) };
    let founded = process::block_on_this_thread(founded)?;
    let summary = summary_of(&founded);
    if founded.finished_only {
        print(&format!("this server is alone in its cluster already, nothing was changed\n{summary}"))?;
        return Ok(Exit::Done);
    }
    let left_out = match founded.left_out.is_empty() {
        true => String::new(),
        false => format!("It is no longer in a cluster with {}.\n", founded.left_out.join(", ")),
    };
    print(&format!(
        "{summary}{left_out}What the others had acknowledged and this server had not received is lost; agents \
         notice that with their next heartbeats and send what they hold.\n\
         Start it again without --force-new-cluster.\n{}",
        newcomers(&founded)
    ))?;
    Ok(Exit::Done)
}

fn read(layers: &mut Layers) -> Option<(server::Config, bool, Option<u32>)> {
    let config = config::server(layers);
    let force_new_cluster = layers.switch("force-new-cluster");
    let parent = layers.optional("exit-with-parent", parent::pid);
    Some((config?, force_new_cluster, parent))
}
