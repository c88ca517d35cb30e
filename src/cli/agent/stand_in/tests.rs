//! What clients of the stand-in see.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::super::handover::{Ports, Told};
use super::*;
use crate::limits::{STAND_IN_CONNECTIONS_MAX, STAND_IN_TIMEOUT};

fn open() -> Ports {
    let told = r#"{"mirror":"127.0.0.1:0","peer":"127.0.0.1:0","metrics":"127.0.0.1:0"}"#;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Ports::open(serde_json::from_str::<Told>(told).unwrap())).unwrap()
}

/// One that stands in on a thread of its own, until this is dropped.
struct Running {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    fn on(ports: &Ports) -> Self {
        let mut stand_in = StandIn::start(ports).unwrap();
        let stop = Arc::<AtomicBool>::default();
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                stand_in.look_once(Some(Instant::now() + Duration::from_millis(10)));
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(thread::JoinHandle::join);
    }
}

fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(STAND_IN_TIMEOUT)).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn each_port_gets_the_answer_after_which_its_clients_go_on() {
    let ports = open();
    let _running = Running::on(&ports);
    let mirror = ports.mirror.local_addr().unwrap();
    let answer = ask(mirror, "GET /v2/a/blobs/sha256:0 HTTP/1.1\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.contains("\r\n\r\n{\"errors\""), "{answer}");
    let head = ask(mirror, "HEAD /v2/a/manifests/v1 HTTP/1.1\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 404 ") && head.ends_with("\r\n\r\n"), "{head}");
    for port in [&ports.peer, &ports.metrics] {
        let answer = ask(port.local_addr().unwrap(), "GET /readyz HTTP/1.1\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("Retry-After: "), "{answer}");
    }
}

#[test]
fn a_request_in_pieces_is_answered_once_it_is_whole() {
    let ports = open();
    let _running = Running::on(&ports);
    let mut stream = TcpStream::connect(ports.mirror.local_addr().unwrap()).unwrap();
    for piece in ["GET /v2/ HT", "TP/1.1\r\nHost: x\r", "\n\r\n"] {
        stream.write_all(piece.as_bytes()).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[test]
fn at_the_end_who_waits_is_answered_and_beside_a_worker_left_to_it() {
    let ports = open();
    let mirror = ports.mirror.local_addr().unwrap();
    let mut waiting = TcpStream::connect(mirror).unwrap();
    waiting.write_all(b"GET /v2/ HTTP/1.1\r\n\r\n").unwrap();
    StandIn::start(&ports).unwrap().end();
    waiting.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(waiting.read(&mut [0]).is_err(), "it took what is the worker's");

    waiting.set_read_timeout(Some(STAND_IN_TIMEOUT)).unwrap();
    let reader = thread::spawn(move || {
        let mut answer = String::new();
        waiting.read_to_string(&mut answer).map(|_| answer)
    });
    StandIn::start(&ports).unwrap().finish();
    let answer = reader.join().unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[test]
fn clients_that_say_nothing_do_not_keep_the_slots() {
    let ports = open();
    let mirror = ports.mirror.local_addr().unwrap();
    let _running = Running::on(&ports);
    let mut silent = Vec::new();
    // Together they would keep all slots for many times the timeout.
    for _ in 0..STAND_IN_CONNECTIONS_MAX * 8 {
        silent.push(TcpStream::connect(mirror).unwrap());
    }
    assert!(ask(mirror, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
}

#[test]
fn a_connection_that_ends_or_says_nothing_ends_in_time() {
    let ports = open();
    let mirror = ports.mirror.local_addr().unwrap();
    let mut stand_in = StandIn::start(&ports).unwrap();
    let (gone, silent) = (TcpStream::connect(mirror).unwrap(), TcpStream::connect(mirror).unwrap());
    drop(gone);
    let begun = Instant::now();
    while stand_in.ports[0].is_idle() {
        stand_in.look(begun);
    }
    stand_in.stand_back();
    stand_in.look(begun);
    assert!(!stand_in.has_ended(), "the silent one has time left");
    stand_in.look(begun + STAND_IN_TIMEOUT);
    assert!(stand_in.has_ended());
    drop(silent);
}

#[test]
fn a_client_that_never_ceases_to_send_is_cut_in_time_and_others_are_answered() {
    let ports = open();
    let mirror = ports.mirror.local_addr().unwrap();
    let _running = Running::on(&ports);
    let sender = thread::spawn(move || {
        let mut stream = TcpStream::connect(mirror).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let begun = Instant::now();
        while stream.write_all(&[0; 64 * 1024]).is_ok() {
            assert!(begun.elapsed() < STAND_IN_TIMEOUT * 5, "it was never cut");
        }
    });
    assert!(ask(mirror, "GET / HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 404 "));
    sender.join().unwrap();
}
