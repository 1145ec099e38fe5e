//! Lifecycle's deletes, quotas, events, appends and renames: what `apply` makes of them.

use crate::support::*;
use granary_meta::command::{
    BucketChange, Cause, Command, Condition, EtagMatch, ExpireAction, Origin, Outcome, Refusal, RenameCondition,
    VersionChange,
};
use granary_meta::events::{EventKind, NOTIFICATION_DOCUMENT, NotificationRule, NotificationRules, RuleForm};
use granary_meta::records::{BucketOptions, PartOwner, PartPlace, Parts, Retention, RetentionMode, Versioning};
use granary_meta::{LIFECYCLE_DOCUMENT, MemoryProposer, Proposer, document_digest};
use granary_types::{BucketId, Timestamp, VersionId};

const RULES: &[u8] = b"rules";

fn document(p: &MemoryProposer, document: &str, value: Option<&[u8]>) {
    let change = BucketChange::Document { name: document.to_owned(), value: value.map(<[u8]>::to_vec) };
    assert_eq!(propose(p, Command::ChangeBucket { name: name("bucket-1"), change }), Outcome::Done);
}

fn created(p: &MemoryProposer, bucket: BucketId, text: &str, version: VersionId) -> Timestamp {
    p.index().version(bucket, &key(text), version).unwrap().unwrap().created
}

fn expire(p: &MemoryProposer, bucket: BucketId, text: &str, version: VersionId, action: ExpireAction) -> Outcome {
    let created = created(p, bucket, text, version);
    let rules = document_digest(RULES);
    propose(p, Command::Expire { bucket, key: key(text), version, created, rules, action })
}

fn current(nonce: u8) -> ExpireAction {
    ExpireAction::Current { nonce: [nonce; 8] }
}

fn locked() -> BucketOptions {
    BucketOptions { object_lock: true, ..BucketOptions::default() }
}

#[test]
fn expiry_of_current_versions_is_a_delete() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    document(&p, LIFECYCLE_DOCUMENT, Some(RULES));
    propose(&p, put(bucket, "k", 1, 10));
    let old = created(&p, bucket, "k", VersionId::NULL);
    propose(&p, put(bucket, "k", 2, 20));
    // The worker saw the first state, the second was written before its command: the second stays.
    let rules = document_digest(RULES);
    let stale =
        Command::Expire { bucket, key: key("k"), version: VersionId::NULL, created: old, rules, action: current(1) };
    assert_eq!(propose(&p, stale), Outcome::Refused(Refusal::Stale));
    assert_eq!(
        expire(&p, bucket, "k", VersionId::NULL, current(1)),
        Outcome::Deleted { version: Some(VersionId::NULL), delete_marker: false }
    );
    assert_eq!(p.index().usage(bucket).unwrap().bytes, 0);
    assert_eq!(p.index().garbage(None, 10).unwrap().len(), 2);
}

#[test]
fn nothing_expires_by_rules_that_are_gone() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    propose(&p, put(bucket, "k", 1, 10));
    assert_eq!(expire(&p, bucket, "k", VersionId::NULL, current(1)), Outcome::Refused(Refusal::Stale));
    document(&p, LIFECYCLE_DOCUMENT, Some(b"other rules"));
    assert_eq!(expire(&p, bucket, "k", VersionId::NULL, current(1)), Outcome::Refused(Refusal::Stale));
    document(&p, LIFECYCLE_DOCUMENT, None);
    assert_eq!(expire(&p, bucket, "k", VersionId::NULL, current(1)), Outcome::Refused(Refusal::Stale));
    assert_eq!(p.index().usage(bucket).unwrap().objects, 1);
}

#[test]
fn versions_and_markers_expire_each_in_its_way() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Enabled, BucketOptions::default());
    document(&p, LIFECYCLE_DOCUMENT, Some(RULES));
    let first = version_of(propose(&p, put(bucket, "k", 1, 10)));
    let second = version_of(propose(&p, put(bucket, "k", 2, 20)));
    // A current version is never removed as a noncurrent one, nor an older one as the current one.
    assert_eq!(expire(&p, bucket, "k", second, ExpireAction::Noncurrent), Outcome::Refused(Refusal::Stale));
    assert_eq!(expire(&p, bucket, "k", first, current(1)), Outcome::Refused(Refusal::Stale));
    let marker = version_of(expire(&p, bucket, "k", second, current(1)));
    assert_eq!(p.index().usage(bucket).unwrap().versions, 3);
    assert_eq!(expire(&p, bucket, "k", marker, current(2)), Outcome::Refused(Refusal::Stale));
    // The marker has versions behind it.
    assert_eq!(expire(&p, bucket, "k", marker, ExpireAction::Marker), Outcome::Refused(Refusal::Stale));
    for version in [first, second] {
        let gone = expire(&p, bucket, "k", version, ExpireAction::Noncurrent);
        assert_eq!(gone, Outcome::Deleted { version: Some(version), delete_marker: false });
    }
    let gone = expire(&p, bucket, "k", marker, ExpireAction::Marker);
    assert_eq!(gone, Outcome::Deleted { version: Some(marker), delete_marker: true });
    assert_eq!(p.index().usage(bucket).unwrap().versions, 0);
    assert_eq!(p.index().current(bucket, &key("k")).unwrap(), None);
}

#[test]
fn lifecycle_meets_the_wall_of_object_lock() {
    let (p, clock) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Enabled, locked());
    document(&p, LIFECYCLE_DOCUMENT, Some(RULES));
    let held = version_of(propose(&p, put(bucket, "k", 1, 10)));
    let change = VersionChange::LegalHold(true);
    propose(&p, Command::ChangeVersion { bucket, key: key("k"), version: Some(held), change });
    let kept = version_of(propose(&p, put(bucket, "k", 2, 10)));
    let until = Timestamp(clock.0.0.load(std::sync::atomic::Ordering::SeqCst) + 60_000_000);
    let retention = Some(Retention { mode: RetentionMode::Governance, until });
    let change = VersionChange::Retention { retention, bypass: false };
    propose(&p, Command::ChangeVersion { bucket, key: key("k"), version: Some(kept), change });
    // A delete marker over a locked version is allowed, as in S3; removal is not.
    assert!(matches!(expire(&p, bucket, "k", kept, current(1)), Outcome::Deleted { delete_marker: true, .. }));
    for version in [held, kept] {
        let refused = expire(&p, bucket, "k", version, ExpireAction::Noncurrent);
        assert!(matches!(refused, Outcome::Refused(Refusal::Locked(_))), "{refused:?}");
    }
    clock.0.0.store(until.0 + 1, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(expire(&p, bucket, "k", kept, ExpireAction::Noncurrent), Outcome::Deleted { .. }));
    assert!(matches!(expire(&p, bucket, "k", held, ExpireAction::Noncurrent), Outcome::Refused(Refusal::Locked(_))));
}

#[test]
fn a_transition_changes_the_class_and_nothing_else() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Enabled, BucketOptions::default());
    document(&p, LIFECYCLE_DOCUMENT, Some(RULES));
    let first = version_of(propose(&p, put(bucket, "k", 1, 10)));
    propose(&p, put(bucket, "k", 2, 20));
    let mut before = p.index().version(bucket, &key("k"), first).unwrap().unwrap();
    let class = Some("STANDARD_IA".to_owned());
    let action = ExpireAction::Transition { class: class.clone() };
    assert_eq!(expire(&p, bucket, "k", first, action), Outcome::Done);
    if let granary_meta::records::VersionBody::Object(object) = &mut before.body {
        object.attributes.headers.storage_class = class;
    }
    assert_eq!(p.index().version(bucket, &key("k"), first).unwrap(), Some(before));
}

fn quota(p: &MemoryProposer, bytes: Option<u64>, objects: Option<u64>) {
    let change = BucketChange::Quota { bytes, objects };
    assert_eq!(propose(p, Command::ChangeBucket { name: name("bucket-1"), change }), Outcome::Done);
}

#[test]
fn quotas_hold_for_every_way_of_writing() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Enabled, BucketOptions::default());
    let full = Outcome::Refused(Refusal::QuotaExceeded);
    quota(&p, Some(100), Some(3));
    propose(&p, put(bucket, "a", 1, 60));
    assert_eq!(propose(&p, put(bucket, "b", 2, 41)), full);
    propose(&p, create_upload(bucket, "u", 50, 5));
    assert_eq!(propose(&p, put_part(bucket, "u", 50, 1, 3, 41)), full);
    assert_eq!(propose(&p, put_part(bucket, "u", 50, 1, 4, 40)), Outcome::Done);
    // Bytes are used up; completing moves them and takes none.
    assert!(matches!(propose(&p, complete(bucket, "u", 50, &[(1, 4)])), Outcome::Put { .. }));
    quota(&p, None, Some(3));
    propose(&p, put(bucket, "c", 5, 1));
    assert_eq!(propose(&p, put(bucket, "d", 6, 1)), full);
    propose(&p, create_upload(bucket, "v", 51, 6));
    propose(&p, put_part(bucket, "v", 51, 1, 7, 1));
    assert_eq!(propose(&p, complete(bucket, "v", 51, &[(1, 7)])), full);
    // Deletes always work, though their markers count.
    assert!(matches!(propose(&p, delete(bucket, "c", 9)), Outcome::Deleted { delete_marker: true, .. }));
    assert_eq!(p.index().usage(bucket).unwrap().versions, 4);
    quota(&p, None, None);
    assert!(matches!(propose(&p, put(bucket, "d", 8, 1)), Outcome::Put { .. }));
}

#[test]
fn a_replacement_fits_into_a_full_bucket() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    quota(&p, Some(10), Some(1));
    propose(&p, put(bucket, "a", 1, 10));
    assert!(matches!(propose(&p, put(bucket, "a", 2, 10)), Outcome::Put { .. }));
    assert_eq!(propose(&p, put(bucket, "a", 3, 11)), Outcome::Refused(Refusal::QuotaExceeded));
    assert_eq!(propose(&p, append(&p, bucket, "a", 10, 4, 1)), Outcome::Refused(Refusal::QuotaExceeded));
}

fn rule(target: &str, events: &[&str], prefix: Option<&str>) -> NotificationRule {
    NotificationRule {
        id: format!("to-{target}"),
        form: RuleForm::Queue,
        target: target.to_owned(),
        events: events.iter().map(|e| (*e).to_owned()).collect(),
        prefix: prefix.map(str::to_owned),
        suffix: None,
    }
}

fn kinds(p: &MemoryProposer, target: &str) -> Vec<(EventKind, Option<String>)> {
    let events = p.index().events(target, 0, 100).unwrap();
    assert!(events.windows(2).all(|w| w[0].sequence < w[1].sequence));
    assert_eq!(p.index().event_queue(target).unwrap().count, events.len() as u64);
    events.into_iter().map(|e| (e.kind, e.object.map(|o| o.key.as_str().to_owned()))).collect()
}

#[test]
fn events_are_made_with_the_change_in_order_and_go_when_acknowledged() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Enabled, BucketOptions::default());
    propose(&p, put(bucket, "before", 1, 1));
    let rules = NotificationRules {
        rules: vec![
            rule("one", &["s3:ObjectCreated:*", "s3:ObjectRemoved:*"], None),
            rule("two", &["s3:ObjectCreated:Copy"], Some("c/")),
        ],
    };
    document(&p, NOTIFICATION_DOCUMENT, Some(&rules.encode()));
    assert_eq!(kinds(&p, "two"), [(EventKind::Test, None)]);
    let version = version_of(propose(&p, put(bucket, "k", 2, 5)));
    let origin = Box::new(Origin { principal: "me".into(), cause: Cause::Copy, ..Origin::default() });
    propose(&p, Command::From { origin, command: Box::new(put(bucket, "c/k", 3, 6)) });
    propose(&p, delete(bucket, "k", 4));
    propose(&p, delete_version(bucket, "k", version));
    // A refused command makes no event, and neither does deleting what is not there.
    let none = Condition { if_none_match: Some(EtagMatch::Any), ..Condition::default() };
    propose(&p, with_condition(put(bucket, "c/k", 9, 1), none));
    propose(&p, delete_version(bucket, "nothing", VersionId([7; 16])));
    let key = |k: &str| Some(k.to_owned());
    assert_eq!(
        kinds(&p, "one"),
        [
            (EventKind::Test, None),
            (EventKind::CreatedPut, key("k")),
            (EventKind::CreatedCopy, key("c/k")),
            (EventKind::RemovedMarkerCreated, key("k")),
            (EventKind::RemovedDelete, key("k")),
        ]
    );
    assert_eq!(kinds(&p, "two"), [(EventKind::Test, None), (EventKind::CreatedCopy, key("c/k"))]);
    let events = p.index().events("one", 0, 100).unwrap();
    assert_eq!(events[2].origin.as_ref().map(|o| o.principal.as_str()), Some("me"));
    assert_eq!(events[1].object.as_ref().unwrap().version, Some(version));
    propose(&p, Command::AckEvents { target: "one".into(), through: events[2].sequence });
    assert_eq!(kinds(&p, "one").len(), 2);
    // Numbers go on where they were, also behind an empty queue.
    let last = events[4].sequence;
    propose(&p, Command::AckEvents { target: "one".into(), through: last });
    propose(&p, Command::AckEvents { target: "two".into(), through: last });
    propose(&p, put(bucket, "k", 10, 5));
    assert_eq!(p.index().events("one", 0, 100).unwrap()[0].sequence, last + 1);
    assert_eq!(p.index().event_queues().unwrap().len(), 2);
}

fn append(p: &MemoryProposer, bucket: BucketId, text: &str, offset: u64, n: u64, size: u64) -> Command {
    let there = p.index().current(bucket, &key(text)).unwrap();
    Command::Append {
        bucket,
        key: key(text),
        offset,
        base: there.map_or(Timestamp(0), |v| v.created),
        part: Box::new(part(n, size, PartPlace::Drives(placement()))),
        inline: None,
        manifest: upload_id(1000 + n),
        condition: Condition::default(),
    }
}

#[test]
fn appends_add_parts_and_copy_nothing() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    assert_eq!(propose(&p, append(&p, bucket, "k", 0, 1, 5)), Outcome::Refused(Refusal::NoSuchKey));
    propose(&p, put_inline(bucket, "k", 2, b"hello"));
    let wrong = Outcome::Refused(Refusal::InvalidWriteOffset { size_bytes: 5 });
    for offset in [0, 4, 6] {
        assert_eq!(propose(&p, append(&p, bucket, "k", offset, 3, 7)), wrong);
    }
    let mut etags = vec![etag(2)];
    let (mut size, mut count) = (5, 1u32);
    for n in 3..6 {
        let done = propose(&p, append(&p, bucket, "k", size, n, 7));
        size += 7;
        count += 1;
        let Outcome::Put { etag, size_bytes, .. } = done else { panic!("{done:?}") };
        assert_eq!(size_bytes, size);
        assert!(etag.ends_with(&format!("-{count}")), "{etag}");
        assert!(!etags.contains(&etag));
        etags.push(etag);
    }
    let object = p.index().current(bucket, &key("k")).unwrap().unwrap();
    let Parts::Manifest { id, count: 4 } = object.object().unwrap().parts else { panic!("{object:?}") };
    let parts: Vec<_> = p.index().manifest(id).unwrap().unwrap().iter().map(|part| part.id).collect();
    assert_eq!(parts, [2, 3, 4, 5].map(part_id));
    assert_eq!(p.index().usage(bucket).unwrap().bytes, size);
    assert_eq!(p.index().usage(bucket).unwrap().versions, 1);
    #[allow(clippy::needless_range_loop)]
    for position in 1..4 {
        let reference = p.index().part_ref(parts[position]).unwrap().unwrap();
        assert_eq!(reference.owner, PartOwner::Manifest { id, position: position as u32 });
    }
    // One who saw an older state of the same size loses.
    let mut late = append(&p, bucket, "k", size, 9, 1);
    if let Command::Append { base, .. } = &mut late {
        base.0 -= 1;
    }
    assert_eq!(propose(&p, late), Outcome::Refused(Refusal::Conflict));
    propose(&p, delete(bucket, "k", 1));
    assert_eq!(p.index().garbage(None, 10).unwrap().len(), 3);
    assert_eq!(p.index().manifest(id).unwrap(), None);
    assert_eq!(p.index().usage(bucket).unwrap().bytes, 0);
}

#[test]
fn versioned_and_write_once_buckets_take_no_appends() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Enabled, BucketOptions::default());
    propose(&p, put(bucket, "k", 1, 5));
    assert!(matches!(propose(&p, append(&p, bucket, "k", 5, 2, 5)), Outcome::Refused(Refusal::InvalidState(_))));
    let (p, _) = memory();
    let options = BucketOptions { write_once: true, ..BucketOptions::default() };
    let bucket = make_bucket(&p, 1, Versioning::Off, options);
    propose(&p, put(bucket, "k", 1, 5));
    assert_eq!(propose(&p, append(&p, bucket, "k", 5, 2, 5)), Outcome::Refused(Refusal::WriteOnce));
}

fn rename(bucket: BucketId, from: &str, to: &str, token: Option<&str>) -> Command {
    Command::Rename {
        bucket,
        source: key(from),
        destination: key(to),
        source_condition: RenameCondition::default(),
        condition: RenameCondition::default(),
        token: token.map(str::to_owned),
    }
}

#[test]
fn a_rename_moves_and_replaces_in_one_step() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    propose(&p, put(bucket, "a", 1, 5));
    propose(&p, put(bucket, "b", 2, 7));
    assert_eq!(propose(&p, rename(bucket, "nothing", "b", None)), Outcome::Refused(Refusal::NoSuchKey));
    let before = p.index().current(bucket, &key("a")).unwrap();
    assert_eq!(propose(&p, rename(bucket, "a", "b", Some("t"))), Outcome::Done);
    assert_eq!(p.index().current(bucket, &key("b")).unwrap(), before);
    assert_eq!(p.index().current(bucket, &key("a")).unwrap(), None);
    let usage = p.index().usage(bucket).unwrap();
    assert_eq!((usage.objects, usage.versions, usage.bytes), (1, 1, 5));
    assert_eq!(p.index().garbage(None, 10).unwrap().len(), 1);
    match p.index().part_ref(part_id(1)).unwrap().unwrap().owner {
        PartOwner::Version { key: at, .. } => assert_eq!(at, key("b")),
        other => panic!("{other:?}"),
    }
    // The same token again is the same rename; with other keys it is a mistake.
    assert_eq!(propose(&p, rename(bucket, "a", "b", Some("t"))), Outcome::Done);
    assert_eq!(propose(&p, rename(bucket, "b", "c", Some("t"))), Outcome::Refused(Refusal::TokenReused));
    assert_eq!(propose(&p, rename(bucket, "a", "b", Some("u"))), Outcome::Refused(Refusal::NoSuchKey));
}

#[test]
fn conditions_of_renames_hold_on_both_sides() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    propose(&p, put(bucket, "a", 1, 5));
    propose(&p, put(bucket, "b", 2, 7));
    let with = |source: RenameCondition, destination: RenameCondition| match rename(bucket, "a", "b", None) {
        Command::Rename { bucket, source: from, destination: to, token, .. } => Command::Rename {
            bucket,
            source: from,
            destination: to,
            source_condition: source,
            condition: destination,
            token,
        },
        other => other,
    };
    let none = RenameCondition { if_none_match: Some(EtagMatch::Any), ..RenameCondition::default() };
    let is = |n: u64| RenameCondition { if_match: Some(EtagMatch::OneOf(vec![etag(n)])), ..RenameCondition::default() };
    let failed = |outcome: Outcome| matches!(outcome, Outcome::Refused(Refusal::Precondition(_)));
    assert!(failed(propose(&p, with(RenameCondition::default(), none))));
    assert!(failed(propose(&p, with(is(2), RenameCondition::default()))));
    assert!(failed(propose(&p, with(RenameCondition::default(), is(1)))));
    assert_eq!(propose(&p, with(is(1), is(2))), Outcome::Done);
}
