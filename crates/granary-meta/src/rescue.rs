//! The last resort: filling an empty store from what the drives' shard headers tell, when the index, all
//! checkpoints and the log are lost. The store above decodes the headers; this puts what they say through the log.

use futures::stream::{self, StreamExt};
use granary_types::ObjectKey;

use crate::command::{Command, Outcome, Refusal};
use crate::error::Result;
use crate::proposer::Proposer;
use crate::records::{BucketRecord, PartRecord, VersionRecord};

/// Commands on their way at once.
const IN_FLIGHT: usize = 256;

/// A version that was found on the drives.
#[derive(Debug, Clone)]
pub struct Recovered {
    /// Its bucket; made anew if it is not there.
    pub bucket: BucketRecord,
    /// Its key.
    pub key: ObjectKey,
    /// The version, as it was.
    pub version: VersionRecord,
    /// A multipart object's parts, in order; empty for others.
    pub parts: Vec<PartRecord>,
}

/// What was put back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rescued {
    /// Buckets made.
    pub buckets: u64,
    /// Versions that are there now (also if they were before).
    pub versions: u64,
    /// Versions that were not put back, and why.
    pub refused: Vec<(ObjectKey, Refusal)>,
}

/// Puts everything back, in the order given. May be run again after an interruption. Where a bucket keeps no
/// versions, give the newest state of a key first: an older one of the same (null) version is then passed over.
///
/// # Errors
/// Those of the proposer; what was put back until then stays.
pub async fn rescue(proposer: &dyn Proposer, found: impl IntoIterator<Item = Recovered>) -> Result<Rescued> {
    let mut rescued = Rescued::default();
    let mut known = std::collections::HashSet::new();
    let mut found = found.into_iter().peekable();
    while found.peek().is_some() {
        let batch: Vec<Recovered> = found.by_ref().take(IN_FLIGHT).collect();
        for entry in &batch {
            if known.insert(entry.bucket.id)
                && proposer.index().bucket_by_id(entry.bucket.id)?.is_none()
                && proposer.propose(Command::CreateBucket(Box::new(entry.bucket.clone()))).await? == Outcome::Done
            {
                rescued.buckets += 1;
            }
        }
        let proposals = batch.into_iter().map(|entry| async move {
            let (key, version) = (entry.key.clone(), Box::new(entry.version));
            let restore =
                Command::RestoreVersion { bucket: entry.bucket.id, key: entry.key, version, parts: entry.parts };
            proposer.propose(restore).await.map(|outcome| (key, outcome))
        });
        let mut outcomes = stream::iter(proposals).buffered(IN_FLIGHT);
        while let Some(outcome) = outcomes.next().await {
            match outcome? {
                (key, Outcome::Refused(refusal)) => rescued.refused.push((key, refusal)),
                _ => rescued.versions += 1,
            }
        }
    }
    Ok(rescued)
}
