//! Takes a snapshot in as it arrives.

use std::collections::HashMap;

use sha2::{Digest, Sha256};

use super::{Header, Record, SnapshotData, SnapshotError, Source};
use crate::format::STORAGE;
use crate::index::state::{IndexState, Parts};
use crate::index::tables::{self, Applied};
use crate::index::{WholeState, inventory};
use crate::limits::RECORD_BYTES_MAX;
use crate::types::SnapshotMeta;

/// Verifies a snapshot while it arrives. Bytes may come in pieces of any size; what is kept of them
/// is the state that they say, not the bytes.
#[derive(Default)]
pub struct Receiver {
    /// Not yet a whole record.
    buffer: Vec<u8>,
    /// How many bytes the next record has, as far as is known: with fewer, nobody looks at them. (A
    /// record that comes byte by byte would be copied at each.)
    wanted: usize,
    version_seen: bool,
    hash: Sha256,
    header: Option<Header>,
    parts: Parts,
    inventories: HashMap<u32, Vec<u8>>,
    /// The host whose inventory arrives.
    host: Option<(u32, Vec<u32>)>,
    ended: bool,
}

impl Receiver {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < self.wanted {
            return Ok(());
        }
        let buffer = std::mem::take(&mut self.buffer);
        let rest = self.take_records(&buffer)?;
        self.wanted =
            rest.split_first_chunk::<4>().map_or(0, |(length, _)| 4 + u32::from_le_bytes(*length) as usize);
        self.buffer = rest.to_vec();
        Ok(())
    }

    /// Takes every whole record off `bytes`.
    fn take_records<'b>(&mut self, mut bytes: &'b [u8]) -> Result<&'b [u8], SnapshotError> {
        if !self.version_seen {
            let Some((version, rest)) = bytes.split_first_chunk::<2>() else { return Ok(bytes) };
            STORAGE.check("snapshot", u16::from_le_bytes(*version))?;
            self.version_seen = true;
            self.hash.update(version);
            bytes = rest;
        }
        while let Some((length, body)) = bytes.split_first_chunk::<4>() {
            let length_bytes = *length;
            let length = u32::from_le_bytes(length_bytes) as usize;
            if length > RECORD_BYTES_MAX {
                return Err(SnapshotError::damaged(format!("a record of {length} bytes")));
            }
            let Some((record, rest)) = body.split_at_checked(length) else { break };
            let decoded = decode(record)?;
            if self.ended {
                return Err(SnapshotError::damaged("a record behind the end"));
            }
            if let Record::End { sha256 } = decoded {
                self.end(sha256)?;
            } else {
                self.hash.update(length_bytes);
                self.hash.update(record);
                self.take(decoded)?;
            }
            bytes = rest;
        }
        Ok(bytes)
    }

    fn take(&mut self, record: Record) -> Result<(), SnapshotError> {
        match (record, self.header.is_some()) {
            (Record::Header(header), false) => {
                tables::check_level(header.levels.active)?;
                self.header = Some(*header);
            }
            #[cfg(any(test, feature = "next-format"))]
            (Record::Noted(noted), true) => self.parts.noted = noted,
            (Record::Keys(keys), true) => self.parts.keys.extend(keys),
            (Record::Host { id, record }, true) => {
                self.close_host();
                self.parts.hosts.push((id, *record));
                self.host = Some((id, Vec::new()));
            }
            (Record::Inventory(bytes), true) => {
                let Some((_, ids)) = &mut self.host else {
                    return Err(SnapshotError::damaged("an inventory without a host"));
                };
                let (before, last) = (ids.len(), ids.last().copied());
                inventory::decode_ids(&bytes, ids)?;
                if last.is_some_and(|last| ids.get(before).is_some_and(|&first| first <= last)) {
                    return Err(SnapshotError::damaged("an inventory is not sorted"));
                }
            }
            _ => return Err(SnapshotError::damaged("records are out of order")),
        }
        Ok(())
    }

    fn close_host(&mut self) {
        if let Some((id, ids)) = self.host.take() {
            let level = self.header.as_ref().map(|header| header.levels.active).unwrap_or_default();
            self.inventories.insert(id, inventory::encode(level, &ids));
        }
    }

    fn end(&mut self, sha256: [u8; 32]) -> Result<(), SnapshotError> {
        let found: [u8; 32] = self.hash.clone().finalize().into();
        if found != sha256 {
            return Err(SnapshotError::damaged("its SHA-256 does not match"));
        }
        self.close_host();
        self.ended = true;
        Ok(())
    }

    /// After the last byte: the state, if all of it is right. Takes seconds of CPU for millions of
    /// pairs: call it on a blocking thread.
    pub fn finish(self) -> Result<(SnapshotMeta, SnapshotData), SnapshotError> {
        let Self {
            buffer,
            wanted: _,
            version_seen: _,
            hash: _,
            header,
            mut parts,
            inventories,
            host: _,
            ended,
        } = self;
        let (Some(header), true, true) = (header, ended, buffer.is_empty()) else {
            return Err(SnapshotError::damaged("it is cut"));
        };
        let Header { applied, membership, tombstones, levels } = header;
        let meta = SnapshotMeta { last_log_id: applied.log_id, last_membership: membership.clone() };
        parts.applied = applied.log_id;
        parts.membership = membership;
        parts.tombstones = tombstones;
        parts.levels = levels;
        let state = IndexState::build(parts, |id, ids| {
            let bytes = inventories.get(&id).map_or(&[][..], Vec::as_slice);
            Ok(inventory::decode_into(bytes, ids)?)
        })?;
        let found = Applied::of(&state);
        if found != applied {
            let reason = format!("counted {found:?}, its header says {applied:?}");
            return Err(SnapshotError::Damaged { reason });
        }
        let whole = WholeState { state, inventories };
        Ok((meta, SnapshotData(Source::Received(Box::new(whole)))))
    }
}

/// Verifies a whole snapshot at once.
pub fn verify(bytes: &[u8]) -> Result<(SnapshotMeta, SnapshotData), SnapshotError> {
    let mut receiver = Receiver::default();
    receiver.push(bytes)?;
    receiver.finish()
}

fn decode(bytes: &[u8]) -> Result<Record, SnapshotError> {
    match postcard::take_from_bytes(bytes) {
        Ok((record, [])) => Ok(record),
        Ok((_, rest)) => Err(SnapshotError::damaged(format!("a record has {} bytes too many", rest.len()))),
        Err(error) => Err(SnapshotError::damaged(format!("a record is unreadable: {error}"))),
    }
}
