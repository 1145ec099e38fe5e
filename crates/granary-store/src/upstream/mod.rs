//! Upstream buckets: a bucket that reads through to another S3 endpoint keeps what it fetched as objects of its own, and
//! may write its changes back.
//!
//! Guarantees: an object that was fetched is committed only when its length holds, and every checksum and MD5 that the upstream gave
//! for it; else nothing is stored and no client gets a body that looks whole. One fetch of a key runs at a time, whoever asks
//! for it. What an upstream says is checked before it is used. A listing is right or an error. No byte passes between a bucket and an
//! upstream that declares a region outside of the bucket's pins. Leaves the network to who implements [`Upstream`].
//! See `docs/adr/0015-upstream-buckets.md`.

mod fetch;
mod flights;
mod list;
mod read;
mod rule;
mod scope;
mod stats;
mod tee;
mod write_back;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use granary_meta::records::{BucketRecord, Sse, SystemHeaders};
use granary_types::{Checksum, Timestamp};
use zeroize::Zeroizing;

use crate::api::{BodyOut, Result};

pub(crate) use fetch::Memory;
pub(crate) use flights::Flights;
pub(crate) use list::shown;
pub(crate) use rule::Sources;
pub use rule::{UpstreamChange, UpstreamSecret, UpstreamShown};
pub use stats::{BucketStats, UpstreamStats};

/// Entries of one page of a listing, at most: S3's own limit.
pub const PAGE_KEYS_MAX: u32 = 1000;

/// How upstreams are used.
#[derive(Debug, Clone)]
pub struct UpstreamOptions {
    /// Fetches at once, of all buckets; further ones wait, then get `SlowDown`.
    pub fetches_max: usize,
    /// How long a request waits for an object that is being fetched; then it is told to come again, and the fetch goes on.
    pub wait: Duration,
    /// How long an upstream may say nothing within a body.
    pub stall: Duration,
    /// Objects of at least so many bytes are given to the client while they are fetched, all but their end.
    pub tee_bytes_min: u64,
    /// How long a client that takes nothing may hold up the fetch that it gets; then it goes on from what is stored.
    pub tee_patience: Duration,
    /// Pauses after a write-back that failed: the first, and the longest.
    pub retry: (Duration, Duration),
}

impl Default for UpstreamOptions {
    fn default() -> Self {
        Self {
            fetches_max: 64,
            wait: Duration::from_secs(50),
            stall: Duration::from_secs(30),
            tee_bytes_min: 1 << 20,
            tee_patience: Duration::from_secs(10),
            retry: (Duration::from_millis(250), Duration::from_secs(30)),
        }
    }
}

/// Where an upstream is, and how it is asked. `Debug` shows no secret.
#[derive(Clone)]
pub struct Site {
    /// Told apart from what was set before for the same bucket.
    pub id: u64,
    /// `https`, else plain.
    pub is_tls: bool,
    /// Host, without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// The bucket there.
    pub bucket: String,
    /// What keys there have before the key here.
    pub prefix: String,
    /// Region that requests are signed for.
    pub region: String,
    /// Name the bucket in the path, not in the host.
    pub path_style: bool,
    /// Access key; empty: requests are not signed.
    pub access_key: String,
    /// Its secret.
    pub secret: Zeroizing<String>,
    /// Certificates (PEM) to trust instead of the system's; empty: the system's.
    pub ca: Vec<u8>,
}

impl Site {
    /// `https://host:port/bucket/prefix`, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{scheme}://{host}:{}/{}/{}", self.port, self.bucket, self.prefix)
    }

    /// The key there.
    #[must_use]
    pub fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Site").field(&self.shown()).finish()
    }
}

/// What an upstream says of an object, before any of it is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteHead {
    /// Bytes.
    pub size_bytes: u64,
    /// Without quotes.
    pub etag: String,
    /// The ETag is one that could be the MD5 of the bytes (32 hex digits, and nothing says that it is not).
    pub etag_may_be_md5: bool,
    /// `Last-Modified`.
    pub modified: Timestamp,
    /// System headers.
    pub headers: SystemHeaders,
    /// `x-amz-meta-*`, names in lower case without the prefix.
    pub user_metadata: Vec<(String, String)>,
    /// A checksum of all bytes, where it gave one.
    pub checksum: Option<Checksum>,
}

/// Bytes from an upstream. May be fewer or more than announced: who takes them counts.
pub type RemoteBody = BoxStream<'static, std::result::Result<Bytes, UpstreamError>>;

/// An answer to [`Upstream::get`].
pub enum RemoteGet {
    /// The object.
    Object(Box<RemoteHead>, RemoteBody),
    /// It is what the caller has.
    NotModified,
    /// There is none.
    Absent,
}

/// A page asked of an upstream. Names are whole keys there.
#[derive(Debug, Clone)]
pub struct RemoteListRequest {
    /// Only keys that begin with this.
    pub prefix: String,
    /// Roll up what lies behind this.
    pub delimiter: Option<String>,
    /// Begin after this key.
    pub after: Option<String>,
    /// Entries at most.
    pub max_keys: u32,
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteEntry {
    /// Key there.
    pub key: String,
    /// Bytes.
    pub size_bytes: u64,
    /// Without quotes.
    pub etag: String,
    /// `Last-Modified`.
    pub modified: Timestamp,
    /// Storage class when not `STANDARD`.
    pub storage_class: Option<String>,
}

/// A page from an upstream. Its order and bounds are checked by who asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemotePage {
    /// Objects.
    pub objects: Vec<RemoteEntry>,
    /// Common prefixes.
    pub common_prefixes: Vec<String>,
    /// There is more behind the last of both.
    pub is_truncated: bool,
}

/// An object on its way to an upstream.
pub struct RemotePut {
    /// Bytes.
    pub size_bytes: u64,
    /// System headers.
    pub headers: SystemHeaders,
    /// `x-amz-meta-*`.
    pub user_metadata: Vec<(String, String)>,
    /// A checksum of all bytes.
    pub checksum: Option<Checksum>,
    /// The bytes.
    pub body: BodyOut,
}

/// Why an upstream did not do. No message names a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpstreamError {
    /// It cannot be reached, took too long, broke off, or says that it cannot now.
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    /// It answered with what is no answer to the request (a redirect, a refusal).
    #[error("refused: {0}")]
    Refused(String),
    /// It will not take this object, whenever it is sent.
    #[error("does not take this object: {0}")]
    Rejected(String),
    /// What it said does not hold together: a length, a checksum, an order.
    #[error("gave an answer that does not hold: {0}")]
    Lied(String),
}

/// Another S3 endpoint. Implementations keep time and memory bounded, follow no redirect, and say a secret to nobody; bodies
/// are passed on as they come.
pub trait Upstream: Send + Sync + 'static {
    /// What an object is; `None`: there is none.
    fn head<'a>(
        &'a self,
        site: &'a Site,
        key: &'a str,
    ) -> BoxFuture<'a, std::result::Result<Option<RemoteHead>, UpstreamError>>;
    /// An object, unless its ETag is `unless`.
    fn get<'a>(
        &'a self,
        site: &'a Site,
        key: &'a str,
        unless: Option<&'a str>,
    ) -> BoxFuture<'a, std::result::Result<RemoteGet, UpstreamError>>;
    /// A page of a listing.
    fn list<'a>(
        &'a self,
        site: &'a Site,
        request: &'a RemoteListRequest,
    ) -> BoxFuture<'a, std::result::Result<RemotePage, UpstreamError>>;
    /// Writes an object; when this is `Ok`, the upstream has all of it.
    fn put<'a>(
        &'a self,
        site: &'a Site,
        key: &'a str,
        put: RemotePut,
    ) -> BoxFuture<'a, std::result::Result<(), UpstreamError>>;
    /// Deletes an object; also `Ok` where there was none.
    fn delete<'a>(&'a self, site: &'a Site, key: &'a str) -> BoxFuture<'a, std::result::Result<(), UpstreamError>>;
}

/// What a bucket encrypts with where a request says nothing; known above.
pub type DefaultSse = fn(&BucketRecord) -> Result<Sse>;

/// What the store needs to use upstreams.
#[derive(Clone)]
pub(crate) struct Wire {
    pub(crate) client: Arc<dyn Upstream>,
    pub(crate) default_sse: DefaultSse,
}
