//! Small sealed files kept on every drive beside the shards: today the bucket table, which the last resort
//! (a rebuild of the index from shard headers) needs for the buckets' keys and settings.

use std::path::Path;

use granary_crypto::BlobKey;
use granary_drive::raw;
use granary_meta::records::BucketRecord;
use granary_types::frame;

use crate::api::Result;
use crate::error::StoreError;
use crate::inner::Inner;

/// File name on each drive.
pub(crate) const BUCKET_TABLE_FILE: &str = "buckets.sealed";
const MAGIC: [u8; 4] = *b"GRBT";
const VERSION: u16 = 1;
const LENGTH_MAX: u32 = 256 << 20;
const AAD: &[u8] = b"granary bucket table";

impl Inner {
    /// Writes the bucket table to every drive folder; a drive that refuses is logged and passed over.
    pub(crate) fn save_bucket_table(&self) {
        self.save_shelf();
        if let Err(error) = self.try_save_bucket_table() {
            tracing::warn!(%error, "the bucket table on the drives is behind; the next change of a bucket writes it again");
        }
    }

    fn try_save_bucket_table(&self) -> Result<()> {
        let _one_at_a_time = self.table_lock.lock();
        let folders = self.folders.read().clone();
        if folders.is_empty() {
            return Ok(());
        }
        let buckets = self.index()?.list_buckets();
        let buckets: Vec<&BucketRecord> = buckets.iter().map(AsRef::as_ref).collect();
        let bytes = encode(&self.header_key, &buckets)?;
        for folder in &folders {
            if let Err(error) = raw::write_atomically(&folder.join(BUCKET_TABLE_FILE), &bytes) {
                tracing::warn!(folder = %folder.display(), %error, "the bucket table was not written to this drive");
            }
        }
        Ok(())
    }
}

fn encode(key: &BlobKey, buckets: &[&BucketRecord]) -> Result<Vec<u8>> {
    let plain = postcard::to_stdvec(buckets)
        .map_err(|error| StoreError::Internal(format!("the bucket table does not encode: {error}")))?;
    let mut bytes = Vec::new();
    frame::encode(MAGIC, VERSION, &key.seal(AAD, &plain), &mut bytes);
    Ok(bytes)
}

/// Reads a bucket table.
///
/// # Errors
/// `Corrupt`, naming the file.
pub(crate) fn read(key: &BlobKey, path: &Path) -> Result<Vec<BucketRecord>> {
    let corrupt = |why: String| StoreError::Corrupt(format!("{}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| corrupt(error.to_string()))?;
    let (_, sealed) = frame::decode(MAGIC, VERSION, LENGTH_MAX, &bytes).map_err(|error| corrupt(error.to_string()))?;
    let plain = key.open(AAD, sealed).map_err(|error| corrupt(error.to_string()))?;
    postcard::from_bytes(&plain).map_err(|error| corrupt(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_crypto::Secret32;

    #[test]
    fn a_table_reads_back_and_damage_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(BUCKET_TABLE_FILE);
        let key = BlobKey::new(&Secret32::random());
        raw::write_atomically(&path, &encode(&key, &[]).unwrap()).unwrap();
        assert_eq!(read(&key, &path).unwrap(), Vec::new());
        assert!(read(&BlobKey::new(&Secret32::random()), &path).is_err());
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(read(&key, &path).is_err());
    }
}
