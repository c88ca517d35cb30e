//! `piccolo status`: members, leader, lag, hosts, keys and flights, or what an agent reports about its node.

use std::cmp::Reverse;

use piccolo_raft::disk::Bytes;
use serde::Serialize;

use super::agent_port::{self, Agent};
use super::client::{Asked, CLIENT, print_json};
use super::output::{Paint, print, silence, table};
use super::{CliError, Exit, Invocation, Subcommand, process};
use crate::api::flight::{FlightList, FlightStatus};
use crate::api::{LevelRange, MemberStatus, StatusResponse};
use crate::config::{Layers, Setting};
use crate::limits::{COMMAND_ANSWER_TIMEOUT, FLIGHTS_SHOWN_MAX};
use crate::value;

/// The subcommand `piccolo status`.
pub(super) const STATUS: Subcommand = Subcommand {
    name: "status",
    about: "Show the servers, which one leads, and how much is in the index",
    examples: "\
Example:
  piccolo status --server http://10.0.0.1:7789,http://10.0.0.2:7789
  piccolo status --agent http://127.0.0.1:7782       the agent of this node instead

LAG is the number of log entries that a server has not yet confirmed. Only the leader knows the LAG, the free \
space and the LEVELS of the other servers, and which of them are silent: those do not answer it. A server whose \
disk is low stores nothing more.

ARRIVING is content that nodes pull now. NODES is how many have come, IN A ROW how many are between the last one and the
first one, COPIES how often a node was told to fetch it from the registry.

Exit code 0 means that a server answered, not that all is well: lines with ! say what is wrong.",
    settings: &[("", CLIENT), ("", AGENT)],
    words: &[],
    registries: false,
    run,
};

const AGENT: &[Setting] = &[Setting::new(
    "agent",
    "URL",
    "The --metrics-listen of an agent: shows the agent instead of the servers",
)];

fn read(layers: &mut Layers) -> Option<(Asked, Option<String>)> {
    let asked = Asked::read(layers);
    let agent = layers.optional("agent", value::base_url);
    if agent.is_some() && asked.as_ref().is_some_and(|asked| asked.json) {
        layers.problem("agent", None, "cannot be used together with --json");
    }
    Some((asked?, agent))
}

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let ((asked, agent), _) = invocation.configure(read)?;
    if let Some(url) = agent {
        return of_agent(&url);
    }
    let client = asked.client()?;
    let (status, flights) = process::block_on_this_thread(async {
        let status = client.status(COMMAND_ANSWER_TIMEOUT).await?;
        // An older server has no such list.
        Ok((status, client.list_flights(COMMAND_ANSWER_TIMEOUT).await.unwrap_or_default()))
    })?;
    if asked.json {
        print_json(&WithFlights { status, flights: flights.flights, unanswered: flights.unanswered })?;
    } else {
        let paint = Paint::stdout();
        print(&(text(&status, paint) + &flights_text(&flights, paint)))?;
    }
    Ok(Exit::Done)
}

/// What `--json` prints.
#[derive(Serialize)]
struct WithFlights {
    #[serde(flatten)]
    status: StatusResponse,
    /// Content that is still arriving on nodes.
    flights: Vec<FlightStatus>,
    /// Servers that did not say which of it they know.
    unanswered: Vec<String>,
}

/// Prints what the agent at `url` reports. Fails if the agent does not answer or is not ready.
fn of_agent(url: &str) -> Result<Exit, CliError> {
    let seen = process::block_on_this_thread(async { Ok(agent_port::agent(url).await) })?;
    let ready = seen.as_ref().is_ok_and(|agent| agent.ready);
    print(&agent_text(url, &seen, Paint::stdout()))?;
    Ok(if ready { Exit::Done } else { Exit::Failed })
}

fn agent_text(url: &str, seen: &Result<Agent, String>, paint: Paint) -> String {
    let agent = match seen {
        Ok(agent) => agent,
        Err(reason) => {
            return format!("{} could not ask the agent at {url}: {reason}\n", paint.bad("!"));
        }
    };
    let (state, notices) =
        agent.notices.split_first().map_or(("", &[][..]), |(state, rest)| (state.as_str(), rest));
    let ready = if agent.ready { paint.good("ready") } else { paint.bad("not ready") };
    let mut text = format!("agent {url}: {ready}, {state}\n");
    for notice in notices {
        text.push_str(&format!("{} {notice}\n", paint.bad("!")));
    }
    text.push_str(&format!("{} requests of containerd since the agent's start\n", agent.requests));
    text
}

/// Free space on a member's disk.
fn disk(member: &MemberStatus) -> String {
    match &member.disk {
        Some(disk) if disk.low => format!("{} (low)", Bytes(disk.free_bytes)),
        Some(disk) => Bytes(disk.free_bytes).to_string(),
        None => "-".to_owned(),
    }
}

/// The levels that a member's version knows.
fn levels(known: LevelRange) -> String {
    let LevelRange { lowest, highest } = known;
    if lowest == highest { lowest.to_string() } else { format!("{lowest}-{highest}") }
}

/// Content that is still arriving on nodes, most nodes first.
fn flights_text(list: &FlightList, paint: Paint) -> String {
    let mut text = String::new();
    let mut flights: Vec<&FlightStatus> = list.flights.iter().collect();
    flights.sort_by_key(|flight| Reverse(flight.nodes));
    let left_out = flights.len().saturating_sub(FLIGHTS_SHOWN_MAX);
    flights.truncate(FLIGHTS_SHOWN_MAX);
    let rows: Vec<Vec<String>> = flights
        .into_iter()
        .map(|FlightStatus { group, key, nodes, depth, copies, fetcher }| {
            let fetcher = fetcher.clone().unwrap_or_else(|| "-".to_owned());
            let [nodes, depth, copies] = [*nodes, u64::from(*depth), *copies].map(|count| count.to_string());
            vec![key.clone(), group.clone(), nodes, depth, copies, fetcher]
        })
        .collect();
    if !rows.is_empty() {
        text.push('\n');
        text.push_str(&table(&["ARRIVING", "GROUP", "NODES", "IN A ROW", "COPIES", "FETCHER"], &rows, paint));
    }
    if left_out > 0 {
        text.push_str(&format!("and {left_out} more: --json shows all\n"));
    }
    for server in &list.unanswered {
        text.push_str(&format!("{} {server} did not say what is arriving\n", paint.bad("!")));
    }
    text
}

fn text(status: &StatusResponse, paint: Paint) -> String {
    let cluster = if status.cluster.is_empty() { "none yet" } else { &status.cluster };
    let quorum = if status.quorum { paint.good("quorum") } else { paint.bad("no quorum") };
    let mut text = format!(
        "cluster {cluster}: {quorum}, term {}, applied {}, version {}\n",
        status.term, status.applied_index, status.version
    );
    let level = &status.level;
    if level.active > 0 {
        text.push_str(&format!("level {}: {}\n", level.active, level.way_back));
    }
    for reason in &status.reasons {
        text.push_str(&format!("{} {reason}\n", paint.bad("!")));
    }
    let rows: Vec<Vec<String>> = status
        .members
        .iter()
        .map(|member| {
            let here = if member.node == status.node { "*" } else { "" };
            let lag = member.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string());
            let api = member.api_address.clone();
            let node = format!("{}{here}", member.node);
            let levels = member.reads.map_or_else(|| "-".to_owned(), levels);
            let role = format!("{}{}", member.role, silence(member.answers, member.answered_ms_ago));
            vec![node, role, api, member.raft_address.clone(), lag, levels, disk(member)]
        })
        .collect();
    text.push('\n');
    text.push_str(&table(&["NODE", "ROLE", "API", "RAFT", "LAG", "LEVELS", "DISK FREE"], &rows, paint));
    text.push_str("* answered\n\n");
    text.push_str(&format!(
        "{} hosts ({} hidden, their lease ended), {} keys, {} pairs of key and holder\n",
        status.hosts, status.hosts_hidden, status.keys, status.pairs
    ));
    if let (Some(had), Some(served), Some(misses)) =
        (status.bytes_from_peers, status.bytes_served, status.misses)
    {
        text.push_str(&format!(
            "{had} bytes received from peers, {served} bytes served to them, {misses} requests that no peer could answer\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_of_an_agent_are_shown_line_by_line() {
        let notices = vec!["synced".to_owned(), "registry ghcr.io gives 503".to_owned()];
        let seen = Ok(Agent { requests: 7, ready: true, notices });
        let text = agent_text("http://127.0.0.1:7782", &seen, Paint::stdout());
        let expected = "agent http://127.0.0.1:7782: ready, synced\n! registry ghcr.io gives 503\n\
            7 requests of containerd since the agent's start\n";
        assert_eq!(text, expected);
        let away = Err("Connection refused".to_owned());
        let text = agent_text("http://127.0.0.1:7782", &away, Paint::stdout());
        assert_eq!(text, "! could not ask the agent at http://127.0.0.1:7782: Connection refused\n");
    }

    #[test]
    fn what_is_arriving_is_shown_with_the_most_wanted_first() {
        let flight = |key: &str, nodes| FlightStatus {
            group: "default".to_owned(),
            key: key.to_owned(),
            nodes,
            depth: 3,
            copies: 1,
            fetcher: (nodes > 1).then(|| "10.0.0.1:7781".to_owned()),
        };
        assert_eq!(flights_text(&FlightList::default(), Paint::plain()), "");
        let mut list = FlightList {
            flights: vec![flight("sha256:a", 1), flight("sha256:b", 20)],
            unanswered: vec!["10.0.0.9:7789".to_owned()],
        };
        let expected = "
ARRIVING  GROUP    NODES  IN A ROW  COPIES  FETCHER
sha256:b  default     20         3       1  10.0.0.1:7781
sha256:a  default      1         3       1  -
! 10.0.0.9:7789 did not say what is arriving\n";
        assert_eq!(flights_text(&list, Paint::plain()), expected);
        list.flights = vec![flight("sha256:a", 1); FLIGHTS_SHOWN_MAX + 2];
        assert!(flights_text(&list, Paint::plain()).contains("and 2 more: --json"));
    }

    #[test]
    fn counts_of_agents_are_shown_if_they_are_known() {
        let of_leader = include_str!("../../tests/golden/status_response.json");
        let mut status: StatusResponse = serde_json::from_str(of_leader).unwrap();
        let expected =
            "5 bytes received from peers, 6 bytes served to them, 7 requests that no peer could answer\n";
        assert!(text(&status, Paint::stdout()).ends_with(expected));
        status.misses = None;
        assert!(!text(&status, Paint::stdout()).contains("from peers"));
    }

    #[test]
    fn a_member_that_does_not_answer_the_leader_is_shown() {
        let of_leader = include_str!("../../tests/golden/status_response.json");
        let mut status: StatusResponse = serde_json::from_str(of_leader).unwrap();
        assert!(!text(&status, Paint::plain()).contains("silent"));
        (status.members[0].answers, status.members[0].answered_ms_ago) = (Some(false), Some(12_345));
        assert!(text(&status, Paint::plain()).contains("leader, silent for 12 s "));
    }

    #[test]
    fn until_when_the_version_before_can_be_started_again_is_shown_once_a_level_has_begun() {
        let of_leader = include_str!("../../tests/golden/status_response.json");
        let mut status: StatusResponse = serde_json::from_str(of_leader).unwrap();
        status.level.active = 2;
        status.level.way_back = "no way back".to_owned();
        assert!(text(&status, Paint::stdout()).contains("\nlevel 2: no way back\n"));
        status.level.active = 0;
        assert!(!text(&status, Paint::stdout()).contains("\nlevel "));
    }
}
