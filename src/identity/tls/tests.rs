//! Handshakes of two servers, in memory.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;

use super::super::facts::Facts;
use super::super::refusal::Refusal;
use super::*;
use crate::clock::Clock;
use crate::limits::CERTIFICATE_LOOK_INTERVAL;

const NOW: i64 = 1_796_133_061;
const DAY: i64 = 86_400;

/// A clock that a test sets, seconds since 1970.
#[derive(Clone)]
struct Set(Arc<AtomicU64>);

impl Clock for Set {
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn unix_ms(&self) -> u64 {
        self.0.load(Ordering::Relaxed) * 1000
    }
}

fn at(seconds: i64) -> Set {
    Set(Arc::new(AtomicU64::new(seconds.unsigned_abs())))
}

fn copy(secret: &ClusterSecret) -> ClusterSecret {
    ClusterSecret::parse(secret.to_text().as_bytes()).unwrap()
}

fn tls(secret: &ClusterSecret, clock: &Set) -> Tls {
    Tls::new(copy(secret), Role::Server { node_id: 7 }, Arc::new(clock.clone())).unwrap()
}

/// What both sides say of a connection on which the client sends a byte, and the role and the CA that the
/// server sees.
async fn meet(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> (io::Result<()>, io::Result<Facts>) {
    let (near, far) = tokio::io::duplex(16 * 1024);
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connects = async {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        stream.write_all(b"x").await?;
        stream.flush().await?;
        // The server's verdict on a certificate comes after the client's handshake.
        stream.read_u8().await.map(drop)
    };
    let accepts = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.read_u8().await?;
        stream.write_all(b"y").await?;
        stream.flush().await?;
        let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
        Ok(Facts::read(&certificates[0]).unwrap())
    };
    tokio::join!(connects, accepts)
}

async fn refused(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> (Refusal, Refusal) {
    let (client, server) = meet(client, server).await;
    (Refusal::of(&client.unwrap_err()), Refusal::of(&server.unwrap_err()))
}

#[tokio::test]
async fn two_servers_of_one_secret_believe_each_other() {
    let secret = ClusterSecret::generate(NOW);
    let (one, two) = (tls(&secret, &at(NOW)), tls(&secret, &at(NOW)));
    let (client, server) = meet(one.client, two.server).await;
    client.unwrap();
    assert_eq!(Role::of(&server.unwrap()), Some(Role::Server { node_id: 7 }));
}

#[tokio::test]
async fn a_server_of_another_secret_is_foreign_to_both() {
    let [ours, theirs] = [(); 2].map(|()| tls(&ClusterSecret::generate(NOW), &at(NOW)));
    let (client, server) = refused(theirs.client, ours.server).await;
    assert_eq!((client, server), (Refusal::Foreign, Refusal::Distrusted));
}

#[tokio::test]
async fn without_a_certificate_or_with_a_wrong_one_nobody_is_believed() {
    let secret = ClusterSecret::generate(NOW);
    let ours = tls(&secret, &at(NOW));
    let (_, server) = refused(with_certificate(None), ours.server.clone()).await;
    assert_eq!(server, Refusal::NoCertificate);
    let foreign = ClusterSecret::generate(NOW);
    for (signer, uris, expected) in [
        (&secret, &["piccolo://operator/x"][..], Refusal::Role),
        (&secret, &[], Refusal::Role),
        (&secret, &["piccolo://server/0000000000000001", "piccolo://server/0000000000000002"], Refusal::Role),
        (&foreign, &["piccolo://server/0000000000000001"], Refusal::Foreign),
    ] {
        let (client, server) = refused(with_certificate(Some((signer, uris))), ours.server.clone()).await;
        assert_eq!((client, server), (Refusal::Distrusted, expected), "{uris:?}");
    }
}

/// A client that believes every server, with a certificate of `secret` that has these URIs.
fn with_certificate(of: Option<(&ClusterSecret, &[&str])>) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Credulous));
    let Some((secret, uris)) = of else { return Arc::new(builder.with_no_client_auth()) };
    let text = secret.to_text();
    let authority = secret.newest();
    let signing = KeyPair::from_pem(&text[text.find("-----BEGIN PRIVATE").unwrap()..]).unwrap();
    let issuer = Issuer::from_ca_cert_der(authority.certificate(), signing).unwrap();
    let (mut params, key) = (CertificateParams::default(), KeyPair::generate().unwrap());
    let uri = |uri: &&str| SanType::URI(Ia5String::try_from(*uri).unwrap());
    params.subject_alt_names = uris.iter().map(uri).collect();
    let signed = params.signed_by(&key, &issuer).unwrap();
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    Arc::new(builder.with_client_auth_cert(vec![signed.der().clone()], key).unwrap())
}

#[tokio::test]
async fn clocks_may_differ_by_a_day_and_a_certificate_is_renewed_long_before_it_ends() {
    let secret = ClusterSecret::generate(NOW);
    for (theirs, expected) in
        [(NOW - DAY, None), (NOW + DAY, None), (NOW - DAY - 60, Some(Refusal::NotYetValid))]
    {
        let (ours, theirs) = (tls(&secret, &at(NOW)), tls(&secret, &at(theirs)));
        let (_, server) = meet(ours.client, theirs.server).await;
        assert_eq!(server.as_ref().err().map(Refusal::of), expected, "{server:?}");
    }

    let clock = at(NOW);
    let (ours, theirs) = (tls(&secret, &clock), tls(&secret, &clock));
    clock.0.store((NOW + 8 * DAY).unsigned_abs(), Ordering::Relaxed);
    let (_, server) = refused(ours.client.clone(), tls(&secret, &clock).server).await;
    assert_eq!(server, Refusal::Expired, "nobody has renewed it");
    for days in 1..30 {
        clock.0.store((NOW + days * DAY).unsigned_abs(), Ordering::Relaxed);
        assert!(ours.credentials.renew_if_due() && theirs.credentials.renew_if_due());
        let facts = meet(ours.client.clone(), theirs.server.clone()).await.1.unwrap();
        assert_eq!(facts.until, NOW + (days + 7) * DAY);
    }
}

#[tokio::test(start_paused = true)]
async fn a_running_process_replaces_its_certificates() {
    let clock = at(NOW);
    let ours = tls(&ClusterSecret::generate(NOW), &clock);
    let shown = || ours.credentials.choose(|_| true).unwrap().cert[0].clone();
    let (before, stop) = (shown(), CancellationToken::new());
    let looks = async {
        tokio::time::sleep(2 * CERTIFICATE_LOOK_INTERVAL).await;
        assert_eq!(shown(), before);
        clock.0.store((NOW + DAY).unsigned_abs(), Ordering::Relaxed);
        tokio::time::sleep(2 * CERTIFICATE_LOOK_INTERVAL).await;
        assert_ne!(shown(), before);
        stop.cancel();
    };
    let (kept, ()) = tokio::join!(ours.credentials.clone().keep_fresh(stop.clone()), looks);
    kept.unwrap();
}

/// Old: one CA. Both: the new one added. New: the old one retired. Two files that differ by one step meet.
#[tokio::test]
async fn servers_at_neighbouring_steps_of_a_rotation_believe_each_other() {
    let old = ClusterSecret::generate(NOW);
    let mut both = copy(&old);
    both.add(NOW).unwrap();
    let mut new = copy(&both);
    new.retire().unwrap();
    let clock = at(NOW);
    for (client, server) in [(&old, &both), (&both, &old), (&both, &both), (&both, &new), (&new, &both)] {
        let (client, server) = meet(tls(client, &clock).client, tls(server, &clock).server).await;
        client.unwrap();
        server.unwrap();
    }
    let (client, _) = refused(tls(&old, &clock).client, tls(&new, &clock).server).await;
    assert_eq!(client, Refusal::Foreign);
}

#[tokio::test]
async fn the_newest_ca_signs_what_is_shown_where_both_are_trusted() {
    let mut both = ClusterSecret::generate(NOW);
    both.add(NOW).unwrap();
    let mut new = copy(&both);
    new.retire().unwrap();
    let ours = tls(&both, &at(NOW));
    // Only the new CA is trusted here, and the certificate was chosen by a server that named both.
    let shown = ours.credentials.choose(|_| true).unwrap();
    let (_, server) = meet(with_key(shown), tls(&new, &at(NOW)).server).await;
    server.unwrap();
}

/// A client that shows this certificate, whatever it is asked for.
fn with_key(key: Arc<rustls::sign::CertifiedKey>) -> Arc<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]).unwrap();
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(Credulous));
    Arc::new(builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key))))
}

#[test]
fn no_debug_output_has_a_key() {
    let secret = ClusterSecret::generate(NOW);
    let text = secret.to_text();
    let key = text.lines().skip_while(|line| !line.contains("BEGIN PRIVATE")).nth(1).unwrap();
    let ours = tls(&secret, &at(NOW));
    let said = format!("{ours:?}");
    assert!(said.contains("Credentials") && !said.contains(key), "{said}");
    assert!(!said.to_lowercase().contains("secret: clustersecret"), "{said}");
}

/// Believes every server.
#[derive(Debug)]
struct Credulous;

impl rustls::client::danger::ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        ring::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
