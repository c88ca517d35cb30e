//! nginx in several configurations: Debian's default, and what tuning guides suggest.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};

use crate::client::fetch;
use crate::layout::Layout;
use crate::net::Network;
use crate::process::Process;
use crate::side::Side;

/// One configuration.
pub(crate) struct Variant {
    pub(crate) name: &'static str,
    workers: &'static str,
    /// Directives of the `http` block.
    http: &'static str,
}

/// Directives that all tuned variants share.
macro_rules! tuned {
    ($rest:literal) => {
        concat!(
            "access_log off; keepalive_requests 1000000; \
             open_file_cache max=1024 inactive=600s; open_file_cache_valid 600s; ",
            $rest
        )
    };
}

/// Configurations of nginx as a file server. The first one is the default.
pub(crate) const FILES: &[Variant] = &[
    Variant {
        name: "nginx default",
        workers: "auto",
        // The part of Debian's nginx.conf that concerns sending files.
        http: "sendfile on; tcp_nopush on; types_hash_max_size 2048; access_log access.log; gzip on;",
    },
    Variant { name: "sendfile, tuned", workers: "auto", http: tuned!("sendfile on; tcp_nopush on;") },
    Variant { name: "sendfile, nopush off", workers: "auto", http: tuned!("sendfile on; tcp_nopush off;") },
    Variant {
        name: "sendfile, chunk 256k",
        workers: "auto",
        http: tuned!("sendfile on; tcp_nopush on; sendfile_max_chunk 256k;"),
    },
    Variant {
        name: "sendfile, chunk 0",
        workers: "auto",
        http: tuned!("sendfile on; tcp_nopush on; sendfile_max_chunk 0;"),
    },
    Variant { name: "sendfile, 1 worker", workers: "1", http: tuned!("sendfile on; tcp_nopush on;") },
    Variant {
        name: "sendfile, aio threads",
        workers: "auto",
        http: tuned!("sendfile on; tcp_nopush on; aio threads;"),
    },
    Variant { name: "read, 2×32k", workers: "auto", http: tuned!("sendfile off; output_buffers 2 32k;") },
    Variant { name: "read, 2×128k", workers: "auto", http: tuned!("sendfile off; output_buffers 2 128k;") },
    Variant { name: "read, 1×256k", workers: "auto", http: tuned!("sendfile off; output_buffers 1 256k;") },
    Variant {
        name: "read, 1×256k, 1 worker",
        workers: "1",
        http: tuned!("sendfile off; output_buffers 1 256k;"),
    },
];

/// Configurations of nginx as a relay without hashing. The first one is the default.
pub(crate) const RELAYS: &[Variant] = &[
    Variant { name: "proxy_pass default", workers: "auto", http: "access_log access.log;" },
    Variant {
        name: "proxy_buffering off",
        workers: "auto",
        http: "access_log off; keepalive_requests 1000000; proxy_buffering off;",
    },
    Variant {
        name: "proxy_buffering off, 256k",
        workers: "auto",
        http: "access_log off; keepalive_requests 1000000; proxy_buffering off; proxy_buffer_size 256k; \
               proxy_buffers 4 256k; proxy_busy_buffers_size 256k;",
    },
    Variant {
        name: "buffers 8×256k, no file",
        workers: "auto",
        http: "access_log off; keepalive_requests 1000000; proxy_buffer_size 256k; proxy_buffers 8 256k; \
               proxy_busy_buffers_size 512k; proxy_max_temp_file_size 0;",
    },
];

/// Serves the blobs of `layout`.
pub(crate) fn serve_files(
    folder: &Path,
    network: &Network,
    variant: &Variant,
    layout: &Layout,
) -> Result<Side> {
    let blobs = layout.folder.join("blobs/sha256");
    let location = format!(
        "location ~ ^/v2/.+/blobs/sha256:([0-9a-f]+)$ {{ default_type application/octet-stream; alias {}/$1; }}",
        blobs.display()
    );
    start(folder, network, variant, "", &location)
}

/// Forwards all requests to `source` over kept connections.
pub(crate) fn relay(folder: &Path, network: &Network, variant: &Variant, source: SocketAddr) -> Result<Side> {
    let upstream = format!("upstream source {{ server {source}; keepalive 128; }}");
    let location = "location /v2/ { proxy_pass http://source; proxy_http_version 1.1; \
                    proxy_set_header Connection \"\"; }";
    start(folder, network, variant, &upstream, location)
}

fn start(folder: &Path, network: &Network, variant: &Variant, http: &str, location: &str) -> Result<Side> {
    let address = SocketAddr::new(network.ip, network.free_port()?);
    let folder = folder.join(format!("nginx-{}", address.port()));
    fs::create_dir_all(&folder).context("could not make a folder for nginx")?;
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {kind};\n"))
        .concat();
    let text = format!(
        "user root;\ndaemon off;\npid nginx.pid;\nerror_log stderr;\nworker_processes {};\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n{temporary}{}\n{http}\nserver {{ listen {address}; {location}\n\
         location = /ready {{ return 200 \"yes\"; }} }}\n}}\n",
        variant.workers, variant.http
    );
    fs::write(folder.join("nginx.conf"), text).context("could not write nginx.conf")?;
    let mut command = network.command("nginx");
    command.arg("-p").arg(&folder).args(["-c", "nginx.conf"]);
    let mut process = Process::start(&folder, "nginx", command)?;
    process.wait_until("nginx answers", || {
        network.run(|| Ok(fetch(address, "/ready"))).ok().flatten().filter(|(status, _)| *status == 200)
    })?;
    Ok(Side {
        name: variant.name.to_owned(),
        what: format!("worker_processes {}; {}", variant.workers, variant.http),
        address,
        pid: process.pid(),
        _running: vec![process],
    })
}
