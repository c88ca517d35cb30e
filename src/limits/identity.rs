//! Limits of certificates, and of the file that signs them.

use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Size of a cluster secret, bytes: several times what it has with all its CAs.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;
/// CAs in one cluster secret: a rotation needs two.
pub const SECRET_CAS_MAX: usize = 4;
/// How long a new CA is valid. Nobody renews it but an operator, so that it outlasts the hardware.
pub const CA_LIFETIME: Duration = DAY.saturating_mul(3650);
/// How wrong a clock may be: a certificate is valid that long before it is made.
pub const CLOCK_TOLERANCE: Duration = DAY;
/// How long before its end the log says that a CA must be replaced.
pub const CA_WARN_BEFORE: Duration = DAY.saturating_mul(90);
/// How long a certificate of a server is valid.
pub const CERTIFICATE_LIFETIME: Duration = DAY.saturating_mul(7);
/// Age at which a server replaces its certificate.
pub const CERTIFICATE_RENEW_AFTER: Duration = DAY;
/// Time between two looks at the age of a certificate. The clock may have been set meanwhile.
pub const CERTIFICATE_LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// A certificate is good for a clock that is ahead by the tolerance until long after it was replaced.
const _: () = assert!(
    CERTIFICATE_RENEW_AFTER.as_secs() + 2 * CLOCK_TOLERANCE.as_secs() < CERTIFICATE_LIFETIME.as_secs()
);
const _: () = assert!(CERTIFICATE_LOOK_INTERVAL.as_secs() < CERTIFICATE_RENEW_AFTER.as_secs());
const _: () = assert!(CA_LIFETIME.as_secs() > CLOCK_TOLERANCE.as_secs());
const _: () = assert!(SECRET_CAS_MAX >= 2);
