//! Local drives: conformance on every engine, reopening, damage, poison, refusal of what is not ours.

use std::sync::Arc;

use bytes::Bytes;
use granary_types::ClusterId;
use granary_types::limits::CHUNK_BYTES;

use super::{open, options, sim};
use crate::api::{DriveError, DriveHealth, ShardStore};
use crate::io::{self, EngineKind, IoEngine};
use crate::testing::conformance::{self, content, spec, write};
use crate::testing::{FaultDrive, MemoryDrive};
use crate::{LocalDrive, raw};

async fn conform(engine: Arc<dyn IoEngine>) {
    let dirs = parking_lot::Mutex::new(Vec::new());
    conformance::run(|| {
        let dir = tempfile::tempdir().unwrap();
        let mut options = options(dir.path(), Arc::clone(&engine));
        options.limit_bytes = Some(128 << 20);
        dirs.lock().push(dir);
        async move { Arc::new(LocalDrive::open(options).unwrap()) as Arc<dyn ShardStore> }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_ring() {
    conform(io::start(EngineKind::Ring)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_pool() {
    conform(io::start(EngineKind::Pool)).await;
}

#[tokio::test]
async fn conformance_ring_on_one_thread() {
    conform(io::start(EngineKind::Ring)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_sim() {
    conform(sim(1).1).await;
}

#[tokio::test]
async fn conformance_memory_and_fault() {
    conformance::run(|| async { Arc::new(MemoryDrive::new(128 << 20)) as Arc<dyn ShardStore> }).await;
    conformance::run(|| async {
        Arc::new(FaultDrive::new(Arc::new(MemoryDrive::new(128 << 20)))) as Arc<dyn ShardStore>
    })
    .await;
}

#[tokio::test]
async fn an_orderly_close_leaves_nothing_to_search() {
    let dir = tempfile::tempdir().unwrap();
    let engine = io::start(EngineKind::Ring);
    let drive = open(dir.path(), Arc::clone(&engine));
    let specs = [spec(4096), spec(524_288), spec(9 << 20)];
    for spec in &specs {
        write(&drive, spec, 1 << 20).await.unwrap();
    }
    let used = drive.space().used_bytes;
    drive.close().await.unwrap();
    assert!(drive.read(specs[0].shard, 0, 4096).await.is_err());

    let again = open(dir.path(), engine);
    let report = again.recovery();
    assert!(report.clean && report.scanned_bytes == 0 && report.shards == 3 && report.rebuilt.is_none(), "{report}");
    assert_eq!(again.space().used_bytes, used);
    for spec in &specs {
        assert!(again.verify(spec.shard).await.unwrap().is_clean());
    }
    // And writing goes on in the same segment.
    let before = again.core().space.segments().len();
    write(&again, &spec(4096), 4096).await.unwrap();
    assert_eq!(again.core().space.segments().len(), before);
}

#[tokio::test]
async fn a_drive_that_was_just_dropped_finds_its_shards_again() {
    let dir = tempfile::tempdir().unwrap();
    let engine = io::start(EngineKind::Ring);
    let specs: Vec<_> = (0..40).map(|n| spec(4096 * (1 + n * n))).collect();
    let used = {
        let drive = open(dir.path(), Arc::clone(&engine));
        for spec in &specs {
            write(&drive, spec, 1 << 20).await.unwrap();
        }
        drive.space().used_bytes
    };
    let drive = open(dir.path(), Arc::clone(&engine));
    let report = drive.recovery();
    assert!(!report.clean && report.found == 40 && report.shards == 40 && report.torn == 0, "{report}");
    assert_eq!(drive.space().used_bytes, used);
    for spec in &specs {
        let read = drive.read_verified(spec.shard, 0, usize::try_from(spec.shard_bytes).unwrap()).await.unwrap();
        assert!(read[..] == content(spec.shard, spec.shard_bytes)[..]);
        assert_eq!(drive.header(spec.shard).await.unwrap().1, spec.shard.to_string());
    }
    drop(drive);
    // Nothing new since: the second search has nothing to do.
    let drive = open(dir.path(), engine);
    assert!(drive.recovery().found == 0 && drive.recovery().shards == 40, "{}", drive.recovery());
}

#[tokio::test]
async fn a_lost_or_damaged_index_is_rebuilt() {
    let dir = tempfile::tempdir().unwrap();
    let engine = io::start(EngineKind::Ring);
    let specs: Vec<_> = (0..10).map(|n| spec(100_000 / 4096 * 4096 * (1 + n * n))).collect();
    {
        let drive = open(dir.path(), Arc::clone(&engine));
        for spec in &specs {
            write(&drive, spec, 1 << 20).await.unwrap();
        }
        drive.close().await.unwrap();
    }
    for round in 0..3 {
        let index = dir.path().join("index");
        match round {
            0 => std::fs::remove_dir_all(&index).unwrap(),
            1 => std::fs::write(index.join("CURRENT"), b"rubbish").unwrap(),
            _ => {
                for entry in std::fs::read_dir(&index).unwrap() {
                    let path = entry.unwrap().path();
                    if path.file_name().unwrap().to_str().unwrap().starts_with("MANIFEST") {
                        let mut bytes = std::fs::read(&path).unwrap();
                        bytes[4100] ^= 0xff;
                        std::fs::write(&path, bytes).unwrap();
                    }
                }
            }
        }
        let drive = open(dir.path(), Arc::clone(&engine));
        let report = drive.recovery();
        assert!(report.rebuilt.is_some() && report.found == 10 && report.shards == 10, "round {round}: {report}");
        for spec in &specs {
            assert!(drive.verify(spec.shard).await.unwrap().is_clean());
            assert_eq!(drive.header(spec.shard).await.unwrap().1, spec.shard.to_string());
        }
        drive.close().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_not_ours_is_refused_in_plain_words() {
    let dir = tempfile::tempdir().unwrap();
    let engine = io::start(EngineKind::Pool);
    let refused = |change: &dyn Fn(&mut crate::OpenOptions)| {
        let mut options = options(dir.path(), Arc::clone(&engine));
        change(&mut options);
        LocalDrive::open(options).unwrap_err().to_string()
    };
    let text = refused(&|o| o.format = false);
    assert!(text.contains("is not a drive"), "{text}");
    let drive = open(dir.path(), Arc::clone(&engine));
    let text = refused(&|_| {});
    assert!(text.contains("in use"), "{text}");
    drive.close().await.unwrap();
    let text = refused(&|o| o.cluster = ClusterId([9; 16]));
    assert!(text.contains("not of this cluster"), "{text}");
    let text = refused(&|o| o.index_key = zeroize::Zeroizing::new([9; 32]));
    assert!(text.contains("index key"), "{text}");
    let json = dir.path().join("drive.json");
    let good = std::fs::read_to_string(&json).unwrap();
    std::fs::write(&json, good.replace("\"format_version\": 1", "\"format_version\": 2")).unwrap();
    let text = refused(&|_| {});
    assert!(text.contains("newer granary"), "{text}");
    std::fs::write(&json, "").unwrap();
    assert!(refused(&|_| {}).contains("drive.json"));
    std::fs::remove_file(&json).unwrap();
    // Somebody's files, or a drive without its identity: never formatted over.
    assert!(refused(&|_| {}).contains("not empty"));
    std::fs::write(&json, good).unwrap();
    open(dir.path(), engine);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_commits_share_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (sim, engine) = sim(3);
    let drive = open(dir.path(), engine);
    write(&drive, &spec(4096), 4096).await.unwrap();
    sim.hold_syncs(true);
    let before = drive.stats().syncs.get();
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let drive = drive.clone();
            tokio::spawn(async move { write(&drive, &spec(8192), 8192).await })
        })
        .collect();
    // The first is in its sync (alone or with others), the rest queue up behind it.
    while sim.syncs_waiting() == 0 || drive.stats().writes.get() < 65 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(drive.stats().commits.get(), 1, "nothing is acknowledged before its sync");
    sim.hold_syncs(false);
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let syncs = drive.stats().syncs.get() - before;
    assert!((1..=8).contains(&syncs), "64 commits took {syncs} syncs");
    assert_eq!(drive.stats().commits.get(), 65);
}

#[tokio::test]
async fn a_failed_sync_poisons_the_drive() {
    let dir = tempfile::tempdir().unwrap();
    let (sim, engine) = sim(4);
    let drive = open(dir.path(), engine);
    let kept = spec(65_536);
    write(&drive, &kept, 65_536).await.unwrap();
    let mut open_writer = drive.create(spec(1 << 20)).await.unwrap();
    sim.fail_syncs(1);
    let lost = spec(65_536);
    assert!(matches!(write(&drive, &lost, 65_536).await, Err(DriveError::Poisoned { .. })));
    assert!(matches!(drive.health(), DriveHealth::Poisoned(_)), "{:?}", drive.health());
    // Later syncs would succeed; nobody may believe them.
    assert!(matches!(write(&drive, &spec(4096), 4096).await, Err(DriveError::Poisoned { .. })));
    let data = content(kept.shard, 65_536);
    assert!(matches!(open_writer.append(data.clone(), &[]).await, Err(DriveError::Poisoned { .. })));
    assert!(drive.free(vec![kept.shard]).await.is_err());
    assert!(drive.read(kept.shard, 0, 65_536).await.unwrap()[..] == data[..], "reads go on");
    assert!(matches!(drive.read(lost.shard, 0, 4096).await, Err(DriveError::NotFound(_))));
    drop(open_writer);
    drop(drive);
    let again = open(dir.path(), io::start(EngineKind::Ring));
    assert!(again.verify(kept.shard).await.unwrap().is_clean());
    write(&again, &spec(4096), 4096).await.unwrap();
}

#[tokio::test]
async fn a_failed_write_poisons_and_a_failed_read_does_not() {
    for length in [65_536, 1 << 20] {
        let dir = tempfile::tempdir().unwrap();
        let (sim, engine) = sim(5);
        let drive = open(dir.path(), engine);
        let kept = spec(length);
        write(&drive, &kept, 1 << 20).await.unwrap();
        sim.fail_reads(1);
        assert!(matches!(drive.read(kept.shard, 0, 4096).await, Err(DriveError::Io { .. })));
        assert_eq!(drive.health(), DriveHealth::Online);
        drive.read(kept.shard, 0, 4096).await.unwrap();
        sim.fail_writes(1);
        assert!(matches!(write(&drive, &spec(length), 1 << 20).await, Err(DriveError::Poisoned { .. })));
        assert!(matches!(drive.health(), DriveHealth::Poisoned(_)));
    }
}

#[tokio::test]
async fn rot_is_found_and_named() {
    let dir = tempfile::tempdir().unwrap();
    let engine = io::start(EngineKind::Ring);
    let drive = open(dir.path(), engine);
    for length in [196_608u64, 3 << 20] {
        let spec = spec(length);
        write(&drive, &spec, 1 << 20).await.unwrap();
        let record = drive.core().record(spec.shard).unwrap();
        let extent = record.extents[0];
        let segment = drive.core().segment_of(&extent).unwrap();
        let flip = |offset: u64| {
            let mut page = crate::AlignedBuf::zeroed(4096);
            segment.file.read_exact_at(offset, &mut page).unwrap();
            page[77] ^= 4;
            segment.file.write_all_at(offset, &page).unwrap();
        };
        flip(extent.data_offset() + CHUNK_BYTES as u64 + 4096);
        let bad = CHUNK_BYTES as u64;
        let read = drive.read_verified(spec.shard, 0, 3 * CHUNK_BYTES).await;
        assert!(matches!(read, Err(DriveError::Corrupt { offset, .. }) if offset == bad), "{read:?}");
        drive.read_verified(spec.shard, 0, CHUNK_BYTES).await.unwrap();
        drive.read(spec.shard, 0, 3 * CHUNK_BYTES).await.unwrap();
        let report = drive.verify(spec.shard).await.unwrap();
        assert_eq!((report.bad_chunks, report.header_bad), (vec![bad], false));
        flip(extent.offset);
        assert!(matches!(drive.header(spec.shard).await, Err(DriveError::Corrupt { .. })));
        assert!(drive.verify(spec.shard).await.unwrap().header_bad);
        assert!(drive.stats().crc_failures.get() >= 4);
    }
}

#[tokio::test]
async fn a_drive_whose_folder_goes_is_offline() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("drive");
    let drive = open(&path, io::start(EngineKind::Ring));
    let spec_a = spec(65_536);
    write(&drive, &spec_a, 65_536).await.unwrap();
    std::fs::remove_dir_all(&path).unwrap();
    // The file is open and takes the bytes; nobody will ever find them again, so this is no success.
    let refused = write(&drive, &spec(65_536), 65_536).await;
    assert!(matches!(refused, Err(DriveError::Offline { .. })), "{refused:?}");
    assert!(matches!(drive.health(), DriveHealth::Offline(_)));
    assert!(matches!(drive.read(spec_a.shard, 0, 4096).await, Err(DriveError::Offline { .. })));
}

#[tokio::test]
async fn a_dropped_commit_is_all_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (sim, engine) = sim(6);
    let drive = open(dir.path(), engine);
    write(&drive, &spec(4096), 4096).await.unwrap();
    let before = drive.space().used_bytes;
    for length in [65_536, 1 << 20] {
        let spec = spec(length);
        let mut writer = drive.create(spec.clone()).await.unwrap();
        writer.append(content(spec.shard, length), &[]).await.unwrap();
        sim.hold_syncs(true);
        let commit = writer.commit(Bytes::from_static(b"meta"));
        assert!(tokio::time::timeout(std::time::Duration::from_millis(30), commit).await.is_err());
        sim.hold_syncs(false);
        drive.core().queue.drain();
        match drive.read(spec.shard, 0, usize::try_from(length).unwrap()).await {
            Ok(read) => assert!(read[..] == content(spec.shard, length)[..]),
            Err(DriveError::NotFound(_)) => assert_eq!(drive.space().used_bytes, before),
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn nothing_on_a_drive_is_plain() {
    let dir = tempfile::tempdir().unwrap();
    let drive = open(dir.path(), io::start(EngineKind::Ring));
    let specs: Vec<_> = (0..50).map(|_| spec(4096)).collect();
    for spec in &specs {
        write(&drive, spec, 4096).await.unwrap();
    }
    drive.close().await.unwrap();
    // The index must not even tell which parts there are.
    let needle = &specs[7].shard.part.0[..];
    for entry in std::fs::read_dir(dir.path().join("index")).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        assert!(!bytes.windows(16).any(|w| w == needle), "{}", path.display());
        assert!(bytes.is_empty() || bytes.starts_with(b"GRNSEAL1"), "{}", path.display());
    }
    assert!(raw::RawFile::open(&dir.path().join("segments/00000000.seg")).unwrap().is_direct());
}
