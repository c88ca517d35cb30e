//! Settings of `piccolo agent`.

use std::net::SocketAddr;

use piccolo_raft::model::{GROUP_BYTES_MAX, ZONE_BYTES_MAX};

use super::{Fallback, Layers, Setting};
use crate::agent::{self, StoreConfig};
use crate::{limits, value};

/// Settings of `piccolo agent`, in the order of its help.
pub const AGENT: &[Setting] = &[
    Setting::new(
        "servers",
        "URL,…",
        "Discovery servers; the agent starts with a random one and continues in this order",
    )
    .alias(&["PICCOLO_ADDRESS"]),
    Setting::new("group", "NAME", "Only nodes of the same group see each other")
        .or(Fallback::Text("default"))
        .alias(&["PI_GROUP"]),
    Setting::new("mirror-listen", "ADDRESS", "Address of the mirror, which containerd asks; keep it on loopback")
        .or(Fallback::Text("127.0.0.1:7780"))
        .alias(&["REGISTRY_ADDR"]),
    Setting::new(
        "peer-listen",
        "ADDRESS",
        "Address of the blob server, where other nodes fetch; [::] is all addresses, including IPv4",
    )
    .or(Fallback::Text("[::]:7781"))
    .alias(&["PI_ADDR"]),
    Setting::new(
        "advertise",
        "IP:PORT",
        "Address that is advertised to other nodes [default: the local address of the connection to the first \
         server, with the port of --peer-listen; followed when it changes]",
    ),
    Setting::new("advertise-interface", "NAME", "Advertise an address of this network interface"),
    Setting::new("advertise-cidr", "CIDR,…", "Advertise an address in one of these ranges"),
    Setting::new("metrics-listen", "ADDRESS", "Address of /metrics, /livez and /readyz")
        .or(Fallback::Text("127.0.0.1:7782"))
        .alias(&["METRICS_ADDR"]),
    Setting::new("containerd-sock", "PATH", "containerd's socket; the agent waits until it exists")
        .or(Fallback::Text("/run/containerd/containerd.sock"))
        .alias(&["CONTAINERD_SOCK"]),
    Setting::new("containerd-namespace", "NAME", "containerd namespace whose images are shared; others stay private")
        .or(Fallback::Text("k8s.io"))
        .alias(&["CONTAINERD_NAMESPACE"]),
    Setting::new(
        "containerd-content-path",
        "DIR",
        "containerd's content folder [default: the one that containerd reports]",
    )
    .alias(&["CONTAINERD_CONTENT_PATH"]),
    Setting::new("layout", "DIR", "Share the images of this OCI image layout instead of a containerd's"),
    Setting::new("zone", "NAME", "Zone of this node: peers of the same zone are asked first"),
    Setting::new("resolve-timeout", "TIME", "Longest time that containerd waits for the mirror before it asks the registry")
        .or(Fallback::Duration(limits::RESOLVE_TIMEOUT_DEFAULT))
        .alias(&["MIRROR_RESOLVE_TIMEOUT"]),
    Setting::new("uploads-max", "COUNT", "Concurrent uploads to other nodes; 0: no limit")
        .or(Fallback::Number(limits::UPLOADS_MAX_DEFAULT))
        .alias(&["MAX_UPLOAD_CONNECTIONS"]),
    Setting::new("upload-bytes-per-second", "BYTES", "All uploads together; 0: no limit")
        .or(Fallback::Number(0))
        .alias(&["PI_MAX_UPLOAD_BLOB_BYTES_PER_SECOND"]),
    Setting::new(
        "resolve-latest-tag",
        "true|false",
        "Share tags called latest; false adds a filter to all registries",
    )
    .or(Fallback::Text("true"))
    .alias(&["RESOLVE_LATEST_TAG"]),
    Setting::new("heartbeat-interval", "TIME", "Time between heartbeats; the lease is three times as long")
        .or(Fallback::Duration(limits::HEARTBEAT_INTERVAL_DEFAULT)),
    Setting::new("state-dir", "DIR", "Folder for blobs that are being verified and for records of verified ones; on a disk, made if it is missing")
        .or(Fallback::Text("/var/lib/piccolo/agent")),
    Setting::new(
        "certs-dir",
        "DIR[:DIR]",
        "containerd's config_path, from which the agent learns which hosts containerd asks after the mirror [default: \
         what containerd reports over CRI, else /etc/containerd/certs.d:/etc/docker/certs.d, or the folder of k3s \
         or RKE2, if they exist]",
    ),
];

/// Variables of the Go `pi` that have no counterpart here.
pub(crate) const WITHOUT_COUNTERPART: &[&str] =
    &["REGISTRIES", "PI_REFRESH_MINUTES", "MIRROR_RESOLVE_RETRIES"];

const CONTAINERD_ONLY: [&str; 3] = ["containerd-sock", "containerd-namespace", "containerd-content-path"];
/// The kernel's limit of the length of an interface name, bytes.
const INTERFACE_BYTES_MAX: usize = 15;

/// Reads the settings of `piccolo agent`.
pub fn agent(layers: &mut Layers) -> Option<agent::Config> {
    let servers = layers.required("servers", |text| value::list(text, value::server_url));
    agent_of(layers, servers)
}

/// Reads all settings but `--servers`.
pub fn agent_of(layers: &mut Layers, servers: Option<Vec<String>>) -> Option<agent::Config> {
    let group = layers.required("group", |text| value::name(text, GROUP_BYTES_MAX, false));
    let mirror_listen = layers.required("mirror-listen", value::listen_address);
    let peer_listen = layers.required("peer-listen", value::listen_address);
    let advertise = layers.optional("advertise", value::told_address);
    let advertise_among = selection(layers, advertise);
    let metrics_listen = layers.required("metrics-listen", value::listen_address);
    let store = store(layers);
    let zone = layers.optional("zone", |text| value::name(text, ZONE_BYTES_MAX, true)).unwrap_or_default();
    let (shortest, longest) = limits::RESOLVE_TIMEOUT;
    let resolve_timeout = layers.required("resolve-timeout", |text| value::duration(text, shortest, longest));
    let uploads_max = layers.required("uploads-max", |text| value::number(text, 0, limits::UPLOADS_MAX_MOST));
    let upload_bytes_per_second = layers.required("upload-bytes-per-second", value::bytes_per_second);
    let (shortest, longest) = (limits::HEARTBEAT_INTERVAL_MIN, limits::HEARTBEAT_INTERVAL_MAX);
    let heartbeat_interval =
        layers.required("heartbeat-interval", |text| value::duration(text, shortest, longest));
    let state_dir = layers.required("state-dir", value::path);
    let certs_dirs = layers.optional("certs-dir", value::folders);
    let mut registries = layers.registries();
    if layers.required("resolve-latest-tag", value::switch) == Some(false) {
        Layers::filter_latest(&mut registries);
    }
    Some(agent::Config {
        servers: servers?,
        group: group?,
        mirror_listen: mirror_listen?,
        peer_listen: peer_listen?,
        advertise,
        advertise_among,
        metrics_listen: metrics_listen?,
        store: store?,
        zone,
        resolve_timeout: resolve_timeout?,
        uploads_max: uploads_max?,
        upload_bytes_per_second: upload_bytes_per_second?,
        heartbeat_interval: heartbeat_interval?,
        state_dir: state_dir?,
        supervisor: std::process::id(),
        certs_dirs,
        registries,
    })
}

/// Which of the node's addresses qualify to be advertised.
fn selection(layers: &mut Layers, advertise: Option<SocketAddr>) -> agent::Selection {
    let interface =
        layers.optional("advertise-interface", |text| value::name(text, INTERFACE_BYTES_MAX, false));
    let cidr =
        |text: &str| text.parse().map_err(|_| "a range of addresses like 10.0.0.0/8 or fd00::/8".to_owned());
    let cidrs = layers.optional("advertise-cidr", |text| value::list(text, cidr)).unwrap_or_default();
    for flag in ["advertise-interface", "advertise-cidr"] {
        if advertise.is_some() && layers.given(flag).is_some() {
            layers.problem(flag, None, "cannot be used together with --advertise");
        }
    }
    agent::Selection { interface, cidrs }
}

fn store(layers: &mut Layers) -> Option<StoreConfig> {
    let socket = layers.required("containerd-sock", value::path);
    let namespace = layers.required("containerd-namespace", value::text);
    let content_path = layers.optional("containerd-content-path", value::path);
    let Some(folder) = layers.optional("layout", value::path) else {
        return Some(StoreConfig::Containerd { socket: socket?, namespace: namespace?, content_path });
    };
    for flag in CONTAINERD_ONLY {
        if layers.given(flag).is_some() {
            layers.problem(flag, None, "cannot be used together with --layout");
        }
    }
    Some(StoreConfig::Layout { folder })
}
