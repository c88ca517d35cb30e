//! Asks which server answers at an API address, before a server is admitted to a cluster.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use piccolo_raft::cluster::ApiPort;

use crate::api::client::Client;
use crate::limits::MEMBERS_API_LOOK_TIMEOUT;

/// Asks with a `status` request.
#[derive(Debug)]
pub struct ApiPorts;

impl ApiPort for ApiPorts {
    fn node_at<'a>(&'a self, address: &'a str) -> BoxFuture<'a, Result<u64, String>> {
        async move {
            let client = Client::new(vec![format!("http://{address}")]).map_err(|error| error.to_string())?;
            let status = client.status(MEMBERS_API_LOOK_TIMEOUT).await.map_err(|error| error.to_string())?;
            u64::from_str_radix(&status.node, 16).map_err(|_| format!("{:?} is no node id", status.node))
        }
        .boxed()
    }
}
