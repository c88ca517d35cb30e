//! A file that only takes up room. On a disk that is full it is given back, so that the vote, the purge
//! and the hand-over of leadership have some.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

use rand::RngCore;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::limits::BALLAST_PIECE_BYTES;

/// Bytes of the file, 0 if there is none.
pub(super) fn size(path: &Path) -> io::Result<u64> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Makes the file so large, or removes it with 0. What cannot be had whole is given back.
pub(super) fn set(path: &Path, bytes: u64) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ if bytes == 0 => return Ok(()),
        _ => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    allocate(&file, bytes).inspect_err(|_| {
        fs::remove_file(path).ok();
    })
}

/// Really allocated: a length alone takes up nothing.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill(file, bytes),
        allocated => Ok(allocated?),
    }
}

/// Random bytes: a file system that compresses (zfs) would make nothing of zeros.
fn fill(mut file: &File, bytes: u64) -> io::Result<()> {
    let mut piece = vec![0; BALLAST_PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        rand::rng().fill_bytes(&mut piece);
        let now = left.min(BALLAST_PIECE_BYTES as u64);
        file.write_all(&piece[..now as usize])?;
        left -= now;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_ballast_takes_up_its_room_and_gives_it_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ballast");
        assert_eq!(size(&path).unwrap(), 0);
        set(&path, 0).unwrap();
        for bytes in [3_000_000, 1_000_000] {
            set(&path, bytes).unwrap();
            assert_eq!(size(&path).unwrap(), bytes);
            assert!(fs::metadata(&path).unwrap().blocks() * 512 >= bytes, "it is a hole");
        }
        set(&path, 0).unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn where_nothing_can_be_allocated_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ballast");
        let bytes = BALLAST_PIECE_BYTES as u64 + 7;
        fill(&File::create(&path).unwrap(), bytes).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert_eq!(metadata.len(), bytes);
        assert!(metadata.blocks() * 512 >= bytes, "it is a hole");
    }
}
