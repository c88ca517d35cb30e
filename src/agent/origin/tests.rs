//! Tests of origins over TLS, with a certificate made for them.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;

use piccolo_raft::errors::chain;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::*;
use crate::agent::RegistryPolicy;
use crate::agent::content::store::MemoryStore;
use crate::agent::policy::Policies;
use crate::agent::testing::{End, RawPeer};

const CERTIFICATE: &str = include_str!("server.cert.pem");
const KEY: &str = include_str!("server.key.pem");

/// A registry that answers one TLS connection with 401. Returns its `host:port`.
fn registry() -> String {
    _ = rustls::crypto::ring::default_provider().install_default();
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(KEY.as_bytes()).unwrap();
    let config =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
    let config = Arc::new(config.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (stream, _) = listener.accept()?;
        let connection = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
        let mut tls = rustls::StreamOwned::new(connection, stream);
        let mut request = [0; 4096];
        _ = tls.read(&mut request)?;
        tls.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")?;
        tls.conn.send_close_notify();
        tls.flush()
    });
    address.to_string()
}

fn origins(policies: Policies) -> Result<Origins, OriginError> {
    Origins::new(Config {
        policies: Arc::new(policies),
        notices: Notices::default(),
        certs_dirs: Some(Vec::new()),
        store: Arc::new(MemoryStore::new()),
        socket: None,
        own: None,
        environment: None,
    })
}

async fn answers(registry: &str, ca: Option<&str>) -> bool {
    let ca = ca.map(|ca| Path::new(env!("CARGO_MANIFEST_DIR")).join("src/agent/origin").join(ca));
    let policy = RegistryPolicy { ca, ..RegistryPolicy::default() };
    let origins = origins(Policies::new([(registry.to_owned(), policy)].into())).unwrap();
    !origins.leaves_to_nodes(Tag { registry, repository: "app", tag: "v1" }).await
}

/// Holds I6: containerd may know a CA that this process does not. If its registry counted as absent, nodes
/// would serve clients that it refuses.
#[tokio::test]
async fn an_origin_with_a_certificate_unknown_to_us_answers() {
    assert!(answers(&registry(), None).await);
}

#[tokio::test]
async fn an_origin_with_a_ca_of_its_own_answers_only_with_its_certificate() {
    assert!(answers(&registry(), Some("server.cert.pem")).await);
    assert!(!answers(&registry(), Some("other.cert.pem")).await);
}

/// Holds I6: a TLS handshake that is never answered must not use up the time of http, which refuses.
#[tokio::test]
async fn an_origin_whose_tls_hangs_answers_over_http() {
    let head =
        "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\n\r\n";
    let origin = RawPeer::start(head, End::Close).await;
    assert!(answers(&origin.address.to_string(), None).await);
}

#[tokio::test]
async fn a_ca_file_without_a_certificate_is_refused() {
    let ca = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let policy = RegistryPolicy { ca: Some(ca), ..RegistryPolicy::default() };
    let error = origins(Policies::new([("a.test".to_owned(), policy)].into())).err().unwrap();
    let error = chain(&error);
    assert!(error.contains("a.test") && error.contains("no certificate"), "{error}");
}
