//! What a certificate says, read without trust in it.

use std::fmt::Write;

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
use x509_parser::time::ASN1Time;

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The common name of its subject; empty if it has none.
    pub name: String,
    /// Valid from this time on, seconds since 1970.
    pub from: i64,
    /// Valid up to this time, seconds since 1970.
    pub until: i64,
    /// SHA-256 of the certificate, 64 hex digits.
    pub fingerprint: String,
    /// Whether it may sign others.
    pub is_authority: bool,
    /// Its subject, as DER of a distinguished name.
    pub subject: Vec<u8>,
    /// URIs among its alternative names.
    pub uris: Vec<String>,
    /// The public key, as DER of its `SubjectPublicKeyInfo`.
    pub public_key: Vec<u8>,
}

impl Facts {
    /// Reads a certificate; `None` if it is malformed.
    pub fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (rest, read) = X509Certificate::from_der(certificate).ok()?;
        let name = read.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
        let names = read.subject_alternative_name().ok()?;
        let names = names.iter().flat_map(|names| &names.value.general_names);
        let uris = names.filter_map(|name| match name {
            GeneralName::URI(uri) => Some((*uri).to_owned()),
            _ => None,
        });
        rest.is_empty().then(|| Self {
            name: name.unwrap_or_default().to_owned(),
            from: read.validity().not_before.timestamp(),
            until: read.validity().not_after.timestamp(),
            fingerprint: hex(&Sha256::digest(certificate)),
            is_authority: read.is_ca(),
            subject: read.subject().as_raw().to_vec(),
            uris: uris.collect(),
            public_key: read.public_key().raw.to_vec(),
        })
    }
}

/// A time as people read it, in UTC; `seconds` since 1970.
pub fn date(seconds: i64) -> String {
    let Ok(time) = ASN1Time::from_timestamp(seconds) else { return format!("{seconds} s since 1970") };
    let time = time.to_datetime();
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02} UTC", time.hour(), time.minute())
}

/// Bytes as lower-case hex digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_says_nothing() {
        for bytes in [&b""[..], b"0", b"not a certificate", &[0x30, 0x03, 0x02, 0x01, 0x01]] {
            assert_eq!(Facts::read(&CertificateDer::from(bytes)), None, "{bytes:?}");
        }
    }

    #[test]
    fn a_date_is_read_by_people() {
        assert_eq!(date(0), "1970-01-01 00:00 UTC");
        assert_eq!(date(1_796_133_061), "2026-12-01 13:51 UTC");
    }
}
