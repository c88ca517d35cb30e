//! Levels in the state: what is written before one begins, what begins with it, and who refuses it.

#![expect(clippy::disallowed_methods, reason = "a deadline of a test is in real time")]

use std::time::Duration;

use super::*;
use crate::command::{Command, Reply};
use crate::disk::FolderDisk;
use crate::format::{Level, Next, next};
use crate::snapshot::SnapshotData;
use crate::testing::{entry, write};

const BEYOND: Reply = Reply::BeyondLevel { needs: Level::NEXT_BUILD, active: Level::FIRST };
const DONE: Reply = Reply::Applied { changed: 0 };

fn open(folder: &std::path::Path) -> Result<Index, IndexError> {
    let disk = FolderDisk::open(folder).unwrap();
    let end = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        // The one before closes its file a moment after it is dropped.
        match Index::open(&disk) {
            Err(IndexError::Open { .. }) if std::time::Instant::now() < end => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

fn advertise(host: u8) -> Command {
    Command::Advertise(write(host, &["r/a:1", "r/b:1"]))
}

fn noted(host: u8) -> Command {
    Command::NotedAdvertise(write(host, &["r/c:1"]))
}

async fn apply(index: &Index, first: u64, commands: Vec<Command>) -> Vec<Reply> {
    let entries: Vec<_> = (first..).zip(commands).map(|(at, command)| entry(at, command)).collect();
    index.apply(&entries).await.unwrap()
}

/// A folder of the second level, in which the new command was applied.
async fn at_the_second_level(folder: &std::path::Path) -> (u64, u128) {
    let _next = next::on_this_thread();
    let index = open(folder).unwrap();
    apply(&index, 1, vec![advertise(1), Command::Tombstone { node_id: 9 }]).await;
    let activate = Command::Activate { level: Level::NEXT_BUILD };
    let replies = apply(&index, 3, vec![noted(2), activate.clone(), noted(2), activate]).await;
    assert_eq!(replies, [BEYOND, DONE, Reply::Applied { changed: 1 }, Reply::NotApplicable]);
    assert_eq!((index.levels().active, index.noted()), (Level::NEXT_BUILD, 1));
    index.close().await.unwrap();
    index.checksum()
}

#[tokio::test]
async fn a_command_beyond_the_level_is_rejected_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path()).unwrap();
    apply(&index, 1, vec![advertise(1)]).await;
    let before = (index.checksum().1, index.hosts(None), index.counts());
    assert_eq!(apply(&index, 2, vec![noted(1), noted(2)]).await, [BEYOND, BEYOND]);
    assert_eq!((index.checksum().1, index.hosts(None), index.counts()), before);
}

#[tokio::test]
async fn a_level_on_its_way_is_kept_and_forgotten_when_it_begins_or_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let readable = |level, seconds| Command::Readable { level: Level(level), seconds };
    let index = open(folder.path()).unwrap();
    let before = index.checksum().1;
    apply(&index, 1, vec![readable(2, 600)]).await;
    let on_its_way = Levels { active: Level::FIRST, next: Some(Next { level: Level(2), seconds: 600 }) };
    assert_eq!(index.levels(), on_its_way);
    assert_ne!(index.checksum().1, before, "two servers that differ in it must show that");
    index.close().await.unwrap();
    let index = open(folder.path()).unwrap();
    assert_eq!(index.levels(), on_its_way);
    apply(&index, 2, vec![readable(1, 0)]).await;
    assert_eq!((index.levels(), index.checksum().1), (Levels::default(), before));
}

#[tokio::test]
async fn what_is_written_before_the_level_begins_is_what_the_older_build_wrote() {
    let rows = async |is_next: bool| {
        next::set_on_this_thread(is_next);
        let folder = tempfile::tempdir().unwrap();
        let index = open(folder.path()).unwrap();
        apply(&index, 1, vec![advertise(1), Command::Tombstone { node_id: 9 }]).await;
        let (_, data) = SnapshotData::of(&index).await.unwrap();
        let stream: Vec<u8> = data.into_chunks().unwrap().flat_map(|chunk| chunk.unwrap()).collect();
        index.close().await.unwrap();
        next::set_on_this_thread(false);
        // The older build goes on with the folder, and takes the snapshot.
        let index = open(folder.path()).unwrap();
        crate::snapshot::verify(&stream).unwrap();
        (stream, index.checksum())
    };
    assert_eq!(rows(true).await, rows(false).await);
}

#[tokio::test]
async fn a_folder_of_a_level_comes_back_whole_and_is_refused_by_an_older_build_that_names_both() {
    let folder = tempfile::tempdir().unwrap();
    let checksum = at_the_second_level(folder.path()).await;
    let error = open(folder.path()).err().unwrap().to_string();
    assert!(error.contains("runs at level 2, and this piccolo reads levels 1 to 1"), "{error}");
    let _next = next::on_this_thread();
    let index = open(folder.path()).unwrap();
    assert_eq!((index.checksum(), index.noted(), index.levels().active), (checksum, 1, Level::NEXT_BUILD));
    assert_eq!(index.level().get(), Level::NEXT_BUILD, "the log is written so from the start");
}

#[tokio::test]
async fn a_snapshot_of_a_level_is_installed_whole_and_refused_by_an_older_build() {
    let folder = tempfile::tempdir().unwrap();
    let checksum = at_the_second_level(folder.path()).await;
    let other = tempfile::tempdir().unwrap();
    let stream: Vec<u8> = {
        let _next = next::on_this_thread();
        let sender = open(folder.path()).unwrap();
        let (meta, data) = SnapshotData::of(&sender).await.unwrap();
        let stream = data.into_chunks().unwrap().flat_map(|chunk| chunk.unwrap()).collect::<Vec<_>>();
        let (_, data) = crate::snapshot::verify(&stream).unwrap();
        let index = open(other.path()).unwrap();
        index.install(data.into_whole(&meta).unwrap()).await.unwrap();
        assert_eq!((index.checksum(), index.noted(), index.level().get()), (checksum, 1, Level::NEXT_BUILD));
        index.close().await.unwrap();
        assert_eq!(open(other.path()).unwrap().checksum(), checksum);
        stream
    };
    let error = crate::snapshot::verify(&stream).err().unwrap().to_string();
    assert!(error.contains("snapshot has storage format 3, this build reads 2 to 2"), "{error}");
}

#[tokio::test]
async fn an_older_build_applies_nothing_of_a_batch_in_which_a_level_begins_that_it_does_not_know() {
    let folder = tempfile::tempdir().unwrap();
    let index = open(folder.path()).unwrap();
    apply(&index, 1, vec![advertise(1)]).await;
    let before = index.checksum();
    let batch = [entry(2, advertise(2)), entry(3, Command::Activate { level: Level::NEXT_BUILD })];
    for _ in 0..2 {
        let error = index.apply(&batch).await.unwrap_err().to_string();
        assert!(error.contains("runs at level 2, and this piccolo reads levels 1 to 1"), "{error}");
    }
    assert_eq!((index.checksum(), index.refused_level().unwrap().active), (before, Level::NEXT_BUILD));
    index.close().await.unwrap();
    let _next = next::on_this_thread();
    let index = open(folder.path()).unwrap();
    assert_eq!(index.checksum(), before);
    index.apply(&batch).await.unwrap();
    assert_eq!(index.levels().active, Level::NEXT_BUILD);
}

#[test]
fn an_entry_whose_command_needs_a_level_is_written_as_that_says_before_it_is_applied() {
    let version = |command: Command| {
        let bytes = crate::log::encode_entry(Level::FIRST, &entry(1, command));
        u16::from_le_bytes([bytes[0], bytes[1]])
    };
    assert_eq!((version(advertise(1)), version(noted(1))), (2, 3));
    let bytes = crate::log::encode_entry(Level::FIRST, &entry(1, noted(1)));
    let error = crate::log::decode_entry(&bytes).unwrap_err().to_string();
    assert!(error.contains("raft log entry has entry format 3, this build reads 2 to 2"), "{error}");
    let _next = next::on_this_thread();
    assert_eq!(crate::log::decode_entry(&bytes).unwrap(), entry(1, noted(1)));
}
