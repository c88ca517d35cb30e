//! Content digests: `sha256:<64 hex>` and `sha512:<128 hex>` (OCI image spec, descriptor.md).

use std::fmt;
use std::str::FromStr;

use sha2::Digest as _;
use sha2::{Sha256, Sha512};

/// A well-formed digest: known algorithm, lower-case hex of its length. The only thing that may
/// become part of a path.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    text: String,
}

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
        self.algorithm
    }

    /// The hex digits behind the colon.
    pub fn hex(&self) -> &str {
        &self.text[self.algorithm.name().len() + 1..]
    }

    /// The whole of it.
    pub fn as_str(&self) -> &str {
        &self.text
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
        match known {
            Some(algorithm) => Ok(Self { algorithm, text: text.to_owned() }),
            None => Err(DigestError { text: text.chars().take(160).collect() }),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
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
        let (algorithm, bytes) = match self {
            Hasher::Sha256(hasher) => (Algorithm::Sha256, hasher.finalize().to_vec()),
            Hasher::Sha512(hasher) => (Algorithm::Sha512, hasher.finalize().to_vec()),
        };
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Digest { algorithm, text: format!("{}:{hex}", algorithm.name()) }
    }
}

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
