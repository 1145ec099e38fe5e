//! The part of the audit chain that is not sealed yet, and how far it is sealed.

use granary_types::Head;
use rocksdb::{Direction, IteratorMode};
use serde::{Deserialize, Serialize};

use super::layout::SYS_AUDIT_SEALED;
use super::{Family, Index};
use crate::error::Result;

/// How far the trail is sealed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AuditSealed {
    /// Last sealed sequence number; 0 where nothing is.
    pub through: u64,
    /// Number of the last segment; 0 where there is none.
    pub segment: u64,
    /// The chain's head after `through`.
    pub head: Head,
    /// SHA-256 of the last seal's statement; empty where there is none.
    pub seal: String,
}

/// Where the chain is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditState {
    /// The next sequence number.
    pub next: u64,
    /// The chain's head.
    pub head: Head,
    /// How far it is sealed.
    pub sealed: AuditSealed,
}

impl Default for AuditState {
    fn default() -> Self {
        Self { next: 1, head: Head::default(), sealed: AuditSealed::default() }
    }
}

impl AuditState {
    /// Records that wait to be sealed.
    #[must_use]
    pub const fn unsealed(&self) -> u64 {
        self.next - 1 - self.sealed.through
    }
}

/// What one command brought, as the family `audit` keeps it under the last record's sequence number (u64 BE): the chain's
/// head after it (32 bytes), then each record behind its length (u32 LE).
pub(crate) struct AuditEntry(Vec<u8>);

const HEAD_BYTES: usize = 32;

impl AuditEntry {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        let mut value = Vec::with_capacity(HEAD_BYTES + bytes);
        value.resize(HEAD_BYTES, 0);
        Self(value)
    }

    /// # Panics
    /// If the record has 4 GiB; `apply` takes none beyond `EVENT_BYTES_MAX`.
    pub(crate) fn push(&mut self, record: &[u8]) {
        let bytes = u32::try_from(record.len()).expect("a record is short");
        self.0.extend_from_slice(&bytes.to_le_bytes());
        self.0.extend_from_slice(record);
    }

    pub(crate) fn finish(mut self, head: Head) -> Vec<u8> {
        self.0[..HEAD_BYTES].copy_from_slice(&head.0);
        self.0
    }

    /// The records of an entry; `None` where it is none.
    fn records(value: &[u8]) -> Option<Vec<&[u8]>> {
        let mut rest = value.get(HEAD_BYTES..)?;
        let mut records = Vec::new();
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk::<4>()?;
            let (record, after) = after.split_at_checked(usize::try_from(u32::from_le_bytes(*length)).ok()?)?;
            records.push(record);
            rest = after;
        }
        Some(records)
    }
}

impl Index {
    /// Where the audit chain is.
    #[must_use]
    pub fn audit_state(&self) -> AuditState {
        self.audit.lock().clone()
    }

    /// Records that are not sealed, from sequence number `from` on, until there are `count` or they have `bytes` together. What one
    /// command brought is not taken apart at the end: a segment ends where an entry does.
    ///
    /// # Errors
    /// RocksDB's, or that an entry cannot be decoded.
    pub fn audit_records(&self, from: u64, count: usize, bytes: usize) -> Result<Vec<Vec<u8>>> {
        let mut records = Vec::new();
        let mut have = 0;
        // What is sealed is gone, but for RocksDB's markers: no need to walk over those.
        let from = from.max(self.audit_state().sealed.through + 1);
        let start = from.to_be_bytes();
        for entry in self.db().iterator_cf(self.family(Family::Audit), IteratorMode::From(&start, Direction::Forward)) {
            let (key, value) = entry.map_err(|e| self.noticed(e))?;
            if records.len() >= count || have >= bytes {
                break;
            }
            let bad = || self.undecodable(Family::Audit, "an entry");
            let last = u64::from_be_bytes(key[..].try_into().map_err(|_| bad())?);
            let entry = AuditEntry::records(&value).ok_or_else(bad)?;
            let first = (last + 1).checked_sub(entry.len() as u64).ok_or_else(bad)?;
            for record in entry.into_iter().skip(usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX)) {
                have += record.len();
                records.push(record.to_vec());
            }
        }
        Ok(records)
    }

    /// The chain's head after a record that is not sealed, where an entry ends with it.
    pub(crate) fn audit_head(&self, sequence: u64) -> Result<Option<Head>> {
        let value = self.get_raw(Family::Audit, &sequence.to_be_bytes())?;
        Ok(value.and_then(|value| value.get(..32).and_then(|head| head.try_into().ok()).map(Head)))
    }

    pub(super) fn load_audit(&self) -> Result<AuditState> {
        let sealed = self.get::<AuditSealed>(Family::Sys, SYS_AUDIT_SEALED)?.unwrap_or_default();
        let mut state = AuditState { next: sealed.through + 1, head: sealed.head, sealed };
        if let Some(last) = self.db().iterator_cf(self.family(Family::Audit), IteratorMode::End).next() {
            let (key, value) = last.map_err(|e| self.noticed(e))?;
            let bad = || self.undecodable(Family::Audit, "the last entry");
            state.next = u64::from_be_bytes(key[..].try_into().map_err(|_| bad())?) + 1;
            state.head = Head(*value.first_chunk().ok_or_else(bad)?);
        }
        Ok(state)
    }
}
