//! The two processes of `piccolo agent`: what containerd sees at the mirror's port when the worker dies,
//! hangs, is replaced or stops. The real binary; no server answers, and no store is needed.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/ports.rs"]
mod ports;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ports::free_address;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// Time for steps without a promised duration.
const SOON: Duration = Duration::from_secs(60);
/// Longest delay by a frozen agent: twice the promise (I4), for a busy machine. `limits.rs` asserts that the
/// supervisor's times add up to less than the promise.
const FROZEN_COST_MAX: Duration = Duration::from_secs(10);
/// Longer than a worker may be silent.
const LONG: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
/// In the file, so that a test can change it.
const PEER_LISTEN: &str = "peer-listen = \"127.0.0.1:0\"\n";
const REQUEST: &[u8] = b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

fn within<T>(what: &str, time: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + time;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "not within {time:?}: {what}");
        thread::sleep(POLL);
    }
}

fn pid_of(pid: u32) -> Pid {
    Pid::from_raw(pid as i32).unwrap()
}

fn send(pid: u32, signal: Signal) {
    kill_process(pid_of(pid), signal).unwrap();
}

/// True if the process at the other end has accepted this connection and read everything that was sent.
fn is_read(stream: &TcpStream) -> bool {
    let port = |address: io::Result<SocketAddr>| format!("0100007F:{:04X}", address.unwrap().port());
    let (there, here) = (port(stream.peer_addr()), port(stream.local_addr()));
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        // Addresses, queues, and the inode that a socket has once it is accepted.
        words[1] == there && words[2] == here && words[4].ends_with(":00000000") && words[9] != "0"
    })
}

/// State and parent of a process; `None` after its end.
fn look_at(pid: u32) -> Option<(char, u32)> {
    read_stat(Path::new(&format!("/proc/{pid}")))
}

fn are_stopped(pid: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    threads.filter_map(|thread| read_stat(&thread.path())).all(|(state, _)| state == 'T')
}

fn read_stat(folder: &Path) -> Option<(char, u32)> {
    let stat = fs::read_to_string(folder.join("stat")).ok()?;
    let mut fields = stat[stat.rfind(')')? + 1..].split_whitespace();
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?))
}

fn is_alive(pid: u32) -> bool {
    look_at(pid).is_some_and(|(state, _)| state != 'Z')
}

/// Copies with another process: a file that this process has open for writing could be inherited by a child
/// that another test starts, and the system refuses to run such a file.
fn copy(from: &str, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
}

/// Sends a request on a new connection; returns the status.
fn ask(mirror: SocketAddr) -> io::Result<u16> {
    let mut stream = TcpStream::connect(mirror)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(REQUEST)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    status.ok_or_else(|| io::Error::new(ErrorKind::UnexpectedEof, format!("no answer: {answer:?}")))
}

/// An agent of an empty layout, killed when dropped.
struct Agent {
    process: Child,
    mirror: SocketAddr,
    log: PathBuf,
    folder: TempDir,
}

impl Agent {
    /// Starts an agent and waits until it serves.
    fn start() -> Self {
        Self::start_as(Path::new(env!("CARGO_BIN_EXE_piccolo")), "")
    }

    /// Starts `binary` with this text of the configuration file.
    fn start_as(binary: &Path, config: &str) -> Self {
        let agent = Self::spawn(binary, config, free_address());
        within("the worker serves", SOON, || ask(agent.mirror).ok().filter(|status| *status == 200));
        agent
    }

    fn spawn(binary: &Path, config: &str, mirror: SocketAddr) -> Self {
        Self::spawn_with(Command::new(binary), config, mirror, None)
    }

    /// Starts `command`, which is the binary or runs it, with `stderr` in place of a file.
    fn spawn_with(
        mut command: Command,
        config: &str,
        mirror: SocketAddr,
        stderr: Option<io::PipeWriter>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let layout = folder.path().join("layout");
        fs::create_dir_all(layout.join("blobs/sha256")).unwrap();
        fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        fs::write(layout.join("index.json"), r#"{"schemaVersion":2,"manifests":[]}"#).unwrap();
        let config_file = folder.path().join("piccolo.toml");
        fs::write(&config_file, format!("{PEER_LISTEN}{config}")).unwrap();
        let log = folder.path().join("log");
        fs::write(&log, "").unwrap();
        let process = command
            .env_clear()
            .args(["agent", "--servers", "http://127.0.0.1:1"])
            .args(["--metrics-listen", "127.0.0.1:0", "--mirror-listen", &mirror.to_string()])
            .args(["--exit-with-parent", &std::process::id().to_string()])
            .arg("--state-dir")
            .arg(folder.path().join("state"))
            .arg("--layout")
            .arg(layout)
            .arg("--config")
            .arg(config_file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr.map_or_else(|| Stdio::from(File::create(&log).unwrap()), Stdio::from))
            .spawn()
            .unwrap();
        Self { process, mirror, log, folder }
    }

    /// Changes the configuration for the next worker.
    fn configure(&self, text: &str) {
        fs::write(self.folder.path().join("piccolo.toml"), text).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    fn supervisor(&self) -> u32 {
        self.process.id()
    }

    /// Pids of all its processes except the supervisor.
    fn workers(&self) -> Vec<u32> {
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| {
            look_at(*pid).is_some_and(|(state, parent)| parent == self.supervisor() && state != 'Z')
        })
        .collect()
    }

    fn worker(&self) -> u32 {
        within("there is one worker", SOON, || match self.workers()[..] {
            [worker] => Some(worker),
            _ => None,
        })
    }

    /// Asserts that `worker` serves, and that there is no other one.
    fn keeps(&self, worker: u32) {
        within("the worker before stays alone", SOON, || (self.workers() == [worker]).then_some(()));
    }

    fn logged(&self, what: &str) {
        within(&format!("the log has {what:?}:\n{}", self.log()), SOON, || {
            self.log().contains(what).then_some(())
        });
    }

    fn wait(&mut self) -> ExitStatus {
        within("the agent ends", SOON, || self.process.try_wait().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("---- log of the agent:\n{}", self.log());
        }
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Clients that connect and send requests all the time, like a loop of pulls.
struct Crowd {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<thread::JoinHandle<Option<String>>>,
}

impl Crowd {
    /// Starts the clients. `cut_is_fine`: answers may break off, because a process is killed.
    fn start(mirror: SocketAddr, cut_is_fine: bool) -> Self {
        let (stop, answered) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let client = || {
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match ask(mirror) {
                        Ok(200 | 404) => _ = answered.fetch_add(1, Ordering::Relaxed),
                        Ok(status) => return Some(format!("status {status}")),
                        Err(error) if cut_is_fine && error.kind() != ErrorKind::ConnectionRefused => {}
                        Err(error) => return Some(error.to_string()),
                    }
                }
                None
            })
        };
        let clients = (0..3).map(|_| client()).collect();
        let crowd = Self { stop, answered, clients };
        crowd.is_served();
        crowd
    }

    /// Waits for some more answers.
    fn is_served(&self) {
        let before = self.answered.load(Ordering::Relaxed);
        within("the crowd is answered", SOON, || {
            (self.answered.load(Ordering::Relaxed) >= before + 20 || self.is_upset()).then_some(())
        });
    }

    fn is_upset(&self) -> bool {
        self.clients.iter().any(thread::JoinHandle::is_finished)
    }

    /// Asserts that no client saw a failure.
    fn stays_content(self) {
        self.stop.store(true, Ordering::Relaxed);
        let complaints: Vec<String> =
            self.clients.into_iter().filter_map(|client| client.join().unwrap()).collect();
        assert!(complaints.is_empty(), "{complaints:?}");
    }
}

#[test]
fn a_worker_that_is_killed_is_replaced_and_the_port_never_refuses() {
    let agent = Agent::start();
    let crowd = Crowd::start(agent.mirror, true);
    let killed = agent.worker();
    send(killed, Signal::KILL);
    within("an answer", FROZEN_COST_MAX, || ask(agent.mirror).ok());
    within("a worker serves", SOON, || ask(agent.mirror).ok().filter(|status| *status == 200));
    crowd.is_served();
    crowd.stays_content();
    assert_ne!(agent.worker(), killed);
    agent.logged("killed by signal 9");
}

/// What a process ignores, the programs that it becomes ignore as well: then the kernel tells nobody that a child
/// has ended.
#[test]
fn an_agent_whose_parent_ignores_its_children_still_learns_that_a_worker_has_ended() {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "trap '' CHLD; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_piccolo")]);
    let mut agent = Agent::spawn_with(command, "", free_address(), None);
    within("the worker serves", SOON, || ask(agent.mirror).ok().filter(|status| *status == 200));
    let killed = agent.worker();
    send(killed, Signal::KILL);
    within("another worker serves", SOON, || {
        ask(agent.mirror).ok().filter(|status| *status == 200 && !is_alive(killed))
    });
    agent.logged("killed by signal 9");
    send(agent.supervisor(), Signal::TERM);
    assert!(agent.wait().success());
}

/// I4 also while an operator restarts an agent that hangs.
#[test]
fn a_frozen_worker_that_is_told_to_stop_or_to_make_room_costs_no_request_more_than_its_promise() {
    for signal in [Signal::TERM, Signal::HUP] {
        let mut agent = Agent::start();
        let frozen = agent.worker();
        let mut accepted = TcpStream::connect(agent.mirror).unwrap();
        accepted.write_all(b"GET /v2/ HTTP/1.1\r\n").unwrap();
        assert_eq!(ask(agent.mirror).unwrap(), 200, "in the order of connecting: the other one is accepted");
        send(frozen, Signal::STOP);
        within("all its threads are stopped", SOON, || are_stopped(frozen).then_some(()));
        let stopped = Instant::now();
        send(agent.supervisor(), signal);
        accepted.set_read_timeout(Some(SOON)).unwrap();
        assert!(!matches!(accepted.read(&mut [0; 16]), Ok(1..)), "a frozen process answered");
        assert!(stopped.elapsed() <= FROZEN_COST_MAX, "cut after {:?}", stopped.elapsed());
        if signal == Signal::TERM {
            agent.wait();
        } else {
            within("a worker serves", SOON, || ask(agent.mirror).ok().filter(|status| *status == 200));
        }
    }
}

/// I4: connections that wait to be accepted, and accepted ones, end in time.
#[test]
fn a_frozen_worker_costs_no_request_more_than_its_promise() {
    let agent = Agent::start();
    let frozen = agent.worker();
    // Accepted, and the worker waits for the rest of its headers.
    let mut accepted = TcpStream::connect(agent.mirror).unwrap();
    accepted.write_all(b"GET /v2/ HTTP/1.1\r\n").unwrap();
    assert_eq!(ask(agent.mirror).unwrap(), 200, "in the order of connecting: the other one is accepted");
    send(frozen, Signal::STOP);
    let stopped = Instant::now();
    within("all its threads are stopped", SOON, || are_stopped(frozen).then_some(()));
    accepted.write_all(b"Host: x\r\n\r\n").unwrap();
    accepted.set_read_timeout(Some(SOON)).unwrap();
    let waiting = thread::spawn({
        let mirror = agent.mirror;
        move || ask(mirror).map(|status| (status, stopped.elapsed()))
    });
    let ended = accepted.read(&mut [0; 16]);
    assert!(!matches!(ended, Ok(1..)), "a frozen process answered: {ended:?}");
    assert!(stopped.elapsed() <= FROZEN_COST_MAX, "cut after {:?}", stopped.elapsed());
    let (status, took) = waiting.join().unwrap().expect("who waits in the queue is answered");
    assert_eq!(status, 404, "the next host is asked");
    assert!(took <= FROZEN_COST_MAX, "answered after {took:?}");
    within("the frozen worker is gone", SOON, || (!is_alive(frozen)).then_some(()));
    within("a worker serves", SOON, || ask(agent.mirror).ok().filter(|status| *status == 200));
}

#[test]
fn a_pause_of_the_whole_agent_kills_nobody() {
    let agent = Agent::start();
    let worker = agent.worker();
    send(agent.supervisor(), Signal::STOP);
    send(worker, Signal::STOP);
    thread::sleep(LONG);
    send(agent.supervisor(), Signal::CONT);
    // The worse order: the supervisor runs alone for a moment.
    thread::sleep(Duration::from_millis(500));
    send(worker, Signal::CONT);
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        assert_eq!(agent.workers(), [worker], "another worker");
        thread::sleep(POLL);
    }
    assert_eq!(ask(agent.mirror).unwrap(), 200);
}

/// Both would have written verdicts into one file, without any message.
#[test]
fn a_second_agent_with_the_same_state_folder_is_refused() {
    let agent = Agent::start();
    let (state, any) = (agent.folder.path().join("state"), "127.0.0.1:0");
    let second = Command::new(env!("CARGO_BIN_EXE_piccolo"))
        .env_clear()
        .args(["agent", "--servers", "http://127.0.0.1:1", "--mirror-listen", any, "--peer-listen", any])
        .args(["--metrics-listen", any, "--exit-with-parent", &std::process::id().to_string()])
        .arg("--state-dir")
        .arg(&state)
        .arg("--layout")
        .arg(agent.folder.path().join("layout"))
        .output()
        .unwrap();
    let (message, folder) = (String::from_utf8_lossy(&second.stderr), state.display());
    assert_eq!(second.status.code(), Some(1), "{message}");
    let expected = format!(
        "the folder {folder} of --state-dir is in use by another agent (pid {}): ",
        agent.supervisor()
    );
    assert!(message.contains(&expected), "{message}");
    assert_eq!(ask(agent.mirror).unwrap(), 200);
}

#[test]
fn a_supervisor_that_is_killed_takes_its_worker_along() {
    let agent = Agent::start();
    let worker = agent.worker();
    send(agent.supervisor(), Signal::KILL);
    within("the worker is gone", SOON, || (!is_alive(worker)).then_some(()));
}

#[test]
fn a_reload_replaces_the_worker_without_a_gap() {
    let agent = Agent::start();
    let crowd = Crowd::start(agent.mirror, false);
    for _ in 0..3 {
        let before = agent.worker();
        send(agent.supervisor(), Signal::HUP);
        within("another worker", SOON, || agent.workers().into_iter().find(|pid| *pid != before));
        within("the worker before has ended", SOON, || (!is_alive(before)).then_some(()));
        crowd.is_served();
    }
    crowd.stays_content();
}

#[test]
fn an_upgrade_replaces_worker_and_supervisor_without_a_gap_and_keeps_the_pid() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("piccolo");
    let install = || {
        let next = folder.path().join("next");
        copy(env!("CARGO_BIN_EXE_piccolo"), &next);
        fs::rename(next, &binary).unwrap();
        fs::metadata(&binary).unwrap().ino()
    };
    install();
    let mut agent = Agent::start_as(&binary, "");
    let crowd = Crowd::start(agent.mirror, false);
    for _ in 0..2 {
        let before = agent.worker();
        let version = install();
        let runs = |pid: u32| fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ino() == version);
        assert!(!runs(agent.supervisor()));
        send(agent.supervisor(), Signal::HUP);
        within("the supervisor is the new version", SOON, || runs(agent.supervisor()).then_some(()));
        within("the worker before has ended", SOON, || (!is_alive(before)).then_some(()));
        assert!(runs(agent.worker()));
        crowd.is_served();
    }
    crowd.stays_content();
    // The new version is a supervisor like the first: it replaces a dead worker, and stops in order.
    send(agent.worker(), Signal::KILL);
    within("a worker serves again", SOON, || ask(agent.mirror).ok().filter(|status| *status == 200));
    send(agent.supervisor(), Signal::TERM);
    assert!(agent.wait().success());
}

/// An exec removes the handlers: a SIGHUP before the new version had its own ended the agent. And reloads
/// that were requested while a worker started delayed the upgrade, for as long as they came.
#[test]
fn signals_during_an_upgrade_end_nobody_and_are_obeyed_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("piccolo");
    let install = || {
        let next = folder.path().join("next");
        copy(env!("CARGO_BIN_EXE_piccolo"), &next);
        fs::rename(next, &binary).unwrap();
        fs::metadata(&binary).unwrap().ino()
    };
    install();
    let mut agent = Agent::start_as(&binary, "");
    for _ in 0..3 {
        let version = install();
        let runs = |pid: u32| fs::metadata(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ino() == version);
        let is_new = AtomicBool::new(false);
        thread::scope(|scope| {
            // More often than any worker starts.
            scope.spawn(|| {
                let end = Instant::now() + SOON;
                let mut left_after_exec = 1000;
                while left_after_exec > 0 && Instant::now() < end {
                    send(agent.supervisor(), Signal::HUP);
                    left_after_exec -= usize::from(is_new.load(Ordering::Relaxed));
                    thread::sleep(Duration::from_micros(200));
                }
            });
            let end = Instant::now() + SOON;
            while !is_new.load(Ordering::Relaxed) {
                assert!(Instant::now() < end, "the supervisor does not become the new version");
                agent.workers().into_iter().for_each(|worker| _ = kill_process(pid_of(worker), Signal::HUP));
                is_new.store(runs(agent.supervisor()), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
        assert!(agent.process.try_wait().unwrap().is_none(), "a signal ended the supervisor");
    }
    // An earlier version may have received the signal for the last reload.
    within("one worker serves", SOON, || {
        (agent.workers().len() == 1 && ask(agent.mirror).is_ok_and(|status| status == 200)).then_some(())
    });
    assert!(!agent.log().contains("killed by signal 1 "), "a signal ended a worker");
    send(agent.supervisor(), Signal::TERM);
    assert!(agent.wait().success(), "it stops in order");
}

#[test]
fn a_version_that_cannot_start_leaves_the_old_one_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("piccolo");
    copy(env!("CARGO_BIN_EXE_piccolo"), &binary);
    let agent = Agent::start_as(&binary, "");
    let worker = agent.worker();
    let broken = folder.path().join("broken");
    copy("/bin/false", &broken);
    fs::rename(broken, &binary).unwrap();
    send(agent.supervisor(), Signal::HUP);
    agent.logged("the one before stays");
    agent.keeps(worker);
    assert_eq!(ask(agent.mirror).unwrap(), 200);
}

#[test]
fn a_reload_with_a_mistake_or_other_ports_leaves_everything_as_it_is() {
    let agent = Agent::start();
    let worker = agent.worker();
    agent.configure("peer-listen = 7.5\nno-such-key = 1\n");
    send(agent.supervisor(), Signal::HUP);
    agent.logged("2 mistakes in the configuration");
    agent.logged("the one before stays");
    agent.keeps(worker);

    agent.configure("peer-listen = \"127.0.0.2:0\"\n");
    send(agent.supervisor(), Signal::HUP);
    agent.logged("the listening addresses have changed");
    agent.keeps(worker);

    agent.configure(&format!("{PEER_LISTEN}zone = \"rack-7\"\n"));
    send(agent.supervisor(), Signal::HUP);
    agent.logged("a new worker serves");
    assert_eq!(ask(agent.mirror).unwrap(), 200);
}

#[test]
fn stopping_ends_what_was_begun_and_answers_the_others_until_it_is_gone() {
    let mut agent = Agent::start();
    let worker = agent.worker();
    let mut begun = TcpStream::connect(agent.mirror).unwrap();
    begun.write_all(b"GET /v2/ HTTP/1.1\r\n").unwrap();
    within("the worker reads it", SOON, || is_read(&begun).then_some(()));
    let crowd = Crowd::start(agent.mirror, false);
    send(agent.supervisor(), Signal::TERM);
    // Like systemd: a signal to each process of the service.
    send(worker, Signal::TERM);
    within("others are sent on", SOON, || (ask(agent.mirror).unwrap() == 404).then_some(()));
    crowd.is_served();
    assert!(is_alive(worker), "it has not ended what it had begun");
    crowd.stays_content();
    begun.write_all(b"Host: x\r\n\r\n").unwrap();
    begun.set_read_timeout(Some(SOON)).unwrap();
    let mut answer = String::new();
    begun.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(agent.wait().success());
    assert_eq!(ask(agent.mirror).unwrap_err().kind(), ErrorKind::ConnectionRefused);
}

/// A pipe without a reader fills up; a write to it would hang forever.
#[test]
fn a_log_that_nobody_reads_costs_no_answers() {
    let (reader, writer) = io::pipe().unwrap();
    let agent = Agent::spawn_with(
        Command::new(Path::new(env!("CARGO_BIN_EXE_piccolo"))),
        "",
        free_address(),
        Some(writer),
    );
    within("the worker serves", SOON, || ask(agent.mirror).ok().filter(|status| *status == 200));
    let worker = agent.worker();
    // One line of the worker for each, longer than the pipe in total.
    let path =
        format!("GET /v2/{}/blobs/sha256:{:064} HTTP/1.1\r\nConnection: close\r\n\r\n", "a".repeat(200), 7);
    let (full, mut lines) = (Instant::now() + LONG, 500_u32);
    while Instant::now() < full || lines > 0 {
        let mut stream = TcpStream::connect(agent.mirror).unwrap();
        stream.set_read_timeout(Some(FROZEN_COST_MAX)).unwrap();
        stream.write_all(path.as_bytes()).unwrap();
        stream.read_to_end(&mut Vec::new()).expect("an answer");
        lines = lines.saturating_sub(1);
    }
    assert_eq!(ask(agent.mirror).unwrap(), 200);
    assert_eq!(agent.workers(), [worker], "it hung, and was killed");
    drop(reader);
}

#[test]
fn a_foreign_process_on_the_port_is_named() {
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let binary = Path::new(env!("CARGO_BIN_EXE_piccolo"));
    let mut agent = Agent::spawn(binary, "", held.local_addr().unwrap());
    assert_eq!(agent.wait().code(), Some(1));
    let (log, own) = (agent.log(), format!("process {} (", std::process::id()));
    assert!(log.contains(&held.local_addr().unwrap().to_string()) && log.contains(&own), "{log}");
    assert!(log.contains("--mirror-listen"), "{log}");
}

#[test]
fn what_only_the_worker_finds_out_ends_the_agent_at_its_first_start() {
    // A readable file that is not a certificate.
    let config = format!("[registry.\"registry.example\"]\nca = \"{}\"\n", env!("CARGO_MANIFEST_PATH"));
    let binary = Path::new(env!("CARGO_BIN_EXE_piccolo"));
    let mut agent = Agent::spawn(binary, &config, free_address());
    assert_eq!(agent.wait().code(), Some(1));
    let log = agent.log();
    assert!(log.contains("registry.example") && log.contains("the agent could not start"), "{log}");
}
