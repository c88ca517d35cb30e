//! Who is who: the cluster secret, a file with the CA of a cluster, what it signs, and who is believed.
//!
//! - [`role`]: what the holder of a certificate is.
//! - [`facts`]: what a certificate says.
//! - [`authority`]: one CA, its key and its certificate.
//! - [`secret`]: the CAs of a cluster, as text and as a whole.
//! - [`trust`]: whose certificates are believed.
//! - [`refusal`]: why a connection was refused.
//! - [`credentials`]: the certificates of this process, renewed while it runs.
//! - [`tls`]: the above as rustls takes it.
//! - [`file`](mod@file): the file of a secret, the only I/O here.
//!
//! Keys are in no `Debug` output and in no error.

pub mod authority;
pub mod credentials;
pub mod facts;
pub mod file;
pub mod refusal;
pub mod role;
pub mod secret;
pub mod tls;
pub mod trust;

pub use authority::Authority;
pub use credentials::Credentials;
pub use facts::Facts;
pub use file::SecretError;
pub use refusal::Refusal;
pub use role::Role;
pub use secret::{ClusterSecret, SecretProblem};
pub use tls::{Tls, TlsMode};
