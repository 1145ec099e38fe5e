//! Repair of parts, freeing of parts, and the search for orphans.
//!
//! Repair assesses the shards, builds the bad ones anew stripe by stripe (one stripe in memory), commits
//! them, and then reads everything back: the drive's own check of the new shard, and a comparison of the
//! new blocks with what the other shards decode to. Only then does it say so. It changes no metadata: the
//! caller records the new placement first and frees what it supersedes after that. Begun anew after a
//! crash it adopts what an earlier attempt left whole, and replaces what it left broken.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use granary_drive::api::{DriveError, ShardInfo, ShardSpec, ShardWriter};
use granary_types::{DriveNo, PartId, PartLocation, Placement, ShardId};

use crate::codec::WIDTH_MAX;
use crate::drives::DriveEntry;
use crate::error::{Result, StripeError};
use crate::read::shard_failed;
use crate::rebuild::{Gathered, gather};
use crate::stats::{DamageKind, count};
use crate::store::{StripeStore, Target, is_writable};
use crate::write::within;

/// How thoroughly to look, and what to do about drives that are down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RepairPlan {
    /// Read and check every byte of every shard first; else only whether each shard is there.
    pub verify: bool,
    /// Build shards of drives that are down or gone anew on other drives. Else they are left alone.
    pub replace_down: bool,
    /// Shards (bits) to build anew on another drive whatever their state: their drive is to be emptied.
    pub move_away: u32,
    /// Shards (bits) known to be wrong although their drives find nothing: reads told so, by tags
    /// ([`crate::DamageReport`]).
    pub suspects: u32,
}

/// What repair did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairOutcome {
    /// Where the part lies now: to be recorded if it differs from what was.
    pub placement: Placement,
    /// Shards written, or adopted from an earlier attempt; each verified by reading it back.
    pub repaired: Vec<u8>,
    /// Bytes written.
    pub written_bytes: u64,
    /// Shards that are bad or out of reach still: no drive could take them, or the plan leaves them alone.
    pub left: Vec<u8>,
    /// Old shards, to be freed once the new placement is recorded.
    pub superseded: Vec<(DriveNo, ShardId)>,
}

/// What freeing a part did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FreeOutcome {
    /// Drives that freed their shard (or had none).
    pub freed: Vec<DriveNo>,
    /// Drives that could not be asked or failed: what they hold is left to the orphan sweep.
    pub left: Vec<DriveNo>,
}

/// Part of a drive's shards, looked at for orphans.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OrphanPage {
    /// Shards that nobody claims and that are older than the grace period.
    pub orphans: Vec<ShardInfo>,
    /// Shards looked at.
    pub scanned: usize,
    /// Where to go on; `None` at the end.
    pub next: Option<ShardId>,
}

/// Which shards (bits) not to build on.
#[derive(Debug, Clone, Copy)]
struct Distrust {
    /// Known to be bad somewhere: asked only where the others do not suffice, and checked by checksum.
    avoid: u32,
    /// Not asked at all: the one that is checked, or wrong in ways that checksums do not show.
    never: u32,
}

impl Distrust {
    const fn of(self, shards: u32) -> Self {
        Self { avoid: self.avoid | shards, never: self.never | shards }
    }
}

/// A shard's state, as repair finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    /// Not on its drive.
    Missing,
    /// On its drive, and not as it should be.
    Damaged,
    /// Its drive cannot be asked.
    Down,
}

impl StripeStore {
    /// Repairs a part.
    ///
    /// # Errors
    /// [`StripeError::Corrupt`] or [`StripeError::Unavailable`] if fewer than `k` blocks of a stripe can be
    /// read, [`StripeError::Unverified`] if what was written does not read back right, or the error of a
    /// drive that was written to. Nothing new is kept then, and nothing old is given up.
    pub async fn repair_part(&self, location: &PartLocation, plan: RepairPlan) -> Result<RepairOutcome> {
        let target = Target::new(location)?;
        let mut states = self.assess(&target, plan.verify).await;
        for (index, state) in states.iter_mut().enumerate() {
            if *state == State::Good && plan.suspects & 1 << index != 0 {
                *state = State::Damaged;
            }
        }
        let mut outcome = RepairOutcome {
            placement: target.placement.clone(),
            repaired: Vec::new(),
            written_bytes: 0,
            left: Vec::new(),
            superseded: Vec::new(),
        };
        let mut moves: Vec<(usize, DriveNo)> = Vec::new();
        let mut in_place: Vec<usize> = Vec::new();
        for (index, state) in states.iter().copied().enumerate() {
            let moving = plan.move_away & 1 << index != 0;
            let own = target.placement.drives[index];
            match state {
                State::Good if !moving => {}
                State::Down if !plan.replace_down && !moving => outcome.left.push(index as u8),
                State::Missing if !moving && is_writable(&self.inner.drives, own) => moves.push((index, own)),
                _ => match self.spare(&target, &moves) {
                    Some(drive) => moves.push((index, drive)),
                    None if state == State::Damaged && is_writable(&self.inner.drives, own) => in_place.push(index),
                    None => outcome.left.push(index as u8),
                },
            }
        }
        let bad: u32 = (0..target.width()).filter(|i| states[*i] != State::Good).map(|i| 1 << i).sum();
        let mut distrust = Distrust { avoid: bad, never: plan.suspects };
        if !moves.is_empty() {
            outcome.written_bytes += self.build(&target, &moves, distrust).await?;
            for (index, drive) in moves {
                distrust = Distrust { avoid: distrust.avoid & !(1 << index), never: distrust.never & !(1 << index) };
                let old = std::mem::replace(&mut outcome.placement.drives[index], drive);
                outcome.placement.missing &= !(1 << index);
                outcome.repaired.push(index as u8);
                if old != drive {
                    outcome.superseded.push((old, target.shard(index)));
                }
            }
        }
        for index in in_place {
            let now = Target { part: target.part, placement: outcome.placement.clone(), layout: target.layout };
            outcome.written_bytes += self.replace_in_place(&now, index, distrust).await?;
            distrust = Distrust { avoid: distrust.avoid & !(1 << index), never: distrust.never & !(1 << index) };
            outcome.repaired.push(index as u8);
        }
        count(&self.inner.stats.shards_repaired, outcome.repaired.len() as u64);
        count(&self.inner.stats.repaired_bytes, outcome.written_bytes);
        Ok(outcome)
    }

    /// Asks every drive for the state of its shard.
    async fn assess(&self, target: &Target, verify: bool) -> Vec<State> {
        join_all((0..target.width()).map(|index| async move {
            if target.placement.is_missing(index) {
                return State::Missing;
            }
            let Some(drive) = target.readable(index, &self.inner.drives) else { return State::Down };
            let (state, why) = look_at(target, index, &drive, verify).await;
            if let (State::Damaged | State::Missing, Some((kind, why))) = (state, why) {
                self.inner.damage(target, index, kind, why);
            }
            state
        }))
        .await
    }

    /// The emptiest writable drive that neither holds a shard of the part nor is about to.
    fn spare(&self, target: &Target, moves: &[(usize, DriveNo)]) -> Option<DriveNo> {
        self.emptiest(target, |no| {
            !target.placement.drives.contains(&no) && moves.iter().all(|(_, taken)| *taken != no)
        })
    }

    fn emptiest(&self, target: &Target, suits: impl Fn(DriveNo) -> bool) -> Option<DriveNo> {
        let shard_bytes = target.layout.shard_bytes();
        self.inner
            .candidates(0)
            .into_iter()
            .filter(|c| c.health.writable() && c.space.free_bytes > shard_bytes && suits(c.no))
            .max_by_key(|c| c.space.free_bytes)
            .map(|c| c.no)
    }

    /// Replaces a damaged shard on its own drive, where no other drive is free: a good copy is made durable
    /// on another drive first, beside the shard that this one holds anyway.
    async fn replace_in_place(&self, target: &Target, index: usize, distrust: Distrust) -> Result<u64> {
        let (own, shard) = (target.placement.drives[index], target.shard(index));
        let stage = self.emptiest(target, |no| no != own).ok_or(StripeError::Unavailable {
            what: "staging a shard for repair",
            have: 0,
            need: 1,
        })?;
        let mut written_bytes = self.build(target, &[(index, stage)], distrust).await?;
        self.free_shard(own, shard).await?;
        // Now the shard on its own drive is missing, as far as a second attempt is concerned.
        written_bytes += self.build(target, &[(index, own)], distrust).await?;
        self.free_shard(stage, shard).await?;
        Ok(written_bytes)
    }

    async fn free_shard(&self, no: DriveNo, shard: ShardId) -> Result<()> {
        let drive = self.inner.drives.get(no).ok_or(DriveError::NotFound(shard))?;
        Ok(within(self.inner.options.write_timeout, drive.store().free(vec![shard])).await?)
    }

    /// Builds shards on the drives named, commits and verifies them. Returns bytes written. On an error all that it made is freed.
    async fn build(&self, target: &Target, moves: &[(usize, DriveNo)], distrust: Distrust) -> Result<u64> {
        let mut made: Vec<(usize, DriveNo)> = Vec::new();
        let result = self.build_and_verify(target, moves, distrust, &mut made).await;
        if result.is_err() {
            for (index, no) in made {
                if let Err(error) = self.free_shard(no, target.shard(index)).await {
                    tracing::warn!(part = %target.part, shard = index, drive = %no, %error, "left to the orphan sweep");
                }
            }
        }
        result
    }

    async fn build_and_verify(
        &self,
        target: &Target,
        moves: &[(usize, DriveNo)],
        distrust: Distrust,
        made: &mut Vec<(usize, DriveNo)>,
    ) -> Result<u64> {
        // The old copy of what is built may serve where nothing else does: its checksums say where it is good.
        let building: u32 = moves.iter().map(|(index, _)| 1u32 << index).sum();
        let distrust = Distrust { avoid: distrust.avoid | building, ..distrust };
        let mut placement = target.placement.clone();
        for (index, no) in moves {
            placement.drives[*index] = *no;
            placement.missing &= !(1 << index);
        }
        let new = Target { part: target.part, placement, layout: target.layout };
        let mut writers: BTreeMap<usize, Box<dyn ShardWriter>> = BTreeMap::new();
        for (index, no) in moves {
            if let Some(writer) = self.create_or_adopt(target, &new, *index, *no, distrust).await? {
                writers.insert(*index, writer);
                made.push((*index, *no));
            }
        }
        if writers.is_empty() {
            return Ok(0);
        }
        let wanted: u32 = writers.keys().map(|index| 1u32 << index).sum();
        let sealed_meta = self.sealed_meta(target, distrust.avoid).await?;
        let block_bytes = target.layout.stripe(0).block_bytes;
        let _budget = self.inner.rebuild_budget(target.width() * block_bytes).await;
        for stripe in 0..target.layout.stripes() {
            let mut gathered = self.gather_without(target, stripe, distrust).await?;
            let codec = self.inner.codec(target.placement.scheme);
            if !codec.rebuild(&mut gathered.blocks, wanted, &self.inner.pool) {
                return Err(gathered.too_few(target, stripe));
            }
            let appends = writers.iter_mut().filter_map(|(index, writer)| {
                let block = gathered.blocks[*index].take()?;
                Some(within(self.inner.options.write_timeout, writer.append(block.freeze(), &[])))
            });
            for appended in join_all(appends.collect::<Vec<_>>()).await {
                appended?;
            }
        }
        let written_bytes = writers.len() as u64 * target.layout.shard_bytes();
        let commits = writers
            .into_values()
            .map(|writer| within(self.inner.options.write_timeout, writer.commit(sealed_meta.clone())));
        for committed in join_all(commits).await {
            committed?;
        }
        for (index, _) in made.iter() {
            if !self.is_right(&new, *index, distrust).await? {
                return Err(StripeError::Unverified { part: target.part, index: *index as u8 });
            }
        }
        Ok(written_bytes)
    }

    /// A writer for the new shard, or `None` if an earlier attempt left it whole already. What it left
    /// broken is freed.
    async fn create_or_adopt(
        &self,
        target: &Target,
        new: &Target,
        index: usize,
        no: DriveNo,
        distrust: Distrust,
    ) -> Result<Option<Box<dyn ShardWriter>>> {
        let shard = target.shard(index);
        let drive = self.inner.drives.get(no).ok_or(DriveError::NotFound(shard))?;
        let spec = ShardSpec {
            shard,
            scheme: target.placement.scheme,
            payload_bytes: target.layout.payload_bytes(),
            shard_bytes: target.layout.shard_bytes(),
        };
        let limit = self.inner.options.write_timeout;
        match within(limit, drive.store().create(spec.clone())).await {
            Ok(writer) => Ok(Some(writer)),
            Err(DriveError::Exists(_)) => {
                if self.is_right(new, index, distrust).await.unwrap_or(false) {
                    return Ok(None);
                }
                self.free_shard(no, shard).await?;
                Ok(Some(within(limit, drive.store().create(spec)).await?))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a shard back: whether its drive finds it clean, and whether every block is what the other
    /// shards decode to.
    async fn is_right(&self, target: &Target, index: usize, distrust: Distrust) -> Result<bool> {
        let Some(drive) = target.readable(index, &self.inner.drives) else { return Ok(false) };
        let (state, _) = look_at(target, index, &drive, true).await;
        if state != State::Good {
            return Ok(false);
        }
        for stripe in 0..target.layout.stripes() {
            let mut gathered = self.gather_without(target, stripe, distrust.of(1 << index)).await?;
            let codec = self.inner.codec(target.placement.scheme);
            if !codec.rebuild(&mut gathered.blocks, 1 << index, &self.inner.pool) {
                return Err(gathered.too_few(target, stripe));
            }
            let block_bytes = target.layout.stripe(stripe).block_bytes;
            let read = crate::rebuild::read_verified(&self.inner, target, stripe, 0..block_bytes, index).await;
            match (read, &gathered.blocks[index]) {
                (Ok(read), Some(expected)) if read[..] == expected[..] => {}
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// A stripe's blocks from trusted shards, one more than `k` where there is one, and then checked against
    /// each other; if there are fewer than `k`, from the others too: a damaged shard may well be good in this
    /// stripe, and its checksums say so.
    async fn gather_without(&self, target: &Target, stripe: u64, distrust: Distrust) -> Result<Gathered> {
        let Distrust { avoid, never } = distrust;
        let block_bytes = target.layout.stripe(stripe).block_bytes;
        let k = target.k();
        let mut gathered = gather(&self.inner, target, stripe, 0..block_bytes, avoid, k + 1, k).await;
        if gathered.present() < k && avoid != never {
            gathered = gather(&self.inner, target, stripe, 0..block_bytes, never, k + 1, k).await;
        }
        if gathered.present() < k {
            return Err(gathered.too_few(target, stripe));
        }
        let spare = gathered.blocks.iter().rposition(Option::is_some).filter(|_| gathered.present() > k);
        if let Some((spare, read)) = spare.and_then(|spare| Some((spare, gathered.blocks[spare].take()?))) {
            let codec = self.inner.codec(target.placement.scheme);
            let decoded = codec.rebuild(&mut gathered.blocks, 1 << spare, &self.inner.pool);
            if !decoded || gathered.blocks[spare].as_deref() != Some(&read[..]) {
                return Err(StripeError::Inconsistent { part: target.part, stripe });
            }
        }
        Ok(gathered)
    }

    /// The sealed metadata of the part, as most of its readable headers have it.
    async fn sealed_meta(&self, target: &Target, bad: u32) -> Result<Bytes> {
        let mut votes: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
        let mut last_error = None;
        for careful in [true, false] {
            for index in (0..target.width()).filter(|i| !careful || bad & 1 << i == 0) {
                let Some(drive) = target.readable(index, &self.inner.drives) else { continue };
                let header = drive.store().header(target.shard(index));
                match within(self.inner.options.read_timeout, header).await {
                    Ok((_, meta)) => *votes.entry(meta.to_vec()).or_default() += 1,
                    Err(error) => {
                        shard_failed(&self.inner, target, index, &error);
                        last_error = Some(error);
                    }
                }
            }
            if !votes.is_empty() {
                break;
            }
        }
        match votes.into_iter().max_by_key(|(_, votes)| *votes) {
            Some((meta, _)) => Ok(Bytes::from(meta)),
            None => Err(last_error.map_or(
                StripeError::Unavailable { what: "reading a part's header", have: 0, need: 1 },
                StripeError::Drive,
            )),
        }
    }

    /// Frees all shards of a part, wherever its placement says they are.
    pub async fn free_part(&self, part: PartId, placement: &Placement) -> FreeOutcome {
        let mut drives = placement.drives.clone();
        drives.sort_unstable();
        drives.dedup();
        let frees = drives.into_iter().map(|no| async move {
            let shards: Vec<ShardId> = (0..WIDTH_MAX as u8).map(|index| ShardId { part, index }).collect();
            let Some(drive) = self.inner.drives.get(no) else { return (no, false) };
            let freed = within(self.inner.options.write_timeout, drive.store().free(shards)).await;
            if let Err(error) = &freed {
                tracing::warn!(%part, drive = %no, %error, "left to the orphan sweep");
            }
            (no, freed.is_ok())
        });
        let mut outcome = FreeOutcome::default();
        for (no, freed) in join_all(frees).await {
            if freed { outcome.freed.push(no) } else { outcome.left.push(no) }
        }
        outcome
    }

    /// Frees single shards of one drive (superseded ones, orphans).
    ///
    /// # Errors
    /// The drive's.
    pub async fn free_shards(&self, no: DriveNo, shards: Vec<ShardId>) -> Result<()> {
        let Some(drive) = self.inner.drives.get(no) else {
            return Err(StripeError::Unavailable { what: "freeing shards", have: 0, need: 1 });
        };
        Ok(within(self.inner.options.write_timeout, drive.store().free(shards)).await?)
    }

    /// Looks at up to `limit` of a drive's shards, from after `after`: those that `is_live` does not claim
    /// and that were committed more than `grace_us` before `now_us` are orphans. A shard is live if a part's
    /// *recorded* placement has it on this drive, or a writer or repair may be about to record it; the grace
    /// period covers the latter. Frees nothing.
    ///
    /// # Errors
    /// The drive's.
    pub async fn orphans(
        &self,
        no: DriveNo,
        after: Option<ShardId>,
        limit: usize,
        age: (u64, u64),
        mut is_live: impl FnMut(ShardId) -> bool,
    ) -> Result<OrphanPage> {
        let (now_us, grace_us) = age;
        let Some(drive) = self.inner.drives.get(no) else {
            return Err(StripeError::Unavailable { what: "looking for orphans", have: 0, need: 1 });
        };
        let found = within(self.inner.options.read_timeout, drive.store().scan(after, limit)).await?;
        let next = found.last().filter(|_| found.len() >= limit).map(|info| info.spec.shard);
        let scanned = found.len();
        let old = |info: &ShardInfo| info.committed_us.saturating_add(grace_us) < now_us;
        let orphans = found.into_iter().filter(|info| old(info) && !is_live(info.spec.shard)).collect();
        Ok(OrphanPage { orphans, scanned, next })
    }
}

/// A shard's state, and what to report about it.
async fn look_at(
    target: &Target,
    index: usize,
    drive: &Arc<DriveEntry>,
    verify: bool,
) -> (State, Option<(DamageKind, String)>) {
    let shard = target.shard(index);
    let failed = |error: DriveError| match crate::stats::damage_kind(&error) {
        Some(DamageKind::Lost) => (State::Missing, Some((DamageKind::Lost, error.to_string()))),
        Some(kind) => (State::Damaged, Some((kind, error.to_string()))),
        None => (State::Down, None),
    };
    match drive.store().header(shard).await {
        Ok((info, _)) if info.spec.shard_bytes != target.layout.shard_bytes() => {
            let why = format!("{} bytes, expected {}", info.spec.shard_bytes, target.layout.shard_bytes());
            return (State::Damaged, Some((DamageKind::Corrupt, why)));
        }
        Ok(_) => {}
        Err(error) => return failed(error),
    }
    if !verify {
        return (State::Good, None);
    }
    match drive.store().verify(shard).await {
        Ok(report) if report.is_clean() => (State::Good, None),
        Ok(report) => {
            let why = format!("{} bad chunks, header bad: {}", report.bad_chunks.len(), report.header_bad);
            (State::Damaged, Some((DamageKind::Corrupt, why)))
        }
        Err(error) => failed(error),
    }
}
