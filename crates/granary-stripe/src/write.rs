//! Writing a part: chunks go into the stripe's buffers; a full stripe gets its parity and checksums in one pass
//! and goes to the drives while the next one fills.
//!
//! A drive that fails, or takes too long, is given up for this part as long as a write quorum stays;
//! its shard is then missing and left to repair. Below the quorum the part fails and everything is freed.
//! Dropping a writer aborts it. A `commit` that has begun runs to its end whether waited for or not; if
//! nobody waits any more, what it committed is freed again.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::future::{BoxFuture, join_all};
use futures::stream::FuturesUnordered;
use granary_drive::api::{DriveError, ShardSpec, ShardWriter};
use granary_drive::buf::{AlignedBuf, AlignedBytes};
use granary_types::limits::TAG_BYTES;
use granary_types::{DriveNo, PartId, Placement, Scheme, ShardId};

use crate::codec::Codec;
use crate::error::{Result, StripeError};
use crate::layout::{PartLayout, StripePlace};
use crate::placement::{check_room, choose};
use crate::stats::count;
use crate::store::{Inner, StripeStore};

/// Sealed metadata that fits into a shard's header, in bytes (the drive's contract).
pub const SEALED_META_BYTES_MAX: usize = 8 * 1024;

impl StripeStore {
    /// Begins a part: chooses its drives and reserves its space on them. `scheme` is taken as it is; see
    /// [`crate::scheme_for`] for what small parts get.
    ///
    /// # Errors
    /// [`StripeError::Unavailable`] or [`StripeError::Full`] without a write quorum,
    /// [`StripeError::Invalid`] for an empty or overlong part.
    pub async fn begin(&self, part: PartId, payload_bytes: u64, scheme: Scheme) -> Result<PartWriter> {
        self.begin_leaving(part, payload_bytes, scheme, 0).await
    }

    /// [`StripeStore::begin`] that leaves one part in `share` of each drive's space alone; 0: nothing.
    ///
    /// # Errors
    /// As [`StripeStore::begin`].
    pub async fn begin_leaving(
        &self,
        part: PartId,
        payload_bytes: u64,
        scheme: Scheme,
        share: u64,
    ) -> Result<PartWriter> {
        PartWriter::begin(Arc::clone(&self.inner), part, payload_bytes, scheme, share).await
    }

    /// Whether so many bytes could be placed on each of enough drives, leaving that share alone: for what is written beside shards.
    ///
    /// # Errors
    /// [`StripeError::Full`], [`StripeError::Unavailable`].
    pub fn check_room(&self, bytes: u64, scheme: Scheme, share: u64) -> Result<()> {
        check_room(&self.inner.candidates(share), scheme, bytes)
    }
}

/// A part being written. For each chunk: fill [`PartWriter::slot_mut`], then [`PartWriter::advance`];
/// after the last one [`PartWriter::commit`].
pub struct PartWriter {
    inner: Arc<Inner>,
    codec: Arc<Codec>,
    part: PartId,
    layout: PartLayout,
    drives: Vec<DriveNo>,
    /// `None`: this shard is missing.
    shards: Vec<Option<Box<dyn ShardWriter>>>,
    /// The chunk whose slot is open.
    chunk: u64,
    stripe: u64,
    place: StripePlace,
    /// The open stripe's blocks; empty once the last stripe is submitted.
    data: Vec<AlignedBuf>,
    parity: Vec<AlignedBuf>,
    appends: FuturesUnordered<BoxFuture<'static, Appended>>,
    /// Appends outstanding, for each stripe in flight, oldest first.
    outstanding: std::collections::VecDeque<(u64, usize)>,
    /// Set by the first error; everything after it fails the same way.
    failed: Option<StripeError>,
}

/// A part that is durable and that nobody knows of yet. Dropped like that, it will never be named by a command: its shards are
/// freed.
struct Unclaimed {
    inner: Arc<Inner>,
    part: PartId,
    placement: Placement,
    is_claimed: bool,
}

impl Unclaimed {
    fn claim(mut self) -> Placement {
        self.is_claimed = true;
        self.placement.clone()
    }
}

impl Drop for Unclaimed {
    fn drop(&mut self) {
        // Without a runtime the node is ending, and the sweep frees them.
        if let (false, Ok(runtime)) = (self.is_claimed, tokio::runtime::Handle::try_current()) {
            let (inner, part, drives) =
                (Arc::clone(&self.inner), self.part, std::mem::take(&mut self.placement.drives));
            runtime.spawn(async move {
                free_shards(&inner, part, &drives).await;
                count(&inner.stats.parts_aborted, 1);
            });
        }
    }
}

/// An append that ended.
struct Appended {
    stripe: u64,
    index: usize,
    result: std::result::Result<(), DriveError>,
}

impl PartWriter {
    async fn begin(inner: Arc<Inner>, part: PartId, payload_bytes: u64, scheme: Scheme, share: u64) -> Result<Self> {
        let layout = PartLayout::new(payload_bytes, scheme)?;
        if layout.chunks() == 0 {
            return Err(StripeError::Invalid("an empty part has no shards".into()));
        }
        let (drives, shards) = create_shards(&inner, part, &layout, share).await?;
        let codec = inner.codec(scheme);
        let place = layout.stripe(0);
        let mut writer = Self {
            inner,
            codec,
            part,
            layout,
            drives,
            shards,
            chunk: 0,
            stripe: 0,
            place,
            data: Vec::new(),
            parity: Vec::new(),
            appends: FuturesUnordered::new(),
            outstanding: std::collections::VecDeque::new(),
            failed: None,
        };
        writer.open_stripe();
        Ok(writer)
    }

    /// The part.
    #[must_use]
    pub const fn part(&self) -> PartId {
        self.part
    }

    /// The part's layout: how many chunks there are, and how much payload goes into each.
    #[must_use]
    pub const fn layout(&self) -> &PartLayout {
        &self.layout
    }

    /// Index of the open chunk; `layout().chunks()` once all are written.
    #[must_use]
    pub const fn chunk(&self) -> u64 {
        self.chunk
    }

    /// The open chunk's slot. The caller fills the chunk's `payload_bytes` (see [`PartLayout::chunk`])
    /// at its front, all of them, and seals the whole slot; behind the payload it is zero already. What the
    /// payload's bytes hold before is unspecified.
    ///
    /// # Panics
    /// If all chunks are written already.
    pub fn slot_mut(&mut self) -> &mut [u8] {
        let (block, range) = self.open_slot();
        &mut self.data[block][range]
    }

    fn open_slot(&self) -> (usize, std::ops::Range<usize>) {
        assert!(self.chunk < self.layout.chunks(), "all chunks are written");
        let position = (self.chunk - self.place.first_chunk) as usize;
        let start = position % self.place.block_chunks * self.place.slot_bytes;
        (position / self.place.block_chunks, start..start + self.place.slot_bytes)
    }

    /// The open chunk is sealed: goes on to the next. Waits while too many stripes are in flight.
    ///
    /// # Errors
    /// When fewer drives than the write quorum are left; the part is then lost and the writer only good
    /// for dropping. [`StripeError::Invalid`] if all chunks are written already.
    pub async fn advance(&mut self) -> Result<()> {
        self.check()?;
        if self.chunk == self.layout.chunks() {
            return Err(StripeError::Invalid("all chunks are written already".into()));
        }
        self.chunk += 1;
        if self.chunk < self.place.first_chunk + self.place.chunks as u64 {
            self.clear_slot();
            return self.collect_ready().await;
        }
        self.submit_stripe();
        self.collect_ready().await?;
        if self.stripe < self.layout.stripes() {
            while self.outstanding.len() > self.inner.options.stripes_in_flight {
                self.collect_one().await?;
            }
            self.open_stripe();
        }
        Ok(())
    }

    /// Makes the part durable. `sealed_meta` (at most 8 KiB) goes into every shard's header.
    ///
    /// # Errors
    /// As [`PartWriter::advance`]; [`StripeError::Invalid`] if chunks are missing. Nothing is kept then.
    pub async fn commit(mut self, sealed_meta: Bytes) -> Result<Placement> {
        self.check()?;
        if self.chunk != self.layout.chunks() {
            let why = format!("{} of {} chunks are written", self.chunk, self.layout.chunks());
            return Err(StripeError::Invalid(why));
        }
        if sealed_meta.len() > SEALED_META_BYTES_MAX {
            let why = format!("sealed metadata of {} bytes is over {SEALED_META_BYTES_MAX}", sealed_meta.len());
            return Err(StripeError::Invalid(why));
        }
        while !self.appends.is_empty() {
            self.collect_one().await?;
        }
        let inner = Arc::clone(&self.inner);
        let (part, scheme) = (self.part, self.layout.scheme());
        let drives = std::mem::take(&mut self.drives);
        let shards = std::mem::take(&mut self.shards);
        let (done, result) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let committed = commit_shards(&inner, part, scheme, drives, shards, sealed_meta).await;
            // Comes back where nobody waits any more, and is dropped with the channel where somebody stopped waiting since.
            let _unclaimed =
                done.send(committed.map(|placement| Unclaimed { inner, part, placement, is_claimed: false }));
        });
        match result.await {
            Ok(committed) => committed.map(Unclaimed::claim),
            Err(_) => Err(StripeError::Invalid("the runtime is shutting down".into())),
        }
    }

    fn check(&self) -> Result<()> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// Buffers for the next stripe.
    fn open_stripe(&mut self) {
        self.place = self.layout.stripe(self.stripe);
        let (k, m) = (self.layout.scheme().k, self.layout.scheme().m);
        let take = |count: u8| (0..count).map(|_| self.inner.pool.take(self.place.block_bytes)).collect();
        self.data = take(k);
        self.parity = if self.codec.computes() { take(m) } else { Vec::new() };
        self.clear_slot();
    }

    /// Zeros behind the open chunk's payload: buffers come from a pool and hold old bytes.
    fn clear_slot(&mut self) {
        let place = self.layout.chunk(self.chunk);
        if place.payload_bytes < place.slot_bytes - TAG_BYTES {
            let payload_bytes = place.payload_bytes;
            self.slot_mut()[payload_bytes..].fill(0);
        }
    }

    /// Hands the open stripe to the drives.
    fn submit_stripe(&mut self) {
        let mut data = std::mem::take(&mut self.data);
        // Empty slots behind the last chunk hold zeros; they add nothing to parity.
        for position in self.place.chunks..data.len() * self.place.block_chunks {
            let start = position % self.place.block_chunks * self.place.slot_bytes;
            data[position / self.place.block_chunks][start..start + self.place.slot_bytes].fill(0);
        }
        let mut parity = std::mem::take(&mut self.parity);
        let mut crcs = self.codec.encode(&data, &mut parity);
        let mut blocks: Vec<AlignedBytes> = data.into_iter().chain(parity).map(AlignedBuf::freeze).collect();
        while blocks.len() < self.shards.len() {
            blocks.push(blocks[0].clone()); // k = 1: copies
            crcs.push(crcs[0].clone());
        }
        let mut submitted = 0;
        for (index, (shard, (block, crcs))) in self.shards.iter_mut().zip(blocks.into_iter().zip(crcs)).enumerate() {
            let Some(shard) = shard else { continue };
            let (stripe, limit) = (self.stripe, self.inner.options.write_timeout);
            let append = within(limit, shard.append(block, &crcs));
            self.appends.push(Box::pin(async move { Appended { stripe, index, result: append.await } }));
            submitted += 1;
        }
        self.outstanding.push_back((self.stripe, submitted));
        self.stripe += 1;
    }

    /// Starts what is not started, takes what has ended, waits for nothing.
    async fn collect_ready(&mut self) -> Result<()> {
        if self.appends.is_empty() {
            return Ok(());
        }
        let ready = futures::future::poll_fn(|cx| {
            let mut ready = Vec::new();
            while let Poll::Ready(Some(appended)) = self.appends.poll_next_unpin(cx) {
                ready.push(appended);
            }
            Poll::Ready(ready)
        });
        for appended in ready.await {
            self.appended(appended)?;
        }
        Ok(())
    }

    /// Waits for one append.
    async fn collect_one(&mut self) -> Result<()> {
        match self.appends.next().await {
            Some(appended) => self.appended(appended),
            None => Ok(()),
        }
    }

    fn appended(&mut self, appended: Appended) -> Result<()> {
        if let Some((_, left)) = self.outstanding.iter_mut().find(|(stripe, _)| *stripe == appended.stripe) {
            *left -= 1;
        }
        while self.outstanding.front().is_some_and(|(_, left)| *left == 0) {
            self.outstanding.pop_front();
        }
        if let Err(error) = appended.result {
            self.give_up(appended.index, &error)?;
        }
        Ok(())
    }

    /// Goes on without a shard, if a quorum stays.
    fn give_up(&mut self, index: usize, error: &DriveError) -> Result<()> {
        if self.shards[index].take().is_some() {
            log_failed(&self.inner, self.part, index, self.drives[index], error);
        }
        let quorum = self.layout.scheme().write_quorum();
        let have = self.shards.iter().flatten().count();
        if have < quorum {
            let error = too_few(have, quorum, self.layout.shard_bytes(), error);
            self.failed = Some(error.clone());
            self.appends.clear();
            self.shards.iter_mut().for_each(|shard| *shard = None);
            return Err(error);
        }
        Ok(())
    }
}

impl Drop for PartWriter {
    fn drop(&mut self) {
        // `commit` takes the shards out; all else that ends here is an abort. Writers free their space.
        if !self.shards.is_empty() {
            count(&self.inner.stats.parts_aborted, 1);
        }
    }
}

impl std::fmt::Debug for PartWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartWriter")
            .field("part", &self.part)
            .field("chunk", &self.chunk)
            .field("drives", &self.drives)
            .finish_non_exhaustive()
    }
}

type Shards = Vec<Option<Box<dyn ShardWriter>>>;

/// Chooses drives and creates the shards; a drive that refuses is replaced by another as long as there is
/// one, then marked missing as long as a quorum stays.
async fn create_shards(inner: &Inner, part: PartId, layout: &PartLayout, share: u64) -> Result<(Vec<DriveNo>, Shards)> {
    let (scheme, shard_bytes) = (layout.scheme(), layout.shard_bytes());
    let candidates = inner.candidates(share);
    let chosen = choose(&candidates, scheme, shard_bytes, part)?;
    let mut drives: Vec<DriveNo> = chosen.iter().map(|(no, _)| *no).collect();
    let mut spares: Vec<DriveNo> =
        candidates.iter().filter(|c| c.health.writable() && !drives.contains(&c.no)).map(|c| c.no).collect();
    let mut shards: Shards = (0..drives.len()).map(|_| None).collect();
    let mut wanted: Vec<usize> = chosen.iter().enumerate().filter(|(_, (_, up))| *up).map(|(i, _)| i).collect();
    let mut last_error = None;
    while !wanted.is_empty() {
        let creates = wanted.iter().map(|index| create_shard(inner, part, layout, *index, drives[*index]));
        let mut again = Vec::new();
        for (index, created) in wanted.iter().copied().zip(join_all(creates).await) {
            match created {
                Ok(writer) => shards[index] = Some(writer),
                Err(error) => {
                    log_failed(inner, part, index, drives[index], &error);
                    last_error = Some(error);
                    if let Some(spare) = spares.pop() {
                        drives[index] = spare;
                        again.push(index);
                    }
                }
            }
        }
        wanted = again;
    }
    let (have, quorum) = (shards.iter().flatten().count(), scheme.write_quorum());
    if have < quorum {
        count(&inner.stats.parts_aborted, 1);
        return Err(match last_error {
            Some(error) => too_few(have, quorum, shard_bytes, &error),
            None => StripeError::Unavailable { what: "writing a part", have, need: quorum },
        });
    }
    Ok((drives, shards))
}

async fn create_shard(
    inner: &Inner,
    part: PartId,
    layout: &PartLayout,
    index: usize,
    no: DriveNo,
) -> std::result::Result<Box<dyn ShardWriter>, DriveError> {
    let shard = ShardId { part, index: index as u8 };
    let drive = inner.drives.get(no).ok_or(DriveError::NotFound(shard))?;
    let spec = ShardSpec {
        shard,
        scheme: layout.scheme(),
        payload_bytes: layout.payload_bytes(),
        shard_bytes: layout.shard_bytes(),
    };
    within(inner.options.write_timeout, drive.store().create(spec)).await
}

async fn commit_shards(
    inner: &Inner,
    part: PartId,
    scheme: Scheme,
    drives: Vec<DriveNo>,
    shards: Shards,
    sealed_meta: Bytes,
) -> Result<Placement> {
    let commits = shards.into_iter().map(|shard| {
        let meta = sealed_meta.clone();
        let limit = inner.options.write_timeout;
        async move {
            match shard {
                Some(shard) => Some(within(limit, shard.commit(meta)).await),
                None => None,
            }
        }
    });
    let mut missing = 0u32;
    let mut last_error = None;
    let mut failed = Vec::new();
    for (index, result) in join_all(commits).await.into_iter().enumerate() {
        if let Some(Ok(())) = result {
            continue;
        }
        missing |= 1 << index;
        if let Some(Err(error)) = result {
            log_failed(inner, part, index, drives[index], &error);
            failed.push(drives[index]);
            last_error = Some(error);
        }
    }
    let (have, quorum) = (drives.len() - missing.count_ones() as usize, scheme.write_quorum());
    if have < quorum {
        free_shards(inner, part, &drives).await;
        count(&inner.stats.parts_aborted, 1);
        return Err(match last_error {
            Some(error) => too_few(have, quorum, 0, &error),
            None => StripeError::Unavailable { what: "writing a part", have, need: quorum },
        });
    }
    // A commit that failed may have become durable all the same.
    free_shards(inner, part, &failed).await;
    count(&inner.stats.parts_written, 1);
    if missing != 0 {
        count(&inner.stats.parts_written_degraded, 1);
    }
    Ok(Placement { scheme, drives, missing })
}

/// Frees whatever shards of a part these drives hold; what fails is left to the orphan sweep.
async fn free_shards(inner: &Inner, part: PartId, drives: &[DriveNo]) {
    let frees = drives.iter().filter_map(|no| inner.drives.get(*no)).map(|drive| async move {
        let shards = (0..crate::codec::WIDTH_MAX as u8).map(|index| ShardId { part, index }).collect();
        if let Err(error) = within(inner.options.write_timeout, drive.store().free(shards)).await {
            tracing::warn!(%part, drive = %drive.no(), %error, "left to the orphan sweep");
        }
    });
    join_all(frees).await;
}

fn too_few(have: usize, need: usize, shard_bytes: u64, error: &DriveError) -> StripeError {
    match error {
        DriveError::Full { .. } => StripeError::Full { have, need, shard_bytes },
        _ => StripeError::Unavailable { what: "writing a part", have, need },
    }
}

fn log_failed(inner: &Inner, part: PartId, index: usize, drive: DriveNo, error: &DriveError) {
    count(&inner.stats.shards_failed, 1);
    tracing::warn!(%part, shard = index, %drive, %error, "shard given up while writing");
}

/// A drive's call, or an error once `limit` is over.
pub(crate) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = std::result::Result<T, DriveError>>,
) -> std::result::Result<T, DriveError> {
    tokio::time::timeout(limit, call).await.unwrap_or_else(|_| {
        Err(DriveError::Io {
            what: format!("no answer from the drive in {limit:?}"),
            source: Arc::new(std::io::ErrorKind::TimedOut.into()),
        })
    })
}
