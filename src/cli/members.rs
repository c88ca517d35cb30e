//! `piccolo members`: the servers of a cluster.
//!
//! The servers carry out a change in steps. This command repeats its request until the change is done, shows
//! the progress, and gives up after `--patience` without any. The same command can be run again to continue.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use super::client::{Asked, CLIENT, print_json};
use super::output::{Paint, print, silence, table};
use super::{CliError, Exit, Invocation, Subcommand, Word, process};
use crate::api::client::{Client, ClientError};
use crate::api::{MembersAction, MembersProgress, MembersRequest, MembersResponse};
use crate::config::{Fallback, Layers, Setting};
use crate::limits::{
    COMMAND_ANSWER_TIMEOUT, MEMBERS_PATIENCE, MEMBERS_PATIENCE_DEFAULT, MEMBERS_POLL_INTERVAL,
    MEMBERS_PROGRESS_INTERVAL, MEMBERS_STEP_TIMEOUT,
};
use crate::value;

const PATIENCE: &[Setting] = &[Setting::new("patience", "TIME", "Give up after this time without progress")
    .or(Fallback::Duration(MEMBERS_PATIENCE_DEFAULT))];

const MEMBER: &str = "A member: its node id, or its raft address HOST:PORT";
const NEW: &str = "The raft address HOST:PORT of a server that was started with --join";

/// The subcommand `piccolo members list`.
pub(super) const LIST: Subcommand = Subcommand {
    name: "list",
    about: "Show the servers of the cluster, which of them vote and which one leads",
    examples: "\
Example:
  piccolo members list --server http://10.0.0.1:7789

LAG is the number of log entries that a server has not yet confirmed; only the leader knows it. A silent \
server does not answer the leader: it is down, or cut off.",
    settings: &[("", CLIENT)],
    words: &[],
    registries: false,
    run: list,
};

/// The subcommand `piccolo members add`.
pub(super) const ADD: Subcommand = Subcommand {
    name: "add",
    about: "Add waiting servers: each gets all data first, then a vote",
    examples: "\
Example, from one server to three: on each new host, and then on the leader's:
  piccolo server --data-dir /var/lib/piccolo --join 10.0.0.1:7790 --cluster-secret FILE
  piccolo members add 10.0.0.2:7790 10.0.0.3:7790 --server http://10.0.0.1:7789

ADDRESS is where all other servers reach the new one. Servers that are named together get their votes \
together. Adding them one by one is worse: a cluster of two voters stops when either of them fails. An odd \
number of voters is best: four tolerate no more failures than three.",
    settings: &[("", CLIENT), ("", PATIENCE)],
    words: &[Word::repeated("ADDRESS", NEW)],
    registries: false,
    run: |invocation| change(invocation, MembersAction::Add),
};

/// The subcommand `piccolo members replace`.
pub(super) const REPLACE: Subcommand = Subcommand {
    name: "replace",
    about: "Replace a member by a waiting server, and remove the member",
    examples: "\
Examples:
  piccolo members replace 10.0.0.3:7790 10.0.0.4:7790                   another host
  piccolo members replace 10.0.0.3:7790 10.0.0.3:7790                   the same host, its disk was lost
  piccolo members replace 10.0.0.3:7790 node-3:7790                     a member that has moved, with its data",
    settings: &[("", CLIENT), ("", PATIENCE)],
    words: &[Word::required("OLD", MEMBER), Word::required("ADDRESS", NEW)],
    registries: false,
    run: |invocation| change(invocation, MembersAction::Replace),
};

/// The subcommand `piccolo members remove`.
pub(super) const REMOVE: Subcommand = Subcommand {
    name: "remove",
    about: "Remove a member for good: its process ends, and it can return only as a new server",
    examples: "\
Example:
  piccolo members remove 10.0.0.3:7790

Refused if fewer servers than a majority would answer afterwards.",
    settings: &[("", CLIENT), ("", PATIENCE)],
    words: &[Word::required("MEMBER", MEMBER)],
    registries: false,
    run: |invocation| change(invocation, MembersAction::Remove),
};

/// The subcommand `piccolo members transfer-leader`.
pub(super) const TRANSFER_LEADER: Subcommand = Subcommand {
    name: "transfer-leader",
    about: "Make another server the leader",
    examples: "\
Examples:
  piccolo members transfer-leader                                       to the one with the most recent log
  piccolo members transfer-leader 10.0.0.2:7790",
    settings: &[("", CLIENT), ("", PATIENCE)],
    words: &[Word::optional("TO", MEMBER)],
    registries: false,
    run: |invocation| change(invocation, MembersAction::TransferLeader),
};

/// The subcommand `piccolo members activate`.
pub(super) const ACTIVATE: Subcommand = Subcommand {
    name: "activate",
    about: "End an upgrade now: the servers start to write formats that only the new version reads",
    examples: "\
Example:
  piccolo members activate --server http://10.0.0.1:7789

Without this command the servers do so 24 h after all of them run the new version. Until then each can go back to \
the previous version, afterwards none can; piccolo status shows which. Refused while a server does not answer or \
runs the previous version.",
    settings: &[("", CLIENT), ("", PATIENCE)],
    words: &[],
    registries: false,
    run: |invocation| change(invocation, MembersAction::Activate),
};

fn list(invocation: &Invocation) -> Result<Exit, CliError> {
    let (asked, _) = invocation.configure(Asked::read)?;
    let client = asked.client()?;
    let members = process::block_on_this_thread(async { Ok(client.members(COMMAND_ANSWER_TIMEOUT).await?) })?;
    if asked.json {
        print_json(&members)?;
    } else {
        print(&text(&members, Paint::stdout()))?;
    }
    Ok(Exit::Done)
}

fn text(members: &MembersResponse, paint: Paint) -> String {
    let quorum = if members.quorum { paint.good("quorum") } else { paint.bad("no quorum") };
    let cluster = if members.cluster.is_empty() { "none yet" } else { &members.cluster };
    let mut text = format!("cluster {cluster}: {quorum}");
    if members.voters > 0 {
        text.push_str(&format!(
            ", {} of {} voters must answer{}",
            members.majority,
            members.voters,
            spare(members)
        ));
    }
    text.push('\n');
    for reason in &members.reasons {
        text.push_str(&format!("{} {reason}\n", paint.bad("!")));
    }
    let rows: Vec<Vec<String>> = members
        .members
        .iter()
        .map(|member| {
            let here = if member.node == members.node { "*" } else { "" };
            let leaving = if member.leaving { ", leaving" } else { "" };
            let lag = member.lag.map_or_else(|| "-".to_owned(), |lag| lag.to_string());
            let role = format!("{}{leaving}{}", member.role, silence(member.answers, member.answered_ms_ago));
            let (api, raft) = (member.api_address.clone(), member.raft_address.clone());
            vec![format!("{}{here}", member.node), role, api, raft, lag]
        })
        .collect();
    text.push_str(&table(&["NODE", "ROLE", "API", "RAFT", "LAG"], &rows, paint));
    text.push_str("* answered\n");
    text
}

/// How many more voters may fail, as text; empty if the answering server is not a leader with a quorum.
fn spare(members: &MembersResponse) -> String {
    let Some(answering) = members.answering else { return String::new() };
    let spare = match answering.saturating_sub(members.majority) {
        0 => "none".to_owned(),
        spare => spare.to_string(),
    };
    match answering < members.voters {
        true => format!(", {answering} do, {spare} of them may fail"),
        false => format!(", {spare} may fail"),
    }
}

fn change(invocation: &Invocation, action: MembersAction) -> Result<Exit, CliError> {
    let ((asked, patience), _) = invocation.configure(read)?;
    let client = asked.client()?;
    let mut words = invocation.words.iter().cloned();
    let request = match action {
        MembersAction::Add => MembersRequest { addresses: words.collect(), ..MembersRequest::default() },
        MembersAction::Replace => {
            let member = words.next();
            MembersRequest { address: words.next(), member, ..MembersRequest::default() }
        }
        MembersAction::Remove | MembersAction::TransferLeader => {
            MembersRequest { member: words.next(), ..MembersRequest::default() }
        }
        MembersAction::Activate => MembersRequest::default(),
    };
    let drive = Drive { client, action, request, patience, display: Display::default() };
    let done = process::block_on_this_thread(drive.run())?;
    if asked.json {
        print_json(&done)?;
    } else {
        print(&format!("{}\n", done.message))?;
    }
    Ok(Exit::Done)
}

fn read(layers: &mut Layers) -> Option<(Asked, Duration)> {
    let (shortest, longest) = MEMBERS_PATIENCE;
    let asked = Asked::read(layers);
    let patience = layers.required("patience", |text| value::duration(text, shortest, longest));
    Some((asked?, patience?))
}

/// State of one change while it is being made.
struct Drive {
    client: Client,
    action: MembersAction,
    request: MembersRequest,
    patience: Duration,
    display: Display,
}

impl Drive {
    async fn run(mut self) -> Result<MembersProgress, CliError> {
        let mut furthest = Furthest::default();
        let mut moved = Instant::now();
        let mut last = None;
        loop {
            let answer = self.client.change_members(self.action, &self.request, MEMBERS_STEP_TIMEOUT).await;
            match answer {
                Ok(progress) if progress.done => {
                    self.display.end();
                    return Ok(progress);
                }
                Ok(progress) => {
                    if furthest.moves(&progress) {
                        moved = Instant::now();
                    }
                    self.display.show(&progress);
                    // An address may later belong to another server; an id never does.
                    if let (MembersAction::Remove, "step", Some(node)) =
                        (self.action, progress.phase.as_str(), &progress.node)
                    {
                        self.request.member = Some(node.clone());
                    }
                    last = Some(progress.message);
                }
                // The servers have no leader at this moment. As the first answer it is an error: there is
                // none.
                Err(error @ (ClientError::Unavailable { .. } | ClientError::Unreachable { .. })) => {
                    if last.is_none() {
                        return Err(error.into());
                    }
                    last = Some(error.to_string());
                }
                Err(error) => {
                    self.display.end();
                    return Err(error.into());
                }
            }
            if moved.elapsed() >= self.patience {
                self.display.end();
                let seconds = self.patience.as_secs();
                return Err(CliError::NoProgress { seconds, last: last.unwrap_or_default() });
            }
            tokio::time::sleep(MEMBERS_POLL_INTERVAL).await;
        }
    }
}

/// The furthest progress so far. A transfer that starts again counts as progress only when it passes this.
#[derive(Debug, Default)]
struct Furthest {
    seen: Vec<(String, u64)>,
}

impl Furthest {
    fn moves(&mut self, progress: &MembersProgress) -> bool {
        match self.seen.iter_mut().find(|(phase, _)| *phase == progress.phase) {
            Some((_, position)) if progress.position > *position => {
                *position = progress.position;
                true
            }
            Some(_) => false,
            None => {
                self.seen.push((progress.phase.clone(), progress.position));
                true
            }
        }
    }
}

/// Progress on stderr: one line that is overwritten on a terminal; elsewhere a line for each phase and now
/// and then.
#[derive(Debug, Default)]
struct Display {
    phase: String,
    shown: Option<Instant>,
    open: bool,
}

impl Display {
    fn show(&mut self, progress: &MembersProgress) {
        let mut stderr = std::io::stderr().lock();
        let percent = match progress.goal {
            0 => String::new(),
            goal => format!("{:3} % ", (progress.position.saturating_mul(100) / goal).min(100)),
        };
        // An error here means that stderr is closed; the change goes on.
        if stderr.is_terminal() {
            let _ = write!(stderr, "\r\x1b[K{percent}{}", progress.message);
            self.open = true;
        } else if self.phase != progress.phase
            || self.shown.is_none_or(|at| at.elapsed() >= MEMBERS_PROGRESS_INTERVAL)
        {
            let _ = writeln!(stderr, "{percent}{}", progress.message);
            self.shown = Some(Instant::now());
        }
        self.phase.clone_from(&progress.phase);
        let _ = stderr.flush();
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.open) {
            let _ = writeln!(std::io::stderr());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::MemberEntry;

    fn progress(phase: &str, position: u64) -> MembersProgress {
        let (phase, message) = (phase.to_owned(), String::new());
        MembersProgress { done: false, phase, node: None, position, goal: 0, message }
    }

    #[test]
    fn only_what_was_not_reached_before_is_progress() {
        let mut furthest = Furthest::default();
        let steps =
            [("snapshot", 0, true), ("snapshot", 9, true), ("snapshot", 0, false), ("snapshot", 9, false)];
        let steps = steps.into_iter().chain([("log", 5, true), ("snapshot", 10, true), ("log", 5, false)]);
        for (phase, position, moves) in steps {
            assert_eq!(furthest.moves(&progress(phase, position)), moves, "{phase} {position}");
        }
    }

    fn entry(node: &str, role: &str, answered_ms_ago: Option<u64>) -> MemberEntry {
        MemberEntry {
            node: node.to_owned(),
            raft_address: format!("{node}:7790"),
            api_address: format!("{node}:7789"),
            role: role.to_owned(),
            lag: Some(0),
            answers: Some(answered_ms_ago.is_some_and(|ms| ms < 1_000)),
            answered_ms_ago,
            leaving: false,
        }
    }

    fn three(answering: Option<u64>, members: Vec<MemberEntry>) -> MembersResponse {
        MembersResponse {
            cluster: "feed".to_owned(),
            node: "a".to_owned(),
            quorum: true,
            voters: 3,
            majority: 2,
            answering,
            members,
            reasons: vec!["why".to_owned()],
        }
    }

    #[test]
    fn the_list_says_how_many_may_fail_and_who_is_leaving() {
        let leaving = MemberEntry { leaving: true, ..entry("b", "voter", Some(90)) };
        let members = three(Some(3), vec![entry("a", "leader", Some(0)), leaving]);
        let text = text(&members, Paint::plain());
        for part in ["2 of 3 voters must answer, 1 may fail\n", "voter, leaving ", "a*", "! why"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(!text.contains("silent"), "{text}");
    }

    #[test]
    fn a_voter_that_does_not_answer_is_shown_and_is_none_that_may_fail() {
        let silent = [entry("b", "voter", Some(12_345)), entry("c", "voter", None)];
        let members = three(Some(2), silent.into());
        let shown = text(&members, Paint::plain());
        for part in
            ["must answer, 2 do, none of them may fail\n", "voter, silent for 12 s ", "voter, silent  "]
        {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        let unknown = three(None, vec![MemberEntry { answers: None, ..entry("b", "voter", None) }]);
        let shown = text(&unknown, Paint::plain());
        assert!(shown.contains("2 of 3 voters must answer\n") && !shown.contains("silent"), "{shown}");
        let of_five = MembersResponse { voters: 5, majority: 3, ..three(Some(4), Vec::new()) };
        let shown = text(&of_five, Paint::plain());
        assert!(shown.contains("3 of 5 voters must answer, 4 do, 1 of them may fail\n"), "{shown}");
    }
}
