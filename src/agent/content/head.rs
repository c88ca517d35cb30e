//! The length of a response's body, as its headers say it.

use crate::oci::ByteRange;

/// Length of the content, and the part of it that is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Length of the whole content, bytes.
    pub(crate) total: u64,
    /// The requested range; `None` for the whole content.
    pub(crate) range: Option<ByteRange>,
}

impl Head {
    /// The range of the content that is the body.
    pub(crate) fn part(&self) -> ByteRange {
        self.range.unwrap_or(ByteRange::whole(self.total))
    }
}
