//! Where a part lies: the erasure scheme and the drives, chosen when it is written and recorded with it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::{DATA_BLOCKS_MAX, PARITY_BLOCKS_MAX};

/// `k` data blocks and `m` parity blocks per stripe. `k == 1` means `m + 1` whole copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Scheme {
    /// Data blocks per stripe, `1..=16`.
    pub k: u8,
    /// Parity blocks per stripe, `0..=4`; as many drives may be lost at once.
    pub m: u8,
}

/// Why a scheme was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not an erasure scheme: write K+M with K from 1 to {DATA_BLOCKS_MAX} and M from 0 to {PARITY_BLOCKS_MAX}, for example 4+2"
)]
pub struct SchemeError(String);

impl Scheme {
    /// Checks the bounds.
    ///
    /// # Errors
    /// [`SchemeError`] when `k` or `m` is out of bounds.
    pub fn new(k: u8, m: u8) -> Result<Self, SchemeError> {
        if k == 0 || usize::from(k) > DATA_BLOCKS_MAX || usize::from(m) > PARITY_BLOCKS_MAX {
            return Err(SchemeError(format!("{k}+{m}")));
        }
        Ok(Self { k, m })
    }

    /// The same protection as whole copies: `1 + m`.
    #[must_use]
    pub const fn copies(self) -> Self {
        Self { k: 1, m: self.m }
    }

    /// Shards of a part: `k + m`.
    #[must_use]
    pub const fn width(self) -> usize {
        self.k as usize + self.m as usize
    }

    /// Shards that must be durable before a write is acknowledged: `k + 1` where there is parity.
    #[must_use]
    pub const fn write_quorum(self) -> usize {
        self.k as usize + if self.m > 0 { 1 } else { 0 }
    }
}

impl fmt::Display for Scheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}+{}", self.k, self.m)
    }
}

impl FromStr for Scheme {
    type Err = SchemeError;

    fn from_str(text: &str) -> Result<Self, SchemeError> {
        let error = || SchemeError(text.chars().take(40).collect());
        let (k, m) = text.split_once('+').ok_or_else(error)?;
        let number = |s: &str| s.trim().parse::<u8>().map_err(|_| error());
        Self::new(number(k)?, number(m)?)
    }
}

/// A drive's number in the cluster's drive table: assigned once when a drive is registered, never reused.
/// Placements are stored with every part, so they hold these two bytes and not the 16 of a `DriveId`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DriveNo(pub u16);

impl fmt::Display for DriveNo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "d{}", self.0)
    }
}

/// The drives that hold a part's shards.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Placement {
    /// The scheme the part is coded with.
    pub scheme: Scheme,
    /// `scheme.width()` distinct drives; position is the shard index.
    pub drives: Vec<DriveNo>,
    /// Bit `i` set: shard `i` was not written (its drive was down) and waits for repair.
    pub missing: u32,
}

impl Placement {
    /// Whether shard `index` was not written.
    #[must_use]
    pub const fn is_missing(&self, index: usize) -> bool {
        self.missing & (1 << index) != 0
    }

    /// Whether all shards were written when the part was.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.missing == 0
    }
}

/// Where a part lies and how long it is: all that reading its sealed bytes needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartLocation {
    /// The part.
    pub part: crate::PartId,
    /// Bytes of plaintext payload.
    pub payload_bytes: u64,
    /// Where its shards are.
    pub placement: Placement,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schemes_parse_and_bounds_hold() {
        assert_eq!("4+2".parse::<Scheme>().unwrap(), Scheme { k: 4, m: 2 });
        assert_eq!("16+4".parse::<Scheme>().unwrap().write_quorum(), 17);
        assert_eq!("1+0".parse::<Scheme>().unwrap().write_quorum(), 1);
        for bad in ["", "4", "0+2", "17+2", "4+5", "4+x", "-1+2"] {
            assert!(bad.parse::<Scheme>().is_err(), "{bad}");
        }
    }
}
