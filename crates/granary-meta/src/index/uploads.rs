//! Reads of open uploads and their parts.

use granary_types::{BucketId, ObjectKey, UploadId};

use super::entries::UploadHead;
use super::read::bounded;
use super::{Family, Index, layout};
use crate::error::Result;
use crate::records::{PartRecord, UploadRecord};

impl Index {
    /// Where an open upload is, if it belongs to this bucket and key.
    pub(crate) fn upload_head(
        &self,
        bucket: BucketId,
        key: &ObjectKey,
        upload: UploadId,
    ) -> Result<Option<UploadHead>> {
        let head = self.get::<UploadHead>(Family::Parts, &layout::part_key(upload, 0))?;
        Ok(head.filter(|h| h.bucket == bucket && h.key == *key))
    }

    /// An open upload of this bucket and key.
    ///
    /// # Errors
    /// The index's.
    pub fn upload(&self, bucket: BucketId, key: &ObjectKey, upload: UploadId) -> Result<Option<UploadRecord>> {
        match self.upload_head(bucket, key, upload)? {
            None => Ok(None),
            Some(head) => self.get(Family::Uploads, &layout::upload_key(bucket, key.as_str(), head.created, upload)),
        }
    }

    /// One part of an open upload.
    ///
    /// # Errors
    /// The index's.
    pub fn part(&self, upload: UploadId, number: u16) -> Result<Option<PartRecord>> {
        if number == 0 {
            return Ok(None);
        }
        self.get(Family::Parts, &layout::part_key(upload, number))
    }

    /// Up to `limit` parts of an open upload with numbers over `after`, ascending.
    ///
    /// # Errors
    /// The index's.
    pub fn parts(&self, upload: UploadId, after: u16, limit: usize) -> Result<Vec<(u16, PartRecord)>> {
        let mut found = Vec::new();
        let Some(first) = after.checked_add(1) else { return Ok(found) };
        let mut iter = self.db().raw_iterator_cf_opt(self.family(Family::Parts), bounded(&upload.0));
        iter.seek(layout::part_key(upload, first));
        while found.len() < limit {
            let Some((key, value)) = iter.item() else { break };
            let number = key.get(16..18).and_then(|n| n.try_into().ok()).map(u16::from_be_bytes);
            let number = number.ok_or_else(|| self.undecodable(Family::Parts, "key length"))?;
            found.push((number, self.decode(Family::Parts, value)?));
            iter.next();
        }
        iter.status().map_err(|e| self.noticed(e))?;
        Ok(found)
    }
}
