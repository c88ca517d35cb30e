//! One CA of a cluster: a key (ECDSA P-256), the certificate by which others know it, and what it signs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType,
};
use rustls::crypto::ring::sign::any_ecdsa_type;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};
use x509_parser::time::ASN1Time;

use super::facts::{Facts, hex};
use super::role::Role;
use crate::limits::{CA_LIFETIME, CERTIFICATE_LIFETIME, CLOCK_TOLERANCE};

/// Bytes of the hash of a CA's key that its name has.
const NAME_BYTES: usize = 8;

/// A CA that can sign. Its `Debug` shows no key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    facts: Facts,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// Why a key and a certificate are no CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoAuthority {
    /// The key cannot be read.
    Key,
    /// The certificate cannot be read.
    Certificate,
    /// The certificate may not sign others.
    MayNotSign,
    /// The certificate is of another key.
    Mismatch,
}

impl Authority {
    /// A new CA, at `now` in seconds since 1970. Its name is that of its key: two CAs never have the same.
    pub fn generate(now: i64) -> Self {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("the system gives random bytes");
        let digest = Sha256::digest(key.subject_public_key_info());
        let mut params = params(&format!("piccolo-{}", hex(&digest[..NAME_BYTES])), now, CA_LIFETIME);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).expect("these parameters make a certificate");
        let certificate = certificate.der().clone();
        let facts = Facts::read(&certificate).expect("it was made a moment ago");
        Self { issuer: Issuer::new(params, key), certificate, facts }
    }

    /// The CA with this key (PKCS #8) and this certificate.
    pub(super) fn read(
        key: &PrivatePkcs8KeyDer<'_>,
        certificate: CertificateDer<'static>,
    ) -> Result<Self, NoAuthority> {
        let key = KeyPair::from_pkcs8_der_and_sign_algo(key, &PKCS_ECDSA_P256_SHA256)
            .map_err(|_| NoAuthority::Key)?;
        let facts = Facts::read(&certificate).ok_or(NoAuthority::Certificate)?;
        if key.subject_public_key_info() != facts.public_key {
            return Err(NoAuthority::Mismatch);
        }
        if !facts.is_authority {
            return Err(NoAuthority::MayNotSign);
        }
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| NoAuthority::Certificate)?;
        Ok(Self { issuer, certificate, facts })
    }

    /// What its certificate says.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Its certificate, which is no secret.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate of `role` with a new key, which exists in memory only; `now` in seconds since 1970. It ends
    /// with its CA at the latest, because TLS does not look at the dates of a CA that it trusts.
    pub(super) fn sign(&self, role: Role, now: i64) -> Arc<CertifiedKey> {
        let lifetime = seconds(CERTIFICATE_LIFETIME).min(self.facts.until.saturating_sub(now)).max(0);
        let uri = role.uri();
        let mut params = params(&uri, now, Duration::from_secs(lifetime.unsigned_abs()));
        params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(uri).expect("roles are ASCII"))];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("the system gives random bytes");
        let signed = params.signed_by(&key, &self.issuer).expect("these parameters make a certificate");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = any_ecdsa_type(&key).expect("it was made a moment ago");
        Arc::new(CertifiedKey::new(vec![signed.der().clone()], key))
    }

    /// Its key as PEM, for the file that keeps it.
    pub(super) fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

/// A certificate of this name that is valid for `lifetime`, and [`CLOCK_TOLERANCE`] before `now`, seconds
/// since 1970.
pub(super) fn params(name: &str, now: i64, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    let at = |seconds: i64| ASN1Time::from_timestamp(seconds).map(|time| time.to_datetime());
    let (before, after) = (seconds(CLOCK_TOLERANCE), seconds(lifetime));
    // Dates before 1970 are malformed for webpki. A clock beyond the year 9999 keeps the dates of rcgen, which are wide.
    let from = now.saturating_sub(before).max(0);
    if let (Ok(from), Ok(until)) = (at(from), at(now.saturating_add(after))) {
        (params.not_before, params.not_after) = (from, until);
    }
    params
}

/// A duration of a limit in whole seconds.
pub(super) fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_has_just_begun_makes_dates_that_others_can_read() {
        let authority = Authority::generate(0);
        assert_eq!(authority.facts().from, 0);
    }

    #[test]
    fn a_new_one_may_sign_for_its_lifetime_and_tolerates_a_clock_that_is_behind() {
        let now = 1_796_133_061;
        let authority = Authority::generate(now);
        let facts = authority.facts();
        assert!(facts.is_authority && facts.name.starts_with("piccolo-"), "{facts:?}");
        assert_eq!((facts.from, facts.until), (now - 86_400, now + 86_400 * 3650));
        assert_ne!(facts.name, Authority::generate(now).facts().name);
    }

    #[test]
    fn what_it_signs_has_a_role_and_ends_with_it_at_the_latest() {
        let made = 1_796_133_061;
        let authority = Authority::generate(made);
        let role = Role::Server { node_id: 0xab };
        let signed = |now| Facts::read(&authority.sign(role, now).cert[0]).unwrap();
        let facts = signed(made);
        assert_eq!((facts.from, facts.until), (made - 86_400, made + 7 * 86_400));
        assert_eq!((Role::of(&facts), facts.is_authority), (Some(role), false));
        let end = authority.facts().until;
        assert_eq!(signed(end - 60).until, end);
        let late = signed(end + 60);
        assert!(late.until < end + 61, "{late:?}");
    }
}
