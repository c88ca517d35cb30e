//! The pull half of the OCI distribution specification (v1.1), row by row, with the real binary: the mirror
//! (with its own content, and with content of a peer) and the blob server.
//!
//! Each row names its source: a section of the specification, or of RFC 9110 (HTTP). "ours" is a rule of this
//! product where the specification leaves one open. The statuses of the mirror are such a rule
//! (docs/fetch.md): never one that containerd retries or acts on. All rows of a port use one connection, one
//! after the other, so that a wrong length in one breaks the next.

#![allow(clippy::unwrap_used, reason = "clippy.toml exempts #[test] functions, not the helpers beside them")]

#[path = "support/site.rs"]
mod site;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use piccolo::oci::{Algorithm, Digest, Hasher};
use serde_json::{Value, json};

use site::{Agent, Answer, Layout, Server, Setup, Wire, head, noise};

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCTETS: &str = "application/octet-stream";
/// Length of the layer for ranges.
const LENGTH: usize = 10_000;
/// "Error Codes" of the specification, and two of the older registry API.
const CODES: [&str; 16] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "SIZE_INVALID",
    "UNAUTHORIZED",
    "DENIED",
    "UNSUPPORTED",
    "TOOMANYREQUESTS",
    "RANGE_INVALID",
    "UNKNOWN",
];

/// The listener that answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Port {
    /// A mirror whose node holds the content.
    Own,
    /// A mirror that gets the content from a peer.
    Relayed,
    /// The blob server.
    Peer,
}

/// Expected answer.
#[derive(Clone, Debug)]
enum Expect {
    /// 200 with these bytes.
    Whole(&'static str, Vec<u8>),
    /// 206 with bytes `first..end` of the layer.
    Part(usize, usize),
    /// An error with this code.
    Error(u16, &'static str),
    /// 416 with this length.
    Unsatisfiable(usize),
    /// 304 without a body.
    NotModified,
    /// 200 without a body.
    Alive,
}

use Expect::{Alive, Error, NotModified, Part, Unsatisfiable, Whole};

struct Row {
    /// Source of the rule.
    rests_on: &'static str,
    method: &'static str,
    target: String,
    headers: Vec<(&'static str, String)>,
    mirror: Expect,
    peer: Expect,
}

/// A GET that all ports answer in the same way.
fn row(rests_on: &'static str, target: impl Into<String>, expect: Expect) -> Row {
    let (mirror, peer) = (expect.clone(), expect);
    Row { rests_on, method: "GET", target: target.into(), headers: Vec::new(), mirror, peer }
}

impl Row {
    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self
    }

    /// Sets a different expectation for the blob server.
    fn peer(mut self, expect: Expect) -> Self {
        self.peer = expect;
        self
    }
}

/// Content of the layout.
struct Images {
    layout: Layout,
    layer: (Digest, Vec<u8>),
    sha512: (Digest, Vec<u8>),
    empty: Digest,
    /// Manifests by media type.
    manifests: BTreeMap<&'static str, (Digest, Vec<u8>)>,
}

impl Images {
    fn make() -> Self {
        let layout = Layout::empty();
        let layer = noise(1, LENGTH);
        let layer = (layout.put(&layer), layer);
        let mut hasher = Hasher::new(Algorithm::Sha512);
        let bytes = noise(2, 3_000);
        hasher.update(&bytes);
        let sha512 = (hasher.finish(), bytes);
        layout.put_as(&sha512.0, &sha512.1);
        let empty = layout.put(b"");
        let config = layout.put(b"{}");
        let layers = json!([{"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": LENGTH,
            "digest": layer.0.to_string()}]);
        let mut manifests = BTreeMap::new();
        let mut put = |media_type, json: Value| {
            let bytes = json.to_string().into_bytes();
            manifests.insert(media_type, (layout.put(&bytes), bytes));
        };
        for media_type in [OCI_MANIFEST, DOCKER_MANIFEST] {
            let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2,
                "digest": config.to_string()});
            put(
                media_type,
                json!({"schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers}),
            );
        }
        put(OCI_INDEX, json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}));
        let (manifest, bytes) = &manifests[OCI_MANIFEST];
        let named = json!({"mediaType": OCI_MANIFEST, "digest": manifest.to_string(), "size": bytes.len(),
            "annotations": {"org.opencontainers.image.ref.name": "registry.test/library/app:v1"}});
        layout.index(&json!({"schemaVersion": 2, "manifests": [named]}).to_string());
        Self { layout, layer, sha512, empty, manifests }
    }

    fn keys(&self) -> Vec<String> {
        let manifests = self.manifests.values().map(|(digest, _)| digest);
        let digests = manifests.chain([&self.layer.0, &self.sha512.0, &self.empty]);
        digests.map(Digest::to_string).chain(["registry.test/library/app:v1".to_owned()]).collect()
    }

    fn manifest(&self, media_type: &'static str) -> (String, Expect) {
        let (digest, bytes) = &self.manifests[media_type];
        (digest.to_string(), Whole(media_type, bytes.clone()))
    }
}

fn blob(digest: &Digest) -> String {
    format!("/v2/library/app/blobs/{digest}")
}

fn support() -> Vec<Row> {
    let section = "Determining Support (end-1)";
    vec![row(section, "/v2/", Alive), row("ours: clients that leave the slash out", "/v2", Alive)]
}

fn manifests(images: &Images) -> Vec<Row> {
    let section = "Pulling manifests (end-3)";
    let mut rows = Vec::new();
    for media_type in [OCI_MANIFEST, DOCKER_MANIFEST, OCI_INDEX] {
        let (digest, whole) = images.manifest(media_type);
        rows.push(row(section, format!("/v2/library/app/manifests/{digest}"), whole));
    }
    let (digest, whole) = images.manifest(OCI_MANIFEST);
    let by_digest = format!("/v2/library/app/manifests/{digest}");
    let unknown = || Error(404, "MANIFEST_UNKNOWN");
    let absent = Digest::of(b"nobody has this");
    rows.extend([
        row(section, "/v2/library/app/manifests/v1?ns=registry.test", whole.clone()),
        row(
            "ours: registry in the path (podman, CRI-O)",
            "/v2/registry.test/library/app/manifests/v1",
            whole.clone(),
        ),
        row(
            "ours: any repository, a digest says it all",
            format!("/v2/other/manifests/{digest}"),
            whole.clone(),
        ),
        row("RFC 9110 12.5.1: what is there is sent if nothing acceptable is", &by_digest, whole.clone())
            .with("Accept", DOCKER_MANIFEST),
        row(section, &by_digest, whole.clone()).with("Accept", format!("{OCI_INDEX}, {OCI_MANIFEST}, */*")),
        row("ours: identity encoding only", &by_digest, whole.clone()).with("Accept-Encoding", "gzip, br"),
        row("RFC 9110 14.2: a server may ignore Range", &by_digest, whole.clone()).with("Range", "bytes=0-9"),
        row(section, "/v2/library/app/manifests/absent?ns=registry.test", unknown()),
        row(section, "/v2/library/none/manifests/v1?ns=registry.test", unknown()),
        row(section, "/v2/library/app/manifests/v1?ns=other.test", unknown()),
        row("ours: a tag without its registry is none", "/v2/library/app/manifests/v1", unknown()),
        row(section, format!("/v2/library/app/manifests/{absent}"), unknown()),
        row(
            "Pulling manifests: a layer is no manifest",
            format!("/v2/library/app/manifests/{}", images.layer.0),
            unknown(),
        ),
    ]);
    let etag = format!("\"{digest}\"");
    for value in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
        let known = row("RFC 9110 13.1.2", &by_digest, whole.clone()).with("If-None-Match", value);
        // The mirror's client is containerd, which does not use 304.
        rows.push(known.peer(NotModified));
    }
    rows.push(row("RFC 9110 13.1.2", &by_digest, whole).with("If-None-Match", "\"other\""));
    rows
}

fn blobs(images: &Images) -> Vec<Row> {
    let section = "Pulling blobs (end-2)";
    let (digest, bytes) = &images.layer;
    let whole = Whole(OCTETS, bytes.clone());
    let (manifest, _) = images.manifest(OCI_MANIFEST);
    let (_, manifest_bytes) = &images.manifests[OCI_MANIFEST];
    let unknown = || Error(404, "BLOB_UNKNOWN");
    vec![
        row(section, blob(digest), whole.clone()),
        row(
            "Pulling blobs: any registered algorithm",
            blob(&images.sha512.0),
            Whole(OCTETS, images.sha512.1.clone()),
        ),
        row(section, blob(&images.empty), Whole(OCTETS, Vec::new())),
        row(section, format!("/v2/library/app/blobs/{manifest}"), Whole(OCTETS, manifest_bytes.clone())),
        row(section, format!("/v2/app/blobs/{digest}?ns=registry.test:5000"), whole.clone()),
        row(
            "Pulling manifests: names may have many parts",
            format!("/v2/a/b-c/d__e/f.g/blobs/{digest}"),
            whole.clone(),
        ),
        row("ours: identity encoding only", blob(digest), whole.clone()).with("Accept-Encoding", "gzip"),
        row("RFC 9110 13.1.2", blob(digest), whole.clone())
            .with("If-None-Match", format!("\"{digest}\""))
            .peer(NotModified),
        row("RFC 9110 13.1.5: the same content", blob(digest), Part(0, 10))
            .with("Range", "bytes=0-9")
            .with("If-Range", format!("\"{digest}\"")),
        row("RFC 9110 13.1.5: other content", blob(digest), whole.clone())
            .with("Range", "bytes=0-9")
            .with("If-Range", "\"other\""),
        row(section, blob(&Digest::of(b"nobody has this")), unknown()),
        row(section, blob(&format!("sha512:{}", "0".repeat(128)).parse().unwrap()), unknown()),
    ]
}

fn ranges(images: &Images) -> Vec<Row> {
    let layer = blob(&images.layer.0);
    let whole = || Whole(OCTETS, images.layer.1.clone());
    let cases: [(&str, &str, Expect); 22] = [
        ("14.1.2: first", "bytes=0-0", Part(0, 1)),
        ("14.1.2: first", "bytes=0-99", Part(0, 100)),
        ("14.1.2: middle", "bytes=5000-5999", Part(5_000, 6_000)),
        ("14.1.2: last byte", "bytes=9999-9999", Part(LENGTH - 1, LENGTH)),
        ("14.1.2: suffix", "bytes=-100", Part(LENGTH - 100, LENGTH)),
        ("14.1.2: a suffix longer than the whole", "bytes=-99999", Part(0, LENGTH)),
        ("14.1.2: open", "bytes=9990-", Part(9_990, LENGTH)),
        ("14.1.2: open from the start", "bytes=0-", Part(0, LENGTH)),
        ("14.1.2: past the end", "bytes=9999-20000", Part(LENGTH - 1, LENGTH)),
        ("14.1.2: the largest number", "bytes=1-18446744073709551615", Part(1, LENGTH)),
        ("14.1: units in any case", "Bytes=1-2", Part(1, 3)),
        ("15.5.17", "bytes=10000-", Unsatisfiable(LENGTH)),
        ("15.5.17", "bytes=10000-10001", Unsatisfiable(LENGTH)),
        ("14.1.2: a suffix of nothing", "bytes=-0", Unsatisfiable(LENGTH)),
        ("14.2: several, may be ignored", "bytes=0-1,3-4", whole()),
        ("14.1.1: last before first", "bytes=9-5", whole()),
        ("14.1.1: no digits", "bytes=a-b", whole()),
        ("14.1.1: a sign", "bytes=+1-2", whole()),
        ("14.1.1: too large", "bytes=0-99999999999999999999999", whole()),
        ("14.1.1: nothing", "bytes=", whole()),
        ("14.1.1: only a dash", "bytes=-", whole()),
        ("14.2: an unknown unit", "items=0-1", whole()),
    ];
    let mut rows: Vec<Row> = cases
        .into_iter()
        .map(|(section, value, expect)| row(section, &layer, expect).with("Range", value))
        .collect();
    let (start, end) = (1_000, 1_100);
    rows.push(
        row("14.1.2, other algorithm", blob(&images.sha512.0), whole_part(&images.sha512, start, end))
            .with("Range", format!("bytes={start}-{}", end - 1)),
    );
    for value in ["bytes=0-", "bytes=-1", "bytes=0-0"] {
        let empty = row("14.2: of an empty one, ignored", blob(&images.empty), Whole(OCTETS, Vec::new()));
        rows.push(empty.with("Range", value));
    }
    rows
}

/// Expects a part of content other than the layer; [`check`] compares the bytes.
fn whole_part((_, bytes): &(Digest, Vec<u8>), start: usize, end: usize) -> Expect {
    Whole("part", bytes[start..end].to_vec())
}

fn methods(images: &Images) -> Vec<Row> {
    let section = "ours: read only; 405 with Allow (RFC 9110 15.5.6) between nodes, 404 for containerd";
    let layer = blob(&images.layer.0);
    let targets = [layer.as_str(), "/v2/", "/v2/library/app/blobs/uploads/", "/v2/library/app/manifests/v2"];
    let of = |target: &str| {
        ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"].map(|method| {
            let refused = row(section, target, Error(404, "UNSUPPORTED")).method(method);
            refused.peer(Error(405, "UNSUPPORTED"))
        })
    };
    targets.iter().flat_map(|target| of(target)).collect()
}

/// Endpoints that a mirror does not have, invalid names, and paths that try to leave the root.
fn refused(images: &Images) -> Vec<Row> {
    let digest = images.layer.0.to_string();
    let hex = images.layer.0.hex();
    let endpoints = ["/", "/v1/", "/v3/", "/v2/_catalog", "/v2/library/app/tags/list", "/v2x/", "/metrics"];
    let referrers = format!("/v2/library/app/referrers/{digest}");
    let names = [
        format!("/v2/Library/app/blobs/{digest}"),
        format!("/v2/library/-app/blobs/{digest}"),
        format!("/v2/library//app/blobs/{digest}"),
        format!("/v2//blobs/{digest}"),
        format!("/v2/blobs/{digest}"),
        format!("/v2/{}/blobs/{digest}", "a".repeat(256)),
        format!("/v2/app/blobs/{digest}?ns=a/b"),
        format!("/v2/app/blobs/{digest}?ns=..%2F.."),
        format!("/v2/app/blobs/{digest}?ns=a.test&ns=b.test"),
        format!("/v2/app/manifests/{}?ns=registry.test", "t".repeat(129)),
        format!("/v2/app/blobs/{digest}/"),
        "/v2/app/manifests/-v1?ns=registry.test".to_owned(),
        "/v2/app/manifests/?ns=registry.test".to_owned(),
    ];
    let digests = [
        format!("sha256:{}", hex.to_uppercase()),
        format!("sha256:{}", &hex[1..]),
        format!("sha256:{hex}0"),
        format!("SHA256:{hex}"),
        format!("md5:{}", "0".repeat(32)),
        format!("sha512:{hex}"),
        hex.to_owned(),
        String::new(),
        "sha256:".to_owned(),
        format!("sha256%3A{hex}"),
    ];
    let escapes = [
        "/v2/../../../etc/passwd",
        "/v2/library/app/blobs/../../../../../../etc/passwd",
        "/v2/library/app/blobs/sha256:../../../../../../etc/passwd",
        "/v2/library/app/blobs/sha256:..%2F..%2F..%2Fetc%2Fpasswd",
        "/v2/library/app/blobs/..%2f..%2findex.json",
        "/v2/library/app/blobs/%2e%2e/%2e%2e/index.json",
        "/v2/library/app/blobs/sha256:..\\..\\index.json",
        "/v2/library/app/blobs/sha256:%00",
        "/v2/library/app/manifests/..",
        "/v2/library/app/manifests/../../index.json",
        "/v2/../index.json/blobs/sha256:",
        "/etc/passwd",
    ];
    let refused = |section, code| move |target: String| row(section, target, Error(404, code));
    let named = |section| refused(section, "");
    let endpoints = endpoints.iter().map(|target| (*target).to_owned()).chain([referrers]);
    let digests = digests.iter().map(|digest| format!("/v2/library/app/blobs/{digest}"));
    let climbing = images.escapes();
    let escapes = escapes.iter().map(|target| (*target).to_owned()).chain(climbing);
    endpoints
        .map(named("Endpoints: what is not there is 404"))
        .chain(names.into_iter().map(named("Pulling manifests: grammar of <name> and <reference>")))
        .chain(digests.map(refused("Error Codes: DIGEST_INVALID", "DIGEST_INVALID")))
        .chain(escapes.map(named("I7: never a path that was not a well-formed digest")))
        .collect()
}

impl Images {
    /// Paths to existing files outside of the blobs.
    fn escapes(&self) -> Vec<String> {
        let up = |levels: usize| "../".repeat(levels);
        let own = self.layout.path().join("index.json").display().to_string();
        vec![
            format!("/v2/library/app/blobs/{}index.json", up(2)),
            format!("/v2/library/app/blobs/sha256:{}index.json", up(2)),
            format!("/v2/library/app/blobs/{}{own}", up(12)),
            format!("/v2/library/app/blobs/{own}"),
        ]
    }
}

/// Headers that are equal in every answer.
fn lasting(answer: &Answer) -> BTreeMap<String, String> {
    let mut headers = answer.headers.clone();
    headers.remove("date");
    // Only for a tag: the time since it was set.
    headers.remove("piccolo-tag-age-ms");
    headers
}

fn check(images: &Images, row: &Row, expect: &Expect, answer: &Answer) -> Result<(), String> {
    let header = |name: &str, value: &str| match answer.header(name) {
        Some(found) if found == value => Ok(()),
        found => Err(format!("{name} is {found:?}, not {value:?}")),
    };
    let status = |expected: u16| match answer.status {
        found if found == expected => Ok(()),
        found => Err(format!("status is {found}, not {expected}")),
    };
    let length = |bytes: usize| header("content-length", &bytes.to_string());
    let same = |bytes: &[u8]| if answer.body == bytes { Ok(()) } else { Err("other bytes".to_owned()) };
    if answer.headers.contains_key("content-encoding") {
        return Err("encoded".to_owned());
    }
    match expect {
        Alive => {
            status(200)?;
            header("docker-distribution-api-version", "registry/2.0")
        }
        Whole("part", bytes) => {
            status(206)?;
            length(bytes.len())?;
            same(bytes)
        }
        Whole(media_type, bytes) => {
            status(200)?;
            header("content-type", media_type)?;
            length(bytes.len())?;
            let named = row.target.split(['/', '?']).find_map(|part| part.parse::<Digest>().ok());
            let digest = named.unwrap_or_else(|| Digest::of(bytes)).to_string();
            header("docker-content-digest", &digest)?;
            header("etag", &format!("\"{digest}\""))?;
            header("accept-ranges", "bytes")?;
            same(bytes)
        }
        Part(start, end) => {
            status(206)?;
            header("content-range", &format!("bytes {start}-{}/{LENGTH}", end - 1))?;
            length(end - start)?;
            header("docker-content-digest", images.layer.0.as_str())?;
            same(&images.layer.1[*start..*end])
        }
        Unsatisfiable(total) => {
            error(answer, 416, "RANGE_INVALID")?;
            header("content-range", &format!("bytes */{total}"))
        }
        NotModified => {
            status(304)?;
            same(b"")
        }
        Error(expected, code) => {
            error(answer, *expected, code)?;
            if *expected == 405 { header("allow", "GET, HEAD") } else { Ok(()) }
        }
    }
}

/// "Error Codes": the form of every 4xx. An empty code: any of the known ones.
fn error(answer: &Answer, status: u16, code: &str) -> Result<(), String> {
    if answer.status != status {
        return Err(format!("status is {}, not {status}", answer.status));
    }
    if answer.header("content-type") != Some("application/json") {
        return Err("an error that is not JSON".to_owned());
    }
    let json: Value = serde_json::from_slice(&answer.body).map_err(|error| error.to_string())?;
    let errors = json["errors"].as_array().ok_or("no list of errors")?;
    let codes: Vec<_> = errors.iter().filter_map(|error| error["code"].as_str()).collect();
    let message = errors.iter().all(|error| error["message"].is_string());
    let right = match codes[..] {
        [only] => message && CODES.contains(&only) && (code.is_empty() || only == code),
        _ => false,
    };
    if right { Ok(()) } else { Err(format!("errors are {json}, not {code}")) }
}

/// A HEAD gets the status and the headers of its GET, without a body (RFC 9110 9.3.2; "Checking if content
/// exists in the registry").
async fn check_head(
    wire: &mut Wire,
    row: &Row,
    headers: &[(&str, &str)],
    answer: &Answer,
) -> Result<(), String> {
    wire.send(&head("HEAD", &row.target, headers)).await.map_err(|error| error.to_string())?;
    let of_head = wire.answer(true).await.map_err(|error| format!("HEAD: {error}"))?;
    if of_head.status != answer.status {
        return Err(format!("HEAD is {}, GET {}", of_head.status, answer.status));
    }
    let (mut got, expected) = (lasting(&of_head), lasting(answer));
    // RFC 9110 8.6: in a 304 it is the length of the 200, or absent, as hyper sends it for a GET.
    if answer.status == 304 && got.remove("content-length").is_some_and(|length| length == "0") {
        return Err("HEAD: a 304 of content without bytes".to_owned());
    }
    if got == expected { Ok(()) } else { Err(format!("HEAD has {got:?}, GET {expected:?}")) }
}

async fn run(images: &Images, port: Port, address: SocketAddr, rows: &[Row]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut wire = Wire::connect(address).await.unwrap();
    for row in rows {
        let expect = if port == Port::Peer { &row.peer } else { &row.mirror };
        let headers: Vec<(&str, &str)> =
            row.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let checked = async {
            wire.send(&head(row.method, &row.target, &headers)).await.map_err(|error| error.to_string())?;
            let answer = wire.answer(false).await.map_err(|error| error.to_string())?;
            check(images, row, expect, &answer)?;
            // Range is defined for GET only (RFC 9110 14.2).
            if row.method == "GET" && row.headers.iter().all(|(name, _)| *name != "Range") {
                check_head(&mut wire, row, &headers, &answer).await?;
            }
            Ok::<_, String>(())
        };
        if let Err(reason) = checked.await {
            let Row { rests_on, method, target, headers, .. } = row;
            wrong.push(format!("{port:?}: {method} {target} {headers:?} ({rests_on}): {reason}"));
            wire = Wire::connect(address).await.unwrap();
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread")]
async fn every_row_holds_on_every_port() {
    let images = Images::make();
    let server = Server::start().await;
    // Nothing listens at this origin, so that holders answer tags.
    let config = "[registry._default]\norigin = \"http://127.0.0.1:1\"\n";
    let setup = || Setup { servers: vec![server.url.clone()], config, ..Setup::default() };
    let holder = Agent::start(Setup { layout: Some(images.layout.path()), ..setup() }).await;
    let asker = Agent::start(setup()).await;
    holder.synced().await;
    for key in images.keys() {
        server.found(&key).await;
    }
    let groups: [(&str, Vec<Row>); 6] = [
        ("support", support()),
        ("manifests", manifests(&images)),
        ("blobs", blobs(&images)),
        ("ranges", ranges(&images)),
        ("methods", methods(&images)),
        ("refused", refused(&images)),
    ];
    let mut wrong = Vec::new();
    for (name, rows) in &groups {
        let on_ports = [(Port::Own, holder.mirror), (Port::Relayed, asker.mirror), (Port::Peer, holder.peer)];
        for (port, address) in on_ports {
            let failed = run(&images, port, address, rows).await;
            println!("{name} on {port:?}: {} of {} rows", rows.len() - failed.len(), rows.len());
            wrong.extend(failed);
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}
