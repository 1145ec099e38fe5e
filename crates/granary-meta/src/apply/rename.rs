//! RenameObject: an object of a bucket that is not versioned moves to another key, in one step.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_RenameObject.html>

use granary_types::{BucketId, ObjectKey};
use md5::{Digest as _, Md5};

use super::{Cx, Step};
use crate::command::{EtagMatch, Outcome, Refusal, RenameCondition};
use crate::events::EventKind;
use crate::index::Family;
use crate::index::entries::TokenUse;
use crate::index::layout::{TOKEN_COUNT, TOKEN_QUEUE, token_key, token_queue_key};
use crate::records::{PartOwner, PartPlace, Parts, VersionRecord, Versioning};

/// How long a client token is remembered.
const TOKEN_KEPT_US: u64 = 24 * 3600 * 1_000_000;
/// How many tokens are remembered at most.
const TOKENS_COUNT_MAX: u64 = 100_000;
/// Tokens forgotten with each new one, at most.
const TOKENS_FORGOTTEN: usize = 4;

/// What a rename says.
pub(super) struct Rename<'c> {
    pub bucket: BucketId,
    pub source: &'c ObjectKey,
    pub destination: &'c ObjectKey,
    pub source_condition: &'c RenameCondition,
    pub condition: &'c RenameCondition,
    pub token: Option<&'c str>,
}

fn check(condition: &RenameCondition, there: Option<&VersionRecord>, names: [&'static str; 4]) -> Step<()> {
    let failed = |which: usize| Err(Refusal::Precondition(names[which]).into());
    let named = |wanted: &EtagMatch, etag: &str| match wanted {
        EtagMatch::Any => true,
        EtagMatch::OneOf(etags) => etags.iter().any(|e| e == etag),
    };
    let object = there.and_then(|v| v.object().map(|o| (v.modified(), o)));
    let Some((created, object)) = object else {
        return if condition.if_match.is_some() { failed(0) } else { Ok(()) };
    };
    if condition.if_match.as_ref().is_some_and(|wanted| !named(wanted, &object.etag)) {
        return failed(0);
    }
    if condition.if_none_match.as_ref().is_some_and(|wanted| named(wanted, &object.etag)) {
        return failed(1);
    }
    if condition.if_modified_since.is_some_and(|since| created.as_secs() <= since.as_secs()) {
        return failed(2);
    }
    if condition.if_unmodified_since.is_some_and(|since| created.as_secs() > since.as_secs()) {
        return failed(3);
    }
    Ok(())
}

impl Cx<'_, '_> {
    pub(super) fn rename(&mut self, wanted: Rename<'_>) -> Step<Outcome> {
        let Rename { bucket, source, destination, source_condition, condition, token } = wanted;
        let digest = token.map(|token| digest_of(bucket, token));
        if let Some(digest) = &digest
            && let Some(used) = self.index.get::<TokenUse>(Family::Sys, &token_key(digest))?
        {
            let same = used.bucket == bucket && used.source == *source && used.destination == *destination;
            return if same { Ok(Outcome::Done) } else { Err(Refusal::TokenReused.into()) };
        }
        let from = self.slot(bucket, source)?;
        let to = self.slot(bucket, destination)?;
        self.check_not_frozen(&from.bucket, source.as_str())?;
        self.check_not_frozen(&to.bucket, destination.as_str())?;
        if from.bucket.versioning != Versioning::Off {
            return Err(Refusal::InvalidState("objects of versioned buckets cannot be renamed").into());
        }
        let moved = from.current.clone().filter(|there| !there.is_delete_marker()).ok_or(Refusal::NoSuchKey)?;
        let source_record = moved;
        let moved = source_record.clone().into_own();
        if source == destination {
            return Err(Refusal::InvalidState("an object cannot be renamed to its own key").into());
        }
        let of_source = [
            "x-amz-rename-source-if-match",
            "x-amz-rename-source-if-none-match",
            "x-amz-rename-source-if-modified-since",
            "x-amz-rename-source-if-unmodified-since",
        ];
        check(source_condition, Some(&source_record), of_source)?;
        check(
            condition,
            to.current.as_ref(),
            ["If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since"],
        )?;
        self.check_unlocked(&moved, false)?;
        if let Some(replaced) = &to.current {
            if to.bucket.options.write_once {
                return Err(Refusal::WriteOnce.into());
            }
            self.check_unlocked(replaced, false)?;
            self.give_up(bucket, replaced)?;
            let usage = self.batch.usage(bucket);
            usage.objects = usage.objects.saturating_sub(u64::from(!replaced.is_delete_marker()));
        }
        self.batch.delete(Family::Current, &from.object_key());
        self.batch.put(Family::Current, &to.object_key(), &moved);
        if let Some(Parts::One(part)) = moved.object().map(|o| &o.parts)
            && part.place != PartPlace::Inline
        {
            let owner = PartOwner::Version { key: destination.clone(), version: moved.version, created: moved.created };
            self.hold_part(bucket, part, None, owner);
        }
        if let Some(digest) = digest {
            let used = TokenUse { bucket, source: source.clone(), destination: destination.clone() };
            self.remember_token(&digest, &used)?;
        }
        self.write_back_removal(&from.bucket, source)?;
        self.write_back(&to.bucket, destination, &moved)?;
        self.notify(&from.bucket, source, EventKind::RemovedDelete, &moved);
        self.notify(&to.bucket, destination, EventKind::CreatedCopy, &moved);
        Ok(Outcome::Done)
    }

    /// Remembers what a token stood for, and forgets some that are too old.
    fn remember_token(&mut self, digest: &[u8; 16], used: &TokenUse) -> Step<()> {
        let mut iter =
            self.index.db().raw_iterator_cf_opt(self.index.family(Family::Sys), crate::index::bounded(TOKEN_QUEUE));
        iter.seek(TOKEN_QUEUE);
        let mut count: u64 = self.index.get(Family::Sys, TOKEN_COUNT)?.unwrap_or(0);
        for _ in 0..TOKENS_FORGOTTEN {
            let Some(entry) = iter.key() else { break };
            let at = entry.get(2..10).and_then(|at| <[u8; 8]>::try_from(at).ok()).map(u64::from_be_bytes);
            let old = entry.get(10..26).and_then(|old| <[u8; 16]>::try_from(old).ok());
            let (Some(at), Some(old)) = (at, old) else {
                return Err(self.index.undecodable(Family::Sys, "token queue key").into());
            };
            if at.saturating_add(TOKEN_KEPT_US) > self.at.0 && count < TOKENS_COUNT_MAX {
                break;
            }
            count = count.saturating_sub(1);
            self.batch.delete(Family::Sys, entry);
            self.batch.delete(Family::Sys, &token_key(&old));
            iter.next();
        }
        iter.status().map_err(|e| self.index.noticed(e))?;
        drop(iter);
        self.batch.put(Family::Sys, TOKEN_COUNT, &(count + 1));
        self.batch.put(Family::Sys, &token_key(digest), used);
        self.batch.put_raw(Family::Sys, &token_queue_key(self.at, digest), &[]);
        Ok(())
    }
}

fn digest_of(bucket: BucketId, token: &str) -> [u8; 16] {
    let mut hash = Md5::new();
    hash.update(bucket.0.to_le_bytes());
    hash.update(token.as_bytes());
    hash.finalize().into()
}
