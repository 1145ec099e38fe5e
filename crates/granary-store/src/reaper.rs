//! Freeing what nobody refers to any more: garbage that deletes and overwrites left, and orphans that a
//! crash left.
//!
//! Guarantees: a shard is freed only on evidence. Garbage has been declared so by a command in the log, has rested for the
//! quarantine, and has no reader. A shared block is declared garbage only after it has had no use for the quarantine, and no
//! read that began before it lost the last one goes on. An orphan has no `part_refs` entry, no writer, is older than the grace period,
//! *and* was an orphan already in the sweep before; and sweeps are off while the index is not known to be complete.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use granary_drive::api::ShardStore;
use granary_meta::command::Command;
use granary_meta::records::PartOwner;
use granary_types::{DriveNo, ShardId, Timestamp};

use crate::api::Result;
use crate::inner::{Inner, from_meta};
use crate::stats::StoreStats;

/// Garbage parts looked at per round.
const REAP_PARTS_MAX: usize = 512;
/// Shards asked for per scan call.
const SCAN_SHARDS_MAX: usize = 1024;

/// What the sweep remembers between rounds.
#[derive(Default)]
pub(crate) struct Sweep {
    suspects: HashSet<(DriveNo, ShardId)>,
}

impl Inner {
    /// Makes shared blocks garbage that have had no use for the quarantine, that nobody is about to use and no read may still
    /// want. Returns how many.
    async fn retire_blocks(&self) -> Result<usize> {
        let now = self.clock.now();
        let rested = u64::try_from(self.options.garbage_quarantine.as_micros()).unwrap_or(u64::MAX);
        let oldest_reader = self.readers.oldest();
        let mut blocks = self.index()?.idle_blocks(REAP_PARTS_MAX).map_err(from_meta)?;
        blocks.retain(|(block, since)| {
            since.0.saturating_add(rested) <= now.0
                && oldest_reader.is_none_or(|oldest| *since < oldest)
                && !self.active.contains(*block)
        });
        let retired = blocks.len();
        if retired > 0 {
            self.propose(Command::RetireBlocks { blocks }).await?;
            StoreStats::add(&self.stats.retired_blocks, retired as u64);
        }
        Ok(retired)
    }

    /// Frees garbage that has rested. Returns how many parts were freed.
    pub(crate) async fn reap(&self) -> Result<usize> {
        self.retire_blocks().await?;
        let now = self.clock.now();
        let rested = u64::try_from(self.options.garbage_quarantine.as_micros()).unwrap_or(u64::MAX);
        let mut done = Vec::new();
        for (part, reference) in self.index()?.garbage(None, REAP_PARTS_MAX).map_err(from_meta)? {
            let PartOwner::Garbage { since } = reference.owner else { continue };
            if since.0.saturating_add(rested) > now.0 || self.active.contains(part) {
                continue;
            }
            let outcome = self.stripes.free_part(part, &reference.placement).await;
            if !outcome.left.is_empty() {
                tracing::debug!(%part, drives = ?outcome.left, "shards on drives that are down are left to the sweep");
            }
            done.push(part);
        }
        let freed = done.len();
        if freed > 0 {
            self.propose(Command::ForgetGarbage { parts: done }).await?;
            StoreStats::add(&self.stats.reaped_parts, freed as u64);
        }
        Ok(freed)
    }

    /// One sweep of one drive for shards that nothing refers to. Returns how many were freed.
    pub(crate) async fn sweep_drive(&self, no: DriveNo, drive: &dyn ShardStore, sweep: &mut Sweep) -> Result<usize> {
        let now = self.clock.now();
        let grace = u64::try_from(self.options.orphan_grace.as_micros()).unwrap_or(u64::MAX);
        let mut after = None;
        let mut orphans = Vec::new();
        loop {
            let page = drive.scan(after, SCAN_SHARDS_MAX).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.spec.shard);
            for info in &page {
                let shard = info.spec.shard;
                let entry = (no, shard);
                if info.committed_us.saturating_add(grace) > now.0 || !self.is_orphan(no, shard)? {
                    sweep.suspects.remove(&entry);
                } else if !sweep.suspects.insert(entry) {
                    orphans.push(shard);
                }
            }
        }
        for shard in &orphans {
            tracing::info!(drive = %no, %shard, "freeing an orphan shard");
            sweep.suspects.remove(&(no, *shard));
        }
        let freed = orphans.len();
        if freed > 0 {
            drive.free(orphans).await?;
            StoreStats::add(&self.stats.orphan_shards, freed as u64);
        }
        Ok(freed)
    }

    /// Whether nothing refers to `shard` on drive `no`. The registry of writers is asked *before* the index: a
    /// writer leaves it only after its command is applied.
    fn is_orphan(&self, no: DriveNo, shard: ShardId) -> Result<bool> {
        if self.active.contains(shard.part) {
            return Ok(false);
        }
        let reference = self.index()?.part_ref(shard.part).map_err(from_meta)?;
        Ok(match reference {
            None => true,
            Some(reference) => reference.placement.drives.get(usize::from(shard.index)) != Some(&no),
        })
    }
}

/// Runs the reaper and the sweep until `stop` is set.
pub(crate) async fn run(inner: Arc<Inner>, stop: Arc<AtomicBool>, sweep_allowed: bool) {
    let mut sweep = Sweep::default();
    let mut next_sweep = Timestamp(
        inner.clock.now().0 + u64::try_from(inner.options.sweep_interval.as_micros().min(60_000_000)).unwrap_or(0),
    );
    while !stop.load(Ordering::Acquire) {
        tokio::time::sleep(inner.options.reaper_interval.max(Duration::from_millis(10))).await;
        loop {
            match inner.reap().await {
                Ok(REAP_PARTS_MAX) => {}
                Ok(_) => break,
                Err(error) => {
                    tracing::warn!(%error, "the reaper will try again");
                    break;
                }
            }
        }
        let now = inner.clock.now();
        if sweep_allowed && now >= next_sweep {
            for entry in inner.stripes.drives().all() {
                let (no, drive) = (entry.no(), entry.store());
                if drive.health().readable()
                    && let Err(error) = inner.sweep_drive(no, drive, &mut sweep).await
                {
                    tracing::warn!(drive = %no, %error, "the orphan sweep of this drive will be tried again");
                }
            }
            let interval = u64::try_from(inner.options.sweep_interval.as_micros()).unwrap_or(u64::MAX);
            next_sweep = Timestamp(now.0.saturating_add(interval));
        }
    }
}
