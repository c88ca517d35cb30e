//! Files of operators: that of `--config`, values of settings, containerd's hosts.toml.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use piccolo::config::{AGENT, Given, LOGGING, Layers, SERVER, agent, logging, server};
use piccolo::hosts_toml::{Before, Entry, HostsTomlError, before, fresh, hosts_in_order, in_front, without};
use piccolo::value;
use tempfile::TempDir;

/// Parses a file of settings, for a server and for an agent, and its text as each kind of value.
pub(super) fn run(input: &[u8]) {
    static FOLDER: OnceLock<TempDir> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| tempfile::tempdir().expect("there is a place for temporary files"));
    let Ok(text) = std::str::from_utf8(input) else { return };
    values(text);
    if text.contains("/dev") {
        return; // files with these names would be opened
    }
    let path = folder.path().join("config.toml");
    std::fs::write(&path, input).expect("the folder takes a file");
    let config = path.to_str().expect("it is UTF-8").to_owned();
    let given = Given { flags: BTreeMap::from([("config", config)]), environment: BTreeMap::new() };
    let mut layers = Layers::open([SERVER, LOGGING].concat(), &given, false);
    let read = server(&mut layers).zip(logging(&mut layers));
    format_mistakes(layers.finish(read));
    let mut layers = Layers::open([AGENT, LOGGING].concat(), &given, true);
    let read = agent(&mut layers).zip(logging(&mut layers));
    format_mistakes(layers.finish(read));
}

/// Formats all mistakes.
fn format_mistakes<T>(read: Result<T, piccolo::config::Problems>) {
    if let Err(problems) = read {
        assert!(!problems.0.is_empty() && !problems.to_string().is_empty());
    }
}

fn values(text: &str) {
    if let Ok(duration) = value::duration(text, Duration::ZERO, Duration::MAX) {
        let again = value::duration(&value::format_duration(duration), Duration::ZERO, Duration::MAX);
        assert_eq!(again, Ok(duration));
    }
    if let Ok(addresses) = value::list(text, value::listen_address) {
        assert!(!addresses.is_empty());
    }
    if let Ok(host) = value::host(text) {
        assert_eq!(value::host(&host), Ok(host));
    }
    if let Ok(address) = value::host_port(text) {
        assert!(piccolo_raft::address::is_address(&address), "{address}");
    }
    if let Ok(url) = value::server_url(text) {
        assert_eq!(value::server_url(&url), Ok(url));
    }
    value::bytes_per_second(text).ok();
    value::number(text, 0_u64, u64::MAX).ok();
}

/// Adds our entry and removes it again: nothing else changes, or the file is refused.
pub(super) fn run_hosts_toml(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let entry = Entry { url: "http://127.0.0.1:7780".to_owned(), dial_timeout: Some(Duration::from_secs(1)) };
    assert_eq!(without(&fresh(&Default::default(), &entry), &entry.url).map(|left| left.is_some()), Ok(true));
    if let Ok(Some(left)) = without(text, &entry.url) {
        assert_eq!(without(&left, &entry.url), Ok(None), "all of ours is gone");
    }
    if let Err(error) = hosts_in_order(text) {
        assert!(!error.to_string().is_empty());
    }
    let _ = before(text, None, Some(text));
    match in_front(text, &entry) {
        Ok(with_ours) => {
            assert_ne!(before(&with_ours, None, None), Ok(Before::NotOurs), "our entry is found by its mark");
            let again = in_front(&with_ours, &entry);
            assert_eq!(again, Err(HostsTomlError::AlreadyThere { url: entry.url.clone() }));
            let restored = without(&with_ours, &entry.url).expect("what we wrote we read");
            let restored = restored.expect("it has our entry");
            let lines = |text: &'_ str| {
                text.lines().filter(|line| !line.trim().is_empty()).map(str::to_owned).collect::<Vec<_>>()
            };
            assert_eq!(lines(&restored), lines(text), "as it was, but for an empty line");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
