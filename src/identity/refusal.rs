//! Why a connection was refused before its first request.

use std::error::Error;
use std::fmt;
use std::io;

use rustls::CertificateError;

/// Why a connection was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It did not speak TLS.
    Plain,
    /// It had no certificate.
    NoCertificate,
    /// Its certificate is signed by no CA that is trusted here.
    Foreign,
    /// Its certificate is no longer valid.
    Expired,
    /// Its certificate is not valid yet.
    NotYetValid,
    /// Its certificate is not one of a server.
    Role,
    /// The handshake took too long.
    Slow,
    /// The other side has refused this one's certificate.
    Distrusted,
    /// Anything else: it left, or spoke another TLS.
    Handshake,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Plain,
        Self::NoCertificate,
        Self::Foreign,
        Self::Expired,
        Self::NotYetValid,
        Self::Role,
        Self::Slow,
        Self::Distrusted,
        Self::Handshake,
    ];

    /// Name in metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::NoCertificate => "no_certificate",
            Self::Foreign => "foreign",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::Role => "role",
            Self::Slow => "slow",
            Self::Distrusted => "distrusted",
            Self::Handshake => "handshake",
        }
    }

    /// The reason in an error of a handshake.
    pub fn of(error: &io::Error) -> Self {
        let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
        match error {
            Some(rustls::Error::NoCertificatesPresented) => Self::NoCertificate,
            Some(rustls::Error::InvalidCertificate(error)) => Self::of_certificate(error),
            Some(rustls::Error::AlertReceived(_)) => Self::Distrusted,
            _ => Self::Handshake,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::Foreign,
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::Other(other) if other.0.is::<NotAServer>() => Self::Role,
            _ => Self::Handshake,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "it does not speak TLS",
            Self::NoCertificate => "it has no certificate",
            Self::Foreign => "its certificate is signed by another cluster secret",
            Self::Expired => "its certificate has expired: one of the two clocks may be wrong",
            Self::NotYetValid => "its certificate is not valid yet: one of the two clocks may be wrong",
            Self::Role => "its certificate is not one of a server",
            Self::Slow => "its handshake took too long",
            Self::Distrusted => {
                "it does not trust this server: it has another cluster secret, or a wrong clock"
            }
            Self::Handshake => "the TLS handshake failed",
        })
    }
}

/// A certificate of a trusted CA that is not one of a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotAServer;

impl fmt::Display for NotAServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Refusal::Role.fmt(f)
    }
}

impl Error for NotAServer {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_reason_has_a_name_and_words_of_its_own() {
        let labels: BTreeSet<_> = Refusal::ALL.iter().map(|refusal| refusal.label()).collect();
        let words: BTreeSet<_> = Refusal::ALL.iter().map(Refusal::to_string).collect();
        assert_eq!((labels.len(), words.len()), (Refusal::ALL.len(), Refusal::ALL.len()));
    }
}
