//! The last resort: versions put back from what the drives tell.

use futures::executor::block_on;
use granary_meta::command::Refusal;
use granary_meta::records::{BucketOptions, Parts, VersionBody, VersionRecord, Versioning};
use granary_meta::rescue::{Recovered, rescue};
use granary_meta::{Index, Proposer};
use granary_types::{BucketId, VersionId};

use crate::support::*;

fn parts_of(index: &Index, version: &VersionRecord) -> Vec<granary_meta::records::PartRecord> {
    match version.object().map(|o| &o.parts) {
        Some(Parts::Manifest { id, .. }) => index.manifest(*id).unwrap().unwrap(),
        _ => Vec::new(),
    }
}

#[test]
fn versions_come_back_as_they_were_in_any_order() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Enabled, BucketOptions::default());
    for n in 1..40u64 {
        let text = format!("key{}", n % 5);
        match n % 4 {
            0 => drop(propose(&p, delete(bucket, &text, n))),
            1 => {
                propose(&p, create_upload(bucket, &text, n, n));
                propose(&p, put_part(bucket, &text, n, 1, n + 100, 7));
                propose(&p, complete(bucket, &text, n, &[(1, n + 100)]));
            }
            _ => drop(propose(&p, put(bucket, &text, n, n))),
        }
    }
    let index = p.index().load().unwrap();
    let page = index.list_versions(bucket, "", None, None, None, 1000).unwrap();
    let record = bucket_record(1, "bucket-1", Versioning::Enabled, BucketOptions::default());
    let mut found: Vec<Recovered> = page
        .versions
        .iter()
        .map(|(text, version, _)| Recovered {
            bucket: record.clone(),
            key: key(text),
            version: version.clone(),
            parts: parts_of(&index, version),
        })
        .collect();
    // Neither sorted nor only once.
    found.rotate_left(7);
    found.extend(found[..5].to_vec());
    let (again, _) = memory();
    let rescued = block_on(rescue(&again, found)).unwrap();
    assert_eq!((rescued.buckets, rescued.versions, rescued.refused.len()), (1, 44, 0));
    let restored = again.index().load().unwrap();
    assert_eq!(restored.list_versions(bucket, "", None, None, None, 1000).unwrap(), page);
    assert_eq!(restored.usage(bucket), index.usage(bucket));
    assert_eq!(restored.part_refs(None, 1000).unwrap(), index.part_refs(None, 1000).unwrap());
}

#[test]
fn what_cannot_be_right_is_refused() {
    let (p, _) = memory();
    let record = bucket_record(1, "bucket-1", Versioning::Off, BucketOptions::default());
    let entry = |text: &str, n: u64, parts: Parts| {
        let mut object = object(n, 5);
        object.parts = parts;
        let body = VersionBody::Object(Box::new(object));
        let version = VersionRecord { version: VersionId::NULL, created: granary_types::Timestamp(n), body };
        Recovered { bucket: record.clone(), key: key(text), version, parts: Vec::new() }
    };
    let found = [
        entry("a", 2, object(2, 5).parts),
        entry("a", 1, object(1, 5).parts),
        entry("b", 3, object(2, 5).parts),
        entry("c", 4, Parts::Manifest { id: upload_id(9), count: 2 }),
    ];
    let rescued = block_on(rescue(&p, found)).unwrap();
    assert_eq!(rescued.versions, 2, "the older state of `a` is passed over");
    assert_eq!(rescued.refused.len(), 2);
    assert!(rescued.refused.iter().all(|(_, r)| matches!(r, Refusal::InvalidState(_))));
    let current = p.index().current(BucketId(1), &key("a")).unwrap().unwrap();
    assert_eq!(current.created.0, 2);
}
