//! What every `Proposer` must do, run on each.

use std::sync::Arc;

use crate::support::*;
use futures::executor::block_on;
use futures::future::join_all;
use granary_meta::Proposer;
use granary_meta::command::{Command, Condition, EtagMatch, Outcome};
use granary_meta::records::{BucketOptions, Versioning};

/// An outcome is in the index before it is told.
fn reads_see_what_was_answered(p: &dyn Proposer) {
    let bucket = make_bucket(p, 1, Versioning::Off, BucketOptions::default());
    for n in 0..50 {
        propose(p, put_inline(bucket, "k", n, &n.to_be_bytes()));
        let found = p.index().current_with_inline(bucket, &key("k")).unwrap().unwrap();
        assert_eq!(found.inline.as_deref(), Some(&n.to_be_bytes()[..]));
        block_on(p.read_barrier()).unwrap();
    }
}

/// Of many that create a key only if it is not there, one wins.
fn one_of_many_wins(p: &Arc<dyn Proposer>) {
    let bucket = make_bucket(&**p, 2, Versioning::Off, BucketOptions::default());
    for round in 0..10u64 {
        let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..8u64)
                .map(|n| {
                    let none = Condition { if_none_match: Some(EtagMatch::Any), ..Condition::default() };
                    let command = with_condition(put(bucket, &format!("k{round}"), 1000 + round * 8 + n, 1), none);
                    scope.spawn(move || propose(&**p, command))
                })
                .collect();
            tries.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(outcomes.iter().filter(|o| matches!(o, Outcome::Put { .. })).count(), 1, "{outcomes:?}");
    }
    assert_eq!(p.index().usage(bucket).unwrap().objects, 10);
}

/// Commands proposed together are applied in the order they were proposed.
fn order_is_kept(p: &dyn Proposer) {
    let bucket = make_bucket(p, 3, Versioning::Enabled, BucketOptions::default());
    let versions = block_on(join_all((0..100).map(|n| p.propose(put(bucket, "k", 5000 + n, n)))));
    let versions: Vec<_> = versions.into_iter().map(|v| version_of(v.unwrap())).collect();
    assert!(versions.windows(2).all(|w| w[1] < w[0]), "newer versions sort first");
    let page = p.index().list_versions(bucket, "", None, None, None, 1000).unwrap();
    let listed: Vec<_> = page.versions.iter().rev().map(|(_, v, _)| v.version).collect();
    assert_eq!(listed, versions);
}

/// A command whose future is dropped is carried out or not, and harms nobody.
fn dropped_futures_harm_nobody(p: &dyn Proposer) {
    let bucket = make_bucket(p, 4, Versioning::Off, BucketOptions::default());
    for n in 0..100 {
        drop(p.propose(put(bucket, &format!("k{n}"), 7000 + n, 1)));
    }
    assert!(matches!(propose(p, put(bucket, "last", 8000, 1)), Outcome::Put { .. }));
    assert!(!p.index().list(bucket, "", None, None, 1000).unwrap().objects.is_empty());
}

fn refusals_change_nothing(p: &dyn Proposer) {
    let before = p.index().load().unwrap().dump().unwrap().len();
    for _ in 0..10 {
        let outcome = propose(p, put(granary_types::BucketId(999), "k", 9000, 1));
        assert!(matches!(outcome, Outcome::Refused(_)));
    }
    assert_eq!(p.index().load().unwrap().dump().unwrap().len(), before);
    assert_eq!(propose(p, Command::Noop), Outcome::Done);
}

fn suite(p: Arc<dyn Proposer>) {
    reads_see_what_was_answered(&*p);
    one_of_many_wins(&p);
    order_is_kept(&*p);
    dropped_futures_harm_nobody(&*p);
    refusals_change_nothing(&*p);
}

#[test]
fn memory_twin() {
    suite(Arc::new(memory().0));
}

#[test]
fn local_log_on_one_drive() {
    let dir = tempfile::tempdir().unwrap();
    suite(Arc::new(open(dir.path(), 1, 1).0));
}

#[test]
fn local_log_on_three_mirrors() {
    let dir = tempfile::tempdir().unwrap();
    suite(Arc::new(open(dir.path(), 4, 3).0));
}

#[test]
fn a_full_queue_pushes_back_and_a_closed_store_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), 1, 1);
    options.queue_commands_max = 4;
    let (store, _) = granary_meta::MetaStore::open(options).unwrap();
    let bucket = make_bucket(&store, 1, Versioning::Off, BucketOptions::default());
    let all: Vec<_> = (0..500).map(|n| store.propose(put(bucket, &format!("k{n}"), n, 1))).collect();
    let outcomes = block_on(join_all(all));
    let done = outcomes.iter().filter(|o| o.is_ok()).count();
    let busy = outcomes.iter().filter(|o| matches!(o, Err(granary_meta::MetaError::Busy))).count();
    assert_eq!(done + busy, 500);
    assert!(busy > 0 && done > 0);
    assert_eq!(store.index().usage(bucket).unwrap().objects, done as u64, "what was refused was not applied");
    let large = put_inline(bucket, "large", 9999, &vec![0; 300 << 10]);
    assert!(matches!(block_on(store.propose(large)), Err(granary_meta::MetaError::TooLarge { .. })));
    store.close().unwrap();
    let late = block_on(store.propose(put(bucket, "late", 10_000, 1)));
    assert!(matches!(late, Err(granary_meta::MetaError::Closed)), "{late:?}");
    assert_eq!(store.index().usage(bucket).unwrap().objects, done as u64, "reads go on");
}
