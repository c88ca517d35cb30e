//! What carries the raft RPC of a simulated server: the simulated network, which the product's code knows as any
//! other.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::StatusCode;
use rand::Rng;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::format::Reads;
use crate::network::names::{Names, split};
use crate::network::{Answered, ListHash, Network, Progress, RpcBody, Whoami, Wire};

use super::net::{self, Answer, HostId, Payload};
use super::world::{self, Fault};

/// How long an impatient founder waits for one answer.
const ANSWER_PATIENCE: Duration = Duration::from_millis(300);
/// It does without those that have not answered for so long.
const SILENCE_PATIENCE: Duration = Duration::from_secs(1);

/// The network as one host sees it.
#[derive(Debug)]
pub(super) struct SimNetwork {
    pub(super) host: HostId,
    /// The list that the server was started with.
    pub(super) list: Vec<String>,
}

impl Network for SimNetwork {
    fn wire(&self, names: Names, _: TaskTracker, _: CancellationToken) -> Arc<dyn Wire> {
        let wire = SimWire { host: self.host, names };
        let mut list = self.list.clone();
        list.sort();
        Arc::new(Impatient { wire, list, silent_since: Mutex::default() })
    }
}

/// Sends whole requests from one host.
struct SimWire {
    host: HostId,
    names: Names,
}

impl SimWire {
    async fn exchange(
        &self,
        address: &str,
        route: &str,
        body: RpcBody,
        progress: &Progress,
    ) -> Result<Answered, String> {
        let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
        let (host, port) = split(address).ok_or("not host:port")?;
        for ip in self.names.addresses(host).await? {
            let payload = Payload::Rpc { route: route.to_owned(), body: body.clone() };
            match net::ask(self.host, &SocketAddr::new(ip, port).to_string(), payload).await {
                Answer::Rpc(status, body) => {
                    progress.touch();
                    return Ok(Answered { ip, status, body });
                }
                Answer::Refused => {}
                Answer::Broken => return Err("connection reset".to_owned()),
                Answer::Client(_) => unreachable!("raft RPC is answered as such"),
            }
        }
        Err("connection refused".to_owned())
    }
}

/// The wire of a founder that does not wait for all ([`Fault::FoundsWithoutSeeingAll`]): a server that has been
/// silent for a while seems to answer, as one without data. Without the fault it only carries.
struct Impatient {
    wire: SimWire,
    /// The list that the server was started with, sorted.
    list: Vec<String>,
    silent_since: Mutex<BTreeMap<String, Instant>>,
}

impl Wire for Impatient {
    fn post<'a>(
        &'a self,
        address: &'a str,
        route: &'a str,
        body: RpcBody,
        progress: &'a Progress,
    ) -> BoxFuture<'a, Result<Answered, String>> {
        let answer = self.wire.exchange(address, route, body, progress);
        if route == "whoami" && world::is_broken(Fault::FoundsWithoutSeeingAll) {
            Box::pin(self.or_pristine(address, answer))
        } else {
            Box::pin(answer)
        }
    }
}

impl Impatient {
    async fn or_pristine(
        &self,
        address: &str,
        answer: impl Future<Output = Result<Answered, String>>,
    ) -> Result<Answered, String> {
        let late = |_| Err("no answer".to_owned());
        let answered = timeout(ANSWER_PATIENCE, answer).await.unwrap_or_else(late);
        let mut silent_since = self.silent_since.lock().expect("nothing panics while it holds the times");
        if answered.is_ok() {
            silent_since.remove(address);
            return answered;
        }
        let since = *silent_since.entry(address.to_owned()).or_insert_with(Instant::now);
        if since.elapsed() < SILENCE_PATIENCE { answered } else { Ok(self.pristine()) }
    }

    fn pristine(&self) -> Answered {
        let (node_id, boot_nonce) = world::inside(|world| (world.rng.random(), world.rng.random()));
        let whoami = Whoami {
            node_id,
            boot_nonce,
            cluster_id: None,
            list_hash: ListHash::of(&self.list).to_string(),
            list: self.list.clone(),
            raft_address: None,
            api_address: "nobody:1".to_owned(),
            reads: Reads::of_this_build(),
            level: None,
            last_log_index: None,
            last_log_term: None,
            disk: None,
            missed_by: None,
        };
        let body = serde_json::to_vec(&whoami).expect("a whoami is JSON");
        Answered { ip: net::ip_of(0, 0), status: StatusCode::OK, body: body.into() }
    }
}
