//! `piccolo hosts`: lists the nodes that the index knows.

use std::time::Duration;

use piccolo_raft::model::GROUP_BYTES_MAX;

use super::client::{Asked, CLIENT, print_json};
use super::output::{Paint, print, table};
use super::{CliError, Exit, Invocation, Subcommand, process};
use crate::api::HostsResponse;
use crate::clock::SystemClock;
use crate::config::{Layers, Setting};
use crate::limits::COMMAND_ANSWER_TIMEOUT;
use crate::value;

/// The subcommand `piccolo hosts`.
pub(super) const HOSTS: Subcommand = Subcommand {
    name: "hosts",
    about: "List the nodes that the index knows, and how many keys each holds",
    examples: "\
Example:
  piccolo hosts --server http://10.0.0.1:7789 --group default

A node whose lease has ended is `gone`: no answer names it, and it is back with its next heartbeat.",
    settings: &[("", CLIENT), ("", GROUP)],
    words: &[],
    registries: false,
    run,
};

const GROUP: &[Setting] = &[Setting::new("group", "NAME", "Only this group [default: all]")];

fn run(invocation: &Invocation) -> Result<Exit, CliError> {
    let ((asked, group), _) = invocation.configure(read)?;
    let client = asked.client()?;
    let hosts = process::block_on_this_thread(async {
        Ok(client.hosts(group.as_deref(), COMMAND_ANSWER_TIMEOUT).await?)
    })?;
    if asked.json {
        print_json(&hosts)?;
    } else {
        print(&text(&hosts, SystemClock::shared().unix_ms(), Paint::stdout()))?;
    }
    Ok(Exit::Done)
}

fn read(layers: &mut Layers) -> Option<(Asked, Option<String>)> {
    let asked = Asked::read(layers);
    let group = layers.optional("group", |text| value::name(text, GROUP_BYTES_MAX, false));
    Some((asked?, group))
}

fn text(answer: &HostsResponse, now_unix_ms: u64, paint: Paint) -> String {
    if answer.hosts.is_empty() {
        return "no host is known\n".to_owned();
    }
    let rows: Vec<Vec<String>> = answer
        .hosts
        .iter()
        .map(|host| {
            let zone = if host.zone.is_empty() { "-".to_owned() } else { host.zone.clone() };
            let state = host.hidden_unix_ms.map_or_else(
                || "alive".to_owned(),
                |since| format!("gone for {}", ago(now_unix_ms.saturating_sub(since))),
            );
            vec![host.group.clone(), host.holder.clone(), zone, host.keys.to_string(), state]
        })
        .collect();
    table(&["GROUP", "HOLDER", "ZONE", "KEYS", "STATE"], &rows, paint)
}

/// Time since `ms`, in whole seconds.
fn ago(ms: u64) -> String {
    value::format_duration(Duration::from_secs(ms / 1_000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::HostStatus;

    #[test]
    fn a_hidden_host_is_told_from_a_living_one() {
        let host = |holder: &str, hidden_unix_ms| HostStatus {
            group: "default".to_owned(),
            holder: holder.to_owned(),
            zone: String::new(),
            keys: 3,
            hidden_unix_ms,
        };
        let hosts = vec![host("10.0.0.1:7781", None), host("10.0.0.2:7781", Some(1_000))];
        let answer = HostsResponse { hosts, next: None };
        let text = text(&answer, 91_500, Paint::stdout());
        assert!(text.contains("10.0.0.1:7781  -        3  alive\n"), "{text}");
        assert!(text.contains("10.0.0.2:7781  -        3  gone for 1m30s\n"), "{text}");
    }
}
