//! The registry as containerd sees it behind us: hosts.toml, proxies, registries that are half down, slow
//! or something else. Stub servers on loopback show each site.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;

use crate::agent::testing::*;
use crate::limits::{ORIGIN_PROBE_FRESH, RESOLVE_TIMEOUT_DEFAULT};
use crate::oci::Digest;
use crate::proxies::Proxies;

/// A name that no resolver knows (RFC 2606).
const REGISTRY: &str = "registry.invalid";
const REPOSITORY: &str = "library/test";
/// Twice what a remembered answer holds for a tag that is asked for again.
const A_WHILE: Duration = Duration::from_millis(2 * ORIGIN_PROBE_FRESH.as_millis() as u64);

const MANIFEST: &str = "200 OK\r\nContent-Type: application/vnd.oci.image.manifest.v1+json";
const UNAVAILABLE: &str = "503 Service Unavailable";

/// An HTTP server whose answers can be changed while it runs.
struct Stub {
    address: SocketAddr,
    state: Arc<Mutex<StubState>>,
    _tasks: TaskTracker,
}

#[derive(Default)]
struct StubState {
    /// Status line and headers, by the first part of a request line that fits; the longest one counts.
    answers: HashMap<String, (String, String)>,
    /// All request heads.
    requests: Vec<String>,
    pause: Duration,
}

impl Stub {
    async fn start(status: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, tasks) = (Arc::<Mutex<StubState>>::default(), TaskTracker::new());
        let (of_tasks, connections) = (Arc::clone(&state), tasks.clone());
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let state = Arc::clone(&of_tasks);
                connections.spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                        if !head[0].is_ascii_uppercase() {
                            return Ok(()); // TLS
                        }
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    let (answer, pause) = StubState::answer(&state, head);
                    tokio::time::sleep(pause).await;
                    stream.write_all(answer.as_bytes()).await?;
                    stream.shutdown().await
                });
            }
        });
        let stub = Self { address, state, _tasks: tasks };
        stub.answers("", status, "");
        stub
    }

    fn answers(&self, request: &str, status: &str, body: &str) {
        let answer = (status.to_owned(), body.to_owned());
        self.state.lock().unwrap().answers.insert(request.to_owned(), answer);
    }

    fn pauses(&self, pause: Duration) {
        self.state.lock().unwrap().pause = pause;
    }

    fn requests(&self) -> Vec<String> {
        self.state.lock().unwrap().requests.clone()
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl StubState {
    fn answer(state: &Mutex<Self>, head: String) -> (String, Duration) {
        let mut state = state.lock().unwrap();
        let fitting = state.answers.iter().filter(|(part, _)| head.contains(part.as_str()));
        let (status, body) = fitting.max_by_key(|(part, _)| part.len()).unwrap().1.clone();
        let answer =
            format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        state.requests.push(head);
        (answer, state.pause)
    }
}

/// A site: containerd's folder, a node with an image of its own under the tag, and a neighbour with a newer
/// one.
struct Site {
    certs: tempfile::TempDir,
    registry: String,
    environment: Option<Proxies>,
    holder: Node,
    own: Vec<u8>,
}

impl Site {
    async fn of(registry: &str) -> Self {
        let holder = Node::start().await;
        let digest = holder.store.add(manifest("neighbour"));
        holder.store.tag(&format!("{registry}/{REPOSITORY}:v1"), &digest);
        let certs = tempfile::tempdir().unwrap();
        Self { certs, registry: registry.to_owned(), environment: None, holder, own: manifest("own") }
    }

    /// `hosts.toml` of a registry whose name leads nowhere, with these hosts behind us.
    async fn behind_us(hosts: &[&str], server: Option<&str>) -> Self {
        let site = Self::of(REGISTRY).await;
        site.hosts_toml(REGISTRY, hosts, server);
        site
    }

    fn hosts_toml(&self, folder: &str, hosts: &[&str], server: Option<&str>) {
        let folder = self.certs.path().join(folder);
        std::fs::create_dir_all(&folder).unwrap();
        let server = server.map_or_else(String::new, |server| format!("server = \"{server}\"\n"));
        let hosts: String = hosts.iter().map(|host| format!("[host.\"{host}\"]\n")).collect();
        std::fs::write(folder.join("hosts.toml"), server + &hosts).unwrap();
    }

    fn record(&self, proxies: &Proxies) {
        std::fs::write(Proxies::path(self.certs.path()), proxies.render()).unwrap();
    }

    async fn node(&self) -> Node {
        let wish = Wish {
            certs_dirs: vec![PathBuf::from(self.certs.path())],
            environment: self.environment.clone(),
            ..Wish::default()
        };
        let node = Node::wish(wish).await;
        let name = format!("{}/{REPOSITORY}:v1", self.registry);
        node.servers.hold(&name, &[self.holder.peer]);
        let own = node.store.add(self.own.clone());
        node.store.tag(&name, &own);
        node
    }

    fn tag(&self) -> String {
        manifest_target("v1", &self.registry)
    }

    /// The answer to the tag, which comes within the resolve timeout.
    async fn status(&self, node: &Node) -> u16 {
        let start = Instant::now();
        let got = get(node.mirror, &self.tag()).await;
        assert!(start.elapsed() < RESOLVE_TIMEOUT_DEFAULT + Duration::from_secs(3), "{:?}", start.elapsed());
        got.status
    }

    async fn becomes(&self, node: &Node, status: u16) {
        let poll = async {
            while self.status(node).await != status {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(tokio::time::timeout(SOON, poll).await.is_ok(), "the tag never gets {status}");
    }

    /// As pods with `Always` do: the tag is asked for again and again.
    async fn stays(&self, node: &Node, status: u16, what: &str) {
        let end = Instant::now() + A_WHILE;
        while Instant::now() < end {
            assert_eq!(self.status(node).await, status, "{what}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

fn via(proxy: &str) -> Proxies {
    Proxies { http_proxy: Some(proxy.to_owned()), https_proxy: Some(proxy.to_owned()), no_proxy: None }
}

/// A URL of the stub that Go and we would ask a proxy for: of loopback addresses that is never so.
fn beyond_loopback(stub: &Stub) -> String {
    format!("http://0.0.0.0:{}", stub.address.port())
}

/// I6: at 9f888af the agent knew only the registry's name, and served its own old tag for ever.
#[tokio::test]
async fn a_mirror_behind_us_says_what_a_tag_is_though_the_registrys_name_leads_nowhere() {
    for said in [MANIFEST, "401 Unauthorized", "403 Forbidden", "404 Not Found"] {
        let harbor = Stub::start(said).await;
        let site = Site::behind_us(&[&format!("{}/hub", harbor.url())], None).await;
        let node = site.node().await;
        assert_eq!(site.status(&node).await, 404, "{said}: containerd is to ask Harbor");
        let asked = harbor.requests();
        let expected = format!("HEAD /hub/v2/{REPOSITORY}/manifests/v1?ns={REGISTRY} HTTP/1.1");
        assert!(asked[0].starts_with(&expected), "{asked:?}");
        assert!(node.notices.texts().is_empty(), "{:?}", node.notices.texts());
    }
}

/// containerd has a folder, and so hosts, for each spelling of a name.
#[tokio::test]
async fn what_is_found_of_one_spelling_of_a_registry_says_nothing_of_the_hosts_behind_another() {
    let harbor = Stub::start("403 Forbidden").await;
    let site = Site::behind_us(&[&harbor.url()], None).await;
    let other = format!("{REGISTRY}:443");
    site.hosts_toml(&format!("{REGISTRY}_443_"), &[], Some(&format!("http://{}", nobody().await)));
    let node = site.node().await;
    let name = format!("{other}/{REPOSITORY}:v1");
    node.servers.hold(&name, &[site.holder.peer]);
    site.holder.store.tag(&name, &Digest::of(&manifest("neighbour")));
    assert_eq!(get(node.mirror, &manifest_target("v1", &other)).await.status, 200, "its host is gone");
    assert_eq!(site.status(&node).await, 404, "Harbor refuses it");
}

#[tokio::test]
async fn nodes_answer_while_no_host_behind_us_can() {
    let down = Stub::start(UNAVAILABLE).await;
    let dead = format!("http://{}", nobody().await);
    for hosts in [vec![dead.as_str()], vec![&dead, &down.url()], vec![&down.url(), &dead]] {
        let site = Site::behind_us(&hosts, Some(&dead)).await;
        let node = site.node().await;
        assert_eq!(site.status(&node).await, 200, "{hosts:?}");
        until("it stands in /readyz", || node.notices.texts().iter().any(|text| text.contains(REGISTRY)))
            .await;
    }
    // The next host has the word.
    let up = Stub::start("404 Not Found").await;
    let site = Site::behind_us(&[&dead, &down.url()], Some(&up.url())).await;
    assert_eq!(site.status(&site.node().await).await, 404);
}

#[tokio::test]
async fn a_changed_file_holds_for_the_next_probe() {
    let harbor = Stub::start("404 Not Found").await;
    let dead = format!("http://{}", nobody().await);
    let site = Site::behind_us(&[], Some(&harbor.url())).await;
    let node = site.node().await;
    assert_eq!(site.status(&node).await, 404);
    site.hosts_toml(REGISTRY, &[], Some(&dead));
    site.becomes(&node, 200).await;
}

#[tokio::test]
async fn a_registry_that_only_a_recorded_proxy_reaches_is_asked_through_it() {
    let proxy = Stub::start("404 Not Found\r\nDocker-Distribution-Api-Version: registry/2.0").await;
    let site = Site::behind_us(&[], Some("http://registry.invalid:5000")).await;
    site.record(&via(&proxy.url()));
    let node = site.node().await;
    assert_eq!(site.status(&node).await, 404, "containerd reaches it");
    assert!(
        proxy.requests()[0].starts_with("HEAD http://registry.invalid:5000/v2/"),
        "{:?}",
        proxy.requests()
    );
}

#[tokio::test]
async fn a_dead_proxy_of_the_agent_does_not_hide_a_registry_that_containerd_asks_directly() {
    let registry = Stub::start("404 Not Found").await;
    let dead = nobody().await.to_string();
    for is_recorded in [true, false] {
        let mut site = Site::behind_us(&[], Some(&beyond_loopback(&registry))).await;
        site.environment = Some(via(&dead));
        if is_recorded {
            site.record(&Proxies::default());
        }
        assert_eq!(site.status(&site.node().await).await, 404, "recorded: {is_recorded}");
    }
    // Air-gapped, with a proxy in the environment that is dead as well: nodes answer.
    let mut site = Site::behind_us(&[], Some("http://registry.invalid")).await;
    site.environment = Some(via(&dead));
    assert_eq!(site.status(&site.node().await).await, 200);
}

#[tokio::test]
async fn an_error_of_a_proxy_counts_only_when_containerd_asks_again_without_having_fetched_anything() {
    let proxy = Stub::start(UNAVAILABLE).await;
    let site = Site::behind_us(&[], Some("http://registry.invalid")).await;
    site.record(&via(&proxy.url()));
    let node = site.node().await;
    assert_eq!(site.status(&node).await, 404);
    site.becomes(&node, 200).await;

    let node = site.node().await;
    let digest = manifest_target(Digest::of(&site.own), REGISTRY);
    let end = Instant::now() + A_WHILE;
    while Instant::now() < end {
        assert_eq!(site.status(&node).await, 404, "its registry answers containerd");
        assert_eq!(get(node.mirror, &digest).await.status, 200);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// At 9f888af `/v2/` answered, so ten neighbours had the image and none served its tag.
#[tokio::test]
async fn a_registry_without_manifests_or_tokens_is_half_down_and_nodes_answer_its_tags() {
    let manifests = "/manifests/";
    for status in [UNAVAILABLE, "500 Internal Server Error", "429 Too Many Requests"] {
        let registry = Stub::start("200 OK").await;
        registry.answers(manifests, status, "");
        let site = Site::behind_us(&[], Some(&registry.url())).await;
        assert_eq!(site.status(&site.node().await).await, 200, "manifests: {status}");
    }
    for (token, with_token, expected) in [
        ((UNAVAILABLE, ""), MANIFEST, 200),
        (("429 Too Many Requests", ""), MANIFEST, 200),
        (("200 OK", "{\"token\":\"t0ken\"}"), UNAVAILABLE, 200),
        (("200 OK", "{\"token\":\"t0ken\"}"), MANIFEST, 404),
        (("200 OK", "{\"token\":\"t0ken\"}"), "401 Unauthorized", 404),
        (("200 OK", "{\"token\":\"t0ken\"}"), "404 Not Found", 404),
        (("401 Unauthorized", ""), UNAVAILABLE, 404),
        (("403 Forbidden", ""), UNAVAILABLE, 404),
    ] {
        let registry = Stub::start("200 OK").await;
        let realm = format!("{}/token", registry.url());
        let challenge =
            format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\",service=\"s\"");
        registry.answers(manifests, &challenge, "");
        registry.answers("GET /token?service=s&scope=repository%3Alibrary%2Ftest%3Apull", token.0, token.1);
        registry.answers("authorization: Bearer t0ken", with_token, "");
        let site = Site::behind_us(&[], Some(&registry.url())).await;
        let status = site.status(&site.node().await).await;
        assert_eq!(status, expected, "{token:?} and then {with_token}: {:?}", registry.requests());
    }
    // The token service is somewhere else, and gone.
    let registry = Stub::start("200 OK").await;
    let realm = format!("http://{}/token", nobody().await);
    registry.answers(
        manifests,
        &format!("401 Unauthorized\r\nWWW-Authenticate: Bearer realm=\"{realm}\""),
        "",
    );
    let site = Site::behind_us(&[], Some(&registry.url())).await;
    assert_eq!(site.status(&site.node().await).await, 200);
}

#[tokio::test]
async fn a_registry_that_dies_after_a_probe_leaves_a_tag_that_is_asked_for_again_to_nodes() {
    for dead in [UNAVAILABLE, "429 Too Many Requests"] {
        let registry = Stub::start("404 Not Found").await;
        let site = Site::behind_us(&[], Some(&registry.url())).await;
        let node = site.node().await;
        assert_eq!(site.status(&node).await, 404);
        registry.answers("/manifests/", dead, "");
        let start = Instant::now();
        site.becomes(&node, 200).await;
        assert!(start.elapsed() < Duration::from_secs(8), "not 10 s: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_tag_that_is_merely_asked_for_again_stays_with_a_registry_that_answers() {
    let registry = Stub::start(MANIFEST).await;
    let site = Site::behind_us(&[], Some(&registry.url())).await;
    let node = site.node().await;
    let start = Instant::now();
    site.stays(&node, 404, "the registry answers").await;
    // At both ends one more.
    let most = (start.elapsed().as_secs_f64() / ORIGIN_PROBE_FRESH.as_secs_f64()) as usize + 2;
    assert!(registry.requests().len() <= most, "one probe a second at most: {}", registry.requests().len());
}

/// Seen at 9f888af: stale tags, and a deleted one, served by nodes.
#[tokio::test]
async fn a_registry_that_takes_over_a_second_for_each_answer_is_slow_and_not_gone() {
    let registry = Stub::start("404 Not Found").await;
    registry.pauses(Duration::from_millis(1_300));
    let site = Site::behind_us(&[], Some(&registry.url())).await;
    let node = site.node().await;
    assert_eq!(site.status(&node).await, 404);
    until("the late answer stands in /readyz", || {
        node.notices.texts().iter().any(|text| text.contains("takes over 1 s"))
    })
    .await;
    assert_eq!(site.status(&node).await, 404);
    assert_eq!(registry.requests().len(), 1, "the late answer is remembered");
    site.stays(&node, 404, "it is slow, not gone").await;
}

/// k3s 10439: an answer on port 80 of the name kept the tags of an air-gapped site from its nodes.
#[tokio::test]
async fn what_is_no_registry_on_the_port_of_the_name_is_not_the_origin() {
    for page in [
        "302 Found\r\nLocation: http://portal.invalid/login",
        "200 OK\r\nContent-Type: text/html",
        "200 OK",
        "204 No Content",
        "404 Not Found\r\nContent-Type: text/html",
        "511 Network Authentication Required",
    ] {
        let portal = Stub::start(page).await;
        let site = Site::of(&portal.address.to_string()).await;
        assert_eq!(site.status(&site.node().await).await, 200, "{page}");
    }
    for registry in ["404 Not Found\r\nDocker-Distribution-Api-Version: registry/2.0", MANIFEST] {
        let stub = Stub::start(registry).await;
        let site = Site::of(&stub.address.to_string()).await;
        assert_eq!(site.status(&site.node().await).await, 404, "{registry}");
    }
}

#[tokio::test]
async fn a_redirect_to_another_registry_is_followed_and_credentials_are_not_taken_along() {
    let other = Stub::start("404 Not Found").await;
    let location = format!("307 Temporary Redirect\r\nLocation: {}/v2/moved/manifests/v1", other.url());
    let registry = Stub::start(&location).await;
    let site = Site::behind_us(&[], Some(&registry.url())).await;
    assert_eq!(site.status(&site.node().await).await, 404);
    assert!(other.requests()[0].starts_with("HEAD /v2/moved/manifests/v1 "), "{:?}", other.requests());
}

/// At 9f888af any `ns` of a local client made the agent connect there.
#[tokio::test]
async fn a_made_up_registry_is_not_connected_to() {
    let victim = Stub::start("200 OK").await;
    let site = Site::of(REGISTRY).await;
    let node = site.node().await;
    let made_up = manifest_target("v1", &victim.address.to_string());
    // `_default` covers every name, and so names none.
    for folder in ["other.example", "_default"] {
        site.hosts_toml(folder, &[], None);
        assert_eq!(get(node.mirror, &made_up).await.status, 404);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(victim.requests().is_empty(), "{:?}", victim.requests());

    // A folder of its own names it.
    site.hosts_toml(&victim.address.to_string(), &[], Some(&victim.url()));
    assert_eq!(get(node.mirror, &made_up).await.status, 404);
    assert_eq!(victim.requests().len(), 1);
}
