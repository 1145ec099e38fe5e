//! The sealed copy of an object's metadata in every shard's header: what the last resort, a rebuild of
//! the index from the drives alone, has to go by. Format: `docs/format/shard-meta.md`.

use bytes::Bytes;
use granary_meta::records::{Attributes, BlockName};
use granary_types::{BucketId, BucketName, Checksum, ObjectKey, PartId, Timestamp, UploadId, WrappedKey};
use serde::{Deserialize, Serialize};

use crate::api::Result;
use crate::error::StoreError;
use crate::inner::Inner;

const VERSION: u8 = 1;
/// What fits beside the header's own fields (see `granary_drive::ShardWriter::commit`).
const SEALED_META_BYTES_MAX: usize = 8 * 1024;

/// What the part is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum PartOf {
    /// A plain object.
    Object,
    /// A part of an upload.
    Upload {
        /// The upload.
        upload: UploadId,
        /// Part number.
        number: u16,
    },
    /// What was appended to an object.
    Append {
        /// The object's manifest.
        manifest: UploadId,
        /// Which part of it, from 1.
        number: u16,
    },
    /// A block that parts of the bucket share.
    Block {
        /// Its name there.
        name: BlockName,
    },
    /// The recipe of a part made of shared blocks: what is on drives is not the part's bytes but the list of its blocks.
    Recipe {
        /// What the part is of.
        of: Box<PartOf>,
        /// Bytes of the recipe; the header's `payload_bytes` are the part's.
        recipe_bytes: u64,
    },
}

/// A shard's copy of its object's metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShardMeta {
    pub(crate) part: PartId,
    pub(crate) bucket: BucketId,
    pub(crate) bucket_name: BucketName,
    pub(crate) key: ObjectKey,
    pub(crate) of: PartOf,
    pub(crate) payload_bytes: u64,
    pub(crate) data_key: WrappedKey,
    pub(crate) etag: String,
    pub(crate) checksum: Checksum,
    pub(crate) created: Timestamp,
    /// Left out (`None`) where they would not fit.
    pub(crate) attributes: Option<Attributes>,
}

impl ShardMeta {
    /// Seals the copy; leaves the attributes out if they do not fit.
    pub(crate) fn seal(mut self, inner: &Inner) -> Result<Bytes> {
        let mut plain = self.encode()?;
        if plain.len() + 64 > SEALED_META_BYTES_MAX {
            self.attributes = None;
            plain = self.encode()?;
        }
        Ok(Bytes::from(inner.header_key.seal(self.part.as_bytes(), &plain)))
    }

    fn encode(&self) -> Result<Vec<u8>> {
        postcard::to_extend(self, vec![VERSION])
            .map_err(|error| StoreError::Internal(format!("shard metadata does not encode: {error}")))
    }

    /// Opens a copy that belongs to `part`.
    pub(crate) fn open(inner: &Inner, part: PartId, sealed: &[u8]) -> Result<Self> {
        let corrupt = |why: String| StoreError::Corrupt(format!("shard metadata of part {part}: {why}"));
        let plain = inner.header_key.open(part.as_bytes(), sealed).map_err(|error| corrupt(error.to_string()))?;
        match plain.split_first() {
            Some((&VERSION, body)) => {
                let meta: Self = postcard::from_bytes(body).map_err(|error| corrupt(error.to_string()))?;
                if meta.part == part { Ok(meta) } else { Err(corrupt("names another part".to_owned())) }
            }
            Some((version, _)) => Err(corrupt(format!("version {version} is unknown"))),
            None => Err(corrupt("is empty".to_owned())),
        }
    }
}
