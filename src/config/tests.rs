//! Tests of layers, and of mistakes that are reported together.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::agent::{Filter, RegistryPolicy, Sharing, StoreConfig, TagPolicy};
use crate::identity::TlsMode;
use crate::limits;

fn given(flags: &[(&'static str, &str)], environment: &[(&str, &str)]) -> Given {
    Given {
        flags: flags.iter().map(|(flag, text)| (*flag, (*text).to_owned())).collect(),
        environment: environment
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect(),
    }
}

fn read_server(given: &Given) -> Result<crate::server::Config, Problems> {
    let mut layers = Layers::open([SERVER, LOGGING].concat(), given, false);
    let logging = logging(&mut layers);
    let config = server(&mut layers);
    layers.finish(config.zip(logging)).map(|(config, _)| config)
}

fn read_agent(given: &Given) -> Result<crate::agent::Config, Problems> {
    let mut layers = Layers::open([AGENT, LOGGING].concat(), given, true);
    let logging = logging(&mut layers);
    let config = agent(&mut layers);
    layers.finish(config.zip(logging)).map(|(config, _)| config)
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

fn places(problems: &Problems) -> Vec<&str> {
    problems.0.iter().map(|problem| problem.place.as_str()).collect()
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let file =
        file("data-dir = \"/file\"\nlisten = \"127.0.0.1:3\"\nlease-default = \"5m\"\ninsecure = true\n");
    let config = file.path().to_str().unwrap();
    let config = read_server(&given(
        &[("config", config), ("data-dir", "/flag")],
        &[("PICCOLO_DATA_DIR", "/environment"), ("PICCOLO_LISTEN", "127.0.0.1:2")],
    ))
    .unwrap();
    assert_eq!(config.data_dir.to_str(), Some("/flag"));
    assert_eq!(config.listen.port(), 2);
    assert_eq!(config.lease_default, Duration::from_secs(300));
    assert_eq!(config.forget_after, limits::FORGET_AFTER_DEFAULT);
    assert!(config.insecure);
}

#[test]
fn the_file_can_be_named_by_the_environment_and_lists_can_be_lists() {
    let file = file("data-dir = \"/d\"\ncluster = [\"a:1\", \"b:2\", \"c:3\"]\n");
    let config = read_server(&given(&[], &[("PICCOLO_CONFIG", file.path().to_str().unwrap())])).unwrap();
    assert_eq!(config.cluster, ["a:1", "b:2", "c:3"]);
}

#[test]
fn all_mistakes_are_reported_together_with_their_places() {
    let file = file("lisen = \"x\"\nforget-after = \"1w\"\nadvertise = { a = 1 }\n");
    let config = file.path().to_str().unwrap();
    let problems = read_server(&given(
        &[("config", config), ("listen", "7789"), ("cluster", "a:1,a:1")],
        &[("PICCOLO_LEASE_DEFAULT", "1s"), ("PICCOLO_INSECURE", "maybe"), ("LOG_LEVEL", "loud")],
    ))
    .unwrap_err();
    let here = |key: &str| format!("{key} in {config}");
    let (unknown, forget, advertise) = (here("lisen"), here("forget-after"), here("advertise"));
    let mut found = places(&problems);
    found.sort_unstable();
    let mut expected = vec![
        "--cluster",
        "--data-dir",
        "--listen",
        "LOG_LEVEL",
        "PICCOLO_INSECURE",
        "PICCOLO_LEASE_DEFAULT",
        &advertise,
        &forget,
        &unknown,
    ];
    expected.sort_unstable();
    assert_eq!(found, expected);
    let text = problems.to_string();
    assert!(text.starts_with("9 mistakes in the configuration:\n  "), "{text}");
    assert!(
        text.contains("PICCOLO_LEASE_DEFAULT: invalid value \"1s\": expected a duration from 3s to 24h"),
        "{text}"
    );
    assert!(text.contains("--data-dir: is required (PICCOLO_DATA_DIR in the environment"), "{text}");
}

#[test]
fn a_lease_keeps_the_limits_of_the_protocol_on_both_sides() {
    for (text, right) in [("3s", true), ("2999ms", false), ("86400s", true), ("86401s", false)] {
        let config = read_server(&given(&[("data-dir", "/d"), ("lease-default", text)], &[]));
        assert_eq!(config.is_ok(), right, "{text}");
    }
}

#[test]
fn the_minimum_of_free_bytes_is_a_setting_like_the_others() {
    let read = |flags: &[(&'static str, &'static str)], environment: &[(&'static str, &'static str)]| {
        let flags = [&[("data-dir", "/d")], flags].concat();
        read_server(&given(&flags, environment)).map(|config| config.disk_free_min)
    };
    let variable = [("PICCOLO_DISK_FREE_MIN", "512MiB")];
    assert_eq!(read(&[], &[]).unwrap(), None);
    assert_eq!(read(&[], &variable).unwrap(), Some(512 << 20));
    assert_eq!(read(&[("disk-free-min", "0")], &variable).unwrap(), Some(0));
    let file = file("data-dir = \"/d\"\ndisk-free-min = \"3GB\"\n");
    let config = read_server(&given(&[("config", file.path().to_str().unwrap())], &[])).unwrap();
    assert_eq!(config.disk_free_min, Some(3_000_000_000));
    assert_eq!(places(&read(&[("disk-free-min", "5%")], &[]).unwrap_err()), ["--disk-free-min"]);
}

#[test]
fn with_a_secret_tls_is_required_unless_something_else_is_said() {
    let read = |flags: &[(&'static str, &'static str)], environment: &[(&'static str, &'static str)]| {
        let flags = [&[("data-dir", "/d")], flags].concat();
        read_server(&given(&flags, environment)).map(|config| config.tls)
    };
    let secret = ("cluster-secret", "/s.pem");
    assert_eq!(read(&[], &[]).unwrap(), TlsMode::Off);
    assert_eq!(read(&[secret], &[]).unwrap(), TlsMode::Require);
    assert_eq!(read(&[secret], &[("PICCOLO_TLS", "accept")]).unwrap(), TlsMode::Accept);
    assert_eq!(read(&[secret, ("tls", "off")], &[("PICCOLO_TLS", "accept")]).unwrap(), TlsMode::Off);
    assert_eq!(read(&[("tls", "off")], &[]).unwrap(), TlsMode::Off);
    let file = file("data-dir = \"/d\"\ncluster-secret = \"/s.pem\"\ntls = \"accept\"\n");
    let config = read_server(&given(&[("config", file.path().to_str().unwrap())], &[])).unwrap();
    assert_eq!((config.tls, config.cluster_secret), (TlsMode::Accept, Some("/s.pem".into())));
    for wrong in ["on", "Require", ""] {
        assert_eq!(places(&read(&[secret, ("tls", wrong)], &[]).unwrap_err()), ["--tls"], "{wrong}");
    }
    for without in ["accept", "require"] {
        let problems = read(&[("tls", without)], &[]).unwrap_err();
        assert_eq!(places(&problems), ["--tls"]);
        assert!(problems.to_string().contains("--cluster-secret"), "{problems}");
    }
}

#[test]
fn a_missing_or_invalid_file_is_reported_with_the_other_mistakes() {
    let problems = read_server(&given(&[("config", "/nowhere.toml"), ("listen", "x")], &[])).unwrap_err();
    assert_eq!(places(&problems), ["/nowhere.toml", "--data-dir", "--listen"]);
    let file = file("data-dir = ");
    let problems = read_server(&given(&[("config", file.path().to_str().unwrap())], &[])).unwrap_err();
    assert_eq!(problems.0.len(), 2, "{problems}");
}

#[test]
fn the_variables_of_the_go_pi_are_understood() {
    let config = read_agent(&given(
        &[],
        &[
            ("PICCOLO_ADDRESS", "http://piccolo.svc:7789/prefix"),
            ("REGISTRY_ADDR", ":5000"),
            ("PI_ADDR", "10.0.0.1:5001"),
            ("METRICS_ADDR", "0.0.0.0:9090"),
            ("CONTAINERD_SOCK", "/c.sock"),
            ("CONTAINERD_NAMESPACE", "moby"),
            ("CONTAINERD_CONTENT_PATH", "/content"),
            ("LOG_LEVEL", "WARN"),
            ("PI_GROUP", "blue"),
            ("MAX_UPLOAD_CONNECTIONS", "5"),
            ("PI_MAX_UPLOAD_BLOB_BYTES_PER_SECOND", "1.073741824e+09"),
            ("MIRROR_RESOLVE_TIMEOUT", "1m0s"),
            ("HOST", "not-ours"),
        ],
    ))
    .unwrap();
    assert_eq!(config.servers, ["http://piccolo.svc:7789/prefix"]);
    assert_eq!(config.mirror_listen.to_string(), "[::]:5000");
    assert_eq!(config.peer_listen.to_string(), "10.0.0.1:5001");
    assert_eq!(config.metrics_listen.to_string(), "0.0.0.0:9090");
    assert_eq!((config.group.as_str(), config.uploads_max), ("blue", 5));
    assert_eq!(config.upload_bytes_per_second, 1 << 30);
    assert_eq!(config.resolve_timeout, Duration::from_secs(60));
    let store = StoreConfig::Containerd {
        socket: "/c.sock".into(),
        namespace: "moby".to_owned(),
        content_path: Some("/content".into()),
    };
    assert_eq!(config.store, store);
}

#[test]
fn our_own_variable_wins_over_that_of_the_go_pi_and_an_empty_one_is_unset() {
    let servers = ("PICCOLO_SERVERS", "http://a:1, http://b:2");
    let environment =
        [servers, ("PICCOLO_ADDRESS", "http://old"), ("PI_GROUP", "old"), ("PICCOLO_GROUP", "new")];
    let config = read_agent(&given(&[], &environment)).unwrap();
    assert_eq!(config.servers, ["http://a:1", "http://b:2"]);
    assert_eq!(config.group, "new");
    let config = read_agent(&given(&[], &[servers, ("PICCOLO_GROUP", ""), ("PICCOLO_ZONE", "")])).unwrap();
    assert_eq!((config.group.as_str(), config.zone.as_str()), ("default", ""));
}

#[test]
fn registries_have_tables() {
    let ca = file("pem");
    let path = ca.path().display();
    let file = file(&format!(
        "servers = \"http://a:1\"\n[registry.\"r.example.com:5000\"]\ntags = \"peers\"\norigin = \"http://r:5000\"\n\
         ca = \"{path}\"\nfilter = [\":latest$\", '^r\\.example\\.com:5000/secret/']\n\
         [registry._default]\ntags = \"off\"\nmanifests = \"origin\"\nblobs = \"peers\"\n"
    ));
    let config = read_agent(&given(&[("config", file.path().to_str().unwrap())], &[])).unwrap();
    let policy = &config.registries["r.example.com:5000"];
    assert_eq!(policy.tags, TagPolicy::Peers);
    assert_eq!(policy.origin.as_deref(), Some("http://r:5000"));
    assert_eq!(policy.ca.as_deref(), Some(ca.path()));
    assert_eq!((policy.manifests, policy.blobs), (Sharing::Peers, Sharing::Peers));
    assert_eq!(format!("{:?}", policy.filter), r#"[":latest$", "^r\\.example\\.com:5000/secret/"]"#);
    let default = &config.registries["_default"];
    assert_eq!((default.tags, default.manifests), (TagPolicy::Off, Sharing::Origin));
}

/// The Go version's switch; there it did not apply to registries with a port.
#[test]
fn two_tables_of_one_registry_are_a_problem_and_the_folders_of_certs_dir_are_a_list() {
    let tables = "[registry.\"r.example.com\"]\n[registry.\"R.example.com:443\"]\n";
    let file = file(&format!("servers = \"http://a:1\"\n{tables}"));
    let problems =
        read_agent(&given(&[("config", file.path().to_str().unwrap())], &[])).unwrap_err().to_string();
    assert!(problems.contains("names the same registry as [registry."), "{problems}");

    let of = |dirs| read_agent(&given(&[("servers", "http://a:1"), ("certs-dir", dirs)], &[]));
    let expected = ["/etc/containerd/certs.d", "/etc/docker/certs.d"].map(std::path::PathBuf::from);
    let read = of("/etc/containerd/certs.d:/etc/docker/certs.d").unwrap();
    assert_eq!(read.certs_dirs.as_deref(), Some(&expected[..]));
    assert_eq!(read_agent(&given(&[("servers", "http://a:1")], &[])).unwrap().certs_dirs, None);
    assert!(of("certs.d").unwrap_err().to_string().contains("absolute folders"));
}

#[test]
fn without_the_latest_tag_every_registry_has_a_filter_for_it() {
    let file = file("servers = \"http://a:1\"\n[registry.\"r.example.com:5000\"]\nblobs = \"origin\"\n");
    let config = ("config", file.path().to_str().unwrap());
    let config = read_agent(&given(&[config], &[("RESOLVE_LATEST_TAG", "false")])).unwrap();
    let only_latest = RegistryPolicy { filter: vec![Filter::latest()], ..RegistryPolicy::default() };
    assert_eq!(config.registries["_default"], only_latest);
    let own = &config.registries["r.example.com:5000"];
    assert_eq!((own.blobs, &own.filter), (Sharing::Origin, &only_latest.filter));
    let config = read_agent(&given(&[("servers", "http://a:1")], &[("RESOLVE_LATEST_TAG", "true")])).unwrap();
    assert!(config.registries.is_empty());
}

#[test]
fn all_mistakes_in_tables_of_registries_are_reported() {
    let file = file(
        "servers = \"http://a:1\"\n[registry.\"a b\"]\n[registry.r]\ntags = \"peer\"\norigin = \"r:5000\"\n\
         ca = \"/nowhere.pem\"\nmanifest = \"origin\"\n[registry]\nx = 1\n",
    );
    let problems = read_agent(&given(&[("config", file.path().to_str().unwrap())], &[])).unwrap_err();
    assert_eq!(problems.0.len(), 6, "{problems}");
    let file = self::file(
        "servers = \"http://a:1\"\n[registry.a]\nmanifests = \"orign\"\nblobs = \"off\"\nfilter = \":latest\"\n\
         [registry.b]\nfilter = [\"(\", 1, \"ok\", \"x{999999}\"]\n[registry.c]\ntags = \"peers\"\nmanifests = \"origin\"\n",
    );
    let problems = read_agent(&given(&[("config", file.path().to_str().unwrap())], &[])).unwrap_err();
    assert_eq!(problems.0.len(), 7, "{problems}");
    let text = problems.to_string();
    for part in [
        "manifests of [registry.\"a\"]",
        "invalid value \"orign\": expected peers or origin",
        "invalid value \"(\": expected a regular expression (error: unclosed group)",
        "tags of [registry.\"c\"]",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_server_has_no_use_for_tables_of_registries() {
    let file = file("data-dir = \"/d\"\n[registry.r]\ntags = \"peers\"\n");
    let problems = read_server(&given(&[("config", file.path().to_str().unwrap())], &[])).unwrap_err();
    assert!(problems.0[0].place.starts_with("registry in "), "{problems}");
}

#[test]
fn a_layout_takes_the_place_of_containerd() {
    let servers = ("servers", "http://a:1");
    let config = read_agent(&given(&[servers, ("layout", "/images")], &[])).unwrap();
    assert_eq!(config.store, StoreConfig::Layout { folder: "/images".into() });
    let problems =
        read_agent(&given(&[servers, ("layout", "/images"), ("containerd-sock", "/c")], &[])).unwrap_err();
    assert_eq!(places(&problems), ["--containerd-sock"]);
}

#[test]
fn variables_that_nobody_knows_are_found_and_those_of_others_are_not() {
    let environment: BTreeMap<String, String> =
        ["PICCOLO_PORT", "PICCOLO_LISTEN", "PICCOLO_ADDRESS", "PICCOLO_SERVICE_HOST", "HOME", "PI_X"]
            .map(|name| (name.to_owned(), "x".to_owned()))
            .into();
    let settings = [SERVER, AGENT, LOGGING].concat();
    assert_eq!(unknown_environment(&environment, &settings), ["PICCOLO_PORT", "PICCOLO_SERVICE_HOST"]);
}
