//! Rules of hosts: which one gets which request, and when the next one is asked.

use std::time::{Duration, Instant};

use super::{Pair, route, script};
use crate::blob::SMALL;
use crate::containerd::{Containerd, SLOTS, Version};
use crate::scripted::{Part, good, head, honest, status};

#[tokio::test]
async fn a_mirror_that_has_the_blob_is_the_only_one_asked() {
    for version in Version::ALL {
        let pair = Pair::new(SMALL, good).await;
        let outcome = pair.pull(&pair.daemon(version)).await.unwrap();
        assert_eq!(outcome.bytes, [SMALL, 0]);
        assert_eq!(route(&outcome), [(0, None)]);
        assert!(pair.registry.asked().is_empty());
    }
}

#[tokio::test]
async fn any_status_of_a_mirror_but_a_retried_one_moves_on_at_once() {
    for version in Version::ALL {
        for code in [400, 403, 404, 416, 500, 502, 503, 504] {
            let pair = Pair::new(SMALL, script(move |_, _| status(code))).await;
            let outcome = pair.pull(&pair.daemon(version)).await.unwrap();
            assert_eq!(route(&outcome), [(0, None), (1, None)], "{code} in {version:?}");
        }
    }
}

#[tokio::test]
async fn a_mirror_that_refuses_or_closes_before_its_headers_moves_on() {
    for version in Version::ALL {
        for part in [Part::Close, Part::Reset, Part::Gone] {
            let pair = Pair::new(SMALL, script(move |_, _| vec![part.clone()])).await;
            let outcome = pair.pull(&pair.daemon(version)).await.unwrap();
            assert_eq!(route(&outcome), [(0, None), (1, None)]);
        }
    }
}

#[tokio::test]
async fn the_mirror_gets_ns_and_the_registry_does_not() {
    for version in Version::ALL {
        let pair = Pair::new(SMALL, script(|_, _| status(404))).await;
        pair.pull(&pair.daemon(version)).await.unwrap();
        let name = pair.registry.address.to_string().replace(':', "%3A");
        let path = format!("/v2/library/model/blobs/{}", pair.blob.digest);
        assert_eq!(pair.mirror.asked()[0].target, format!("{path}?ns={name}"));
        assert_eq!(pair.registry.asked()[0].target, path);
    }
}

#[tokio::test]
async fn encodings_are_offered_from_2_1_on_and_another_than_identity_is_no_answer() {
    for version in Version::ALL {
        let gzip = head(200, 10, &[("Content-Encoding", "gzip")]);
        let pair = Pair::new(SMALL, script(move |_, _| vec![Part::Head(gzip.clone()), Part::Close])).await;
        let outcome = pair.pull(&pair.daemon(version)).await.unwrap();
        assert_eq!(route(&outcome), [(0, None), (1, None)]);
        let offered = pair.mirror.asked()[0].header("accept-encoding").is_some();
        assert_eq!(offered, version != Version::V1_6);
    }
}

#[tokio::test]
async fn a_silent_mirror_is_given_up_from_2_3_on_only() {
    assert_eq!(Version::ALL.map(Version::header_timeout), [None, None, Some(Duration::from_secs(30))]);
    let short = Duration::from_secs(1);
    let pair = Pair::new(SMALL, script(|_, _| vec![Part::Freeze])).await;
    let started = Instant::now();
    let daemon = Containerd::with_all(Version::V2_3, pair.hosts(), 0, SLOTS, Some(short));
    let outcome = pair.pull(&daemon).await.unwrap();
    assert_eq!(route(&outcome), [(0, None), (1, None)]);
    assert!(started.elapsed() >= short);
    for version in [Version::V1_6, Version::V2_1] {
        let waited = tokio::time::timeout(2 * short, pair.pull(&pair.daemon(version))).await;
        assert!(waited.is_err(), "{version:?} waits");
    }
}

#[tokio::test]
async fn a_tag_is_resolved_by_head_at_the_mirror_and_then_at_the_registry() {
    for version in Version::ALL {
        let pair = Pair::with(
            SMALL,
            |_| script(|_, _| status(404))(&crate::blob::Blob::new(SMALL)),
            |blob| {
                script(|blob, _| vec![Part::Head(head(200, 7, &[("Docker-Content-Digest", &blob.digest)]))])(
                    blob,
                )
            },
        )
        .await;
        let (resolved, outcome) = pair.daemon(version).resolve("latest").await.unwrap();
        assert_eq!((resolved.digest, resolved.size, resolved.host), (pair.blob.digest.clone(), 7, 1));
        assert!(outcome.attempts.iter().all(|attempt| attempt.method == "HEAD"));
        assert!(pair.mirror.asked()[0].target.starts_with("/v2/library/model/manifests/latest?ns="));
    }
}

#[tokio::test]
async fn a_digest_is_resolved_under_manifests_and_then_under_blobs() {
    let only_blobs = script(
        |blob, asked| {
            if asked.target.contains("/blobs/") { honest(blob, asked) } else { status(404) }
        },
    );
    for version in Version::ALL {
        let pair = Pair::new(SMALL, &only_blobs).await;
        let pair = Pair {
            registry: crate::scripted::Scripted::start("127.0.0.1", only_blobs(&pair.blob)).await,
            ..pair
        };
        let (resolved, outcome) = pair.daemon(version).resolve(&pair.blob.digest).await.unwrap();
        assert_eq!((resolved.size, resolved.host), (SMALL, 0));
        let hosts: Vec<usize> = outcome.attempts.iter().map(|attempt| attempt.host).collect();
        assert_eq!(hosts, [0, 1, 0], "manifests at both, then blobs at the first");
    }
}

#[tokio::test]
async fn a_head_without_digest_is_followed_by_a_get_and_a_405_by_a_get_too() {
    let manifest = "{\"schemaVersion\":2}";
    let answer = move |code: u16| {
        script(move |_, asked| match asked.method.as_str() {
            "HEAD" => vec![Part::Head(head(code, 0, &[]))],
            _ => vec![Part::Head(head(200, manifest.len() as u64, &[])), Part::Body(manifest.into())],
        })
    };
    for (version, code) in Version::ALL.into_iter().flat_map(|version| [(version, 200), (version, 405)]) {
        let pair = Pair::new(SMALL, answer(code)).await;
        let (resolved, outcome) = pair.daemon(version).resolve("latest").await.unwrap();
        assert_eq!(resolved.digest, piccolo::oci::Digest::of(manifest.as_bytes()).to_string());
        let methods: Vec<&str> = outcome.attempts.iter().map(|attempt| attempt.method).collect();
        // The GET in place of a refused HEAD has no digest either, so that there is another one.
        assert_eq!(methods, if code == 200 { vec!["HEAD", "GET"] } else { vec!["HEAD", "GET", "GET"] });
    }
}
