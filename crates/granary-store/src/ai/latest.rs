//! The newest complete checkpoint of a run, by step number.
//!
//! A checkpoint is a key or a folder directly below the prefix whose name has a step number. A key is complete by
//! being there: S3 shows no half-written objects. A folder is complete when its commit marker is there, which
//! frameworks write last. The rules in full are in `docs/ai.md`.

use granary_types::{BucketName, ObjectKey, Timestamp, VersionId};

use crate::ai::AiError;
use crate::api::{GetRequest, ListRequest, ObjectStore, Portion, ReadCondition, Unlock};
use crate::error::StoreError;

/// Keys and folders looked at below one prefix, at most.
const ENTRIES_MAX: usize = 100_000;
/// Files that, in a folder, say that the checkpoint is whole: torch.distributed's metadata, Orbax's and Spark's markers,
/// and one for everybody else.
pub const MARKERS: [&str; 6] =
    [".metadata", "commit_success.txt", "_CHECKPOINT_METADATA", "_SUCCESS", ".complete", ".granary-complete"];
/// Endings of keys that are checkpoints in one file.
pub const FILE_ENDINGS: [&str; 12] =
    [".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".pkl", ".tar", ".zip", ".npz", ".h5", ".keras", ".msgpack"];

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub struct LatestRequest {
    /// Prefix of the run, ending in `/` (or empty).
    pub prefix: String,
    /// The marker that folders must have, instead of any of [`MARKERS`].
    pub marker: Option<String>,
    /// The ending that keys must have, instead of any of [`FILE_ENDINGS`].
    pub ending: Option<String>,
}

/// A complete checkpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Its step.
    pub step: u64,
    /// The key, or the folder with its slash.
    pub key: String,
    /// The marker's key, of a folder.
    pub marker: Option<String>,
    /// When the key, or the marker, was written.
    pub created: Timestamp,
    /// Version of the key or marker, where there are versions.
    pub version: Option<VersionId>,
    /// ETag of the key or marker.
    pub etag: String,
    /// Bytes of the key; of a folder, `None`.
    pub size_bytes: Option<u64>,
}

/// All that has a step number, complete or not, newest step first.
#[derive(Debug, Clone, Default)]
pub struct Candidates {
    found: Vec<Candidate>,
    entries: usize,
}

#[derive(Debug, Clone)]
struct Candidate {
    step: u64,
    key: String,
    is_folder: bool,
}

/// The step number in a name: the digits behind the last `step`, else the last digits of the name without its ending.
#[must_use]
pub fn step_of(name: &str) -> Option<u64> {
    let name = name.trim_end_matches('/');
    let lower = name.to_ascii_lowercase();
    for (at, word) in lower.rmatch_indices("step") {
        let digits =
            name[at + word.len()..].trim_start_matches(['s', 'S']).trim_start_matches(['=', '_', '-', '.', ' ']);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        if end > 0 {
            return digits[..end].parse().ok();
        }
    }
    let stem = FILE_ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).unwrap_or(name);
    let end = stem.rfind(|c: char| c.is_ascii_digit())? + 1;
    let start = stem[..end]
        .rfind(|c: char| !c.is_ascii_digit())
        .map_or(0, |at| at + stem[at..].chars().next().map_or(1, char::len_utf8));
    stem[start..end].parse().ok()
}

/// Lists what has a step number below the prefix.
///
/// # Errors
/// The store's; [`AiError::Invalid`] if there is more below the prefix than is looked at.
pub async fn candidates(
    store: &dyn ObjectStore,
    bucket: &BucketName,
    request: &LatestRequest,
) -> Result<Candidates, AiError> {
    let LatestRequest { prefix, ending, .. } = request;
    if !prefix.is_empty() && !prefix.ends_with('/') {
        return Err(AiError::Invalid(format!("the prefix of a run ends in a slash: {prefix}/")));
    }
    let mut list = ListRequest {
        prefix: prefix.clone(),
        delimiter: Some("/".to_owned()),
        after: None,
        max_keys: granary_types::limits::LIST_KEYS_MAX,
    };
    let mut all = Candidates::default();
    loop {
        let page = store.list(bucket, &list).await?;
        all.entries += page.objects.len() + page.common_prefixes.len();
        if all.entries > ENTRIES_MAX {
            return Err(AiError::Invalid(format!(
                "there are more than {ENTRIES_MAX} keys and folders directly under `{prefix}`: keep one folder per run"
            )));
        }
        for (key, _) in page.objects {
            let name = &key[prefix.len()..];
            let fits = match ending {
                Some(ending) => name.ends_with(ending.as_str()),
                None => FILE_ENDINGS.iter().any(|ending| name.ends_with(ending)),
            };
            if let (true, Some(step)) = (fits, step_of(name)) {
                all.found.push(Candidate { step, key, is_folder: false });
            }
        }
        for key in page.common_prefixes {
            if let Some(step) = step_of(&key[prefix.len()..]) {
                all.found.push(Candidate { step, key, is_folder: true });
            }
        }
        match page.next_after {
            Some(after) => list.after = Some(after),
            None => break,
        }
    }
    // At the same step the folder wins, then the later name: a fixed rule, whatever the order of the listing.
    all.found.sort_by(|a, b| (b.step, b.is_folder, &b.key).cmp(&(a.step, a.is_folder, &a.key)));
    Ok(all)
}

/// The newest complete checkpoint.
///
/// # Errors
/// [`AiError::NoCheckpoint`] if there is none, [`AiError::Invalid`], the store's.
pub async fn latest(
    store: &dyn ObjectStore,
    bucket: &BucketName,
    request: &LatestRequest,
) -> Result<Checkpoint, AiError> {
    let all = candidates(store, bucket, request).await?;
    for candidate in &all.found {
        if let Some(found) = complete(store, bucket, request, candidate).await? {
            return Ok(found);
        }
    }
    let seen = match all.found.first() {
        Some(newest) => format!(": {} is there without a commit marker", newest.key),
        None if all.entries > 0 => format!(": none of its {} keys and folders has a step number", all.entries),
        None => String::new(),
    };
    Err(AiError::NoCheckpoint { prefix: request.prefix.clone(), seen })
}

/// Complete checkpoints, newest step first.
///
/// # Errors
/// As [`latest`], without [`AiError::NoCheckpoint`].
pub async fn all_complete(
    store: &dyn ObjectStore,
    bucket: &BucketName,
    request: &LatestRequest,
) -> Result<Vec<Checkpoint>, AiError> {
    let all = candidates(store, bucket, request).await?;
    let mut found = Vec::new();
    for candidate in &all.found {
        found.extend(complete(store, bucket, request, candidate).await?);
    }
    Ok(found)
}

/// Folders with a step number below the newest complete checkpoint's, without a commit marker, in which nothing is
/// younger than `before`.
///
/// # Errors
/// The store's.
pub async fn abandoned(
    store: &dyn ObjectStore,
    bucket: &BucketName,
    request: &LatestRequest,
    newest: &Checkpoint,
    before: Timestamp,
) -> Result<Vec<String>, AiError> {
    let all = candidates(store, bucket, request).await?;
    let mut found = Vec::new();
    for candidate in all.found.iter().filter(|candidate| candidate.is_folder && candidate.step < newest.step) {
        if complete(store, bucket, request, candidate).await?.is_none()
            && is_untouched(store, bucket, &candidate.key, before).await?
        {
            found.push(candidate.key.clone());
        }
    }
    Ok(found)
}

async fn is_untouched(
    store: &dyn ObjectStore,
    bucket: &BucketName,
    folder: &str,
    before: Timestamp,
) -> Result<bool, AiError> {
    let mut list = ListRequest { prefix: folder.to_owned(), max_keys: 1000, ..ListRequest::default() };
    loop {
        let page = store.list(bucket, &list).await?;
        if page.objects.iter().any(|(_, version)| version.created >= before) {
            return Ok(false);
        }
        match page.next_after {
            Some(after) => list.after = Some(after),
            None => return Ok(true),
        }
    }
}

async fn complete(
    store: &dyn ObjectStore,
    bucket: &BucketName,
    request: &LatestRequest,
    candidate: &Candidate,
) -> Result<Option<Checkpoint>, AiError> {
    if !candidate.is_folder {
        let head = head(store, bucket, &candidate.key).await?;
        return Ok(head.map(|info| Checkpoint {
            step: candidate.step,
            key: candidate.key.clone(),
            marker: None,
            created: info.created,
            version: info.version,
            etag: info.object.etag,
            size_bytes: Some(info.object.size_bytes),
        }));
    }
    let own;
    let markers: &[&str] = match &request.marker {
        Some(marker) => {
            own = [marker.as_str()];
            &own
        }
        None => &MARKERS,
    };
    for marker in markers {
        let key = format!("{}{marker}", candidate.key);
        if let Some(info) = head(store, bucket, &key).await? {
            return Ok(Some(Checkpoint {
                step: candidate.step,
                key: candidate.key.clone(),
                marker: Some(key),
                created: info.created,
                version: info.version,
                etag: info.object.etag,
                size_bytes: None,
            }));
        }
    }
    Ok(None)
}

async fn head(
    store: &dyn ObjectStore,
    bucket: &BucketName,
    key: &str,
) -> Result<Option<crate::api::ObjectInfo>, AiError> {
    let Ok(key) = ObjectKey::new(key.to_owned()) else { return Ok(None) };
    let (portion, condition) = (Portion::Whole, ReadCondition::default());
    match store
        .head(GetRequest { bucket: bucket.clone(), key, version: None, portion, condition, unlock: Unlock::Plain })
        .await
    {
        Ok(info) => Ok(Some(info)),
        Err(StoreError::NoSuchKey { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::step_of;

    #[test]
    fn step_numbers_as_frameworks_write_them() {
        for (name, step) in [
            ("step_1000", Some(1000)),
            ("step-1000/", Some(1000)),
            ("checkpoint-500/", Some(500)),
            ("epoch=3-step=1200.ckpt", Some(1200)),
            ("step=1200-epoch=3.ckpt", Some(1200)),
            ("epoch=3-step=1200-v1.ckpt", Some(1200)),
            ("global_step77/", Some(77)),
            ("iter_0001000/", Some(1000)),
            ("model_10.pt", Some(10)),
            ("model-2.h5", Some(2)),
            ("ckpt12", Some(12)),
            ("steps_5", Some(5)),
            ("0", Some(0)),
            ("\u{fc}12", Some(12)),
            ("latest.pt", None),
            ("best", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(step_of(name), step, "{name}");
        }
    }
}
