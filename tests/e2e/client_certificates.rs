//! A registry with its own CA that requires client certificates, configured as for Docker in the second
//! folder of `config_path`. After the install the real containerd asks our mirror first, and still reaches
//! the registry.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::process::run;
use crate::harness::{Containerd, Image, PICCOLO, Process, SOON, free_port, within};

/// Makes a CA, and certificates of a server and a client.
fn make_certificates(folder: &Path) {
    let make = |name: &str, extra: &[&str]| {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(folder).args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]);
        openssl.args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", &format!("/CN={name}")]);
        openssl.args(["-keyout", &format!("{name}.key"), "-out", &format!("{name}.crt")]).args(extra);
        run(&mut openssl);
    };
    let by_ca = ["-CA", "ca.crt", "-CAkey", "ca.key", "-addext", "basicConstraints=CA:FALSE", "-addext"];
    make("ca", &[]);
    make("server", &[&by_ca[..], &["subjectAltName=IP:127.0.0.1"]].concat());
    make("client", &[&by_ca[..], &["extendedKeyUsage=clientAuth"]].concat());
}

/// A mirror without content that counts requests.
fn empty_mirror() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // The thread ends with the test's process.
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut head = [0; 4096];
            if stream.read(&mut head).is_ok_and(|read| read > 0) {
                count.fetch_add(1, Ordering::Relaxed);
                let answer = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                stream.write_all(answer.as_bytes()).ok();
            }
        }
    });
    (url, asked)
}

async fn start_registry(folder: &Path) -> (String, Process) {
    let name = format!("127.0.0.1:{}", free_port());
    let at = folder.display();
    let text = format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {at}/registry}}}}\nhttp:\n  addr: '{name}'\n  \
         tls: {{certificate: {at}/server.crt, key: {at}/server.key, clientcas: [{at}/ca.crt]}}\n"
    );
    fs::write(folder.join("registry.yml"), text).unwrap();
    let mut command = Command::new("docker-registry");
    command.arg("serve").arg(folder.join("registry.yml"));
    let process = Process::start(folder, "registry", command);
    within("the registry listens", SOON, || async { TcpStream::connect(&name).ok().map(drop) }).await;
    (name, process)
}

fn push(folder: &Path, registry: &str, seed: u64) -> String {
    let image = Image::make(&folder.join(format!("image-{seed}")), seed, &[20_000]);
    let certificates = folder.join("push");
    fs::create_dir_all(&certificates).unwrap();
    for (from, to) in [("ca.crt", "ca.crt"), ("client.crt", "client.cert"), ("client.key", "client.key")] {
        fs::copy(folder.join(from), certificates.join(to)).unwrap();
    }
    let reference = format!("{registry}/team/app:v{seed}");
    run(Command::new("skopeo")
        .args(["copy", "--quiet", "--preserve-digests", "--dest-cert-dir"])
        .arg(&certificates)
        .arg(format!("oci:{}:latest", image.folder.display()))
        .arg(format!("docker://{reference}")));
    reference
}

fn pull(containerd: &Containerd, hosts: &Path, reference: &str) -> Result<(), String> {
    let hosts = hosts.display().to_string();
    let pull = ["images", "pull", "--snapshotter", "native", "--hosts-dir", &hosts, reference];
    let output = containerd.ctr(&pull).output().unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// The registry's folder in Docker's layout, with the key in its own file or in the certificate's.
fn docker_folder(folder: &Path, registry: &str, key_apart: bool) -> PathBuf {
    let root = folder.join(if key_apart { "docker-apart" } else { "docker" });
    let own = root.join(registry);
    fs::create_dir_all(&own).unwrap();
    fs::copy(folder.join("ca.crt"), own.join("ca.crt")).unwrap();
    let certificate = fs::read_to_string(folder.join("client.crt")).unwrap();
    let key = fs::read_to_string(folder.join("client.key")).unwrap();
    if key_apart {
        fs::write(own.join("client.cert"), certificate).unwrap();
        fs::write(own.join("client.key"), key).unwrap();
    } else {
        fs::write(own.join("client.cert"), certificate + &key).unwrap();
    }
    root
}

#[tokio::test(flavor = "multi_thread")]
async fn containerd_accepts_what_install_writes_about_certificates_and_asks_the_mirror_first() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    make_certificates(folder);
    let (registry, _process) = start_registry(folder).await;
    let (mirror, asked) = empty_mirror();
    let mut containerd = Containerd::prepare(&folder.join("node"));
    containerd.start().await;
    let first = folder.join("containerd");
    fs::create_dir(&first).unwrap();

    for (seed, key_apart) in [(1, false), (2, true)] {
        let reference = push(folder, &registry, seed);
        let second = docker_folder(folder, &registry, key_apart);
        pull(&containerd, &first, &reference).expect_err("the registry wants https and a certificate");

        let before = asked.load(Ordering::Relaxed);
        let roots = format!("{}:{}", first.display(), second.display());
        run(Command::new(PICCOLO)
            .args([
                "mirror",
                "install",
                "--certs-dir",
                &roots,
                "--mirror",
                &mirror,
                "--dial-timeout",
                "200ms",
            ])
            .args(["--registry", &format!("https://{registry}")]));
        assert!(!first.join(&registry).exists(), "containerd would read this folder and not the second one");
        let text = fs::read_to_string(second.join(&registry).join("hosts.toml")).unwrap();
        pull(&containerd, &second, &reference).unwrap_or_else(|error| panic!("{error}\n{text}"));
        assert!(asked.load(Ordering::Relaxed) > before, "containerd ignores this file:\n{text}");

        // Earlier versions wrote this for a certificate without a key file; containerd ignores the whole file
        // for it.
        let pair = r#"[["client.cert", "client.cert"]]"#;
        if text.contains(pair) {
            let before = asked.load(Ordering::Relaxed);
            let wrong = text.replace(pair, r#"[["client.cert"]]"#);
            fs::write(second.join(&registry).join("hosts.toml"), wrong).unwrap();
            let error = pull(&containerd, &second, &reference).expect_err("server and CA are ignored, too");
            assert!(error.contains("failed to decode hosts.toml"), "{error}");
            assert_eq!(
                asked.load(Ordering::Relaxed),
                before,
                "the test sees whether containerd reads the file"
            );
            fs::write(second.join(&registry).join("hosts.toml"), &text).unwrap();
        } else {
            assert!(key_apart, "{text}");
        }

        run(Command::new(PICCOLO).args(["mirror", "remove", "--certs-dir", &roots]));
        assert!(!second.join(&registry).join("hosts.toml").exists());
    }
}
