//! Install and remove on real folders.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use super::super::remove::remove;
use super::*;

const URL: &str = "http://127.0.0.1:7780";
const ORIGINAL: &str =
    "server = \"https://ghcr.io\"\n\n# theirs\n[host.\"https://harbor\"]\ncapabilities = [\"pull\"]\n";

fn options(certs_dir: &Path, registries: &str) -> Options {
    Options {
        certs_dir: certs_dir.to_owned(),
        registries: value::list(registries, registry).unwrap(),
        entry: Entry { url: URL.to_owned(), dial_timeout: None },
    }
}

/// Every file below a folder with its bytes, and every folder.
fn tree(folder: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(tree(&path));
            found.insert(path, None);
        } else {
            let bytes = fs::read(&path).unwrap();
            found.insert(path, Some(bytes));
        }
    }
    found
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn removed(certs_dir: &Path) -> String {
    let (told, refused) = remove(certs_dir);
    assert!(refused.is_empty(), "{refused:?}");
    told
}

#[test]
fn remove_gives_back_every_byte_and_mode_and_no_folder_more() {
    let root = tempfile::tempdir().unwrap();
    let certs = root.path().join("certs.d");
    let file = certs.join("ghcr.io/hosts.toml");
    write(&file, ORIGINAL);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    write(&certs.join("r:5000/ca.crt"), "certificate");
    let before = tree(root.path());
    install(&options(&certs, "ghcr.io,docker.io,r:5000,http://10.0.0.9:5000")).unwrap();

    let text = fs::read_to_string(&file).unwrap();
    assert!(text.find(URL).unwrap() < text.find("https://harbor").unwrap(), "{text}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let hub = fs::read_to_string(certs.join("docker.io/hosts.toml")).unwrap();
    assert!(hub.starts_with("server = \"https://registry-1.docker.io\"\n"), "{hub}");
    let own = fs::read_to_string(certs.join("r:5000/hosts.toml")).unwrap();
    assert!(own.contains("ca = [\"ca.crt\"]"), "{own}");
    let plain = fs::read_to_string(certs.join("10.0.0.9:5000/hosts.toml")).unwrap();
    assert!(plain.starts_with("server = \"http://10.0.0.9:5000\"\n"), "{plain}");

    removed(&certs);
    assert_eq!(tree(root.path()), before);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn folders_that_install_made_go_with_remove_also_the_outer_ones() {
    let root = tempfile::tempdir().unwrap();
    let certs = root.path().join("containerd/certs.d");
    install(&options(&certs, "docker.io,ghcr.io")).unwrap();
    install(&options(&certs, "quay.io")).unwrap();
    removed(&certs);
    assert_eq!(tree(root.path()), BTreeMap::new());
    assert!(removed(&certs).contains("nothing of ours"));
}

#[test]
fn installing_twice_changes_nothing_and_keeps_the_first_backup() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("ghcr.io/hosts.toml");
    write(&file, ORIGINAL);
    let options = options(root.path(), "ghcr.io,docker.io");
    install(&options).unwrap();
    let once = tree(root.path());
    assert!(install(&options).unwrap().contains("as it should be already"));
    assert_eq!(tree(root.path()), once);
    removed(root.path());
    assert_eq!(fs::read_to_string(&file).unwrap(), ORIGINAL);
}

#[test]
fn another_mirror_url_replaces_ours_and_remove_still_restores() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("ghcr.io/hosts.toml");
    write(&file, ORIGINAL);
    let mut options = options(root.path(), "ghcr.io");
    install(&options).unwrap();
    options.entry.url = "http://127.0.0.1:9999".to_owned();
    install(&options).unwrap();
    let text = fs::read_to_string(&file).unwrap();
    assert!(text.contains(":9999") && !text.contains(":7780"), "{text}");
    removed(root.path());
    assert_eq!(fs::read_to_string(&file).unwrap(), ORIGINAL);
}

#[test]
fn edits_after_the_install_survive_remove_and_another_install() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("ghcr.io/hosts.toml");
    let edited_original = ORIGINAL.replace("https://harbor", "https://other");
    for again in [false, true] {
        write(&file, ORIGINAL);
        let options = options(root.path(), "ghcr.io");
        install(&options).unwrap();
        let edited = fs::read_to_string(&file).unwrap().replace("https://harbor", "https://other");
        fs::write(&file, edited).unwrap();
        if again {
            install(&options).unwrap();
            assert!(fs::read_to_string(&file).unwrap().contains(MARK));
        }
        let told = removed(root.path());
        assert_eq!(told.contains("edits stay"), !again, "{told}");
        assert_eq!(fs::read_to_string(&file).unwrap(), edited_original);
        assert_eq!(tree(root.path()).len(), 2, "the folder and its file, nothing of ours");
    }
}

#[test]
fn a_file_that_was_rewritten_without_us_is_left_and_counts_as_the_original() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("ghcr.io/hosts.toml");
    write(&file, "server = \"https://old\"\n");
    let options = options(root.path(), "ghcr.io");
    install(&options).unwrap();
    fs::write(&file, ORIGINAL).unwrap();
    install(&options).unwrap();
    removed(root.path());
    assert_eq!(fs::read_to_string(&file).unwrap(), ORIGINAL);

    install(&options).unwrap();
    fs::write(&file, "server = \"https://new\"\n").unwrap();
    assert!(removed(root.path()).contains("left as it is"));
    assert_eq!(fs::read_to_string(&file).unwrap(), "server = \"https://new\"\n");
}

#[test]
fn one_file_that_cannot_be_changed_leaves_all_as_they_are() {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("ghcr.io/hosts.toml"), "server = ");
    write(&root.path().join("quay.io/hosts.toml"), "host = 1\n");
    let before = tree(root.path());
    let error = install(&options(root.path(), "docker.io,ghcr.io,quay.io")).unwrap_err().to_string();
    assert!(error.contains("ghcr.io/hosts.toml") && error.contains("quay.io/hosts.toml"), "{error}");
    assert_eq!(tree(root.path()), before);
}

#[test]
fn an_install_cut_short_before_the_file_was_written_is_taken_back_and_repeated() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("ghcr.io/hosts.toml");
    write(&file, ORIGINAL);
    let folder = Folder::new(root.path().join("ghcr.io"));
    let cut_short = || {
        folder.back_up().unwrap();
        folder.write_note(&Note::new(URL, "what was never written", 0)).unwrap();
    };
    cut_short();
    removed(root.path());
    assert_eq!(fs::read_to_string(&file).unwrap(), ORIGINAL);
    cut_short();
    install(&options(root.path(), "ghcr.io")).unwrap();
    removed(root.path());
    assert_eq!(fs::read_to_string(&file).unwrap(), ORIGINAL);
    assert_eq!(tree(root.path()).len(), 2);
}

#[test]
fn what_others_serve_by_default_is_not_hidden() {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("_default/hosts.toml"), "[host.\"https://harbor\"]\ncapabilities = [\"pull\"]\n");
    let error = install(&options(root.path(), "ghcr.io")).unwrap_err().to_string();
    assert!(error.contains("_default"), "{error}");
    install(&options(root.path(), "_default")).unwrap();
    assert!(install(&options(root.path(), "ghcr.io")).is_err());
    removed(root.path());
    fs::remove_dir_all(root.path().join("_default")).unwrap();
    install(&options(root.path(), "_default")).unwrap();
    install(&options(root.path(), "ghcr.io")).unwrap();
}

#[test]
fn the_folder_that_containerd_prefers_is_taken() {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("r_5000_/hosts.toml"), "server = \"https://r:5000\"\n");
    install(&options(root.path(), "r:5000")).unwrap();
    assert!(!root.path().join("r:5000").exists());
    assert!(fs::read_to_string(root.path().join("r_5000_/hosts.toml")).unwrap().contains(URL));
}

#[test]
fn containerds_own_idea_of_a_loopback_registry_is_kept() {
    let server_of = |given: &str| server(&registry(given).unwrap());
    assert_eq!(server_of("localhost:5000"), None);
    assert_eq!(server_of("127.0.0.1:5000"), None);
    assert_eq!(server_of("http://127.0.0.1:5000").as_deref(), Some("http://127.0.0.1:5000"));
    assert_eq!(server_of("ghcr.io").as_deref(), Some("https://ghcr.io"));
    assert_eq!(server_of("_default"), None);
}

#[test]
fn registries_and_mirrors_are_checked() {
    for given in ["docker.io", "r:5000", "http://r:5000/", "_default", "[fd00::1]:5000", "GHCR.io"] {
        assert!(registry(given).is_ok(), "{given}");
    }
    for given in ["", "ftp://r", "r/x", "..", "a b", "http://_default", "http://", "r:0", "../etc"] {
        assert!(registry(given).is_err(), "{given}");
    }
    assert_eq!(mirror_url("http://127.0.0.1:7780/"), Ok(URL.to_owned()));
    for given in ["http://127.0.0.1:7780/v2", "127.0.0.1:7780", "http://u@h", "http://h\"x"] {
        assert!(mirror_url(given).is_err(), "{given}");
    }
}

#[test]
fn an_entry_of_ours_whose_note_is_lost_is_taken_over() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("ghcr.io/hosts.toml");
    write(&file, ORIGINAL);
    let options = options(root.path(), "ghcr.io");
    install(&options).unwrap();
    let written = fs::read_to_string(&file).unwrap();
    fs::remove_file(root.path().join("ghcr.io/hosts.toml.piccolo")).unwrap();
    fs::remove_file(root.path().join("ghcr.io/hosts.toml.piccolo-backup")).unwrap();
    install(&options).unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), written);
    removed(root.path());
    assert_eq!(fs::read_to_string(&file).unwrap(), ORIGINAL);
}

#[test]
fn an_entry_for_our_url_that_is_not_ours_is_refused() {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("ghcr.io/hosts.toml"), &format!("[host.\"{URL}\"]\ncapabilities = [\"pull\"]\n"));
    let before = tree(root.path());
    let error = install(&options(root.path(), "ghcr.io")).unwrap_err().to_string();
    assert!(error.contains("which is not ours"), "{error}");
    assert_eq!(tree(root.path()), before);
}
