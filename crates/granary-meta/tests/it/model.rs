//! A reference model of S3's semantics in plain maps, and generated operations against apply and index.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::*;
use granary_meta::command::{BucketChange, Command, Condition, EtagMatch, Outcome, Refusal};
use granary_meta::records::{BucketOptions, PartOwner, Versioning};
use granary_meta::{MemoryProposer, Proposer, Usage};
use granary_types::{BucketId, VersionId};
use proptest::prelude::*;

const KEYS: [&str; 9] = ["a", "a/", "a/b", "a/b/c", "a/c", "a-b", "b", "é/x", "é/y"];

#[derive(Debug, Clone)]
enum Op {
    Put { key: usize, condition: u8 },
    Delete { key: usize },
    DeleteVersion { key: usize, which: usize },
    Versioning(bool),
    Create { key: usize },
    Part { upload: usize, number: u16 },
    Complete { upload: usize, take: u8 },
    Abort { upload: usize },
    List { prefix: usize, delimiter: bool, max: u32 },
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..KEYS.len();
    prop_oneof![
        8 => (key.clone(), 0u8..6).prop_map(|(key, condition)| Op::Put { key, condition }),
        4 => key.clone().prop_map(|key| Op::Delete { key }),
        5 => (key.clone(), 0usize..6).prop_map(|(key, which)| Op::DeleteVersion { key, which }),
        1 => any::<bool>().prop_map(Op::Versioning),
        2 => key.clone().prop_map(|key| Op::Create { key }),
        3 => (0usize..4, 1u16..4).prop_map(|(upload, number)| Op::Part { upload, number }),
        2 => (0usize..4, 1u8..8).prop_map(|(upload, take)| Op::Complete { upload, take }),
        1 => (0usize..4).prop_map(|upload| Op::Abort { upload }),
        3 => (0usize..6, any::<bool>(), 1u32..6).prop_map(|(prefix, delimiter, max)| Op::List { prefix, delimiter, max }),
    ]
}

#[derive(Debug, Clone, PartialEq)]
struct Object {
    etag: String,
    size: u64,
    parts: Vec<u64>,
}

/// Newest last.
type History = Vec<(VersionId, Option<Object>)>;

#[derive(Debug, Default)]
struct Upload {
    id: u64,
    key: usize,
    parts: BTreeMap<u16, (u64, u64)>,
}

struct Model {
    p: MemoryProposer,
    bucket: BucketId,
    versioning: Versioning,
    keys: BTreeMap<&'static str, History>,
    uploads: Vec<Upload>,
    all_parts: BTreeSet<u64>,
    next: u64,
}

impl Model {
    fn new() -> Self {
        let (p, _) = memory();
        let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
        Self {
            p,
            bucket,
            versioning: Versioning::Off,
            keys: BTreeMap::new(),
            uploads: Vec::new(),
            all_parts: BTreeSet::new(),
            next: 1,
        }
    }

    fn fresh(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn current(&self, key: &str) -> Option<&Object> {
        self.keys.get(key)?.last()?.1.as_ref()
    }

    /// A new version on top; the null version is replaced where the bucket is not versioned.
    fn push(&mut self, key: &'static str, version: VersionId, object: Option<Object>) {
        let history = self.keys.entry(key).or_default();
        if self.versioning != Versioning::Enabled {
            assert!(version.is_null());
            history.retain(|(v, _)| !v.is_null());
        }
        history.push((version, object));
    }

    fn forget_empty(&mut self) {
        self.keys.retain(|_, h| !h.is_empty());
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Put { key, condition } => self.put(KEYS[*key], *condition),
            Op::Delete { key } => self.delete(KEYS[*key]),
            Op::DeleteVersion { key, which } => self.delete_version(KEYS[*key], *which),
            Op::Versioning(on) => {
                let to = match on {
                    true => Versioning::Enabled,
                    false if self.versioning == Versioning::Off => Versioning::Off,
                    false => Versioning::Suspended,
                };
                let change = BucketChange::Versioning(to);
                let outcome = propose(&self.p, Command::ChangeBucket { name: name("bucket-1"), change });
                assert_eq!(outcome, Outcome::Done);
                self.versioning = to;
            }
            Op::Create { key } if self.uploads.len() < 4 => {
                let id = self.fresh();
                assert_eq!(propose(&self.p, create_upload(self.bucket, KEYS[*key], id, id)), Outcome::Done);
                self.uploads.push(Upload { id, key: *key, parts: BTreeMap::new() });
            }
            Op::Create { .. } => {}
            Op::Part { upload, number } => {
                let n = self.fresh();
                // Part sizes are such that only the last may be named last.
                let size = if *number == 3 { n } else { (5 << 20) + n };
                let Some(upload) = self.uploads.get_mut(*upload) else { return };
                let command = put_part(self.bucket, KEYS[upload.key], upload.id, *number, n, size);
                assert_eq!(propose(&self.p, command), Outcome::Done);
                upload.parts.insert(*number, (n, size));
                self.all_parts.insert(n);
            }
            Op::Complete { upload, take } => self.complete(*upload, *take),
            Op::Abort { upload } => {
                if *upload < self.uploads.len() {
                    let upload = self.uploads.remove(*upload);
                    let key = key(KEYS[upload.key]);
                    let abort = Command::AbortUpload { bucket: self.bucket, key, upload: upload_id(upload.id) };
                    assert_eq!(propose(&self.p, abort), Outcome::Done);
                }
            }
            Op::List { prefix, delimiter, max } => {
                let prefix = ["", "a", "a/", "a/b", "é", "zz"][*prefix];
                self.check_list(prefix, delimiter.then_some("/"), *max);
            }
        }
        self.forget_empty();
    }

    fn put(&mut self, key: &'static str, condition: u8) {
        let n = self.fresh();
        let current = self.current(key).map(|o| o.etag.clone());
        let one = |e: String| Some(EtagMatch::OneOf(vec![e]));
        let (condition, expected) = match condition {
            0 => (
                Condition { if_none_match: Some(EtagMatch::Any), ..Condition::default() },
                current.is_some().then_some(Refusal::Precondition("If-None-Match")),
            ),
            1 => (
                Condition { if_match: Some(EtagMatch::Any), ..Condition::default() },
                current.is_none().then_some(Refusal::NoSuchKey),
            ),
            2 => (
                Condition { if_match: one(etag(u64::MAX)), ..Condition::default() },
                Some(if current.is_some() { Refusal::Precondition("If-Match") } else { Refusal::NoSuchKey }),
            ),
            3 if current.is_some() => (Condition { if_match: current.and_then(one), ..Condition::default() }, None),
            _ => (Condition::default(), None),
        };
        match propose(&self.p, with_condition(put(self.bucket, key, n, n), condition)) {
            Outcome::Refused(refusal) => assert_eq!(Some(refusal), expected),
            outcome => {
                assert_eq!(expected, None, "{outcome:?}");
                self.all_parts.insert(n);
                self.push(key, version_of(outcome), Some(Object { etag: etag(n), size: n, parts: vec![n] }));
            }
        }
    }

    fn delete(&mut self, key: &'static str) {
        let n = self.fresh();
        let outcome = propose(&self.p, delete(self.bucket, key, n));
        if self.versioning == Versioning::Off {
            let had = self.keys.remove(key).is_some();
            assert_eq!(outcome, Outcome::Deleted { version: had.then_some(VersionId::NULL), delete_marker: false });
        } else {
            assert!(matches!(outcome, Outcome::Deleted { delete_marker: true, .. }));
            self.push(key, version_of(outcome), None);
        }
    }

    fn delete_version(&mut self, key: &'static str, which: usize) {
        let history = self.keys.entry(key).or_default();
        let version = match history.len() {
            0 => VersionId([7; 16]),
            len => history[which % len].0,
        };
        let had = history.iter().position(|(v, _)| *v == version).map(|at| history.remove(at));
        let outcome = propose(&self.p, delete_version(self.bucket, key, version));
        let delete_marker = had.is_some_and(|(_, object)| object.is_none());
        assert_eq!(outcome, Outcome::Deleted { version: Some(version), delete_marker });
    }

    fn complete(&mut self, upload: usize, take: u8) {
        let Some(open) = self.uploads.get(upload) else { return };
        let named: Vec<(u16, u64)> =
            open.parts.iter().filter(|(n, _)| take & (1 << (*n - 1)) != 0).map(|(n, (e, _))| (*n, *e)).collect();
        let outcome = propose(&self.p, complete(self.bucket, KEYS[open.key], open.id, &named));
        if named.is_empty() {
            assert!(matches!(outcome, Outcome::Refused(Refusal::InvalidState(_))));
            return;
        }
        let Outcome::Put { version, etag, size_bytes, .. } = outcome.clone() else { panic!("{outcome:?}") };
        let again = propose(&self.p, complete(self.bucket, KEYS[open.key], open.id, &named));
        assert_eq!(again, outcome, "a repeat is answered as the first");
        let open = self.uploads.remove(upload);
        let size: u64 = named.iter().map(|(number, _)| open.parts[number].1).sum();
        assert_eq!(size_bytes, size);
        let parts = named.iter().map(|(_, part)| *part).collect();
        self.push(KEYS[open.key], version, Some(Object { etag, size, parts }));
    }

    /// What a listing should show: entries in order, each an object or a common prefix.
    fn expected(&self, prefix: &str, delimiter: Option<&str>) -> Vec<(String, bool)> {
        let mut entries = BTreeSet::new();
        for key in self.keys.keys().filter(|k| k.starts_with(prefix) && self.current(k).is_some()) {
            match delimiter.and_then(|d| key[prefix.len()..].find(d).map(|at| prefix.len() + at + d.len())) {
                Some(end) => entries.insert((key[..end].to_owned(), true)),
                None => entries.insert(((*key).to_owned(), false)),
            };
        }
        entries.into_iter().collect()
    }

    fn check_list(&self, prefix: &str, delimiter: Option<&str>, max: u32) {
        let mut found = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let page = self.p.index().list(self.bucket, prefix, delimiter, after.as_deref(), max).unwrap();
            assert!(page.objects.len() + page.common_prefixes.len() <= max as usize);
            let mut entries: Vec<(String, bool)> = page.objects.into_iter().map(|(k, _)| (k, false)).collect();
            entries.extend(page.common_prefixes.into_iter().map(|p| (p, true)));
            entries.sort();
            found.extend(entries);
            after = page.next_after;
            if after.is_none() {
                break;
            }
        }
        assert_eq!(found, self.expected(prefix, delimiter), "prefix {prefix:?} delimiter {delimiter:?} max {max}");
    }

    /// Compares everything.
    fn check(&self) {
        let index = self.p.index();
        for max in [1, 3, 1000] {
            let mut found: BTreeMap<String, History> = BTreeMap::new();
            let mut marker: Option<(String, Option<VersionId>)> = None;
            loop {
                let (key, version) = marker.as_ref().map_or((None, None), |(k, v)| (Some(k.as_str()), *v));
                let page = index.list_versions(self.bucket, "", None, key, version, max).unwrap();
                for (key, record, latest) in page.versions {
                    let history = found.entry(key.clone()).or_default();
                    assert_eq!(latest, history.is_empty(), "the first of {key} is the latest, no other");
                    let object = record.object().map(|o| {
                        (
                            o.etag.clone(),
                            o.size_bytes,
                            self.p.index().version(self.bucket, &crate::support::key(&key), record.version),
                        )
                    });
                    let object = object.map(|(etag, size, by_id)| {
                        assert_eq!(by_id.unwrap().as_ref(), Some(&record), "found by its id too");
                        let known = self.keys[key.as_str()]
                            .iter()
                            .find_map(|(v, o)| o.as_ref().filter(|_| *v == record.version));
                        Object { etag, size, parts: known.map(|o| o.parts.clone()).unwrap_or_default() }
                    });
                    history.insert(0, (record.version, object));
                }
                marker = page.next;
                if marker.is_none() {
                    break;
                }
            }
            let wanted: BTreeMap<String, History> =
                self.keys.iter().map(|(k, h)| ((*k).to_owned(), h.clone())).collect();
            assert_eq!(found, wanted, "pages of {max}");
        }
        let live: BTreeSet<u64> = self
            .keys
            .values()
            .flatten()
            .flat_map(|(_, o)| o.iter().flat_map(|o| o.parts.iter().copied()))
            .chain(self.uploads.iter().flat_map(|u| u.parts.values().map(|(part, _)| *part)))
            .collect();
        let refs = index.part_refs(None, usize::MAX).unwrap();
        let number = |id: granary_types::PartId| u64::from_be_bytes(id.0[8..].try_into().unwrap());
        let is_garbage = |o: &PartOwner| matches!(o, PartOwner::Garbage { .. });
        let held: BTreeSet<u64> =
            refs.iter().filter(|(_, r)| !is_garbage(&r.owner)).map(|(id, _)| number(*id)).collect();
        assert_eq!(held, live);
        let garbage: BTreeSet<u64> =
            index.garbage(None, usize::MAX).unwrap().iter().map(|(id, _)| number(*id)).collect();
        assert_eq!(garbage, self.all_parts.difference(&live).copied().collect::<BTreeSet<_>>());
        let versions = self.keys.values().map(Vec::len).sum::<usize>() as u64;
        let bytes = self.keys.values().flatten().filter_map(|(_, o)| o.as_ref()).map(|o| o.size).sum();
        let usage = Usage {
            objects: self.keys.keys().filter(|k| self.current(k).is_some()).count() as u64,
            versions,
            bytes,
            uploads: self.uploads.len() as u64,
            upload_bytes: self.uploads.iter().flat_map(|u| u.parts.values().map(|(_, size)| *size)).sum(),
        };
        assert_eq!(index.usage(self.bucket).unwrap(), usage);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn apply_and_index_behave_as_the_model(ops in proptest::collection::vec(op(), 20..200)) {
        let mut model = Model::new();
        for (at, op) in ops.iter().enumerate() {
            model.run(op);
            if at % 16 == 0 {
                model.check();
            }
        }
        model.check();
    }
}

/// The same commands build the same bytes.
#[test]
fn two_indexes_of_the_same_commands_are_equal() {
    let build = || {
        let (p, _) = memory();
        let bucket = make_bucket(&p, 1, Versioning::Enabled, BucketOptions::default());
        for n in 0..300u64 {
            let text = format!("key{}", n % 17);
            match n % 5 {
                0..=2 => propose(&p, put(bucket, &text, n, n)),
                3 => propose(&p, delete(bucket, &text, n)),
                _ => {
                    propose(&p, create_upload(bucket, &text, n, n));
                    propose(&p, put_part(bucket, &text, n, 1, n + 1000, 4));
                    propose(&p, complete(bucket, &text, n, &[(1, n + 1000)]))
                }
            };
        }
        p.index().load().unwrap().dump().unwrap()
    };
    let (one, two) = (build(), build());
    assert!(one.len() > 500);
    assert_eq!(one, two);
}

#[test]
fn listing_steps_over_what_a_prefix_hides() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    for n in 0..3000u64 {
        propose(&p, put(bucket, &format!("dir{}/file{n}", n % 3), n, 1));
    }
    propose(&p, put(bucket, "top", 9999, 1));
    let page = p.index().list(bucket, "", Some("/"), None, 10).unwrap();
    assert_eq!(page.common_prefixes, ["dir0/", "dir1/", "dir2/"]);
    assert_eq!(page.objects.len(), 1);
    assert_eq!(page.next_after, None);
    let first = p.index().list(bucket, "", Some("/"), None, 2).unwrap();
    assert_eq!(first.next_after.as_deref(), Some("dir1/"));
    let rest = p.index().list(bucket, "", Some("/"), Some("dir1/"), 10).unwrap();
    assert_eq!(rest.common_prefixes, ["dir2/"]);
    // `start-after` inside a prefix shows the prefix as long as something behind it is left.
    let inside = p.index().list(bucket, "", Some("/"), Some("dir1/file1"), 10).unwrap();
    assert_eq!(inside.common_prefixes, ["dir1/", "dir2/"]);
    assert_eq!(p.index().list(bucket, "dir1/", Some("/"), None, 5000).unwrap().objects.len(), 1000);
    assert_eq!(p.index().list(bucket, "", None, None, 0).unwrap(), granary_meta::ObjectPage::default());
}
