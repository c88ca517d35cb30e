//! Tests of the file of a cluster secret.

use std::os::unix::fs::symlink;

use super::*;

const NOW: i64 = 1_796_133_061;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn it_is_made_for_its_owner_alone_and_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let made = create(&path, NOW).unwrap();
    assert_eq!(mode(&path), 0o600);
    assert_eq!(read(&path).unwrap().newest().facts(), made.newest().facts());
    let before = fs::read(&path).unwrap();
    assert!(matches!(create(&path, NOW), Err(SecretError::Exists { .. })));
    assert_eq!(fs::read(&path).unwrap(), before);
    let link = folder.path().join("link");
    symlink(folder.path().join("nowhere"), &link).unwrap();
    assert!(matches!(create(&link, NOW), Err(SecretError::Exists { .. })));
    assert_eq!(count(folder.path()), 2, "nothing else is left");
    let nowhere = create(&folder.path().join("no/folder"), NOW).unwrap_err();
    assert!(matches!(nowhere, SecretError::File { .. }), "{nowhere}");
}

#[test]
fn a_file_that_others_can_open_is_refused_with_the_mode_that_is_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    create(&path, NOW).unwrap();
    for wrong in [0o640, 0o604, 0o644, 0o620, 0o601, 0o660, 0o777] {
        set_mode(&path, wrong);
        let said = read(&path).unwrap_err().to_string();
        let expected = format!("chmod 600 {}", path.display());
        assert!(said.contains(&expected) && said.contains(&format!("mode {wrong:04o}")), "{said}");
        assert!(matches!(change(&path, |_| Ok(())), Err(SecretError::TooOpen { .. })));
    }
    for right in [0o600, 0o400, 0o700] {
        set_mode(&path, right);
        assert!(read(&path).is_ok(), "{right:o}");
    }
}

#[test]
fn what_is_no_secret_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    assert!(matches!(read(&path), Err(SecretError::File { action: "read", .. })));
    assert!(matches!(read(folder.path()), Err(SecretError::NotAFile { .. })));
    assert!(matches!(read(Path::new("/dev/null")), Err(SecretError::NotAFile { .. })));
    fs::write(&path, "").unwrap();
    set_mode(&path, 0o600);
    let empty = read(&path).unwrap_err();
    assert!(matches!(empty, SecretError::Content { source: SecretProblem::Empty, .. }), "{empty}");
    assert!(empty.to_string().contains(&path.display().to_string()), "{empty}");
    fs::write(&path, vec![b'\n'; SECRET_BYTES_MAX as usize + 1]).unwrap();
    assert!(matches!(read(&path), Err(SecretError::TooLarge { .. })));
}

#[test]
fn a_change_is_whole_or_none_and_keeps_links_and_owners() {
    let folder = tempfile::tempdir().unwrap();
    let (path, link) = (folder.path().join("secret"), folder.path().join("link"));
    create(&path, NOW).unwrap();
    symlink(&path, &link).unwrap();
    let is_root = fs::metadata(&path).unwrap().uid() == 0;
    if is_root {
        std::os::unix::fs::chown(&path, Some(12_345), Some(12_346)).unwrap();
    }
    let changed = change(&link, |secret| secret.add(NOW)).unwrap();
    assert_eq!(changed.authorities().len(), 2);
    assert_eq!(read(&path).unwrap().authorities().len(), 2);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let metadata = fs::metadata(&path).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o600);
    assert!(!is_root || (metadata.uid(), metadata.gid()) == (12_345, 12_346));
    change(&path, ClusterSecret::retire).unwrap();
    let before = fs::read(&path).unwrap();
    let last = change(&path, ClusterSecret::retire).unwrap_err();
    assert!(matches!(last, SecretError::Content { source: SecretProblem::Last, .. }), "{last}");
    assert_eq!(fs::read(&path).unwrap(), before);
    assert_eq!(count(folder.path()), 2, "nothing else is left");

    let held = File::open(&path).unwrap();
    held.lock().unwrap();
    assert!(matches!(change(&path, |secret| secret.add(NOW)), Err(SecretError::Busy { .. })));
}
