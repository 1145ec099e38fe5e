//! Buckets and listings.

use granary_meta::command::{BucketChange, Command, Refusal};
use granary_meta::records::{BucketRecord, Versioning};
use granary_types::limits::LIST_KEYS_MAX;
use granary_types::{BucketId, BucketName};

use crate::api::{
    CreateBucketRequest, ListPage, ListRequest, ListUploadsPage, ListUploadsRequest, ListVersionsPage,
    ListVersionsRequest, Result,
};
use crate::audit::keyed;
use crate::error::StoreError;
use crate::inner::{Inner, from_meta};
use crate::upstream::shown;

impl Inner {
    pub(crate) async fn create_bucket(&self, request: CreateBucketRequest) -> Result<()> {
        let id = BucketId(rand::random());
        if let Some(there) = self.index()?.bucket(&request.name) {
            return Err(Refusal::BucketExists { owner: there.owner.clone() }.into());
        }
        let wrapped = self.new_bucket_keys(id).await?;
        let versioning = if request.options.object_lock { Versioning::Enabled } else { Versioning::Off };
        let record = BucketRecord {
            id,
            name: request.name,
            created: self.clock.now(),
            owner: request.owner,
            region: request.region.unwrap_or_else(|| self.options.region.clone()),
            key: wrapped,
            versioning,
            options: request.options,
            documents: request.documents,
            frozen: Vec::new(),
        };
        if let Err(error) = self.propose(Command::CreateBucket(Box::new(record))).await {
            // Where it is not known whether the bucket is there its lock stays.
            if matches!(error, StoreError::Refused(_)) {
                self.forget_bucket_keys(id);
            }
            return Err(error);
        }
        self.save_bucket_table();
        Ok(())
    }

    pub(crate) async fn delete_bucket(&self, name: &BucketName) -> Result<()> {
        let bucket = self.bucket_anywhere(name)?;
        self.end_uploads(&bucket).await?;
        self.propose(Command::DeleteBucket { name: name.clone() }).await?;
        self.forget_bucket_keys(bucket.id);
        self.save_bucket_table();
        Ok(())
    }

    /// Aborts what is being uploaded into a bucket that holds nothing else: as on AWS, that alone keeps no bucket. (The log's
    /// command refuses still where an upload began since.)
    async fn end_uploads(&self, bucket: &BucketRecord) -> Result<()> {
        let id = bucket.id;
        let held = self.index()?.list_versions(id, "", None, None, None, 1).map_err(from_meta)?;
        if !held.versions.is_empty() {
            return Err(Refusal::BucketNotEmpty.into());
        }
        loop {
            let page = self.index()?.list_uploads(id, "", None, None, None, LIST_KEYS_MAX).map_err(from_meta)?;
            for upload in page.uploads {
                let key = upload.key.clone();
                let abort = self.propose(Command::AbortUpload { bucket: id, key: upload.key, upload: upload.id });
                let code = |error: &StoreError| error.to_string();
                match keyed("AbortMultipartUpload", key.as_str(), "", abort, code).await {
                    Ok(_) | Err(StoreError::Refused(Refusal::NoSuchUpload)) => {}
                    Err(error) => return Err(error),
                }
            }
            if page.next.is_none() {
                return Ok(());
            }
        }
    }

    pub(crate) async fn change_bucket(&self, name: &BucketName, change: BucketChange) -> Result<()> {
        self.bucket_anywhere(name)?;
        self.propose(Command::ChangeBucket { name: name.clone(), change }).await?;
        self.save_bucket_table();
        Ok(())
    }

    /// A page as clients see it: with what the bucket's upstream has.
    pub(crate) async fn list(&self, bucket: &BucketName, request: &ListRequest) -> Result<ListPage> {
        let bucket = self.bucket(bucket)?;
        match self.source(&bucket)? {
            Some(source) => self.list_through(&bucket, &source, request).await,
            None => Ok(shown(self.list_here(&bucket, request)?)),
        }
    }

    /// A page of what is here, as it is kept.
    pub(crate) fn list_here(&self, bucket: &BucketRecord, request: &ListRequest) -> Result<ListPage> {
        if request.max_keys == 0 {
            return Ok(ListPage::default());
        }
        let max_keys = request.max_keys.min(LIST_KEYS_MAX);
        let page = self
            .index()?
            .list(bucket.id, &request.prefix, request.delimiter.as_deref(), request.after.as_deref(), max_keys)
            .map_err(from_meta)?;
        Ok(ListPage { objects: page.objects, common_prefixes: page.common_prefixes, next_after: page.next_after })
    }

    pub(crate) fn list_versions(&self, bucket: &BucketName, request: &ListVersionsRequest) -> Result<ListVersionsPage> {
        let bucket = self.bucket(bucket)?;
        if request.max_keys == 0 {
            return Ok(ListVersionsPage::default());
        }
        let page = self
            .index()?
            .list_versions(
                bucket.id,
                &request.prefix,
                request.delimiter.as_deref(),
                request.key_marker.as_deref(),
                request.version_marker,
                request.max_keys.min(LIST_KEYS_MAX),
            )
            .map_err(from_meta)?;
        Ok(ListVersionsPage { versions: page.versions, common_prefixes: page.common_prefixes, next: page.next })
    }

    pub(crate) fn list_uploads(&self, bucket: &BucketName, request: &ListUploadsRequest) -> Result<ListUploadsPage> {
        let bucket = self.bucket(bucket)?;
        if request.max_uploads == 0 {
            return Ok(ListUploadsPage::default());
        }
        let page = self
            .index()?
            .list_uploads(
                bucket.id,
                &request.prefix,
                request.delimiter.as_deref(),
                request.key_marker.as_deref(),
                request.upload_marker,
                request.max_uploads.min(LIST_KEYS_MAX),
            )
            .map_err(from_meta)?;
        Ok(ListUploadsPage { uploads: page.uploads, common_prefixes: page.common_prefixes, next: page.next })
    }
}
