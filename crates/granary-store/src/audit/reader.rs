//! The trail read back: sealed segments first, then what is not sealed yet, in the order of the chain.

use std::sync::Arc;

use futures::TryStreamExt as _;
use granary_audit::{Filter, Seal, read_records};
use granary_types::date;
use granary_types::limits::LIST_KEYS_MAX;
use granary_types::names::AUDIT_BUCKET;
use granary_types::{AuditRecord, BucketName, ObjectKey};
use serde::{Deserialize, Serialize};

use crate::api::{GetRequest, ListRequest, Portion, ReadCondition, Result, Unlock};
use crate::error::StoreError;
use crate::inner::{Inner, from_meta};

/// Bytes of a segment that is read, at most.
const SEGMENT_BYTES_MAX: u64 = 256 << 20;
/// Bytes of unsealed records in one page.
const PAGE_BYTES_MAX: usize = 8 << 20;
const SEGMENT: &str = ".parquet";
const SEAL: &str = ".seal.json";

/// How far somebody has read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuditCursor {
    /// The last record seen.
    pub sequence: u64,
    /// The last segment that was read to its end.
    pub segment: String,
}

/// Some of the trail.
#[derive(Debug, Clone, Default)]
pub struct AuditPage {
    /// Records that the filter means, in order.
    pub records: Vec<AuditRecord>,
    /// Where to go on.
    pub cursor: AuditCursor,
    /// There is more now.
    pub more: bool,
}

impl Inner {
    /// The next records that `filter` means: those of a whole segment, or some `limit` of the unsealed ones.
    pub(crate) async fn audit_page(
        self: &Arc<Self>,
        filter: &Filter,
        mut cursor: AuditCursor,
        limit: usize,
    ) -> Result<AuditPage> {
        // Before the segments are listed: what is sealed in between is then found by the next call.
        let state = self.index()?.audit_state();
        if cursor.segment.is_empty()
            && let Some(since) = filter.since
        {
            // Segments are named after the day that they were sealed on, which no event in them is behind by a day.
            cursor.segment = date::iso_micros(since)[..10].replace('-', "/");
        }
        while let Some(key) = self.next_segment(&cursor.segment, SEGMENT)? {
            let Some((_, last)) = range_of(&key) else {
                cursor.segment = key;
                continue;
            };
            if last <= cursor.sequence {
                cursor.segment = key;
                continue;
            }
            let file = self.audit_object(&key).await?;
            let segment = key.clone();
            let records = tokio::task::spawn_blocking(move || read_records(&file))
                .await
                .map_err(|error| StoreError::Internal(format!("reading ended early: {error}")))?
                .map_err(|error| StoreError::Corrupt(format!("audit segment {key}: {error}")))?;
            let records = chosen(&records, filter, cursor.sequence)?;
            let cursor = AuditCursor { sequence: last, segment };
            return Ok(AuditPage { records, cursor, more: true });
        }
        let from = cursor.sequence.max(state.sealed.through) + 1;
        let index = self.index()?;
        if index.audit_state().sealed.through >= from {
            return Ok(AuditPage { records: Vec::new(), cursor, more: true });
        }
        let records = index.audit_records(from, limit, PAGE_BYTES_MAX).map_err(from_meta)?;
        let read = records.len() as u64;
        let more = read > 0 && from + read < state.next;
        let records = chosen(&records, filter, cursor.sequence)?;
        if read > 0 {
            cursor.sequence = from + read - 1;
        }
        Ok(AuditPage { records, cursor, more })
    }

    /// The signed statements of all segments after `after`, without their digests; at most `limit`.
    pub(crate) async fn audit_anchors(self: &Arc<Self>, after: &str, limit: usize) -> Result<(Vec<Seal>, String)> {
        let mut anchors = Vec::new();
        let mut at = after.to_owned();
        while anchors.len() < limit
            && let Some(key) = self.next_segment(&at, SEAL)?
        {
            let bytes = self.audit_object(&key).await?;
            let seal = Seal::from_bytes(&bytes).map_err(|error| StoreError::Corrupt(format!("{key}: {error}")))?;
            anchors.push(seal.anchor());
            at = key;
        }
        Ok((anchors, at))
    }

    /// The first object of the audit bucket after `after` whose key ends so.
    fn next_segment(&self, after: &str, end: &str) -> Result<Option<String>> {
        let mut after = (!after.is_empty()).then(|| after.to_owned());
        loop {
            let request = ListRequest { after: after.clone(), max_keys: 16, ..ListRequest::default() };
            debug_assert!(request.max_keys <= LIST_KEYS_MAX);
            let page = self.list_here(&*self.bucket(&audit_bucket()?)?, &request)?;
            if let Some((key, _)) = page.objects.into_iter().find(|(key, _)| key.ends_with(end)) {
                return Ok(Some(key));
            }
            match page.next_after {
                Some(next) => after = Some(next),
                None => return Ok(None),
            }
        }
    }

    async fn audit_object(self: &Arc<Self>, key: &str) -> Result<Vec<u8>> {
        let key = ObjectKey::new(key).map_err(|error| StoreError::Internal(error.to_string()))?;
        let request = GetRequest {
            bucket: audit_bucket()?,
            key,
            version: None,
            portion: Portion::Whole,
            condition: ReadCondition::default(),
            unlock: Unlock::default(),
        };
        let (info, body) = self.get(request).await?;
        if info.object.size_bytes > SEGMENT_BYTES_MAX {
            return Err(StoreError::Corrupt("an audit segment is larger than any that is made".to_owned()));
        }
        let bytes: Vec<u8> = body
            .try_fold(Vec::new(), |mut all, frame| {
                all.extend_from_slice(&frame);
                std::future::ready(Ok(all))
            })
            .await?;
        Ok(bytes)
    }
}

fn audit_bucket() -> Result<BucketName> {
    BucketName::new(AUDIT_BUCKET).map_err(|error| StoreError::Internal(error.to_string()))
}

/// First and last sequence number, from a segment's key.
fn range_of(key: &str) -> Option<(u64, u64)> {
    let stem = key.rsplit('/').next()?.strip_suffix(SEGMENT)?;
    let (first, last) = stem.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?))
}

fn chosen(records: &[Vec<u8>], filter: &Filter, after: u64) -> Result<Vec<AuditRecord>> {
    let mut chosen = Vec::new();
    for bytes in records {
        let record =
            AuditRecord::decode(bytes).map_err(|_| StoreError::Corrupt("an audit record cannot be read".to_owned()))?;
        if record.sequence > after && filter.matches(&record) {
            chosen.push(record);
        }
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_keys() {
        let key = "2026/11/20/00000000000000000001-00000000000000000100.parquet";
        assert_eq!(range_of(key), Some((1, 100)));
        assert_eq!(range_of("2026/11/20/1-2.seal.json"), None);
        assert_eq!(range_of("x"), None);
    }
}
