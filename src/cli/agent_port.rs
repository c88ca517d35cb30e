//! What an agent answers at its `--metrics-listen`.

use crate::limits::AGENT_ANSWER_TIMEOUT;

/// What counts the requests of containerd.
const REQUESTS: &str = "piccolo_mirror_requests_total";

/// What the agent says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Agent {
    /// Requests of containerd since the agent's start.
    pub(in crate::cli) requests: u64,
    /// Whether its `/readyz` answers 200.
    pub(in crate::cli) ready: bool,
    /// Lines of its `/readyz`: the state of its inventory, then what an operator should know.
    pub(in crate::cli) notices: Vec<String>,
}

/// Asks the agent's metrics port; else why not.
pub(in crate::cli) async fn agent(url: &str) -> Result<Agent, String> {
    let metrics = get(&format!("{url}/metrics")).await?;
    let metrics = metrics.text().await.map_err(|error| error.to_string())?;
    let ready = get(&format!("{url}/readyz")).await?;
    let is_ready = ready.status().is_success();
    let ready = ready.text().await.map_err(|error| error.to_string())?;
    if is_of_others(&ready) {
        return Err(
            "that is no agent's metrics port, which is 7782 by default: it answers like a discovery server, \
                    or an agent's mirror"
                .to_owned(),
        );
    }
    let notices = ready.lines().map(str::to_owned).collect();
    Ok(Agent { requests: requests_in(&metrics), ready: is_ready, notices })
}

/// Gets `url` without any proxy; else the first cause of the failure.
pub(in crate::cli) async fn get(url: &str) -> Result<reqwest::Response, String> {
    // The first call decides; later ones are told so, which is no error here.
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(AGENT_ANSWER_TIMEOUT)
        .build()
        .map_err(|e| e.to_string())?;
    client.get(url).send().await.map_err(|error| {
        let mut causes = std::iter::successors(std::error::Error::source(&error), |error| error.source());
        let root = causes.by_ref().last().map(ToString::to_string);
        root.unwrap_or_else(|| error.to_string())
    })
}

/// An agent's `/readyz` is lines of text; servers and mirrors answer JSON.
fn is_of_others(ready: &str) -> bool {
    ready.trim_start().starts_with('{')
}

/// The sum over all labels; no line: containerd has not asked.
fn requests_in(metrics: &str) -> u64 {
    let lines = metrics
        .lines()
        .filter(|line| line.strip_prefix(REQUESTS).is_some_and(|rest| rest.starts_with(['{', ' '])));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).map(|value| value as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_summed_over_their_labels() {
        let metrics = "# TYPE piccolo_mirror_requests_total counter\n\
            piccolo_mirror_requests_total{cache=\"hit\",ref_kind=\"Blob\"} 3\n\
            piccolo_mirror_requests_total{cache=\"miss\",ref_kind=\"Manifest\"} 2\n\
            piccolo_mirror_requests_total_other 9\n";
        assert_eq!(requests_in(metrics), 5);
        assert_eq!(requests_in("piccolo_bytes_served_total 4\n"), 0);
    }

    #[tokio::test]
    async fn a_server_and_a_mirror_are_not_taken_for_an_agent() {
        for body in [r#"{"ready":true,"reasons":[]}"#, r#"{"errors":[{"code":"NAME_INVALID"}]}"#] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}", listener.local_addr().unwrap());
            let router = axum::Router::new().fallback(move || async move { body });
            let mut serving = tokio::task::JoinSet::new();
            serving.spawn(async move { axum::serve(listener, router).await.unwrap() });
            let seen = agent(&url).await;
            assert!(
                seen.as_ref().is_err_and(|reason| reason.contains("no agent's metrics port")),
                "{seen:?}"
            );
        }
    }
}
