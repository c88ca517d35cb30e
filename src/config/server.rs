//! Settings of `piccolo server`.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Fallback, Layers, Setting};
use crate::identity::TlsMode;
use crate::value::Parsed;
use crate::{limits, server, value};

/// Settings of `piccolo server`, in the order of its help.
pub const SERVER: &[Setting] = &[
    Setting::new("data-dir", "DIR", "Folder of the index and the raft log; made if it is missing"),
    Setting::new("listen", "ADDRESS", "Address of the discovery API, /metrics, /livez and /readyz")
        .or(Fallback::Text("[::]:7789")),
    Setting::new(
        "raft-listen",
        "ADDRESS",
        "Address of raft, for the other servers [default: 127.0.0.1:7790 for a cluster of one; with --cluster \
         all addresses, with the port of this server's entry]",
    ),
    Setting::new(
        "advertise",
        "HOST",
        "Host under which other servers and clients reach this API [default: the host of this server's \
         entry in --cluster]",
    ),
    Setting::new(
        "cluster",
        "HOST:PORT,…",
        "Raft addresses of all servers, including this one; the same text on each of them; not given for a \
         cluster of one",
    ),
    Setting::new(
        "join",
        "HOST:PORT",
        "The raft address of any member of a running cluster: a server without data waits to be admitted to \
         it (piccolo members add)",
    ),
    CLUSTER_SECRET,
    Setting::new(
        "tls",
        "MODE",
        "TLS between servers: require; accept, which also takes and makes connections in the clear, on the way \
         from or to off; off [default: require with --cluster-secret, otherwise off]",
    ),
    Setting::switch(
        "insecure",
        "Allow raft in the clear, and operators' calls, on other addresses than loopback: anyone who reaches \
         them can change the cluster",
    ),
    Setting::new("lease-default", "TIME", "Lease of clients that send none, like the Go pi")
        .or(Fallback::Duration(limits::LEASE_DEFAULT)),
    Setting::new(
        "forget-after",
        "TIME",
        "How long the index keeps the keys of a vanished node, for its return",
    )
    .or(Fallback::Duration(limits::FORGET_AFTER_DEFAULT)),
    Setting::new(
        "found-after",
        "TIME",
        "Time that a server without data, --join, or others in --cluster listens before it founds a cluster: \
         if it has lost its disk, the members of its cluster contact it",
    )
    .or(Fallback::Duration(server::FOUND_AFTER)),
    DISK_FREE_MIN,
];

/// `--cluster-secret`, which `piccolo up` passes to its servers.
pub const CLUSTER_SECRET: Setting = Setting::new(
    "cluster-secret",
    "FILE",
    "The file of piccolo cluster-secret create, the same on all servers: with it they speak TLS, and only with \
     each other",
);

/// `--disk-free-min`, which `piccolo up` passes to its servers.
pub const DISK_FREE_MIN: Setting = Setting::new(
    "disk-free-min",
    "BYTES",
    "With less free space in --data-dir the server writes nothing more: another one leads, or writes are \
     refused; 0: no minimum [default: 5 % of the disk, 1GiB to 8GiB, at most a quarter of the disk]",
);

const LEASE_LEAST: Duration = Duration::from_secs(limits::LEASE_SECONDS_MIN as u64);
const LEASE_MOST: Duration = Duration::from_secs(limits::LEASE_SECONDS_MAX as u64);

fn tls_mode(given: &str) -> Parsed<TlsMode> {
    match given {
        "off" => Ok(TlsMode::Off),
        "accept" => Ok(TlsMode::Accept),
        "require" => Ok(TlsMode::Require),
        _ => Err("off, accept or require".to_owned()),
    }
}

/// Reads the settings of `piccolo server`.
pub fn server(layers: &mut Layers) -> Option<server::Config> {
    let data_dir = layers.required("data-dir", value::path);
    let listen = layers.required("listen", value::listen_address);
    let raft_listen = layers.optional("raft-listen", value::listen_address);
    let advertise = layers.optional("advertise", value::host);
    let cluster = layers.optional("cluster", |text| value::list(text, value::host_port)).unwrap_or_default();
    let join = layers.optional("join", value::host_port);
    let cluster_secret = layers.optional(CLUSTER_SECRET.flag, value::path);
    let mode = layers.optional("tls", tls_mode);
    let insecure = layers.switch("insecure");
    let lease_default =
        layers.required("lease-default", |text| value::duration(text, LEASE_LEAST, LEASE_MOST));
    let (shortest, longest) = limits::FORGET_AFTER;
    let forget_after = layers.required("forget-after", |text| value::duration(text, shortest, longest));
    let found_after =
        layers.required("found-after", |text| value::duration(text, Duration::ZERO, limits::FOUND_AFTER_MAX));
    let disk_free_min = layers.optional(DISK_FREE_MIN.flag, value::bytes);

    let distinct: BTreeSet<&String> = cluster.iter().collect();
    if distinct.len() < cluster.len() {
        layers.problem("cluster", Some(cluster.join(",")), "each server only once");
    }
    let default = if cluster_secret.is_some() { TlsMode::Require } else { TlsMode::Off };
    let tls = mode.unwrap_or(default);
    if tls != TlsMode::Off && cluster_secret.is_none() {
        let given = layers.given("tls");
        layers.problem("tls", given, "off, or one of the others together with --cluster-secret FILE");
    }
    if !cluster.is_empty() && join.is_some() {
        let expected = "not together with --cluster: a server founds a cluster with others, or joins one";
        layers.problem("join", join.clone(), expected);
    }
    Some(server::Config {
        data_dir: data_dir?,
        listen: listen?,
        raft_listen,
        advertise,
        cluster,
        join,
        cluster_secret,
        tls,
        insecure,
        lease_default: lease_default?,
        forget_after: forget_after?,
        found_after: found_after?,
        disk_free_min,
    })
}
