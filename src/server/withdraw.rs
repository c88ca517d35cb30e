//! `POST /api/v1/distribution/withdraw`: the holder has these keys no longer. Not in the Go Piccolo.

use super::app::App;
use super::entries::{Direction, entries};
use super::error::ApiError;
use super::request::AcceptedWrite;
use super::write::propose;

/// On the leader, in the holder's turn; the log index of the write.
pub async fn apply(app: &App, write: &AcceptedWrite) -> Result<u64, ApiError> {
    propose(app, entries(Direction::Withdraw, &write.holder, write.pair, write.keys.clone())).await
}
