//! Installs and removes that are cut short, run at once, or meet others that write.

use super::*;

/// Prepares the state in which an install finds a folder.
fn prepare(root: &Path, state: &str) {
    let file = root.join("ghcr.io/hosts.toml");
    match state {
        "nothing" => {}
        "theirs" => write(&file, ORIGINAL),
        "ours" | "ours, edited" => {
            write(&file, ORIGINAL);
            let mut earlier = options(root, "ghcr.io");
            earlier.entry.url = "http://127.0.0.1:9".to_owned();
            install(&earlier).unwrap();
            if state == "ours, edited" {
                let text = fs::read_to_string(&file).unwrap();
                fs::write(&file, text.replace("# theirs", "# theirs, edited")).unwrap();
            }
        }
        other => panic!("{other}"),
    }
}

fn cut_short() -> FileError {
    FileError::io("go on")(std::io::Error::other("cut short by the test"))
}

#[test]
fn an_install_or_remove_cut_short_after_any_step_loses_nothing() {
    let steps = [Step::Folder, Step::Backup, Step::Note, Step::Hosts];
    for state in ["nothing", "theirs", "ours", "ours, edited"] {
        for (number, last) in steps.into_iter().enumerate() {
            for then_install in [false, true] {
                let root = tempfile::tempdir().unwrap();
                let file = root.path().join("ghcr.io/hosts.toml");
                prepare(root.path(), state);
                let options = options(root.path(), "ghcr.io");
                let plan = plan(&options, &options.roots, &options.registries[0]).unwrap();
                let mut stop = |step| if step == last { Err(cut_short()) } else { Ok(()) };
                assert!(carry_out(&plan, &options.entry, 0, &mut stop).is_err(), "{state} {number}");
                if then_install {
                    install(&options).unwrap();
                    let text = fs::read_to_string(&file).unwrap();
                    assert_eq!(text.matches("[host.\"http://127.0.0.1:").count(), 1, "{text}");
                }
                removed(root.path());
                let expected = match state {
                    "nothing" => None,
                    "ours, edited" => Some(ORIGINAL.replace("# theirs", "# theirs, edited")),
                    _ => Some(ORIGINAL.to_owned()),
                };
                let left = fs::read_to_string(&file).ok();
                assert_eq!(
                    left, expected,
                    "{state}, cut after step {number}, installed again: {then_install}"
                );
                let files = tree(root.path()).values().flatten().count();
                assert_eq!(
                    files,
                    usize::from(expected.is_some()),
                    "{state} {number}: {:?}",
                    tree(root.path())
                );
            }
        }
        for last in [remove::Step::Hosts, remove::Step::Backup, remove::Step::Note] {
            let root = tempfile::tempdir().unwrap();
            prepare(root.path(), state);
            install(&options(root.path(), "ghcr.io")).unwrap();
            let folder = Folder::new(root.path().join("ghcr.io"));
            let mut stop = |step| if step == last { Err(cut_short()) } else { Ok(()) };
            assert!(remove::take_back(&folder, &mut BTreeSet::new(), &mut stop).is_err());
            removed(root.path());
            let left = fs::read_to_string(folder.hosts_path()).ok();
            let expected = match state {
                "nothing" => None,
                "ours, edited" => Some(ORIGINAL.replace("# theirs", "# theirs, edited")),
                _ => Some(ORIGINAL.to_owned()),
            };
            assert_eq!(left, expected, "{state}, remove cut after {last:?}");
        }
    }
}

#[test]
fn installs_and_removes_at_once_lose_nothing() {
    let root = tempfile::tempdir().unwrap();
    let certs = root.path().join("certs.d");
    let file = certs.join("ghcr.io/hosts.toml");
    write(&file, ORIGINAL);
    let before = tree(root.path());
    std::thread::scope(|scope| {
        for number in 0..8 {
            let certs = &certs;
            scope.spawn(move || {
                for round in 0..10 {
                    if (number + round) % 3 == 0 {
                        removed(certs);
                    } else {
                        install(&options(certs, "ghcr.io,docker.io")).unwrap();
                    }
                }
            });
        }
    });
    removed(&certs);
    assert_eq!(tree(root.path()), before);
}

#[test]
fn what_others_write_between_plan_and_write_is_not_overwritten() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("ghcr.io/hosts.toml");
    let theirs = "server = \"https://written.meanwhile\"\n";
    for first in [None, Some(ORIGINAL)] {
        for at in [Step::Folder, Step::Backup, Step::Note] {
            fs::remove_dir_all(root.path().join("ghcr.io")).ok();
            if let Some(first) = first {
                write(&file, first);
            }
            let options = options(root.path(), "ghcr.io");
            let plan = plan(&options, &options.roots, &options.registries[0]).unwrap();
            let mut others = |step| {
                if step == at {
                    // Replaces the file by a new one, as configuration management does.
                    fs::remove_file(&file).ok();
                    write(&file, theirs);
                }
                Ok(())
            };
            let error = carry_out(&plan, &options.entry, 0, &mut others).unwrap_err();
            assert!(matches!(error, FileError::ChangedMeanwhile), "{error}");
            assert_eq!(fs::read_to_string(&file).unwrap(), theirs, "{at:?}");
            removed(root.path());
            assert_eq!(fs::read_to_string(&file).unwrap(), theirs, "{at:?}");
        }
    }
}
