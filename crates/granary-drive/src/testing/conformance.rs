//! What every [`ShardStore`] must do, as checks that panic with what is wrong.
//!
//! [`run`] makes a fresh store for each check. Only what the contract promises is checked: when space comes back
//! after a free, for one, is the store's own business.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use granary_types::frame::crc32c;
use granary_types::limits::CHUNK_BYTES;
use granary_types::{PartId, Scheme, ShardId};

use crate::api::{DriveError, DriveHealth, ShardSpec, ShardStore};
use crate::buf::{AlignedBuf, AlignedBytes};
use crate::limits::META_BYTES_MAX;

/// Lengths of shards that matter: one page, part of a chunk, chunks, the border of one-write shards, several
/// extents where segments are small.
pub const LENGTHS: [u64; 9] = [4096, 12_288, 65_536, 69_632, 131_072, 524_288, 528_384, 3_145_728, 12_582_912 + 4096];

/// Runs all checks, each on a store that `make` makes. Stores need at least 64 MiB.
///
/// # Panics
/// Where a store breaks the contract.
pub async fn run<F, Fut>(make: F)
where
    F: Fn() -> Fut,
    Fut: Future<Output = Arc<dyn ShardStore>>,
{
    round_trips(&*make().await).await;
    appends_in_any_order(&*make().await).await;
    invisible_until_committed(&*make().await).await;
    dropped_writers_leave_nothing(&*make().await).await;
    ids_are_taken_once(&*make().await).await;
    bad_requests_are_refused(&*make().await).await;
    incomplete_commits_are_refused(&*make().await).await;
    checksums_are_taken_over(&*make().await).await;
    frees(&*make().await).await;
    scans_in_order(&*make().await).await;
    many_writers(&make().await).await;
    too_large_is_full(&*make().await).await;
    closed_takes_nothing(&*make().await).await;
}

/// Bytes that tell their place: shard and offset.
#[must_use]
pub fn content(shard: ShardId, shard_bytes: u64) -> AlignedBytes {
    let mut buf = AlignedBuf::zeroed(usize::try_from(shard_bytes).expect("test shards are small"));
    let seed = shard
        .to_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    for (n, word) in buf.chunks_exact_mut(8).enumerate() {
        let mixed = (seed ^ n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word.copy_from_slice(&(mixed ^ (mixed >> 29)).to_le_bytes());
    }
    buf.freeze()
}

/// A spec with a random part id.
#[must_use]
pub fn spec(shard_bytes: u64) -> ShardSpec {
    spec_of(ShardId { part: PartId::random(), index: 1 }, shard_bytes)
}

/// A spec of a given shard.
#[must_use]
pub fn spec_of(shard: ShardId, shard_bytes: u64) -> ShardSpec {
    ShardSpec { shard, scheme: Scheme { k: 4, m: 2 }, payload_bytes: shard_bytes * 4 - 5, shard_bytes }
}

/// Writes a shard of [`content`] in pieces of `piece_bytes`, with its id as metadata.
///
/// # Errors
/// What the store answers.
pub async fn write(store: &dyn ShardStore, spec: &ShardSpec, piece_bytes: usize) -> crate::Result<()> {
    let data = content(spec.shard, spec.shard_bytes);
    let mut writer = store.create(spec.clone()).await?;
    let mut at = 0;
    while at < data.len() {
        let end = data.len().min(at + piece_bytes);
        writer.append(data.slice(at..end), &[]).await?;
        at = end;
    }
    writer.commit(Bytes::from(spec.shard.to_string())).await
}

async fn assert_holds(store: &dyn ShardStore, spec: &ShardSpec) {
    let data = content(spec.shard, spec.shard_bytes);
    let whole = store.read(spec.shard, 0, data.len()).await.expect("a committed shard reads");
    assert!(whole[..] == data[..], "shard {} of {} bytes reads back differently", spec.shard, spec.shard_bytes);
    let last = data.len() - 4096;
    let page = store.read(spec.shard, last as u64, 4096).await.expect("its last page reads");
    assert!(page[..] == data[last..]);
    let chunk = (last / CHUNK_BYTES) * CHUNK_BYTES;
    let verified = store.read_verified(spec.shard, chunk as u64, data.len() - chunk).await.expect("verified");
    assert!(verified[..] == data[chunk..]);
    let (info, meta) = store.header(spec.shard).await.expect("its header reads");
    assert_eq!(&info.spec, spec);
    assert_eq!(meta, spec.shard.to_string().as_bytes());
    let report = store.verify(spec.shard).await.expect("verify runs");
    assert!(report.is_clean(), "{report:?}");
    assert_eq!(report.checked_bytes, spec.shard_bytes);
}

async fn round_trips(store: &dyn ShardStore) {
    for length in LENGTHS {
        for piece in [4096, 65_536, 524_288, 1 << 24] {
            if length / piece > 200 {
                continue;
            }
            let spec = spec(length);
            write(store, &spec, usize::try_from(piece).expect("small")).await.expect("a write succeeds");
            assert_holds(store, &spec).await;
            store.free(vec![spec.shard]).await.expect("a free succeeds");
        }
    }
    // Every range of pages over a chunk border, and a read that is empty.
    let spec = spec(6 * 1024 * 1024);
    write(store, &spec, 1 << 20).await.expect("a write succeeds");
    let data = content(spec.shard, spec.shard_bytes);
    for (start, len) in [(61_440, 8192), (4096, 4096), (524_288 - 4096, 1 << 20), (0, 0), (5 << 20, 1 << 20)] {
        let read = store.read(spec.shard, start as u64, len).await.expect("a range reads");
        assert!(read[..] == data[start..start + len], "range {start}+{len}");
    }
    let part = store.read_verified(spec.shard, 65_536, 4096).await.expect("part of a chunk, verified");
    assert!(part[..] == data[65_536..69_632]);
}

async fn checksums_are_taken_over(store: &dyn ShardStore) {
    for wrong in [false, true] {
        let spec = spec(1 << 20);
        let data = content(spec.shard, spec.shard_bytes);
        let mut crcs: Vec<u32> = data.chunks(CHUNK_BYTES).map(crc32c).collect();
        crcs[9] ^= u32::from(wrong);
        let mut writer = store.create(spec.clone()).await.expect("created");
        // What does not fit is not taken: one too few.
        writer.append(data.slice(..131_072), &crcs[..1]).await.expect("appended");
        writer.append(data.slice(131_072..), &crcs[2..]).await.expect("appended");
        writer.commit(Bytes::new()).await.expect("committed");
        let verified = store.read_verified(spec.shard, 9 * CHUNK_BYTES as u64, CHUNK_BYTES).await;
        let at = 9 * CHUNK_BYTES as u64;
        if wrong {
            assert!(matches!(verified, Err(DriveError::Corrupt { offset, .. }) if offset == at), "{verified:?}");
        } else {
            assert!(verified.expect("verified")[..] == data[9 * CHUNK_BYTES..10 * CHUNK_BYTES]);
            assert!(store.verify(spec.shard).await.expect("verify runs").is_clean());
        }
        store.free(vec![spec.shard]).await.expect("a free succeeds");
    }
}

async fn appends_in_any_order(store: &dyn ShardStore) {
    let spec = spec(4 * 1024 * 1024);
    let data = content(spec.shard, spec.shard_bytes);
    let mut writer = store.create(spec.clone()).await.expect("created");
    // A slice that begins inside a page is legal too.
    let mut shifted = AlignedBuf::zeroed(8192);
    shifted[100..4196].copy_from_slice(&data[..4096]);
    let first = writer.append(shifted.freeze().slice(100..4196), &[]);
    let mut appends: Vec<_> = (1..1024).map(|n| writer.append(data.slice(n * 4096..(n + 1) * 4096), &[])).collect();
    appends.reverse();
    appends.push(first);
    for end in join_all(appends).await {
        end.expect("an append succeeds");
    }
    writer.commit(Bytes::from(spec.shard.to_string())).await.expect("committed");
    assert_holds(store, &spec).await;
}

async fn invisible_until_committed(store: &dyn ShardStore) {
    for length in [65_536, 4 * 1024 * 1024] {
        let spec = spec(length);
        let mut writer = store.create(spec.clone()).await.expect("created");
        writer.append(content(spec.shard, length), &[]).await.expect("appended");
        assert!(matches!(store.read(spec.shard, 0, 4096).await, Err(DriveError::NotFound(_))));
        assert!(matches!(store.header(spec.shard).await, Err(DriveError::NotFound(_))));
        assert!(matches!(store.verify(spec.shard).await, Err(DriveError::NotFound(_))));
        assert!(store.scan(None, 100).await.expect("scans").iter().all(|i| i.spec.shard != spec.shard));
        writer.commit(Bytes::from(spec.shard.to_string())).await.expect("committed");
        assert_holds(store, &spec).await;
    }
}

async fn dropped_writers_leave_nothing(store: &dyn ShardStore) {
    let before = store.space().used_bytes;
    let spec = spec(4 * 1024 * 1024);
    for appended in [0usize, 4096, 4 * 1024 * 1024] {
        let mut writer = store.create(spec.clone()).await.expect("created");
        assert!(store.space().used_bytes >= before + spec.shard_bytes, "space is reserved at once");
        if appended > 0 {
            drop(writer.append(content(spec.shard, spec.shard_bytes).slice(..appended), &[]));
        }
        drop(writer);
    }
    let mut patience = 10_000;
    while store.space().used_bytes != before {
        patience -= 1;
        assert!(patience > 0, "a dropped writer's space must come back");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    write(store, &spec, 1 << 20).await.expect("the id may be used by the next writer");
    assert_holds(store, &spec).await;
}

async fn ids_are_taken_once(store: &dyn ShardStore) {
    let spec = spec(8192);
    let writer = store.create(spec.clone()).await.expect("created");
    assert!(matches!(store.create(spec.clone()).await, Err(DriveError::Exists(_))));
    drop(writer);
    write(store, &spec, 8192).await.expect("written");
    assert!(matches!(store.create(spec.clone()).await, Err(DriveError::Exists(_))));
    assert_holds(store, &spec).await;
}

async fn bad_requests_are_refused(store: &dyn ShardStore) {
    let invalid = |result: crate::Result<AlignedBuf>| matches!(result, Err(DriveError::Invalid(_)));
    for length in [0, 1, 4095, 4097, u64::MAX, !4095] {
        let refused = store.create(ShardSpec { shard_bytes: length, ..spec(4096) }).await.err();
        assert!(matches!(refused, Some(DriveError::Invalid(_))), "{length}: {refused:?}");
    }
    let spec = spec(131_072);
    write(store, &spec, 65_536).await.expect("written");
    for (offset, len) in [(1, 4096), (0, 100), (131_072, 4096), (126_976, 8192), (!4095, 8192)] {
        assert!(invalid(store.read(spec.shard, offset, len).await), "{offset}+{len}");
        assert!(invalid(store.read_verified(spec.shard, offset, len).await), "{offset}+{len}");
    }
    assert!(invalid(store.read_verified(spec.shard, 4096, 4096).await), "not at a chunk");
    let unknown = ShardId { part: PartId::random(), index: 0 };
    assert!(matches!(store.read(unknown, 0, 4096).await, Err(DriveError::NotFound(s)) if s == unknown));
    assert!(matches!(store.read_verified(unknown, 0, 4096).await, Err(DriveError::NotFound(_))));
}

async fn incomplete_commits_are_refused(store: &dyn ShardStore) {
    for length in [65_536u64, 1 << 20] {
        let spec = spec(length);
        let data = content(spec.shard, length);
        let short = store.create(spec.clone()).await.expect("created");
        assert!(matches!(short.commit(Bytes::new()).await, Err(DriveError::Invalid(_))), "nothing appended");
        let mut over = store.create(spec.clone()).await.expect("created");
        over.append(data.clone(), &[]).await.expect("appended");
        assert!(matches!(over.append(data.slice(..4096), &[]).await, Err(DriveError::Invalid(_))), "past the end");
        drop(over);
        let mut odd = store.create(spec.clone()).await.expect("created");
        assert!(matches!(odd.append(data.slice(..100), &[]).await, Err(DriveError::Invalid(_))), "not aligned");
        drop(odd);
        let mut chatty = store.create(spec.clone()).await.expect("created");
        chatty.append(data.clone(), &[]).await.expect("appended");
        let meta = Bytes::from(vec![1; META_BYTES_MAX + 1]);
        assert!(matches!(chatty.commit(meta).await, Err(DriveError::Invalid(_))), "too much metadata");
        let mut full = store.create(spec.clone()).await.expect("created");
        full.append(data, &[]).await.expect("appended");
        let meta = Bytes::from(vec![7; META_BYTES_MAX]);
        full.commit(meta.clone()).await.expect("as much metadata as allowed");
        assert_eq!(store.header(spec.shard).await.expect("header").1, meta);
        assert!(store.verify(spec.shard).await.expect("verify").is_clean());
    }
}

async fn frees(store: &dyn ShardStore) {
    let specs: Vec<_> = (0..5).map(|n| spec(4096 * (n + 1))).collect();
    for spec in &specs {
        write(store, spec, 4096).await.expect("written");
    }
    let unknown = ShardId { part: PartId::random(), index: 9 };
    store.free(vec![specs[0].shard, unknown, specs[2].shard, specs[0].shard]).await.expect("freed");
    store.free(vec![specs[0].shard]).await.expect("freeing again is nothing");
    store.free(Vec::new()).await.expect("freeing nothing is nothing");
    for (n, spec) in specs.iter().enumerate() {
        if n == 0 || n == 2 {
            assert!(matches!(store.read(spec.shard, 0, 4096).await, Err(DriveError::NotFound(_))));
        } else {
            assert_holds(store, spec).await;
        }
    }
    assert_eq!(store.scan(None, 100).await.expect("scans").len(), 3);
}

async fn scans_in_order(store: &dyn ShardStore) {
    let part = PartId::random();
    for n in 0..7 {
        let shard = ShardId { part: if n % 2 == 0 { part } else { PartId::random() }, index: n };
        write(store, &spec_of(shard, 4096), 4096).await.expect("written");
    }
    let all = store.scan(None, 100).await.expect("scans");
    let ids: Vec<ShardId> = all.iter().map(|i| i.spec.shard).collect();
    assert_eq!(ids.len(), 7);
    assert!(ids.windows(2).all(|w| w[0] < w[1]), "in id order");
    let (mut paged, mut after) = (Vec::new(), None);
    loop {
        let page = store.scan(after, 2).await.expect("scans");
        assert!(page.len() <= 2);
        let Some(last) = page.last() else { break };
        after = Some(last.spec.shard);
        paged.extend(page.into_iter().map(|i| i.spec.shard));
    }
    assert_eq!(paged, ids);
}

async fn many_writers(store: &Arc<dyn ShardStore>) {
    let tasks: Vec<_> = (0..32u64)
        .map(|n| {
            let store = Arc::clone(store);
            tokio::spawn(async move {
                let spec = spec(4096 * (1 + n * 7));
                write(&*store, &spec, 65_536).await.expect("written");
                assert_holds(&*store, &spec).await;
                if n % 3 == 0 {
                    store.free(vec![spec.shard]).await.expect("freed");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no check panics");
    }
    assert_eq!(store.scan(None, 100).await.expect("scans").len(), 21);
}

async fn too_large_is_full(store: &dyn ShardStore) {
    let free = store.space().free_bytes;
    if free > 4 << 30 {
        return;
    }
    let refused = store.create(spec((free + 4096) / 4096 * 4096)).await.err();
    assert!(matches!(refused, Some(DriveError::Full { .. })), "{refused:?}");
    assert_eq!(store.health(), DriveHealth::Online);
}

async fn closed_takes_nothing(store: &dyn ShardStore) {
    let spec = spec(8192);
    write(store, &spec, 8192).await.expect("written");
    let mut open = store.create(self::spec(8192)).await.expect("created");
    store.close().await.expect("closes");
    store.close().await.expect("closing again is nothing");
    assert!(store.create(self::spec(8192)).await.is_err());
    let data = content(spec.shard, 8192);
    let appended = open.append(data, &[]).await;
    assert!(appended.is_err() || open.commit(Bytes::new()).await.is_err(), "nothing is committed after close");
    assert!(!store.health().writable());
}
