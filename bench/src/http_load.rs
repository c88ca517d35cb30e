//! A load generator for small requests: one thread with some kept connections, each with one request in
//! flight. It reads only the status and the length of an answer, because it shares the machine with the
//! measured servers.

mod connection;

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::fs::Timespec;

use connection::Connection;

/// Time without any answer after which a server has failed.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// Time by which a window is extended while nothing has arrived: a busy machine is slow, which is no error.
const FIRST_ANSWER_MAX: Duration = Duration::from_secs(30);

/// One answer.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) body: &'a [u8],
    /// Time at which the request was sent.
    pub(crate) began: Instant,
    /// Time at which the last byte arrived.
    pub(crate) ended: Instant,
}

/// Sends the requests that `next` writes into its buffer over `connections` connections, until `next` returns
/// `false`; passes every answer to `done`.
pub(crate) fn exchange(
    address: SocketAddr,
    connections: usize,
    mut next: impl FnMut(&mut Vec<u8>) -> bool,
    mut done: impl FnMut(&Answer<'_>) -> Result<()>,
) -> Result<()> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).context("could not make an epoll")?;
    let mut open = Vec::with_capacity(connections);
    let mut busy = 0;
    for number in 0..connections {
        let mut connection = Connection::open(address)?;
        epoll::add(
            &poll,
            connection.stream(),
            epoll::EventData::new_u64(number as u64),
            epoll::EventFlags::IN,
        )
        .context("could not watch a connection")?;
        busy += usize::from(connection.send(&mut next)?);
        open.push(connection);
    }
    let silence = Timespec::try_from(SILENCE_MAX).context("could not state a time")?;
    let mut events = Vec::with_capacity(connections);
    while busy > 0 {
        events.clear();
        epoll::wait(&poll, spare_capacity(&mut events), Some(&silence)).context("could not wait")?;
        ensure!(!events.is_empty(), "{address}: no answer within {SILENCE_MAX:?}");
        for event in events.drain(..) {
            let connection = &mut open[event.data.u64() as usize];
            let Some(answer) = connection.receive()? else { continue };
            done(&answer)?;
            busy -= usize::from(!connection.send(&mut next)?);
        }
    }
    Ok(())
}

/// Posts every body that `next` writes to `path`; all answers must be 201.
pub(crate) fn post_all(
    address: SocketAddr,
    connections: usize,
    path: &str,
    mut next: impl FnMut(&mut Vec<u8>) -> bool,
) -> Result<()> {
    let mut body = Vec::new();
    exchange(
        address,
        connections,
        |request| {
            body.clear();
            if !next(&mut body) {
                return false;
            }
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\n\r\n",
                body.len()
            );
            request.extend_from_slice(head.as_bytes());
            request.extend_from_slice(&body);
            true
        },
        |answer| {
            if answer.status != 201 {
                bail!("POST {path}: {} {}", answer.status, String::from_utf8_lossy(answer.body));
            }
            Ok(())
        },
    )
}

/// Results of one window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) requests: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Average size of a body, bytes.
    pub(crate) body_bytes: f64,
}

/// Length of a window, and number of connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) connections: usize,
    /// Time before the window that is not counted: connections open, caches fill.
    pub(crate) warm_up: Duration,
    pub(crate) length: Duration,
}

/// Sends `requests` repeatedly, each connection continuing after the previous one's last; all answers must be
/// 200. Calls `mark` at both ends of the window.
pub(crate) fn measure(
    address: SocketAddr,
    requests: &[Vec<u8>],
    window: Window,
    mut mark: impl FnMut() -> Result<()>,
) -> Result<Seen> {
    let warm = Instant::now() + window.warm_up;
    let (began, ended) = (Cell::new(None::<Instant>), Cell::new(None::<Instant>));
    let (mut at, mut counted, mut bytes, mut latencies) = (0, 0u64, 0, Vec::<u32>::new());
    let next = |request: &mut Vec<u8>| {
        request.extend_from_slice(&requests[at % requests.len()]);
        at += 1;
        ended.get().is_none()
    };
    exchange(address, window.connections, next, |answer| {
        ensure!(
            answer.status == 200,
            "{address}: {} {}",
            answer.status,
            String::from_utf8_lossy(answer.body)
        );
        let Some(start) = began.get() else {
            if answer.ended >= warm {
                mark()?;
                began.set(Some(Instant::now()));
            }
            return Ok(());
        };
        if answer.began >= start {
            let micros = (answer.ended - answer.began).as_micros();
            latencies.push(u32::try_from(micros).unwrap_or(u32::MAX));
            bytes += answer.body.len();
        }
        if ended.get().is_none() {
            counted += 1;
            let elapsed = start.elapsed();
            if elapsed >= window.length && (!latencies.is_empty() || elapsed >= FIRST_ANSWER_MAX) {
                ended.set(Some(Instant::now()));
                mark()?;
            }
        }
        Ok(())
    })?;
    ensure!(!latencies.is_empty(), "{address}: no answer within {FIRST_ANSWER_MAX:?}");
    let window = ended.get().zip(began.get()).context("the window never ended")?;
    latencies.sort_unstable();
    let quantile =
        |share: f64| f64::from(latencies[((latencies.len() - 1) as f64 * share) as usize]) / 1000.0;
    Ok(Seen {
        requests: counted,
        seconds: (window.0 - window.1).as_secs_f64(),
        p50_ms: quantile(0.5),
        p99_ms: quantile(0.99),
        body_bytes: bytes as f64 / latencies.len() as f64,
    })
}

#[cfg(test)]
mod tests;
