//! Repair: parts whose shards are missing, damaged or on retired drives are made whole again.
//!
//! Guarantees: a walk is resumable (its cursor is a record of the index, so a restart goes on where it was), says
//! what it did, counts as repaired only what was read back and verified, and names what it could not repair.
//! Old shards are freed only after the new placement is in the log.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use granary_meta::command::{Command, Refusal};
use granary_meta::records::{PartOwner, PartRef};
use granary_stripe::{DamageKind, DamageReport, RepairPlan};
use granary_types::{DriveNo, PartId, PartLocation};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::api::Result;
use crate::error::StoreError;
use crate::inner::{Inner, from_meta, from_stripe};
use crate::node::status::HealStatus;
use crate::stats::StoreStats;

/// System record that holds the cursor of a walk.
const CURSOR_RECORD: &str = "heal/cursor";
/// Parts looked at between two saves of the cursor.
const PAGE_PARTS: usize = 256;
/// Damage reports that wait at most; further ones are found by the next walk.
const QUEUE_PARTS_MAX: usize = 4096;
/// Failures told in words.
const FAILURES_TOLD_MAX: usize = 20;

/// How closely a walk looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HealMode {
    /// Only parts whose placement says that a shard was not written, or lies on a retired drive.
    Missing,
    /// Asks every drive whether it has its shards.
    Probe,
    /// Reads and checks every byte of every shard.
    Deep,
}

/// Where a walk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    mode: HealMode,
    after: Option<PartId>,
    examined_parts: u64,
    repaired_parts: u64,
    written_shards: u64,
    written_bytes: u64,
    failed_parts: u64,
    waiting_parts: u64,
}

/// The state of repair.
#[derive(Default)]
pub(crate) struct HealState {
    status: Mutex<HealStatus>,
    queue: Mutex<Queue>,
    running: AtomicBool,
    /// One part is repaired at a time: a walk and a report may name the same one.
    turn: tokio::sync::Mutex<()>,
    /// A write was acknowledged with fewer shards than its placement has.
    pub(crate) degraded_write: AtomicBool,
}

#[derive(Default)]
struct Queue {
    order: VecDeque<PartId>,
    /// Parts that wait, with the shards (bits) that are known to be wrong.
    known: HashMap<PartId, u32>,
}

/// What repairing one part did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Healed {
    written_shards: u64,
    written_bytes: u64,
    /// Shards that could not be repaired.
    left: u64,
    /// Shards on drives that are down and not retired: they may come back as they are.
    waiting: u64,
}

impl HealState {
    /// Queues a part that damage was met in. Never blocks.
    pub(crate) fn report(&self, report: &DamageReport) {
        let mut queue = self.queue.lock();
        let wrong =
            if report.kind == DamageKind::Corrupt { 1u32.checked_shl(report.index.into()).unwrap_or(0) } else { 0 };
        if let Some(suspects) = queue.known.get_mut(&report.part) {
            *suspects |= wrong;
        } else if queue.order.len() < QUEUE_PARTS_MAX {
            queue.known.insert(report.part, wrong);
            queue.order.push_back(report.part);
        }
    }

    fn next(&self) -> Option<(PartId, u32)> {
        let mut queue = self.queue.lock();
        let part = queue.order.pop_front()?;
        let suspects = queue.known.remove(&part).unwrap_or(0);
        Some((part, suspects))
    }

    /// A copy of the status.
    pub(crate) fn status(&self) -> HealStatus {
        let mut status = self.status.lock().clone();
        status.queued = self.queue.lock().order.len();
        status.running = self.running.load(Ordering::Acquire);
        status
    }
}

impl Inner {
    /// Begins a walk over all parts in the background. `false` if one is running.
    pub(crate) fn start_heal(self: &Arc<Self>, mode: HealMode, resume: bool) -> bool {
        if self.heal.running.swap(true, Ordering::AcqRel) {
            return false;
        }
        let inner = Arc::clone(self);
        tokio::spawn(async move {
            let result = inner.walk(mode, resume).await;
            if let Err(error) = &result {
                tracing::error!(%error, "repair stopped early; it goes on where it was when started again");
                inner.heal.status.lock().failures.push(format!("stopped early: {error}"));
            }
            inner.heal.running.store(false, Ordering::Release);
        });
        true
    }

    fn saved_cursor(&self) -> Result<Option<Cursor>> {
        let Some(saved) = self.index()?.system(CURSOR_RECORD).map_err(from_meta)? else { return Ok(None) };
        Ok(postcard::from_bytes(&saved).ok())
    }

    /// Goes on with a walk that a restart cut off, if there was one.
    pub(crate) fn resume_heal(self: &Arc<Self>) {
        match self.saved_cursor() {
            Ok(Some(cursor)) => {
                tracing::info!(examined = cursor.examined_parts, "repair goes on where it was");
                self.start_heal(cursor.mode, true);
            }
            Ok(None) => {
                self.start_heal(HealMode::Missing, false);
            }
            Err(error) => tracing::warn!(%error, "the repair cursor could not be read"),
        }
    }

    pub(crate) async fn walk(&self, mode: HealMode, resume: bool) -> Result<()> {
        let fresh = Cursor {
            mode,
            after: None,
            examined_parts: 0,
            repaired_parts: 0,
            written_shards: 0,
            written_bytes: 0,
            failed_parts: 0,
            waiting_parts: 0,
        };
        let mut cursor = if resume { self.saved_cursor()?.unwrap_or(fresh) } else { fresh };
        let mut failures = Vec::new();
        loop {
            self.show(&cursor, &failures, false);
            let page = self.index()?.part_refs(cursor.after, PAGE_PARTS).map_err(from_meta)?;
            let Some((last, _)) = page.last() else { break };
            let next = *last;
            for (part, reference) in page {
                if matches!(reference.owner, PartOwner::Garbage { .. }) {
                    continue;
                }
                cursor.examined_parts += 1;
                if cursor.mode == HealMode::Missing && !self.is_suspect(&reference)? {
                    continue;
                }
                match self.heal_part(part, cursor.mode == HealMode::Deep, 0).await {
                    Ok(healed) => {
                        cursor.written_shards += healed.written_shards;
                        cursor.written_bytes += healed.written_bytes;
                        cursor.repaired_parts += u64::from(healed.written_shards > 0 && healed.left == 0);
                        cursor.waiting_parts += u64::from(healed.waiting > 0);
                        if healed.left > 0 {
                            cursor.failed_parts += 1;
                            note(
                                &mut failures,
                                format!("part {part}: no drive could take {} of its shards", healed.left),
                            );
                        }
                    }
                    Err(error) => {
                        cursor.failed_parts += 1;
                        note(&mut failures, format!("part {part}: {error}"));
                    }
                }
                self.show(&cursor, &failures, false);
            }
            cursor.after = Some(next);
            if cursor.mode != HealMode::Missing {
                self.save_cursor(Some(&cursor)).await?;
            }
        }
        if cursor.mode != HealMode::Missing {
            self.save_cursor(None).await?;
        }
        self.show(&cursor, &failures, true);
        if cursor.repaired_parts > 0 || cursor.failed_parts > 0 || cursor.mode != HealMode::Missing {
            tracing::info!(
                examined = cursor.examined_parts,
                repaired = cursor.repaired_parts,
                failed = cursor.failed_parts,
                written_bytes = cursor.written_bytes,
                "repair has come to its end"
            );
        }
        Ok(())
    }

    async fn save_cursor(&self, cursor: Option<&Cursor>) -> Result<()> {
        let value = cursor
            .map(postcard::to_stdvec)
            .transpose()
            .map_err(|error| StoreError::Internal(format!("the repair cursor does not encode: {error}")))?;
        let command = Command::SetSystem { name: CURSOR_RECORD.to_owned(), value: value.map(Bytes::from) };
        self.propose(command).await.map(|_| ())
    }

    fn show(&self, cursor: &Cursor, failures: &[String], finished: bool) {
        let mut status = self.heal.status.lock();
        status.deep = cursor.mode == HealMode::Deep;
        status.finished = finished;
        status.examined_parts = cursor.examined_parts;
        status.repaired_parts = cursor.repaired_parts;
        status.written_shards = cursor.written_shards;
        status.written_bytes = cursor.written_bytes;
        status.failed_parts = cursor.failed_parts;
        status.waiting_parts = cursor.waiting_parts;
        status.failures = failures.to_vec();
    }

    /// Whether a part's placement alone shows that it needs repair.
    fn is_suspect(&self, reference: &PartRef) -> Result<bool> {
        Ok(!reference.placement.is_whole() || self.retired_bits(&reference.placement.drives)? != 0)
    }

    /// Positions whose drive is retired.
    fn retired_bits(&self, drives: &[DriveNo]) -> Result<u32> {
        let index = self.index()?;
        let retired = |no: &DriveNo| index.drive(*no).is_none_or(|entry| entry.retired);
        Ok(drives.iter().enumerate().filter(|(_, no)| retired(no)).map(|(i, _)| 1u32 << i).sum())
    }

    /// Makes one part whole. A part that is gone in the meantime is nothing to repair.
    async fn heal_part(&self, part: PartId, verify: bool, suspects: u32) -> Result<Healed> {
        let _turn = self.heal.turn.lock().await;
        let _guard = self.active.enter(part);
        let Some(reference) = self.index()?.part_ref(part).map_err(from_meta)? else { return Ok(Healed::default()) };
        if matches!(reference.owner, PartOwner::Garbage { .. }) {
            return Ok(Healed::default());
        }
        let from = reference.placement;
        // More suspects than parity could make good would leave nothing to repair from: look for oneself then.
        let suspects = if suspects.count_ones() <= u32::from(from.scheme.m) { suspects } else { 0 };
        let move_away = self.retired_bits(&from.drives)?;
        let plan = RepairPlan { verify, replace_down: false, move_away, suspects };
        let location = PartLocation { part, payload_bytes: reference.payload_bytes, placement: from.clone() };
        let outcome = self.stripes.repair_part(&location, plan).await.map_err(|error| {
            StoreStats::add(&self.stats.heal_failures, 1);
            from_stripe(error)
        })?;
        let from_drives = outcome.placement.drives.clone();
        if outcome.placement != from {
            match self.propose(Command::MovePart { part, from, to: outcome.placement }).await {
                Ok(_) => {}
                // Deleted or moved by another in the meantime; what was written is an orphan for the sweep.
                Err(StoreError::Refused(Refusal::Stale)) => return Ok(Healed::default()),
                Err(error) => return Err(error),
            }
            self.forget_manifests();
            for (drive, shard) in outcome.superseded {
                if let Err(error) = self.stripes.free_shards(drive, vec![shard]).await {
                    tracing::debug!(%drive, %shard, %error, "a superseded shard is left to the orphan sweep");
                }
            }
        }
        let drives = self.stripes.drives();
        let is_down = |index: &&u8| {
            let no = from_drives.get(usize::from(**index)).copied();
            no.and_then(|no| drives.get(no)).is_none_or(|drive| !drive.store().health().readable())
        };
        let waiting = outcome.left.iter().filter(is_down).count() as u64;
        let healed = Healed {
            written_shards: outcome.repaired.len() as u64,
            written_bytes: outcome.written_bytes,
            left: outcome.left.len() as u64 - waiting,
            waiting,
        };
        if healed.written_shards > 0 && healed.left == 0 {
            StoreStats::add(&self.stats.healed_parts, 1);
        } else if healed.left > 0 {
            StoreStats::add(&self.stats.heal_failures, 1);
        }
        Ok(healed)
    }
}

fn note(failures: &mut Vec<String>, failure: String) {
    tracing::warn!(failure, "repair");
    if failures.len() < FAILURES_TOLD_MAX {
        failures.push(failure);
    }
}

/// Repairs what is reported, and what degraded writes left, until `stop` is set.
pub(crate) async fn run(inner: Arc<Inner>, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Acquire) {
        while let Some((part, suspects)) = inner.heal.next() {
            if stop.load(Ordering::Acquire) {
                return;
            }
            match inner.heal_part(part, true, suspects).await {
                Ok(healed) if healed.written_shards > 0 => {
                    tracing::info!(%part, shards = healed.written_shards, "a damaged part was repaired");
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(%part, %error, "a damaged part could not be repaired yet"),
            }
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        if inner.heal.degraded_write.swap(false, Ordering::AcqRel) && !inner.start_heal(HealMode::Missing, false) {
            inner.heal.degraded_write.store(true, Ordering::Release);
        }
    }
}
