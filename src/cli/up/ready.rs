//! Waits until every server is ready and all agree on a leader.

use hyper::StatusCode;

use super::ports::Addresses;
use crate::api::client::{Client, HttpClient, http_client};
use crate::api::{StatusResponse, path};
use crate::limits::{READY_ANSWER_TIMEOUT, READY_POLL_INTERVAL, READY_REMIND_AFTER};

/// Waits until the servers are up; returns the API address of the leader.
pub(super) async fn wait(servers: &[Addresses]) -> String {
    let http = http_client();
    let mut reminded = tokio::time::Instant::now();
    loop {
        match look(&http, servers).await {
            Ok(leader) => return leader,
            Err(missing) if reminded.elapsed() >= READY_REMIND_AFTER => {
                reminded = tokio::time::Instant::now();
                tracing::warn!("not ready yet: {missing}");
            }
            Err(_) => {}
        }
        tokio::time::sleep(READY_POLL_INTERVAL).await;
    }
}

async fn look(http: &HttpClient, servers: &[Addresses]) -> Result<String, String> {
    let mut leader = None;
    for server in servers {
        let url = format!("http://{}", server.api);
        let uri = format!("{url}{}", path::READYZ).parse().expect("an address makes a URI");
        let ready = tokio::time::timeout(READY_ANSWER_TIMEOUT, http.get(uri)).await;
        if !matches!(ready, Ok(Ok(answer)) if answer.status() == StatusCode::OK) {
            return Err(format!("{url} is not ready"));
        }
        let status = async { Client::new(vec![url.clone()])?.status(READY_ANSWER_TIMEOUT).await };
        let status = status.await.map_err(|error| error.to_string())?;
        let led_by = leader_address(&status).ok_or_else(|| format!("{url} knows no leader"))?;
        if leader.replace(led_by.clone()).is_some_and(|other| other != led_by) {
            return Err("the servers do not agree on a leader".to_owned());
        }
    }
    leader.ok_or_else(|| "there is no server".to_owned())
}

fn leader_address(status: &StatusResponse) -> Option<String> {
    let leader = status.leader.as_ref().filter(|_| status.quorum)?;
    status.members.iter().find(|member| &member.node == leader).map(|member| member.api_address.clone())
}
