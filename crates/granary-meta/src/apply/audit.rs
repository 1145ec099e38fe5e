//! The audit chain: records are appended, sealed, and in the end removed, and nothing else touches them.

use bytes::Bytes;
use granary_types::audit::EVENT_BYTES_MAX;
use granary_types::limits::AUDIT_KEEP_DAYS_MIN;
use granary_types::names::AUDIT_BUCKET;
use granary_types::{AuditOutcome, AuditRecord, BucketId, ObjectKey, Timestamp};

use super::{Cx, Step};
use crate::command::{BucketChange, Command, Condition, Outcome, Refusal, SealAudit};
use crate::index::audit::AuditEntry;
use crate::index::layout::SYS_AUDIT_SEALED;
use crate::index::{AuditSealed, Batch, Family};

/// System record with the days that the audit trail is kept, in decimal. It can only grow.
pub const AUDIT_KEEP_DAYS: &str = "audit/keep-days";
const DAY_US: u64 = 24 * 60 * 60 * 1_000_000;

/// The records that one command brings: one entry of the index, whatever their number.
pub(super) fn append(batch: &mut Batch<'_>, at: Timestamp, outcome: &AuditOutcome, events: &[Bytes]) {
    if events.is_empty() {
        return;
    }
    let state = batch.audit();
    let mut entry = AuditEntry::with_capacity(events.iter().map(|event| event.len() + 64).sum());
    for event in events {
        let record = AuditRecord::encode(state.next, at, outcome, event);
        state.head = state.head.extend(&record);
        state.next += 1;
        entry.push(&record);
    }
    let (last, value) = (state.next - 1, entry.finish(state.head));
    batch.put_raw(Family::Audit, &last.to_be_bytes(), &value);
}

/// What the chain keeps of an outcome.
pub(super) fn outcome_of(outcome: &Outcome) -> AuditOutcome {
    match outcome {
        Outcome::Refused(refusal) => AuditOutcome::Refused(refusal.code().to_owned()),
        Outcome::Put { version, .. } => AuditOutcome::Done((!version.is_null()).then_some(*version)),
        Outcome::Deleted { version, .. } => AuditOutcome::Done(version.filter(|version| !version.is_null())),
        Outcome::Done | Outcome::Drive(_) => AuditOutcome::Done(None),
    }
}

impl Cx<'_, '_> {
    /// Whether a command would change what belongs to the audit trail. No arm for "all others": whoever adds a
    /// command decides here.
    pub(super) fn is_protected(&self, command: &Command) -> bool {
        let of = |bucket: &BucketId| self.index.bucket_by_id(*bucket).is_some_and(|b| b.name.as_str() == AUDIT_BUCKET);
        match command {
            Command::PutVersion { bucket, .. }
            | Command::DeleteObject { bucket, .. }
            | Command::DeleteVersion { bucket, .. }
            | Command::ChangeVersion { bucket, .. }
            | Command::CreateUpload { bucket, .. }
            | Command::PutPart { bucket, .. }
            | Command::CompleteUpload { bucket, .. }
            | Command::AbortUpload { bucket, .. }
            | Command::Expire { bucket, .. }
            | Command::Append { bucket, .. }
            | Command::Rename { bucket, .. }
            | Command::PutFetched { bucket, .. }
            | Command::DropFetched { bucket, .. } => of(bucket),
            Command::From { command, .. } => self.is_protected(command),
            Command::DeleteBucket { name } | Command::Dataset { bucket: name, .. } => name.as_str() == AUDIT_BUCKET,
            Command::ChangeBucket { name, change } => match change {
                BucketChange::Versioning(_)
                | BucketChange::Document { .. }
                | BucketChange::Options(_)
                | BucketChange::ObjectLock { .. }
                | BucketChange::Quota { .. } => name.as_str() == AUDIT_BUCKET,
                // Another wrapping of the same key leaves the trail readable; destroying a bucket's key is not this command.
                BucketChange::Key(_) => false,
            },
            Command::SetSystem { name, value } => name == AUDIT_KEEP_DAYS && !self.keeps_longer(value.as_deref()),
            Command::Noop
            | Command::CreateBucket(_)
            | Command::ForgetGarbage { .. }
            | Command::RetireBlocks { .. }
            | Command::MovePart { .. }
            | Command::RegisterDrive { .. }
            | Command::RetireDrive { .. }
            | Command::RestoreVersion { .. }
            | Command::AckEvents { .. }
            | Command::Audit { .. }
            | Command::SealAudit(_)
            | Command::ExpireAudit { .. } => false,
        }
    }

    fn keeps_longer(&self, wanted: Option<&[u8]>) -> bool {
        days(wanted).is_some_and(|wanted| wanted >= self.keep_days())
    }

    /// Days that the trail is kept; what cannot be read counts as for ever.
    fn keep_days(&self) -> u64 {
        match self.index.system(AUDIT_KEEP_DAYS) {
            Ok(None) => AUDIT_KEEP_DAYS_MIN,
            Ok(Some(value)) => days(Some(&value)).unwrap_or(u64::MAX).max(AUDIT_KEEP_DAYS_MIN),
            Err(_) => u64::MAX,
        }
    }

    pub(super) fn append_events(&mut self, events: &[Bytes]) -> Step<Outcome> {
        if events.iter().any(|event| event.len() > EVENT_BYTES_MAX) {
            return Err(Refusal::InvalidState("an audit event is too long").into());
        }
        append(self.batch, self.at, &AuditOutcome::Told, events);
        Ok(Outcome::Done)
    }

    pub(super) fn seal_audit(&mut self, seal: &SealAudit) -> Step<Outcome> {
        let bucket = self.bucket(seal.bucket)?;
        let state = self.index.audit_state();
        let follows = seal.first == state.sealed.through + 1
            && seal.through >= seal.first
            && seal.through < state.next
            && seal.segment == state.sealed.segment + 1
            && self.index.audit_head(seal.through)? == Some(seal.head);
        if bucket.name.as_str() != AUDIT_BUCKET || !follows {
            return Err(Refusal::Stale.into());
        }
        for object in &seal.objects {
            let unconditional = Condition::default();
            let inline = object.inline.as_deref();
            self.put_version(seal.bucket, &object.key, &object.object, inline, object.nonce, &unconditional)?;
        }
        let sealed =
            AuditSealed { through: seal.through, segment: seal.segment, head: seal.head, seal: seal.seal.clone() };
        self.batch.put(Family::Sys, SYS_AUDIT_SEALED, &sealed);
        let past = seal.through.saturating_add(1);
        self.batch.delete_range(Family::Audit, &seal.first.to_be_bytes(), &past.to_be_bytes());
        self.batch.audit().sealed = sealed;
        Ok(Outcome::Done)
    }

    pub(super) fn expire_audit(&mut self, bucket: BucketId, key: &ObjectKey) -> Step<Outcome> {
        let record = self.bucket(bucket)?;
        let current = self.index.current(bucket, key)?.ok_or(Refusal::NoSuchKey)?;
        let until = current.created.0.saturating_add(self.keep_days().saturating_mul(DAY_US));
        if record.name.as_str() != AUDIT_BUCKET || until > self.at.0 {
            return Err(Refusal::Protected("the audit trail is kept longer than that").into());
        }
        self.delete_object(bucket, key, [0; 8], &Condition::default(), false)
    }
}

fn days(value: Option<&[u8]>) -> Option<u64> {
    std::str::from_utf8(value?).ok()?.parse().ok()
}
