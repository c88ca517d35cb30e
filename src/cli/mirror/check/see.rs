//! Requests to the mirror and to containerd.

use std::path::Path;

use containerd_client::services::v1::version_client::VersionClient;
use hyper_util::rt::TokioIo;
use tonic::transport::Endpoint;

use crate::cli::agent_port::get;
use crate::cli::mirror::config_path::version_in;
use crate::limits::CONTAINERD_VERSION_TIMEOUT;

/// Asks the mirror for `/v2/`; the error says why it does not answer as a registry does.
pub(super) async fn mirror(url: &str) -> Result<(), String> {
    let answer = get(&format!("{url}/v2/")).await?;
    match answer.status().as_u16() {
        200 => Ok(()),
        status => Err(format!("/v2/ is answered with {status}")),
    }
}

/// Major and minor version of the daemon that listens on `socket`; `None` if it does not answer.
pub(super) async fn version(socket: &Path) -> Option<(u32, u32)> {
    let path = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    // The address is not used: the connector opens the socket.
    let channel = Endpoint::from_static("http://containerd").connect_with_connector_lazy(connector);
    let mut client = VersionClient::new(channel);
    let answer = tokio::time::timeout(CONTAINERD_VERSION_TIMEOUT, client.version(())).await.ok()?.ok()?;
    version_in(&answer.into_inner().version)
}
