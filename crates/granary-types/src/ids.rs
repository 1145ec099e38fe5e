//! Identifiers. All are opaque fixed-size values; their text form is lower-case hex.

use crate::hex;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The text was not the hex form of the id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: expected {digits} hexadecimal digits")]
pub struct ParseIdError {
    what: &'static str,
    digits: usize,
    text: String,
}

macro_rules! id128 {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// A fresh random id.
            #[must_use]
            pub fn random() -> Self {
                Self(rand::random())
            }

            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($what, "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let error = || ParseIdError { what: $what, digits: 32, text: text.chars().take(80).collect() };
                hex::decode_array(text).map(Self).ok_or_else(error)
            }
        }
    };
}

id128!(/// A cluster; a lone node is a cluster of one.
    ClusterId, "cluster id");
id128!(/// A server process's identity, kept across restarts.
    NodeId, "node id");
id128!(/// A drive's identity, kept in its `drive.json`.
    DriveId, "drive id");
id128!(/// A part: a run of bytes uploaded at once. Never reused.
    PartId, "part id");
id128!(/// A multipart upload.
    UploadId, "upload id");

/// A version of a key. The first 8 bytes are the *complement* of the big-endian creation time in
/// microseconds, the rest is random, so that byte order is newest first.
/// `VersionId::NULL` (all ones) is S3's `null` version; its place in time is its record's timestamp.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct VersionId(pub [u8; 16]);

impl VersionId {
    /// The version that an unversioned or suspended bucket writes; `null` on the wire.
    pub const NULL: Self = Self([0xff; 16]);

    /// A new version id for something created at `time_us` microseconds since the epoch.
    #[must_use]
    pub fn new(time_us: u64) -> Self {
        let mut id = [0u8; 16];
        id[..8].copy_from_slice(&(!time_us).to_be_bytes());
        id[8..].copy_from_slice(&rand::random::<[u8; 8]>());
        Self(id)
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Whether this is S3's `null` version.
    #[must_use]
    pub fn is_null(&self) -> bool {
        *self == Self::NULL
    }
}

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_null() {
            return f.write_str("null");
        }
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version id({self})")
    }
}

impl FromStr for VersionId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if text == "null" {
            return Ok(Self::NULL);
        }
        PartId::from_str(text).map(|id| Self(id.0)).map_err(|_| ParseIdError {
            what: "version id",
            digits: 32,
            text: text.chars().take(80).collect(),
        })
    }
}

/// A bucket's identity. A name that is deleted and created again gets a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BucketId(pub u64);

impl fmt::Display for BucketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}", self.0)
    }
}

/// One drive's share of a part: the part and the share's index, `0..k` data, `k..k+m` parity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShardId {
    /// The part this is a share of.
    pub part: PartId,
    /// Which share: data blocks first, parity after them.
    pub index: u8,
}

impl ShardId {
    /// 17 bytes: part id, index. Sorts by part.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 17] {
        let mut bytes = [0u8; 17];
        bytes[..16].copy_from_slice(&self.part.0);
        bytes[16] = self.index;
        bytes
    }

    /// The inverse of [`ShardId::to_bytes`]; `None` if `bytes` is not 17 long.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (part, index) = bytes.split_at_checked(16)?;
        let [index] = *index else { return None };
        Some(Self { part: PartId(part.try_into().ok()?), index })
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.part, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_bad_text_is_refused() {
        let id = PartId::random();
        assert_eq!(id.to_string().parse::<PartId>().unwrap(), id);
        assert!("xyz".parse::<PartId>().is_err());
        assert!("é".repeat(16).parse::<PartId>().is_err());
        assert_eq!("null".parse::<VersionId>().unwrap(), VersionId::NULL);
    }

    #[test]
    fn newer_versions_sort_first() {
        assert!(VersionId::new(2_000) < VersionId::new(1_000));
    }

    #[test]
    fn shard_ids_round_trip() {
        let shard = ShardId { part: PartId::random(), index: 5 };
        assert_eq!(ShardId::from_bytes(&shard.to_bytes()), Some(shard));
        assert_eq!(ShardId::from_bytes(&[0; 16]), None);
        assert_eq!(ShardId::from_bytes(&[0; 18]), None);
    }
}
