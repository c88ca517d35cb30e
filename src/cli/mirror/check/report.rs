//! Turns the collected facts into lines for the user, each with what to do. Pure.

use std::path::PathBuf;

use crate::agent::MIRROR_BYPASSED;
use crate::cli::agent_port::Agent;
use crate::cli::mirror::config_path::{self, ConfigPath};
use crate::cli::mirror::roots::Roots;
use crate::cli::mirror::standing::Standing;
use crate::cli::output::Paint;

/// The collected facts.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// Each registry with the position of our mirror in its file.
    pub(super) standings: Vec<(String, Standing)>,
    pub(super) mirror: Result<(), String>,
    pub(super) mirror_url: String,
    pub(super) agent: Result<Agent, String>,
    pub(super) agent_url: String,
    pub(super) config_path: ConfigPath,
    /// The folders of `--certs-dir`.
    pub(super) given: Roots,
    /// Folders of `given` that do not exist.
    pub(super) missing: Vec<PathBuf>,
    /// The folders in which registries were looked for.
    pub(super) roots: Roots,
    /// Version of containerd; `None` if it is unknown.
    pub(super) version: Option<(u32, u32)>,
}

/// The first version of containerd whose CRI pulls with the transfer service.
const TRANSFER_SINCE: (u32, u32) = (2, 1);

/// Lines, each with whether the fact is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report(Vec<(bool, String)>);

impl Report {
    pub(super) fn of(seen: &Seen) -> Self {
        let mut report = Self(Vec::new());
        report.folders(seen);
        report.registries(seen);
        report.mirror(seen);
        let is_read = seen.config_path.names(&seen.roots) != Some(false);
        report.add(is_read, config_path::sentence(&seen.config_path, &seen.roots).trim_end());
        report.transfer(seen);
        report.agent(seen);
        report
    }

    /// True if containerd asks the mirror, as far as can be seen.
    pub(super) fn is_good(&self) -> bool {
        self.0.iter().all(|(is_good, _)| *is_good)
    }

    pub(super) fn text(&self, paint: Paint) -> String {
        let line = |(is_good, line): &(bool, String)| {
            if *is_good { format!("  {line}\n") } else { format!("{} {line}\n", paint.bad("!")) }
        };
        self.0.iter().map(line).collect()
    }

    fn add(&mut self, is_good: bool, line: impl Into<String>) {
        self.0.push((is_good, line.into()));
    }

    /// Reports folders that do not exist; that is allowed if another one of the list does.
    fn folders(&mut self, seen: &Seen) {
        let is_there = seen.missing.len() < seen.given.all().len();
        for folder in &seen.missing {
            let folder = folder.display();
            self.add(
                is_there,
                format!(
                    "the folder {folder} of --certs-dir does not exist: give the folder that containerd's \
                     config_path names, or let `piccolo mirror install` make this one"
                ),
            );
        }
    }

    fn registries(&mut self, seen: &Seen) {
        if seen.standings.is_empty() {
            let folders = seen.roots.text();
            self.add(
                false,
                format!("no hosts.toml in {folders} has our mirror: run `piccolo mirror install --certs-dir {folders}`"),
            );
        }
        for (registry, standing) in &seen.standings {
            let file = standing.file().map(|file| format!(" ({})", file.display())).unwrap_or_default();
            self.add(matches!(standing, Standing::First { .. }), format!("{registry}: {standing}{file}"));
        }
    }

    fn mirror(&mut self, seen: &Seen) {
        let url = &seen.mirror_url;
        match &seen.mirror {
            Ok(()) => self.add(true, format!("the mirror answers at {url}")),
            Err(reason) => self.add(
                false,
                format!(
                    "the mirror does not answer at {url} ({reason}): is the agent running, with this address \
                     as --mirror-listen?"
                ),
            ),
        }
    }

    /// Reports a list of folders with the transfer service, which takes the list for one folder, finds
    /// nothing there, and asks the registry.
    fn transfer(&mut self, seen: &Seen) {
        let ConfigPath::Found { value, local_pull: false, .. } = &seen.config_path else { return };
        let Some((major, minor)) = seen.version.filter(|version| *version >= TRANSFER_SINCE) else { return };
        if !seen.config_path.is_list() {
            return;
        }
        let is_asked = seen.agent.as_ref().is_ok_and(|agent| agent.requests > 0);
        self.add(
            is_asked,
            format!(
                "containerd {major}.{minor} pulls by its transfer service, which reads no hosts.toml where \
                 config_path is a list ({value}): set config_path to one folder, or use_local_image_pull = true, in \
                 the plugin io.containerd.cri.v1.images, and restart containerd"
            ),
        );
    }

    fn agent(&mut self, seen: &Seen) {
        match &seen.agent {
            Ok(agent) => {
                let count = agent.requests;
                let asked = match count {
                    0 => "containerd has not asked since the agent started: pull an image and check again"
                        .to_owned(),
                    1 => "containerd has asked once since the agent started".to_owned(),
                    _ => format!("containerd has asked {count} times since the agent started"),
                };
                self.add(true, asked);
                for notice in agent.notices.iter().filter(|notice| notice.starts_with(MIRROR_BYPASSED)) {
                    self.add(false, format!("the agent says: {notice}"));
                }
            }
            Err(reason) => {
                let url = &seen.agent_url;
                self.add(
                    true,
                    format!("could not ask the agent whether containerd has asked: {url} does not answer ({reason})"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_path(value: &str, local_pull: bool) -> ConfigPath {
        ConfigPath::Found { value: value.to_owned(), local_pull, from: "config.toml".to_owned() }
    }

    fn good() -> Seen {
        Seen {
            standings: vec![(
                "docker.io".to_owned(),
                Standing::First { file: PathBuf::from("/a/docker.io/hosts.toml") },
            )],
            mirror: Ok(()),
            mirror_url: "http://127.0.0.1:7780".to_owned(),
            agent: Ok(Agent { requests: 3, ready: true, notices: vec!["synced".to_owned()] }),
            agent_url: "http://127.0.0.1:7782".to_owned(),
            config_path: config_path("/a", false),
            given: Roots::parse("/a").unwrap(),
            missing: Vec::new(),
            roots: Roots::parse("/a").unwrap(),
            version: Some((1, 7)),
        }
    }

    #[test]
    fn each_reason_why_containerd_does_not_ask_is_reported_and_fails() {
        let unasked = Ok(Agent { requests: 0, ready: true, notices: vec!["synced".to_owned()] });
        let list = Seen {
            roots: Roots::parse("/a:/b").unwrap(),
            given: Roots::parse("/a:/b").unwrap(),
            config_path: config_path("/a:/b", false),
            version: Some((2, 1)),
            agent: unasked.clone(),
            ..good()
        };
        let notice = format!("{MIRROR_BYPASSED}: 3 images in a row");
        let cases = [
            (good(), true, "asked 3 times"),
            (Seen { standings: Vec::new(), ..good() }, false, "mirror install"),
            (
                Seen { missing: vec![PathBuf::from("/a")], ..good() },
                false,
                "folder /a of --certs-dir does not exist",
            ),
            (
                Seen { given: list.given.clone(), missing: vec![PathBuf::from("/b")], ..good() },
                true,
                "folder /b of --certs-dir does not exist",
            ),
            (
                Seen { standings: vec![("ghcr.io".to_owned(), Standing::NoFile)], ..good() },
                false,
                "ghcr.io: containerd has no hosts.toml",
            ),
            (Seen { mirror: Err("connection refused".to_owned()), ..good() }, false, "connection refused"),
            (Seen { config_path: config_path("", false), ..good() }, false, "is empty"),
            (Seen { config_path: config_path("/b", false), ..good() }, false, "does NOT read /a"),
            (
                Seen { config_path: ConfigPath::Unknown { reason: "no file".to_owned() }, ..good() },
                true,
                "could not find out",
            ),
            (Seen { agent: unasked, ..good() }, true, "has not asked since"),
            (
                Seen {
                    agent: Ok(Agent { requests: 0, ready: true, notices: vec![notice.clone()] }),
                    ..good()
                },
                false,
                notice.as_str(),
            ),
            (Seen { agent: Err("refused".to_owned()), ..good() }, true, "could not ask the agent"),
            (list.clone(), false, "transfer service"),
            (Seen { agent: good().agent, ..list.clone() }, true, "transfer service"),
        ];
        for (seen, is_good, part) in cases {
            let report = Report::of(&seen);
            let text = report.text(Paint::stdout());
            assert_eq!(report.is_good(), is_good, "{text}");
            assert!(text.contains(part), "{part}: {text}");
            assert_eq!(text.lines().any(|line| line.starts_with('!')), !is_good, "{text}");
        }
        let quiet = [
            Seen { version: Some((2, 0)), ..list.clone() },
            Seen { version: None, ..list.clone() },
            Seen { config_path: config_path("/a:/b", true), ..list },
        ];
        for seen in quiet {
            let text = Report::of(&seen).text(Paint::stdout());
            assert!(!text.contains("transfer service"), "{text}");
        }
    }
}
