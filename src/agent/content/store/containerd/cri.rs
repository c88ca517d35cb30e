//! Asks CRI where containerd reads its registry hosts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use axum::http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::limits::CRI_STATUS_TIMEOUT;

/// Paths of the method. containerd up to 1.5 knows only the older one.
const STATUS: [&str; 2] = ["/runtime.v1.RuntimeService/Status", "/runtime.v1alpha2.RuntimeService/Status"];

/// The message `StatusRequest` of runtime.v1.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusRequest {
    #[prost(bool, tag = "1")]
    pub(super) verbose: bool,
}

/// The message `StatusResponse` of runtime.v1, as far as it is read.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusResponse {
    #[prost(map = "string, string", tag = "2")]
    pub(super) info: HashMap<String, String>,
}

/// The CRI plugin behind a containerd's socket. Connects on first use.
#[derive(Clone, Debug)]
pub(super) struct Cri {
    channel: Channel,
}

impl Cri {
    /// Creates a client. Must be called within a tokio runtime.
    pub(super) fn new(socket: &Path) -> Self {
        let path = socket.to_owned();
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
        });
        // The address is not used, because the connector knows the socket.
        Self { channel: Endpoint::from_static("http://containerd").connect_with_connector_lazy(connector) }
    }

    /// The folders that containerd's CRI plugin reads; `None` if there is no such plugin, or if it does not
    /// name them (2.0 and later keep this setting in another plugin).
    pub(super) async fn config_path(&self) -> Option<Vec<PathBuf>> {
        let answer = tokio::time::timeout(CRI_STATUS_TIMEOUT, self.status()).await;
        match answer {
            Ok(Ok(status)) => config_path(status.info.get("config")?),
            Ok(Err(error)) => {
                tracing::debug!(error = error.message(), "no status of CRI");
                None
            }
            Err(_) => {
                tracing::debug!("no status of CRI in time");
                None
            }
        }
    }

    async fn status(&self) -> Result<StatusResponse, Status> {
        let mut answer = Err(Status::unimplemented("no version of CRI"));
        for method in STATUS {
            let mut grpc = Grpc::new(self.channel.clone());
            grpc.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
            let codec = ProstCodec::<StatusRequest, StatusResponse>::default();
            let request = Request::new(StatusRequest { verbose: true });
            answer = grpc.unary(request, PathAndQuery::from_static(method), codec).await;
            if !matches!(&answer, Err(status) if status.code() == Code::Unimplemented) {
                break;
            }
        }
        answer.map(tonic::Response::into_inner)
    }
}

/// Reads `registry.configPath` from the configuration that CRI shows: a list with colons.
fn config_path(config: &str) -> Option<Vec<PathBuf>> {
    let config: serde_json::Value = serde_json::from_str(config).ok()?;
    let list = config.get("registry")?.get("configPath")?.as_str()?;
    Some(list.split(':').filter(|folder| !folder.is_empty()).map(PathBuf::from).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folders_are_read_from_the_configuration_of_each_version() {
        let folders = |config: &str| {
            let paths = config_path(config)?;
            Some(paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>())
        };
        let one = r#"{"containerd":{},"registry":{"configPath":"/etc/containerd/certs.d","mirrors":{}}}"#;
        assert_eq!(folders(one).unwrap(), ["/etc/containerd/certs.d"]);
        assert_eq!(folders(r#"{"registry":{"configPath":"/a:/b"}}"#).unwrap(), ["/a", "/b"]);
        assert_eq!(folders(r#"{"registry":{"configPath":""}}"#).unwrap(), Vec::<String>::new());
        assert_eq!(folders(r#"{"containerd":{}}"#), None, "2.x keeps it elsewhere");
        assert_eq!(folders("not JSON"), None);
    }
}
