//! The wall of object lock: generated sequences of everything that removes or replaces versions (clients, lifecycle,
//! bucket deletion) against versions that are held or retained. What is locked is there afterwards, as it was.

use std::sync::atomic::Ordering;

use crate::support::*;
use granary_meta::command::{BucketChange, Command, Condition, ExpireAction, Outcome, Refusal, VersionChange};
use granary_meta::records::{BucketOptions, Retention, RetentionMode, VersionRecord, Versioning};
use granary_meta::{LIFECYCLE_DOCUMENT, MemoryProposer, Proposer, document_digest};
use granary_types::{BucketId, Timestamp};
use proptest::prelude::*;

const KEYS: [&str; 3] = ["a", "a/b", "b"];
const RULES: &[u8] = b"rules";

#[derive(Debug, Clone)]
enum Op {
    Put { key: usize, locked: Option<(bool, u8)>, hold: bool },
    Delete { key: usize },
    DeleteVersion { key: usize, which: usize, bypass: bool },
    Hold { key: usize, which: usize, on: bool },
    Retain { key: usize, which: usize, compliance: bool, secs: u8, bypass: bool },
    Lift { key: usize, which: usize, bypass: bool },
    Expire { key: usize, which: usize, action: u8 },
    Upload { key: usize },
    Append { key: usize },
    Rename { from: usize, to: usize },
    Suspend,
    DeleteBucket,
    Wait { secs: u8 },
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..KEYS.len();
    let which = 0usize..4;
    prop_oneof![
        5 => (key.clone(), proptest::option::of((any::<bool>(), 1u8..60)), any::<bool>())
            .prop_map(|(key, locked, hold)| Op::Put { key, locked, hold: hold && locked.is_none() }),
        2 => key.clone().prop_map(|key| Op::Delete { key }),
        5 => (key.clone(), which.clone(), any::<bool>())
            .prop_map(|(key, which, bypass)| Op::DeleteVersion { key, which, bypass }),
        2 => (key.clone(), which.clone(), any::<bool>()).prop_map(|(key, which, on)| Op::Hold { key, which, on }),
        2 => (key.clone(), which.clone(), any::<bool>(), 1u8..60, any::<bool>())
            .prop_map(|(key, which, compliance, secs, bypass)| Op::Retain { key, which, compliance, secs, bypass }),
        2 => (key.clone(), which.clone(), any::<bool>()).prop_map(|(key, which, bypass)| Op::Lift { key, which, bypass }),
        8 => (key.clone(), which, 0u8..4).prop_map(|(key, which, action)| Op::Expire { key, which, action }),
        1 => key.clone().prop_map(|key| Op::Upload { key }),
        1 => key.clone().prop_map(|key| Op::Append { key }),
        1 => (key.clone(), key).prop_map(|(from, to)| Op::Rename { from, to }),
        1 => Just(Op::Suspend),
        1 => Just(Op::DeleteBucket),
        3 => (1u8..40).prop_map(|secs| Op::Wait { secs }),
    ]
}

struct World {
    p: MemoryProposer,
    clock: SharedClock,
    bucket: BucketId,
    next: u64,
}

impl World {
    fn new() -> Self {
        let (p, clock) = memory();
        let options = BucketOptions { object_lock: true, ..BucketOptions::default() };
        let bucket = make_bucket(&p, 1, Versioning::Enabled, options);
        let change = BucketChange::Document { name: LIFECYCLE_DOCUMENT.to_owned(), value: Some(RULES.to_vec()) };
        propose(&p, Command::ChangeBucket { name: name("bucket-1"), change });
        Self { p, clock, bucket, next: 0 }
    }

    fn now(&self) -> u64 {
        self.clock.0.0.load(Ordering::SeqCst)
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn versions(&self) -> Vec<(String, VersionRecord)> {
        let page = self.p.index().list_versions(self.bucket, "", None, None, None, 10_000).unwrap();
        page.versions.into_iter().map(|(key, record, _)| (key, record)).collect()
    }

    fn pick(&self, key: usize, which: usize) -> Option<VersionRecord> {
        self.versions().into_iter().filter(|(k, _)| k == KEYS[key]).nth(which).map(|(_, record)| record)
    }

    fn retention(&self, compliance: bool, secs: u8) -> Retention {
        let mode = if compliance { RetentionMode::Compliance } else { RetentionMode::Governance };
        Retention { mode, until: Timestamp(self.now() + u64::from(secs) * 1_000_000) }
    }

    /// What the operation may not touch: held versions whatever it is, retained ones unless they are in governance mode and
    /// it says that it may.
    fn walled(&self, bypass: bool) -> Vec<(String, VersionRecord)> {
        // The clock ticks a millisecond with every command: what ends within the next ones is left out.
        let now = self.now() + 10_000;
        let is_walled = |record: &VersionRecord| {
            let Some(object) = record.object() else { return false };
            let retained = object.attributes.retention.filter(|r| r.until.0 > now);
            object.attributes.legal_hold || retained.is_some_and(|r| r.mode == RetentionMode::Compliance || !bypass)
        };
        self.versions().into_iter().filter(|(_, record)| is_walled(record)).collect()
    }

    fn change(&self, key: usize, which: usize, change: VersionChange) {
        if let Some(record) = self.pick(key, which) {
            let version = Some(record.version);
            propose(&self.p, Command::ChangeVersion { bucket: self.bucket, key: key_of(key), version, change });
        }
    }

    fn run(&mut self, op: &Op) {
        let bypass = match op {
            Op::DeleteVersion { bypass, .. } => *bypass,
            _ => false,
        };
        let before = self.walled(bypass);
        let changes_locks = matches!(op, Op::Hold { .. } | Op::Retain { .. } | Op::Lift { .. });
        self.act(op);
        let after = self.versions();
        for (key, record) in before {
            let there = after.iter().find(|(k, r)| *k == key && r.version == record.version);
            let (_, there) = there.unwrap_or_else(|| panic!("{op:?} removed {key} {:?}", record.version));
            let bytes = |r: &VersionRecord| r.object().map(|o| (o.etag.clone(), o.size_bytes, o.parts.clone()));
            assert_eq!(bytes(there), bytes(&record), "{op:?} changed {key}");
            if !changes_locks {
                let (now, then) = (there.object().unwrap(), record.object().unwrap());
                assert_eq!(now.attributes.retention, then.attributes.retention, "{op:?}");
                assert_eq!(now.attributes.legal_hold, then.attributes.legal_hold, "{op:?}");
            } else if let Some(old) = record.object().unwrap().attributes.retention
                && old.mode == RetentionMode::Compliance
                && old.until.0 > self.now()
            {
                let now = there.object().unwrap().attributes.retention;
                assert!(now.is_some_and(|r| r.mode == RetentionMode::Compliance && r.until >= old.until), "{op:?}");
            }
        }
    }

    fn act(&mut self, op: &Op) {
        let bucket = self.bucket;
        match op {
            Op::Put { key, locked, hold } => {
                let n = self.fresh();
                let mut record = object(n, 10);
                record.attributes.retention = locked.map(|(compliance, secs)| self.retention(compliance, secs));
                record.attributes.legal_hold = *hold;
                propose(
                    &self.p,
                    Command::PutVersion {
                        bucket,
                        key: key_of(*key),
                        object: Box::new(record),
                        inline: None,
                        nonce: n.to_be_bytes(),
                        condition: Condition::default(),
                    },
                );
            }
            Op::Delete { key } => {
                let n = self.fresh();
                propose(&self.p, delete(bucket, KEYS[*key], n));
            }
            Op::DeleteVersion { key, which, bypass } => {
                if let Some(record) = self.pick(*key, *which) {
                    propose(
                        &self.p,
                        Command::DeleteVersion {
                            bucket,
                            key: key_of(*key),
                            version: record.version,
                            condition: Condition::default(),
                            bypass: *bypass,
                        },
                    );
                }
            }
            Op::Hold { key, which, on } => self.change(*key, *which, VersionChange::LegalHold(*on)),
            Op::Retain { key, which, compliance, secs, bypass } => {
                let retention = Some(self.retention(*compliance, *secs));
                self.change(*key, *which, VersionChange::Retention { retention, bypass: *bypass });
            }
            Op::Lift { key, which, bypass } => {
                self.change(*key, *which, VersionChange::Retention { retention: None, bypass: *bypass });
            }
            Op::Expire { key, which, action } => {
                let Some(record) = self.pick(*key, *which) else { return };
                let n = self.fresh();
                let action = match action {
                    0 => ExpireAction::Current { nonce: n.to_be_bytes() },
                    1 => ExpireAction::Noncurrent,
                    2 => ExpireAction::Marker,
                    _ => ExpireAction::Transition { class: Some("ONEZONE_IA".to_owned()) },
                };
                let command = Command::Expire {
                    bucket,
                    key: key_of(*key),
                    version: record.version,
                    created: record.created,
                    rules: document_digest(RULES),
                    action,
                };
                propose(&self.p, command);
            }
            Op::Upload { key } => {
                let (upload, part) = (self.fresh(), self.fresh());
                propose(&self.p, create_upload(bucket, KEYS[*key], upload, upload));
                propose(&self.p, put_part(bucket, KEYS[*key], upload, 1, part, 10));
                propose(&self.p, complete(bucket, KEYS[*key], upload, &[(1, part)]));
            }
            Op::Append { key } => {
                let Some(record) = self.pick(*key, 0) else { return };
                let n = self.fresh();
                let refused = propose(
                    &self.p,
                    Command::Append {
                        bucket,
                        key: key_of(*key),
                        offset: record.object().map_or(0, |o| o.size_bytes),
                        base: record.created,
                        part: Box::new(part(n, 10, granary_meta::records::PartPlace::Drives(placement()))),
                        inline: None,
                        manifest: upload_id(n),
                        condition: Condition::default(),
                    },
                );
                assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
            }
            Op::Rename { from, to } => {
                let refused = propose(
                    &self.p,
                    Command::Rename {
                        bucket,
                        source: key_of(*from),
                        destination: key_of(*to),
                        source_condition: Default::default(),
                        condition: Default::default(),
                        token: None,
                    },
                );
                assert!(matches!(refused, Outcome::Refused(_)), "{refused:?}");
            }
            Op::Suspend => {
                let change = BucketChange::Versioning(Versioning::Suspended);
                let refused = propose(&self.p, Command::ChangeBucket { name: name("bucket-1"), change });
                assert!(matches!(refused, Outcome::Refused(Refusal::InvalidState(_))), "{refused:?}");
            }
            Op::DeleteBucket => {
                if !self.versions().is_empty() {
                    let refused = propose(&self.p, Command::DeleteBucket { name: name("bucket-1") });
                    assert_eq!(refused, Outcome::Refused(Refusal::BucketNotEmpty));
                }
            }
            Op::Wait { secs } => {
                self.clock.0.0.fetch_add(u64::from(*secs) * 1_000_000, Ordering::SeqCst);
            }
        }
    }

    /// Counters are what the index holds, whatever happened.
    fn check_usage(&self) {
        let usage = self.p.index().usage(self.bucket).unwrap();
        let all = self.versions();
        assert_eq!(usage.versions, all.len() as u64);
        let bytes: u64 = all.iter().filter_map(|(_, r)| r.object()).map(|o| o.size_bytes).sum();
        assert_eq!(usage.bytes, bytes);
    }
}

fn key_of(at: usize) -> granary_types::ObjectKey {
    key(KEYS[at])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_is_locked_outlives_everything(ops in proptest::collection::vec(op(), 1..60)) {
        let mut world = World::new();
        for op in &ops {
            world.run(op);
        }
        world.check_usage();
    }
}
