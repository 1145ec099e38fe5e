//! What an object's bytes are encrypted with beyond the bucket key: named keys (SSE-KMS) and keys that clients
//! bring (SSE-C). Who may use which is not decided here.
//!
//! Guarantees: a part is sealed and opened with what its object's record says, or not at all; a customer's key is
//! neither kept nor logged, only its MD5; a named key is made once, and a name never gets a second key.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use granary_crypto::{CustomerKey, KmsKey, Lock};
use granary_meta::command::Command;
use granary_meta::records::Sse;
use granary_types::{Timestamp, WrappedKey};
use serde::{Deserialize, Serialize};

use crate::api::{Result, Unlock};
use crate::error::StoreError;
use crate::inner::{Inner, from_crypto, from_meta};

/// System records that hold named keys: this, then the key's id.
const KMS_RECORDS: &str = "kms/";
/// The named key of those who name none: made when it is first needed.
pub const KMS_DEFAULT_KEY: &str = "aws/s3";
/// Characters in the id of a named key, at most.
const KMS_ID_CHARS_MAX: usize = 256;
/// Version of the record of a named key.
const KMS_RECORD_VERSION: u8 = 1;

/// Why an encryption that a request asks for, or a key that it brings, does not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// The object was stored with a customer's key and the request brings none.
    #[error("the object was stored with a customer's key, and the request brings none")]
    KeyNeeded,
    /// The key is not the object's.
    #[error("the customer's key is not the one the object was stored with")]
    KeyWrong,
    /// A customer's key for an object that was stored without one.
    #[error("the object was not stored with a customer's key")]
    NotApplicable,
    /// A part of an upload that was begun with a customer's key comes without (or the other way round).
    #[error("the upload's encryption is not that of the part")]
    PartNeedsKey,
    /// A part, or the end, of an upload comes with another key than its beginning.
    #[error("the customer's key is not the one the upload was begun with")]
    PartKeyDiffers,
    /// An upload with a checksum algorithm and a customer's key is completed without the key.
    #[error("an upload with a checksum algorithm and a customer's key is completed with the key")]
    CompleteNeedsKey,
    /// No such named key.
    #[error("there is no KMS key `{0}`")]
    NoSuchKmsKey(String),
    /// The bucket's keys were destroyed.
    #[error("the keys of the bucket were destroyed: nothing in it can be read any more")]
    BucketKeyDestroyed,
    /// The named key is disabled.
    #[error("the KMS key `{0}` is disabled")]
    KmsKeyDisabled(String),
}

impl From<SseError> for StoreError {
    fn from(error: SseError) -> Self {
        Self::Sse(error)
    }
}

/// A named key as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KmsRecord {
    version: u8,
    id: String,
    created: Timestamp,
    enabled: bool,
    wrapped: WrappedKey,
}

/// A named key as it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KmsKeyInfo {
    /// Its id.
    pub id: String,
    /// When it was made.
    pub created: Timestamp,
    /// Whether it may be used.
    pub enabled: bool,
}

/// What a part's data key is locked with, opened.
#[derive(Debug, Clone)]
pub(crate) enum OpenLock {
    None,
    Kms { key: Arc<KmsKey>, context: String },
    Customer(CustomerKey),
}

impl OpenLock {
    pub(crate) fn lock(&self) -> Lock<'_> {
        match self {
            Self::None => Lock::None,
            Self::Kms { key, context } => Lock::Kms { key, context },
            Self::Customer(key) => Lock::Customer(key),
        }
    }
}

/// Refuses a read whose key is not what the object needs.
pub(crate) fn check_unlock(sse: &Sse, unlock: &Unlock) -> Result<()> {
    match (sse, unlock) {
        (_, Unlock::Unneeded) | (Sse::S3 | Sse::Kms { .. }, Unlock::Plain) => Ok(()),
        (Sse::S3 | Sse::Kms { .. }, Unlock::Key(_)) => Err(SseError::NotApplicable.into()),
        (Sse::Customer { .. }, Unlock::Plain) => Err(SseError::KeyNeeded.into()),
        (Sse::Customer { key_md5 }, Unlock::Key(key)) if key.is(key_md5) => Ok(()),
        (Sse::Customer { .. }, Unlock::Key(_)) => Err(SseError::KeyWrong.into()),
    }
}

/// Refuses a part whose key is not that of its upload.
pub(crate) fn check_part(sse: &Sse, key: Option<&CustomerKey>) -> Result<()> {
    match (sse, key) {
        (Sse::Customer { key_md5 }, Some(key)) if key.is(key_md5) => Ok(()),
        (Sse::Customer { .. }, Some(_)) => Err(SseError::PartKeyDiffers.into()),
        (Sse::S3 | Sse::Kms { .. }, None) => Ok(()),
        (Sse::Customer { .. }, None) | (Sse::S3 | Sse::Kms { .. }, Some(_)) => Err(SseError::PartNeedsKey.into()),
    }
}

/// A key id as clients write it (plain, ARN, alias) as ours.
fn plain_id(text: &str) -> &str {
    let id = match text.strip_prefix("arn:") {
        Some(arn) => arn.split_once(":key/").map_or_else(|| arn.split_once(":alias/").map_or(text, |p| p.1), |p| p.1),
        None => text.strip_prefix("alias/").unwrap_or(text),
    };
    if id.is_empty() { KMS_DEFAULT_KEY } else { id }
}

fn record_name(id: &str) -> String {
    format!("{KMS_RECORDS}{id}")
}

impl Inner {
    /// What `sse` takes to seal and open. `key` is the customer's, where one came.
    pub(crate) async fn open_lock(&self, sse: &Sse, key: Option<&CustomerKey>) -> Result<OpenLock> {
        match sse {
            Sse::S3 => Ok(OpenLock::None),
            Sse::Kms { key_id, context, .. } => {
                let key = self.kms_key(key_id).await?;
                Ok(OpenLock::Kms { key, context: context.clone().unwrap_or_default() })
            }
            Sse::Customer { key_md5 } => match key {
                Some(key) if key.is(key_md5) => Ok(OpenLock::Customer(key.clone())),
                Some(_) => Err(SseError::KeyWrong.into()),
                None => Err(SseError::KeyNeeded.into()),
            },
        }
    }

    /// Checks what a new object is to be encrypted with before its body is read, and names the default key where
    /// none was named.
    pub(crate) async fn settle_sse(&self, sse: &mut Sse) -> Result<()> {
        let Sse::Kms { key_id, .. } = sse else { return Ok(()) };
        if key_id.is_empty() {
            key_id.push_str(KMS_DEFAULT_KEY);
        }
        if plain_id(key_id) == KMS_DEFAULT_KEY {
            self.create_kms_key_once(KMS_DEFAULT_KEY).await?;
        }
        self.kms_key(key_id).await.map(drop)
    }

    fn kms_record(&self, id: &str) -> Result<Option<KmsRecord>> {
        let Some(bytes) = self.index()?.system(&record_name(id)).map_err(from_meta)? else { return Ok(None) };
        let corrupt = |why: String| StoreError::Corrupt(format!("the record of KMS key {id}: {why}"));
        let record: KmsRecord = postcard::from_bytes(&bytes).map_err(|error| corrupt(error.to_string()))?;
        if record.version != KMS_RECORD_VERSION || record.id != id {
            return Err(corrupt(format!("version {} of key {}", record.version, record.id)));
        }
        Ok(Some(record))
    }

    /// A named key, opened; kept in memory for a bounded time.
    async fn kms_key(&self, text: &str) -> Result<Arc<KmsKey>> {
        let id = plain_id(text);
        // The record is looked at every time: a key that was disabled is not to be used from memory.
        let record = self.kms_record(id)?.ok_or_else(|| SseError::NoSuchKmsKey(text.to_owned()))?;
        if !record.enabled {
            return Err(SseError::KmsKeyDisabled(text.to_owned()).into());
        }
        if let Some((key, since)) = self.kms_keys.read().get(id)
            && since.elapsed() < self.options.key_cache
        {
            return Ok(Arc::clone(key));
        }
        let wrapped = record.wrapped;
        let name = id.to_owned();
        let key = self.with_provider(move |provider| KmsKey::unwrap(provider, &name, &wrapped)).await?;
        let key = Arc::new(key);
        self.kms_keys.write().insert(id.to_owned(), (Arc::clone(&key), Instant::now()));
        Ok(key)
    }

    /// Makes a named key. `false` if there is one of that name already.
    pub(crate) async fn create_kms_key_once(&self, id: &str) -> Result<bool> {
        let fits = !id.is_empty()
            && id.len() <= KMS_ID_CHARS_MAX
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"/_.-:".contains(&b))
            && plain_id(id) == id;
        if !fits {
            return Err(StoreError::Invalid(format!(
                "a KMS key id has 1 to {KMS_ID_CHARS_MAX} letters, digits and /_.-: and is neither an ARN nor an alias"
            )));
        }
        if self.kms_record(id)?.is_some() {
            return Ok(false);
        }
        // One at a time: a second key under a name would make what the first has locked unreadable.
        let _turn = self.keys_turn.lock().await;
        if self.kms_record(id)?.is_some() {
            return Ok(false);
        }
        let key = KmsKey::generate(id);
        let wrapped = self.with_provider(move |provider| key.wrap(provider)).await?;
        let record = KmsRecord {
            version: KMS_RECORD_VERSION,
            id: id.to_owned(),
            created: self.clock.now(),
            enabled: true,
            wrapped,
        };
        self.set_kms_record(&record).await?;
        Ok(true)
    }

    async fn set_kms_record(&self, record: &KmsRecord) -> Result<()> {
        let value = postcard::to_stdvec(record)
            .map_err(|error| StoreError::Internal(format!("the record of a KMS key does not encode: {error}")))?;
        let name = record_name(&record.id);
        self.propose(Command::SetSystem { name, value: Some(Bytes::from(value)) }).await.map(drop)
    }

    /// Allows or forbids the use of a named key.
    pub(crate) async fn enable_kms_key(&self, id: &str, enabled: bool) -> Result<()> {
        let _turn = self.keys_turn.lock().await;
        let mut record = self.kms_record(id)?.ok_or_else(|| SseError::NoSuchKmsKey(id.to_owned()))?;
        record.enabled = enabled;
        self.set_kms_record(&record).await?;
        self.kms_keys.write().remove(id);
        Ok(())
    }

    /// Wraps every named key anew under the active root key. The caller has the turn.
    pub(crate) async fn rewrap_kms_keys(&self) -> Result<()> {
        for KmsKeyInfo { id, .. } in self.list_kms_keys()? {
            let Some(mut record) = self.kms_record(&id)? else { continue };
            let wrapped = record.wrapped.clone();
            record.wrapped =
                self.with_provider(move |provider| KmsKey::unwrap(provider, &id, &wrapped)?.wrap(provider)).await?;
            self.set_kms_record(&record).await?;
        }
        Ok(())
    }

    /// All named keys.
    pub(crate) fn list_kms_keys(&self) -> Result<Vec<KmsKeyInfo>> {
        let mut keys = Vec::new();
        for (name, _) in self.index()?.systems(KMS_RECORDS).map_err(from_meta)? {
            let id = name.strip_prefix(KMS_RECORDS).unwrap_or(&name);
            if let Some(KmsRecord { id, created, enabled, .. }) = self.kms_record(id)? {
                keys.push(KmsKeyInfo { id, created, enabled });
            }
        }
        Ok(keys)
    }

    /// Asks the key provider; on a thread of its own where it may block on a device or the network.
    pub(crate) async fn with_provider<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&dyn granary_crypto::KeyProvider) -> granary_crypto::Result<T> + Send + 'static,
    ) -> Result<T> {
        if !self.provider.blocks() {
            return ask(&*self.provider).map_err(from_crypto);
        }
        let provider = Arc::clone(&self.provider);
        let asked = tokio::task::spawn_blocking(move || ask(&*provider)).await;
        asked.map_err(|error| StoreError::Internal(format!("the key provider: {error}")))?.map_err(from_crypto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ids_in_all_their_forms() {
        for (text, id) in [
            ("k1", "k1"),
            ("alias/k1", "k1"),
            ("arn:aws:kms:us-east-1:123456789012:key/k1", "k1"),
            ("arn:aws:kms:us-east-1:123456789012:alias/k1", "k1"),
            ("arn:aws:s3:::b", "arn:aws:s3:::b"),
            ("", KMS_DEFAULT_KEY),
            ("alias/aws/s3", KMS_DEFAULT_KEY),
        ] {
            assert_eq!(plain_id(text), id, "{text}");
        }
    }
}
