//! Whose certificates are believed: those that a CA of the cluster secret has signed, for a server.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use super::facts::Facts;
use super::refusal::NotAServer;
use super::role::Role;
use super::secret::ClusterSecret;

/// Believes the servers of one cluster, whichever of the two sides they are.
pub struct ServersOnly {
    roots: Arc<RootCertStore>,
    /// Names of the CAs, by which the other side chooses its certificate.
    hints: Vec<DistinguishedName>,
    provider: Arc<CryptoProvider>,
    /// Verifies dates, signatures and purposes of clients, and signatures of both sides.
    of_clients: Arc<dyn ClientCertVerifier>,
}

impl fmt::Debug for ServersOnly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServersOnly").field("authorities", &self.hints.len()).finish_non_exhaustive()
    }
}

impl ServersOnly {
    /// Trusts all CAs of `secret`.
    ///
    /// # Errors
    /// If rustls cannot use the certificate of a CA.
    pub fn new(secret: &ClusterSecret, provider: Arc<CryptoProvider>) -> Result<Self, Error> {
        let mut roots = RootCertStore::empty();
        for authority in secret.authorities() {
            roots.add(authority.certificate().clone())?;
        }
        let (hints, roots) = (roots.subjects(), Arc::new(roots));
        let of_clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let of_clients = of_clients.build().map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { roots, hints, provider, of_clients })
    }
}

/// The role of a certificate whose signature is right.
fn check_role(certificate: &CertificateDer<'_>) -> Result<(), Error> {
    match Facts::read(certificate).as_ref().and_then(Role::of) {
        Some(Role::Server { .. }) => Ok(()),
        None => Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(NotAServer))))),
    }
}

impl ClientCertVerifier for ServersOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.of_clients.verify_client_cert(end_entity, intermediates, now)?;
        check_role(end_entity).map(|()| verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.of_clients.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.of_clients.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.of_clients.supported_verify_schemes()
    }
}

/// A server is known by its CA and its role: what name it was reached by says nothing about it.
impl ServerCertVerifier for ServersOnly {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, algorithms)?;
        check_role(end_entity).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.of_clients.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.of_clients.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.of_clients.supported_verify_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        Some(&self.hints)
    }
}
