//! The list of holders, page by page.

use std::time::Duration;

use super::ask::Question;
use super::text::percent_encoded;
use super::{Client, ClientError};
use crate::api::{HostsResponse, path};
use crate::limits::{HOSTS_PAGE_MAX, HOSTS_PAGES_MAX};

impl Client {
    /// All holders, or those of one group. `deadline` is for each page. A server without pages returns all of
    /// them at once.
    pub async fn hosts(&self, group: Option<&str>, deadline: Duration) -> Result<HostsResponse, ClientError> {
        let group = group.map(|group| format!("&group={}", percent_encoded(group))).unwrap_or_default();
        let mut all = HostsResponse { hosts: Vec::new(), next: None };
        for _ in 0..HOSTS_PAGES_MAX {
            let after = all.next.take().map(|next| format!("&after={}", percent_encoded(&next)));
            let after = after.unwrap_or_default();
            let target = format!("{}?limit={HOSTS_PAGE_MAX}{group}{after}", path::HOSTS);
            let page: HostsResponse = self.call(Question::get(&target), deadline).await?.read()?;
            all.hosts.extend(page.hosts);
            all.next = page.next;
            if all.next.is_none() {
                break;
            }
        }
        Ok(all)
    }
}
