//! Keys: what a holder holds, and the text form that the API and the Go Piccolo use.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::KEY_BYTES_MAX;

/// What a holder holds: content by digest, or a tag.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Key {
    /// `sha256:<64 lower-case hex>`.
    Sha256([u8; 32]),
    /// Anything else: `registry/repository:tag`, or a digest of another algorithm.
    Text(String),
}

/// Why a string is not a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The key is empty.
    #[error("is empty")]
    Empty,
    /// The key is longer than [`KEY_BYTES_MAX`].
    #[error("has {0} bytes, the limit is {KEY_BYTES_MAX}")]
    TooLong(usize),
    /// Starts like a digest, but is none.
    #[error("is not sha256: and 64 lower-case hex digits")]
    BadDigest,
    /// White space or control characters.
    #[error("has white space or a control character")]
    BadCharacter,
}

impl FromStr for Key {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        if text.is_empty() {
            return Err(KeyError::Empty);
        }
        if text.len() > KEY_BYTES_MAX {
            return Err(KeyError::TooLong(text.len()));
        }
        if let Some(hex) = text.strip_prefix("sha256:") {
            return decode_hex(hex).map(Key::Sha256).ok_or(KeyError::BadDigest);
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(KeyError::BadCharacter);
        }
        Ok(Key::Text(text.to_owned()))
    }
}

/// 64 lower-case hex digits as bytes.
fn decode_hex(hex: &str) -> Option<[u8; 32]> {
    let hex: &[u8; 64] = hex.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    let mut wrong = 0;
    for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
        let [high, low] = [NIBBLES[usize::from(pair[0])], NIBBLES[usize::from(pair[1])]];
        wrong |= high | low;
        *byte = high << 4 | low & 0xf;
    }
    (wrong < 0x10).then_some(bytes)
}

/// The value of each lower-case hex digit, and more than any for every other byte: a table, because the
/// keys of a fleet that registers are a billion digits.
const NIBBLES: [u8; 256] = {
    let mut table = [0x10; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u8;
        value += 1;
    }
    table
};

impl Key {
    /// No fewer bytes than it has when it is encoded: a variant, and for a text its length.
    pub fn bytes_at_most(&self) -> usize {
        match self {
            Key::Sha256(digest) => 1 + digest.len(),
            Key::Text(text) => 1 + 2 + text.len(),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Sha256(bytes) => {
                // At once: a string that grows with each byte takes up twice as much.
                let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
                let mut text = *b"sha256:----------------------------------------------------------------";
                for (digits, byte) in text[7..].chunks_exact_mut(2).zip(bytes) {
                    digits.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
                }
                f.write_str(str::from_utf8(&text).expect("hex is ASCII"))
            }
            Key::Text(text) => f.write_str(text),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

    #[test]
    fn a_digest_becomes_bytes_and_comes_back_as_it_was() {
        let key: Key = DIGEST.parse().unwrap();
        assert!(matches!(key, Key::Sha256(_)));
        assert_eq!(key.to_string(), DIGEST);
    }

    #[test]
    fn a_digit_that_is_none_is_found_wherever_it_stands() {
        for position in "sha256:".len()..DIGEST.len() {
            for wrong in [b'g', b'A', b'/', b':', b'`', 0x7f] {
                let mut text = DIGEST.as_bytes().to_vec();
                text[position] = wrong;
                let text = String::from_utf8(text).unwrap();
                assert_eq!(text.parse::<Key>(), Err(KeyError::BadDigest), "{text}");
            }
        }
    }

    #[test]
    fn what_is_no_key_is_refused_with_the_reason() {
        assert_eq!("".parse::<Key>(), Err(KeyError::Empty));
        assert_eq!("sha256:abc".parse::<Key>(), Err(KeyError::BadDigest));
        assert_eq!(DIGEST.to_uppercase().replace("SHA", "sha").parse::<Key>(), Err(KeyError::BadDigest));
        assert_eq!("a b".parse::<Key>(), Err(KeyError::BadCharacter));
        assert_eq!("a".repeat(256).parse::<Key>(), Err(KeyError::TooLong(256)));
        assert!("a".repeat(255).parse::<Key>().is_ok());
    }
}
