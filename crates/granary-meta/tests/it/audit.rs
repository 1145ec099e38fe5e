//! The audit chain in `apply`: every command's event becomes a record with its outcome, nobody touches the trail, and a
//! store that is opened again goes on where it was.

use bytes::Bytes;
use futures::executor::block_on;
use granary_meta::command::{BucketChange, Command, Outcome, Refusal, SealAudit, SealedObject};
use granary_meta::records::{BucketOptions, Versioning};
use granary_meta::{AUDIT_KEEP_DAYS, Proposer};
use granary_types::names::AUDIT_BUCKET;
use granary_types::{AuditOutcome, AuditRecord, Head};

use crate::support::*;

fn event(text: &'static str) -> Option<Bytes> {
    Some(Bytes::from_static(text.as_bytes()))
}

fn audited(p: &dyn Proposer, command: Command, text: &'static str) -> Outcome {
    block_on(p.propose_audited(command, event(text))).unwrap()
}

fn records(p: &dyn Proposer) -> Vec<AuditRecord> {
    let index = p.index().load().unwrap();
    let bytes = index.audit_records(1, 1000, 1 << 20).unwrap();
    let sealed = index.audit_state().sealed;
    let head = bytes.iter().fold(sealed.head, |head, record| head.extend(record));
    assert_eq!(head, index.audit_state().head, "the records lead to the head");
    bytes.iter().map(|bytes| AuditRecord::decode(bytes).unwrap()).collect()
}

#[test]
fn every_command_leaves_a_record_with_its_outcome_also_when_it_is_refused() {
    let (p, _) = memory();
    let bucket =
        make_bucket(&p, 1, Versioning::Enabled, BucketOptions { write_once: true, ..BucketOptions::default() });
    let done = audited(&p, put(bucket, "a", 1, 10), "put");
    assert_eq!(audited(&p, put(bucket, "a", 2, 10), "again"), Outcome::Refused(Refusal::WriteOnce));
    propose(&p, put(bucket, "b", 3, 10)); // without an event: nobody's business here
    audited(&p, Command::Audit { events: vec![Bytes::from_static(b"r1"), Bytes::from_static(b"r2")] }, "never");
    let all = records(&p);
    let shown: Vec<(u64, &[u8], &AuditOutcome)> = all.iter().map(|r| (r.sequence, &r.event[..], &r.outcome)).collect();
    let version = version_of(done);
    let refused = AuditOutcome::Refused("PreconditionFailed".into());
    assert_eq!(
        shown,
        [
            (1, &b"put"[..], &AuditOutcome::Done(Some(version))),
            (2, b"again", &refused),
            (3, b"r1", &AuditOutcome::Told),
            (4, b"r2", &AuditOutcome::Told),
            (5, b"never", &AuditOutcome::Done(None)),
        ]
    );
}

#[test]
fn nobody_changes_the_audit_bucket() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    let record = bucket_record(2, AUDIT_BUCKET, Versioning::Off, BucketOptions::default());
    let audit = record.id;
    propose(&p, Command::CreateBucket(Box::new(record)));
    let protected =
        |outcome: Outcome| assert!(matches!(outcome, Outcome::Refused(Refusal::Protected(_))), "{outcome:?}");
    protected(propose(&p, put(audit, "k", 1, 10)));
    protected(propose(&p, delete(audit, "k", 1)));
    protected(propose(&p, create_upload(audit, "k", 1, 1)));
    protected(propose(&p, Command::DeleteBucket { name: name(AUDIT_BUCKET) }));
    let change = BucketChange::Document { name: "lifecycle".into(), value: Some(vec![1]) };
    protected(propose(&p, Command::ChangeBucket { name: name(AUDIT_BUCKET), change }));
    assert!(matches!(propose(&p, put(bucket, "k", 2, 10)), Outcome::Put { .. }));
}

#[test]
fn the_time_that_the_trail_is_kept_only_grows() {
    let (p, _) = memory();
    let set = |value: Option<&'static str>| {
        let value = value.map(|text| Bytes::from_static(text.as_bytes()));
        propose(&p, Command::SetSystem { name: AUDIT_KEEP_DAYS.to_owned(), value })
    };
    assert!(matches!(set(Some("179")), Outcome::Refused(Refusal::Protected(_))));
    assert_eq!(set(Some("365")), Outcome::Done);
    for less in [Some("364"), Some("180"), None, Some("for ever"), Some("")] {
        assert!(matches!(set(less), Outcome::Refused(Refusal::Protected(_))), "{less:?}");
    }
    assert_eq!(set(Some("400")), Outcome::Done);
}

/// A seal of the first `through` records.
fn seal(p: &dyn Proposer, through: u64, n: u64) -> Command {
    let index = p.index().load().unwrap();
    let state = index.audit_state();
    let first = state.sealed.through + 1;
    let records = index.audit_records(first, usize::try_from(through + 1 - first).unwrap(), 1 << 20).unwrap();
    let head = records.iter().fold(state.sealed.head, |head, record| head.extend(record));
    let audit = index.bucket(&name(AUDIT_BUCKET)).unwrap().id;
    let object =
        SealedObject { key: key(&format!("s{n}")), object: Box::new(object(n, 100)), inline: None, nonce: [0; 8] };
    Command::SealAudit(Box::new(SealAudit {
        bucket: audit,
        segment: state.sealed.segment + 1,
        first,
        through,
        head,
        seal: format!("seal {n}"),
        objects: vec![object],
    }))
}

#[test]
fn sealing_moves_events_out_at_once_or_not_at_all_and_survives_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let before = {
        let (p, _) = open(dir.path(), 1, 1);
        let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
        let record = bucket_record(2, AUDIT_BUCKET, Versioning::Off, BucketOptions::default());
        let audit = record.id;
        propose(&p, Command::CreateBucket(Box::new(record)));
        for n in 0..5 {
            audited(&p, put(bucket, "a", n + 1, 10), "put");
        }
        // Seen too late, or made up: nothing changes.
        let Command::SealAudit(mut wrong) = seal(&p, 3, 91) else { unreachable!() };
        wrong.head = Head([9; 32]);
        assert_eq!(propose(&p, Command::SealAudit(wrong)), Outcome::Refused(Refusal::Stale));
        let stale = seal(&p, 2, 92);
        assert_eq!(propose(&p, seal(&p, 3, 93)), Outcome::Done);
        assert_eq!(propose(&p, stale), Outcome::Refused(Refusal::Stale));
        let index = p.index().load().unwrap();
        assert!(index.current(audit, &key("s93")).unwrap().is_some());
        assert!(index.current(audit, &key("s92")).unwrap().is_none());
        assert_eq!(records(&p).iter().map(|r| r.sequence).collect::<Vec<_>>(), [4, 5]);
        // Too young to go.
        let gone = propose(&p, Command::ExpireAudit { bucket: audit, key: key("s93") });
        assert!(matches!(gone, Outcome::Refused(Refusal::Protected(_))));
        index.audit_state()
    };
    // From the log alone, as after a crash.
    let (p, _) = open(dir.path(), 1, 1);
    assert_eq!(p.index().load().unwrap().audit_state(), before);
    audited(&p, Command::Noop, "on");
    assert_eq!(records(&p).last().unwrap().sequence, 6);
    p.close().unwrap();
    drop(p);
    // All sealed, and opened from a checkpoint: the sealed state alone tells where to go on.
    let (p, _) = open(dir.path(), 1, 1);
    assert_eq!(propose(&p, seal(&p, 6, 94)), Outcome::Done);
    p.close().unwrap();
    drop(p);
    let (p, _) = open(dir.path(), 1, 1);
    let state = p.index().load().unwrap().audit_state();
    assert_eq!((state.next, state.unsealed(), state.sealed.segment), (7, 0, 2));
    assert_eq!(state.head, state.sealed.head);
}
