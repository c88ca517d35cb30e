//! `piccolo status`: members, leader, lag, hosts, keys.

use piccolo_raft::disk::Bytes;

use super::client::{Asked, CLIENT, DEADLINE, print_json};
use super::output::{Paint, print, table};
use super::{CliError, Exit, Invocation, Subcommand, process};
use crate::api::{MemberStatus, StatusResponse};

/// The subcommand.
pub(super) const STATUS: Subcommand = Subcommand {
    name: "status",
    about: "Show the servers, who leads, and how much they know",
    examples: "\
Example:
  piccolo status --server http://10.0.0.1:7789,http://10.0.0.2:7789

LAG is the number of log entries that a server has not yet confirmed; only the leader knows it, and the \
room on the disks of the others. A server whose disk is low stores nothing more.

Exit code 0 says that a server answered, not that all is well: the lines with ! tell what is not.",
    settings: &[("", CLIENT)],
    words: &[],
    registries: false,
    run,
};

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let (asked, _) = invocation.configure(Asked::read)?;
    let client = asked.client()?;
    let status = process::block_on_this_thread(async { Ok(client.status(DEADLINE).await?) })?;
    if asked.json {
        print_json(&status)?;
    } else {
        print(&text(&status, Paint::stdout()))?;
    }
    Ok(Exit::Done)
}

/// What is free on a member's disk.
fn disk(member: &MemberStatus) -> String {
    match &member.disk {
        Some(disk) if disk.low => format!("{} (low)", Bytes(disk.free_bytes)),
        Some(disk) => Bytes(disk.free_bytes).to_string(),
        None => "-".to_owned(),
    }
}

fn text(status: &StatusResponse, paint: Paint) -> String {
    let cluster = if status.cluster.is_empty() { "none yet" } else { &status.cluster };
    let quorum = if status.quorum { paint.good("quorum") } else { paint.bad("no quorum") };
    let mut text = format!(
        "cluster {cluster}: {quorum}, term {}, applied {}, version {}\n",
        status.term, status.applied_index, status.version
    );
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
            vec![node, member.role.clone(), api, member.raft_address.clone(), lag, disk(member)]
        })
        .collect();
    text.push('\n');
    text.push_str(&table(&["NODE", "ROLE", "API", "RAFT", "LAG", "DISK FREE"], &rows, paint));
    text.push_str("* answered\n\n");
    text.push_str(&format!(
        "{} hosts ({} hidden, their lease ended), {} keys, {} pairs of key and holder\n",
        status.hosts, status.hosts_hidden, status.keys, status.pairs
    ));
    if let (Some(had), Some(served), Some(misses)) =
        (status.bytes_from_peers, status.bytes_served, status.misses)
    {
        text.push_str(&format!(
            "{had} bytes had from peers, {served} bytes served to them, {misses} requests that none could answer\n"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_agents_counted_is_told_where_it_is_known() {
        let of_leader = include_str!("../../tests/golden/status_response.json");
        let mut status: StatusResponse = serde_json::from_str(of_leader).unwrap();
        let told = "5 bytes had from peers, 6 bytes served to them, 7 requests that none could answer\n";
        assert!(text(&status, Paint::stdout()).ends_with(told));
        status.misses = None;
        assert!(!text(&status, Paint::stdout()).contains("from peers"));
    }
}
