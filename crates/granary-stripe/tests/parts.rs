//! Writing and reading parts: every scheme, every loss that parity is there for, and one more.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{Rig, missing, scheme, shard};
use futures::StreamExt as _;
use granary_drive::api::DriveHealth;
use granary_stripe::{DamageKind, PartLayout, StripeError, scheme_for};
use granary_types::limits::CHUNK_PAYLOAD_BYTES;
use granary_types::{DriveNo, PartId, Scheme};

const CHUNK: u64 = CHUNK_PAYLOAD_BYTES as u64;

#[tokio::test]
async fn every_scheme_round_trips_around_every_boundary() {
    for text in ["1+0", "1+1", "1+4", "2+1", "3+2", "4+2", "4+0", "8+3", "16+4"] {
        let scheme = scheme(text);
        let rig = Rig::new(20);
        let k = u64::from(scheme.k);
        let mut sizes = vec![1, 16_385, CHUNK - 1, CHUNK, CHUNK + 1, 131_072, k * CHUNK + 1, k * CHUNK * 8 - 1];
        sizes.extend([k * CHUNK * 8, k * CHUNK * 8 + 1, k * CHUNK * 17 + 12_345]);
        for len in sizes {
            let location = rig.put(len, scheme).await.unwrap();
            assert!(location.placement.is_whole());
            rig.get_all(&location).await.unwrap();
        }
        assert!(rig.damage.lock().is_empty());
        assert_eq!(rig.stat("runs_rebuilt"), 0, "the healthy path never decodes");
    }
}

#[tokio::test]
async fn small_parts_are_whole_copies() {
    assert_eq!(scheme_for(131_072, scheme("4+2")), scheme("1+2"));
    assert_eq!(scheme_for(131_073, scheme("4+2")), scheme("4+2"));
    let rig = Rig::new(6);
    let location = rig.put(20_000, scheme("1+2")).await.unwrap();
    let copies: Vec<Vec<u8>> = (0..3).map(|i| rig.holder(&location, i).data(shard(&location, i))).collect();
    assert!(copies.iter().all(|c| *c == copies[0]) && copies[0].len() == 20_480);
}

#[tokio::test]
async fn any_range_reads_only_what_it_needs() {
    let rig = Rig::new(6);
    let location = rig.put(5_000_000, scheme("4+2")).await.unwrap();
    let chunks = PartLayout::new(5_000_000, scheme("4+2")).unwrap().chunks();
    for range in [0..1, 0..0, 7..9, 31..33, chunks - 1..chunks, 40..chunks, chunks..chunks] {
        let before: usize = rig.drives.iter().map(|d| d.read_bytes.load(std::sync::atomic::Ordering::Relaxed)).sum();
        rig.get(&location, range.clone()).await.unwrap();
        let after: usize = rig.drives.iter().map(|d| d.read_bytes.load(std::sync::atomic::Ordering::Relaxed)).sum();
        assert!(after - before <= (range.end - range.start) as usize * 65_536, "{range:?}");
    }
    assert!(matches!(rig.store.read_chunks(&location, 0..chunks + 1), Err(StripeError::Invalid(_))));
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Harm {
    Offline,
    Removed,
    Lost,
    ReadError,
    Rot,
    Deceit,
}

fn harm(rig: &Rig, location: &granary_types::PartLocation, index: usize, how: Harm) {
    let drive = rig.holder(location, index);
    let id = shard(location, index);
    let len = drive.data(id).len();
    match how {
        Harm::Offline => drive.offline(),
        Harm::Removed => rig.store.drives().remove(location.placement.drives[index]),
        Harm::Lost => drive.lose(id),
        Harm::ReadError => drive.faults(|f| f.fail_reads = true),
        Harm::Rot => (0..len).step_by(5_000).for_each(|at| drive.rot(id, at)),
        Harm::Deceit => (0..len).step_by(5_000).for_each(|at| drive.deceive(id, at)),
    }
}

const HARMS: [Harm; 6] = [Harm::Offline, Harm::Removed, Harm::Lost, Harm::ReadError, Harm::Rot, Harm::Deceit];

#[tokio::test]
async fn any_m_shards_harmed_in_any_way_give_the_right_bytes() {
    for (text, len) in [("4+2", 1_200_000u64), ("3+1", 700_000), ("1+2", 100_000), ("2+2", 1_500_000)] {
        let scheme = scheme(text);
        let width = scheme.width();
        for lost in (0u32..1 << width).filter(|l| l.count_ones() == u32::from(scheme.m)) {
            for shift in 0..HARMS.len() {
                let rig = Rig::new(width as u16);
                let location = rig.put(len, scheme).await.unwrap();
                for (nth, index) in (0..width).filter(|i| lost & 1 << i != 0).enumerate() {
                    // Mixed kinds, too.
                    harm(&rig, &location, index, HARMS[(shift + nth * 5) % HARMS.len()]);
                }
                rig.get_all(&location).await.unwrap_or_else(|e| panic!("{text} lost {lost:b} kind {shift}: {e}"));
            }
        }
    }
}

#[tokio::test]
async fn one_more_is_an_error_and_never_wrong_bytes() {
    for (text, len) in [("4+2", 1_000_000u64), ("1+2", 100_000), ("2+0", 500_000), ("1+0", 50_000)] {
        let scheme = scheme(text);
        let width = scheme.width();
        let harmed = usize::from(scheme.m) + 1;
        for how in HARMS {
            for first in 0..width {
                let rig = Rig::new(width as u16);
                let location = rig.put(len, scheme).await.unwrap();
                let lost: Vec<usize> = (0..harmed).map(|i| (first + i) % width).collect();
                for index in &lost {
                    harm(&rig, &location, *index, how);
                }
                // `get_all` panics on a wrong byte. With k+m shards and only parity harmed reads still succeed.
                let data_harmed = lost.iter().filter(|i| **i < usize::from(scheme.k)).count();
                match rig.get_all(&location).await {
                    Ok(()) => assert!(data_harmed == 0, "{text} {how:?} {lost:?} should have failed"),
                    Err(error) => {
                        let down = matches!(how, Harm::Offline | Harm::Removed);
                        let unavailable = error.kind() == granary_types::ErrorKind::Unavailable;
                        assert!(!down || unavailable || scheme.m == 0, "{text} {how:?}: {error}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn damage_is_reported_with_its_place() {
    let rig = Rig::new(6);
    let location = rig.put(3_000_000, scheme("4+2")).await.unwrap();
    rig.holder(&location, 1).lose(shard(&location, 1));
    rig.get_all(&location).await.unwrap();
    let reports = rig.damage.lock().clone();
    assert!(!reports.is_empty());
    for report in &reports {
        assert_eq!((report.part, report.index, report.kind), (location.part, 1, DamageKind::Lost));
        assert_eq!(report.drive, location.placement.drives[1]);
    }
    rig.damage.lock().clear();

    // Deceit: drives find nothing wrong, tags do; the liar is found out among the others.
    let rig = Rig::new(6);
    let location = rig.put(200_000, scheme("4+2")).await.unwrap();
    let len = rig.holder(&location, 0).data(shard(&location, 0)).len();
    for index in [0, 4] {
        (0..len).step_by(1000).for_each(|at| rig.holder(&location, index).deceive(shard(&location, index), at));
    }
    rig.get_all(&location).await.unwrap();
    let mut found: Vec<u8> = rig.damage.lock().iter().map(|r| r.index).collect();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, [0, 4]);
    assert!(rig.stat("chunks_rebuilt") > 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_drive_is_hedged() {
    let rig = Rig::new(6);
    let location = rig.put(600_000, scheme("4+2")).await.unwrap();
    for _ in 0..3 {
        rig.get_all(&location).await.unwrap();
    }
    rig.holder(&location, 2).faults(|f| f.read_delay = Duration::from_secs(30));
    let begun = tokio::time::Instant::now();
    rig.get_all(&location).await.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(500), "took {:?}", begun.elapsed());
    assert!(rig.stat("runs_hedged") >= 1 && rig.stat("runs_hedge_won") >= 1);
    assert!(rig.damage.lock().is_empty(), "slow is not damaged");
    // Two slow ones are as many as parity can stand in for.
    rig.holder(&location, 4).faults(|f| f.read_delay = Duration::from_secs(30));
    let begun = tokio::time::Instant::now();
    rig.get_all(&location).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "took {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_slow_drive_is_waited_for_where_the_others_cannot_help() {
    let rig = Rig::new(3);
    let location = rig.put(600_000, scheme("2+1")).await.unwrap();
    rig.holder(&location, 2).offline();
    rig.holder(&location, 0).faults(|f| f.read_delay = Duration::from_secs(5));
    rig.get_all(&location).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drive_that_never_answers_is_an_error_in_the_end() {
    let rig = Rig::new(1);
    let location = rig.put(60_000, scheme("1+0")).await.unwrap();
    rig.holder(&location, 0).faults(|f| f.read_delay = Duration::from_secs(100_000));
    assert!(rig.get_all(&location).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_does_not_make_drives_look_slow() {
    let rig = Rig::new(6);
    let location = rig.put(20_000_000, scheme("4+2")).await.unwrap();
    let chunks = PartLayout::new(20_000_000, scheme("4+2")).unwrap().chunks();
    for drive in &rig.drives {
        drive.faults(|f| f.read_delay = Duration::from_millis(1));
    }
    let mut stream = rig.store.read_chunks(&location, 0..chunks).unwrap();
    while let Some(run) = stream.next().await {
        run.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    for drive in rig.store.drives().all() {
        assert!(drive.latency().p99() < Duration::from_millis(20), "{drive:?}");
    }
    assert_eq!(rig.stat("runs_hedge_won"), 0);
}

#[tokio::test]
async fn read_ahead_is_bounded() {
    let rig = Rig::with(6, |o| o.read_ahead_bytes = 1 << 20);
    let location = rig.put(30_000_000, scheme("4+2")).await.unwrap();
    let chunks = PartLayout::new(30_000_000, scheme("4+2")).unwrap().chunks();
    let mut stream = rig.store.read_chunks(&location, 0..chunks).unwrap();
    stream.next().await.unwrap().unwrap();
    let asked: usize = rig.drives.iter().map(|d| d.read_bytes.load(std::sync::atomic::Ordering::Relaxed)).sum();
    assert!(asked <= (1 << 20) + 2 * 512 * 1024, "{asked} bytes asked for");
}

#[tokio::test]
async fn quorum_rules_of_a_write() {
    let rig = Rig::new(6);
    rig.drives[3].offline();
    let location = rig.put(2_000_000, scheme("4+2")).await.unwrap();
    let gone: Vec<usize> = missing(&location.placement);
    assert_eq!(gone.len(), 1);
    assert_eq!(location.placement.drives[gone[0]], DriveNo(3));
    rig.get_all(&location).await.unwrap();
    assert!(rig.damage.lock().is_empty(), "a shard known to be missing is no news");

    rig.drives[0].set_health(DriveHealth::Poisoned("sync failed".into()));
    assert!(matches!(rig.put(2_000_000, scheme("4+2")).await, Err(StripeError::Unavailable { have: 4, need: 5, .. })));
    let before = rig.shards_in_all();
    assert!(rig.put(100_000, scheme("1+2")).await.is_ok(), "copies need only two");
    assert!(rig.shards_in_all() > before);
    rig.get_all(&location).await.unwrap();
}

#[tokio::test]
async fn a_refused_create_goes_to_a_spare() {
    let rig = Rig::new(8);
    rig.drives[1].faults(|f| f.fail_creates = true);
    rig.drives[2].faults(|f| f.fail_creates = true);
    for _ in 0..8 {
        let location = rig.put(300_000, scheme("4+2")).await.unwrap();
        assert!(location.placement.is_whole());
        let mut drives = location.placement.drives.clone();
        drives.sort();
        drives.dedup();
        assert_eq!(drives.len(), 6);
        assert!(!drives.contains(&DriveNo(1)) && !drives.contains(&DriveNo(2)));
    }
}

#[tokio::test]
async fn a_drive_that_fails_mid_write_is_given_up() {
    for appends in 0..3 {
        let rig = Rig::new(6);
        rig.drives[5].faults(|f| f.appends_left = Some(appends));
        let location = rig.put(8_000_000, scheme("4+2")).await.unwrap();
        assert_eq!(missing(&location.placement).len(), 1);
        assert!(rig.drives[5].shards().is_empty());
        rig.get_all(&location).await.unwrap();
        assert_eq!(rig.stat("parts_written_degraded"), 1);
    }
}

#[tokio::test]
async fn below_the_quorum_nothing_is_kept() {
    for commits in [false, true] {
        let rig = Rig::new(6);
        let free = rig.drives[0].free_bytes();
        for no in [1, 4] {
            rig.drives[no].faults(|f| {
                f.fail_commits = commits;
                f.appends_left = (!commits).then_some(1);
            });
        }
        let error = rig.put(8_000_000, scheme("4+2")).await.unwrap_err();
        assert!(matches!(error, StripeError::Unavailable { have: 4, need: 5, .. }), "{error}");
        assert_eq!(rig.shards_in_all(), 0);
        assert!(rig.drives.iter().all(|d| d.free_bytes() == free), "all space is given back");
    }
}

#[tokio::test]
async fn a_failed_commit_that_is_durable_all_the_same_leaves_nothing() {
    let rig = Rig::new(6);
    rig.drives[2].faults(|f| f.lying_commits = true);
    let location = rig.put(1_000_000, scheme("4+2")).await.unwrap();
    assert_eq!(missing(&location.placement).len(), 1);
    assert!(rig.drives[2].shards().is_empty());
    rig.get_all(&location).await.unwrap();
}

#[tokio::test]
async fn full_drives_say_so() {
    let rig = Rig::new(6);
    for drive in &rig.drives[..2] {
        drive.set_free(1_000_000);
    }
    assert!(matches!(rig.put(20_000_000, scheme("4+2")).await, Err(StripeError::Full { .. })));
    rig.drives[0].set_free(1 << 30);
    let location = rig.put(20_000_000, scheme("4+2")).await.unwrap();
    assert_eq!(missing(&location.placement).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drive_that_hangs_is_given_up_after_a_while() {
    let rig = Rig::new(6);
    rig.drives[4].faults(|f| f.append_delay = Duration::from_secs(1_000_000));
    let location = rig.put(8_000_000, scheme("4+2")).await.unwrap();
    assert_eq!(missing(&location.placement).len(), 1);
    let rig = Rig::new(6);
    rig.drives[4].faults(|f| f.commit_delay = Duration::from_secs(1_000_000));
    let location = rig.put(8_000_000, scheme("4+2")).await.unwrap();
    assert_eq!(missing(&location.placement).len(), 1);
}

#[tokio::test]
async fn a_dropped_writer_and_a_dropped_commit_leave_nothing() {
    let rig = Rig::new(6);
    let free = rig.drives[0].free_bytes();
    let mut writer = rig.store.begin(PartId::random(), 9_000_000, scheme("4+2")).await.unwrap();
    for _ in 0..50 {
        writer.slot_mut().fill(1);
        writer.advance().await.unwrap();
    }
    drop(writer);
    assert!(rig.drives.iter().all(|d| d.free_bytes() == free));

    let mut writer = rig.store.begin(PartId::random(), 60_000, scheme("1+2")).await.unwrap();
    writer.slot_mut().fill(1);
    writer.advance().await.unwrap();
    for drive in &rig.drives {
        drive.faults(|f| f.commit_delay = Duration::from_millis(20));
    }
    let commit = tokio::time::timeout(Duration::from_millis(1), writer.commit(Bytes::new())).await;
    assert!(commit.is_err(), "dropped while it ran");
    while rig.stat("parts_aborted") < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(rig.shards_in_all(), 0);
    assert!(rig.drives.iter().all(|d| d.free_bytes() == free));
}

#[tokio::test]
async fn misuse_is_refused() {
    let rig = Rig::new(6);
    assert!(matches!(rig.store.begin(PartId::random(), 0, scheme("4+2")).await, Err(StripeError::Invalid(_))));
    assert!(matches!(rig.store.begin(PartId::random(), 1, Scheme { k: 0, m: 1 }).await, Err(StripeError::Invalid(_))));
    let mut writer = rig.store.begin(PartId::random(), 100_000, scheme("1+2")).await.unwrap();
    writer.advance().await.unwrap();
    assert!(matches!(writer.commit(Bytes::new()).await, Err(StripeError::Invalid(_))), "a chunk is missing");
    let mut writer = rig.store.begin(PartId::random(), 10, scheme("1+2")).await.unwrap();
    writer.advance().await.unwrap();
    assert!(matches!(writer.advance().await, Err(StripeError::Invalid(_))));
    assert!(matches!(writer.commit(Bytes::from(vec![0; 8193])).await, Err(StripeError::Invalid(_))));
    assert_eq!(rig.shards_in_all(), 0);
}

#[tokio::test(start_paused = true)]
async fn stripes_in_flight_are_bounded() {
    let rig = Rig::new(6);
    for drive in &rig.drives {
        drive.faults(|f| f.append_delay = Duration::from_secs(1));
    }
    // Ten stripes; each takes the drives a second, two may wait: eight seconds at least.
    let begun = tokio::time::Instant::now();
    let location = rig.put(CHUNK * 32 * 10, scheme("4+2")).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(3), "{:?}", begun.elapsed());
    rig.get_all(&location).await.unwrap();
}

/// Callers run these inside spawned tasks and boxed futures: they have to be `Send`. Checked by compiling.
#[test]
fn futures_are_send() {
    fn is_send<T: Send>(_: T) {}
    async fn all(store: granary_stripe::StripeStore, location: granary_types::PartLocation) {
        let mut writer = store.begin(location.part, 1, scheme("1+0")).await.unwrap();
        writer.advance().await.unwrap();
        let _ = writer.commit(Bytes::new()).await;
        let _ = store.read_chunks(&location, 0..1).unwrap().next().await;
        let _ = store.rebuild_chunk(&location, 0, |slot| !slot.is_empty()).await;
        let _ = store.repair_part(&location, granary_stripe::RepairPlan::default()).await;
        let _ = store.free_part(location.part, &location.placement).await;
        let _ = store.orphans(DriveNo(0), None, 1, (0, 0), |_| true).await;
    }
    let rig = Rig::new(1);
    let location = granary_types::PartLocation {
        part: PartId([1; 16]),
        payload_bytes: 1,
        placement: granary_types::Placement { scheme: scheme("1+0"), drives: vec![DriveNo(0)], missing: 0 },
    };
    is_send(all(rig.store.clone(), location));
}
