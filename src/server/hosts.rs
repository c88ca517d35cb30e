//! `GET /api/v1/hosts`: all holders, `?group=` narrows.

use super::app::App;
use super::body::FormatError;
use super::query::Query;
use super::request::group;
use crate::api::{HostStatus, HostsResponse};

/// The answer.
pub fn answer(app: &App, query: &Query<'_>) -> Result<HostsResponse, FormatError> {
    let group = query.text("group").map(group).transpose()?;
    let hosts = app.index.hosts(group).into_iter().map(|record| HostStatus {
        group: record.holder.group,
        holder: record.holder.address.to_string(),
        zone: record.zone,
        keys: record.count,
        hidden_unix_ms: record.hidden_unix_ms,
    });
    Ok(HostsResponse { hosts: hosts.collect() })
}
