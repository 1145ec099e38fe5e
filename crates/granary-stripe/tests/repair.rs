//! Repair: what was harmed is whole again afterwards, verified, or the answer is an error.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod common;

use common::{Rig, missing, scheme, shard};
use granary_stripe::{RepairPlan, StripeError};
use granary_types::{DriveNo, PartId, PartLocation, ShardId};

const VERIFY: RepairPlan = RepairPlan { verify: true, replace_down: false, move_away: 0, suspects: 0 };

/// The repaired part, after its new placement was "recorded" and what it supersedes freed.
async fn repair(rig: &Rig, location: &PartLocation, plan: RepairPlan) -> (PartLocation, granary_stripe::RepairOutcome) {
    let outcome = rig.store.repair_part(location, plan).await.unwrap();
    let mut drives = outcome.placement.drives.clone();
    drives.sort();
    drives.dedup();
    assert_eq!(drives.len(), location.placement.drives.len(), "distinct drives");
    for (no, old) in &outcome.superseded {
        let _ = rig.store.free_shards(*no, vec![*old]).await;
    }
    (PartLocation { placement: outcome.placement.clone(), ..location.clone() }, outcome)
}

/// Every shard clean, parity right, and readable from any k: checked by losing m others at a time.
async fn assert_whole(rig: &Rig, location: &PartLocation) {
    assert!(location.placement.is_whole());
    let again = rig.store.repair_part(location, VERIFY).await.unwrap();
    assert!(again.repaired.is_empty() && again.left.is_empty(), "{again:?}");
    for (index, no) in location.placement.drives.iter().enumerate() {
        assert!(rig.drive(*no).shards().contains(&shard(location, index)));
    }
    let m = usize::from(location.placement.scheme.m);
    for first in 0..location.placement.drives.len() {
        let mut holed = location.clone();
        for i in 0..m {
            holed.placement.missing |= 1 << ((first + i) % location.placement.drives.len());
        }
        rig.get_all(&holed).await.unwrap();
    }
}

#[tokio::test]
async fn missing_shards_are_built_on_their_drive_once_it_is_back() {
    for (text, len) in [("4+2", 5_000_000), ("1+2", 90_000), ("2+2", 1_000_000)] {
        let scheme = scheme(text);
        let rig = Rig::new(scheme.width() as u16);
        rig.drives[0].offline();
        let location = rig.put(len, scheme).await.unwrap();
        assert_eq!(missing(&location.placement).len(), 1);
        // Still down: left alone, and said so.
        let outcome = rig.store.repair_part(&location, VERIFY).await.unwrap();
        assert_eq!((outcome.repaired.len(), outcome.left.len()), (0, 1));
        assert_eq!(outcome.placement, location.placement);
        rig.drives[0].set_health(granary_drive::api::DriveHealth::Online);
        let (fixed, outcome) = repair(&rig, &location, VERIFY).await;
        assert_eq!(outcome.repaired.len(), 1);
        assert!(outcome.superseded.is_empty());
        assert_eq!(fixed.placement.drives, location.placement.drives);
        assert_whole(&rig, &fixed).await;
        let header =
            granary_drive::api::ShardStore::header(&*rig.drives[0], shard(&fixed, usize::from(outcome.repaired[0])));
        assert_eq!(header.await.unwrap().1, format!("meta of {}", fixed.part).as_bytes());
    }
}

#[tokio::test]
async fn drives_that_are_gone_are_replaced() {
    let rig = Rig::new(8);
    let location = rig.put(5_000_000, scheme("4+2")).await.unwrap();
    rig.holder(&location, 0).offline();
    rig.store.drives().remove(location.placement.drives[5]);
    let outcome = rig.store.repair_part(&location, VERIFY).await.unwrap();
    assert_eq!(outcome.left, [0, 5], "the plan says to leave them");
    let (fixed, outcome) = repair(&rig, &location, RepairPlan { replace_down: true, ..VERIFY }).await;
    assert_eq!(outcome.repaired, [0, 5]);
    assert_eq!(outcome.superseded.len(), 2);
    assert_whole(&rig, &fixed).await;
}

#[tokio::test]
async fn rot_is_repaired_onto_a_spare_or_in_place() {
    for drives in [7, 6] {
        let rig = Rig::new(drives);
        let location = rig.put(5_000_000, scheme("4+2")).await.unwrap();
        // Two shards rotten, in different stripes and the same; no third.
        for (index, offset) in [(1, 600_000), (4, 0), (4, 1_200_000)] {
            rig.holder(&location, index).rot(shard(&location, index), offset);
        }
        let before = rig.shards_in_all();
        let (fixed, outcome) = repair(&rig, &location, VERIFY).await;
        assert_eq!(
            {
                let mut r = outcome.repaired.clone();
                r.sort_unstable();
                r
            },
            [1, 4]
        );
        assert_eq!(rig.shards_in_all(), before, "no staged copy or old shard is left");
        assert_whole(&rig, &fixed).await;
        assert!(rig.damage.lock().iter().any(|r| r.index == 1) && rig.damage.lock().iter().any(|r| r.index == 4));
    }
}

#[tokio::test]
async fn more_rotten_shards_than_parity_are_repaired_where_the_rot_is_in_different_stripes() {
    let rig = Rig::new(12);
    let location = rig.put(12_000_000, scheme("4+2")).await.unwrap();
    for (index, stripe) in [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)] {
        rig.holder(&location, index).rot(shard(&location, index), stripe * 512 * 1024 + 7);
    }
    let (fixed, outcome) = repair(&rig, &location, VERIFY).await;
    assert_eq!(outcome.repaired.len(), 5);
    assert_whole(&rig, &fixed).await;
}

#[tokio::test]
async fn a_liar_is_not_laundered_but_repaired_once_suspected() {
    let rig = Rig::new(6);
    let location = rig.put(3_000_000, scheme("4+2")).await.unwrap();
    let len = rig.holder(&location, 1).data(shard(&location, 1)).len();
    (0..len).step_by(3_000).for_each(|at| rig.holder(&location, 1).deceive(shard(&location, 1), at));
    rig.holder(&location, 4).lose(shard(&location, 4));
    // Five blocks with good checksums, one of them wrong: no shard is made of that.
    let error = rig.store.repair_part(&location, VERIFY).await.unwrap_err();
    assert!(matches!(error, StripeError::Inconsistent { .. }), "{error}");
    // Reads find out who it is, and still give the right bytes.
    rig.get_all(&location).await.unwrap();
    let suspects = rig.damage.lock().iter().map(|r| 1u32 << r.index).fold(0, |a, b| a | b) & !(1 << 4);
    assert_eq!(suspects, 1 << 1);
    let (fixed, outcome) = repair(&rig, &location, RepairPlan { suspects, ..VERIFY }).await;
    assert_eq!(outcome.repaired.len(), 2);
    assert_whole(&rig, &fixed).await;
}

#[tokio::test]
async fn too_much_lost_is_an_error_and_changes_nothing() {
    let rig = Rig::new(9);
    let location = rig.put(3_000_000, scheme("4+2")).await.unwrap();
    for index in [0, 3, 5] {
        rig.holder(&location, index).lose(shard(&location, index));
    }
    let before: Vec<_> = rig.drives.iter().map(|d| (d.shards(), d.free_bytes())).collect();
    let error = rig.store.repair_part(&location, VERIFY).await.unwrap_err();
    assert!(matches!(error, StripeError::Corrupt { have: 3, need: 4, .. }), "{error}");
    let after: Vec<_> = rig.drives.iter().map(|d| (d.shards(), d.free_bytes())).collect();
    assert_eq!(before, after);
}

#[tokio::test]
async fn a_drive_that_fails_while_repaired_onto_leaves_nothing_behind() {
    let rig = Rig::new(7);
    let location = rig.put(5_000_000, scheme("4+2")).await.unwrap();
    let spare = (0..7).map(DriveNo).find(|no| !location.placement.drives.contains(no)).unwrap();
    rig.holder(&location, 2).rot(shard(&location, 2), 0);
    let free = rig.drive(spare).free_bytes();
    rig.drive(spare).faults(|f| f.appends_left = Some(1));
    assert!(rig.store.repair_part(&location, VERIFY).await.is_err());
    rig.drive(spare).faults(|f| {
        f.appends_left = None;
        f.fail_commits = true;
    });
    assert!(rig.store.repair_part(&location, VERIFY).await.is_err());
    rig.drive(spare).faults(|f| {
        f.fail_commits = false;
        f.lying_commits = true;
    });
    assert!(rig.store.repair_part(&location, VERIFY).await.is_err());
    assert_eq!(rig.drive(spare).free_bytes(), free);
    assert!(rig.drive(spare).shards().is_empty());
    rig.get_all(&location).await.unwrap();
    rig.drive(spare).faults(|f| *f = common::Faults::default());
    let (fixed, _) = repair(&rig, &location, VERIFY).await;
    assert_whole(&rig, &fixed).await;
}

#[tokio::test]
async fn what_an_earlier_attempt_left_is_adopted_if_whole_and_replaced_if_not() {
    let rig = Rig::new(7);
    let location = rig.put(5_000_000, scheme("4+2")).await.unwrap();
    let spare = (0..7).map(DriveNo).find(|no| !location.placement.drives.contains(no)).unwrap();
    rig.holder(&location, 2).rot(shard(&location, 2), 0);
    // The first attempt ends before its placement is recorded.
    let first = rig.store.repair_part(&location, VERIFY).await.unwrap();
    assert_eq!(first.placement.drives[2], spare);
    let second = rig.store.repair_part(&location, VERIFY).await.unwrap();
    assert_eq!((second.placement.clone(), second.written_bytes), (first.placement.clone(), 0));
    assert_eq!(second.repaired, [2]);
    // What was left is rotten by now, or wrong without the drive knowing.
    for deceive in [false, true] {
        if deceive {
            rig.drive(spare).deceive(shard(&location, 2), 4_096);
        } else {
            rig.drive(spare).rot(shard(&location, 2), 4_096);
        }
        let third = rig.store.repair_part(&location, VERIFY).await.unwrap();
        assert!(third.written_bytes > 0);
        assert_eq!(third.placement, first.placement);
    }
    let (fixed, _) = repair(&rig, &location, VERIFY).await;
    assert_whole(&rig, &fixed).await;
}

#[tokio::test]
async fn shards_move_away_from_a_drive_that_is_to_be_emptied() {
    let rig = Rig::new(7);
    let location = rig.put(2_000_000, scheme("4+2")).await.unwrap();
    let emptied = location.placement.drives[3];
    let (fixed, outcome) = repair(&rig, &location, RepairPlan { move_away: 1 << 3, ..RepairPlan::default() }).await;
    assert_eq!(outcome.superseded, [(emptied, shard(&location, 3))]);
    assert!(rig.drive(emptied).shards().is_empty());
    assert_whole(&rig, &fixed).await;
}

#[tokio::test]
async fn freeing_tells_which_drives_it_could_not_reach() {
    let rig = Rig::new(6);
    let location = rig.put(2_000_000, scheme("4+2")).await.unwrap();
    rig.drives[2].offline();
    let outcome = rig.store.free_part(location.part, &location.placement).await;
    assert_eq!((outcome.freed.len(), outcome.left), (5, vec![DriveNo(2)]));
    assert_eq!(rig.shards_in_all(), 1);
    rig.drives[2].set_health(granary_drive::api::DriveHealth::Online);
    let outcome = rig.store.free_part(location.part, &location.placement).await;
    assert_eq!((outcome.freed.len(), outcome.left.len()), (6, 0));
    assert_eq!(rig.shards_in_all(), 0);
}

#[tokio::test]
async fn orphans_are_found_only_past_the_grace_period() {
    let rig = Rig::new(3);
    let live = rig.put(100_000, scheme("1+2")).await.unwrap();
    let dead = rig.put(100_000, scheme("1+2")).await.unwrap();
    let is_live = |shard: ShardId| shard.part == live.part;
    // Committed at 1 s (the drive's clock), looked at with a grace period of 10 s.
    let page = rig.store.orphans(DriveNo(0), None, 10, (5_000_000, 10_000_000), is_live).await.unwrap();
    assert_eq!((page.orphans.len(), page.scanned, page.next), (0, 2, None));
    let mut found: Vec<PartId> = Vec::new();
    let mut after = None;
    loop {
        let page = rig.store.orphans(DriveNo(0), after, 1, (60_000_000, 10_000_000), is_live).await.unwrap();
        found.extend(page.orphans.iter().map(|info| info.spec.shard.part));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, [dead.part]);
}
