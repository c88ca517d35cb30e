//! The peer port: what it gives, to whom, and how much of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use crate::agent::content::store::memory::MemoryStore;
use crate::agent::testing::*;
use crate::agent::{RegistryPolicy, TagPolicy};
use crate::limits::MANIFEST_BYTES_MAX;
use crate::oci::Digest;

#[tokio::test]
async fn blobs_are_given_whole_and_in_parts() {
    for (store, length) in [(MemoryStore::new(), 700_000), (MemoryStore::remote(), 700_000)] {
        let bytes = noise(length);
        let digest = store.add(bytes.clone());
        let node = Node::wish(Wish { store, ..Wish::default() }).await;
        let target = blob_target(&digest);
        let got = get(node.peer, &target).await;
        assert!(got.status == 200 && got.is_complete() && got.body == bytes);
        assert_eq!(got.header("docker-content-digest"), Some(digest.as_str()));
        assert_eq!(got.header("accept-ranges"), Some("bytes"));
        for (range, part) in
            [("bytes=0-0", 0..1), ("bytes=300000-", 300_000..length), ("bytes=-5", length - 5..length)]
        {
            let got = get_range(node.peer, &target, range).await;
            assert_eq!((got.status, got.body == bytes[part]), (206, true), "{range}");
        }
        let got = get_range(node.peer, &target, "bytes=700000-").await;
        assert_eq!((got.status, got.header("content-range")), (416, Some("bytes */700000")));
        for ignored in ["bytes=0-1,4-5", "lines=1-2", "bytes=5-1"] {
            assert_eq!(get_range(node.peer, &target, ignored).await.status, 200, "{ignored}");
        }
    }
}

/// The requests of a Go `pi`: it forwards whatever containerd sent.
#[tokio::test]
async fn a_go_pi_is_served() {
    let bytes = noise(100);
    let node = Node::with(&bytes).await;
    let headers = "X-Spegel-Mirrored: true\r\nUser-Agent: containerd/1.7\r\nX-Forwarded-For: 10.0.0.1\r\n\
        Accept-Encoding: zstd, gzip, deflate\r\nAuthorization: Basic eDp5\r\n";
    let got = request(node.peer, "GET", &blob_target(&Digest::of(&bytes)), headers).await;
    assert_eq!((got.status, &got.body, got.header("content-encoding")), (200, &bytes, None));
    assert_eq!(get(node.peer, "/healthz").await.status, 200);
    assert_eq!(get(node.peer, "/v2/").await.status, 200);
}

/// B12: the Go version answered 500.
#[tokio::test]
async fn what_is_not_here_is_404_with_an_oci_body_and_other_methods_are_405() {
    let node = Node::start().await;
    let digest = Digest::of(b"nowhere");
    let got = get(node.peer, &blob_target(&digest)).await;
    assert!(got.status == 404 && got.text().contains("BLOB_UNKNOWN"), "{got:?}");
    let got = get(node.peer, &manifest_target(&digest, "registry.test")).await;
    assert!(got.status == 404 && got.text().contains("MANIFEST_UNKNOWN"), "{got:?}");
    let got = request(node.peer, "DELETE", &blob_target(&digest), "").await;
    assert_eq!((got.status, got.header("allow")), (405, Some("GET, HEAD")));
    for target in ["/", "/etc/passwd", "/v2/../../etc/passwd", "/v2/a/blobs/..%2f..%2fetc%2fpasswd"] {
        assert_eq!(get(node.peer, target).await.status, 404, "{target}");
    }
}

/// An index of this length.
fn index_of(length: usize) -> Vec<u8> {
    let (begin, end) = (br#"{"manifests":[]"#, b"}");
    [begin.to_vec(), vec![b' '; length - begin.len() - end.len()], end.to_vec()].concat()
}

/// Registries take 4 MiB, `ctr image import` takes any length.
#[tokio::test]
async fn a_manifest_larger_than_registries_take_is_given_by_the_peer_port_and_by_the_mirror() {
    let holder = patient().await;
    let asker = patient().await;
    for length in [5_000_000, MANIFEST_BYTES_MAX as usize] {
        let index = index_of(length);
        let digest = holder.store.add(index.clone());
        let target = manifest_target(&digest, "registry.test");
        let got = get(holder.peer, &target).await;
        assert_eq!((got.status, got.body == index), (200, true));
        asker.servers.hold(&digest, &[holder.peer]);
        let got = get(asker.mirror, &target).await;
        assert_eq!((got.status, got.body == index, got.is_complete()), (200, true, true));
    }
}

#[tokio::test]
async fn artifacts_and_manifests_without_layers_are_given_as_manifests() {
    let node = Node::start().await;
    for (json, media_type) in [
        (
            r#"{"mediaType":"application/vnd.oci.artifact.manifest.v1+json","blobs":[]}"#,
            "application/vnd.oci.artifact.manifest.v1+json",
        ),
        (r#"{"schemaVersion":2,"config":{},"layers":null}"#, "application/vnd.oci.image.manifest.v1+json"),
        (r#"{"schemaVersion":2,"config":{},"subject":{}}"#, "application/vnd.oci.image.manifest.v1+json"),
    ] {
        let digest = node.store.add(json.as_bytes());
        let got = get(node.peer, &manifest_target(&digest, "registry.test")).await;
        assert_eq!((got.status, got.header("content-type")), (200, Some(media_type)), "{json}");
    }
}

/// containerd 2.1 and others ask for ranges of whatever they fetch.
#[tokio::test]
async fn a_range_of_an_empty_blob_is_all_of_its_no_bytes() {
    let holder = patient().await;
    let digest = holder.store.add(&b""[..]);
    let asker = patient().await;
    asker.servers.hold(&digest, &[holder.peer]);
    for port in [holder.peer, holder.mirror, asker.mirror] {
        for range in ["bytes=0-", "bytes=0-0", "bytes=-1"] {
            let got = get_range(port, &blob_target(&digest), range).await;
            assert_eq!((got.status, got.header("content-length"), &got.body[..]), (200, Some("0"), &b""[..]));
        }
    }
}

/// B13b: the Go version read any digest whole into memory first.
#[tokio::test]
async fn only_manifests_are_given_as_manifests() {
    let node = Node::start().await;
    let layer = node.store.add(noise(100));
    let large = node.store.add(index_of(MANIFEST_BYTES_MAX as usize + 1));
    let manifest = manifest("a");
    let digest = node.store.add(manifest.clone());
    for (refused, reason) in [(layer, "does not hold it"), (large, "/blobs/ only")] {
        let got = get(node.peer, &manifest_target(&refused, "registry.test")).await;
        assert!(got.text().contains(reason), "{}", got.text());
        assert_eq!(get(node.peer, &manifest_target(&refused, "registry.test")).await.status, 404);
        assert_eq!(request(node.peer, "HEAD", &blob_target(&refused), "").await.status, 200);
    }
    let got = get(node.peer, &manifest_target(&digest, "registry.test")).await;
    assert_eq!((got.status, &got.body), (200, &manifest));
    assert_eq!(got.header("content-type"), Some("application/vnd.oci.image.manifest.v1+json"));
    assert_eq!(get(node.peer, &blob_target(&digest)).await.body, manifest);
}

#[tokio::test]
async fn tags_are_resolved_here_unless_the_policy_says_no() {
    let off = RegistryPolicy { tags: TagPolicy::Off, ..RegistryPolicy::default() };
    let registries = [("off.test".to_owned(), off)].into();
    let node = Node::wish(Wish { registries, ..Wish::default() }).await;
    let digest = node.store.add(manifest("a"));
    for registry in ["registry.test:5000", "off.test"] {
        node.store.tag(&format!("{registry}/library/test:v1"), &digest);
    }
    let got = get(node.peer, &manifest_target("v1", "registry.test:5000")).await;
    assert_eq!((got.status, got.header("docker-content-digest")), (200, Some(digest.as_str())));
    assert_eq!(get(node.peer, &manifest_target("v2", "registry.test:5000")).await.status, 404);
    assert_eq!(get(node.peer, &manifest_target("v1", "off.test")).await.status, 404);
    assert_eq!(get(node.peer, "/v2/library/test/manifests/v1").await.status, 404, "of which registry?");
}

#[tokio::test]
async fn damaged_content_is_not_here() {
    for (store, is_file) in [(MemoryStore::new(), true), (MemoryStore::remote(), false)] {
        let digest = Digest::of(b"what it should be");
        store.add_as(digest.clone(), noise(1_000_000));
        let node = Node::wish(Wish { store, ..Wish::default() }).await;
        let got = get(node.peer, &blob_target(&digest)).await;
        if is_file {
            assert_eq!(got.status, 404);
        } else {
            // Hashed on the way, because it cannot be known to be unchanged.
            assert!(!got.is_complete(), "{} bytes", got.body.len());
        }
    }
}

#[tokio::test]
async fn who_has_it_already_is_told_so() {
    let node = Node::with(b"abc").await;
    let digest = Digest::of(b"abc");
    let same = format!("If-None-Match: \"x\", \"{digest}\"\r\n");
    let got = request(node.peer, "GET", &blob_target(&digest), &same).await;
    assert_eq!((got.status, got.body.len()), (304, 0));
    let other = request(node.peer, "GET", &blob_target(&digest), "If-None-Match: \"x\"\r\n").await;
    assert_eq!(other.status, 200);
    let gone = Digest::of(b"gone");
    let got = request(node.peer, "GET", &blob_target(&gone), &format!("If-None-Match: \"{gone}\"\r\n")).await;
    assert_eq!(got.status, 404);
    let got = request(node.peer, "GET", &manifest_target(&digest, "registry.test"), &same).await;
    assert_eq!(got.status, 404, "a layer is no manifest");
    let manifest = node.store.add(manifest("a"));
    let same = format!("If-None-Match: \"{manifest}\"\r\n");
    let got = request(node.peer, "GET", &manifest_target(&manifest, "registry.test"), &same).await;
    assert_eq!((got.status, got.body.len()), (304, 0));
}

/// B13: in the Go version a HEAD took a slot, and 0 meant none at all.
#[tokio::test]
async fn uploads_over_the_limit_are_503_and_heads_and_manifests_go_on() {
    let store = MemoryStore::new();
    let digest = store.add(noise(30_000_000));
    let manifest = store.add(manifest("a"));
    let node = Node::wish(Wish { store, uploads_max: 1, ..Wish::default() }).await;
    let mut running = TcpStream::connect(node.peer).await.unwrap();
    let request_text = format!("GET {} HTTP/1.1\r\nHost: x\r\n\r\n", blob_target(&digest));
    running.write_all(request_text.as_bytes()).await.unwrap();
    running.read_exact(&mut [0; 1_000]).await.unwrap();

    let got = get(node.peer, &blob_target(&digest)).await;
    assert_eq!((got.status, got.header("retry-after")), (503, Some("1")));
    assert_eq!(request(node.peer, "HEAD", &blob_target(&digest), "").await.status, 200);
    assert_eq!(get(node.peer, &manifest_target(&manifest, "registry.test")).await.status, 200);
    drop(running);
    let freed = async {
        while get_range(node.peer, &blob_target(&digest), "bytes=0-0").await.status != 206 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(SOON, freed).await.is_ok(), "the slot of a client that left is never free");
}

#[tokio::test]
async fn the_rate_is_a_limit_over_all_uploads() {
    let store = MemoryStore::new();
    let digest = store.add(noise(400_000));
    let node = Node::wish(Wish { store, upload_bytes_per_second: 1_000_000, ..Wish::default() }).await;
    let start = Instant::now();
    let target = blob_target(&digest);
    let (first, second) = tokio::join!(get(node.peer, &target), get(node.peer, &target));
    assert!(first.is_complete() && second.is_complete());
    assert!(start.elapsed() >= Duration::from_millis(690), "800 kB at 1 MB/s took {:?}", start.elapsed());
}

/// How much a client gets within `stretch`, once all have had their first bytes.
async fn bytes_within(address: SocketAddr, target: String, all: &Barrier, stretch: Duration) -> usize {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
    let mut buffer = vec![0; 65_536];
    stream.read_exact(&mut buffer[..4_096]).await.unwrap();
    let bytes = AtomicUsize::new(0);
    let reading = async {
        loop {
            bytes.fetch_add(stream.read(&mut buffer).await.unwrap(), Ordering::Relaxed);
        }
    };
    let measured = async {
        all.wait().await;
        let before = bytes.load(Ordering::Relaxed);
        tokio::time::sleep(stretch).await;
        bytes.load(Ordering::Relaxed) - before
    };
    tokio::select! { measured = measured => measured, () = reading => unreachable!("it reads for ever") }
}

#[tokio::test]
async fn the_rate_is_exact_and_fair_over_64_connections() {
    let store = MemoryStore::new();
    let digest = store.add(noise(8_000_000));
    let rate = 64 * 2 * crate::limits::SOURCE_BYTES_PER_SECOND_MIN;
    let node = Node::wish(Wish { store, upload_bytes_per_second: rate, ..Wish::default() }).await;
    let (all, stretch) = (Barrier::new(64), Duration::from_secs(3));
    let each = (0..64).map(|_| bytes_within(node.peer, blob_target(&digest), &all, stretch));
    let shares = futures_util::future::join_all(each).await;
    let total = shares.iter().sum::<usize>() as f64 / stretch.as_secs_f64();
    assert!((total / rate as f64 - 1.0).abs() < 0.1, "{total} B/s at a limit of {rate}");
    let fair = shares.iter().sum::<usize>() as f64 / 64.0;
    assert!(shares.iter().all(|share| (*share as f64 / fair - 1.0).abs() < 0.25), "{shares:?}");
}

/// B13c: in the Go version a limit below its read size was none.
#[tokio::test]
async fn a_low_rate_is_a_limit_too() {
    let store = MemoryStore::new();
    let digest = store.add(noise(1_000_000));
    let node = Node::wish(Wish { store, upload_bytes_per_second: 16 * 1024, ..Wish::default() }).await;
    let (all, stretch) = (Barrier::new(1), Duration::from_secs(2));
    let got = bytes_within(node.peer, blob_target(&digest), &all, stretch).await;
    assert!((28_000..40_000).contains(&got), "{got} bytes in 2 s at 16 KiB/s");
}
