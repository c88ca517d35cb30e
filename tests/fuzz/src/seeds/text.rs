//! Seeds of texts: names, paths, manifests, settings.

use super::{Seed, golden, nasty_json, seed};

const DIGEST: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

pub(super) fn all() -> Vec<Seed> {
    [names(), paths(), manifests(), wire(), settings(), hosts_toml()].concat()
}

fn numbered<'a>(target: &'static str, name: &str, texts: impl IntoIterator<Item = &'a str>) -> Vec<Seed> {
    let texts = texts.into_iter().enumerate();
    texts.map(|(number, text)| seed(target, format!("{name}-{number}"), text)).collect()
}

fn names() -> Vec<Seed> {
    let sha512 = format!("sha512:{}", "0123456789abcdef".repeat(8));
    let long = format!("registry.example:5000/{}:1", "a/".repeat(120) + "b");
    let pinned = format!("docker.io/library/alpine:3@{DIGEST}");
    numbered(
        "names",
        "name",
        [
            DIGEST,
            &sha512,
            &long,
            &pinned,
            "sha256:",
            "sha512:00",
            "docker.io/library/alpine:3.20",
            "registry.local:5000/team/app:latest",
            "[2001:db8::1]:5000/a:1",
            "localhost/a__b/c--d:_x",
            "bytes=0-",
            "bytes=5-9",
            "bytes=-3",
            "bytes=0-18446744073709551615",
            "bytes 0-9/10",
            "bytes 0-18446744073709551615/18446744073709551615",
            "bytes */10",
            "10.0.0.1:7781",
            "[fe80::1%3]:1",
            "[::ffff:10.0.0.1]:1",
            "0.0.0.0:1",
            "169.254.0.1:1",
            "00000000000000000000000000000001",
            "+ffffffffffffffffffffffffffffff",
            "ffffffffffffffff",
            "a:0",
            "\u{1b}[2J",
        ],
    )
}

fn paths() -> Vec<Seed> {
    let blob = format!("/v2/library/alpine/blobs/{DIGEST}?ns=docker.io");
    let podman = format!("/v2/quay.io:443/a/b/blobs/{DIGEST}");
    let climbing = "/v2/".to_owned() + &"../".repeat(2_000) + "manifests/x";
    numbered(
        "path",
        "path",
        [
            "/v2/",
            "/v2",
            &blob,
            &podman,
            &climbing,
            "/v2/library/alpine/manifests/3.20?ns=registry.local%3A5000",
            "/v2/a/manifests/x?ns=%5B%3A%3A1%5D%3A5000",
            "/v2/a%2fb/manifests/x",
            "/v2/blobs/manifests/manifests/v2?ns=a.b",
            "/v2/a/blobs/sha256:%2e%2e%2fpasswd",
            "/v2/a/manifests/x?ns=a.b&ns=c.d",
            "/v2/a/manifests/x?ns=%c3%28",
            "/v2/localhost/manifests/x",
            "/v2/a/manifests/x?ns=%",
            "/v2/a/manifests/x?ns=%\u{e4}1",
            "/api?key=a%2Fb%3A1+c&group=g&count=-9223372036854775808&request_host=[fd00&bad=%zz%2&utf=%ff",
        ],
    )
}

fn manifests() -> Vec<Seed> {
    let descriptor =
        |kind: &str| format!(r#"{{"mediaType":"application/vnd.{kind}","digest":"{DIGEST}","size":7}}"#);
    let (config, layer) = (descriptor("oci.image.config.v1+json"), descriptor("oci.image.layer.v1.tar+gzip"));
    let manifest = descriptor("oci.image.manifest.v1+json");
    let name = r#""annotations":{"org.opencontainers.image.ref.name":"docker.io/library/alpine:3.20"}"#;
    let texts = [
        (
            "oci-manifest",
            format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[{layer},{layer}]}}"#
            ),
        ),
        ("oci-index", format!(r#"{{"schemaVersion":2,"manifests":[{manifest}]}}"#)),
        (
            "named-index",
            format!(r#"{{"schemaVersion":2,"manifests":[{{"digest":"{DIGEST}","size":7,{name}}}]}}"#),
        ),
        (
            "docker-list",
            format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.list.v2+json","manifests":[{manifest}]}}"#
            ),
        ),
        ("schema-1", format!(r#"{{"schemaVersion":1,"name":"a","fsLayers":[{{"blobSum":"{DIGEST}"}}]}}"#)),
        ("umoci", r#"{"schemaVersion":2,"manifests":null}"#.to_owned()),
        ("two-readings", format!(r#"{{"manifests":[{manifest}],"config":{config},"layers":[{layer}]}}"#)),
        ("layers-twice", format!(r#"{{"config":{config},"layers":[],"layers":[{layer}]}}"#)),
        (
            "image-config",
            r#"{"architecture":"amd64","config":{"Cmd":["sh"]},"rootfs":{"type":"layers"},"os":"linux"}"#
                .to_owned(),
        ),
        (
            "many-children",
            format!(r#"{{"manifests":[{}]}}"#, vec![format!(r#"{{"digest":"{DIGEST}"}}"#); 400].join(",")),
        ),
    ];
    let nasty = nasty_json();
    texts.into_iter().chain(nasty).map(|(name, text)| seed("manifest", name, text)).collect()
}

fn wire() -> Vec<Seed> {
    let real =
        golden("tests/golden").into_iter().map(|(name, json)| seed("wire", format!("golden-{name}"), json));
    let whoami = golden("raft/tests/golden").into_iter().filter(|(name, _)| name == "whoami");
    let whoami = whoami.map(|(name, json)| seed("wire", format!("golden-{name}"), json));
    let nasty = nasty_json().into_iter().map(|(name, json)| seed("wire", name, json));
    real.chain(whoami).chain(nasty).collect()
}

fn settings() -> Vec<Seed> {
    let server = "data-dir = \"/var/lib/piccolo\"\nlisten = \":7789\"\nraft-listen = \"127.0.0.1:7790\"\n\
        cluster = [\"a:7790\", \"b:7790\", \"[fd00::1]:7790\"]\nlease-default = \"1h30m\"\ninsecure = true\n\
        log-format = \"json\"\nlog-level = \"info,hyper=warn\"\n";
    let agent = "servers = \"http://10.0.0.1:7789,http://10.0.0.2:7789\"\ngroup = \"g\"\nresolve-timeout = \"2s\"\n\
        upload-bytes-per-second = 1.073741824e+09\nuploads-max = 64\nlayout = \"/srv/images\"\nzone = \"a\"\n\
        [registry.\"docker.io\"]\ntags = \"peers\"\nfilter = [\":latest$\", \"^a{1,1000}(b|c)*$\"]\n\
        [registry._default]\nmanifests = \"origin\"\norigin = \"https://r.example/x\"\nca = \"/nowhere\"\n";
    let nested = "a = ".to_owned() + &"[".repeat(5_000);
    let tables = "[a.".to_owned() + &"b.".repeat(2_000) + "c]\n";
    numbered(
        "settings",
        "file",
        [
            server,
            agent,
            &nested,
            &tables,
            "",
            "a = 1\na = 2\n",
            "listen = { a = 1979-05-27T07:32:00Z }",
            "x = 99999999999999999999",
            "filter = [\"(((((((((((((((((((\"]",
            "[registry]\n\"\" = 1\n",
            "18446744073709551615d",
            "1d23h59m59s999ms",
            "[fd00::1]:1",
            "a.:1",
        ],
    )
}

fn hosts_toml() -> Vec<Seed> {
    let docker = "server = \"https://registry-1.docker.io\"\n\n# nearest\n[host.\"https://mirror.example\"]\n  \
        capabilities = [\"pull\", \"resolve\"]\n  skip_verify = true\n  [host.\"https://mirror.example\".header]\n    x = \"y\"\n";
    let ours = "# Written by `piccolo mirror install`; `piccolo mirror remove` takes it out.\n\
        [host.\"http://127.0.0.1:7780\"]\n  capabilities = [\"pull\", \"resolve\"]\n  dial_timeout = \"1s\"\n";
    let behind = format!("server = \"https://a\"\n\n{ours}\n[host.\"https://b\"]\n");
    let deep = "[host.".to_owned() + &"a.".repeat(3_000) + "b]\n";
    numbered(
        "hosts_toml",
        "file",
        [
            docker,
            ours,
            &behind,
            &deep,
            "",
            "host = { \"https://a\" = {} }\n",
            "[host]\n",
            "[[host]]\n",
            "[host.'http://127.0.0.1:7780'.header]\n",
            "host.\"https://a\".ca = \"x\"\n",
            "x = \"\"\"\n[host.\"http://127.0.0.1:7780\"]\n\"\"\"\n",
            "[host.\"a\"]\r\n# \u{e4}\r\n[host.\"b\"]",
            "\u{feff}a = 1",
            "[a]\n[host.\"x\"] # c\n#d\n\n\n#e\n[z]",
            "[host.\"x\".y]\n[host.\"x\"]\n[[host.\"x\".z]]\n[[host.\"x\".z]]",
        ],
    )
}
