//! Requests as HTTP/1.1 over TCP, on connections that are kept for the next one.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use http_body_util::{BodyExt, Limited};
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::RAFT_PREFIX;
use super::body::{Progress, RpcBody};
use super::connect::{Connect, SystemConnect};
use super::names::Names;
use super::pool::Pool;
use super::wire::{Answered, Network, Wire};
use crate::errors::chain;
use crate::limits::SMALL_BODY_BYTES_MAX;

/// The network of the system.
#[derive(Clone, Debug)]
pub struct Http {
    connect: Arc<dyn Connect>,
}

impl Http {
    /// The network of the system, over connections that `connect` makes.
    pub fn over(connect: Arc<dyn Connect>) -> Self {
        Self { connect }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self::over(Arc::new(SystemConnect))
    }
}

impl Network for Http {
    fn wire(&self, names: Names, tasks: TaskTracker, stop: CancellationToken) -> Arc<dyn Wire> {
        Arc::new(HttpWire { pool: Pool::new(self.connect.clone(), names, tasks, stop) })
    }
}

struct HttpWire {
    pool: Pool,
}

impl Wire for HttpWire {
    fn post<'a>(
        &'a self,
        address: &'a str,
        route: &'a str,
        body: RpcBody,
        progress: &'a Progress,
    ) -> BoxFuture<'a, Result<Answered, String>> {
        Box::pin(self.exchange(address, route, body, progress))
    }
}

impl HttpWire {
    async fn exchange(
        &self,
        address: &str,
        route: &str,
        body: RpcBody,
        progress: &Progress,
    ) -> Result<Answered, String> {
        let mut request = Request::builder()
            .method(Method::POST)
            .uri(format!("{RAFT_PREFIX}/{route}"))
            .header(HOST, address)
            .body(body)
            .map_err(|error| error.to_string())?;
        let (connection, response) = loop {
            let (mut connection, kept) = self.pool.connection(address).await?;
            match connection.sender.try_send_request(request).await {
                Ok(response) => break (connection, response),
                Err(mut error) => match error.take_message() {
                    // It ended before it took the request.
                    Some(unsent) if kept => request = unsent,
                    _ => return Err(chain(&error.into_error())),
                },
            }
        };
        progress.touch();
        let (ip, status) = (connection.at.ip(), response.status());
        let body = Limited::new(response.into_body(), SMALL_BODY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        // A server that is not the target must not be asked again by the same connection.
        if status != StatusCode::MISDIRECTED_REQUEST && status != StatusCode::NOT_FOUND {
            self.pool.keep(address, connection);
        }
        Ok(Answered { ip, status, body })
    }
}
