//! Who has sent a request, as far as its connection has proved that.

use std::convert::Infallible;

use axum::body::Body;
use axum::extract::{FromRequest, Request};

use crate::network::Header;
use crate::types::NodeId;

use super::RpcError;

/// Node id in the certificate of a caller. Whoever serves the routes puts it into a request's extensions;
/// without it any sender is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller(pub NodeId);

/// The body of a request, and who has sent it.
pub(crate) struct Sent {
    pub(super) caller: Option<Caller>,
    pub(super) body: Body,
}

impl<S: Sync> FromRequest<S> for Sent {
    type Rejection = Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Infallible> {
        let caller = request.extensions().get().copied();
        Ok(Self { caller, body: request.into_body() })
    }
}

/// Whether the caller speaks in its own name.
pub(super) fn check_caller(caller: Option<Caller>, header: &Header) -> Result<(), RpcError> {
    match caller {
        Some(Caller(is)) if is != header.sender => Err(RpcError::Impostor { is, sender: header.sender }),
        _ => Ok(()),
    }
}
