//! The certificates of this process: one of each CA in the secret, so that a server shows a certificate that
//! the other one trusts while a rotation is under way. They are signed in memory and replaced long before they
//! expire.

use std::convert::Infallible;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio_util::sync::CancellationToken;

use super::authority::seconds;
use super::facts::date;
use super::role::Role;
use super::secret::ClusterSecret;
use crate::clock::SharedClock;
use crate::limits::{CA_WARN_BEFORE, CERTIFICATE_LOOK_INTERVAL, CERTIFICATE_RENEW_AFTER};

/// What this process proves who it is with. Its `Debug` shows no key.
pub struct Credentials {
    secret: ClusterSecret,
    role: Role,
    clock: SharedClock,
    signed: RwLock<Signed>,
}

/// Certificates that were signed at the same time.
#[derive(Clone)]
struct Signed {
    /// When, seconds since 1970.
    at: i64,
    /// One of each CA, newest first.
    each: Arc<[Credential]>,
}

struct Credential {
    /// Subject of the CA, as DER.
    issuer: Vec<u8>,
    certified: Arc<CertifiedKey>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("role", &self.role).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Signs certificates of `role` with each CA of `secret`.
    pub fn new(secret: ClusterSecret, role: Role, clock: SharedClock) -> Self {
        let signed = Signed::new(&secret, role, unix_seconds(&clock));
        Self { secret, role, clock, signed: RwLock::new(signed) }
    }

    /// Replaces the certificates when they get old, until `stop`.
    ///
    /// # Errors
    /// None.
    pub async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) -> Result<(), Infallible> {
        self.warn_of_the_end();
        while stop.run_until_cancelled(tokio::time::sleep(CERTIFICATE_LOOK_INTERVAL)).await.is_some() {
            if self.renew_if_due() {
                tracing::debug!("signed new certificates");
                self.warn_of_the_end();
            }
        }
        Ok(())
    }

    /// Replaces the certificates if they are due; true if it has.
    pub(super) fn renew_if_due(&self) -> bool {
        let now = unix_seconds(&self.clock);
        let due = is_due(self.signed().at, now);
        if due {
            let signed = Signed::new(&self.secret, self.role, now);
            *self.signed.write().unwrap_or_else(PoisonError::into_inner) = signed;
        }
        due
    }

    fn warn_of_the_end(&self) {
        let ca = self.secret.newest().facts();
        if unix_seconds(&self.clock) > ca.until.saturating_sub(seconds(CA_WARN_BEFORE)) {
            let until = date(ca.until);
            tracing::warn!(ca = ca.name, until, "the CA of the cluster secret ends soon: rotate it");
        }
    }

    fn signed(&self) -> Signed {
        self.signed.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The certificate of the newest CA that the other side trusts, or of the newest one if it trusts none.
    pub(super) fn choose(&self, trusts: impl Fn(&[u8]) -> bool) -> Option<Arc<CertifiedKey>> {
        let each = self.signed().each;
        let trusted = each.iter().find(|one| trusts(&one.issuer)).or(each.first());
        trusted.map(|one| Arc::clone(&one.certified))
    }
}

impl Signed {
    fn new(secret: &ClusterSecret, role: Role, now: i64) -> Self {
        let each = secret.authorities().iter().rev().map(|authority| Credential {
            issuer: authority.facts().subject.clone(),
            certified: authority.sign(role, now),
        });
        Self { at: now, each: each.collect() }
    }
}

/// Whether certificates that were signed at one time are to be replaced at another: they are old, or the clock
/// was set back behind them.
fn is_due(signed_at: i64, now: i64) -> bool {
    now < signed_at || now - signed_at >= seconds(CERTIFICATE_RENEW_AFTER)
}

/// Seconds since 1970.
pub fn unix_seconds(clock: &SharedClock) -> i64 {
    i64::try_from(clock.unix_ms() / 1000).unwrap_or(i64::MAX)
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.certificate_authorities().unwrap_or_default();
        self.choose(|issuer| named.iter().any(|name| name.as_ref() == issuer))
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(&self, named: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.choose(|issuer| named.contains(&issuer))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_replaced_daily_and_when_the_clock_was_set_back() {
        let (at, day) = (1_796_133_061, 86_400);
        for (now, due) in [(at, false), (at + day - 1, false), (at + day, true), (at - 1, true), (0, true)] {
            assert_eq!(is_due(at, now), due, "{now}");
        }
    }
}
