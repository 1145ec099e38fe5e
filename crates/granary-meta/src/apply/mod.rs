//! One command at a time, from the state the index has to the state it shall have.
//!
//! `apply` is pure: no clock, no randomness, no I/O but reads of the index it is given. The same commands in
//! the same order build the same bytes. Preconditions, object lock, quotas and sealed keys are checked
//! here and nowhere else, so they hold under any concurrency.

use crate::command::{Command, Envelope, Outcome, Refusal};
use crate::error::{MetaError, Result};
use crate::index::{Batch, Index};

mod append;
mod audit;
mod blocks;
mod bucket;
mod condition;
mod dataset;
mod event;
pub mod expire;
mod lock;
mod object;
mod parts;
mod rename;
mod restore;
mod system;
mod upload;
mod upstream;
mod version;

pub use audit::AUDIT_KEEP_DAYS;

/// Why a command stops: refused by the rules, or the index failed.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Nothing changes; this is the outcome.
    Refused(Refusal),
    /// The index could not be read.
    Failed(MetaError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<MetaError> for Stop {
    fn from(error: MetaError) -> Self {
        Self::Failed(error)
    }
}

type Step<T> = std::result::Result<T, Stop>;

/// What `envelope` does to `index`, put into `batch`. A refused command leaves nothing in it but its audit record.
///
/// # Errors
/// Only the index's own: then nothing may be concluded about the command.
pub fn apply(envelope: &Envelope, index: &Index, batch: &mut Batch<'_>) -> Result<Outcome> {
    let (origin, command) = match &envelope.command {
        Command::From { origin, command } => (Some(&**origin), &**command),
        command => (None, command),
    };
    let mut cx = Cx {
        at: envelope.at,
        index,
        batch,
        origin,
        events: event::Pending::default(),
        blocks: blocks::Pending::default(),
    };
    let done = match command {
        command if cx.is_protected(command) => {
            Err(Refusal::Protected("the audit trail is written by the node alone").into())
        }
        Command::Noop => Ok(Outcome::Done),
        Command::CreateBucket(record) => cx.create_bucket(record),
        Command::DeleteBucket { name } => cx.delete_bucket(name),
        Command::ChangeBucket { name, change } => cx.change_bucket(name, change),
        Command::PutVersion { bucket, key, object, inline, nonce, condition } => {
            cx.put_version(*bucket, key, object, inline.as_deref(), *nonce, condition)
        }
        Command::DeleteObject { bucket, key, nonce, condition, bypass } => {
            cx.delete_object(*bucket, key, *nonce, condition, *bypass)
        }
        Command::DeleteVersion { bucket, key, version, condition, bypass } => {
            cx.delete_version(*bucket, key, *version, condition, *bypass)
        }
        Command::ChangeVersion { bucket, key, version, change } => cx.change_version(*bucket, key, *version, change),
        Command::CreateUpload { bucket, upload } => cx.create_upload(*bucket, upload),
        Command::PutPart { bucket, key, upload, number, part, inline } => {
            cx.put_part(*bucket, key, *upload, *number, part, inline.as_deref())
        }
        Command::CompleteUpload { bucket, key, upload, parts, checksum, size_bytes, nonce, condition } => cx
            .complete_upload(upload::Complete {
                bucket: *bucket,
                key,
                upload: *upload,
                parts,
                checksum: checksum.as_ref(),
                size_bytes: *size_bytes,
                nonce: *nonce,
                condition,
            }),
        Command::AbortUpload { bucket, key, upload } => cx.abort_upload(*bucket, key, *upload),
        Command::ForgetGarbage { parts } => cx.forget_garbage(parts),
        Command::RetireBlocks { blocks } => cx.retire_blocks(blocks),
        Command::MovePart { part, from, to } => cx.move_part(*part, from, to),
        Command::RegisterDrive { drive } => cx.register_drive(*drive),
        Command::RetireDrive { drive } => cx.retire_drive(*drive),
        Command::SetSystem { name, value } => cx.set_system(name, value.as_deref()),
        Command::Dataset { bucket, prefix, change } => cx.dataset(bucket, prefix, change),
        Command::RestoreVersion { bucket, key, version, parts } => cx.restore_version(*bucket, key, version, parts),
        Command::Audit { events } => cx.append_events(events),
        Command::SealAudit(seal) => cx.seal_audit(seal),
        Command::ExpireAudit { bucket, key } => cx.expire_audit(*bucket, key),
        Command::Expire { bucket, key, version, created, rules, action } => {
            cx.expire(*bucket, key, (*version, *created), rules, action)
        }
        Command::Append { bucket, key, offset, base, part, inline, manifest, condition } => cx.append(append::Append {
            bucket: *bucket,
            key,
            offset: *offset,
            base: *base,
            part,
            inline: inline.as_deref(),
            manifest: *manifest,
            condition,
        }),
        Command::Rename { bucket, source, destination, source_condition, condition, token } => {
            cx.rename(rename::Rename {
                bucket: *bucket,
                source,
                destination,
                source_condition,
                condition,
                token: token.as_deref(),
            })
        }
        Command::AckEvents { target, through } => cx.ack_events(target, *through),
        Command::PutFetched { bucket, key, object, inline, nonce, source, replaces } => {
            cx.put_fetched(upstream::PutFetched {
                bucket: *bucket,
                key,
                object,
                inline: inline.as_deref(),
                nonce: *nonce,
                source,
                replaces: *replaces,
            })
        }
        Command::DropFetched { bucket, key, created } => cx.drop_fetched(*bucket, key, *created),
        Command::From { .. } => Err(Refusal::InvalidState("an origin within an origin").into()),
    };
    let done = done.and_then(|outcome| cx.settle_blocks().map(|()| outcome));
    let done = done.and_then(|outcome| cx.enqueue().map(|()| outcome));
    let outcome = match done {
        Ok(outcome) => outcome,
        Err(Stop::Refused(refusal)) => {
            batch.clear();
            Outcome::Refused(refusal)
        }
        Err(Stop::Failed(error)) => return Err(error),
    };
    if let Some(event) = &envelope.audit {
        audit::append(batch, envelope.at, &audit::outcome_of(&outcome), std::slice::from_ref(event));
    }
    Ok(outcome)
}

/// Applies `envelope` as the command at `position` and writes it.
///
/// # Errors
/// The index's; then nothing was written.
pub fn apply_one(index: &Index, position: u64, envelope: &Envelope) -> Result<Outcome> {
    let mut batch = Batch::new(index);
    let outcome = apply(envelope, index, &mut batch)?;
    batch.commit(position)?;
    Ok(outcome)
}

/// What every command's code works with.
pub(crate) struct Cx<'c, 'i> {
    /// The proposer's clock when it proposed.
    pub at: granary_types::Timestamp,
    /// The state.
    pub index: &'c Index,
    /// The changes.
    pub batch: &'c mut Batch<'i>,
    /// Whose request this is, where the proposer says.
    pub origin: Option<&'c crate::command::Origin>,
    /// Events that the command makes, enqueued with its changes.
    pub events: event::Pending,
    /// Shared blocks that the command touches, settled with its changes.
    pub blocks: blocks::Pending,
}
