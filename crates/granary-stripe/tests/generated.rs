//! Generated parts, faults and ranges: right bytes within parity, and never wrong ones.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod common;

use common::{Rig, shard};
use granary_stripe::{PartLayout, RepairPlan};
use granary_types::{PartLocation, Scheme};
use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop_oneof, proptest};

#[derive(Debug, Clone)]
enum Fault {
    Offline,
    Lost,
    ReadError,
    Rot(Vec<u32>),
    Deceit(Vec<u32>),
}

fn fault() -> impl Strategy<Value = Fault> {
    let places = proptest::collection::vec(any::<u32>(), 1..6);
    prop_oneof![
        Just(Fault::Offline),
        Just(Fault::Lost),
        Just(Fault::ReadError),
        places.clone().prop_map(Fault::Rot),
        places.prop_map(Fault::Deceit),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn within_parity_all_bytes_are_right(
        k in 1u8..=6,
        m in 0u8..=3,
        len in prop_oneof![1u64..200_000, 1u64..6_000_000],
        faults in proptest::collection::vec((any::<proptest::sample::Index>(), fault()), 0..5),
        (from, to) in (any::<u64>(), any::<u64>()),
    ) {
        let scheme = Scheme { k, m };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let rig = Rig::new(scheme.width() as u16 + 1);
            let location = rig.put(len, scheme).await.unwrap();
            let mut harmed = 0u32;
            for (which, fault) in faults {
                let index = which.index(scheme.width());
                if harmed & 1 << index != 0 {
                    continue;
                }
                harmed |= 1 << index;
                let (drive, id) = (rig.holder(&location, index), shard(&location, index));
                let shard_bytes = drive.data(id).len();
                match fault {
                    Fault::Offline => drive.offline(),
                    Fault::Lost => drive.lose(id),
                    Fault::ReadError => drive.faults(|f| f.fail_reads = true),
                    Fault::Rot(places) => places.iter().for_each(|at| drive.rot(id, *at as usize % shard_bytes)),
                    Fault::Deceit(places) => places.iter().for_each(|at| drive.deceive(id, *at as usize % shard_bytes)),
                }
            }
            let chunks = PartLayout::new(len, scheme).unwrap().chunks();
            let (a, b) = (from % (chunks + 1), to % (chunks + 1));
            let range = a.min(b)..a.max(b);
            let within = harmed.count_ones() <= u32::from(m);
            // `get` itself panics on a wrong byte, a gap or a short answer.
            let read = rig.get(&location, range).await;
            assert!(!within || read.is_ok(), "{harmed:b}: {:?}", read.err());
            let all = rig.get_all(&location).await;
            assert!(!within || all.is_ok(), "{harmed:b}: {:?}", all.err());

            // Repair either makes it readable or fails; what it makes is never worse.
            let plan = RepairPlan { verify: true, replace_down: true, ..RepairPlan::default() };
            if let Ok(outcome) = rig.store.repair_part(&location, plan).await {
                let fixed = PartLocation { placement: outcome.placement, ..location.clone() };
                let read = rig.get_all(&fixed).await;
                assert!(!within || read.is_ok(), "after repair of {harmed:b}: {:?}", read.err());
            }
        });
    }
}
