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

const _: () = assert!(CA_LIFETIME.as_secs() > CLOCK_TOLERANCE.as_secs());
const _: () = assert!(SECRET_CAS_MAX >= 2);
