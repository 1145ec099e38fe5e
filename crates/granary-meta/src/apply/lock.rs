//! Object lock: which versions may be removed, and how retention may change.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/object-lock.html>

use granary_types::Timestamp;

use super::{Cx, Step};
use crate::command::Refusal;
use crate::records::{Attributes, BucketRecord, Retention, RetentionMode, VersionRecord};

impl Cx<'_, '_> {
    /// Refuses if `version` must not be removed or overwritten now.
    pub(super) fn check_unlocked(&self, version: &VersionRecord, bypass: bool) -> Step<()> {
        let Some(object) = version.object() else { return Ok(()) };
        if object.attributes.legal_hold {
            return Err(Refusal::Locked("the version is under legal hold").into());
        }
        match object.attributes.retention.filter(|r| r.until > self.at) {
            Some(Retention { mode: RetentionMode::Compliance, .. }) => {
                Err(Refusal::Locked("the version is retained in compliance mode").into())
            }
            Some(Retention { mode: RetentionMode::Governance, .. }) if !bypass => {
                Err(Refusal::Locked("the version is retained in governance mode").into())
            }
            _ => Ok(()),
        }
    }

    /// Refuses lock attributes where the bucket has no object lock.
    pub(super) fn check_lockable(&self, bucket: &BucketRecord, attributes: &Attributes) -> Step<()> {
        if !bucket.options.object_lock && (attributes.retention.is_some() || attributes.legal_hold) {
            return Err(Refusal::InvalidState("object lock is not enabled for the bucket").into());
        }
        Ok(())
    }

    /// The retention of a new version: its own, or the bucket's default.
    pub(super) fn retention_of_new(
        &self,
        bucket: &BucketRecord,
        own: Option<Retention>,
        created: Timestamp,
    ) -> Option<Retention> {
        own.or_else(|| {
            let (mode, secs) = bucket.options.default_retention.filter(|_| bucket.options.object_lock)?;
            Some(Retention { mode, until: Timestamp(created.0.saturating_add(Timestamp::from_secs(secs).0)) })
        })
    }

    /// Refuses a change of retention that weakens what is in force: compliance is only ever prolonged,
    /// governance is weakened only with the bypass right.
    pub(super) fn check_retention(&self, old: Option<Retention>, new: Option<Retention>, bypass: bool) -> Step<()> {
        let Some(old) = old.filter(|r| r.until > self.at) else { return Ok(()) };
        let longer = new.is_some_and(|new| new.until >= old.until);
        let compliance = new.is_some_and(|new| new.mode == RetentionMode::Compliance);
        match old.mode {
            RetentionMode::Compliance if !(longer && compliance) => {
                Err(Refusal::Locked("retention in compliance mode can only be prolonged").into())
            }
            RetentionMode::Governance if !longer && !bypass => {
                Err(Refusal::Locked("retention in governance mode is shortened only with the bypass right").into())
            }
            _ => Ok(()),
        }
    }
}
