//! What the log survives: torn tails, flipped bits, lost mirrors. And what it refuses.

use std::path::{Path, PathBuf};

use crate::support::*;
use granary_meta::command::Outcome;
use granary_meta::records::{BucketOptions, Versioning};
use granary_meta::{IndexSource, MetaError, MetaStore, Proposer};
use granary_types::BucketId;

const BUCKET: BucketId = BucketId(1);
const BLOCK: usize = 4096;

/// A store that holds `count` objects, as a crash would leave its folders (a copy, made while it runs).
fn crashed(drives: u8, mirrors: usize, count: u64, payload: usize) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), drives, mirrors);
    make_bucket(&store, 1, Versioning::Off, BucketOptions::default());
    for n in 1..=count {
        assert!(matches!(
            propose(&store, put_inline(BUCKET, &format!("k{n}"), n, &vec![n as u8; payload])),
            Outcome::Put { .. }
        ));
    }
    let copy = tempfile::tempdir().unwrap();
    copy_tree(dir.path(), copy.path());
    copy
}

fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_tree(dir, copy.path());
    copy
}

fn holds(store: &MetaStore, count: u64, payload: usize) {
    for n in 1..=count {
        let found = store.index().current_with_inline(BUCKET, &key(&format!("k{n}"))).unwrap();
        let found = found.unwrap_or_else(|| panic!("k{n} is lost"));
        assert_eq!(found.inline.unwrap(), vec![n as u8; payload]);
    }
    assert_eq!(store.index().usage(BUCKET).unwrap().objects, count);
}

fn log_files(dir: &Path, drive: u8) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder(dir, drive).path.join("log")).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries.map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "log")).collect();
    files.sort();
    files
}

/// Frames of the newest log file that has any: file, and where each begins and ends.
fn frames(dir: &Path, drive: u8) -> (PathBuf, Vec<(usize, usize)>) {
    for path in log_files(dir, drive).into_iter().rev() {
        let bytes = std::fs::read(&path).unwrap();
        let starts: Vec<usize> =
            (BLOCK..bytes.len()).step_by(BLOCK).filter(|at| &bytes[*at..*at + 4] == b"GLOG").collect();
        if starts.is_empty() {
            continue;
        }
        let mut ends = starts[1..].to_vec();
        let used = bytes.iter().rposition(|b| *b != 0).unwrap() + 1;
        ends.push(used.next_multiple_of(BLOCK));
        return (path, starts.into_iter().zip(ends).collect());
    }
    panic!("no frames")
}

fn overwrite(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(path).unwrap();
    change(&mut bytes);
    std::fs::write(path, bytes).unwrap();
}

#[test]
fn all_is_there_after_a_crash_and_after_a_drop() {
    let dir = crashed(3, 2, 40, 900);
    let (store, report) = open(dir.path(), 3, 2);
    holds(&store, 40, 900);
    assert_eq!(report.replayed, 41);
    assert_eq!(report.last_position, 41);
    drop(store);
    let (store, _) = open(dir.path(), 3, 2);
    holds(&store, 40, 900);
    propose(&store, put_inline(BUCKET, "k41", 41, &[41; 900]));
    drop(store);
    holds(&open(dir.path(), 3, 2).0, 41, 900);
}

#[test]
fn a_torn_tail_is_cut_wherever_it_tears() {
    let crashed = crashed(1, 1, 5, 10_000);
    let (path, frames) = frames(crashed.path(), 0);
    let (start, end) = *frames.last().unwrap();
    let relative = path.strip_prefix(crashed.path()).unwrap().to_owned();
    for keep_old in [false, true] {
        for cut in (start..end - BLOCK).step_by(512) {
            let dir = copy_of(crashed.path());
            overwrite(&dir.path().join(&relative), |bytes| {
                // What the disk did not write is zeros, or what was there before.
                bytes[cut..end].fill(if keep_old { 0x5a } else { 0 });
            });
            let (store, report) = open(dir.path(), 1, 1);
            holds(&store, 4, 10_000);
            assert_eq!(report.torn_tail, cut > start || keep_old, "cut at {cut} of {start}..{end}");
            propose(&store, put_inline(BUCKET, "k5", 55, &[5; 10_000]));
            drop(store);
            let (store, report) = open(dir.path(), 1, 1);
            holds(&store, 5, 10_000);
            assert!(!report.torn_tail);
        }
    }
}

#[test]
fn a_flipped_bit_on_one_mirror_is_repaired_from_the_other() {
    let crashed = crashed(2, 2, 30, 200);
    let (path, frames) = frames(crashed.path(), 0);
    let relative = path.strip_prefix(crashed.path()).unwrap().to_owned();
    for (n, (start, _)) in frames.iter().enumerate().step_by(7) {
        for at in [0, 13, 20, 60, 97, 200] {
            let dir = copy_of(crashed.path());
            overwrite(&dir.path().join(&relative), |bytes| bytes[start + at] ^= 1 << (n % 8));
            let (store, report) = open(dir.path(), 2, 2);
            holds(&store, 30, 200);
            assert_eq!(report.repaired.len(), 1, "flip at {at} in frame {n}");
            drop(store);
            // The repaired copy stands alone.
            std::fs::remove_dir_all(folder(dir.path(), 1).path).unwrap();
            std::fs::remove_dir_all(folder(dir.path(), 0).path.join("index")).unwrap();
            holds(&open(dir.path(), 2, 2).0, 30, 200);
        }
    }
}

#[test]
fn different_damage_on_every_mirror_is_repaired_on_all() {
    let dir = crashed(3, 3, 30, 200);
    for drive in 0..3 {
        let (path, frames) = frames(dir.path(), drive);
        let (start, _) = frames[5 + usize::from(drive)];
        overwrite(&path, |bytes| bytes[start + 100] ^= 0xff);
    }
    let (store, report) = open(dir.path(), 3, 3);
    holds(&store, 30, 200);
    assert_eq!(report.repaired.len(), 3);
}

#[test]
fn the_same_frame_bad_on_every_mirror_is_refused_loudly() {
    let dir = crashed(2, 2, 30, 200);
    for drive in 0..2 {
        let (path, frames) = frames(dir.path(), drive);
        overwrite(&path, |bytes| bytes[frames[10].0 + 100] ^= 1);
    }
    let error = MetaStore::open(options(dir.path(), 2, 2)).unwrap_err();
    assert!(matches!(error, MetaError::LogDamaged(_)), "{error}");
    let mut accept = options(dir.path(), 2, 2);
    accept.accept_log_loss = true;
    let (store, report) = MetaStore::open(accept).unwrap();
    // The first frame makes the bucket, the eleventh would have been object 10.
    holds(&store, 9, 200);
    assert!(!report.problems.is_empty());
    propose(&store, put_inline(BUCKET, "k10", 100, &[10; 200]));
    drop(store);
    holds(&open(dir.path(), 2, 2).0, 10, 200);
}

#[test]
fn a_missing_file_between_others_is_refused() {
    let dir = crashed(1, 1, 200, 2000);
    let files = log_files(dir.path(), 0);
    assert!(files.len() > 3, "{files:?}");
    std::fs::remove_file(&files[1]).unwrap();
    let error = MetaStore::open(options(dir.path(), 1, 1)).unwrap_err();
    assert!(matches!(error, MetaError::LogDamaged(_)), "{error}");
}

#[test]
fn any_mirrors_but_one_may_be_lost() {
    let crashed = crashed(4, 3, 100, 1500);
    for survivor in 0..3 {
        let dir = copy_of(crashed.path());
        for drive in (0..4).filter(|d| *d != survivor) {
            std::fs::remove_dir_all(folder(dir.path(), drive).path).unwrap();
        }
        let (store, report) = open(dir.path(), 4, 3);
        holds(&store, 100, 1500);
        assert_eq!(report.mirrors.len(), 3, "new mirrors were brought up");
        drop(store);
        // Any of those now suffices too.
        for drive in 0..4 {
            if folder(dir.path(), drive).drive_id != *report.mirrors.last().unwrap() {
                std::fs::remove_dir_all(folder(dir.path(), drive).path).unwrap();
            }
        }
        let (store, report) = open(dir.path(), 4, 3);
        holds(&store, 100, 1500);
        assert_eq!(report.index, IndexSource::Log);
    }
}

#[test]
fn nothing_where_something_should_be_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), 2, 2);
    options.expect_existing = true;
    assert!(matches!(MetaStore::open(options).unwrap_err(), MetaError::Layout(_)));
}

#[test]
fn two_stores_do_not_share_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let (_store, _) = open(dir.path(), 1, 1);
    assert!(matches!(MetaStore::open(options(dir.path(), 1, 1)).unwrap_err(), MetaError::Layout(_)));
}

#[test]
fn a_wrong_key_opens_nothing_and_harms_nothing() {
    let dir = crashed(1, 1, 5, 10);
    let mut wrong = options(dir.path(), 1, 1);
    wrong.log_key = granary_meta::MetaKey([99; 32]);
    wrong.index_key = Some(granary_meta::MetaKey([98; 32]));
    // Without the key check every frame would look torn, and the log would be cut off at its first.
    assert!(matches!(MetaStore::open(wrong).unwrap_err(), MetaError::Layout(_)));
    holds(&open(dir.path(), 1, 1).0, 5, 10);
}

#[test]
fn nothing_readable_is_on_the_drives() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), 2, 2);
    let bucket = make_bucket(&store, 1, Versioning::Off, BucketOptions::default());
    propose(&store, put_inline(bucket, "a-telling-key-name", 1, b"a telling payload, long enough to see"));
    store.close().unwrap();
    fn look(path: &Path, seen: &mut usize) {
        for entry in std::fs::read_dir(path).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                look(&entry.path(), seen);
                continue;
            }
            let bytes = std::fs::read(entry.path()).unwrap();
            *seen += 1;
            for secret in [&b"telling"[..], b"bucket-1"] {
                assert!(!bytes.windows(secret.len()).any(|w| w == secret), "{}", entry.path().display());
            }
        }
    }
    let mut seen = 0;
    look(dir.path(), &mut seen);
    assert!(seen > 8);
}

#[test]
fn a_mirror_that_fails_is_dropped_and_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let (store, report) = open(dir.path(), 3, 2);
    assert_eq!(report.mirrors, [folder(dir.path(), 0).drive_id, folder(dir.path(), 1).drive_id]);
    make_bucket(&store, 1, Versioning::Off, BucketOptions::default());
    std::fs::remove_dir_all(folder(dir.path(), 1).path).unwrap();
    let mut n = 0;
    // The loss shows when the next file is begun; then the standby is brought up to date.
    while !store.mirrors().contains(&folder(dir.path(), 2).drive_id) {
        n += 1;
        assert!(n < 20_000, "no replacement came");
        propose(&store, put_inline(BUCKET, &format!("k{n}"), n, &vec![n as u8; 3000]));
    }
    n += 1;
    propose(&store, put_inline(BUCKET, &format!("k{n}"), n, &vec![n as u8; 3000]));
    drop(store);
    for drive in 0..2 {
        let _ = std::fs::remove_dir_all(folder(dir.path(), drive).path);
    }
    holds(&open(dir.path(), 3, 2).0, n, 3000);
}

#[test]
fn losing_every_mirror_stops_writes_and_keeps_reads() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), 2, 2);
    make_bucket(&store, 1, Versioning::Off, BucketOptions::default());
    propose(&store, put_inline(BUCKET, "k1", 1, &[1; 100]));
    store.withdraw(folder(dir.path(), 1).drive_id);
    propose(&store, put_inline(BUCKET, "k2", 2, &[2; 100]));
    store.withdraw(folder(dir.path(), 0).drive_id);
    let late = futures::executor::block_on(store.propose(put_inline(BUCKET, "k3", 3, &[3; 100])));
    assert!(matches!(late, Err(MetaError::Unavailable(_))), "{late:?}");
    assert!(store.ready().is_err());
    holds(&store, 2, 100);
    drop(store);
    holds(&open(dir.path(), 2, 2).0, 2, 100);
}

#[test]
fn a_withdrawn_drive_can_be_offered_again() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = open(dir.path(), 2, 2);
    make_bucket(&store, 1, Versioning::Off, BucketOptions::default());
    for n in 1..=50 {
        propose(&store, put_inline(BUCKET, &format!("k{n}"), n, &vec![n as u8; 2000]));
        if n == 10 {
            store.withdraw(folder(dir.path(), 1).drive_id);
            assert_eq!(store.mirrors(), [folder(dir.path(), 0).drive_id]);
        }
        if n == 20 {
            store.offer(folder(dir.path(), 1));
        }
    }
    while store.mirrors().len() < 2 {
        std::thread::yield_now();
    }
    propose(&store, put_inline(BUCKET, "k51", 51, &[51; 2000]));
    drop(store);
    std::fs::remove_dir_all(folder(dir.path(), 0).path).unwrap();
    holds(&open(dir.path(), 2, 2).0, 51, 2000);
}
