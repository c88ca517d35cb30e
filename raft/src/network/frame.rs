//! What is posted: a versioned frame of a [`Header`] and a message, and the answer in a frame of the version
//! that was asked in.
//!
//! The entries of an append are bytes of their own inside the frame, each with its own version in front, as
//! the log holds them: so the version of frames and that of entries change independently.

use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use serde::de::{DeserializeOwned, Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::format::{FormatError, Level, WIRE};
use crate::log::{decode_entry, encode_entry};
use crate::types::{LogId, TypeConfig, Vote};

use super::Header;

/// A message that servers send each other.
pub(crate) trait Message: Sized {
    /// What is sent of it.
    type Sent: DeserializeOwned;

    /// The frame of it at `level`.
    fn frame(&self, header: &Header, level: Level) -> Vec<u8>;

    /// Makes the message of what was sent.
    fn from_sent(sent: Self::Sent) -> Result<Self, FormatError>;
}

/// A frame that was received.
pub(crate) struct Received<M> {
    /// Version of the message; the answer is written in it, too.
    pub(crate) version: u16,
    pub(crate) header: Header,
    pub(crate) message: M,
}

/// Reads a frame.
pub(crate) fn read<M: Message>(bytes: &[u8]) -> Result<Received<M>, FormatError> {
    const WHAT: &str = "raft message";
    let (version, _) = WIRE.open(WHAT, bytes)?;
    let (header, sent): (Header, M::Sent) = WIRE.decode(WHAT, bytes)?;
    Ok(Received { version, header, message: M::from_sent(sent)? })
}

macro_rules! sent_as_it_is {
    ($($message:ty),*) => {$(
        impl Message for $message {
            type Sent = Self;

            fn frame(&self, header: &Header, level: Level) -> Vec<u8> {
                WIRE.encode(level, &(header, self))
            }

            fn from_sent(sent: Self) -> Result<Self, FormatError> {
                Ok(sent)
            }
        }
    )*};
}
sent_as_it_is!(Option<String>, Vote, VoteRequest<TypeConfig>, TransferLeaderRequest<TypeConfig>);

/// What is sent of an append.
#[derive(Serialize, Deserialize)]
pub struct SentAppend {
    vote: Vote,
    prev_log_id: Option<LogId>,
    leader_commit: Option<LogId>,
    entries: Vec<EntryBytes>,
}

impl SentAppend {
    /// The wire form of `request`, with its entries as they are at `level`.
    pub fn of(request: &AppendEntriesRequest<TypeConfig>, level: Level) -> Self {
        let AppendEntriesRequest { vote, prev_log_id, leader_commit, entries } = request;
        let entries = entries.iter().map(|entry| EntryBytes(encode_entry(level, entry))).collect();
        Self { vote: *vote, prev_log_id: *prev_log_id, leader_commit: *leader_commit, entries }
    }

    /// The request that was sent.
    ///
    /// # Errors
    /// If this build does not read one of its entries.
    pub fn read(self) -> Result<AppendEntriesRequest<TypeConfig>, FormatError> {
        let Self { vote, prev_log_id, leader_commit, entries } = self;
        let entries = entries.iter().map(|entry| decode_entry(&entry.0)).collect::<Result<_, _>>()?;
        Ok(AppendEntriesRequest { vote, prev_log_id, entries, leader_commit })
    }
}

impl Message for AppendEntriesRequest<TypeConfig> {
    type Sent = SentAppend;

    fn frame(&self, header: &Header, level: Level) -> Vec<u8> {
        WIRE.encode(level, &(header, SentAppend::of(self, level)))
    }

    fn from_sent(sent: SentAppend) -> Result<Self, FormatError> {
        sent.read()
    }
}

/// One entry; serde would take a `Vec<u8>` byte by byte.
struct EntryBytes(Vec<u8>);

impl Serialize for EntryBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for EntryBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsBytes;
        impl Visitor<'_> for AsBytes {
            type Value = EntryBytes;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<EntryBytes, E> {
                Ok(EntryBytes(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(AsBytes)
    }
}
