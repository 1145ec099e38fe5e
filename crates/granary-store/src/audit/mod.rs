//! The audit trail: every command carries the event of its request, everything else is batched, and what has
//! gathered is sealed into segments.
//!
//! *How an event reaches the log.* Whoever serves a request runs it inside [`scoped`], with an [`AuditScope`] that can make the request's
//! event. `Inner::propose` asks the scope for the event of each command, and both go into one frame of the log: the event is durable
//! exactly when the change is, before anybody is told. What the node does by itself runs outside of any scope; its commands get an
//! event of a system actor, named after the part of the node ([`part`]) or `node`. So no command that changes anything goes
//! without. Requests that propose nothing (reads, refusals) are told to an [`AuditLog`] when they end; it writes them together, at
//! most [`AuditOptions::flush_interval`] later, and holds new requests back rather than lose one.

mod log;
mod reader;
mod seal;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use granary_audit::{Actor, Event, Source};
use granary_meta::Index;
use granary_meta::command::Command;
use granary_types::limits::AUDIT_KEEP_DAYS_MIN;
use granary_types::{BucketId, Clock as _, DriveId, SystemClock, Timestamp};

pub use log::{AuditLog, AuditRoom};
pub use reader::{AuditCursor, AuditPage};
pub(crate) use seal::{Trail, begin, end, expire, run, seal_all};

/// Settings of the trail.
#[derive(Debug, Clone)]
pub struct AuditOptions {
    /// How long an event of a request that changed nothing may wait to be written.
    pub flush_interval: Duration,
    /// How often events are sealed.
    pub seal_interval: Duration,
    /// Events that are sealed without waiting for that.
    pub seal_events: u64,
    /// Events that may wait to be sealed; past them requests are refused, writes first.
    pub unsealed_events_max: u64,
    /// Days that sealed segments are kept.
    pub keep_days: u64,
}

impl Default for AuditOptions {
    fn default() -> Self {
        Self {
            flush_interval: Duration::from_millis(500),
            seal_interval: Duration::from_secs(300),
            seal_events: 10_000,
            unsealed_events_max: 1_000_000,
            keep_days: AUDIT_KEEP_DAYS_MIN,
        }
    }
}

/// Makes the events of one request.
pub trait AuditScope: Send + Sync {
    /// The event of a command that is about to be proposed, encoded; about `subject`, where the request is about several.
    fn event(&self, subject: Option<&Subject<'_>>) -> Bytes;

    /// An event that this scope made is in the log. `is_done`: its command was carried out, not refused.
    fn written(&self, is_done: bool);

    /// Something that the request asked for beside others was refused without a command.
    fn refused<'a>(&'a self, subject: Subject<'a>, code: &'a str) -> BoxFuture<'a, ()>;
}

/// One of several things that a request is about.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Operation on it.
    pub name: &'a str,
    /// Key.
    pub key: &'a str,
    /// Version, or nothing.
    pub version: &'a str,
}

/// A scope about one key of a request's many.
struct Keyed {
    request: Arc<dyn AuditScope>,
    name: &'static str,
    key: String,
    version: String,
    is_written: AtomicBool,
}

impl Keyed {
    fn subject(&self) -> Subject<'_> {
        Subject { name: self.name, key: &self.key, version: &self.version }
    }
}

impl AuditScope for Keyed {
    fn event(&self, _: Option<&Subject<'_>>) -> Bytes {
        self.request.event(Some(&self.subject()))
    }

    fn written(&self, _: bool) {
        self.is_written.store(true, Ordering::Relaxed);
    }

    fn refused<'a>(&'a self, subject: Subject<'a>, code: &'a str) -> BoxFuture<'a, ()> {
        self.request.refused(subject, code)
    }
}

/// Runs the part of a request that is about one key of many: it gets an event of its own, also if it comes to no
/// command. `code`: the error's code, of a failure.
pub async fn keyed<T, E>(
    name: &'static str,
    key: &str,
    version: &str,
    work: impl Future<Output = std::result::Result<T, E>>,
    code: impl Fn(&E) -> String,
) -> std::result::Result<T, E> {
    let Some(request) = current() else { return work.await };
    let (key, version) = (key.to_owned(), version.to_owned());
    let scope = Arc::new(Keyed { request, name, key, version, is_written: AtomicBool::new(false) });
    let result = scoped(Arc::clone(&scope) as Arc<dyn AuditScope>, work).await;
    if let Err(error) = &result
        && !scope.is_written.load(Ordering::Relaxed)
    {
        scope.request.refused(scope.subject(), &code(error)).await;
    }
    result
}

tokio::task_local! {
    static SCOPE: Arc<dyn AuditScope>;
    static PART: &'static str;
}

/// Runs a request: commands proposed by `work` carry events of `scope`.
pub async fn scoped<F: Future>(scope: Arc<dyn AuditScope>, work: F) -> F::Output {
    SCOPE.scope(scope, work).await
}

/// Runs work of the node itself, outside of any request: its commands carry events of this part.
pub async fn part<F: Future>(name: &'static str, work: F) -> F::Output {
    PART.scope(name, work).await
}

/// The scope that this runs in, if any.
#[must_use]
pub fn current() -> Option<Arc<dyn AuditScope>> {
    SCOPE.try_with(Arc::clone).ok()
}

/// The event for a command: the request's, else the node's own. `None` for the trail's own commands and for
/// notes that the node keeps for itself.
pub(crate) fn event_of(
    scope: Option<&Arc<dyn AuditScope>>,
    command: &Command,
    index: &Index,
    region: &str,
    now: Timestamp,
) -> Option<Bytes> {
    if matches!(command, Command::Noop | Command::Audit { .. } | Command::SealAudit(_)) {
        return None;
    }
    match scope {
        Some(scope) => Some(scope.event(None)),
        None => own_event(command, index, region, now).map(|event| event.encode().into()),
    }
}

/// An event of the node itself.
pub(crate) fn node_event(name: &str, region: &str, now: Timestamp) -> Event {
    let part = PART.try_with(|part| *part).unwrap_or("node");
    Event {
        id: rand::random(),
        at: now,
        source: Source::System,
        name: name.to_owned(),
        actor: Actor::system(part),
        region: region.to_owned(),
        ..Event::default()
    }
}

fn own_event(command: &Command, index: &Index, region: &str, now: Timestamp) -> Option<Event> {
    let named = |name: &str| node_event(name, region, now);
    let of = |name: &str, bucket: &BucketId, key: &str| Event {
        bucket: index.bucket_by_id(*bucket).map(|b| b.name.as_str().to_owned()).unwrap_or_default(),
        key: key.to_owned(),
        ..named(name)
    };
    let with = |event: Event, more: &[(&str, String)]| Event {
        parameters: more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect(),
        ..event
    };
    Some(match command {
        Command::CreateBucket(record) => Event { bucket: record.name.as_str().to_owned(), ..named("CreateBucket") },
        Command::DeleteBucket { name } => Event { bucket: name.as_str().to_owned(), ..named("DeleteBucket") },
        Command::ChangeBucket { name, .. } => Event { bucket: name.as_str().to_owned(), ..named("ChangeBucket") },
        Command::PutVersion { bucket, key, .. } => of("PutObject", bucket, key.as_str()),
        Command::DeleteObject { bucket, key, .. } => of("DeleteObject", bucket, key.as_str()),
        Command::DeleteVersion { bucket, key, version, .. } => {
            Event { version: version.to_string(), ..of("DeleteObject", bucket, key.as_str()) }
        }
        Command::ChangeVersion { bucket, key, .. } => of("ChangeObject", bucket, key.as_str()),
        Command::CreateUpload { bucket, upload } => of("CreateMultipartUpload", bucket, upload.key.as_str()),
        Command::PutPart { bucket, key, .. } => of("UploadPart", bucket, key.as_str()),
        Command::CompleteUpload { bucket, key, .. } => of("CompleteMultipartUpload", bucket, key.as_str()),
        Command::AbortUpload { bucket, key, .. } => of("AbortMultipartUpload", bucket, key.as_str()),
        Command::RestoreVersion { bucket, key, .. } => of("RestoreVersion", bucket, key.as_str()),
        Command::Expire { bucket, key, version, .. } => {
            Event { version: version.to_string(), ..of("ExpireObject", bucket, key.as_str()) }
        }
        Command::Append { bucket, key, .. } => of("PutObject", bucket, key.as_str()),
        Command::Rename { bucket, source, destination, .. } => {
            with(of("RenameObject", bucket, destination.as_str()), &[("source", source.as_str().to_owned())])
        }
        Command::From { command, .. } => return own_event(command, index, region, now),
        Command::PutFetched { bucket, key, .. } => of("FetchObject", bucket, key.as_str()),
        Command::DropFetched { bucket, key, .. } => of("DropFetchedObject", bucket, key.as_str()),
        // That an event was delivered is no change of data.
        Command::AckEvents { .. } => return None,
        Command::ExpireAudit { bucket, key } => of("ExpireAuditSegment", bucket, key.as_str()),
        Command::ForgetGarbage { parts } => {
            let list: Vec<String> = parts.iter().map(ToString::to_string).collect();
            with(named("FreeGarbage"), &[("parts", list.join(" "))])
        }
        Command::RetireBlocks { blocks } => {
            let list: Vec<String> = blocks.iter().map(|(block, _)| block.to_string()).collect();
            with(named("RetireBlocks"), &[("blocks", list.join(" "))])
        }
        Command::MovePart { part, from, to } => with(
            named("MovePart"),
            &[("part", part.to_string()), ("from", drives(&from.drives)), ("to", drives(&to.drives))],
        ),
        Command::RegisterDrive { drive } => with(named("RegisterDrive"), &[("drive", drive.to_string())]),
        Command::RetireDrive { drive } => with(named("RetireDrive"), &[("drive", drive.to_string())]),
        // The node's notes to itself (repair cursors, folders of drives) are no acts; what somebody sets comes in a scope.
        Command::SetSystem { name, .. } if !name.starts_with("audit/") => return None,
        Command::SetSystem { name, value } => {
            let value = value.as_deref().map(|value| String::from_utf8_lossy(value).into_owned()).unwrap_or_default();
            with(named("SetAudit"), &[("name", name.clone()), ("value", value)])
        }
        Command::Noop | Command::Audit { .. } | Command::SealAudit(_) => return None,
        #[allow(unreachable_patterns)] // Commands yet to come are not left out of the trail.
        _ => named("ChangeMetadata"),
    })
}

/// The event of a drive that is registered or retired while the node is opened or changed.
pub(crate) fn drive_event(name: &str, drive: DriveId) -> Bytes {
    if let Some(scope) = current() {
        return scope.event(None);
    }
    let mut event = node_event(name, "", SystemClock.now());
    event.parameters.push(("drive".to_owned(), drive.to_string()));
    event.encode().into()
}

fn drives(drives: &[granary_types::DriveNo]) -> String {
    drives.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
