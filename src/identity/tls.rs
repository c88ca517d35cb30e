//! TLS between servers as rustls takes it: version 1.3, certificates of both sides, no resumption. A resumed
//! session would outlive the certificate that it began with.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, Error, ServerConfig};

use super::credentials::Credentials;
use super::role::Role;
use super::secret::ClusterSecret;
use super::trust::ServersOnly;
use crate::clock::SharedClock;

/// Which connections are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// None.
    Off,
    /// Those to and from servers that can, for a site on its way from one of the others to the other.
    Accept,
    /// All.
    Require,
}

/// Both sides of TLS between servers.
#[derive(Clone, Debug)]
pub struct Tls {
    /// For connections from others.
    pub server: Arc<ServerConfig>,
    /// For connections to others.
    pub client: Arc<ClientConfig>,
    /// The certificates that both show.
    pub credentials: Arc<Credentials>,
}

impl Tls {
    /// Shows certificates of `role`, and believes servers with a certificate of `secret`.
    ///
    /// # Errors
    /// If rustls cannot use the certificate of a CA.
    pub fn new(secret: ClusterSecret, role: Role, clock: SharedClock) -> Result<Self, Error> {
        let provider: Arc<CryptoProvider> = Arc::new(ring::default_provider());
        let trust = Arc::new(ServersOnly::new(&secret, Arc::clone(&provider))?);
        let time: Arc<dyn TimeProvider> = Arc::new(Time(Arc::clone(&clock)));
        let credentials = Arc::new(Credentials::new(secret, role, clock));

        let server = ServerConfig::builder_with_details(Arc::clone(&provider), Arc::clone(&time));
        let server = server.with_protocol_versions(&[&TLS13])?.with_client_cert_verifier(trust.clone());
        let mut server = server.with_cert_resolver(credentials.clone());
        server.send_tls13_tickets = 0;

        let client = ClientConfig::builder_with_details(provider, time).with_protocol_versions(&[&TLS13])?;
        let client = client.dangerous().with_custom_certificate_verifier(trust);
        let mut client = client.with_client_cert_resolver(credentials.clone());
        client.resumption = Resumption::disabled();
        Ok(Self { server: Arc::new(server), client: Arc::new(client), credentials })
    }
}

/// The clock, for the dates of certificates.
struct Time(SharedClock);

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Time")
    }
}

impl TimeProvider for Time {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.unix_ms())))
    }
}

#[cfg(test)]
mod tests;
