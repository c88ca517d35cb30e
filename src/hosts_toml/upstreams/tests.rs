//! Tests with files as operators, k3s and Docker write them, and what containerd makes of them.

use super::*;

fn urls(hosts: &[Host]) -> Vec<String> {
    hosts.iter().map(|host| format!("{}://{}{}", host.scheme, host.authority, host.path)).collect()
}

fn of_file(text: &str, registry: &str) -> Vec<Host> {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join(registry);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(FILE), text).unwrap();
    let found = super::folder(&[root.path().to_owned()], registry).unwrap();
    hosts(found.as_ref(), registry).unwrap()
}

#[test]
fn hosts_come_in_the_order_of_the_file_and_the_server_last() {
    for (text, expected) in [
        (
            "server = \"https://registry-1.docker.io\"\n[host.\"https://z.example\"]\n\
             [host.\"http://a.example:5000/prefix\"]\n[host.\"https://z.example\".header]\nx = \"y\"\n",
            vec![
                "https://z.example/v2",
                "http://a.example:5000/prefix/v2",
                "https://registry-1.docker.io/v2",
            ],
        ),
        (
            "[host.\"b.example\"]\noverride_path = true\n[host.\"https://a.example/v2/hub\"]\noverride_path = true\n",
            vec!["https://b.example", "https://a.example/v2/hub", "https://registry-1.docker.io/v2"],
        ),
        ("", vec!["https://registry-1.docker.io/v2"]),
        ("this is not TOML", vec!["https://registry-1.docker.io/v2"]),
        ("server = \"https://harbor.example/v2/\"", vec!["https://harbor.example/v2"]),
    ] {
        assert_eq!(urls(&of_file(text, "docker.io")), expected, "{text}");
    }
}

#[test]
fn a_tag_is_resolved_only_with_both_capabilities() {
    for (capabilities, expected) in [
        ("", true),
        ("capabilities = []", true),
        ("capabilities = [\"pull\", \"Resolve\", \"push\"]", true),
        ("capabilities = [\"pull\"]", false),
        ("capabilities = [\"resolve\"]", false),
        ("capabilities = [\"pull\", \"resolve\", \"referrers\"]", true),
    ] {
        let hosts = of_file(&format!("[host.\"https://a.example\"]\n{capabilities}\n"), "r.example");
        assert_eq!(hosts[0].resolves, expected, "{capabilities}");
        assert!(hosts[1].resolves, "the registry itself");
    }
}

#[test]
fn authorities_and_client_certificates_are_read_in_every_form() {
    let tls = |lines: &str| {
        of_file(&format!("[host.\"https://a.example\"]\n{lines}\n"), "r.example")[0].tls.clone()
    };
    let names = |paths: &[PathBuf]| -> Vec<String> {
        paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&tls("ca = \"one.pem\"").authorities), ["one.pem"]);
    assert_eq!(names(&tls("ca = [\"one.pem\", \"/two.pem\"]").authorities), ["one.pem", "two.pem"]);
    assert_eq!(tls("ca = \"/abs/one.pem\"").authorities, [PathBuf::from("/abs/one.pem")]);
    assert_eq!(tls("client = \"c.pem\"").clients.len(), 1);
    assert_eq!(tls("client = [\"a.pem\", \"b.pem\"]").clients.len(), 2);
    let pairs = tls("client = [[\"a.cert\", \"a.key\"]]").clients;
    assert!(pairs[0].0.ends_with("a.cert") && pairs[0].1.as_ref().unwrap().ends_with("a.key"));
    assert_eq!(tls("skip_verify = true").skip_verify, Some(true));
    // containerd refuses a list of one in place of a pair, and with it the whole file.
    let refused = of_file("[host.\"https://a.example\"]\nclient = [[\"a.cert\"]]\n", "r.example");
    assert_eq!(urls(&refused), ["https://r.example/v2"]);
}

#[test]
fn certificates_without_a_file_are_those_of_the_registry_itself() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("r.example_5000_");
    fs::create_dir(&folder).unwrap();
    for name in ["b.crt", "a.crt", "client.cert", "client.key", "alone.cert", "README"] {
        fs::write(folder.join(name), "").unwrap();
    }
    let found = super::folder(&[root.path().to_owned()], "r.example:5000").unwrap().unwrap();
    let hosts = hosts(Some(&found), "r.example:5000").unwrap();
    assert_eq!(urls(&hosts), ["https://r.example:5000/v2"]);
    assert_eq!(hosts[0].tls.authorities, [folder.join("a.crt"), folder.join("b.crt")]);
    let expected =
        [(folder.join("alone.cert"), None), (folder.join("client.cert"), Some(folder.join("client.key")))];
    assert_eq!(hosts[0].tls.clients, expected);
}

#[test]
fn the_first_folder_of_the_first_root_that_has_one_counts() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let roots = [one.path().to_owned(), two.path().to_owned()];
    let find = |registry: &str| super::folder(&roots, registry).unwrap();
    assert_eq!(find("r.example:5000"), None);
    let expect = |path: PathBuf, is_default| Some(Folder { path, is_default });
    fs::create_dir(two.path().join("r.example:5000")).unwrap();
    assert_eq!(find("r.example:5000"), expect(two.path().join("r.example:5000"), false));
    fs::create_dir(two.path().join("r.example_5000_")).unwrap();
    assert_eq!(find("r.example:5000"), expect(two.path().join("r.example_5000_"), false));
    assert_eq!(find("r.example"), None);
    // A root that has only `_default` hides what the next root says, as in containerd.
    fs::create_dir(one.path().join("_default")).unwrap();
    assert_eq!(find("r.example:5000"), expect(one.path().join("_default"), true));
}

#[test]
fn localhost_without_a_server_is_asked_over_https_and_then_over_http() {
    for (registry, url, falls_back) in [
        ("localhost:5000", "https://localhost:5000/v2", true),
        ("127.0.0.1:5000", "https://127.0.0.1:5000/v2", true),
        ("[::1]:5000", "https://[::1]:5000/v2", true),
        ("localhost", "https://localhost/v2", false),
        ("localhost:443", "https://localhost:443/v2", false),
        ("localhost:80", "http://localhost:80/v2", false),
        ("r.example:80", "https://r.example:80/v2", false),
    ] {
        let hosts = hosts(None, registry).unwrap();
        assert_eq!((&urls(&hosts)[0][..], hosts[0].falls_back_to_http), (url, falls_back));
    }
}

#[test]
fn a_change_of_a_file_shows_in_its_stamp() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("ca.pem");
    assert_eq!(stamp(&path), None);
    fs::write(&path, "one").unwrap();
    let one = stamp(&path);
    fs::write(&path, "other").unwrap();
    assert!(one.is_some() && stamp(&path) != one);
}
