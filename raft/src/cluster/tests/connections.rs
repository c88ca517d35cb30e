//! Connections as a server makes them, counted.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;

use crate::network::{Connect, Connected};

/// Connections of one server; clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections {
    made: Arc<Mutex<BTreeMap<SocketAddr, usize>>>,
    begun_on: Arc<Mutex<Vec<ThreadId>>>,
}

impl Connections {
    /// Connections that were made to `address`, ever.
    pub(super) fn made(&self, address: SocketAddr) -> usize {
        self.made.lock().unwrap().get(&address).copied().unwrap_or(0)
    }

    /// Whether this thread has begun a connection.
    pub(super) fn begun_on_this_thread(&self) -> bool {
        self.begun_on.lock().unwrap().contains(&thread::current().id())
    }
}

impl Connect for Connections {
    fn connect(&self, to: SocketAddr) -> BoxFuture<'static, io::Result<Connected>> {
        self.begun_on.lock().unwrap().push(thread::current().id());
        let made = self.made.clone();
        Box::pin(async move {
            let stream = TcpStream::connect(to).await?;
            *made.lock().unwrap().entry(to).or_default() += 1;
            Ok(Box::new(stream) as Connected)
        })
    }
}
