//! Checkpoints: made, copied, restored from any folder; and an index that fails while running.

use std::path::{Path, PathBuf};

use crate::support::*;
use granary_meta::records::{BucketOptions, Versioning};
use granary_meta::{IndexSource, MetaStore, Proposer};
use granary_types::BucketId;

const BUCKET: BucketId = BucketId(1);

fn fill(store: &MetaStore, from: u64, to: u64) {
    for n in from..=to {
        propose(store, put_inline(BUCKET, &format!("k{n}"), n, &vec![n as u8; 2000]));
    }
}

fn holds(store: &MetaStore, count: u64) {
    for n in 1..=count {
        let found = store.index().current_with_inline(BUCKET, &key(&format!("k{n}"))).unwrap();
        let found = found.unwrap_or_else(|| panic!("k{n} is lost"));
        assert_eq!(found.inline.unwrap(), vec![n as u8; 2000]);
    }
    assert_eq!(store.index().usage(BUCKET).unwrap().objects, count);
    assert_eq!(store.index().list(BUCKET, "", None, None, 100_000).unwrap().objects.len() as u64, count);
}

fn begun(dir: &Path, drives: u8, mirrors: usize) -> MetaStore {
    let (store, _) = open(dir, drives, mirrors);
    make_bucket(&store, 1, Versioning::Off, BucketOptions::default());
    store
}

fn walk(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => files.extend(walk(&entry.path())),
            false => files.push(entry.path()),
        }
    }
    files
}

fn lose_index(dir: &Path, drives: u8) {
    for drive in 0..drives {
        let _ = std::fs::remove_dir_all(folder(dir, drive).path.join("index"));
    }
}

fn log_files(dir: &Path) -> usize {
    walk(&folder(dir, 0).path.join("log")).iter().filter(|p| p.extension().is_some_and(|e| e == "log")).count()
}

#[test]
fn the_log_is_cut_to_the_oldest_checkpoint_and_the_index_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let store = begun(dir.path(), 3, 2);
    fill(&store, 1, 400);
    let before = log_files(dir.path());
    assert!(before > 5, "{before}");
    store.checkpoint().unwrap();
    fill(&store, 401, 450);
    store.checkpoint().unwrap();
    store.checkpoint().unwrap();
    fill(&store, 451, 500);
    // The cut is asked for when a checkpoint is complete, and made before the next frame.
    assert!(log_files(dir.path()) < before, "{} of {before}", log_files(dir.path()));
    drop(store);
    lose_index(dir.path(), 3);
    let (store, report) = open(dir.path(), 3, 2);
    assert!(matches!(report.index, IndexSource::Checkpoint(_, 451)), "{report:?}");
    holds(&store, 500);
}

#[test]
fn a_clean_shutdown_leaves_nothing_to_replay() {
    let dir = tempfile::tempdir().unwrap();
    let store = begun(dir.path(), 2, 2);
    fill(&store, 1, 100);
    store.close().unwrap();
    drop(store);
    let (store, report) = open(dir.path(), 2, 2);
    assert_eq!(report.replayed, 0);
    assert!(matches!(report.index, IndexSource::Live(_)), "{report:?}");
    holds(&store, 100);
    drop(store);
    // Any one drive is enough, without its live index.
    for lost in 0..2 {
        let copy = tempfile::tempdir().unwrap();
        copy_tree(dir.path(), copy.path());
        std::fs::remove_dir_all(folder(copy.path(), lost).path).unwrap();
        lose_index(copy.path(), 2);
        holds(&open(copy.path(), 2, 2).0, 100);
    }
}

#[test]
fn bad_checkpoint_files_are_taken_from_another_drive_or_an_older_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let store = begun(dir.path(), 2, 2);
    fill(&store, 1, 50);
    store.checkpoint().unwrap();
    fill(&store, 51, 90);
    store.checkpoint().unwrap();
    fill(&store, 91, 100);
    drop(store);
    lose_index(dir.path(), 2);
    let damage = |dir: &Path, drive: u8, pick: &dyn Fn(&Path) -> bool| {
        let files = walk(&folder(dir, drive).path.join("checkpoint"));
        let picked: Vec<_> = files.into_iter().filter(|p| pick(p)).collect();
        assert!(!picked.is_empty());
        for path in picked {
            let mut bytes = std::fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
            std::fs::write(path, bytes).unwrap();
        }
    };
    let ext = |path: &Path, e: &str| path.extension().is_some_and(|x| x == e);

    let copy = tempfile::tempdir().unwrap();
    copy_tree(dir.path(), copy.path());
    damage(copy.path(), 0, &|p| ext(p, "sst"));
    damage(copy.path(), 1, &|p| ext(p, "blob"));
    let (store, report) = open(copy.path(), 2, 2);
    assert!(matches!(report.index, IndexSource::Checkpoint(_, 91)), "{report:?}");
    holds(&store, 100);

    // The newest checkpoint's own manifest bad on all drives: the one before it, and more of the log.
    let copy = tempfile::tempdir().unwrap();
    copy_tree(dir.path(), copy.path());
    for drive in 0..2 {
        damage(copy.path(), drive, &|p| p.ends_with("0000000000000002/CHECKPOINT"));
    }
    let (store, report) = open(copy.path(), 2, 2);
    assert!(matches!(report.index, IndexSource::Checkpoint(_, 51)), "{report:?}");
    holds(&store, 100);

    // No checkpoint is good, and the log no longer begins at its beginning or does: then it alone is enough.
    let copy = tempfile::tempdir().unwrap();
    copy_tree(dir.path(), copy.path());
    for drive in 0..2 {
        std::fs::remove_dir_all(folder(copy.path(), drive).path.join("checkpoint")).unwrap();
    }
    match MetaStore::open(options(copy.path(), 2, 2)) {
        Ok((store, report)) => {
            assert_eq!(report.index, IndexSource::Log);
            holds(&store, 100);
        }
        Err(error) => assert!(matches!(error, granary_meta::MetaError::LogDamaged(_)), "{error}"),
    }
}

#[test]
fn checkpoints_are_incremental_and_pruned() {
    let dir = tempfile::tempdir().unwrap();
    let store = begun(dir.path(), 1, 1);
    fill(&store, 1, 500);
    store.checkpoint().unwrap();
    let copied = || store.stats().snapshot().into_iter().find(|(n, _)| *n == "checkpoint_bytes").unwrap().1;
    let first = copied();
    fill(&store, 501, 510);
    store.checkpoint().unwrap();
    let second = copied() - first;
    assert!(second < first / 3, "{second} after {first}");
    for _ in 0..4 {
        store.checkpoint().unwrap();
    }
    let manifests = walk(&folder(dir.path(), 0).path.join("checkpoint"));
    assert_eq!(manifests.iter().filter(|p| p.ends_with("CHECKPOINT")).count(), 2);
}

#[test]
fn an_index_that_fails_while_running_is_restored_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let store = begun(dir.path(), 2, 2);
    fill(&store, 1, 200);
    store.checkpoint().unwrap();
    fill(&store, 201, 250);
    let before = store.index().load().unwrap().path().to_owned();
    assert!(before.starts_with(&folder(dir.path(), 0).path));
    // Every table and blob of the live index is destroyed under it.
    for path in walk(&before) {
        if path.extension().is_some_and(|e| e == "sst" || e == "blob") {
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            let len = file.metadata().unwrap().len();
            std::os::unix::fs::FileExt::write_all_at(&file, &vec![0xee; len as usize], 0).unwrap();
        }
    }
    // Somebody meets it, if only by reading; then it is replaced.
    loop {
        match store.index().load() {
            Err(_) => {}
            Ok(index) if index.path() != before => break,
            Ok(index) => {
                for n in 1..=200 {
                    let _ = index.current_with_inline(BUCKET, &key(&format!("k{n}")));
                }
            }
        }
        std::thread::yield_now();
    }
    assert!(store.index().load().unwrap().path().starts_with(folder(dir.path(), 1).path));
    holds(&store, 250);
    while store.ready().is_err() {
        std::thread::yield_now();
    }
    fill(&store, 251, 260);
    holds(&store, 260);
    drop(store);
    holds(&open(dir.path(), 2, 2).0, 260);
}

#[test]
fn withdrawing_the_index_drive_moves_the_index() {
    let dir = tempfile::tempdir().unwrap();
    let store = begun(dir.path(), 3, 2);
    fill(&store, 1, 60);
    store.withdraw(folder(dir.path(), 0).drive_id);
    assert!(!store.index().load().unwrap().path().starts_with(folder(dir.path(), 0).path));
    holds(&store, 60);
    fill(&store, 61, 70);
    store.close().unwrap();
    drop(store);
    std::fs::remove_dir_all(folder(dir.path(), 0).path).unwrap();
    holds(&open(dir.path(), 3, 2).0, 70);
}
