//! Sites where containerd reaches the registry differently from what its name shows: through another mirror
//! after ours in hosts.toml, or through a proxy. The registry decides about its tags there, too (I6).

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::Duration;

use piccolo::proxies::Proxies;

use crate::harness::{Agent, Containerd, Image, Registry, SOON, Servers, find, http, text_of, within};

/// A name that no resolver knows (RFC 2606).
const REGISTRY: &str = "registry.invalid";

/// A containerd with CRI, which reports its hosts to the agent, and an agent without that setting.
struct Site {
    containerd: Containerd,
    agent: Agent,
    proxy: Option<String>,
}

impl Site {
    async fn start(folder: &Path, servers: &Servers) -> Self {
        let mut containerd = Containerd::prepare(folder);
        let file = folder.join("containerd.toml");
        let config = fs::read_to_string(&file).unwrap().replace("'io.containerd.grpc.v1.cri', ", "");
        let cri = format!(
            "[plugins.'io.containerd.grpc.v1.cri']\n  stream_server_port = '0'\n\
             [plugins.'io.containerd.grpc.v1.cri'.containerd]\n  snapshotter = 'native'\n\
             [plugins.'io.containerd.grpc.v1.cri'.cni]\n  conf_dir = '{0}/cni'\n\
             [plugins.'io.containerd.grpc.v1.cri'.registry]\n  config_path = '{0}/certs.d'\n",
            folder.display()
        );
        fs::write(&file, config + &cri).unwrap();
        fs::create_dir_all(folder.join("certs.d").join(REGISTRY)).unwrap();
        containerd.start().await;
        let agent = Agent::start(folder, &servers.urls(), &["--containerd-sock", &containerd.socket()]);
        agent.ready().await;
        Self { containerd, agent, proxy: None }
    }

    /// Writes keys of the root table, our mirror, and then the tables after it.
    fn hosts_toml(&self, root: &str, behind: &str) {
        let text = format!("{root}\n[host.\"{}\"]\n{behind}\n", self.agent.mirror_url());
        let folder = self.containerd.folder.join("certs.d").join(REGISTRY);
        fs::write(folder.join("hosts.toml"), text).unwrap();
    }

    async fn pull(&self) -> Output {
        let certs = self.containerd.folder.join("certs.d").display().to_string();
        let name = format!("{REGISTRY}/app:v1");
        let mut ctr =
            self.containerd.ctr(&["images", "pull", "--snapshotter", "native", "--hosts-dir", &certs, &name]);
        // `ctr` pulls by itself: its proxy stands in for containerd's.
        if let Some(proxy) = &self.proxy {
            ctr.env("HTTP_PROXY", proxy);
        }
        let pull = tokio::process::Command::from(ctr).output();
        tokio::time::timeout(Duration::from_secs(120), pull).await.expect("a pull ends").unwrap()
    }

    /// Pulls the tag and checks that it is `image`.
    async fn pulls(&self, image: &Image) {
        let output = self.pull().await;
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{error}\n{}", self.agent.process.log());
        let listed = self.containerd.ctr(&["images", "ls"]).output().unwrap().stdout;
        let listed = String::from_utf8_lossy(&listed).into_owned();
        assert!(listed.contains(image.manifest.as_str()), "{listed}\n{}", self.agent.process.log());
    }

    /// Status of the agent's answer for the tag, which it answers itself only if the registry is down.
    async fn mirror_status(&self) -> u16 {
        let url = format!("{}/v2/app/manifests/v1?ns={REGISTRY}", self.agent.mirror_url());
        http().get(url).send().await.unwrap().status().as_u16()
    }

    async fn tag_is_findable(&self, servers: &Servers) {
        let (client, name) = (servers.client(1), format!("{REGISTRY}/app:v1"));
        within("the tag is findable", SOON, || async {
            find(&client, &name).await.contains(&self.agent.holder()).then_some(())
        })
        .await;
    }
}

/// At 9f888af the node's old tag was answered forever, and Harbor was not asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_behind_us_has_the_word_though_the_name_of_its_registry_leads_nowhere() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let harbor_folder = folder.path().join("harbor");
    fs::create_dir_all(&harbor_folder).unwrap();
    let mut harbor = Registry::start(&harbor_folder).await;
    let old = Image::make(&folder.path().join("old"), 61, &[40_000]);
    let new = Image::make(&folder.path().join("new"), 62, &[50_000]);
    let site = Site::start(&folder.path().join("node"), &servers).await;
    site.hosts_toml("", &format!("[host.\"{}\"]\ncapabilities = [\"pull\", \"resolve\"]", harbor.url()));

    harbor.push(&old, "app:v1");
    site.pulls(&old).await;
    site.tag_is_findable(&servers).await;
    harbor.push(&new, "app:v1");
    site.pulls(&new).await;
    assert_eq!(site.mirror_status().await, 404, "containerd is to ask Harbor");

    harbor.stop();
    within("the node answers while Harbor is away", SOON, || async {
        (site.mirror_status().await == 200).then_some(())
    })
    .await;
    let ready = format!("http://127.0.0.1:{}/readyz", site.agent.metrics);
    let reasons = text_of(&ready).await;
    assert!(reasons.contains(&format!("registry {REGISTRY} ({}/v2", harbor.url())), "{reasons}");
    assert!(site.pull().await.status.success(), "{}", site.agent.process.log());
}

/// At 9f888af a proxy that only containerd's unit sets made the registry look down forever.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_only_containerds_proxy_reaches_has_the_word_about_its_tags() {
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::up(folder.path()).await;
    let old = Image::make(&folder.path().join("old"), 63, &[40_000]);
    let new = Image::make(&folder.path().join("new"), 64, &[50_000]);
    let mut site = Site::start(&folder.path().join("node"), &servers).await;
    site.hosts_toml(&format!("server = \"http://{REGISTRY}:5000\""), "");
    let registry_folder = folder.path().join("registry");
    fs::create_dir_all(&registry_folder).unwrap();
    // A registry answers requests that name another host, like a forwarding proxy.
    let registry = Registry::start(&registry_folder).await;
    let proxies = Proxies { http_proxy: Some(registry.url()), ..Proxies::default() };
    let certs = site.containerd.folder.join("certs.d");
    fs::write(Proxies::path(&certs), proxies.render()).unwrap();
    site.proxy = Some(registry.url());

    registry.push(&old, "app:v1");
    site.pulls(&old).await;
    site.tag_is_findable(&servers).await;
    registry.push(&new, "app:v1");
    site.pulls(&new).await;
    assert_eq!(site.mirror_status().await, 404, "containerd is to ask its registry");
}
