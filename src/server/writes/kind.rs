//! The three kinds of writes.

use crate::api::path;

/// What a write does with the keys in its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteKind {
    /// The holder has these keys, too.
    Advertise,
    /// The holder has these keys no longer.
    Withdraw,
    /// The holder has exactly these keys.
    Sync,
}

impl WriteKind {
    /// Path of its endpoint.
    pub fn path(self) -> &'static str {
        match self {
            WriteKind::Advertise => path::ADVERTISE,
            WriteKind::Withdraw => path::WITHDRAW,
            WriteKind::Sync => path::SYNC,
        }
    }

    /// Message of the answer to a write that is done; the Go `pi` logs it.
    pub fn message(self) -> &'static str {
        match self {
            WriteKind::Advertise | WriteKind::Sync => "Distribution created!",
            WriteKind::Withdraw => "Distribution withdrawn!",
        }
    }
}
