//! `piccolo up` as a user sees it: three processes that start, are killed and stop together.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/ports.rs"]
mod ports;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use ports::{free_port, free_ports_in_a_row};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// Starting, electing and stopping take a second each; the rest is for a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);

fn binary() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_piccolo"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("PICCOLO_")) {
        command.env_remove(name);
    }
    command
}

/// The first of six consecutive free ports.
fn base_port() -> u16 {
    free_ports_in_a_row(6)
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// True if the process exists; a zombie does, until its parent waits for it.
fn alive(number: u32) -> bool {
    test_kill_process(pid(number)).is_ok()
}

/// A running `piccolo up`.
struct Up {
    process: Child,
    stdout: Receiver<String>,
    stderr: Receiver<String>,
}

impl Up {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut process = binary()
            .args(["up", "--data-dir"])
            .arg(folder)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = lines(process.stdout.take().unwrap());
        let stderr = lines(process.stderr.take().unwrap());
        Self { process, stdout, stderr }
    }

    /// Rows of the servers once they are ready: name, URL, raft address, pid.
    fn ready(&self) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        loop {
            let line = self.stdout.recv_timeout(DEADLINE).expect("it gets ready");
            if line.starts_with("server-") {
                rows.push(line.split_whitespace().map(str::to_owned).collect());
            }
            if line.starts_with("Ctrl-C stops") {
                return rows;
            }
        }
    }

    fn log_line(&self, part: &str) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = self.stderr.recv_timeout(left).unwrap_or_else(|_| panic!("no line with {part:?}"));
            if line.contains(part) {
                return line;
            }
        }
    }

    /// Asserts that the log has no error after the process has ended.
    fn ended_without_errors(&self) {
        let errors: Vec<String> = self.stderr.iter().filter(|line| line.contains(" ERROR ")).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }

    fn signal(&self, signal: Signal) {
        kill_process(pid(self.process.id()), signal).unwrap();
    }

    fn ended(&mut self) -> ExitStatus {
        until("it ends", || self.process.try_wait().unwrap())
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Its children end with it.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn lines(from: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn pids(rows: &[Vec<String>]) -> Vec<u32> {
    rows.iter().map(|row| row[3].parse().unwrap()).collect()
}

fn ask(arguments: &[&str]) -> Output {
    binary().args(arguments).output().unwrap()
}

fn advertise(url: &str, key: &str) {
    let address = url.strip_prefix("http://").unwrap();
    let body = format!(r#"{{"holder":"127.0.0.1:7781","group":"default","keys":["{key}"]}}"#);
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    write!(
        stream,
        "POST /api/v1/distribution/advertise HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
}

#[test]
fn a_killed_server_is_started_again_and_ctrl_c_stops_all() {
    let folder = tempfile::tempdir().unwrap();
    let mut up = Up::start(folder.path(), &["--base-port", &base_port().to_string()]);
    let rows = up.ready();
    assert_eq!(rows.len(), 3);
    assert_eq!(
        rows.iter().filter(|row| row.get(4).is_some_and(|role| role == "leader")).count(),
        1,
        "{rows:?}"
    );
    let before = pids(&rows);
    for row in &rows {
        let status = ask(&["status", "--server", &row[1]]);
        assert!(status.status.success());
        let text = String::from_utf8_lossy(&status.stdout).into_owned();
        assert_eq!(text.matches(" voter ").count() + text.matches(" leader ").count(), 3, "{text}");
    }

    kill_process(pid(before[1]), Signal::KILL).unwrap();
    up.log_line("server-2 ended: killed by signal 9");
    up.log_line("server-2 started");
    until("server-2 answers again", || {
        ask(&["status", "--server", &rows[1][1]]).status.success().then_some(())
    });

    up.signal(Signal::INT);
    assert_eq!(up.ended().code(), Some(0));
    assert!(before.iter().all(|pid| !alive(*pid)));
    // All ports are free, so that the restarted server has ended, too.
    for row in &rows {
        TcpListener::bind(row[1].strip_prefix("http://").unwrap()).unwrap();
    }
}

/// What a raft port answers to somebody without TLS.
fn plain_whoami(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(b"POST /raft/v1/whoami HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_secret_that_others_can_read_stops_it_before_its_servers() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("cluster-secret.pem");
    assert!(ask(&["cluster-secret", "create", secret.to_str().unwrap()]).status.success());
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o644)).unwrap();
    let base = base_port().to_string();
    let output = ask(&["up", "--data-dir", folder.path().to_str().unwrap(), "--base-port", &base]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("chmod 600"), "{said}");
}

#[test]
fn started_again_it_finds_its_data_and_its_ports() {
    const KEY: &str = "docker.io/library/nginx:latest";
    let folder = tempfile::tempdir().unwrap();
    let base = base_port().to_string();
    let mut up = Up::start(folder.path(), &["--base-port", &base]);
    let first = up.ready();
    assert_eq!(ask(&["find", "nginx", "--server", &first[0][1]]).status.code(), Some(3));
    advertise(&first[2][1], KEY);
    for row in &first {
        assert!(plain_whoami(&row[2]).starts_with("HTTP/1.1 400 "), "{} takes a plain message", row[2]);
    }
    let secret = folder.path().join("cluster-secret.pem");
    let made = std::fs::read(&secret).unwrap();
    assert_eq!(std::fs::metadata(&secret).unwrap().permissions().mode() & 0o7777, 0o600);
    up.signal(Signal::TERM);
    assert_eq!(up.ended().code(), Some(0));
    up.ended_without_errors();

    let up = Up::start(folder.path(), &[]);
    let second = up.ready();
    assert_eq!(std::fs::read(&secret).unwrap(), made);
    assert_eq!(
        first.iter().map(|row| &row[1..3]).collect::<Vec<_>>(),
        second.iter().map(|row| &row[1..3]).collect::<Vec<_>>()
    );
    for row in &second {
        let found = until("the key is found", || {
            Some(ask(&["find", "nginx", "--server", &row[1]])).filter(|found| found.status.success())
        });
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        assert_eq!(text, format!("{KEY} in group default: 1 node\n127.0.0.1:7781\n"));
    }
    let hosts = ask(&["hosts", "--server", &second[0][1], "--json"]);
    let hosts: serde_json::Value = serde_json::from_slice(&hosts.stdout).unwrap();
    assert_eq!(hosts["hosts"][0]["holder"], "127.0.0.1:7781");
    drop(up);
}

#[test]
fn a_site_goes_on_without_a_server_that_was_removed() {
    let folder = tempfile::tempdir().unwrap();
    let mut up = Up::start(folder.path(), &["--base-port", &base_port().to_string()]);
    let rows = up.ready();
    let removed = ask(&["members", "remove", &rows[2][2], "--server", &rows[0][1]]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    up.log_line("server-3 was removed from its cluster; the others go on without it");
    until("two of two vote", || {
        let list = ask(&["members", "list", "--server", &rows[0][1]]);
        String::from_utf8_lossy(&list.stdout).contains("quorum, 2 of 2 voters must answer").then_some(())
    });
    advertise(&rows[1][1], "docker.io/library/nginx:latest");
    up.signal(Signal::TERM);
    assert_eq!(up.ended().code(), Some(0));
}

#[test]
fn children_do_not_outlive_a_killed_parent() {
    let folder = tempfile::tempdir().unwrap();
    let mut up = Up::start(folder.path(), &["--base-port", &base_port().to_string()]);
    let children = pids(&up.ready());
    up.signal(Signal::KILL);
    up.ended();
    until("the children are gone", || children.iter().all(|child| !alive(*child)).then_some(()));
}

#[test]
fn a_folder_in_use_is_refused_and_so_are_other_ports() {
    let folder = tempfile::tempdir().unwrap();
    let base = base_port();
    let up = Up::start(folder.path(), &["--base-port", &base.to_string()]);
    // It takes the lock before anything else.
    up.log_line("server-1 started");
    let mut second = Up::start(folder.path(), &[]);
    assert_eq!(second.ended().code(), Some(1));
    second.log_line(&format!("in use by another `piccolo up` (pid {})", up.process.id()));
    drop(up);

    let other = (base + 6).to_string();
    let mut third = until("the lock is free", || {
        let mut up = Up::start(folder.path(), &["--base-port", &other]);
        (up.ended().code() != Some(1)).then_some(up)
    });
    assert_eq!(third.ended().code(), Some(2));
    third.log_line(&format!("its servers were started on {base}"));
}

#[test]
fn an_occupied_port_is_named_before_anything_is_started() {
    let folder = tempfile::tempdir().unwrap();
    let base = base_port();
    let held = TcpListener::bind(("127.0.0.1", base + 4)).unwrap();
    let mut up = Up::start(folder.path(), &["--base-port", &base.to_string()]);
    assert_eq!(up.ended().code(), Some(1));
    up.log_line(&format!("127.0.0.1:{} (API of server-3) is in use", held.local_addr().unwrap().port()));
    assert!(!folder.path().join("server-1").exists());
}

#[test]
fn a_child_that_cannot_use_its_configuration_ends_everything() {
    let folder = tempfile::tempdir().unwrap();
    let output = binary()
        .args(["up", "--base-port", &base_port().to_string(), "--data-dir"])
        .arg(folder.path())
        .env("PICCOLO_LEASE_DEFAULT", "soon")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("PICCOLO_LEASE_DEFAULT: invalid value \"soon\""), "{text}");
}

#[test]
fn flags_of_the_agent_need_the_agent() {
    let output = ask(&["up", "--zone", "a"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("--zone: can only be used together with --agent")
    );
}

#[test]
fn an_agent_comes_along_and_is_known_to_the_servers() {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    std::fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
    std::fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    std::fs::write(layout.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
    let base = base_port();
    let peer = format!("127.0.0.1:{}", free_port());
    let mut up = Up::start(
        &folder.path().join("data"),
        &[
            &[
                "--base-port",
                &base.to_string(),
                "--agent",
                "--zone",
                "rack-7",
                "--layout",
                layout.to_str().unwrap(),
            ][..],
            &["--mirror-listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"],
            &["--peer-listen", &peer, "--advertise", &peer, "--heartbeat-interval", "1s"],
        ]
        .concat(),
    );
    let rows = up.ready();
    // The zone comes with the first heartbeat, a moment after the first sync.
    until("the agent is known with its zone", || {
        let answer = ask(&["hosts", "--server", &rows[1][1], "--json"]);
        let answer: serde_json::Value = serde_json::from_slice(&answer.stdout).ok()?;
        let host = answer["hosts"].get(0)?;
        (host["holder"] == peer.as_str() && host["zone"] == "rack-7").then_some(())
    });

    up.signal(Signal::TERM);
    let agent = up.log_line("agent stopped");
    assert!(agent.contains("exit code 0"), "{agent}");
    up.log_line("everything is stopped");
    assert_eq!(up.ended().code(), Some(0));
}
