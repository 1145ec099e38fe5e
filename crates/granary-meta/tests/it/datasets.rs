//! Frozen datasets: nothing under the prefix changes, whatever command tries; everything else does.

use crate::support::*;
use granary_meta::command::{Command, DatasetChange, Outcome, Refusal, VersionChange};
use granary_meta::records::{BucketOptions, DATASETS_FOLDER, FrozenManifest, Versioning};
use granary_meta::{MemoryProposer, Proposer as _};
use granary_types::BucketId;

fn change(prefix: &str, change: DatasetChange) -> Command {
    Command::Dataset { bucket: name("bucket-1"), prefix: prefix.to_owned(), change }
}

fn frozen(prefix: &str) -> Outcome {
    Outcome::Refused(Refusal::Frozen { prefix: prefix.to_owned() })
}

fn manifest(prefix: &str) -> FrozenManifest {
    FrozenManifest {
        key: key(&format!("{DATASETS_FOLDER}{prefix}m")),
        sha256: [7; 32],
        objects: 1,
        bytes: 2,
        samples: 3,
    }
}

fn bucket(versioning: Versioning) -> (MemoryProposer, BucketId) {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, versioning, BucketOptions::default());
    (p, bucket)
}

#[test]
fn no_command_changes_what_is_frozen() {
    for versioning in [Versioning::Off, Versioning::Enabled, Versioning::Suspended] {
        let (p, bucket) = bucket(versioning);
        let version = version_of(propose(&p, put(bucket, "d/v1/a", 1, 10)));
        propose(&p, create_upload(bucket, "d/v1/m", 8, 9));
        propose(&p, put_part(bucket, "d/v1/m", 8, 1, 10, 11));
        assert_eq!(propose(&p, change("d/v1/", DatasetChange::Freeze)), Outcome::Done);
        let before = p.index().current(bucket, &key("d/v1/a")).unwrap();
        for command in [
            put(bucket, "d/v1/a", 2, 10),
            put(bucket, "d/v1/new", 3, 10),
            put_inline(bucket, "d/v1/b", 5, b"sealed"),
            delete(bucket, "d/v1/a", 6),
            delete_version(bucket, "d/v1/a", version),
            create_upload(bucket, "d/v1/other", 9, 9),
            complete(bucket, "d/v1/m", 8, &[(1, 10)]),
            Command::ChangeVersion {
                bucket,
                key: key("d/v1/a"),
                version: None,
                change: VersionChange::Tags(vec![("a".to_owned(), "b".to_owned())]),
            },
        ] {
            assert_eq!(propose(&p, command.clone()), frozen("d/v1/"), "{command:?}");
        }
        assert_eq!(p.index().current(bucket, &key("d/v1/a")).unwrap(), before);
        // The open upload can be dropped; keys beside the prefix are free.
        assert_eq!(
            propose(&p, Command::AbortUpload { bucket, key: key("d/v1/m"), upload: upload_id(8) }),
            Outcome::Done
        );
        for (n, free) in (20..).zip(["d/v1", "d/v1.txt", "d/v2/a", "d/v10/a", "d/a", "a", "e"]) {
            assert!(matches!(propose(&p, put(bucket, free, n, 1)), Outcome::Put { .. }), "{free}");
        }
    }
}

#[test]
fn the_manifest_is_named_once_and_closed_with_it() {
    let (p, bucket) = bucket(Versioning::Off);
    propose(&p, put(bucket, "d/a", 1, 10));
    let wanted = manifest("d/");
    let file = format!("{DATASETS_FOLDER}d/m");
    assert!(matches!(propose(&p, change("d/", DatasetChange::Manifest(wanted.clone()))), Outcome::Refused(_)));
    propose(&p, change("d/", DatasetChange::Freeze));
    assert!(matches!(propose(&p, put(bucket, &file, 2, 5)), Outcome::Put { .. }));
    assert_eq!(propose(&p, change("d/", DatasetChange::Manifest(wanted.clone()))), Outcome::Done);
    assert_eq!(propose(&p, change("d/", DatasetChange::Manifest(wanted.clone()))), Outcome::Done);
    let other = FrozenManifest { sha256: [8; 32], ..wanted.clone() };
    assert!(matches!(propose(&p, change("d/", DatasetChange::Manifest(other))), Outcome::Refused(_)));
    assert_eq!(propose(&p, put(bucket, &file, 3, 5)), frozen("d/"));
    assert_eq!(propose(&p, delete(bucket, &file, 4)), frozen("d/"));
    // Freezing again changes nothing; thawing frees both.
    assert_eq!(propose(&p, change("d/", DatasetChange::Freeze)), Outcome::Done);
    let record = p.index().bucket(&name("bucket-1")).unwrap().unwrap();
    assert_eq!(record.frozen[0].manifest, Some(wanted));
    assert_eq!(propose(&p, change("d/", DatasetChange::Thaw)), Outcome::Done);
    assert!(matches!(propose(&p, change("d/", DatasetChange::Thaw)), Outcome::Refused(_)));
    assert!(matches!(propose(&p, put(bucket, &file, 5, 5)), Outcome::Put { .. }));
    assert!(matches!(propose(&p, put(bucket, "d/a", 6, 5)), Outcome::Put { .. }));
}

#[test]
fn prefixes_that_cannot_be_frozen() {
    let (p, _) = bucket(Versioning::Off);
    assert_eq!(propose(&p, change("m/n/", DatasetChange::Freeze)), Outcome::Done);
    for prefix in ["", "/", "a", "m/", "m/n/o/", ".granary/", ".granary/datasets/", ".granary/datasets/x/"] {
        assert!(matches!(propose(&p, change(prefix, DatasetChange::Freeze)), Outcome::Refused(_)), "{prefix}");
    }
    let long = format!("{}/", "x".repeat(900));
    assert!(matches!(propose(&p, change(&long, DatasetChange::Freeze)), Outcome::Refused(_)));
    for prefix in ["m/m/", "m/o/", "a/", "z/"] {
        assert_eq!(propose(&p, change(prefix, DatasetChange::Freeze)), Outcome::Done, "{prefix}");
    }
    let record = p.index().bucket(&name("bucket-1")).unwrap().unwrap();
    let prefixes: Vec<_> = record.frozen.iter().map(|frozen| frozen.prefix.as_str()).collect();
    assert_eq!(prefixes, ["a/", "m/m/", "m/n/", "m/o/", "z/"]);
    for (key, prefix) in [("m/n/x", Some("m/n/")), ("m/nn", None), ("zz", None), ("a/", Some("a/")), ("b", None)] {
        assert_eq!(record.frozen(key).map(|frozen| frozen.prefix.as_str()), prefix, "{key}");
    }
    let none = Command::Dataset { bucket: name("nothing"), prefix: "a/".to_owned(), change: DatasetChange::Freeze };
    assert_eq!(propose(&p, none), Outcome::Refused(Refusal::NoSuchBucket));
}
