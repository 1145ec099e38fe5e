//! Buckets that read through to an upstream: what is served is what holds, whoever lies; one fetch for all; nothing half done.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::upstream::{Fault, MemoryUpstream, Shared, md5};
use common::{TestStore, body_bytes, payload};
use futures::StreamExt as _;
use granary_meta::Proposer as _;
use granary_meta::command::{BucketChange, Condition, EtagMatch, Refusal};
use granary_meta::records::{BucketOptions, BucketRecord, Sse, Verified, Versioning};
use granary_meta::upstream::UPSTREAM_DOCUMENT;
use granary_store::api::{
    BodyOut, DeleteRequest, GetRequest, ListRequest, ObjectInfo, ObjectStore as _, Portion, ReadCondition, Unlock,
};
use granary_store::upstream::{UpstreamChange, UpstreamError};
use granary_store::{Store, StoreError, StoreOptions};
use granary_types::{BucketName, ChecksumAlgorithm, ObjectKey, RangeSpec, Scheme};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::sync::watch;

const LARGE: usize = 3 << 20;
const SECRET: &str = "an-upstream-secret-of-the-test";

fn plain(_: &BucketRecord) -> Result<Sse, StoreError> {
    Ok(Sse::S3)
}

fn change() -> UpstreamChange {
    UpstreamChange {
        endpoint: "https://s3.example".to_owned(),
        plain_http: false,
        bucket: "there".to_owned(),
        prefix: "p/".to_owned(),
        region: "eu-there-1".to_owned(),
        declared_regions: Vec::new(),
        path_style: true,
        keys: Some(("AK".to_owned(), SECRET.to_owned().into())),
        ca: Vec::new(),
        write_back: false,
        revalidate_s: None,
        absent_s: 0,
        discard_pending: false,
    }
}

struct Ground {
    test: TestStore,
    there: Arc<MemoryUpstream>,
    bucket: BucketName,
}

impl Ground {
    async fn new(upstream: UpstreamChange) -> Self {
        Self::with(upstream, |_| {}).await
    }

    async fn with(upstream: UpstreamChange, options: impl FnOnce(&mut StoreOptions)) -> Self {
        let test = TestStore::with_options(Scheme { k: 4, m: 2 }, 6, |all| {
            all.upstream.stall = Duration::from_millis(300);
            all.upstream.retry = (Duration::from_millis(5), Duration::from_millis(20));
            options(all);
        })
        .await;
        let there = Arc::new(MemoryUpstream::default());
        test.store.set_upstream_client(Arc::new(Shared(Arc::clone(&there))), plain);
        let bucket = BucketName::new("here").unwrap();
        test.create_bucket(&bucket).await;
        test.store.set_upstream(&bucket, upstream).await.unwrap();
        Self { test, there, bucket }
    }

    fn store(&self) -> &Store {
        &self.test.store
    }

    fn request(&self, name: &str, portion: Portion) -> GetRequest {
        let key = ObjectKey::new(name).unwrap();
        let condition = ReadCondition::default();
        GetRequest { bucket: self.bucket.clone(), key, version: None, portion, condition, unlock: Unlock::Plain }
    }

    async fn get(&self, name: &str) -> Result<(ObjectInfo, BodyOut), StoreError> {
        self.store().get(self.request(name, Portion::Whole)).await
    }

    async fn read(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        let (_, mut body) = self.get(name).await?;
        let mut all = Vec::new();
        while let Some(frame) = body.next().await {
            all.extend_from_slice(&frame?);
        }
        Ok(all)
    }

    async fn head(&self, name: &str) -> Result<ObjectInfo, StoreError> {
        self.store().head(self.request(name, Portion::Whole)).await
    }

    async fn delete(&self, name: &str) {
        let request = DeleteRequest {
            bucket: self.bucket.clone(),
            key: ObjectKey::new(name).unwrap(),
            version: None,
            condition: Condition::default(),
            bypass: false,
        };
        self.store().delete(request).await.unwrap();
    }

    fn gets(&self) -> u64 {
        self.there.gets.load(Ordering::Relaxed)
    }

    fn versions(&self) -> u64 {
        self.store().bucket_usage(&self.bucket).unwrap().1.versions
    }

    async fn until(&self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..3000 {
            if done(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("it did not happen: {what}");
    }

    fn pending(&self) -> u64 {
        self.store().upstream(&self.bucket).unwrap().unwrap().pending
    }

    /// Writes back for as long as the guard lives.
    fn write_back(&self) -> watch::Sender<bool> {
        let (stop, stopped) = watch::channel(false);
        let store = self.store().clone();
        tokio::spawn(async move { store.write_back_forever(stopped).await });
        stop
    }
}

#[tokio::test]
async fn what_is_not_here_is_fetched_once_and_looks_the_same_before_and_after() {
    let ground = Ground::new(change()).await;
    for (name, bytes) in [("empty", payload(1, 0)), ("inline", payload(2, 900)), ("large", payload(3, LARGE))] {
        ground.there.put(&format!("p/{name}"), &bytes);
        let before = ground.head(name).await.unwrap();
        assert_eq!(ground.versions(), 0, "a HEAD fetches nothing");
        let (info, body) = ground.get(name).await.unwrap();
        assert_eq!(body_bytes(body).await, bytes, "{name}");
        let (again, body) = ground.get(name).await.unwrap();
        assert_eq!(body_bytes(body).await, bytes, "{name}");
        let after = ground.head(name).await.unwrap();
        for seen in [&before, &info, &again, &after] {
            assert_eq!(seen.object.etag, md5(&bytes));
            assert_eq!(seen.created.as_secs(), before.created.as_secs());
            assert_eq!(seen.object.size_bytes, bytes.len() as u64);
            assert_eq!(seen.object.attributes.headers.content_type.as_deref(), Some("text/x-test"));
            assert_eq!(seen.object.attributes.user_metadata, [("colour".to_owned(), "blue".to_owned())]);
            assert_eq!(seen.object.attributes.owner, "tester");
        }
        assert_eq!(after.fetched.unwrap().verified, Verified::Md5);
        assert_eq!(ground.gets(), 1, "{name}");
        let body = ground.store().get(ground.request(name, Portion::Range(RangeSpec::Suffix(100)))).await;
        if !bytes.is_empty() {
            assert_eq!(body_bytes(body.unwrap().1).await, bytes[bytes.len() - 100..]);
        }
        ground.there.gets.store(0, Ordering::Relaxed);
        ground.delete(name).await;
    }
    assert!(matches!(ground.read("nothing").await, Err(StoreError::NoSuchKey { delete_marker: None })));
    assert!(matches!(ground.head("nothing").await, Err(StoreError::NoSuchKey { delete_marker: None })));
    // A range of what is not here brings the whole, checked.
    let bytes = payload(9, LARGE);
    ground.there.put("p/range", &bytes);
    let range = Portion::Range(RangeSpec::From { first: 10, last: Some(19) });
    let (info, body) = ground.store().get(ground.request("range", range)).await.unwrap();
    assert!(info.partial);
    assert_eq!(body_bytes(body).await, bytes[10..20]);
    assert_eq!(ground.versions(), 1);
}

#[tokio::test]
async fn a_hundred_who_ask_at_once_fetch_once() {
    let ground = Arc::new(Ground::new(change()).await);
    for (name, len) in [("small", 5000), ("large", LARGE)] {
        let bytes = payload(4, len);
        ground.there.put(&format!("p/{name}"), &bytes);
        ground.there.gets.store(0, Ordering::Relaxed);
        let reads = (0..100).map(|_| {
            let (ground, bytes) = (Arc::clone(&ground), bytes.clone());
            tokio::spawn(async move { assert_eq!(ground.read(name).await.unwrap(), bytes) })
        });
        for read in reads.collect::<Vec<_>>() {
            read.await.unwrap();
        }
        assert_eq!(ground.gets(), 1, "{name}");
    }
    assert_eq!(ground.versions(), 2);
}

#[tokio::test]
async fn who_lies_is_told_apart_and_leaves_nothing() {
    let ground = Ground::new(change()).await;
    for (seed, len) in [(5, 700), (6, 200_000), (7, LARGE)] {
        let bytes = payload(seed, len);
        ground.there.put("p/k", &bytes);
        ground.there.change("p/k", |stored| stored.checksum = Some(ChecksumAlgorithm::Crc32c));
        for (fault, lies) in [
            (Fault::Short, true),
            (Fault::Long, true),
            (Fault::Flipped, true),
            (Fault::WrongEtag, true),
            (Fault::WrongChecksum, true),
            (Fault::EtagOfNothing, true),
            (Fault::Stall, false),
            (Fault::Break, false),
            (Fault::Down, false),
            (Fault::Redirect, false),
            (Fault::Denied, false),
        ] {
            ground.there.set_fault(fault);
            let error = match ground.get("k").await {
                Err(error) => error,
                Ok((info, mut body)) => {
                    // Given while it was fetched: never all of it.
                    assert!(len >= 1 << 20, "{fault:?}: only what is large is given before it is checked");
                    let mut got = 0;
                    let failed = loop {
                        match body.next().await {
                            Some(Ok(frame)) => got += frame.len() as u64,
                            Some(Err(error)) => break error,
                            None => panic!("{fault:?}: a body that ended well after {got} bytes"),
                        }
                    };
                    assert!(got < info.range.len(), "{fault:?}: {got} bytes were given");
                    failed
                }
            };
            let StoreError::Upstream { bucket, error } = &error else { panic!("{fault:?}: {error:?}") };
            assert_eq!(bucket.as_str(), "here");
            assert_eq!(matches!(error, UpstreamError::Lied(_)), lies, "{fault:?}: {error}");
            assert_eq!(ground.versions(), 0, "{fault:?}");
            ground.test.reap().await;
            // Writers that were given up free their space by themselves.
            ground.until("nothing of it stays on the drives", |ground| ground.test.shards_count() == 0).await;
        }
        ground.there.set_fault(Fault::None);
        assert_eq!(ground.read("k").await.unwrap(), bytes, "nothing of it stays");
        assert_eq!(ground.head("k").await.unwrap().fetched.unwrap().verified, Verified::Checksum);
        ground.test.check_no_leaks(&ground.bucket).await;
        ground.delete("k").await;
        ground.test.reap().await;
    }
    let stats = ground.store().upstream_stats().all();
    let counted: BTreeMap<_, _> = stats[0].1.all().into();
    assert!(counted["errors"] >= 33 && counted["lies"] >= 18, "{counted:?}");
}

#[tokio::test]
async fn objects_uploaded_in_parts_are_held_to_what_there_is() {
    let ground = Ground::new(change()).await;
    let bytes = payload(8, 300_000);
    ground.there.put("p/multi", &bytes);
    ground.there.change("p/multi", |stored| stored.etag = Some("0123456789abcdef0123456789abcdef-7".to_owned()));
    assert_eq!(ground.read("multi").await.unwrap(), bytes);
    let info = ground.head("multi").await.unwrap();
    assert_eq!(info.object.etag, "0123456789abcdef0123456789abcdef-7", "the upstream's");
    assert_eq!(info.fetched.unwrap().verified, Verified::Length);
    ground.there.set_fault(Fault::Short);
    ground.there.put("p/other", &bytes);
    ground.there.change("p/other", |stored| stored.etag = Some("x-7".to_owned()));
    assert!(ground.read("other").await.is_err());
}

#[tokio::test]
async fn large_objects_are_given_while_they_come_and_slow_clients_hold_nobody_up() {
    let ground = Ground::with(change(), |all| {
        all.upstream.tee_patience = Duration::from_millis(50);
        all.upstream.stall = Duration::from_secs(60);
    })
    .await;
    let bytes = payload(10, LARGE);
    for name in ["watched", "slow", "gone"] {
        ground.there.put(&format!("p/{name}"), &bytes);
    }
    // Twenty frames, and then nothing until the test says so.
    ground.there.frames.forget_permits(1 << 20);
    ground.there.frames.add_permits(20);
    let (_, mut body) = ground.get("watched").await.unwrap();
    let mut got = Vec::new();
    while got.len() < 15 * ground.there.frame_bytes {
        got.extend_from_slice(&body.next().await.unwrap().unwrap());
    }
    assert_eq!(ground.versions(), 0, "it is still coming");
    ground.there.frames.add_permits(1 << 20);
    while let Some(frame) = body.next().await {
        got.extend_from_slice(&frame.unwrap());
    }
    assert!(got == bytes);
    // Who takes nothing gets the rest from here.
    let (_, body) = ground.get("slow").await.unwrap();
    ground.until("the fetch goes on", |ground| ground.versions() == 2).await;
    assert!(body_bytes(body).await == bytes);
    // Who goes away stops nothing.
    drop(ground.get("gone").await.unwrap());
    ground.until("the fetch goes on", |ground| ground.versions() == 3).await;
    assert_eq!(ground.gets(), 3);
    assert!(ground.read("gone").await.unwrap() == bytes);
    assert_eq!(ground.gets(), 3);
}

#[tokio::test]
async fn a_write_that_comes_between_wins() {
    let ground = Arc::new(Ground::new(change()).await);
    ground.there.put("p/k", b"theirs");
    ground.there.frames.forget_permits(1 << 20);
    let reading = {
        let ground = Arc::clone(&ground);
        tokio::spawn(async move { ground.read("k").await })
    };
    ground.until("it is asked for", |ground| ground.gets() == 1).await;
    ground.test.put(&ground.bucket, "k", b"ours", Condition::default()).await.unwrap();
    ground.there.frames.add_permits(100);
    assert_eq!(reading.await.unwrap().unwrap(), b"ours");
    assert_eq!(ground.read("k").await.unwrap(), b"ours");
    assert_eq!(ground.versions(), 1);
    // What was written here is not the upstream's.
    let info = ground.head("k").await.unwrap();
    assert!(info.fetched.is_none());
}

#[tokio::test]
async fn copies_are_checked_when_they_are_old() {
    let ground = Ground::new(UpstreamChange { revalidate_s: Some(0), ..change() }).await;
    ground.there.put("p/k", b"first");
    assert_eq!(ground.read("k").await.unwrap(), b"first");
    assert_eq!(ground.read("k").await.unwrap(), b"first");
    assert_eq!(ground.gets(), 2, "asked again, and not sent again");
    ground.there.put("p/k", b"second");
    assert_eq!(ground.read("k").await.unwrap(), b"second");
    assert_eq!(ground.head("k").await.unwrap().object.size_bytes, 6);
    assert_eq!(ground.versions(), 1);
    ground.there.set_fault(Fault::Down);
    assert!(matches!(ground.read("k").await, Err(StoreError::Upstream { .. })), "unchecked is not served");
    ground.there.set_fault(Fault::None);
    ground.there.objects.lock().clear();
    assert!(matches!(ground.read("k").await, Err(StoreError::NoSuchKey { .. })));
    assert_eq!(ground.versions(), 0);
    // By default a copy is right for ever.
    ground.store().set_upstream(&ground.bucket, change()).await.unwrap();
    ground.there.put("p/k", b"third");
    assert_eq!(ground.read("k").await.unwrap(), b"third");
    ground.there.put("p/k", b"fourth");
    assert_eq!(ground.read("k").await.unwrap(), b"third");
}

#[tokio::test]
async fn what_is_absent_may_be_remembered() {
    let ground = Ground::new(UpstreamChange { absent_s: 3600, ..change() }).await;
    for _ in 0..3 {
        assert!(matches!(ground.read("k").await, Err(StoreError::NoSuchKey { .. })));
    }
    assert_eq!(ground.gets(), 1);
    ground.there.put("p/k", b"late");
    assert!(ground.read("k").await.is_err(), "for an hour");
    ground.store().set_upstream(&ground.bucket, change()).await.unwrap();
    assert_eq!(ground.read("k").await.unwrap(), b"late", "another setting remembers nothing");
}

#[tokio::test]
async fn no_byte_passes_between_a_bucket_and_what_lies_outside_its_pins() {
    let ground = Ground::new(change()).await;
    let pinned = BucketName::new("pinned").unwrap();
    let home = ground.store().options().region.clone();
    let options = BucketOptions { regions: vec![home.clone(), "eu-there-1".to_owned()], ..BucketOptions::default() };
    ground.test.create_bucket_with(&pinned, options.clone()).await;
    let outside = UpstreamChange { declared_regions: vec!["us-away-1".to_owned()], ..change() };
    let refused = ground.store().set_upstream(&pinned, outside).await.unwrap_err().to_string();
    assert!(refused.contains("us-away-1") && refused.contains("pinned to"), "{refused}");
    assert!(ground.store().upstream(&pinned).unwrap().is_none());
    ground.store().set_upstream(&pinned, change()).await.unwrap();
    // Narrowed until the upstream is outside: refused, whoever asks.
    let narrow = BucketChange::Options(BucketOptions { regions: vec![home], ..options });
    let refused = ground.store().change_bucket(&pinned, narrow.clone()).await;
    assert!(matches!(refused, Err(StoreError::Refused(Refusal::InvalidState(_)))), "{refused:?}");
    assert!(ground.store().clear_upstream(&pinned, false).await.unwrap());
    ground.store().change_bucket(&pinned, narrow).await.unwrap();
    assert!(ground.store().set_upstream(&pinned, change()).await.is_err());
}

#[tokio::test]
async fn the_secret_is_sealed_and_bad_settings_are_refused() {
    let ground = Ground::new(change()).await;
    let record = ground.store().bucket(&ground.bucket).unwrap();
    let document = &record.documents[UPSTREAM_DOCUMENT];
    assert!(!document.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()));
    for (name, value) in ground.test.meta.index().load().unwrap().dump().unwrap().iter().map(|(_, k, v)| (k, v)) {
        assert!(!value.windows(SECRET.len()).any(|window| window == SECRET.as_bytes()), "{name:?}");
    }
    assert!(!format!("{:?}", ground.store().upstream(&ground.bucket).unwrap()).contains(SECRET));
    for wrong in [
        UpstreamChange { endpoint: "s3.example".to_owned(), ..change() },
        UpstreamChange { endpoint: "http://s3.example".to_owned(), ..change() },
        UpstreamChange { bucket: "a/b".to_owned(), ..change() },
        UpstreamChange { prefix: "a\nb".to_owned(), ..change() },
        UpstreamChange { region: String::new(), ..change() },
        UpstreamChange { keys: Some(("A K".to_owned(), SECRET.to_owned().into())), ..change() },
        UpstreamChange { keys: Some(("AK".to_owned(), "two\nlines".to_owned().into())), ..change() },
        UpstreamChange { bucket: "a.b".to_owned(), path_style: false, ..change() },
    ] {
        let refused = ground.store().set_upstream(&ground.bucket, wrong).await;
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    }
}

#[tokio::test]
async fn a_full_quota_a_frozen_key_and_a_delete_marker_are_respected() {
    let ground = Ground::new(change()).await;
    ground.there.put("p/k", &payload(1, 50_000));
    let quota = BucketChange::Quota { bytes: Some(10_000), objects: None };
    ground.store().change_bucket(&ground.bucket, quota).await.unwrap();
    assert!(matches!(ground.read("k").await, Err(StoreError::Refused(Refusal::QuotaExceeded))));
    let quota = BucketChange::Quota { bytes: None, objects: None };
    ground.store().change_bucket(&ground.bucket, quota).await.unwrap();
    let versioned = BucketChange::Versioning(Versioning::Enabled);
    ground.store().change_bucket(&ground.bucket, versioned).await.unwrap();
    assert_eq!(ground.read("k").await.unwrap().len(), 50_000);
    assert!(ground.head("k").await.unwrap().version.is_some());
    ground.delete("k").await;
    assert!(matches!(ground.read("k").await, Err(StoreError::NoSuchKey { delete_marker: Some(_) })));
    let page = ground.store().list(&ground.bucket, &ListRequest { max_keys: 10, ..ListRequest::default() }).await;
    assert!(page.unwrap().objects.is_empty(), "what was deleted here is not shown");
    assert_eq!(ground.gets(), 1);
}

#[tokio::test]
async fn copies_are_made_of_what_is_not_here_yet_and_are_the_buckets_own() {
    let ground = Ground::new(UpstreamChange { revalidate_s: Some(0), ..change() }).await;
    ground.there.put("p/k", b"theirs");
    ground.test.copy(&ground.bucket, "k", "own").await.unwrap();
    assert_eq!(ground.read("own").await.unwrap(), b"theirs", "not asked for upstream, where it is not");
    assert!(ground.head("own").await.unwrap().fetched.is_none());
}

#[tokio::test]
async fn after_the_upstream_is_taken_away_what_was_fetched_stays() {
    let ground = Ground::new(change()).await;
    ground.there.put("p/a", b"a");
    ground.there.put("p/b", b"b");
    assert_eq!(ground.read("a").await.unwrap(), b"a");
    assert!(ground.store().clear_upstream(&ground.bucket, false).await.unwrap());
    assert!(!ground.store().clear_upstream(&ground.bucket, false).await.unwrap());
    assert_eq!(ground.read("a").await.unwrap(), b"a");
    assert!(matches!(ground.read("b").await, Err(StoreError::NoSuchKey { .. })));
}

// --- listings ----------------------------------------------------------------------------------------------------

/// What a listing of all these keys is, by the rules of S3.
fn expected(keys: &BTreeMap<String, u64>, prefix: &str, delimiter: Option<&str>) -> Vec<(String, Option<u64>)> {
    let mut found: Vec<(String, Option<u64>)> = Vec::new();
    for (key, size) in keys.iter().filter(|(key, _)| key.starts_with(prefix)) {
        let rolled = delimiter.and_then(|d| key[prefix.len()..].find(d).map(|at| at + d.len() + prefix.len()));
        match rolled {
            Some(end) if found.last().is_some_and(|(name, _)| *name == key[..end]) => {}
            Some(end) => found.push((key[..end].to_owned(), None)),
            None => found.push((key.clone(), Some(*size))),
        }
    }
    found
}

#[test]
fn listings_are_both_merged_in_order_whatever_the_page_size() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let name = "[abc/]{1,4}";
    let names = proptest::collection::btree_set(name, 0..12);
    let wanted = (names.clone(), names, "[ab/]{0,2}", proptest::option::of(Just("/".to_owned())), 1u32..6, 1u32..6);
    let mut runner = TestRunner::new(ProptestConfig { cases: 60, ..ProptestConfig::default() });
    runner
        .run(&wanted, |(here, there, prefix, delimiter, max_keys, page_max)| {
            runtime.block_on(async {
                let ground = Ground::new(change()).await;
                *ground.there.page_max.lock() = page_max;
                let mut all = BTreeMap::new();
                for key in &there {
                    ground.there.put(&format!("p/{key}"), b"theirs");
                    all.insert(key.clone(), 6);
                }
                ground.there.put("q/elsewhere", b"x");
                ground.there.put("p/", b"the mark of a folder");
                for key in &here {
                    ground.test.put(&ground.bucket, key, b"own", Condition::default()).await.unwrap();
                    all.insert(key.clone(), 3);
                }
                let mut request = ListRequest { prefix, delimiter, after: None, max_keys };
                let mut found = Vec::new();
                loop {
                    let page = ground.store().list(&ground.bucket, &request).await.unwrap();
                    let mut names: Vec<_> =
                        page.objects.iter().map(|(k, v)| (k.clone(), Some(v.object().unwrap().size_bytes))).collect();
                    names.extend(page.common_prefixes.into_iter().map(|prefix| (prefix, None)));
                    assert!(names.len() <= max_keys as usize);
                    names.sort();
                    found.extend(names);
                    match page.next_after {
                        Some(after) => {
                            assert!(Some(&after) > request.after.as_ref(), "a listing gets on");
                            request.after = Some(after);
                        }
                        None => break,
                    }
                }
                let expected = expected(&all, &request.prefix, request.delimiter.as_deref());
                prop_assert_eq!(found, expected);
                Ok(())
            })
        })
        .unwrap();
}

#[tokio::test]
async fn a_listing_is_right_or_an_error() {
    let ground = Ground::new(change()).await;
    for key in ["p/a", "p/b", "p/c"] {
        ground.there.put(key, b"x");
    }
    ground.test.put(&ground.bucket, "own", b"x", Condition::default()).await.unwrap();
    let all = ListRequest { max_keys: 1000, ..ListRequest::default() };
    for fault in [Fault::Down, Fault::Redirect, Fault::Denied, Fault::Disorder, Fault::MoreOfNothing] {
        ground.there.set_fault(fault);
        let page = ground.store().list(&ground.bucket, &all).await;
        assert!(matches!(page, Err(StoreError::Upstream { .. })), "{fault:?}: {page:?}");
    }
    ground.there.set_fault(Fault::None);
    let page = ground.store().list(&ground.bucket, &all).await.unwrap();
    assert_eq!(page.objects.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "own"]);
    // A copy shows the upstream's time, as it did before it was one.
    let before = page.objects[0].1.created;
    ground.read("a").await.unwrap();
    let page = ground.store().list(&ground.bucket, &all).await.unwrap();
    assert_eq!(page.objects[0].1.created, before);
}

// --- write-back --------------------------------------------------------------------------------------------------

#[tokio::test]
async fn changes_are_written_back_in_order_through_an_outage() {
    let ground = Ground::new(UpstreamChange { write_back: true, ..change() }).await;
    let stop = ground.write_back();
    let large = payload(11, LARGE);
    ground.test.put(&ground.bucket, "a", b"1", Condition::default()).await.unwrap();
    ground.test.put(&ground.bucket, "large", &large, Condition::default()).await.unwrap();
    ground.until("written", |ground| ground.pending() == 0).await;
    assert_eq!(ground.there.bytes("p/a").unwrap(), "1");
    assert!(ground.there.bytes("p/large").unwrap() == large);
    ground.there.set_fault(Fault::Down);
    for n in 0..20 {
        ground.test.put(&ground.bucket, "a", format!("{n}").as_bytes(), Condition::default()).await.unwrap();
    }
    ground.delete("large").await;
    ground.test.put(&ground.bucket, "b", b"new", Condition::default()).await.unwrap();
    assert!(ground.pending() >= 22);
    assert_eq!(ground.read("a").await.unwrap(), b"19", "what is here counts");
    assert!(matches!(ground.read("large").await, Err(StoreError::NoSuchKey { .. })), "deleted is deleted at once");
    let refused = ground.store().clear_upstream(&ground.bucket, false).await;
    assert!(matches!(&refused, Err(StoreError::Contradiction(why)) if why.contains("wait")), "{refused:?}");
    let refused = ground.store().set_upstream(&ground.bucket, change()).await;
    assert!(matches!(refused, Err(StoreError::Contradiction(_))), "{refused:?}");
    ground.there.set_fault(Fault::None);
    ground.until("written", |ground| ground.pending() == 0).await;
    assert_eq!(ground.there.bytes("p/a").unwrap(), "19");
    assert_eq!(ground.there.bytes("p/b").unwrap(), "new");
    assert_eq!(ground.there.bytes("p/large"), None);
    // What is fetched is not written back.
    ground.there.put("p/theirs", b"theirs");
    let puts = ground.there.puts.load(Ordering::Relaxed);
    assert_eq!(ground.read("theirs").await.unwrap(), b"theirs");
    assert_eq!((ground.pending(), ground.there.puts.load(Ordering::Relaxed)), (0, puts));
    stop.send_replace(true);
}

#[tokio::test]
async fn a_delete_is_seen_at_once_and_nothing_brings_the_object_back() {
    let ground = Arc::new(Ground::new(UpstreamChange { write_back: true, ..change() }).await);
    ground.there.put("p/k", b"theirs");
    // Nobody writes back yet: the upstream still has it.
    ground.delete("k").await;
    assert_eq!(ground.pending(), 1, "though nothing was here");
    assert!(matches!(ground.read("k").await, Err(StoreError::NoSuchKey { .. })));
    assert!(matches!(ground.head("k").await, Err(StoreError::NoSuchKey { .. })));
    let all = ListRequest { max_keys: 1000, ..ListRequest::default() };
    assert!(ground.store().list(&ground.bucket, &all).await.unwrap().objects.is_empty());
    assert_eq!(ground.gets(), 0);
    // A fetch that was under way when the delete came is cut.
    ground.there.put("p/j", &payload(12, 200_000));
    ground.there.frames.forget_permits(1 << 20);
    let reading = {
        let ground = Arc::clone(&ground);
        tokio::spawn(async move { ground.read("j").await })
    };
    ground.until("it is asked for", |ground| ground.gets() == 1).await;
    ground.delete("j").await;
    ground.there.frames.add_permits(1 << 20);
    assert!(matches!(reading.await.unwrap(), Err(StoreError::NoSuchKey { .. })));
    let stop = ground.write_back();
    ground.until("written", |ground| ground.pending() == 0).await;
    assert!(ground.there.objects.lock().is_empty());
    assert!(matches!(ground.read("j").await, Err(StoreError::NoSuchKey { .. })));
    assert_eq!(ground.versions(), 0);
    stop.send_replace(true);
}

#[tokio::test]
async fn what_the_upstream_refuses_for_good_is_given_up_and_holds_nobody_up() {
    let ground = Ground::new(UpstreamChange { write_back: true, ..change() }).await;
    ground.there.set_fault(Fault::Rejects);
    let stop = ground.write_back();
    ground.test.put(&ground.bucket, "bad", b"x", Condition::default()).await.unwrap();
    ground.until("given up", |ground| ground.pending() == 0).await;
    let stats: BTreeMap<_, _> = ground.store().upstream(&ground.bucket).unwrap().unwrap().stats.all().into();
    assert_eq!((stats["given_up"], stats["written"]), (1, 0), "{stats:?}");
    assert!(stats["write_failures"] >= 5, "{stats:?}");
    ground.there.set_fault(Fault::None);
    let condition = Condition { if_none_match: Some(EtagMatch::Any), ..Condition::default() };
    ground.test.put(&ground.bucket, "good", b"y", condition).await.unwrap();
    ground.until("written", |ground| ground.pending() == 0).await;
    assert_eq!(ground.there.bytes("p/good").unwrap(), "y");
    stop.send_replace(true);
}
