//! An S3 endpoint in memory, as buckets read through to it: faithful, or lying in one way.

#![allow(dead_code, clippy::missing_panics_doc)]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use granary_meta::records::SystemHeaders;
use granary_store::upstream::{
    RemoteEntry, RemoteGet, RemoteHead, RemoteListRequest, RemotePage, RemotePut, Site, Upstream, UpstreamError,
};
use granary_types::{ChecksumAlgorithm, ChecksumHasher, Timestamp, hex, md5::Md5};
use parking_lot::Mutex;
use tokio::sync::Semaphore;

/// A way to be wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    #[default]
    None,
    /// Fewer bytes than announced.
    Short,
    /// More bytes than announced.
    Long,
    /// One byte is another.
    Flipped,
    /// The ETag is another object's MD5.
    WrongEtag,
    /// The checksum is another object's.
    WrongChecksum,
    /// The body stops and nothing more comes.
    Stall,
    /// The connection breaks off within the body.
    Break,
    /// 500.
    Down,
    /// 301.
    Redirect,
    /// 403.
    Denied,
    /// An ETag that cannot be kept.
    EtagOfNothing,
    /// Listings out of order.
    Disorder,
    /// Listings that say "more" and show nothing.
    MoreOfNothing,
    /// PUT answers 400.
    Rejects,
}

#[derive(Clone)]
pub struct Stored {
    pub bytes: Bytes,
    pub modified: Timestamp,
    pub content_type: Option<String>,
    pub user_metadata: Vec<(String, String)>,
    /// Not the MD5, as of objects that were uploaded in parts.
    pub etag: Option<String>,
    pub checksum: Option<ChecksumAlgorithm>,
}

pub struct MemoryUpstream {
    pub objects: Mutex<BTreeMap<String, Stored>>,
    pub fault: Mutex<Fault>,
    pub gets: AtomicU64,
    pub heads: AtomicU64,
    pub lists: AtomicU64,
    pub puts: AtomicU64,
    /// Each frame of a body takes one; there are plenty, unless a test takes them away.
    pub frames: Semaphore,
    /// Frames that bodies come in, bytes each.
    pub frame_bytes: usize,
    /// Entries of one page, at most, whatever is asked for.
    pub page_max: Mutex<u32>,
}

impl Default for MemoryUpstream {
    fn default() -> Self {
        Self {
            objects: Mutex::default(),
            fault: Mutex::default(),
            gets: AtomicU64::new(0),
            heads: AtomicU64::new(0),
            lists: AtomicU64::new(0),
            puts: AtomicU64::new(0),
            frames: Semaphore::new(1 << 20),
            frame_bytes: 64 * 1024,
            page_max: Mutex::new(1000),
        }
    }
}

pub fn md5(bytes: &[u8]) -> String {
    let mut md5 = Md5::new();
    md5.update(bytes);
    hex::encode(md5.finish())
}

impl MemoryUpstream {
    pub fn put(&self, key: &str, bytes: &[u8]) {
        let stored = Stored {
            bytes: Bytes::copy_from_slice(bytes),
            modified: Timestamp::from_secs(1_700_000_000 + self.objects.lock().len() as u64),
            content_type: Some("text/x-test".to_owned()),
            user_metadata: vec![("colour".to_owned(), "blue".to_owned())],
            etag: None,
            checksum: None,
        };
        self.objects.lock().insert(key.to_owned(), stored);
    }

    pub fn change(&self, key: &str, change: impl FnOnce(&mut Stored)) {
        change(self.objects.lock().get_mut(key).expect("the key is there"));
    }

    pub fn bytes(&self, key: &str) -> Option<Bytes> {
        self.objects.lock().get(key).map(|stored| stored.bytes.clone())
    }

    pub fn set_fault(&self, fault: Fault) {
        *self.fault.lock() = fault;
    }

    fn fault(&self) -> Fault {
        *self.fault.lock()
    }

    fn refuse(&self) -> Result<(), UpstreamError> {
        match self.fault() {
            Fault::Down => Err(UpstreamError::Unreachable("it answered 500".to_owned())),
            Fault::Redirect => Err(UpstreamError::Refused("it answered 301".to_owned())),
            Fault::Denied => Err(UpstreamError::Refused("it answered 403 AccessDenied".to_owned())),
            _ => Ok(()),
        }
    }

    fn find(&self, key: &str) -> Option<(RemoteHead, Bytes)> {
        let stored = self.objects.lock().get(key).cloned()?;
        let fault = self.fault();
        let of: &[u8] = if fault == Fault::WrongEtag { b"something else" } else { &stored.bytes };
        let etag = match fault {
            Fault::EtagOfNothing => "a \" b".to_owned(),
            _ => stored.etag.clone().unwrap_or_else(|| md5(of)),
        };
        let checksum = stored.checksum.map(|algorithm| {
            let mut hasher = ChecksumHasher::new(algorithm);
            hasher.update(if fault == Fault::WrongChecksum { b"something else" } else { &stored.bytes });
            hasher.finish()
        });
        let head = RemoteHead {
            size_bytes: stored.bytes.len() as u64,
            etag_may_be_md5: etag.len() == 32 && hex::decode(&etag).is_some(),
            etag,
            modified: stored.modified,
            headers: SystemHeaders { content_type: stored.content_type, ..SystemHeaders::default() },
            user_metadata: stored.user_metadata,
            checksum,
        };
        Some((head, stored.bytes))
    }
}

/// A handle, so that both the store and the test have it.
pub struct Shared(pub std::sync::Arc<MemoryUpstream>);

impl Upstream for Shared {
    fn head<'a>(&'a self, _: &'a Site, key: &'a str) -> BoxFuture<'a, Result<Option<RemoteHead>, UpstreamError>> {
        async move {
            self.0.heads.fetch_add(1, Ordering::Relaxed);
            self.0.refuse()?;
            Ok(self.0.find(key).map(|(head, _)| head))
        }
        .boxed()
    }

    fn get<'a>(
        &'a self,
        _: &'a Site,
        key: &'a str,
        unless: Option<&'a str>,
    ) -> BoxFuture<'a, Result<RemoteGet, UpstreamError>> {
        async move {
            self.0.gets.fetch_add(1, Ordering::Relaxed);
            self.0.refuse()?;
            let Some((head, bytes)) = self.0.find(key) else { return Ok(RemoteGet::Absent) };
            if unless == Some(head.etag.as_str()) {
                return Ok(RemoteGet::NotModified);
            }
            let mut sent = bytes.to_vec();
            match self.0.fault() {
                Fault::Short => sent.truncate(sent.len().saturating_sub(1)),
                Fault::Long => sent.push(b'x'),
                Fault::Flipped => {
                    let middle = sent.len() / 2;
                    sent[middle] ^= 1;
                }
                _ => {}
            }
            let fault = self.0.fault();
            let frames: Vec<Bytes> = sent.chunks(self.0.frame_bytes).map(Bytes::copy_from_slice).collect();
            let half = frames.len() / 2;
            let twin = std::sync::Arc::clone(&self.0);
            let body = stream::iter(frames.into_iter().enumerate()).then(move |(i, frame)| {
                let twin = std::sync::Arc::clone(&twin);
                async move {
                    if fault == Fault::Stall && i >= half {
                        std::future::pending::<()>().await;
                    }
                    if fault == Fault::Break && i >= half {
                        return Err(UpstreamError::Unreachable("the connection broke off".to_owned()));
                    }
                    twin.frames.acquire().await.expect("never closed").forget();
                    Ok(frame)
                }
            });
            Ok(RemoteGet::Object(Box::new(head), body.boxed()))
        }
        .boxed()
    }

    fn list<'a>(
        &'a self,
        _: &'a Site,
        request: &'a RemoteListRequest,
    ) -> BoxFuture<'a, Result<RemotePage, UpstreamError>> {
        async move {
            self.0.lists.fetch_add(1, Ordering::Relaxed);
            self.0.refuse()?;
            if self.0.fault() == Fault::MoreOfNothing {
                return Ok(RemotePage { is_truncated: true, ..RemotePage::default() });
            }
            let max = request.max_keys.min(*self.0.page_max.lock()) as usize;
            let mut page = RemotePage::default();
            let objects = self.0.objects.lock();
            for (key, stored) in objects.iter() {
                if !key.starts_with(&request.prefix) || request.after.as_ref().is_some_and(|after| key <= after) {
                    continue;
                }
                let rolled = request.delimiter.as_ref().and_then(|delimiter| {
                    let at = key[request.prefix.len()..].find(delimiter.as_str())?;
                    Some(key[..request.prefix.len() + at + delimiter.len()].to_owned())
                });
                if rolled.is_some() && page.common_prefixes.last() == rolled.as_ref() {
                    continue;
                }
                if page.objects.len() + page.common_prefixes.len() >= max {
                    page.is_truncated = true;
                    break;
                }
                match rolled {
                    Some(prefix) => page.common_prefixes.push(prefix),
                    None => page.objects.push(RemoteEntry {
                        key: key.clone(),
                        size_bytes: stored.bytes.len() as u64,
                        etag: stored.etag.clone().unwrap_or_else(|| md5(&stored.bytes)),
                        modified: stored.modified,
                        storage_class: None,
                    }),
                }
            }
            if self.0.fault() == Fault::Disorder {
                page.objects.reverse();
            }
            Ok(page)
        }
        .boxed()
    }

    fn put<'a>(&'a self, _: &'a Site, key: &'a str, put: RemotePut) -> BoxFuture<'a, Result<(), UpstreamError>> {
        async move {
            self.0.puts.fetch_add(1, Ordering::Relaxed);
            self.0.refuse()?;
            if self.0.fault() == Fault::Rejects {
                return Err(UpstreamError::Rejected("it answered 400".to_owned()));
            }
            let bytes = put.body.try_fold(Vec::new(), |mut all, frame| async move {
                all.extend_from_slice(&frame);
                Ok(all)
            });
            let bytes = bytes.await.map_err(|error| UpstreamError::Unreachable(error.to_string()))?;
            assert_eq!(bytes.len() as u64, put.size_bytes, "what is announced is what is sent");
            self.0.put(key, &bytes);
            self.0.change(key, |stored| stored.user_metadata = put.user_metadata);
            Ok(())
        }
        .boxed()
    }

    fn delete<'a>(&'a self, _: &'a Site, key: &'a str) -> BoxFuture<'a, Result<(), UpstreamError>> {
        async move {
            self.0.refuse()?;
            self.0.objects.lock().remove(key);
            Ok(())
        }
        .boxed()
    }
}
