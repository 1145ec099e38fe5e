//! The audit chain: what is kept of an event, and how each is tied to all before it. `docs/format/audit.md` is the page.
//!
//! ```text
//! record = format (1) | sequence u64 | recorded at u64, µs | outcome (see below) | event, opaque
//! outcome = 0                                  the event says itself how it ended
//!         | 1 | 0                              done
//!         | 1 | 1 | version id, 16 bytes       done, and this version came of it
//!         | 2 | length u8 | code               refused, with S3's error code
//! head'  = SHA-256("granary audit chain v1" | head | record)
//! ```
//! Integers are little-endian. The head before the first record is 32 zero bytes; sequence numbers begin at 1.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Timestamp, VersionId};

const FORMAT: u8 = 1;
const LABEL: &[u8] = b"granary audit chain v1";
/// Bytes of an event, at most. Longer ones are refused where they are made.
pub const EVENT_BYTES_MAX: usize = 64 * 1024;

/// The head of the chain: it stands for every record up to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Head(pub [u8; 32]);

impl Head {
    /// The head after one more record.
    #[must_use]
    pub fn extend(&self, record: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(LABEL);
        hash.update(self.0);
        hash.update(record);
        Self(hash.finalize().into())
    }
}

impl std::fmt::Display for Head {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// How a command ended, as `apply` saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuditOutcome {
    /// The event was made after its request: it says itself how that ended.
    Told,
    /// Done. The version that was written, or is a delete marker, or was removed.
    Done(Option<VersionId>),
    /// Nothing was changed, and why: an S3 error code.
    Refused(String),
}

/// One record of the chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// Its number in the chain, from 1.
    pub sequence: u64,
    /// The clock of the command that brought it.
    pub at: Timestamp,
    /// How the command ended.
    pub outcome: AuditOutcome,
    /// The event, as `granary-audit` encodes it.
    pub event: Vec<u8>,
}

/// Bytes that are no record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these bytes are no audit record")]
pub struct NotARecord;

impl AuditRecord {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(sequence: u64, at: Timestamp, outcome: &AuditOutcome, event: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(36 + event.len());
        bytes.push(FORMAT);
        bytes.extend_from_slice(&sequence.to_le_bytes());
        bytes.extend_from_slice(&at.0.to_le_bytes());
        match outcome {
            AuditOutcome::Told => bytes.push(0),
            AuditOutcome::Done(None) => bytes.extend_from_slice(&[1, 0]),
            AuditOutcome::Done(Some(version)) => {
                bytes.extend_from_slice(&[1, 1]);
                bytes.extend_from_slice(&version.0);
            }
            AuditOutcome::Refused(code) => {
                let code = &code.as_bytes()[..code.len().min(255)];
                bytes.extend_from_slice(&[2, u8::try_from(code.len()).unwrap_or(u8::MAX)]);
                bytes.extend_from_slice(code);
            }
        }
        bytes.extend_from_slice(event);
        bytes
    }

    /// Reads canonical bytes back.
    ///
    /// # Errors
    /// [`NotARecord`] for anything that [`AuditRecord::encode`] does not make.
    pub fn decode(bytes: &[u8]) -> Result<Self, NotARecord> {
        fn take<'a>(rest: &mut &'a [u8], count: usize) -> Result<&'a [u8], NotARecord> {
            let (taken, left) = rest.split_at_checked(count).ok_or(NotARecord)?;
            *rest = left;
            Ok(taken)
        }
        let rest = &mut &bytes[..];
        if take(rest, 1)? != [FORMAT] {
            return Err(NotARecord);
        }
        let mut number = || -> Result<u64, NotARecord> {
            Ok(u64::from_le_bytes(take(rest, 8)?.try_into().map_err(|_| NotARecord)?))
        };
        let (sequence, at) = (number()?, Timestamp(number()?));
        let outcome = match take(rest, 1)? {
            [0] => AuditOutcome::Told,
            [1] => match take(rest, 1)? {
                [0] => AuditOutcome::Done(None),
                [1] => AuditOutcome::Done(Some(VersionId(take(rest, 16)?.try_into().map_err(|_| NotARecord)?))),
                _ => return Err(NotARecord),
            },
            [2] => {
                let length = usize::from(take(rest, 1)?[0]);
                let code = std::str::from_utf8(take(rest, length)?).map_err(|_| NotARecord)?;
                AuditOutcome::Refused(code.to_owned())
            }
            _ => return Err(NotARecord),
        };
        Ok(Self { sequence, at, outcome, event: rest.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outcomes() -> impl Strategy<Value = AuditOutcome> {
        prop_oneof![
            Just(AuditOutcome::Told),
            proptest::option::of(any::<[u8; 16]>()).prop_map(|id| AuditOutcome::Done(id.map(VersionId))),
            "[A-Za-z]{0,40}".prop_map(AuditOutcome::Refused),
        ]
    }

    proptest! {
        #[test]
        fn canonical_bytes_are_one_to_one(sequence: u64, at: u64, outcome in outcomes(), event: Vec<u8>) {
            let bytes = AuditRecord::encode(sequence, Timestamp(at), &outcome, &event);
            let record = AuditRecord::decode(&bytes).unwrap();
            prop_assert_eq!((record.sequence, record.at.0), (sequence, at));
            let again = AuditRecord::encode(record.sequence, record.at, &record.outcome, &record.event);
            prop_assert_eq!(again, bytes);
            prop_assert_eq!((record.outcome, record.event), (outcome, event));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let _ = AuditRecord::decode(&bytes);
        }
    }

    #[test]
    fn the_chain_depends_on_order_and_content() {
        let start = Head::default();
        assert_ne!(start.extend(b"a").extend(b"b"), start.extend(b"b").extend(b"a"));
        assert_ne!(start.extend(b"ab"), start.extend(b"a").extend(b"b"));
        // Fixed for ever: files out there depend on it.
        assert_eq!(start.extend(b"record").to_string(), {
            let mut all = LABEL.to_vec();
            all.extend_from_slice(&[0; 32]);
            all.extend_from_slice(b"record");
            Sha256::digest(&all).iter().map(|b| format!("{b:02x}")).collect::<String>()
        });
    }
}
