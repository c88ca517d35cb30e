//! Requests about the membership, for the command line.

use std::time::Duration;

use super::ask::Question;
use super::text::json;
use super::{Client, ClientError};
use crate::api::{MembersAction, MembersProgress, MembersRequest, MembersResponse, path};

impl Client {
    /// All servers, as the leader sees them if there is one.
    pub async fn members(&self, deadline: Duration) -> Result<MembersResponse, ClientError> {
        self.call(Question::get(path::MEMBERS), deadline).await?.read()
    }

    /// Makes a few steps of a change of the membership. Repeat it until the change is done.
    pub async fn change_members(
        &self,
        action: MembersAction,
        request: &MembersRequest,
        deadline: Duration,
    ) -> Result<MembersProgress, ClientError> {
        self.call(Question::post(action.path(), json(request)), deadline).await?.read()
    }
}
