//! What an agent answers at its `--metrics-listen`.

use std::time::Duration;

/// One answer.
const TIMEOUT: Duration = Duration::from_secs(3);
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
    let notices = ready.lines().map(str::to_owned).collect();
    Ok(Agent { requests: requests_in(&metrics), ready: is_ready, notices })
}

/// Gets `url` without any proxy; else the first cause of the failure.
pub(in crate::cli) async fn get(url: &str) -> Result<reqwest::Response, String> {
    // The first call decides; later ones are told so, which is no error here.
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = reqwest::Client::builder().no_proxy().timeout(TIMEOUT).build().map_err(|e| e.to_string())?;
    client.get(url).send().await.map_err(|error| {
        let mut causes = std::iter::successors(std::error::Error::source(&error), |error| error.source());
        let root = causes.by_ref().last().map(ToString::to_string);
        root.unwrap_or_else(|| error.to_string())
    })
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
}
