//! Tests of install and remove on real folders.

mod interrupted;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::super::remove::{self, remove};
use super::*;
use crate::hosts_toml::MARK;

const URL: &str = "http://127.0.0.1:7780";
const ORIGINAL: &str =
    "server = \"https://ghcr.io\"\n\n# theirs\n[host.\"https://harbor\"]\ncapabilities = [\"pull\"]\n";

fn options(certs_dir: &Path, registries: &str) -> Options {
    of_roots(certs_dir.to_str().unwrap(), registries)
}

/// Options for a node whose containerd has no configuration and no unit.
fn of_roots(roots: &str, registries: &str) -> Options {
    Options {
        roots: Roots::parse(roots).unwrap(),
        registries: value::list(registries, Registry::parse).unwrap(),
        entry: Entry { url: URL.to_owned(), dial_timeout: None },
        proxy: proxy::Choice::Find { system: PathBuf::from("/nowhere") },
        containerd: config_path::Containerd { config: PathBuf::from("/nowhere/config.toml"), binary: None },
    }
}

/// Path and bytes of every file below a folder, and the path of every folder.
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
    let (message, refused) = remove(&Roots::parse(certs_dir.to_str().unwrap()).unwrap());
    assert!(refused.is_empty(), "{refused:?}");
    message
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
    assert!(hub.contains("\nserver = \"https://registry-1.docker.io\"\n"), "{hub}");
    let own = fs::read_to_string(certs.join("r:5000/hosts.toml")).unwrap();
    assert!(own.contains("ca = [\"ca.crt\"]"), "{own}");
    let plain = fs::read_to_string(certs.join("10.0.0.9:5000/hosts.toml")).unwrap();
    assert!(plain.contains("\nserver = \"http://10.0.0.9:5000\"\n"), "{plain}");

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
    assert!(install(&options).unwrap().contains("unchanged, our mirror is first already"));
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
        let message = removed(root.path());
        assert_eq!(message.contains("edits stay"), !again, "{message}");
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
        folder.back_up(Some(ORIGINAL)).unwrap();
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
fn files_of_others_in_default_are_not_hidden() {
    let root = tempfile::tempdir().unwrap();
    write(&root.path().join("_default/hosts.toml"), "[host.\"https://harbor\"]\ncapabilities = [\"pull\"]\n");
    let error = install(&options(root.path(), "ghcr.io")).unwrap_err().to_string();
    assert!(error.contains("_default"), "{error}");
    install(&options(root.path(), "_default")).unwrap();
    assert!(install(&options(root.path(), "ghcr.io")).is_err());
    removed(root.path());
    fs::remove_dir_all(root.path().join("_default")).unwrap();
    write(&root.path().join("_default/ca.crt"), "certificate");
    assert!(install(&options(root.path(), "ghcr.io")).is_err(), "containerd would no longer know this CA");
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
fn mirrors_are_checked() {
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

#[test]
fn an_entry_of_ours_whose_note_is_lost_is_taken_out_by_remove() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("ghcr.io/hosts.toml");
    write(&file, ORIGINAL);
    let before = tree(root.path());
    install(&options(root.path(), "ghcr.io,docker.io")).unwrap();
    for name in
        ["ghcr.io/hosts.toml.piccolo", "ghcr.io/hosts.toml.piccolo-backup", "docker.io/hosts.toml.piccolo"]
    {
        fs::remove_file(root.path().join(name)).unwrap();
    }
    removed(root.path());
    assert_eq!(tree(root.path()), before);
}

#[test]
fn a_lost_backup_loses_nothing_of_others() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("ghcr.io/hosts.toml");
    for again in [false, true] {
        write(&file, ORIGINAL);
        install(&options(root.path(), "ghcr.io")).unwrap();
        fs::remove_file(root.path().join("ghcr.io/hosts.toml.piccolo-backup")).unwrap();
        if again {
            install(&options(root.path(), "ghcr.io")).unwrap();
            assert!(fs::read_to_string(&file).unwrap().contains("https://harbor"));
        }
        removed(root.path());
        assert_eq!(fs::read_to_string(&file).unwrap(), ORIGINAL);
    }
}

/// Somebody who removes our file, on purpose or by mistake, does not want to lose the earlier file, which
/// install keeps beside it.
#[test]
fn a_file_that_is_gone_since_the_install_comes_back_as_it_was_before() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("ghcr.io/hosts.toml");
    for again in [false, true] {
        write(&file, ORIGINAL);
        install(&options(root.path(), "ghcr.io")).unwrap();
        fs::remove_file(&file).unwrap();
        if again {
            install(&options(root.path(), "ghcr.io")).unwrap();
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.find(URL).unwrap() < text.find("https://harbor").unwrap(), "{text}");
        }
        let message = removed(root.path());
        assert!(message.contains("is again what it was"), "{message}");
        assert_eq!(fs::read_to_string(&file).unwrap(), ORIGINAL);
        assert_eq!(tree(root.path()).len(), 2, "nothing of ours is left");
    }
}

/// Two folders of one `config_path`; a registry with a CA of its own is in the second one.
fn two_roots(root: &Path) -> (PathBuf, PathBuf) {
    let (first, second) = (root.join("containerd"), root.join("docker"));
    fs::create_dir(&first).unwrap();
    write(&second.join("harbor.corp/ca.crt"), "certificate");
    write(&second.join("ghcr.io/hosts.toml"), ORIGINAL);
    (first, second)
}

#[test]
fn of_several_folders_the_one_is_changed_that_containerd_reads() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = two_roots(root.path());
    let before = tree(root.path());
    let both = format!("{}:{}", first.display(), second.display());
    install(&of_roots(&both, "harbor.corp,ghcr.io,docker.io,_default")).unwrap();
    let harbor = fs::read_to_string(second.join("harbor.corp/hosts.toml")).unwrap();
    assert!(harbor.contains("ca = [\"ca.crt\"]"), "{harbor}");
    assert!(fs::read_to_string(second.join("ghcr.io/hosts.toml")).unwrap().contains("https://harbor"));
    assert!(!first.join("harbor.corp").exists() && !first.join("ghcr.io").exists());
    assert!(first.join("docker.io/hosts.toml").exists());
    // In the first folder it would hide the second folder's registries.
    assert!(second.join("_default/hosts.toml").exists() && !first.join("_default").exists());
    let (_, refused) = remove(&Roots::parse(&both).unwrap());
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(tree(root.path()), before);
}

#[test]
fn a_folder_that_is_one_of_containerds_list_is_taken_with_the_others() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = two_roots(root.path());
    let config = root.path().join("config.toml");
    let list = format!("{}:{}", first.display(), second.display());
    let text = format!("[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '{list}'\n");
    fs::write(&config, text).unwrap();
    let mut options = options(&first, "harbor.corp");
    options.containerd.config = config.clone();
    let message = install(&options).unwrap();
    assert!(!first.join("harbor.corp").exists(), "it would hide the CA of the second folder");
    assert!(message.contains(&format!("containerd reads {list} at each pull")), "{message}");

    fs::write(&config, "[plugins.'io.containerd.cri.v1.images'.registry]\nconfig_path = '/other'\n").unwrap();
    let message = install(&options).unwrap();
    assert!(message.contains("does NOT read") && message.contains("/other"), "{message}");
}

#[test]
fn names_of_docker_hubs_hosts_count_as_docker_io_with_a_message() {
    let root = tempfile::tempdir().unwrap();
    let message = install(&options(root.path(), "registry-1.docker.io")).unwrap();
    assert!(root.path().join("docker.io/hosts.toml").exists());
    assert!(!root.path().join("registry-1.docker.io").exists());
    assert!(message.contains("no image name has registry-1.docker.io"), "{message}");
    assert!(message.contains("docker.io/hosts.toml: our mirror is first"), "{message}");
}

#[test]
fn what_k3s_generates_is_refused_with_what_to_put_into_its_own_configuration() {
    let root = tempfile::tempdir().unwrap();
    let certs = root.path().join("rancher/k3s/agent/etc/containerd/certs.d");
    fs::create_dir_all(&certs).unwrap();
    let error = install(&options(&certs, "docker.io")).unwrap_err().to_string();
    assert!(error.contains("registries.yaml") && error.contains("\"docker.io\":\n"), "{error}");
    assert_eq!(tree(&certs), BTreeMap::new());

    let linked = root.path().join("certs.d");
    let header = "# File generated by rke2. DO NOT EDIT.\n\nserver = \"https://ghcr.io/v2\"\n";
    write(&linked.join("ghcr.io/hosts.toml"), header);
    let before = tree(&linked);
    let error = install(&options(&linked, "ghcr.io,docker.io")).unwrap_err().to_string();
    assert!(error.contains("/etc/rancher/rke2/registries.yaml"), "{error}");
    assert_eq!(tree(&linked), before);
}
