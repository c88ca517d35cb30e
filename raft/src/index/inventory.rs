//! One host's inventory as bytes: sorted key ids, each as the LEB128 varint of its distance to the
//! one before (the first as it is). 400 keys of one node take 400 to 800 bytes.

use crate::format::{FormatError, Level, STORAGE};

const WHAT: &str = "inventory";

/// The ids, sorted and distinct, without a version: part of a snapshot record.
pub(crate) fn encode_ids(ids: &[u32], bytes: &mut Vec<u8>) {
    let mut before = 0;
    for (position, &id) in ids.iter().enumerate() {
        debug_assert!(position == 0 || id > before, "inventories are sorted and distinct");
        let mut distance = id - before;
        while distance >= 0x80 {
            bytes.push(distance as u8 | 0x80);
            distance >>= 7;
        }
        bytes.push(distance as u8);
        before = id;
    }
}

/// Appends what [`encode_ids`] wrote to `ids`; anything else is damage.
pub(crate) fn decode_ids(bytes: &[u8], ids: &mut Vec<u32>) -> Result<(), FormatError> {
    let damaged = |reason: &str| FormatError::Damaged { what: WHAT, reason: reason.to_owned() };
    let mut before: Option<u32> = None;
    let mut rest = bytes.iter();
    while !rest.as_slice().is_empty() {
        let mut distance = 0u64;
        for shift in (0..).step_by(7) {
            let byte = *rest.next().ok_or_else(|| damaged("ends inside a number"))?;
            if shift > 28 {
                return Err(damaged("has a number over 32 bits"));
            }
            distance |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        if before.is_some() && distance == 0 {
            return Err(damaged("has an id twice"));
        }
        let id = u32::try_from(u64::from(before.unwrap_or(0)) + distance);
        let id = id.map_err(|_| damaged("has an id over 32 bits"))?;
        ids.push(id);
        before = Some(id);
    }
    Ok(())
}

/// A stored inventory: the format version, then the ids.
pub(crate) fn encode(level: Level, ids: &[u32]) -> Vec<u8> {
    STORAGE.frame(STORAGE.at(level), |mut bytes| {
        encode_ids(ids, &mut bytes);
        bytes
    })
}

/// Reads what [`encode`] wrote.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<u32>, FormatError> {
    let mut ids = Vec::with_capacity(bytes.len());
    decode_into(bytes, &mut ids)?;
    Ok(ids)
}

/// Reads what [`encode`] wrote, and appends it to `ids`.
pub(crate) fn decode_into(bytes: &[u8], ids: &mut Vec<u32>) -> Result<(), FormatError> {
    let (_, body) = STORAGE.open(WHAT, bytes)?;
    decode_ids(body, ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_of_a_number_comes_back() {
        for ids in [
            vec![],
            vec![0],
            vec![0, 1, 127, 128, 16_383, 16_384, u32::MAX - 1, u32::MAX],
            (0..1000).map(|i| i * 97).collect(),
        ] {
            assert_eq!(decode(&encode(Level::FIRST, &ids)).unwrap(), ids);
        }
    }

    #[test]
    fn what_was_never_written_is_damage() {
        let version = STORAGE.at(Level::FIRST).to_le_bytes();
        for (body, why) in [
            (&[0x80][..], "ends inside a number"),
            (&[1, 0], "twice"),
            (&[0xff, 0xff, 0xff, 0xff, 0xff, 1], "over 32 bits"),
            (&[0xff, 0xff, 0xff, 0xff, 0x1f], "over 32 bits"),
            (&[0xff, 0xff, 0xff, 0xff, 0x0f, 1], "id over 32 bits"),
        ] {
            let message = decode(&[&version, body].concat()).unwrap_err().to_string();
            assert!(message.contains(why), "{message}");
        }
        assert!(decode(&[]).is_err());
        assert!(matches!(decode(&[9, 0]), Err(FormatError::Newer { found: 9, .. })));
    }
}
