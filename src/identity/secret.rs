//! The cluster secret as text: for each CA a private key and then its certificate, oldest first. The newest
//! one signs, all are trusted.

use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

use super::authority::{Authority, NoAuthority};
use super::facts::{Facts, date};
use crate::limits::SECRET_CAS_MAX;

/// The first lines of a secret. Text outside the sections of PEM means nothing.
const HEAD: &str = "\
Cluster secret of Piccolo: who has it is this cluster. The same file on all servers, readable by them only.
Made and changed by `piccolo cluster-secret`; the newest CA, the last one, signs.
";

/// The CAs of a cluster: at least one, oldest first.
#[derive(Debug)]
pub struct ClusterSecret {
    authorities: Vec<Authority>,
}

/// Why a text is no cluster secret, or cannot be used or changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SecretProblem {
    /// The text has no section.
    #[error("it has no private key and no certificate: expected what piccolo cluster-secret create writes")]
    Empty,
    /// A section has no end, or is not base64.
    #[error("it is cut or damaged behind its section {whole}")]
    Damaged {
        /// Whole sections before that.
        whole: usize,
    },
    /// A section is not what must stand there.
    #[error("its section {place} is no {expected}: each CA is a private key and then its certificate")]
    Order {
        /// Number of the section, from 1.
        place: usize,
        /// What must stand there.
        expected: &'static str,
    },
    /// The last key has no certificate.
    #[error("it ends with a private key without its certificate: it is cut")]
    Cut,
    /// A key cannot be read.
    #[error("the private key of its CA {place} cannot be read: expected ECDSA P-256 in PKCS #8")]
    Key {
        /// Number of the CA, from 1.
        place: usize,
    },
    /// A certificate cannot be read.
    #[error("the certificate of its CA {place} cannot be read")]
    Certificate {
        /// Number of the CA, from 1.
        place: usize,
    },
    /// A certificate is not one of a CA.
    #[error("the certificate of its CA {place} is not one of a CA: it may not sign others")]
    MayNotSign {
        /// Number of the CA, from 1.
        place: usize,
    },
    /// A key and the certificate behind it do not belong together.
    #[error(
        "the private key of its CA {place} does not fit the certificate behind it: two secrets are mixed up"
    )]
    Mismatch {
        /// Number of the CA, from 1.
        place: usize,
    },
    /// A CA stands in it twice.
    #[error("its CA {place} stands in it twice")]
    Twice {
        /// Number of the second one, from 1.
        place: usize,
    },
    /// It has more CAs than it may.
    #[error("it has more than {SECRET_CAS_MAX} CAs: retire the oldest")]
    TooMany,
    /// The only CA cannot be retired.
    #[error("it has one CA only, without which nothing is trusted: add the next one first")]
    Last,
    /// The CA that signs is no longer valid.
    #[error(
        "its newest CA {name} has expired at {}, by the clock of this host: add another one",
        date(*until)
    )]
    Expired {
        /// Name of the CA.
        name: String,
        /// When it has expired, seconds since 1970.
        until: i64,
    },
}

impl ClusterSecret {
    /// A new secret with one CA, at `now` in seconds since 1970.
    pub fn generate(now: i64) -> Self {
        Self { authorities: vec![Authority::generate(now)] }
    }

    /// Reads the text of a secret.
    ///
    /// # Errors
    /// Any [`SecretProblem`] of a text. None of them has a part of the text.
    pub fn parse(text: &[u8]) -> Result<Self, SecretProblem> {
        let mut authorities: Vec<Authority> = Vec::new();
        let mut key = None;
        for (place, section) in <(SectionKind, Vec<u8>)>::pem_slice_iter(text).enumerate() {
            let (kind, bytes) = section.map_err(|_| SecretProblem::Damaged { whole: place })?;
            let of = authorities.len() + 1;
            match (key.take(), kind) {
                (None, SectionKind::PrivateKey) => key = Some(PrivatePkcs8KeyDer::from(bytes)),
                (Some(key), SectionKind::Certificate) => {
                    let authority = Authority::read(&key, CertificateDer::from(bytes));
                    let authority = authority.map_err(|reason| no_authority(reason, of))?;
                    let is_same = |other: &Authority| other.certificate() == authority.certificate();
                    if authorities.iter().any(is_same) {
                        return Err(SecretProblem::Twice { place: of });
                    }
                    authorities.push(authority);
                }
                (None, _) => return Err(SecretProblem::Order { place: place + 1, expected: "private key" }),
                (Some(_), _) => {
                    return Err(SecretProblem::Order { place: place + 1, expected: "certificate" });
                }
            }
        }
        match (key, authorities.len()) {
            (Some(_), _) => Err(SecretProblem::Cut),
            (None, 0) => Err(SecretProblem::Empty),
            (None, count) if count > SECRET_CAS_MAX => Err(SecretProblem::TooMany),
            (None, _) => Ok(Self { authorities }),
        }
    }

    /// The text with all keys, for the file that keeps them.
    pub(super) fn to_text(&self) -> String {
        let pem = |authority: &Authority| {
            let encoded = pem::encode(&pem::Pem::new("CERTIFICATE", authority.certificate().as_ref()));
            format!("\n{}\n{}{encoded}", authority.facts().name, authority.key_pem())
        };
        HEAD.to_owned() + &self.authorities.iter().map(pem).collect::<String>()
    }

    /// All CAs, oldest first.
    pub fn authorities(&self) -> &[Authority] {
        &self.authorities
    }

    /// The CA that signs.
    pub fn newest(&self) -> &Authority {
        self.authorities.last().expect("a secret has a CA")
    }

    /// Whether the CA that signs is valid at `now`, seconds since 1970.
    ///
    /// # Errors
    /// [`SecretProblem::Expired`].
    pub fn check_valid(&self, now: i64) -> Result<(), SecretProblem> {
        let Facts { name, until, .. } = self.newest().facts();
        match now > *until {
            true => Err(SecretProblem::Expired { name: name.clone(), until: *until }),
            false => Ok(()),
        }
    }

    /// Adds a new CA, which signs from now on; `now` in seconds since 1970.
    ///
    /// # Errors
    /// [`SecretProblem::TooMany`].
    pub fn add(&mut self, now: i64) -> Result<(), SecretProblem> {
        if self.authorities.len() >= SECRET_CAS_MAX {
            return Err(SecretProblem::TooMany);
        }
        self.authorities.push(Authority::generate(now));
        Ok(())
    }

    /// Removes the oldest CA: what it has signed is no longer trusted.
    ///
    /// # Errors
    /// [`SecretProblem::Last`].
    pub fn retire(&mut self) -> Result<(), SecretProblem> {
        if self.authorities.len() == 1 {
            return Err(SecretProblem::Last);
        }
        self.authorities.remove(0);
        Ok(())
    }
}

fn no_authority(reason: NoAuthority, place: usize) -> SecretProblem {
    match reason {
        NoAuthority::Key => SecretProblem::Key { place },
        NoAuthority::Certificate => SecretProblem::Certificate { place },
        NoAuthority::MayNotSign => SecretProblem::MayNotSign { place },
        NoAuthority::Mismatch => SecretProblem::Mismatch { place },
    }
}

#[cfg(test)]
mod tests;
