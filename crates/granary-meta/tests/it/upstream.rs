//! Buckets with an upstream: what `apply` makes of copies, and of the queue of what is to be written back.

use crate::support::*;
use granary_meta::command::{BucketChange, Command, ExpireAction, Outcome, Refusal, RenameCondition};
use granary_meta::records::{BucketOptions, Fetched, Sse, Verified, VersionBody, Versioning};
use granary_meta::upstream::{UPSTREAM_DOCUMENT, UpstreamRule, upstream_target};
use granary_meta::{LIFECYCLE_DOCUMENT, MemoryProposer, Proposer, document_digest};
use granary_types::{BucketId, Timestamp, VersionId};

fn rule(write_back: bool) -> UpstreamRule {
    UpstreamRule {
        id: 1,
        endpoint: "https://s3.example".to_owned(),
        bucket: "there".to_owned(),
        prefix: String::new(),
        region: "eu-1".to_owned(),
        declared_regions: vec!["eu-1".to_owned()],
        path_style: true,
        access_key: String::new(),
        secret: Vec::new(),
        ca: Vec::new(),
        write_back,
        revalidate_s: None,
        absent_s: 0,
    }
}

fn set(p: &MemoryProposer, value: Option<Vec<u8>>) -> Outcome {
    let change = BucketChange::Document { name: UPSTREAM_DOCUMENT.to_owned(), value };
    propose(p, Command::ChangeBucket { name: name("bucket-1"), change })
}

fn ground(write_back: bool, versioning: Versioning) -> (MemoryProposer, BucketId) {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, versioning, BucketOptions::default());
    assert_eq!(set(&p, Some(rule(write_back).encode())), Outcome::Done);
    (p, bucket)
}

fn source() -> Fetched {
    Fetched { etag: "e".to_owned(), modified: Timestamp(7), at: Timestamp(8), verified: Verified::Md5 }
}

fn fetched(bucket: BucketId, text: &str, n: u64, replaces: Option<Timestamp>) -> Command {
    Command::PutFetched {
        bucket,
        key: key(text),
        object: Box::new(object(n, 10)),
        inline: None,
        nonce: [0; 8],
        source: source(),
        replaces,
    }
}

fn created(p: &MemoryProposer, bucket: BucketId, text: &str) -> Timestamp {
    p.index().current(bucket, &key(text)).unwrap().unwrap().created
}

fn pending(p: &MemoryProposer, bucket: BucketId) -> Vec<u64> {
    let target = upstream_target(bucket);
    let events = p.index().load().unwrap().events(&target, 0, 100).unwrap();
    assert_eq!(p.index().load().unwrap().event_queue(&target).unwrap().count, events.len() as u64);
    events.iter().map(|event| event.sequence).collect()
}

fn is_unwritten(p: &MemoryProposer, bucket: BucketId, text: &str) -> bool {
    p.index().load().unwrap().is_unwritten(bucket, text).unwrap()
}

#[test]
fn copies_come_in_only_where_the_key_is_as_the_fetch_saw_it() {
    let (p, bucket) = ground(false, Versioning::Off);
    let conflict = Outcome::Refused(Refusal::Conflict);
    assert!(matches!(propose(&p, fetched(bucket, "k", 1, None)), Outcome::Put { .. }));
    let first = created(&p, bucket, "k");
    let record = p.index().current(bucket, &key("k")).unwrap().unwrap();
    assert_eq!((record.fetched(), record.modified()), (Some(&source()), Timestamp(7)));
    assert_eq!(propose(&p, fetched(bucket, "k", 2, None)), conflict, "it is there by now");
    assert_eq!(propose(&p, fetched(bucket, "k", 3, Some(Timestamp(1)))), conflict, "another one is there");
    assert!(matches!(propose(&p, fetched(bucket, "k", 4, Some(first))), Outcome::Put { .. }));
    // What is written here is no copy, and no fetch takes its place.
    assert!(matches!(propose(&p, put(bucket, "k", 5, 20)), Outcome::Put { .. }));
    let own = created(&p, bucket, "k");
    assert_eq!(propose(&p, fetched(bucket, "k", 6, Some(own))), conflict);
    assert_eq!(propose(&p, Command::DropFetched { bucket, key: key("k"), created: own }), conflict);
    let usage = p.index().usage(bucket).unwrap();
    assert_eq!((usage.objects, usage.versions, usage.bytes), (1, 1, 20));
    // A copy of what is gone there goes.
    assert!(matches!(propose(&p, fetched(bucket, "gone", 7, None)), Outcome::Put { .. }));
    let gone = created(&p, bucket, "gone");
    let drop = Command::DropFetched { bucket, key: key("gone"), created: gone };
    assert!(matches!(propose(&p, drop), Outcome::Deleted { .. }));
    assert_eq!(p.index().usage(bucket).unwrap().versions, 1);
    // Without an upstream there are no copies.
    assert_eq!(set(&p, None), Outcome::Done);
    assert_eq!(propose(&p, fetched(bucket, "new", 8, None)), conflict);
}

#[test]
fn a_delete_marker_keeps_copies_out() {
    let (p, bucket) = ground(false, Versioning::Enabled);
    propose(&p, fetched(bucket, "k", 1, None));
    propose(&p, delete(bucket, "k", 2));
    assert_eq!(propose(&p, fetched(bucket, "k", 3, None)), Outcome::Refused(Refusal::Conflict));
}

#[test]
fn a_renamed_copy_is_the_buckets_own() {
    let (p, bucket) = ground(false, Versioning::Off);
    propose(&p, fetched(bucket, "k", 1, None));
    let rename = Command::Rename {
        bucket,
        source: key("k"),
        destination: key("own"),
        source_condition: RenameCondition::default(),
        condition: RenameCondition::default(),
        token: None,
    };
    assert_eq!(propose(&p, rename), Outcome::Done);
    let record = p.index().current(bucket, &key("own")).unwrap().unwrap();
    assert!(matches!(record.body, VersionBody::Object(_)));
}

#[test]
fn no_copy_and_no_change_makes_the_queue_of_a_bucket_that_does_not_write_back() {
    let (p, bucket) = ground(false, Versioning::Off);
    propose(&p, fetched(bucket, "a", 1, None));
    propose(&p, put(bucket, "b", 2, 10));
    propose(&p, delete(bucket, "b", 3));
    assert!(pending(&p, bucket).is_empty());
    assert!(!is_unwritten(&p, bucket, "b"));
}

#[test]
fn every_change_is_queued_with_itself_and_marks_its_key_until_the_last_is_written() {
    let (p, bucket) = ground(true, Versioning::Off);
    propose(&p, fetched(bucket, "copy", 1, None));
    assert!(pending(&p, bucket).is_empty(), "what was fetched is not written back");
    propose(&p, put(bucket, "k", 2, 10));
    propose(&p, put(bucket, "k", 3, 10));
    propose(&p, delete(bucket, "nothing-here", 4));
    propose(&p, delete(bucket, "copy", 5));
    propose(&p, create_upload(bucket, "m", 6, 1));
    propose(&p, put_part(bucket, "m", 6, 1, 7, 10));
    propose(&p, complete(bucket, "m", 6, &[(1, 7)]));
    let rename = Command::Rename {
        bucket,
        source: key("m"),
        destination: key("n"),
        source_condition: RenameCondition::default(),
        condition: RenameCondition::default(),
        token: None,
    };
    assert_eq!(propose(&p, rename), Outcome::Done);
    let queue = pending(&p, bucket);
    assert_eq!(queue.len(), 7);
    for text in ["k", "nothing-here", "copy", "m", "n"] {
        assert!(is_unwritten(&p, bucket, text), "{text}");
    }
    // No copy of a key that the upstream does not know the last of.
    assert_eq!(propose(&p, fetched(bucket, "copy", 8, None)), Outcome::Refused(Refusal::Conflict));
    let target = upstream_target(bucket);
    assert_eq!(propose(&p, Command::AckEvents { target: target.clone(), through: queue[0] }), Outcome::Done);
    assert!(is_unwritten(&p, bucket, "k"), "there is another behind it");
    assert_eq!(propose(&p, Command::AckEvents { target: target.clone(), through: queue[1] }), Outcome::Done);
    assert!(!is_unwritten(&p, bucket, "k"));
    assert_eq!(propose(&p, Command::AckEvents { target, through: queue[6] }), Outcome::Done);
    for text in ["k", "nothing-here", "copy", "m", "n"] {
        assert!(!is_unwritten(&p, bucket, text), "{text}");
    }
    assert!(matches!(propose(&p, fetched(bucket, "copy", 9, None)), Outcome::Put { .. }));
}

#[test]
fn what_is_refused_queues_nothing() {
    let (p, bucket) = ground(true, Versioning::Off);
    let Command::PutVersion { bucket, key, mut object, inline, nonce, condition } = put(bucket, "k", 1, 10) else {
        unreachable!("put makes a PutVersion")
    };
    object.attributes.sse = Sse::Customer { key_md5: "x".to_owned() };
    let put = Command::PutVersion { bucket, key, object, inline, nonce, condition };
    assert!(matches!(propose(&p, put), Outcome::Refused(Refusal::InvalidState(_))));
    assert!(pending(&p, bucket).is_empty());
    assert!(p.index().current(bucket, &crate::support::key("k")).unwrap().is_none());
}

#[test]
fn nothing_expires_that_the_upstream_does_not_have_yet() {
    let (p, bucket) = ground(true, Versioning::Off);
    let change = BucketChange::Document { name: LIFECYCLE_DOCUMENT.to_owned(), value: Some(b"rules".to_vec()) };
    propose(&p, Command::ChangeBucket { name: name("bucket-1"), change });
    propose(&p, put(bucket, "k", 1, 10));
    let expire = || Command::Expire {
        bucket,
        key: key("k"),
        version: VersionId::NULL,
        created: created(&p, bucket, "k"),
        rules: document_digest(b"rules"),
        action: ExpireAction::Current { nonce: [1; 8] },
    };
    assert_eq!(propose(&p, expire()), Outcome::Refused(Refusal::Stale));
    let through = pending(&p, bucket)[0];
    propose(&p, Command::AckEvents { target: upstream_target(bucket), through });
    assert!(matches!(propose(&p, expire()), Outcome::Deleted { .. }));
    assert!(pending(&p, bucket).is_empty(), "that something expired here is not the upstream's business");
}

#[test]
fn a_bucket_with_changes_on_their_way_is_not_deleted() {
    let (p, bucket) = ground(true, Versioning::Off);
    propose(&p, put(bucket, "k", 1, 10));
    propose(&p, delete(bucket, "k", 2));
    let delete = || Command::DeleteBucket { name: name("bucket-1") };
    assert!(matches!(propose(&p, delete()), Outcome::Refused(Refusal::InvalidState(_))));
    let through = pending(&p, bucket)[1];
    propose(&p, Command::AckEvents { target: upstream_target(bucket), through });
    assert_eq!(propose(&p, delete()), Outcome::Done);
}

#[test]
fn an_upstream_stays_within_the_pins() {
    let (p, _) = memory();
    let regions = vec!["eu-1".to_owned(), "eu-2".to_owned()];
    let options = BucketOptions { regions: regions.clone(), ..BucketOptions::default() };
    make_bucket(&p, 1, Versioning::Off, options.clone());
    let outside = UpstreamRule { declared_regions: vec!["eu-1".to_owned(), "us-1".to_owned()], ..rule(false) };
    assert!(matches!(set(&p, Some(outside.encode())), Outcome::Refused(Refusal::InvalidState(_))));
    assert_eq!(set(&p, Some(rule(false).encode())), Outcome::Done);
    let narrow = |to: &str| {
        let options = BucketOptions { regions: vec![to.to_owned()], ..options.clone() };
        propose(&p, Command::ChangeBucket { name: name("bucket-1"), change: BucketChange::Options(options) })
    };
    assert!(matches!(narrow("eu-2"), Outcome::Refused(Refusal::InvalidState(_))));
    assert_eq!(narrow("eu-1"), Outcome::Done);
}
