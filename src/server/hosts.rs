//! `GET /api/v1/hosts`: all holders, `?group=` narrows.

use super::app::App;
use super::query::Query;
use crate::api::{HostStatus, HostsResponse};

/// The answer.
pub fn answer(app: &App, query: &Query) -> HostsResponse {
    let hosts = app.index.hosts(query.text("group")).into_iter().map(|record| HostStatus {
        group: record.holder.group,
        holder: record.holder.address.to_string(),
        zone: record.zone,
        keys: record.count,
        hidden_unix_ms: record.hidden_unix_ms,
    });
    HostsResponse { hosts: hosts.collect() }
}
