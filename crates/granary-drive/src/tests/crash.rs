//! Seeded crash simulation: whatever was acknowledged is there after power loss, byte for byte, and what was
//! never finished is either absent or whole.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use granary_types::ShardId;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

use super::{open, sim};
use crate::api::{DriveError, ShardSpec, ShardStore};
use crate::io::{self, EngineKind};
use crate::testing::CrashStyle;
use crate::testing::conformance::{content, spec};
use crate::{LocalDrive, ShardWriter};

/// What a shard may be after the crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// Acknowledged: it must be there.
    Kept,
    /// Commit not acknowledged, or free not durable: there whole, or not at all.
    Either,
    /// Freed, and the free was made durable.
    Gone,
}

struct Life {
    rng: StdRng,
    drive: LocalDrive,
    model: BTreeMap<ShardId, (ShardSpec, Fate)>,
    writers: Vec<(ShardSpec, usize, Box<dyn ShardWriter>)>,
    /// Freed, not yet durably.
    freed: Vec<ShardId>,
}

impl Life {
    fn random_spec(&mut self) -> ShardSpec {
        let pages = match self.rng.random_range(0..10) {
            0..5 => self.rng.random_range(1..40),
            5..8 => self.rng.random_range(100..180),
            8 => self.rng.random_range(200..600),
            _ => self.rng.random_range(2000..3000),
        };
        spec(pages * 4096)
    }

    async fn step(&mut self) -> Result<(), DriveError> {
        match self.rng.random_range(0..100) {
            0..30 => {
                let spec = self.random_spec();
                let writer = self.drive.create(spec.clone()).await?;
                self.model.insert(spec.shard, (spec.clone(), Fate::Either));
                self.writers.push((spec, 0, writer));
            }
            30..85 if !self.writers.is_empty() => {
                let n = self.rng.random_range(0..self.writers.len());
                let (spec, at, writer) = &mut self.writers[n];
                let data = content(spec.shard, spec.shard_bytes);
                if *at < data.len() {
                    let end = data.len().min(*at + 4096 * self.rng.random_range(1..400usize));
                    writer.append(data.slice(*at..end), &[]).await?;
                    *at = end;
                } else {
                    let (spec, _, writer) = self.writers.swap_remove(n);
                    writer.commit(Bytes::from(spec.shard.to_string())).await?;
                    self.model.insert(spec.shard, (spec, Fate::Kept));
                }
            }
            85..88 if !self.writers.is_empty() => {
                let n = self.rng.random_range(0..self.writers.len());
                drop(self.writers.swap_remove(n));
            }
            88..96 => {
                let kept: Vec<ShardId> =
                    self.model.iter().filter(|(_, (_, f))| *f == Fate::Kept).map(|(id, _)| *id).collect();
                if let Some(shard) = kept.choose(&mut self.rng) {
                    self.model.get_mut(shard).expect("just listed").1 = Fate::Either;
                    self.drive.free(vec![*shard]).await?;
                    self.freed.push(*shard);
                }
            }
            _ => {
                self.drive.reclaim().await?;
                for shard in self.freed.drain(..) {
                    self.model.get_mut(&shard).expect("was listed").1 = Fate::Gone;
                }
            }
        }
        Ok(())
    }
}

async fn check(drive: &LocalDrive, model: &mut BTreeMap<ShardId, (ShardSpec, Fate)>, seed: u64) {
    let listed: Vec<ShardId> = drive.scan(None, 100_000).await.unwrap().iter().map(|i| i.spec.shard).collect();
    let mut footprint = 0;
    for shard in &listed {
        let (spec, fate) = model.get(shard).unwrap_or_else(|| panic!("seed {seed}: unknown shard {shard}"));
        assert_ne!(*fate, Fate::Gone, "seed {seed}: {shard} came back after its free was durable");
        let report = drive.verify(*shard).await.unwrap();
        assert!(report.is_clean(), "seed {seed}: {shard}: {report:?}");
        let read = drive.read(*shard, 0, usize::try_from(spec.shard_bytes).unwrap()).await.unwrap();
        assert!(read[..] == content(*shard, spec.shard_bytes)[..], "seed {seed}: {shard} reads differently");
        let (info, meta) = drive.header(*shard).await.unwrap();
        assert_eq!(&info.spec, spec);
        assert_eq!(meta, shard.to_string());
        footprint += drive.core().record(*shard).unwrap().extents.iter().map(|e| e.len_bytes()).sum::<u64>();
    }
    for (shard, (_, fate)) in model.iter() {
        assert!(
            *fate != Fate::Kept || listed.binary_search(shard).is_ok(),
            "seed {seed}: acknowledged {shard} is lost"
        );
    }
    assert_eq!(drive.space().used_bytes, footprint, "seed {seed}: accounting");
    // From here on the sweep's view: what is there stays, the rest is gone for good.
    model.retain(|shard, _| listed.binary_search(shard).is_ok());
    model.values_mut().for_each(|(_, fate)| *fate = Fate::Kept);
}

async fn live_and_crash(seed: u64) {
    let dir = tempfile::tempdir().unwrap();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut model = BTreeMap::new();
    for crash in 0..3u64 {
        let (sim, engine) = sim(seed * 100 + crash);
        let drive = open(dir.path(), engine);
        check(&drive, &mut model, seed).await;
        let rng_of_life = StdRng::seed_from_u64(rng.random());
        let mut life = Life { rng: rng_of_life, drive, model, writers: Vec::new(), freed: Vec::new() };
        let steps = rng.random_range(20..120);
        for _ in 0..steps {
            life.step().await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        let style = [CrashStyle::LoseAll, CrashStyle::Tear, CrashStyle::Reorder][rng.random_range(0..3)];
        if rng.random_range(0..4) == 0 {
            // A commit is on its way when the power goes.
            sim.hold_syncs(true);
            if let Some(n) = life.writers.iter().position(|(s, at, _)| *at as u64 == s.shard_bytes) {
                let (spec, _, writer) = life.writers.swap_remove(n);
                let commit = writer.commit(Bytes::from(spec.shard.to_string()));
                let _ = tokio::time::timeout(std::time::Duration::from_millis(5), commit).await;
            }
        }
        sim.crash(style);
        model = life.model;
        drop(life.writers);
        drop(life.drive);
    }
    let drive = open(dir.path(), io::start(EngineKind::Ring));
    check(&drive, &mut model, seed).await;
    // And once more with the index gone: all is still found.
    drive.close().await.unwrap();
    drop(drive);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let drive = open(dir.path(), io::start(EngineKind::Ring));
    assert!(drive.recovery().rebuilt.is_some());
    for (shard, (_, fate)) in &mut model {
        // Frees that were durable in the lost index only may come back as orphans; nothing else may differ.
        assert_eq!(*fate, Fate::Kept);
        assert!(drive.verify(*shard).await.unwrap().is_clean(), "seed {seed}: {shard} after a rebuild");
    }
}

#[tokio::test]
async fn acknowledged_shards_survive_power_loss() {
    let seeds = std::env::var("GRANARY_CRASH_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(25u64);
    for seed in 1..=seeds {
        live_and_crash(seed).await;
    }
}

/// A header that reached the disk without its data is no shard.
#[tokio::test]
async fn a_header_alone_proves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = io::start(EngineKind::Ring);
    let torn = spec(196_608);
    let whole = spec(196_608);
    {
        let drive = open(dir.path(), Arc::clone(&engine));
        for spec in [&torn, &whole] {
            crate::testing::conformance::write(&drive, spec, 1 << 20).await.unwrap();
        }
        let extent = drive.core().record(torn.shard).unwrap().extents[0];
        let segment = drive.core().segment_of(&extent).unwrap();
        segment.file.fill_zeros(extent.data_offset() + 65_536, 4096).unwrap();
        segment.file.sync_data().unwrap();
    }
    let drive = open(dir.path(), engine);
    assert_eq!((drive.recovery().found, drive.recovery().torn), (1, 1), "{}", drive.recovery());
    assert!(matches!(drive.read(torn.shard, 0, 4096).await, Err(DriveError::NotFound(_))));
    assert!(drive.verify(whole.shard).await.unwrap().is_clean());
}
