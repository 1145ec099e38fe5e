//! Space: full drives, reserve, reclaim, reuse of segments, readers in the way.

use std::sync::Arc;

use super::{open, options};
use crate::LocalDrive;
use crate::api::{DriveError, DriveHealth, ShardStore};
use crate::io::{self, EngineKind};
use crate::testing::conformance::{content, spec, write};

fn disk_bytes(segments: &[Arc<crate::space::Segment>]) -> u64 {
    segments.iter().map(|s| s.file.disk_bytes().unwrap()).sum()
}

#[tokio::test]
async fn a_full_drive_refuses_early_and_still_deletes_and_closes() {
    let dir = tempfile::tempdir().unwrap();
    let engine = io::start(EngineKind::Ring);
    let mut options = options(dir.path(), Arc::clone(&engine));
    options.limit_bytes = Some(32 << 20);
    options.reserve_bytes = 4 << 20;
    let drive = LocalDrive::open(options).unwrap();
    let mut specs = Vec::new();
    let refused = loop {
        let spec = spec(if specs.len() % 2 == 0 { 1 << 20 } else { 65_536 });
        match write(&drive, &spec, 1 << 20).await {
            Ok(()) => specs.push(spec),
            Err(error) => break error,
        }
    };
    assert!(matches!(refused, DriveError::Full { .. }), "{refused}");
    assert!(specs.len() > 40, "{}", specs.len());
    let space = drive.space();
    assert!(space.used_bytes <= (32 - 4) << 20 && space.free_bytes < 2 << 20, "{space:?}");
    while write(&drive, &spec(65_536), 65_536).await.is_ok() {}
    assert_eq!(drive.health(), DriveHealth::Full);
    assert!(!drive.health().writable() && drive.health().readable());
    for spec in &specs {
        assert!(drive.verify(spec.shard).await.unwrap().is_clean());
    }
    // Deleting makes room, also without being asked to reclaim.
    drive.free(specs.iter().map(|s| s.shard).collect()).await.unwrap();
    for _ in 0..20 {
        write(&drive, &spec(1 << 20), 1 << 20).await.unwrap();
    }
    drive.close().await.unwrap();
    assert!(open(dir.path(), engine).recovery().clean);
}

#[tokio::test]
async fn a_reserve_larger_than_the_disk_leaves_nothing_to_write() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), io::start(EngineKind::Pool));
    options.reserve_bytes = u64::MAX / 2;
    let drive = LocalDrive::open(options).unwrap();
    assert_eq!(drive.health(), DriveHealth::Full);
    assert!(matches!(write(&drive, &spec(4096), 4096).await, Err(DriveError::Full { .. })));
    drive.close().await.unwrap();
}

#[tokio::test]
async fn freed_space_goes_back_to_the_file_system() {
    let dir = tempfile::tempdir().unwrap();
    let drive = open(dir.path(), io::start(EngineKind::Ring));
    let specs: Vec<_> = (0..60).map(|n| spec(if n % 3 == 0 { 1 << 20 } else { 65_536 })).collect();
    for spec in &specs {
        write(&drive, spec, 1 << 20).await.unwrap();
    }
    let segments = drive.core().space.segments();
    let before = disk_bytes(&segments);
    // Every large one: holes in every segment, but no segment empty.
    let large: Vec<_> = specs.iter().filter(|s| s.shard_bytes == 1 << 20).map(|s| s.shard).collect();
    drive.free(large.clone()).await.unwrap();
    drive.reclaim().await.unwrap();
    drive.reclaim().await.unwrap();
    assert!(disk_bytes(&segments) + (18 << 20) < before, "{} of {before}", disk_bytes(&segments));
    assert!(drive.stats().punches.get() >= 15);
    for spec in specs.iter().filter(|s| s.shard_bytes != 1 << 20) {
        assert!(drive.read(spec.shard, 0, 65_536).await.unwrap()[..] == content(spec.shard, 65_536)[..]);
    }
    // Now everything: segments are used anew, not piled up.
    drive.free(specs.iter().map(|s| s.shard).collect()).await.unwrap();
    drive.reclaim().await.unwrap();
    drive.reclaim().await.unwrap();
    assert_eq!(drive.space().used_bytes, 0);
    // One may be kept as spare beside the one in use; files beyond that are removed.
    assert!(drive.core().space.segments().len() <= 3, "{}", drive.core().space.segments().len());
}

#[tokio::test]
async fn segments_go_round_and_round_and_old_headers_stay_dead() {
    let dir = tempfile::tempdir().unwrap();
    let engine = io::start(EngineKind::Ring);
    let drive = open(dir.path(), Arc::clone(&engine));
    let mut last = Vec::new();
    for _ in 0..12 {
        let specs: Vec<_> = (0..20).map(|_| spec(500 * 1024 / 4096 * 4096)).collect();
        for spec in &specs {
            write(&drive, spec, 1 << 20).await.unwrap();
        }
        drive.free(last.iter().map(|s: &crate::ShardSpec| s.shard).collect()).await.unwrap();
        drive.reclaim().await.unwrap();
        last = specs;
    }
    assert!(drive.stats().recycled.get() >= 3, "{}", drive.stats().recycled.get());
    assert!(drive.core().space.segments().len() <= 6, "{}", drive.core().space.segments().len());
    drop(drive);
    // Neither a crash nor the loss of the index brings anything old back.
    for lose_index in [false, true] {
        if lose_index {
            std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let drive = open(dir.path(), Arc::clone(&engine));
        let listed = drive.scan(None, 1000).await.unwrap().len();
        assert!((20..=40).contains(&listed), "{listed}: {}", drive.recovery());
        for spec in &last {
            assert!(drive.verify(spec.shard).await.unwrap().is_clean());
        }
        drop(drive);
    }
}

#[tokio::test]
async fn a_reader_keeps_what_it_reads() {
    let dir = tempfile::tempdir().unwrap();
    let drive = open(dir.path(), io::start(EngineKind::Ring));
    let spec_a = spec(1 << 20);
    write(&drive, &spec_a, 1 << 20).await.unwrap();
    let used = drive.space().used_bytes;
    let pin = drive.core().epochs.pin();
    drive.free(vec![spec_a.shard]).await.unwrap();
    for _ in 0..3 {
        drive.reclaim().await.unwrap();
    }
    assert_eq!(drive.space().used_bytes, used, "a reader from before the free is still there");
    assert_eq!(drive.stats().punches.get(), 0);
    drop(pin);
    drive.reclaim().await.unwrap();
    assert_eq!(drive.space().used_bytes, 0);
}
