//! Content digests: `sha256:<64 hex>` and `sha512:<128 hex>` (OCI image spec, descriptor.md).

use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use sha2::Digest as _;
use sha2::{Sha256, Sha512};

/// Header with the digest of the content that is sent (OCI distribution spec, "Legacy Docker support HTTP headers").
pub const CONTENT_DIGEST: &str = "docker-content-digest";

/// A well-formed digest: known algorithm, lower-case hex of its length. The only thing that may
/// become part of a path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(Text);

/// `<algorithm>:<hex>`, all of it ASCII. In place, because a node holds tens of thousands: one of the
/// heap takes half as much again, and what a scan frees stays in pieces between what it keeps.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Text {
    Sha256([u8; SHA256_TEXT_BYTES]),
    /// Rare, and nobody pays for its length but itself.
    Sha512(Box<[u8; SHA512_TEXT_BYTES]>),
}

const SHA256_TEXT_BYTES: usize = "sha256:".len() + 64;
const SHA512_TEXT_BYTES: usize = "sha512:".len() + 128;

/// The algorithms of the OCI image spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// 64 hex digits.
    Sha256,
    /// 128 hex digits.
    Sha512,
}

/// Why a string is not a digest.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a digest: expected sha256: and 64, or sha512: and 128 lower-case hex digits")]
pub struct DigestError {
    text: String,
}

impl Algorithm {
    /// As it stands before the colon.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }

    fn hex_digits(self) -> usize {
        match self {
            Algorithm::Sha256 => 64,
            Algorithm::Sha512 => 128,
        }
    }
}

impl Digest {
    /// The algorithm before the colon.
    pub fn algorithm(&self) -> Algorithm {
        match self.0 {
            Text::Sha256(_) => Algorithm::Sha256,
            Text::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The hex digits behind the colon.
    pub fn hex(&self) -> &str {
        &self.as_str()[self.algorithm().name().len() + 1..]
    }

    /// The whole of it.
    pub fn as_str(&self) -> &str {
        let text: &[u8] = match &self.0 {
            Text::Sha256(text) => text,
            Text::Sha512(text) => &**text,
        };
        std::str::from_utf8(text).expect("a digest is ASCII")
    }

    /// Whether the content with this digest has no bytes at all.
    pub fn is_of_nothing(&self) -> bool {
        static OF_NOTHING: LazyLock<[Digest; 2]> = LazyLock::new(|| {
            [Algorithm::Sha256, Algorithm::Sha512].map(|algorithm| Hasher::new(algorithm).finish())
        });
        OF_NOTHING.contains(self)
    }

    /// SHA-256 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(bytes);
        hasher.finish()
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let known = [Algorithm::Sha256, Algorithm::Sha512].into_iter().find(|algorithm| {
            let hex = text.strip_prefix(algorithm.name()).and_then(|rest| rest.strip_prefix(':'));
            hex.is_some_and(|hex| {
                hex.len() == algorithm.hex_digits()
                    && hex.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
            })
        });
        let bytes = text.as_bytes();
        let text_of = |algorithm| match algorithm {
            Algorithm::Sha256 => bytes.try_into().ok().map(Text::Sha256),
            Algorithm::Sha512 => bytes.try_into().ok().map(|text| Text::Sha512(Box::new(text))),
        };
        let digest = known.and_then(text_of).map(Self);
        digest.ok_or_else(|| DigestError { text: text.chars().take(160).collect() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Hashes a stream as it passes by.
#[derive(Clone, Debug)]
pub enum Hasher {
    /// 32 bytes.
    Sha256(Sha256),
    /// 64 bytes.
    Sha512(Sha512),
}

impl Hasher {
    /// Nothing hashed yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(Sha512::new()),
        }
    }

    /// The next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of all that passed.
    pub fn finish(self) -> Digest {
        Digest(match self {
            Hasher::Sha256(hasher) => Text::Sha256(text(Algorithm::Sha256, &hasher.finalize())),
            Hasher::Sha512(hasher) => Text::Sha512(Box::new(text(Algorithm::Sha512, &hasher.finalize()))),
        })
    }
}

/// `<algorithm>:<hex>`; `N` is its length.
fn text<const N: usize>(algorithm: Algorithm, hash: &[u8]) -> [u8; N] {
    let mut text = [b':'; N];
    let (name, hex) = text.split_at_mut(algorithm.name().len());
    name.copy_from_slice(algorithm.name().as_bytes());
    for (digits, byte) in hex[1..].chunks_exact_mut(2).zip(hash) {
        digits.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 0xf)]]);
    }
    text
}

const HEX: &[u8; 16] = b"0123456789abcdef";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_digests_parse_and_print_unchanged() {
        let of_test = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
        let digest: Digest = of_test.parse().unwrap();
        assert_eq!(digest.to_string(), of_test);
        assert_eq!(digest.hex().len(), 64);
        assert_eq!(Digest::of(b"test"), digest);
        assert_eq!(size_of::<Digest>(), 72, "no more than its text, and nothing on the heap");
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"test");
        let of_test = "sha512:ee26b0dd4af7e749aa1a8ee3c10ae9923f618980772e473f8819a5d4940e0db2\
                       7ac185f8a0e1d5f84f88bc887fd67b143732c304cc5fa9ad8e6f57f50028a8ff";
        let digest = hasher.finish();
        assert_eq!((digest.as_str(), digest.algorithm()), (of_test, Algorithm::Sha512));
        assert_eq!(of_test.parse(), Ok(digest));
    }

    #[test]
    fn what_could_climb_out_of_a_folder_is_no_digest() {
        for text in ["", "sha256:", "sha256:../../etc/passwd", "sha1:00", "SHA256:00", "sha256:%2f"] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
        let upper = format!("sha256:{}", "A".repeat(64));
        assert!(upper.parse::<Digest>().is_err());
        let sha512 = format!("sha512:{}", "a".repeat(128));
        assert!(sha512.parse::<Digest>().is_ok());
    }
}
