//! Shards: tar files whose members are read one by one.
//!
//! The first use of a version reads its headers (hopping over large members) and keeps the index in memory;
//! a member then costs what a range read costs. A member's ETag is made from the object's and the member's place, so
//! that it changes whenever the bytes may have.

use std::sync::Arc;

use futures::StreamExt as _;
use granary_types::{
    BucketName, ByteRange, Checksum, ChecksumAlgorithm, ChecksumHasher, ObjectKey, RangeSpec, VersionId,
};
use tokio::sync::Semaphore;

use crate::ai::AiError;
use crate::ai::shard_cache::{Known, ShardCache, ShardKey};
use crate::ai::source::{Found, Source};
use crate::ai::tar::{Member, NAME_BYTES_MAX, Parser, Want, plain_name, sample_key};
use crate::api::{BodyOut, ObjectInfo, ObjectStore, ReadCondition};
use crate::condition::check_read;
use crate::error::StoreError;

/// Indexes built at the same time, at most.
const BUILDS_MAX: usize = 4;
/// Tries at reading an object that is being overwritten.
pub(super) const TRIES_MAX: usize = 3;

struct Entry {
    offset: u64,
    size_bytes: u64,
    name_start: u32,
    name_bytes: u16,
}

/// The members of one tar file: at most 32 bytes and the name for each.
pub struct ShardIndex {
    names: Box<str>,
    /// In the file's order.
    entries: Box<[Entry]>,
    /// Positions in `entries`, by name and then by place.
    by_name: Box<[u32]>,
    /// Positions at which WebDataset samples begin: runs of members that agree up to the first dot.
    samples: Box<[u32]>,
}

impl std::fmt::Debug for ShardIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ShardIndex({} members)", self.entries.len())
    }
}

const BYTES_PER_ENTRY: u64 = (std::mem::size_of::<Entry>() + 2 * std::mem::size_of::<u32>()) as u64;
const _: () = assert!(NAME_BYTES_MAX <= u16::MAX as usize);

/// An index being built.
struct Builder {
    names: String,
    entries: Vec<Entry>,
    bytes_max: u64,
}

impl Builder {
    /// `false`: it would be too large.
    fn add(&mut self, member: &Member) -> bool {
        let bytes = (self.entries.len() as u64 + 1) * BYTES_PER_ENTRY + (self.names.len() + member.name.len()) as u64;
        let (Ok(name_start), Ok(name_bytes)) = (u32::try_from(self.names.len()), u16::try_from(member.name.len()))
        else {
            return false;
        };
        if bytes > self.bytes_max || u32::try_from(self.entries.len()).is_err() {
            return false;
        }
        self.names.push_str(&member.name);
        self.entries.push(Entry { offset: member.offset, size_bytes: member.size_bytes, name_start, name_bytes });
        true
    }

    fn finish(self) -> ShardIndex {
        let mut index = ShardIndex {
            names: self.names.into_boxed_str(),
            by_name: (0..u32::try_from(self.entries.len()).unwrap_or(u32::MAX)).collect(),
            entries: self.entries.into_boxed_slice(),
            samples: Box::default(),
        };
        let key = |i: usize| sample_key(index.name(&index.entries[i])).0;
        let starts = (0..index.entries.len()).filter(|i| *i == 0 || key(*i) != key(*i - 1));
        index.samples = starts.filter_map(|i| u32::try_from(i).ok()).collect();
        let mut by_name = std::mem::take(&mut index.by_name);
        by_name.sort_unstable_by_key(|i| (index.name(&index.entries[*i as usize]), *i));
        index.by_name = by_name;
        index
    }
}

impl ShardIndex {
    fn name(&self, entry: &Entry) -> &str {
        let start = entry.name_start as usize;
        &self.names[start..start + usize::from(entry.name_bytes)]
    }

    /// Number of members.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of memory it takes.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        self.entries.len() as u64 * BYTES_PER_ENTRY + self.names.len() as u64
    }

    /// Number of WebDataset samples.
    #[must_use]
    pub fn samples(&self) -> usize {
        self.samples.len()
    }

    /// The members of a sample.
    pub fn sample(&self, number: usize) -> impl Iterator<Item = Member> {
        let start = self.samples.get(number).map_or(self.entries.len(), |i| *i as usize);
        let end = self.samples.get(number + 1).map_or(self.entries.len(), |i| *i as usize);
        self.entries[start..end].iter().map(|entry| self.owned(entry))
    }

    /// The member at `position` in the file's order.
    #[must_use]
    pub fn member(&self, position: usize) -> Option<Member> {
        self.entries.get(position).map(|entry| self.owned(entry))
    }

    fn owned(&self, entry: &Entry) -> Member {
        Member { name: self.name(entry).to_owned(), offset: entry.offset, size_bytes: entry.size_bytes }
    }

    /// The one member of that name.
    ///
    /// # Errors
    /// [`AiError::NoSuchMember`], [`AiError::Ambiguous`].
    pub fn find(&self, name: &str) -> Result<Member, AiError> {
        let name = plain_name(name);
        let at = |i: &u32| self.name(&self.entries[*i as usize]);
        let first = self.by_name.partition_point(|i| at(i) < name);
        let count = self.by_name[first..].iter().take_while(|i| at(i) == name).count();
        match count {
            0 => Err(AiError::NoSuchMember(name.to_owned())),
            1 => Ok(self.owned(&self.entries[self.by_name[first] as usize])),
            count => Err(AiError::Ambiguous { name: name.to_owned(), count }),
        }
    }

    /// Members whose headers begin at or after byte `from`, in the file's order.
    pub fn from(&self, from: u64) -> impl Iterator<Item = Member> {
        // A member's bytes begin behind its header.
        let first = self.entries.partition_point(|entry| entry.offset <= from);
        self.entries[first..].iter().map(|entry| self.owned(entry))
    }
}

/// What is wanted of a member.
#[derive(Debug, Clone, Default)]
pub struct MemberRead {
    /// Bytes of the member; all when `None`.
    pub range: Option<RangeSpec>,
    /// Preconditions, against the member's ETag and the object's time.
    pub condition: ReadCondition,
    /// Also the checksum of the whole member, by this algorithm: costs a read of it.
    pub checksum: Option<ChecksumAlgorithm>,
}

/// What a member read tells.
#[derive(Debug, Clone)]
pub struct MemberInfo {
    /// The tar file.
    pub shard: ObjectInfo,
    /// The member.
    pub member: Member,
    /// Its ETag, without quotes.
    pub etag: String,
    /// The bytes of the member that are served.
    pub range: ByteRange,
    /// Whether only a range was asked for.
    pub partial: bool,
    /// The whole member's checksum, if asked for.
    pub checksum: Option<Checksum>,
}

/// A page of members.
#[derive(Debug, Clone)]
pub struct MemberPage {
    /// The tar file.
    pub shard: ObjectInfo,
    /// Members in the file's order.
    pub members: Vec<Member>,
    /// How many members the file has, where an index says so.
    pub total: Option<usize>,
    /// Where the next page begins, if there is one.
    pub next: Option<u64>,
}

/// Reads members.
#[derive(Clone)]
pub struct Shards {
    store: Arc<dyn ObjectStore>,
    cache: Arc<ShardCache>,
    builds: Arc<Semaphore>,
}

impl Shards {
    /// Over `store`, with `cache_bytes` for indexes.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, cache_bytes: u64) -> Self {
        Self { store, cache: Arc::new(ShardCache::new(cache_bytes)), builds: Arc::new(Semaphore::new(BUILDS_MAX)) }
    }

    /// The store below.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// The indexes held: how many, and their bytes.
    #[must_use]
    pub fn usage(&self) -> (usize, u64) {
        self.cache.usage()
    }

    /// The index of a version.
    ///
    /// # Errors
    /// [`AiError::Shard`], [`AiError::TooManyMembers`], the store's.
    pub async fn index(&self, found: &Found) -> Result<Arc<ShardIndex>, AiError> {
        let key = ShardKey {
            bucket: self.store.bucket(&found.bucket)?.id,
            key: found.key.as_str().to_owned(),
            version: found.info.version,
            created: found.info.created,
            etag: found.info.object.etag.clone(),
        };
        if let Some(known) = self.cache.get(&key) {
            return self.known(known);
        }
        let turn = self.cache.turn(&key);
        let _turn = turn.lock().await;
        if let Some(known) = self.cache.get(&key) {
            return self.known(known);
        }
        let _build = self.builds.acquire().await.map_err(|_| StoreError::Unavailable("shutting down".to_owned()))?;
        let known = match self.build(found).await {
            Ok(Some(index)) => Known::Index(Arc::new(index)),
            Ok(None) => Known::TooLarge,
            Err(AiError::Shard(error)) => Known::Bad(error),
            Err(error) => return Err(error),
        };
        self.cache.put(key, known.clone());
        self.known(known)
    }

    fn known(&self, known: Known) -> Result<Arc<ShardIndex>, AiError> {
        match known {
            Known::Index(index) => Ok(index),
            Known::Bad(error) => Err(error.into()),
            Known::TooLarge => Err(AiError::TooManyMembers { index_bytes_max: self.cache.index_bytes_max() }),
        }
    }

    /// `None`: the index would be too large.
    async fn build(&self, found: &Found) -> Result<Option<ShardIndex>, AiError> {
        let mut builder =
            Builder { names: String::new(), entries: Vec::new(), bytes_max: self.cache.index_bytes_max() };
        let mut is_too_large = false;
        self.walk(found, 0, |member| {
            is_too_large = !builder.add(&member);
            !is_too_large
        })
        .await?;
        Ok((!is_too_large).then(|| builder.finish()))
    }

    /// Calls `each` with the members from the header at `from` on, until it says `false` or the archive ends.
    async fn walk(&self, found: &Found, from: u64, mut each: impl FnMut(Member) -> bool) -> Result<(), AiError> {
        let size_bytes = found.info.object.size_bytes;
        let mut source = Source::new(Arc::clone(&self.store), found.clone());
        let mut parser = Parser::new(size_bytes, from);
        while let Want::Bytes { at, len } = parser.want()? {
            let bytes = source.bytes(at, len).await?;
            if let Some(member) = parser.feed(&bytes)?
                && !each(member)
            {
                break;
            }
        }
        Ok(())
    }

    /// A page of at most `limit` members, beginning at byte `from` of the file (0, or a page's `next`).
    ///
    /// # Errors
    /// [`AiError::Shard`], the store's.
    pub async fn list(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
        from: u64,
        limit: usize,
    ) -> Result<MemberPage, AiError> {
        let found = Found::look_up(&*self.store, bucket, key, version).await?;
        match self.index(&found).await {
            Ok(index) => {
                let mut members: Vec<Member> = index.from(from).take(limit + 1).collect();
                let next = cut(&mut members, limit);
                Ok(MemberPage { shard: found.info, members, total: Some(index.len()), next })
            }
            Err(AiError::TooManyMembers { .. }) => {
                if !from.is_multiple_of(crate::ai::tar::BLOCK_BYTES) || from > found.info.object.size_bytes {
                    return Err(AiError::Invalid("the page token is not one of this shard".to_owned()));
                }
                let mut members = Vec::new();
                self.walk(&found, from, |member| {
                    members.push(member);
                    members.len() <= limit
                })
                .await?;
                let next = cut(&mut members, limit);
                Ok(MemberPage { shard: found.info, members, total: None, next })
            }
            Err(error) => Err(error),
        }
    }

    /// Looks a member up without reading it.
    ///
    /// # Errors
    /// [`AiError`].
    pub async fn head(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
        name: &str,
        read: &MemberRead,
    ) -> Result<MemberInfo, AiError> {
        let found = Found::look_up(&*self.store, bucket, key, version).await?;
        self.info(&found, name, read).await
    }

    /// Reads a member.
    ///
    /// # Errors
    /// [`AiError`].
    pub async fn get(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
        name: &str,
        read: &MemberRead,
    ) -> Result<(MemberInfo, BodyOut), AiError> {
        let mut tries = 0;
        loop {
            let found = Found::look_up(&*self.store, bucket, key, version).await?;
            tries += 1;
            match self.get_found(&found, name, read).await {
                Err(AiError::Changed) if tries < TRIES_MAX => {}
                done => return done,
            }
        }
    }

    async fn get_found(&self, found: &Found, name: &str, read: &MemberRead) -> Result<(MemberInfo, BodyOut), AiError> {
        let info = self.info(found, name, read).await?;
        let (start, end) = (info.member.offset + info.range.start, info.member.offset + info.range.end);
        let body = found.read(&*self.store, start, end).await?;
        Ok((info, body))
    }

    async fn info(&self, found: &Found, name: &str, read: &MemberRead) -> Result<MemberInfo, AiError> {
        let index = self.index(found).await?;
        let member = index.find(name)?;
        let etag = member_etag(&found.info.object.etag, &member);
        check_read(&read.condition, &etag, found.info.created, found.info.version)?;
        let whole = ByteRange::whole(member.size_bytes);
        let range = match read.range {
            None => whole,
            Some(spec) => {
                spec.resolve(member.size_bytes).ok_or(StoreError::InvalidRange { size_bytes: member.size_bytes })?
            }
        };
        let checksum = match read.checksum {
            None => None,
            Some(algorithm) => {
                let mut hasher = ChecksumHasher::new(algorithm);
                let mut body = found.read(&*self.store, member.offset, member.offset + member.size_bytes).await?;
                while let Some(frame) = body.next().await.transpose()? {
                    hasher.update(&frame);
                }
                Some(hasher.finish())
            }
        };
        Ok(MemberInfo { shard: found.info.clone(), member, etag, range, partial: read.range.is_some(), checksum })
    }
}

/// Cuts a page of one too many; where the next one begins.
fn cut(members: &mut Vec<Member>, limit: usize) -> Option<u64> {
    if members.len() <= limit {
        return None;
    }
    members.truncate(limit);
    members.last().map(Member::next_header)
}

/// A member's ETag: the object's, and where in it the member lies.
#[must_use]
pub fn member_etag(object: &str, member: &Member) -> String {
    format!("{object}.{:x}.{:x}", member.offset, member.size_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_find_group_and_page() {
        let mut builder = Builder { names: String::new(), entries: Vec::new(), bytes_max: 10_000 };
        for (i, name) in ["b/2.jpg", "b/2.cls", "a", "b/1.jpg", "a", "b/1.cls"].into_iter().enumerate() {
            let offset = 512 + 1024 * i as u64;
            assert!(builder.add(&Member { name: name.to_owned(), offset, size_bytes: 5 }));
        }
        let index = builder.finish();
        assert_eq!(index.find("b/1.cls").unwrap().offset, 512 + 5 * 1024);
        assert!(matches!(index.find("a"), Err(AiError::Ambiguous { count: 2, .. })));
        assert!(matches!(index.find("c"), Err(AiError::NoSuchMember(_))));
        assert!(matches!(index.find(""), Err(AiError::NoSuchMember(_))));
        let names = |i| index.sample(i).map(|member| member.name).collect::<Vec<_>>();
        assert_eq!(index.samples(), 5);
        assert_eq!(names(0), ["b/2.jpg", "b/2.cls"]);
        assert_eq!(names(4), ["b/1.cls"]);
        assert!(names(5).is_empty());
        let third = index.from(2 * 1024).next().unwrap();
        assert_eq!((third.name.as_str(), third.offset), ("a", 2560));
        assert_eq!(index.from(0).count(), 6);
    }

    #[test]
    fn an_index_has_a_largest_size() {
        let mut builder = Builder { names: String::new(), entries: Vec::new(), bytes_max: 100 };
        let member = |n: u64| Member { name: format!("{n:010}"), offset: n, size_bytes: 1 };
        assert!(builder.add(&member(1)) && builder.add(&member(2)));
        assert!(!builder.add(&member(3)));
    }
}
