//! The part of the audit chain that is not sealed yet, and how far it is sealed.

use granary_types::{AuditRecord, Head};
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

impl Index {
    /// Where the audit chain is.
    #[must_use]
    pub fn audit_state(&self) -> AuditState {
        self.audit.lock().clone()
    }

    /// Records that are not sealed, from sequence number `from` on: at most `count`, and no more once they have
    /// `bytes` together.
    ///
    /// # Errors
    /// RocksDB's, or that an entry cannot be decoded.
    pub fn audit_records(&self, from: u64, count: usize, bytes: usize) -> Result<Vec<Vec<u8>>> {
        let mut records = Vec::new();
        let mut have = 0;
        // What is sealed is gone, but for RocksDB's markers: no need to walk over those.
        let from = from.max(self.audit_state().sealed.through + 1).to_be_bytes();
        for entry in self.db().iterator_cf(self.family(Family::Audit), IteratorMode::From(&from, Direction::Forward)) {
            let (_, value) = entry.map_err(|e| self.noticed(e))?;
            if records.len() >= count || have >= bytes {
                break;
            }
            let record = value.get(32..).ok_or_else(|| self.undecodable(Family::Audit, "too short"))?;
            have += record.len();
            records.push(record.to_vec());
        }
        Ok(records)
    }

    /// The chain's head after a record that is not sealed.
    pub(crate) fn audit_head(&self, sequence: u64) -> Result<Option<Head>> {
        let value = self.get_raw(Family::Audit, &sequence.to_be_bytes())?;
        Ok(value.and_then(|value| value.get(..32).and_then(|head| head.try_into().ok()).map(Head)))
    }

    pub(super) fn load_audit(&self) -> Result<AuditState> {
        let sealed = self.get::<AuditSealed>(Family::Sys, SYS_AUDIT_SEALED)?.unwrap_or_default();
        let mut state = AuditState { next: sealed.through + 1, head: sealed.head, sealed };
        if let Some(last) = self.db().iterator_cf(self.family(Family::Audit), IteratorMode::End).next() {
            let (_, value) = last.map_err(|e| self.noticed(e))?;
            let bad = || self.undecodable(Family::Audit, "the last record");
            let (head, record) = value.split_at_checked(32).ok_or_else(bad)?;
            state.next = AuditRecord::decode(record).map_err(|_| bad())?.sequence + 1;
            state.head = Head(head.try_into().map_err(|_| bad())?);
        }
        Ok(state)
    }
}
