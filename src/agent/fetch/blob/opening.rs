//! The beginning of a transfer from one peer: a request for a part of a blob, and the check of the answer's head.

use std::net::SocketAddr;

use axum::http::header::CONTENT_RANGE;
use axum::http::{Method, StatusCode};
use tokio::time::Instant;

use crate::agent::fetch::peers::candidates::Candidates;
use crate::agent::fetch::peers::client::{PeerAnswer, PeerBody, PeerClient};
use crate::agent::fetch::peers::error::PeerError;
use crate::agent::fetch::peers::hedging::NoSource;
use crate::agent::fetch::sources::Sources;
use crate::agent::fetch::wanted::Wanted;
use crate::oci::{ByteRange, RangeHeader};

/// A peer that has answered properly; its bytes come next.
pub(super) struct Opened {
    pub(super) holder: SocketAddr,
    /// What the peer sends.
    pub(super) part: ByteRange,
    pub(super) body: PeerBody,
}

/// A request for a part of a blob, which any of its holders may answer.
#[derive(Clone, Copy)]
pub(super) struct PartRequest<'a> {
    pub(super) wanted: &'a Wanted,
    /// What is asked for; `None`: all of the blob.
    pub(super) range: Option<RangeHeader>,
    /// Length of the whole blob, if it is known. A peer that says otherwise is not believed.
    pub(super) total: Option<u64>,
}

impl PartRequest<'_> {
    /// Asks `candidates` until one of them answers properly.
    pub(super) async fn open(
        self,
        sources: &Sources,
        candidates: &mut Candidates,
        deadline: Instant,
    ) -> Result<Opened, NoSource> {
        let attempt = |holder| self.open_at(&sources.client, holder);
        let (holder, (part, body)) =
            sources.hedging.first_answer(candidates, &self.wanted.digest, deadline, attempt).await?;
        Ok(Opened { holder, part, body })
    }

    async fn open_at(
        self,
        client: &PeerClient,
        holder: SocketAddr,
    ) -> Result<(ByteRange, PeerBody), PeerError> {
        let Self { wanted, range, total } = self;
        let answer = client.ask(holder, &wanted.path, &Method::GET, range).await?;
        let part = match part(&answer, range) {
            // The peer may lie, or have other content, or what was expected is wrong.
            Err(PeerError::Unsatisfiable { total: said }) if total.is_some_and(|total| total != said) => {
                return Err(PeerError::OtherLength { total: said });
            }
            part => part?,
        };
        if total.is_some_and(|total| part.total != total) {
            return Err(PeerError::OtherLength { total: part.total });
        }
        Ok((part, answer.body))
    }
}

/// Checks status, length and range of an answer against each other and against what was asked.
pub(super) fn part(answer: &PeerAnswer, asked: Option<RangeHeader>) -> Result<ByteRange, PeerError> {
    let content_range = || answer.header(CONTENT_RANGE.as_str());
    match (answer.status, asked) {
        (StatusCode::OK, _) => answer.length().map(ByteRange::whole),
        (StatusCode::PARTIAL_CONTENT, Some(asked)) => {
            content_range().and_then(ByteRange::parse_content_range).filter(|range| {
                asked.within(range.total) == Some(*range) && answer.length() == Some(range.len())
            })
        }
        (StatusCode::RANGE_NOT_SATISFIABLE, Some(asked)) => {
            let total = content_range().and_then(|range| range.strip_prefix("bytes */")?.parse().ok());
            return Err(match total.filter(|total| asked.within(*total).is_none()) {
                Some(total) => PeerError::Unsatisfiable { total },
                None => PeerError::Length,
            });
        }
        (status, _) => return Err(PeerError::Status(status)),
    }
    .ok_or(PeerError::Length)
}
