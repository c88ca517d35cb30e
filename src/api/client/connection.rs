//! Connections to discovery servers that record when they were opened. Only with that time can an answer's
//! duration be split into the round trip and the opening of the connection.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tower::Service;

/// Time at which a response's connection was opened; an extension of the response.
#[derive(Clone, Copy, Debug)]
pub(super) struct OpenSince(pub(super) Instant);

/// A pool of connections that record when they were opened.
pub(super) type TimedClient = HyperClient<TimedConnector, Full<Bytes>>;

/// A pool that closes idle connections after `idle`, and keeps at most `idle_max` of them for each server.
pub(super) fn timed_client(idle: Duration, idle_max: usize) -> TimedClient {
    HyperClient::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(idle)
        .pool_max_idle_per_host(idle_max)
        .build(TimedConnector(super::connector()))
}

/// Opens connections that record when they were opened.
#[derive(Clone, Debug)]
pub(super) struct TimedConnector(HttpConnector);

impl Service<Uri> for TimedConnector {
    type Response = Timed;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Timed, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, server: Uri) -> Self::Future {
        let connecting = self.0.call(server);
        Box::pin(async move { Ok(Timed { io: connecting.await?, since: Instant::now() }) })
    }
}

/// A connection and the time at which it was opened.
#[derive(Debug)]
pub(super) struct Timed {
    io: TokioIo<TcpStream>,
    since: Instant,
}

impl Connection for Timed {
    fn connected(&self) -> Connected {
        self.io.connected().extra(OpenSince(self.since))
    }
}

impl Read for Timed {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl Write for Timed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }
}
