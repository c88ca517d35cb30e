//! `POST /api/v1/distribution/advertise`: the holder has these keys.

use crate::server::app::App;
use crate::server::error::ApiError;
use crate::server::requests::accepted::AcceptedWrite;
use crate::server::writes::entries::{Direction, entries};
use crate::server::writes::propose;

/// On the leader, in the holder's turn; the log index of the write.
pub async fn apply(app: &App, write: &AcceptedWrite) -> Result<u64, ApiError> {
    propose(app, entries(Direction::Advertise, &write.holder, write.pair, write.keys.clone())).await
}
