//! What the headers of a response say about the length of its body.

use crate::oci::ByteRange;

/// Length of the content, and the part of it that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Length of the whole, bytes.
    pub(crate) total: u64,
    /// `None`: all of it was asked for.
    pub(crate) range: Option<ByteRange>,
}

impl Head {
    /// The bytes of the body.
    pub(crate) fn part(&self) -> ByteRange {
        self.range.unwrap_or(ByteRange::whole(self.total))
    }
}
