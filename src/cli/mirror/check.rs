//! `piccolo mirror check`: tells whether containerd asks the mirror. It reads what containerd reads, and asks
//! the agent.

mod report;
mod see;

use std::path::PathBuf;

use super::config_path::{self, Containerd};
use super::install::mirror_url;
use super::registry::Registry;
use super::roots::Roots;
use super::{CERTS_DIR, k3s, standing};
use crate::cli::output::{Paint, print};
use crate::cli::{CliError, Exit, Invocation, Subcommand, agent_port, process};
use crate::config::{Fallback, Layers, Setting};
use crate::hosts_toml::hosts_in_order;
use crate::value;
use report::{Report, Seen};

/// The subcommand `piccolo mirror check`.
pub(in crate::cli) const CHECK: Subcommand = Subcommand {
    name: "check",
    about: "Tell whether containerd asks our mirror, and what to do if it does not",
    examples: "\
Examples:
  piccolo mirror check --certs-dir /etc/containerd/certs.d
  piccolo mirror check --certs-dir /etc/containerd/certs.d --registry docker.io,ghcr.io

Without --registry: all registries that have a file with our mirror. Nothing is changed.
Exit code 0: containerd asks the mirror; 1: it does not, or the mirror does not answer, and the lines with ! \
say why.",
    settings: &[("", CERTS_DIR), ("", SETTINGS), ("", config_path::SETTINGS)],
    words: &[],
    registries: false,
    run,
};

const SETTINGS: &[Setting] = &[
    Setting::new("registry", "HOST,…", "Registries as in image names [default: those with our mirror]"),
    Setting::new("mirror", "URL", "Our mirror: the --mirror-listen of this node's agent")
        .or(Fallback::Text("http://127.0.0.1:7780")),
    Setting::new("agent", "URL", "The --metrics-listen of this node's agent")
        .or(Fallback::Text("http://127.0.0.1:7782")),
    Setting::new("containerd-sock", "PATH", "containerd's socket, which is asked for its version")
        .or(Fallback::Text("/run/containerd/containerd.sock"))
        .alias(&["CONTAINERD_SOCK"]),
];

struct Options {
    roots: Roots,
    registries: Option<Vec<Registry>>,
    mirror: String,
    agent: String,
    socket: PathBuf,
    containerd: Containerd,
}

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let (options, _) = invocation.configure(read)?;
    let seen = process::block_on_this_thread(async { Ok(look(&options).await) })?;
    let report = Report::of(&seen);
    print(&report.text(Paint::stdout()))?;
    Ok(if report.is_good() { Exit::Done } else { Exit::Failed })
}

fn read(layers: &mut Layers) -> Option<Options> {
    let roots = layers.required("certs-dir", Roots::parse);
    let registries = layers.optional("registry", |text| value::list(text, Registry::parse));
    let mirror = layers.required("mirror", mirror_url);
    let agent = layers.required("agent", value::base_url);
    let socket = layers.required("containerd-sock", value::path);
    let given = layers.given("containerd-config").is_some();
    let containerd = config_path::read(layers);
    let (roots, mut containerd) = (roots?, containerd?);
    let of_k3s = roots.all().iter().find(|root| k3s::owner_of(root).is_some()).and_then(|root| root.parent());
    if let Some(folder) = of_k3s.filter(|_| !given) {
        // k3s and RKE2 run a containerd of their own.
        containerd = Containerd { config: folder.join("config.toml"), binary: None };
    }
    Some(Options { roots, registries, mirror: mirror?, agent: agent?, socket: socket?, containerd })
}

/// Collects all facts; [`Seen`] decides what they mean.
async fn look(options: &Options) -> Seen {
    let version = see::version(&options.socket).await;
    let config_path = options.containerd.config_path(version);
    let roots = config_path.whole_list(&options.roots).unwrap_or_else(|| options.roots.clone());
    let names = match &options.registries {
        Some(registries) => registries.iter().map(|registry| registry.name.clone()).collect(),
        None => with_mirror(&roots, &options.mirror),
    };
    let standings = names.into_iter().map(|name| {
        let standing = standing::of(&roots, &name, &options.mirror);
        (name, standing)
    });
    let standings = standings.collect();
    Seen {
        standings,
        mirror: see::mirror(&options.mirror).await,
        mirror_url: options.mirror.clone(),
        agent: agent_port::agent(&options.agent).await,
        agent_url: options.agent.clone(),
        config_path,
        missing: options.roots.all().iter().filter(|root| !root.exists()).cloned().collect(),
        given: options.roots.clone(),
        roots,
        version: version.or_else(|| options.containerd.version()),
    }
}

/// Registries that have a file with our mirror, whoever wrote that file.
fn with_mirror(roots: &Roots, mirror: &str) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for folder in roots.folders().unwrap_or_default() {
        let name = folder.path().file_name().map(|name| name.to_string_lossy().into_owned());
        let is_ours = folder.state().is_ok_and(|state| {
            let hosts = state.current.as_deref().map(hosts_in_order);
            let is_there =
                hosts.is_some_and(|hosts| hosts.is_ok_and(|hosts| hosts.iter().any(|host| host.is(mirror))));
            is_there || !state.is_untouched()
        });
        if let Some(name) = name.filter(|_| is_ours) {
            // The folder `host_port_` belongs to `host:port`.
            let port = name.strip_suffix('_').and_then(|name| name.rsplit_once('_'));
            let name = port.map_or_else(|| name.clone(), |(host, port)| format!("{host}:{port}"));
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn registries_with_our_mirror_are_found_whoever_wrote_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            fs::create_dir(folder.path().join(name)).unwrap();
            fs::write(folder.path().join(name).join("hosts.toml"), text).unwrap();
        };
        let entry = "[host.\"http://127.0.0.1:7780/v2\"]\n";
        write("docker.io", &format!("# File generated by k3s. DO NOT EDIT.\n{entry}"));
        write("r_5000_", entry);
        write("ghcr.io", "[host.\"https://harbor\"]\n");
        write("quay.io", "server = ");
        let roots = Roots::parse(folder.path().to_str().unwrap()).unwrap();
        assert_eq!(with_mirror(&roots, "http://127.0.0.1:7780"), ["docker.io", "r:5000"]);
    }
}
