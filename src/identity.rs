//! Who is who: the cluster secret, a file with the CA of a cluster, and what it signs.
//!
//! - [`facts`]: what a certificate says.
//! - [`authority`]: one CA, its key and its certificate.
//! - [`secret`]: the CAs of a cluster, as text and as a whole. No I/O, like all above.
//! - [`file`](mod@file): the file that they are in.
//!
//! Keys are in no `Debug` output and in no error.

pub mod authority;
pub mod facts;
pub mod file;
pub mod secret;

pub use authority::Authority;
pub use facts::Facts;
pub use file::SecretError;
pub use secret::{ClusterSecret, SecretProblem};
