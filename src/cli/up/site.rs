//! All of `piccolo up`: keeps the children running, reports readiness, stops everything in order.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use futures_util::future::join_all;

use super::child::Child;
use super::ports::{Addresses, DataFolder, server_name};
use super::{AgentOptions, Options, UpError, ready};
use crate::cli::CliError;
use crate::cli::output::{Paint, print, table};
use crate::cli::signals::Signals;
use crate::config::{CLUSTER_SECRET, DISK_FREE_MIN, Logging};
use crate::task::Stop;

/// Runs until a signal, or until a child cannot go on.
pub(super) async fn run(options: Options, logging: Logging) -> Result<(), CliError> {
    let mut signals = Signals::catch()?;
    let Options { data_dir, base_port, disk_free_min, agent } = options;
    let folder = DataFolder::open(&data_dir)?;
    let addresses = folder.addresses(base_port)?;
    let secret = folder.secret().map_err(UpError::from)?;
    let binary = std::env::current_exe()
        .map_err(|source| CliError::Process { action: "find the path of this program", source })?;
    let child = |name: String, arguments: Vec<String>| Child::new(name, binary.clone(), arguments);
    let servers: Vec<Child> = (0..addresses.len())
        .map(|place| {
            let mut arguments = server_arguments(folder.path(), &addresses, place, &logging);
            arguments.extend(disk_arguments(disk_free_min.as_deref()));
            arguments.extend([format!("--{}", CLUSTER_SECRET.flag), secret.display().to_string()]);
            child(server_name(place), arguments)
        })
        .collect();
    let next = next_steps(&addresses, agent.as_ref());
    let agent =
        agent.map(|agent| child("agent".to_owned(), agent_arguments(&addresses, agent.flags, &logging)));

    let stop = Stop::new();
    let announce = async {
        let leader = ready::wait(&addresses).await;
        if let Err(error) = print(&announcement(&servers, &addresses, &leader, folder.path(), &next)) {
            // The servers run; a full disk behind stdout is no reason to stop them.
            tracing::warn!(%error, "could not print the next steps");
        }
    };
    tokio::select! {
        result = keep(&servers, agent.as_ref(), &stop, announce) => Ok(result?),
        () = signals.stop_then_give_up(&stop) => Err(CliError::StoppedTwice),
    }
}

/// State of one server while everything stops.
#[derive(Default)]
struct Turn {
    stop: Stop,
    ended: Stop,
}

/// Keeps all children running until `stop`. Then the agent stops first, because it sends a last message to
/// the servers.
async fn keep(
    servers: &[Child],
    agent: Option<&Child>,
    stop: &Stop,
    announce: impl Future<Output = ()>,
) -> Result<(), UpError> {
    let turns: Vec<Turn> = servers.iter().map(|_| Turn::default()).collect();
    let keep_server = async |(child, turn): (&Child, &Turn)| {
        let result = child.keep(&turn.stop).await;
        turn.ended.cancel();
        if result.is_err() {
            stop.cancel();
        }
        result
    };
    let beside = async {
        tokio::select! {
            () = announce => {}
            () = stop.cancelled() => {}
        }
        let result = match agent {
            Some(agent) => agent.keep(stop).await,
            None => Ok(()),
        };
        if result.is_ok() {
            stop.cancelled().await;
        }
        // One server after the other, so that a leader can hand over to another one.
        for turn in &turns {
            turn.stop.cancel();
            turn.ended.cancelled().await;
        }
        result
    };
    let (servers, beside) = tokio::join!(join_all(servers.iter().zip(&turns).map(keep_server)), beside);
    tracing::info!("everything is stopped");
    servers.into_iter().chain([beside]).collect()
}

fn server_arguments(folder: &Path, addresses: &[Addresses], place: usize, logging: &Logging) -> Vec<String> {
    let own = addresses[place];
    let cluster: Vec<String> = addresses.iter().map(|server| server.raft.to_string()).collect();
    let mut arguments = vec!["server".to_owned()];
    let mut flag = |name: &str, value: String| arguments.extend([format!("--{name}"), value]);
    flag("data-dir", folder.join(server_name(place)).display().to_string());
    flag("listen", own.api.to_string());
    flag("raft-listen", own.raft.to_string());
    flag("advertise", own.api.ip().to_string());
    flag("cluster", cluster.join(","));
    arguments.extend(common_arguments(logging));
    arguments
}

/// Disk arguments of each server.
fn disk_arguments(disk_free_min: Option<&str>) -> Vec<String> {
    let flag = |minimum: &str| vec![format!("--{}", DISK_FREE_MIN.flag), minimum.to_owned()];
    disk_free_min.map(flag).unwrap_or_default()
}

fn agent_arguments(addresses: &[Addresses], flags: Vec<String>, logging: &Logging) -> Vec<String> {
    let mut arguments = vec!["agent".to_owned(), "--servers".to_owned(), urls(addresses).join(",")];
    arguments.extend(flags);
    arguments.extend(common_arguments(logging));
    arguments
}

fn common_arguments(logging: &Logging) -> Vec<String> {
    let pid = std::process::id().to_string();
    let pairs = [
        ("--exit-with-parent", pid.as_str()),
        ("--log-format", logging.format.name()),
        ("--log-level", logging.level.as_str()),
    ];
    pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.to_owned()]).collect()
}

fn urls(addresses: &[Addresses]) -> Vec<String> {
    addresses.iter().map(|server| format!("http://{}", server.api)).collect()
}

/// Commands for the user to copy.
fn next_steps(addresses: &[Addresses], agent: Option<&AgentOptions>) -> String {
    let urls = urls(addresses);
    let mut text = format!("  piccolo status --server {}\n", urls[0]);
    let mirror = match agent {
        Some(agent) => format!(" --mirror http://{}", reachable(agent.mirror_listen)),
        None => {
            text.push_str(&format!("  piccolo agent --servers {}\n", urls.join(",")));
            String::new()
        }
    };
    text.push_str("  piccolo mirror install --certs-dir /etc/containerd/certs.d --registry docker.io");
    text + &mirror + "\n"
}

/// Address at which this host reaches its own listener.
fn reachable(listen: SocketAddr) -> SocketAddr {
    if listen.ip().is_unspecified() { SocketAddr::from((Ipv4Addr::LOCALHOST, listen.port())) } else { listen }
}

fn announcement(
    servers: &[Child],
    addresses: &[Addresses],
    leader: &str,
    folder: &Path,
    next: &str,
) -> String {
    let paint = Paint::stdout();
    let rows: Vec<Vec<String>> = servers
        .iter()
        .zip(addresses)
        .map(|(child, addresses)| {
            let role = if addresses.api.to_string() == leader { "leader" } else { "" };
            let pid = child.pid().map_or_else(|| "-".to_owned(), |pid| pid.to_string());
            let url = format!("http://{}", addresses.api);
            vec![child.name().to_owned(), url, addresses.raft.to_string(), pid, role.to_owned()]
        })
        .collect();
    format!(
        "\n{}\n\n{}\ndata in {}, with the cluster secret by which the servers know each other\n\nNext:\n{next}\nCtrl-C stops everything in order.\n",
        paint.good("Three discovery servers are ready."),
        table(&["NAME", "API", "RAFT", "PID", ""], &rows, paint),
        folder.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses() -> Vec<Addresses> {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        [1, 3].map(|port| Addresses { api: loopback(port), raft: loopback(port + 1) }).to_vec()
    }

    #[test]
    fn servers_get_disk_flags_only_if_given() {
        assert_eq!(disk_arguments(Some("1GiB")), ["--disk-free-min", "1GiB"]);
        assert_eq!(disk_arguments(None), [""; 0]);
    }

    #[test]
    fn without_an_agent_the_next_step_is_one() {
        let text = next_steps(&addresses(), None);
        assert!(text.contains("piccolo agent --servers http://127.0.0.1:1,http://127.0.0.1:3\n"), "{text}");
        assert!(text.ends_with("--registry docker.io\n"), "{text}");
    }

    #[test]
    fn with_an_agent_containerd_is_pointed_to_its_mirror() {
        let mirror_listen = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5000));
        let text = next_steps(&addresses(), Some(&AgentOptions { flags: Vec::new(), mirror_listen }));
        assert!(!text.contains("piccolo agent"), "{text}");
        assert!(text.ends_with("--registry docker.io --mirror http://127.0.0.1:5000\n"), "{text}");
    }
}
