//! A request to one server on its own connection, dropped after the client's timeout, while the server may
//! still work on it.

use std::net::SocketAddr;
use std::time::Duration;

use piccolo::api::{FindQuery, HostsResponse, StatusResponse, header, path};
use serde::de::DeserializeOwned;

use crate::support::Wire;

/// Timeout of requests that are not affected by faults.
const PATIENCE: Duration = Duration::from_secs(5);

/// A complete answer.
#[derive(Clone, Debug)]
pub struct Said {
    pub status: u16,
    /// Log index in the answer.
    pub applied_index: Option<u64>,
    pub body: String,
}

impl Said {
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(&self.body).ok()
    }
}

/// Sends a request; `None`: no connection, a broken one, or a timeout.
pub async fn ask(
    server: SocketAddr,
    method: &str,
    target: &str,
    body: &str,
    patience: Duration,
) -> Option<Said> {
    let exchange = async {
        let mut wire = Wire::connect(server).await.ok()?;
        let head = format!(
            "{method} {target} HTTP/1.1\r\nhost: {server}\r\nconnection: close\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        wire.send(&[head.as_bytes(), body.as_bytes()].concat()).await.ok()?;
        let answer = wire.answer(false).await.ok()?;
        Some(Said {
            status: answer.status,
            applied_index: answer.header(header::APPLIED_INDEX).and_then(|value| value.parse().ok()),
            body: answer.text(),
        })
    };
    tokio::time::timeout(patience, exchange).await.ok().flatten()
}

pub async fn status(server: SocketAddr) -> Option<StatusResponse> {
    ask(server, "GET", path::STATUS, "", PATIENCE).await.filter(|said| said.status == 200)?.read()
}

pub async fn hosts(server: SocketAddr) -> Option<HostsResponse> {
    ask(server, "GET", path::HOSTS, "", PATIENCE).await.filter(|said| said.status == 200)?.read()
}

/// All holders of a key by one server's answer. The inner `None` means that there are none.
pub async fn find(server: SocketAddr, query: &FindQuery, patience: Duration) -> Option<Option<Vec<String>>> {
    let mut target = format!("{}?key={}&group={}&count=2000", path::FINDKEY, query.key, query.group);
    if let Some(index) = query.min_index {
        target += &format!("&min_index={index}");
    }
    let said = ask(server, "GET", &target, "", patience).await?;
    match said.status {
        200 => Some(Some(said.read::<piccolo::api::FindResponse>()?.holders)),
        404 => Some(None),
        _ => None,
    }
}
