//! Batches: many objects, ranges or members in one answer, as a tar file in the order asked.
//!
//! Several items are read ahead at once, each up to a bound, so that memory is bounded whatever is asked; small entries
//! are gathered into frames of some 64 KiB, but a frame goes out as soon as nothing more is ready. What goes wrong before the
//! first byte is an error; what goes wrong later ends the stream with an error, without the blocks that end a
//! tar file, and the front door cuts the connection.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{BoxStream, StreamExt as _};
use granary_types::{BucketName, ErrorKind, ObjectKey, RangeSpec, Timestamp, VersionId};

use crate::ai::AiError;
use crate::ai::open_shards::OpenShards;
use crate::ai::shard::{MemberRead, Shards, member_etag};
use crate::ai::tar_out::{self, Entry};
use crate::api::{BodyOut, GetRequest, Portion, ReadCondition, Unlock};
use crate::error::StoreError;

/// Items in one batch, at most.
pub const ITEMS_MAX: usize = 10_000;
/// Items read ahead.
const AHEAD_ITEMS: usize = 16;
/// Bytes of one item that are read before its turn comes.
const AHEAD_ITEM_BYTES: u64 = 1 << 20;
/// Entries are gathered into frames of about this many bytes.
const FRAME_BYTES: usize = 64 << 10;
/// A frame of payload of at least this many bytes is passed on as it is.
const PASS_BYTES: usize = 32 << 10;

/// One thing wanted.
#[derive(Debug, Clone)]
pub struct Item {
    /// Key.
    pub key: ObjectKey,
    /// Version, or the current one.
    pub version: Option<VersionId>,
    /// A member of the object, which is a tar file.
    pub member: Option<String>,
    /// Bytes of the object or member; all when `None`.
    pub range: Option<RangeSpec>,
    /// Bytes `start..end` of the object, which may be none: for those who know where a member lies.
    pub place: Option<(u64, u64)>,
    /// Name of the entry in the answer.
    pub name: String,
    /// Why the caller may not have it, if so: marked like something that is not there.
    pub denied: bool,
}

/// What is done about items that are not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnMissing {
    /// An empty entry with a pax header that says why.
    #[default]
    Mark,
    /// The batch is refused, before its first byte.
    Fail,
    /// Nothing may be missing: the answer is cut off.
    Cut,
}

/// A batch.
#[derive(Debug, Clone)]
pub struct BatchRequest {
    /// The bucket of all items.
    pub bucket: BucketName,
    /// Items in the order of the answer.
    pub items: Vec<Item>,
    /// What is done about items that are not there.
    pub on_missing: OnMissing,
    /// Put a pax header with ETag, version and place before each entry.
    pub with_info: bool,
    /// Mark items that are not there like items that the caller may not have.
    pub hides_missing: bool,
}

/// Why an item is not there, as an S3 code, for errors that are about the item and not about the server.
#[must_use]
pub fn missing_code(error: &AiError) -> Option<&'static str> {
    match error {
        AiError::NoSuchMember(_) => Some("NoSuchMember"),
        AiError::Ambiguous { .. } => Some("AmbiguousMember"),
        AiError::Shard(_) | AiError::TooManyMembers { .. } => Some("InvalidShard"),
        AiError::Store(StoreError::NoSuchKey { .. } | StoreError::IsDeleteMarker { .. }) => Some("NoSuchKey"),
        AiError::Store(StoreError::NoSuchVersion) => Some("NoSuchVersion"),
        AiError::Store(StoreError::InvalidRange { .. }) => Some("InvalidRange"),
        AiError::Store(StoreError::Sse(_)) => Some("InvalidRequest"),
        AiError::Store(error) if error.kind() == ErrorKind::Denied => Some("AccessDenied"),
        AiError::Store(_)
        | AiError::Changed
        | AiError::Invalid(_)
        | AiError::NoCheckpoint { .. }
        | AiError::NoSuchBatch { .. } => None,
    }
}

/// An item that was found, with the first of its bytes.
struct Opened {
    header: Vec<u8>,
    size_bytes: u64,
    frames: Vec<Bytes>,
    rest: Option<BodyOut>,
}

/// What of a request each item needs to know.
#[derive(Clone, Copy)]
struct How {
    on_missing: OnMissing,
    with_info: bool,
    hides_missing: bool,
}

/// Opens the batch: resolves once the first item is there (or all are looked up, with [`OnMissing::Fail`]).
///
/// # Errors
/// The first item's, or any missing item's with [`OnMissing::Fail`].
pub async fn open(shards: &Shards, request: BatchRequest) -> std::result::Result<BodyOut, (usize, AiError)> {
    let BatchRequest { bucket, items, on_missing, with_info, hides_missing } = request;
    let how = How { on_missing, with_info, hides_missing };
    if on_missing == OnMissing::Fail {
        check_all(shards, &bucket, &items).await?;
    }
    let shards = Arc::new(OpenShards::new(shards.clone(), bucket));
    let opened: BoxStream<'static, std::result::Result<Opened, AiError>> = futures::stream::iter(items)
        .map(move |item| {
            let shards = Arc::clone(&shards);
            let opening: BoxFuture<'static, _> = async move { open_item(&shards, item, how).await }.boxed();
            opening
        })
        .buffered(AHEAD_ITEMS)
        .boxed();
    let mut writer = Writer { opened, current: None, out: Vec::with_capacity(FRAME_BYTES), ended: false };
    let first = writer.next_frame().await.map_err(|error| (0, error))?;
    let rest = futures::stream::try_unfold(writer, |mut writer| async move {
        let frame = writer.next_frame().await.map_err(as_store_error)?;
        Ok(frame.map(|frame| (frame, writer)))
    });
    Ok(futures::stream::iter(first.map(Ok)).chain(rest).boxed())
}

/// Looks every item up, so that one that is missing is told before the first byte.
#[allow(clippy::unnecessary_to_owned)] // A borrowed iterator is not `Send` for every lifetime.
async fn check_all(shards: &Shards, bucket: &BucketName, items: &[Item]) -> std::result::Result<(), (usize, AiError)> {
    let (shards, bucket) = (shards.clone(), bucket.clone());
    let mut found = futures::stream::iter(items.to_vec().into_iter().enumerate())
        .map(move |(i, item)| {
            let (shards, bucket) = (shards.clone(), bucket.clone());
            let looking: BoxFuture<'static, _> =
                async move { head(&shards, &bucket, &item).await.map_err(|error| (i, error)) }.boxed();
            looking
        })
        .buffered(AHEAD_ITEMS);
    while let Some(one) = found.next().await {
        one?;
    }
    Ok(())
}

async fn head(shards: &Shards, bucket: &BucketName, item: &Item) -> std::result::Result<(), AiError> {
    if let Some(member) = &item.member {
        let read = MemberRead { range: item.range, ..MemberRead::default() };
        shards.head(bucket, &item.key, item.version, member, &read).await.map(drop)
    } else {
        Ok(shards.store().head(get_request(bucket, item)).await.map(drop)?)
    }
}

fn get_request(bucket: &BucketName, item: &Item) -> GetRequest {
    GetRequest {
        bucket: bucket.clone(),
        key: item.key.clone(),
        version: item.version,
        portion: item.range.map_or(Portion::Whole, Portion::Range),
        condition: ReadCondition::default(),
        unlock: Unlock::Plain,
    }
}

/// What an entry's pax header can say of its source.
struct Facts {
    etag: String,
    version: Option<VersionId>,
    created: Timestamp,
    size_bytes: u64,
}

async fn open_item(shards: &OpenShards, item: Item, how: How) -> std::result::Result<Opened, AiError> {
    let got = if item.denied {
        return Ok(denied(&item.name));
    } else if let Some(member) = &item.member {
        shards.member(&item.key, item.version, member, item.range).await.map(|(object, member, range, body)| {
            let info = object.info();
            let etag = if how.with_info { member_etag(&info.object.etag, &member) } else { String::new() };
            (Facts { etag, version: info.version, created: info.created, size_bytes: range.len() }, body)
        })
    } else if let Some((start, end)) = item.place {
        shards.place(&item.key, item.version, start, end).await.map(|(object, body)| {
            let info = object.info();
            let etag = if how.with_info { info.object.etag.clone() } else { String::new() };
            (Facts { etag, version: info.version, created: info.created, size_bytes: end - start }, body)
        })
    } else {
        let got = shards.store().get(get_request(shards.bucket(), &item)).await;
        let facts = |info: crate::api::ObjectInfo| Facts {
            etag: info.object.etag,
            version: info.version,
            created: info.created,
            size_bytes: info.range.len(),
        };
        got.map(|(info, body)| (facts(info), body)).map_err(AiError::from)
    };
    let (facts, mut body) = match got {
        Ok(got) => got,
        Err(error) => match missing_code(&error) {
            Some("NoSuchKey" | "NoSuchVersion") if how.on_missing == OnMissing::Mark && how.hides_missing => {
                return Ok(denied(&item.name));
            }
            Some(code) if how.on_missing == OnMissing::Mark => {
                return Ok(marked(&item.name, code, &error.to_string()));
            }
            _ => return Err(error),
        },
    };
    let mut header = Vec::with_capacity(512);
    let version = facts.version.map(|version| version.to_string()).unwrap_or_default();
    let mut records = Vec::new();
    if how.with_info {
        records.push(("GRANARY.key", item.key.as_str()));
        records.push(("GRANARY.etag", facts.etag.as_str()));
        if !version.is_empty() {
            records.push(("GRANARY.version", version.as_str()));
        }
    }
    let size_bytes = facts.size_bytes;
    tar_out::header(&mut header, &Entry { name: &item.name, size_bytes, mtime: facts.created, records: &records });
    let (mut frames, mut ahead) = (Vec::new(), 0u64);
    let mut rest = None;
    loop {
        if ahead >= AHEAD_ITEM_BYTES.min(size_bytes) {
            if ahead < size_bytes {
                rest = Some(body);
            }
            break;
        }
        match body.next().await.transpose()? {
            Some(frame) => {
                ahead += frame.len() as u64;
                frames.push(frame);
            }
            None => break,
        }
    }
    Ok(Opened { header, size_bytes, frames, rest })
}

fn denied(name: &str) -> Opened {
    marked(name, "AccessDenied", "Access Denied")
}

/// An empty entry whose pax header says what is the matter.
fn marked(name: &str, code: &str, message: &str) -> Opened {
    let mut header = Vec::with_capacity(2048);
    let records = [("GRANARY.error", code), ("GRANARY.message", message)];
    tar_out::header(&mut header, &Entry { name, size_bytes: 0, mtime: Timestamp(0), records: &records });
    Opened { header, size_bytes: 0, frames: Vec::new(), rest: None }
}

/// The entry that is being sent.
struct Current {
    size_bytes: u64,
    left_bytes: u64,
    frames: std::vec::IntoIter<Bytes>,
    rest: Option<BodyOut>,
}

struct Writer {
    opened: BoxStream<'static, std::result::Result<Opened, AiError>>,
    current: Option<Current>,
    out: Vec<u8>,
    ended: bool,
}

impl Writer {
    fn flush(&mut self) -> Option<Bytes> {
        let next = Vec::with_capacity(FRAME_BYTES);
        let out = std::mem::replace(&mut self.out, next);
        (!out.is_empty()).then(|| Bytes::from(out))
    }

    async fn next_frame(&mut self) -> std::result::Result<Option<Bytes>, AiError> {
        loop {
            if self.out.len() >= FRAME_BYTES {
                return Ok(self.flush());
            }
            if self.current.is_some() {
                if let Some(frame) = self.go_on().await? {
                    return Ok(Some(frame));
                }
                continue;
            }
            if self.ended {
                return Ok(self.flush());
            }
            // With something to send, only what is ready is waited for.
            let next = if self.out.is_empty() {
                self.opened.next().await
            } else {
                match self.opened.next().now_or_never() {
                    Some(next) => next,
                    None => return Ok(self.flush()),
                }
            };
            match next.transpose()? {
                None => {
                    tar_out::end(&mut self.out);
                    self.ended = true;
                }
                Some(Opened { header, size_bytes, frames, rest }) => {
                    self.out.extend_from_slice(&header);
                    let frames = frames.into_iter();
                    self.current = Some(Current { size_bytes, left_bytes: size_bytes, frames, rest });
                }
            }
        }
    }

    /// Sends more of the current entry: a frame to pass on, or `None` if it was gathered.
    async fn go_on(&mut self) -> std::result::Result<Option<Bytes>, AiError> {
        let Some(current) = &mut self.current else { return Ok(None) };
        if current.left_bytes == 0 {
            tar_out::pad(&mut self.out, current.size_bytes);
            self.current = None;
            return Ok(None);
        }
        // What is gathered goes out before a frame that is passed on as it is.
        if current.left_bytes >= PASS_BYTES as u64 && !self.out.is_empty() {
            return Ok(self.flush());
        }
        let frame = match (current.frames.next(), &mut current.rest) {
            (Some(frame), _) => Some(frame),
            (None, Some(rest)) => rest.next().await.transpose()?,
            (None, None) => None,
        };
        let Some(frame) = frame else {
            return Err(
                StoreError::Internal(format!("{} bytes of a batch item are missing", current.left_bytes)).into()
            );
        };
        current.left_bytes = current
            .left_bytes
            .checked_sub(frame.len() as u64)
            .ok_or_else(|| StoreError::Internal("a batch item is longer than it said".to_owned()))?;
        if self.out.is_empty() && frame.len() >= PASS_BYTES {
            return Ok(Some(frame));
        }
        self.out.extend_from_slice(&frame);
        Ok(None)
    }
}

fn as_store_error(error: AiError) -> StoreError {
    match error {
        AiError::Store(error) => error,
        other => StoreError::Internal(other.to_string()),
    }
}
