//! What each command does, one family at a time.

use crate::support::*;
use granary_meta::command::{BucketChange, Command, Condition, EtagMatch, Outcome, Refusal, VersionChange};
use granary_meta::records::{BucketOptions, PartOwner, Parts, Retention, RetentionMode, Versioning};
use granary_meta::{Proposer, Usage};
use granary_types::{BucketId, DriveId, DriveNo, Placement, Scheme, Timestamp, VersionId};

fn refused(refusal: Refusal) -> Outcome {
    Outcome::Refused(refusal)
}

fn listed(p: &dyn Proposer, bucket: BucketId) -> Vec<String> {
    let page = p.index().list(bucket, "", None, None, 1000).unwrap();
    page.objects.into_iter().map(|(key, _)| key).collect()
}

#[test]
fn buckets_are_made_changed_and_deleted_when_empty() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    let again = bucket_record(2, "bucket-1", Versioning::Off, BucketOptions::default());
    assert_eq!(
        propose(&p, Command::CreateBucket(Box::new(again))),
        refused(Refusal::BucketExists { owner: "owner".to_owned() })
    );
    let document = |value: Option<&[u8]>| Command::ChangeBucket {
        name: name("bucket-1"),
        change: BucketChange::Document { name: "cors".to_owned(), value: value.map(<[u8]>::to_vec) },
    };
    propose(&p, document(Some(b"<cors/>")));
    assert_eq!(p.index().bucket(&name("bucket-1")).unwrap().unwrap().documents["cors"], b"<cors/>");
    propose(&p, document(None));
    assert!(p.index().bucket_by_id(bucket).unwrap().unwrap().documents.is_empty());

    let versioning = |to| Command::ChangeBucket { name: name("bucket-1"), change: BucketChange::Versioning(to) };
    assert_eq!(propose(&p, versioning(Versioning::Enabled)), Outcome::Done);
    assert!(matches!(propose(&p, versioning(Versioning::Off)), Outcome::Refused(Refusal::InvalidState(_))));

    let remove = Command::DeleteBucket { name: name("bucket-1") };
    propose(&p, put(bucket, "a", 1, 10));
    let marker = version_of(propose(&p, delete(bucket, "a", 2)));
    assert_eq!(propose(&p, remove.clone()), refused(Refusal::BucketNotEmpty), "versions are hidden, not gone");
    propose(&p, delete_version(bucket, "a", marker));
    let version = p.index().current(bucket, &key("a")).unwrap().unwrap().version;
    propose(&p, delete_version(bucket, "a", version));
    propose(&p, create_upload(bucket, "b", 1, 1));
    assert_eq!(propose(&p, remove.clone()), refused(Refusal::BucketNotEmpty), "an upload is open");
    propose(&p, Command::AbortUpload { bucket, key: key("b"), upload: upload_id(1) });
    assert_eq!(propose(&p, remove.clone()), Outcome::Done);
    assert_eq!(propose(&p, remove), refused(Refusal::NoSuchBucket));
    assert_eq!(propose(&p, put(bucket, "a", 3, 1)), refused(Refusal::NoSuchBucket));
    assert!(p.index().list_buckets().unwrap().is_empty());
}

#[test]
fn unversioned_writes_replace_and_free() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    assert_eq!(version_of(propose(&p, put(bucket, "a", 1, 100))), VersionId::NULL);
    propose(&p, put(bucket, "a", 2, 50));
    let index = p.index();
    assert_eq!(index.current(bucket, &key("a")).unwrap().unwrap().object().unwrap().size_bytes, 50);
    let garbage = index.garbage(None, 10).unwrap();
    assert_eq!(garbage.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [part_id(1)]);
    assert!(matches!(index.part_ref(part_id(2)).unwrap().unwrap().owner, PartOwner::Version { .. }));
    assert_eq!(index.usage(bucket).unwrap(), Usage { objects: 1, versions: 1, bytes: 50, ..Usage::default() });

    assert_eq!(
        propose(&p, delete(bucket, "a", 3)),
        Outcome::Deleted { version: Some(VersionId::NULL), delete_marker: false }
    );
    assert_eq!(propose(&p, delete(bucket, "a", 4)), Outcome::Deleted { version: None, delete_marker: false });
    assert_eq!(index.usage(bucket).unwrap(), Usage::default());
    propose(&p, Command::ForgetGarbage { parts: vec![part_id(1), part_id(2), part_id(77)] });
    assert!(index.garbage(None, 10).unwrap().is_empty());
    assert!(index.part_refs(None, 10).unwrap().is_empty());
}

#[test]
fn inline_payloads_live_and_die_with_their_version() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    propose(&p, put_inline(bucket, "a", 1, b"sealed one"));
    let found = p.index().current_with_inline(bucket, &key("a")).unwrap().unwrap();
    assert_eq!(found.inline.as_deref(), Some(&b"sealed one"[..]));
    propose(&p, put_inline(bucket, "a", 2, b"sealed two"));
    assert_eq!(p.index().inline(part_id(1)).unwrap(), None);
    assert_eq!(p.index().inline(part_id(2)).unwrap().as_deref(), Some(&b"sealed two"[..]));
    assert!(
        matches!(propose(&p, put_inline(bucket, "b", 2, b"x")), Outcome::Refused(Refusal::InvalidState(_))),
        "part ids are never reused"
    );
    propose(&p, delete(bucket, "a", 3));
    assert_eq!(p.index().inline(part_id(2)).unwrap(), None);
    assert!(p.index().garbage(None, 1).unwrap().is_empty());
}

#[test]
fn versioned_history_is_ordered_and_promoted() {
    let (p, clock) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Enabled, BucketOptions::default());
    let first = version_of(propose(&p, put(bucket, "a", 1, 1)));
    // A clock that goes backwards does not disturb the order.
    clock.0.0.store(5, std::sync::atomic::Ordering::SeqCst);
    let second = version_of(propose(&p, put(bucket, "a", 2, 2)));
    let marker = version_of(propose(&p, delete(bucket, "a", 3)));
    assert!(marker < second && second < first, "newer ids sort first");
    assert!(listed(&p, bucket).is_empty());
    let page = p.index().list_versions(bucket, "", None, None, None, 10).unwrap();
    let ids: Vec<_> = page.versions.iter().map(|(_, v, latest)| (v.version, *latest)).collect();
    assert_eq!(ids, [(marker, true), (second, false), (first, false)]);
    let history = page.versions.windows(2).all(|w| w[0].1.created > w[1].1.created);
    assert!(history);

    assert_eq!(
        propose(&p, delete_version(bucket, "a", marker)),
        Outcome::Deleted { version: Some(marker), delete_marker: true }
    );
    assert_eq!(p.index().current(bucket, &key("a")).unwrap().unwrap().version, second);
    propose(&p, delete_version(bucket, "a", first));
    assert_eq!(p.index().version(bucket, &key("a"), first).unwrap(), None);
    assert_eq!(p.index().version(bucket, &key("a"), second).unwrap().unwrap().version, second);
    assert_eq!(
        propose(&p, delete_version(bucket, "a", first)),
        Outcome::Deleted { version: Some(first), delete_marker: false },
        "deleting what is not there succeeds"
    );
    assert_eq!(p.index().usage(bucket).unwrap(), Usage { objects: 1, versions: 1, bytes: 2, ..Usage::default() });
}

#[test]
fn suspended_buckets_replace_only_the_null_version() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    let set = |to| Command::ChangeBucket { name: name("bucket-1"), change: BucketChange::Versioning(to) };
    propose(&p, put(bucket, "a", 1, 1));
    propose(&p, set(Versioning::Enabled));
    let kept = version_of(propose(&p, put(bucket, "a", 2, 2)));
    assert_eq!(p.index().version(bucket, &key("a"), VersionId::NULL).unwrap().unwrap().object().unwrap().size_bytes, 1);
    propose(&p, set(Versioning::Suspended));
    // Replaces the null version that lies behind `kept`.
    assert_eq!(version_of(propose(&p, put(bucket, "a", 3, 3))), VersionId::NULL);
    let page = p.index().list_versions(bucket, "", None, None, None, 10).unwrap();
    let ids: Vec<_> = page.versions.iter().map(|(_, v, _)| v.version).collect();
    assert_eq!(ids, [VersionId::NULL, kept]);
    assert_eq!(p.index().garbage(None, 9).unwrap()[0].0, part_id(1));
    assert_eq!(
        propose(&p, delete(bucket, "a", 4)),
        Outcome::Deleted { version: Some(VersionId::NULL), delete_marker: true }
    );
    assert_eq!(p.index().usage(bucket).unwrap(), Usage { objects: 0, versions: 2, bytes: 2, ..Usage::default() });
    propose(&p, delete_version(bucket, "a", VersionId::NULL));
    assert_eq!(p.index().current(bucket, &key("a")).unwrap().unwrap().version, kept);
}

#[test]
fn preconditions_hold_inside_apply() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Enabled, BucketOptions::default());
    let if_match = |m| Condition { if_match: Some(m), ..Condition::default() };
    let if_none = |m| Condition { if_none_match: Some(m), ..Condition::default() };
    let one = |e| EtagMatch::OneOf(vec![e]);
    let try_put = |n, c| propose(&p, with_condition(put(bucket, "a", n, 1), c));

    assert_eq!(try_put(1, if_match(EtagMatch::Any)), refused(Refusal::NoSuchKey));
    assert!(matches!(try_put(1, if_none(EtagMatch::Any)), Outcome::Put { .. }));
    assert_eq!(try_put(2, if_none(EtagMatch::Any)), refused(Refusal::Precondition("If-None-Match")));
    assert_eq!(try_put(2, if_none(one(etag(1)))), refused(Refusal::Precondition("If-None-Match")));
    assert_eq!(try_put(2, if_match(one(etag(9)))), refused(Refusal::Precondition("If-Match")));
    assert!(matches!(try_put(2, if_match(one(etag(1)))), Outcome::Put { .. }));
    let size = Condition { if_match_size: Some(5), ..Condition::default() };
    let gone = with_condition(delete(bucket, "a", 3), size);
    assert_eq!(propose(&p, gone), refused(Refusal::Precondition("x-amz-if-match-size")));
    propose(&p, delete(bucket, "a", 4));
    assert!(matches!(try_put(5, if_none(EtagMatch::Any)), Outcome::Put { .. }), "a delete marker counts as nothing");
}

#[test]
fn write_once_keys_and_quotas() {
    let (p, _) = memory();
    let once = BucketOptions { write_once: true, quota_bytes: Some(100), ..BucketOptions::default() };
    let bucket = make_bucket(&p, 1, Versioning::Off, once);
    assert!(matches!(propose(&p, put(bucket, "a", 1, 60)), Outcome::Put { .. }));
    assert_eq!(propose(&p, put(bucket, "a", 2, 1)), refused(Refusal::WriteOnce));
    assert_eq!(propose(&p, put(bucket, "b", 3, 41)), refused(Refusal::QuotaExceeded));
    assert!(matches!(propose(&p, put(bucket, "b", 4, 40)), Outcome::Put { .. }));
    propose(&p, create_upload(bucket, "c", 1, 1));
    assert_eq!(propose(&p, put_part(bucket, "c", 1, 1, 5, 1)), refused(Refusal::QuotaExceeded), "parts count too");
    propose(&p, delete(bucket, "a", 6));
    assert_eq!(propose(&p, put_part(bucket, "c", 1, 1, 7, 60)), Outcome::Done);
    assert!(matches!(propose(&p, complete(bucket, "c", 1, &[(1, 7)])), Outcome::Put { .. }));
}

#[test]
fn object_lock_guards_every_way_out() {
    let (p, clock) = memory();
    let options = BucketOptions { object_lock: true, ..BucketOptions::default() };
    let bucket = make_bucket(&p, 1, Versioning::Off, options);
    assert_eq!(p.index().bucket_by_id(bucket).unwrap().unwrap().versioning, Versioning::Enabled);
    let set = |to| Command::ChangeBucket { name: name("bucket-1"), change: BucketChange::Versioning(to) };
    assert!(matches!(propose(&p, set(Versioning::Suspended)), Outcome::Refused(Refusal::InvalidState(_))));

    let version = version_of(propose(&p, put(bucket, "a", 1, 1)));
    let change = |change| Command::ChangeVersion { bucket, key: key("a"), version: Some(version), change };
    let until = |secs: u64| Timestamp(1_000_000_000_000 + secs * 1_000_000);
    let retain = |mode, secs, bypass| {
        change(VersionChange::Retention { retention: Some(Retention { mode, until: until(secs) }), bypass })
    };
    let remove =
        |bypass| Command::DeleteVersion { bucket, key: key("a"), version, condition: Condition::default(), bypass };
    propose(&p, change(VersionChange::LegalHold(true)));
    assert!(matches!(propose(&p, remove(true)), Outcome::Refused(Refusal::Locked(_))));
    propose(&p, change(VersionChange::LegalHold(false)));

    propose(&p, retain(RetentionMode::Governance, 1000, false));
    assert!(matches!(propose(&p, remove(false)), Outcome::Refused(Refusal::Locked(_))));
    assert!(matches!(propose(&p, retain(RetentionMode::Governance, 10, false)), Outcome::Refused(Refusal::Locked(_))));
    assert!(matches!(propose(&p, retain(RetentionMode::Governance, 900, true)), Outcome::Put { .. }));
    assert!(matches!(propose(&p, retain(RetentionMode::Compliance, 2000, false)), Outcome::Put { .. }));
    assert!(matches!(propose(&p, retain(RetentionMode::Compliance, 1500, true)), Outcome::Refused(Refusal::Locked(_))));
    assert!(matches!(propose(&p, retain(RetentionMode::Governance, 3000, true)), Outcome::Refused(Refusal::Locked(_))));
    assert!(matches!(propose(&p, remove(true)), Outcome::Refused(Refusal::Locked(_))), "nobody lifts compliance");
    // A delete without a version id only hides it.
    assert!(matches!(propose(&p, delete(bucket, "a", 2)), Outcome::Deleted { delete_marker: true, .. }));
    clock.0.0.store(until(2001).0, std::sync::atomic::Ordering::SeqCst);
    assert!(matches!(propose(&p, remove(false)), Outcome::Deleted { .. }), "its time has passed");
}

#[test]
fn default_retention_is_put_on_new_versions() {
    let (p, _) = memory();
    let retention = Some((RetentionMode::Governance, 60));
    let options = BucketOptions { object_lock: true, default_retention: retention, ..BucketOptions::default() };
    let bucket = make_bucket(&p, 1, Versioning::Enabled, options);
    propose(&p, put(bucket, "a", 1, 1));
    let version = p.index().current(bucket, &key("a")).unwrap().unwrap();
    let made = version.object().unwrap().attributes.retention.unwrap();
    assert_eq!(made, Retention { mode: RetentionMode::Governance, until: Timestamp(version.created.0 + 60_000_000) });
    let plain = make_bucket(&p, 2, Versioning::Enabled, BucketOptions::default());
    let mut record = object(2, 1);
    record.attributes.legal_hold = true;
    let hold = Command::PutVersion {
        bucket: plain,
        key: key("a"),
        object: Box::new(record),
        inline: None,
        nonce: [0; 8],
        condition: Condition::default(),
    };
    assert!(matches!(propose(&p, hold), Outcome::Refused(Refusal::InvalidState(_))));
}

#[test]
fn attributes_change_on_any_version() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Enabled, BucketOptions::default());
    let old = version_of(propose(&p, put(bucket, "a", 1, 1)));
    propose(&p, put(bucket, "a", 2, 1));
    let tags = vec![("k".to_owned(), "v".to_owned())];
    let tag =
        |version| Command::ChangeVersion { bucket, key: key("a"), version, change: VersionChange::Tags(tags.clone()) };
    assert_eq!(version_of(propose(&p, tag(Some(old)))), old);
    let of = |v: Option<granary_meta::records::VersionRecord>| v.unwrap().object().unwrap().attributes.tags.clone();
    assert_eq!(of(p.index().version(bucket, &key("a"), old).unwrap()), tags);
    assert!(of(p.index().current(bucket, &key("a")).unwrap()).is_empty());
    propose(&p, tag(None));
    assert_eq!(of(p.index().current(bucket, &key("a")).unwrap()), tags);
    assert_eq!(propose(&p, tag(Some(VersionId([1; 16])))), refused(Refusal::NoSuchVersion));
    propose(&p, delete(bucket, "a", 3));
    assert_eq!(propose(&p, tag(None)), refused(Refusal::IsDeleteMarker));
}

#[test]
fn drives_get_numbers_that_are_never_reused() {
    let (p, _) = memory();
    let register = |n| propose(&p, Command::RegisterDrive { drive: DriveId([n; 16]) });
    assert_eq!(register(1), Outcome::Drive(DriveNo(0)));
    assert_eq!(register(2), Outcome::Drive(DriveNo(1)));
    assert_eq!(register(1), Outcome::Drive(DriveNo(0)));
    assert_eq!(propose(&p, Command::RetireDrive { drive: DriveId([2; 16]) }), Outcome::Drive(DriveNo(1)));
    assert!(matches!(register(2), Outcome::Refused(Refusal::InvalidState(_))));
    assert_eq!(register(3), Outcome::Drive(DriveNo(2)));
    assert!(p.index().drive(DriveNo(1)).unwrap().unwrap().retired);
}

#[test]
fn parts_move_only_from_where_they_are() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Enabled, BucketOptions::default());
    let old = version_of(propose(&p, put(bucket, "a", 1, 1)));
    propose(&p, put(bucket, "a", 2, 1));
    let to = Placement { scheme: Scheme { k: 1, m: 1 }, drives: vec![DriveNo(0), DriveNo(7)], missing: 0 };
    let go = |part, from: &Placement, to: &Placement| {
        propose(&p, Command::MovePart { part: part_id(part), from: from.clone(), to: to.clone() })
    };
    assert_eq!(go(1, &placement(), &to), Outcome::Done);
    assert_eq!(go(1, &placement(), &to), refused(Refusal::Stale));
    let Parts::One(part) = p.index().version(bucket, &key("a"), old).unwrap().unwrap().object().unwrap().parts.clone()
    else {
        panic!("one part")
    };
    assert_eq!(part.location().unwrap().placement, to);
    propose(&p, delete_version(bucket, "a", old));
    assert_eq!(go(1, &to, &placement()), refused(Refusal::Stale), "garbage does not move");
    assert_eq!(p.index().garbage(None, 1).unwrap()[0].1.placement, to, "garbage lies where it was moved to");
    assert_eq!(go(99, &to, &placement()), refused(Refusal::Stale));

    propose(&p, create_upload(bucket, "m", 5, 1));
    propose(&p, put_part(bucket, "m", 5, 1, 10, 3));
    assert_eq!(go(10, &placement(), &to), Outcome::Done);
    propose(&p, complete(bucket, "m", 5, &[(1, 10)]));
    assert_eq!(go(10, &to, &placement()), Outcome::Done);
    let manifest = p.index().manifest(upload_id(5)).unwrap().unwrap();
    assert_eq!(manifest[0].location().unwrap().placement, placement());
}

#[test]
fn system_records_are_kept_and_removed() {
    let (p, _) = memory();
    let set = |name: &str, value: Option<&'static [u8]>| {
        propose(&p, Command::SetSystem { name: name.to_owned(), value: value.map(bytes::Bytes::from_static) })
    };
    set("heal/cursor", Some(b"1"));
    set("heal/other", Some(b"2"));
    set("keys/a", Some(b"3"));
    assert_eq!(p.index().system("heal/cursor").unwrap().as_deref(), Some(&b"1"[..]));
    let names: Vec<_> = p.index().systems("heal/").unwrap().into_iter().map(|(n, _)| n).collect();
    assert_eq!(names, ["heal/cursor", "heal/other"]);
    set("heal/cursor", None);
    assert_eq!(p.index().system("heal/cursor").unwrap(), None);
}
