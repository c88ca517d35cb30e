//! Bytes of content on their way out, and the reasons for which they end early.

use std::io;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::store::StoreError;

/// Bytes of content in order. After an error nothing more comes.
pub(crate) type ByteStream = BoxStream<'static, Result<Bytes, Cut>>;

/// Why bytes end before the length that was promised.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error("the source broke off")]
    SourceBroken,
    #[error("the bytes of the source stopped coming, and no other source went on")]
    SourceStalled,
    #[error("the source was given up for the registry, which is faster by far")]
    SourceSlower,
    #[error("the registry sends the rest: {0}")]
    LeftToRegistry(String),
    #[error("its turn is given to a blob that this node fetches from the registry for others")]
    Yields,
    #[error("the bytes do not have the digest")]
    WrongBytes,
    #[error("this node was asked for it meanwhile under a name that keeps it back")]
    Withheld,
    #[error("could not keep what the headers promised: {0}")]
    Unkept(String),
    #[error("the content on this node is damaged")]
    Damaged,
    #[error("could not read the content")]
    Read(#[source] io::Error),
    #[error("could not read from the store")]
    Store(#[source] StoreError),
}

impl Cut {
    /// Whether bad bytes may have gone out already, so that a resumed transfer would complete them.
    pub(crate) fn needs_reset(&self) -> bool {
        matches!(self, Cut::WrongBytes | Cut::Damaged)
    }
}
