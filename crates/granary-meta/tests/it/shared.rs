//! Parts made of shared blocks: whatever is written, overwritten, deleted, copied, aborted, retired and reaped, and in whatever
//! order, a block lives exactly as long as something uses it, and nothing that lives is ever freed.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::*;
use granary_meta::command::{BucketChange, Command, Condition, Outcome, Refusal, RenameCondition};
use granary_meta::records::{
    BlockUse, BucketOptions, FreshBlock, PartOwner, PartPlace, PartRecord, Parts, Retention, RetentionMode,
    SharedPlace, Versioning,
};
use granary_meta::{BlockUsage, Index, MemoryProposer, Proposer};
use granary_types::{BucketId, DriveNo, PartId, Placement, Scheme, Timestamp, VersionId, WrappedKey};
use proptest::prelude::*;

const KEYS: [&str; 4] = ["a", "b", "c/d", "c/e"];
/// Large enough for any part of an upload.
const BLOCK_BYTES: u64 = 6 << 20;

/// What a block holds is a number, which is also its name.
type Content = u8;

fn size_of(content: Content) -> u64 {
    BLOCK_BYTES + u64::from(content)
}

/// A part on its way: its blocks were looked up or written, its command was not proposed yet.
#[derive(Debug, Clone)]
struct Begun {
    part: PartRecord,
    contents: Vec<Content>,
}

#[derive(Debug, Clone)]
enum Op {
    /// Looks blocks up and writes those that are missing (all of them if `blind`, as two writers at once would).
    Begin {
        contents: Vec<Content>,
        blind: bool,
    },
    /// Proposes the oldest of what was begun, as an object.
    Put {
        key: usize,
    },
    /// As a part of an upload.
    Part {
        upload: usize,
        number: u16,
    },
    /// As what is appended.
    Append {
        key: usize,
    },
    Delete {
        key: usize,
    },
    DeleteVersion {
        key: usize,
        which: usize,
    },
    Lock {
        key: usize,
    },
    Rename {
        from: usize,
        to: usize,
    },
    Versioning(bool),
    Create {
        key: usize,
    },
    Complete {
        upload: usize,
        take: u8,
    },
    Abort {
        upload: usize,
    },
    /// The reaper, which knows nothing of who is about to use what: worse than the real one.
    Retire {
        most: usize,
    },
    Reap,
    Move {
        which: usize,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let key = 0..KEYS.len();
    let contents = proptest::collection::vec(0u8..8, 1..6);
    prop_oneof![
        8 => (contents, prop::bool::weighted(0.2)).prop_map(|(contents, blind)| Op::Begin { contents, blind }),
        6 => key.clone().prop_map(|key| Op::Put { key }),
        4 => (0usize..3, 1u16..4).prop_map(|(upload, number)| Op::Part { upload, number }),
        2 => key.clone().prop_map(|key| Op::Append { key }),
        4 => key.clone().prop_map(|key| Op::Delete { key }),
        4 => (key.clone(), 0usize..4).prop_map(|(key, which)| Op::DeleteVersion { key, which }),
        1 => key.clone().prop_map(|key| Op::Lock { key }),
        2 => (key.clone(), key.clone()).prop_map(|(from, to)| Op::Rename { from, to }),
        1 => any::<bool>().prop_map(Op::Versioning),
        2 => key.prop_map(|key| Op::Create { key }),
        2 => (0usize..3, 1u8..8).prop_map(|(upload, take)| Op::Complete { upload, take }),
        1 => (0usize..3).prop_map(|upload| Op::Abort { upload }),
        4 => (1usize..6).prop_map(|most| Op::Retire { most }),
        3 => Just(Op::Reap),
        1 => (0usize..20).prop_map(|which| Op::Move { which }),
    ]
}

struct World {
    p: MemoryProposer,
    bucket: BucketId,
    versioning: Versioning,
    /// What lies on the drives: blocks that were written and not freed.
    drives: BTreeMap<PartId, Content>,
    begun: Vec<Begun>,
    uploads: Vec<(u64, usize, BTreeMap<u16, PartId>)>,
    /// What each part that was ever accepted is made of.
    parts: BTreeMap<PartId, Vec<Content>>,
    next: u64,
    accepted: u64,
    gone: u64,
}

fn elsewhere() -> Placement {
    Placement { scheme: Scheme { k: 1, m: 1 }, drives: vec![DriveNo(2), DriveNo(3)], missing: 0 }
}

fn number(id: PartId) -> u64 {
    u64::from_be_bytes(id.0[8..].try_into().unwrap())
}

impl World {
    fn new() -> Self {
        let (p, _) = memory();
        let options = BucketOptions { object_lock: false, ..BucketOptions::default() };
        let bucket = make_bucket(&p, 1, Versioning::Off, options);
        Self {
            p,
            bucket,
            versioning: Versioning::Off,
            drives: BTreeMap::new(),
            begun: Vec::new(),
            uploads: Vec::new(),
            parts: BTreeMap::new(),
            next: 1,
            accepted: 0,
            gone: 0,
        }
    }

    fn index(&self) -> std::sync::Arc<Index> {
        self.p.index().load().unwrap()
    }

    fn fresh_id(&mut self) -> PartId {
        self.next += 1;
        part_id(self.next)
    }

    fn begin(&mut self, contents: &[Content], blind: bool) {
        let index = self.index();
        let (mut blocks, mut fresh): (Vec<BlockUse>, Vec<FreshBlock>) = (Vec::new(), Vec::new());
        for content in contents {
            let name = [*content; 32];
            let mine = fresh.iter().find(|block| block.name == name).map(|block| block.id);
            let there = if blind { None } else { index.block_named(self.bucket, &name).unwrap() };
            let block = mine.or(there).unwrap_or_else(|| {
                let id = self.fresh_id();
                let (payload_bytes, key) = (size_of(*content), WrappedKey(vec![3; 40]));
                fresh.push(FreshBlock { name, id, payload_bytes, key, placement: placement() });
                self.drives.insert(id, *content);
                id
            });
            blocks.push(BlockUse { block, payload_bytes: size_of(*content) });
        }
        let id = self.fresh_id();
        let size = contents.iter().map(|content| size_of(*content)).sum();
        let place = SharedPlace { recipe: placement(), recipe_bytes: 24, blocks, fresh };
        let part = part(number(id), size, PartPlace::Shared(Box::new(place)));
        self.begun.push(Begun { part, contents: contents.to_vec() });
    }

    /// What was proposed of `begun` was taken, or refused.
    fn proposed(&mut self, begun: &Begun, outcome: &Outcome) -> bool {
        match outcome {
            Outcome::Refused(refusal) => {
                self.gone += u64::from(*refusal == Refusal::BlockGone);
                false
            }
            _ => {
                self.accepted += 1;
                self.parts.insert(begun.part.id, begun.contents.clone());
                true
            }
        }
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Begin { contents, blind } if self.begun.len() < 4 => self.begin(contents, *blind),
            Op::Begin { .. } => {}
            Op::Put { key } => {
                let Some(begun) = (!self.begun.is_empty()).then(|| self.begun.remove(0)) else { return };
                let n = number(begun.part.id);
                let Command::PutVersion { mut object, .. } = put(self.bucket, "x", n, begun.part.payload_bytes) else {
                    panic!("a put is a put")
                };
                object.parts = Parts::One(Box::new(begun.part.clone()));
                let command = Command::PutVersion {
                    bucket: self.bucket,
                    key: crate::support::key(KEYS[*key]),
                    object,
                    inline: None,
                    nonce: n.to_be_bytes(),
                    condition: Condition::default(),
                };
                let outcome = propose(&self.p, command.clone());
                if self.proposed(&begun, &outcome) {
                    let again = propose(&self.p, command);
                    assert!(matches!(again, Outcome::Refused(Refusal::InvalidState(_))), "{again:?}");
                }
            }
            Op::Part { upload, number: part_number } => {
                if self.begun.is_empty() || *upload >= self.uploads.len() {
                    return;
                }
                let begun = self.begun.remove(0);
                let (id, key, _) = &self.uploads[*upload];
                let command = Command::PutPart {
                    bucket: self.bucket,
                    key: crate::support::key(KEYS[*key]),
                    upload: upload_id(*id),
                    number: *part_number,
                    part: Box::new(begun.part.clone()),
                    inline: None,
                };
                let outcome = propose(&self.p, command);
                if self.proposed(&begun, &outcome) {
                    self.uploads[*upload].2.insert(*part_number, begun.part.id);
                }
            }
            Op::Append { key } => {
                let there = self.index().current(self.bucket, &crate::support::key(KEYS[*key])).unwrap();
                let Some((version, object)) =
                    there.and_then(|version| version.object().cloned().map(|object| (version, object)))
                else {
                    return;
                };
                let Some(begun) = (!self.begun.is_empty()).then(|| self.begun.remove(0)) else { return };
                self.next += 1;
                let command = Command::Append {
                    bucket: self.bucket,
                    key: crate::support::key(KEYS[*key]),
                    offset: object.size_bytes,
                    base: version.created,
                    part: Box::new(begun.part.clone()),
                    inline: None,
                    manifest: upload_id(self.next),
                    condition: Condition::default(),
                };
                let outcome = propose(&self.p, command);
                self.proposed(&begun, &outcome);
            }
            Op::Delete { key } => {
                self.next += 1;
                propose(&self.p, delete(self.bucket, KEYS[*key], self.next));
            }
            Op::DeleteVersion { key, which } => {
                let page = self.index().list_versions(self.bucket, KEYS[*key], None, None, None, 100).unwrap();
                let versions: Vec<VersionId> = page.versions.iter().map(|(_, record, _)| record.version).collect();
                let version = versions.get(which % versions.len().max(1)).copied().unwrap_or(VersionId::NULL);
                propose(&self.p, delete_version(self.bucket, KEYS[*key], version));
            }
            Op::Lock { key } => {
                let retention = Retention { mode: RetentionMode::Compliance, until: Timestamp(u64::MAX) };
                let change =
                    granary_meta::command::VersionChange::Retention { retention: Some(retention), bypass: false };
                let key = crate::support::key(KEYS[*key]);
                propose(&self.p, Command::ChangeVersion { bucket: self.bucket, key, version: None, change });
            }
            Op::Rename { from, to } => {
                let rename = Command::Rename {
                    bucket: self.bucket,
                    source: crate::support::key(KEYS[*from]),
                    destination: crate::support::key(KEYS[*to]),
                    source_condition: RenameCondition::default(),
                    condition: RenameCondition::default(),
                    token: None,
                };
                propose(&self.p, rename);
            }
            Op::Versioning(on) => {
                let to = match on {
                    true => Versioning::Enabled,
                    false if self.versioning == Versioning::Off => Versioning::Off,
                    false => Versioning::Suspended,
                };
                let change = BucketChange::Versioning(to);
                propose(&self.p, Command::ChangeBucket { name: name("bucket-1"), change });
                self.versioning = to;
            }
            Op::Create { key } if self.uploads.len() < 3 => {
                self.next += 1;
                let id = self.next;
                assert_eq!(propose(&self.p, create_upload(self.bucket, KEYS[*key], id, id)), Outcome::Done);
                self.uploads.push((id, *key, BTreeMap::new()));
            }
            Op::Create { .. } => {}
            Op::Complete { upload, take } => {
                let Some((id, key, parts)) = self.uploads.get(*upload).cloned() else { return };
                let named: Vec<(u16, u64)> = parts
                    .iter()
                    .filter(|(n, _)| take & (1 << (**n - 1)) != 0)
                    .map(|(n, id)| (*n, number(*id)))
                    .collect();
                let outcome = propose(&self.p, complete(self.bucket, KEYS[key], id, &named));
                if matches!(outcome, Outcome::Put { .. }) {
                    self.uploads.remove(*upload);
                }
            }
            Op::Abort { upload } => {
                if *upload < self.uploads.len() {
                    let (id, key, _) = self.uploads.remove(*upload);
                    let key = crate::support::key(KEYS[key]);
                    let abort = Command::AbortUpload { bucket: self.bucket, key, upload: upload_id(id) };
                    assert_eq!(propose(&self.p, abort), Outcome::Done);
                }
            }
            Op::Retire { most } => {
                let mut blocks = self.index().idle_blocks(*most).unwrap();
                // Named twice, named with another time, and one that is in use: none of it may count.
                blocks.extend(blocks.clone());
                blocks.extend(self.drives.keys().take(2).map(|id| (*id, Timestamp(1))));
                assert_eq!(propose(&self.p, Command::RetireBlocks { blocks }), Outcome::Done);
            }
            Op::Reap => {
                let garbage: Vec<PartId> =
                    self.index().garbage(None, 1000).unwrap().into_iter().map(|(id, _)| id).collect();
                for id in &garbage {
                    self.drives.remove(id);
                }
                assert_eq!(propose(&self.p, Command::ForgetGarbage { parts: garbage }), Outcome::Done);
            }
            Op::Move { which } => {
                let refs = self.index().part_refs(None, 1000).unwrap();
                let Some((part, reference)) = refs.get(which % refs.len().max(1)) else { return };
                let from = reference.placement.clone();
                let to = if from == placement() { elsewhere() } else { placement() };
                let garbage = matches!(reference.owner, PartOwner::Garbage { .. });
                let outcome = propose(&self.p, Command::MovePart { part: *part, from, to });
                assert_eq!(outcome == Outcome::Done, !garbage, "{outcome:?}");
            }
        }
    }

    /// Every part that lives, as the index has it.
    fn living(&self) -> Vec<PartRecord> {
        let index = self.index();
        let mut all = Vec::new();
        let page = index.list_versions(self.bucket, "", None, None, None, 1000).unwrap();
        assert!(page.next.is_none());
        for (_, record, _) in page.versions {
            match record.object().map(|object| &object.parts) {
                Some(Parts::One(part)) => all.push((**part).clone()),
                Some(Parts::Manifest { id, count }) => {
                    let parts = index.manifest(*id).unwrap().unwrap();
                    assert_eq!(parts.len(), *count as usize);
                    all.extend(parts);
                }
                Some(Parts::Empty) | None => {}
            }
        }
        for (id, _, _) in &self.uploads {
            all.extend(index.parts(upload_id(*id), 0, 1000).unwrap().into_iter().map(|(_, part)| part));
        }
        all
    }

    fn check(&self) {
        let index = self.index();
        let mut uses: BTreeMap<PartId, u64> = BTreeMap::new();
        let mut usage = BlockUsage::default();
        let mut recipes = BTreeSet::new();
        for part in self.living() {
            let PartPlace::Shared(place) = &part.place else { panic!("all parts are made of blocks") };
            assert!(place.fresh.is_empty(), "the index keeps no fresh blocks");
            let contents: Vec<Content> = place
                .blocks
                .iter()
                .map(|used| *self.drives.get(&used.block).unwrap_or_else(|| panic!("{} was freed", used.block)))
                .collect();
            assert_eq!(contents, self.parts[&part.id], "part {} reads as it was written", part.id);
            place.blocks.iter().for_each(|used| *uses.entry(used.block).or_default() += 1);
            usage.logical_bytes += part.payload_bytes;
            let reference = index.part_ref(part.id).unwrap().expect("a recipe has a reference");
            assert_eq!((&reference.placement, reference.payload_bytes), (&place.recipe, place.recipe_bytes));
            assert!(!matches!(reference.owner, PartOwner::Garbage { .. } | PartOwner::Block), "{:?}", reference.owner);
            recipes.insert(part.id);
        }
        let idle: BTreeMap<PartId, Timestamp> = index.idle_blocks(1000).unwrap().into_iter().collect();
        let mut names = BTreeSet::new();
        for (id, reference) in index.part_refs(None, 10_000).unwrap() {
            match reference.owner {
                PartOwner::Block => {
                    let block = index.block(id).unwrap().expect("a block has its record");
                    assert_eq!(block.uses, uses.get(&id).copied().unwrap_or(0), "uses of {id}");
                    assert_eq!(block.idle_since, idle.get(&id).copied(), "idleness of {id}");
                    assert_eq!(block.idle_since.is_some(), block.uses == 0);
                    assert_eq!(block.placement, reference.placement);
                    assert_eq!(index.block_named(self.bucket, &block.name).unwrap(), Some(id));
                    assert!(names.insert(block.name), "two blocks of one name");
                    assert!(self.drives.contains_key(&id), "a block of the index is on the drives");
                    usage.blocks += 1;
                    usage.stored_bytes += block.payload_bytes;
                }
                PartOwner::Garbage { .. } => {
                    assert!(index.block(id).unwrap().is_none() && !uses.contains_key(&id) && !recipes.contains(&id));
                }
                _ => assert!(recipes.contains(&id), "{id} is held by {:?}, and is no living part", reference.owner),
            }
        }
        assert!(uses.keys().all(|id| index.block(*id).unwrap().is_some()));
        assert!(idle.keys().all(|id| index.block(*id).unwrap().is_some()));
        assert_eq!(index.block_usage(self.bucket).unwrap(), usage);
    }

    /// Everything deleted, retired and reaped: nothing is left.
    fn empty(&mut self) {
        while let Some((id, key, _)) = self.uploads.pop() {
            let key = crate::support::key(KEYS[key]);
            propose(&self.p, Command::AbortUpload { bucket: self.bucket, key, upload: upload_id(id) });
        }
        let page = self.index().list_versions(self.bucket, "", None, None, None, 1000).unwrap();
        for (key, record, _) in page.versions {
            propose(&self.p, delete_version(self.bucket, &key, record.version));
        }
        self.run(&Op::Retire { most: 1000 });
        self.run(&Op::Reap);
        self.check();
        let index = self.index();
        assert_eq!(index.block_usage(self.bucket).unwrap(), BlockUsage::default());
        assert!(index.part_refs(None, 10).unwrap().is_empty());
        assert!(index.idle_blocks(10).unwrap().is_empty());
        let named = (0u8..8).any(|content| index.block_named(self.bucket, &[content; 32]).unwrap().is_some());
        assert!(!named, "no name is left");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 4000, ..ProptestConfig::default() })]

    #[test]
    fn nothing_that_lives_is_freed_and_nothing_else_stays(ops in proptest::collection::vec(op(), 20..250)) {
        let mut world = World::new();
        for (at, op) in ops.iter().enumerate() {
            world.run(op);
            if at % 8 == 0 {
                world.check();
            }
        }
        world.check();
        world.empty();
    }
}

/// The races that the generated sequences meet, each once and by name.
#[test]
fn a_block_that_went_meanwhile_refuses_the_write_and_one_that_is_idle_comes_back() {
    let mut world = World::new();
    let put = Op::Put { key: 0 };
    world.begin(&[1, 2], false);
    world.run(&put);
    world.begin(&[1, 2, 1], false);
    world.run(&Op::Delete { key: 0 });
    // Idle, and used again in time.
    world.run(&put);
    assert_eq!((world.accepted, world.gone), (2, 0));
    world.check();
    assert_eq!(world.drives.len(), 2, "nothing was written twice");
    // Idle, and retired before the write came.
    world.begin(&[2], false);
    world.run(&Op::Delete { key: 0 });
    world.run(&Op::Retire { most: 10 });
    world.run(&put);
    assert_eq!((world.accepted, world.gone), (2, 1));
    world.check();
    // Two writers of one content at once: the second's block becomes garbage, its part uses the first's.
    world.begin(&[5], true);
    world.begin(&[5, 5], true);
    world.run(&put);
    world.run(&Op::Put { key: 1 });
    world.check();
    assert_eq!(world.index().block_usage(world.bucket).unwrap().blocks, 1);
    world.run(&Op::Reap);
    world.check();
    // An overwrite with what is there keeps it.
    world.begin(&[5], false);
    world.run(&put);
    world.run(&Op::Retire { most: 10 });
    world.run(&Op::Reap);
    world.check();
    world.empty();
}

#[test]
fn a_locked_version_keeps_its_blocks() {
    let mut world = World::new();
    world.versioning = Versioning::Enabled;
    let change = BucketChange::Versioning(Versioning::Enabled);
    propose(&world.p, Command::ChangeBucket { name: name("bucket-1"), change });
    let change = BucketChange::ObjectLock { default_retention: None, document: Vec::new() };
    propose(&world.p, Command::ChangeBucket { name: name("bucket-1"), change });
    world.begin(&[3], false);
    world.run(&Op::Put { key: 0 });
    world.run(&Op::Lock { key: 0 });
    for _ in 0..3 {
        world.run(&Op::DeleteVersion { key: 0, which: 0 });
        world.run(&Op::Delete { key: 0 });
        world.run(&Op::Retire { most: 10 });
        world.run(&Op::Reap);
    }
    world.check();
    assert_eq!(world.index().block_usage(world.bucket).unwrap().blocks, 1);
}

#[test]
fn a_part_that_contradicts_itself_is_refused() {
    let mut world = World::new();
    let other = make_bucket(&world.p, 2, Versioning::Off, BucketOptions::default());
    world.begin(&[1], false);
    world.run(&Op::Put { key: 0 });
    let refused = |world: &mut World, bucket: BucketId, change: &dyn Fn(&mut PartRecord, &mut SharedPlace)| {
        world.begin(&[1, 2], false);
        let begun = world.begun.pop().unwrap();
        let mut part = begun.part.clone();
        let PartPlace::Shared(mut place) = part.place.clone() else { panic!("made of blocks") };
        change(&mut part, &mut place);
        part.place = PartPlace::Shared(place);
        let n = number(part.id);
        let Command::PutVersion { mut object, .. } = put(bucket, "x", n, part.payload_bytes) else { panic!("a put") };
        object.parts = Parts::One(Box::new(part));
        let (key, nonce, condition) = (crate::support::key("b"), [0; 8], Condition::default());
        let outcome = propose(&world.p, Command::PutVersion { bucket, key, object, inline: None, nonce, condition });
        let Outcome::Refused(refusal) = outcome else { panic!("{outcome:?}") };
        world.check();
        refusal
    };
    let bucket = world.bucket;
    let invalid = |refusal: &Refusal| matches!(refusal, Refusal::InvalidState(_));
    assert!(invalid(&refused(&mut world, bucket, &|part, _| part.payload_bytes += 1)));
    assert!(invalid(&refused(&mut world, bucket, &|_, place| place.blocks.clear())));
    assert!(invalid(&refused(&mut world, bucket, &|_, place| place.blocks[0].payload_bytes += 1)));
    assert!(invalid(&refused(&mut world, bucket, &|_, place| place.fresh[0].payload_bytes += 1)));
    // A fresh block that claims the id of one that is in use, under another name.
    assert!(invalid(&refused(&mut world, bucket, &|_, place| {
        place.fresh[0].id = place.blocks[0].block;
        place.blocks[1].block = place.blocks[0].block;
    })));
    assert_eq!(refused(&mut world, bucket, &|_, place| place.fresh.clear()), Refusal::BlockGone);
    assert!(invalid(&refused(&mut world, other, &|_, _| {})), "another bucket's block");
}
