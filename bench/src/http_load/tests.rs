//! Tests against a server of a few lines.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::thread;

use super::*;

/// A server that answers with `status` and the request's path (or body), in two pieces.
fn echo(status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            thread::spawn(move || serve(stream.unwrap(), status));
        }
    });
    address
}

fn serve(mut stream: std::net::TcpStream, status: &str) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    loop {
        let (mut lines, mut line) = (Vec::new(), String::new());
        while {
            line.clear();
            reader.read_line(&mut line).ok()? > 2
        } {
            lines.push(line.trim().to_owned());
        }
        let path = lines.first()?.split(' ').nth(1)?.to_owned();
        let length = lines.iter().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        let said = if body.is_empty() { path.into_bytes() } else { body };
        let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n", said.len());
        stream.write_all(head.as_bytes()).ok()?;
        stream.write_all(&said).ok()?;
    }
}

#[test]
fn every_request_is_sent_once_and_its_answer_seen() {
    let address = echo("200 OK");
    let mut sent = 0;
    let mut seen = Vec::new();
    let next = |request: &mut Vec<u8>| {
        request.extend_from_slice(format!("GET /{sent} HTTP/1.1\r\n\r\n").as_bytes());
        sent += 1;
        sent <= 50
    };
    exchange(address, 4, next, |answer| {
        assert!(answer.status == 200 && answer.ended >= answer.began);
        seen.push(String::from_utf8(answer.body.to_vec()).unwrap());
        Ok(())
    })
    .unwrap();
    let mut expected: Vec<String> = (0..50).map(|number| format!("/{number}")).collect();
    expected.sort();
    seen.sort();
    assert_eq!(seen, expected);
}

#[test]
fn large_bodies_are_posted_and_only_201_will_do() {
    for (status, good) in [("201 Created", true), ("503 Service Unavailable", false)] {
        let mut left = 3;
        let posted = post_all(echo(status), 2, "/sync", |body| {
            body.resize(100_000, b'x');
            left -= 1;
            left >= 0
        });
        assert_eq!(posted.is_ok(), good, "{posted:?}");
    }
}

#[test]
fn a_window_has_a_rate_and_latencies_and_fails_at_the_first_wrong_status() {
    let window =
        Window { connections: 3, warm_up: Duration::from_millis(5), length: Duration::from_millis(30) };
    let requests = [b"GET /ab HTTP/1.1\r\n\r\n".to_vec()];
    let seen = measure(echo("200 OK"), &requests, window, || Ok(())).unwrap();
    assert!(seen.requests >= 1 && seen.seconds >= 0.03 && seen.p99_ms >= seen.p50_ms, "{seen:?}");
    assert!((seen.body_bytes - 3.0).abs() < 1e-9);
    assert!(measure(echo("404 Not Found"), &requests, window, || Ok(())).is_err());
}
