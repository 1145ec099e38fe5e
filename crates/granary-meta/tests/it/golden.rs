//! The encodings of records and commands, byte for byte: what a version wrote, every later one reads.
//! `UPDATE_GOLDEN=1` writes missing files; existing ones are never rewritten by a test.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::support::*;
use bytes::Bytes;
use granary_meta::command::{BucketChange, Command, Condition, DatasetChange, Envelope, EtagMatch, VersionChange};
use granary_meta::records::{
    Attributes, BucketOptions, EtagMode, Fetched, FetchedObject, FrozenManifest, FrozenPrefix, PartOwner, PartPlace,
    PartRef, Parts, Retention, RetentionMode, Sse, SystemHeaders, UploadRecord, Verified, VersionBody, VersionRecord,
    Versioning,
};
use granary_meta::upstream::UpstreamRule;
use granary_types::{
    BucketId, ChecksumAlgorithm, ChecksumHasher, ChecksumKind, DriveId, Scheme, Timestamp, UploadId, VersionId,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

fn golden<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(file: &str, value: &T) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(format!("{file}.bin"));
    let encoded = postcard::to_allocvec(value).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, &encoded).unwrap();
    }
    let stored = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(&postcard::from_bytes::<T>(&stored).unwrap(), value, "{file} decodes to something else");
    assert_eq!(stored, encoded, "{file} is written otherwise");
}

fn attributes() -> Attributes {
    Attributes {
        headers: SystemHeaders { content_type: Some("image/png".to_owned()), ..SystemHeaders::default() },
        user_metadata: vec![("colour".to_owned(), "blue".to_owned())],
        tags: vec![("stage".to_owned(), "raw".to_owned())],
        retention: Some(Retention { mode: RetentionMode::Compliance, until: Timestamp(77) }),
        legal_hold: true,
        sse: Sse::Kms { key_id: "k1".to_owned(), context: Some("e30=".to_owned()), bucket_key_enabled: true },
        owner: "owner".to_owned(),
        acl: Some(b"grants".to_vec()),
    }
}

#[test]
fn records() {
    let options = BucketOptions {
        etag: EtagMode::Opaque,
        write_once: true,
        scheme: Some(Scheme { k: 4, m: 2 }),
        object_lock: true,
        default_retention: Some((RetentionMode::Governance, 60)),
        quota_bytes: Some(1 << 40),
        quota_objects: Some(1 << 20),
        regions: vec!["eu-central-1".to_owned()],
    };
    let mut bucket = bucket_record(7, "golden", Versioning::Suspended, options);
    bucket.documents = BTreeMap::from([("policy".to_owned(), b"{}".to_vec())]);
    let manifest = FrozenManifest { key: key("m"), sha256: [7; 32], objects: 1, bytes: 2, samples: 3 };
    bucket.frozen = vec![FrozenPrefix { prefix: "d/".to_owned(), since: Timestamp(8), manifest: Some(manifest) }];
    golden("bucket-v2", &bucket);

    let mut hasher = ChecksumHasher::new(ChecksumAlgorithm::Crc64nvme);
    hasher.update(b"123456789");
    let mut record = object(5, 9);
    record.checksum = Some(hasher.finish());
    record.attributes = attributes();
    let version = |body| VersionRecord { version: VersionId([3; 16]), created: Timestamp(1_700_000_000_000_000), body };
    golden("version-one-v2", &version(VersionBody::Object(Box::new(record.clone()))));
    record.parts = Parts::Manifest { id: UploadId([4; 16]), count: 3 };
    golden("version-manifest-v2", &version(VersionBody::Object(Box::new(record.clone()))));
    golden("version-marker-v2", &version(VersionBody::DeleteMarker));
    let source = || Fetched {
        etag: "e-3".to_owned(),
        modified: Timestamp(1_600_000_000_000_000),
        at: Timestamp(1_650_000_000_000_000),
        verified: Verified::Length,
    };
    let copy = FetchedObject { object: object(5, 9), source: source() };
    golden("version-fetched-v1", &version(VersionBody::Fetched(Box::new(copy))));
    let put = Command::PutFetched {
        bucket: BucketId(7),
        key: key("k"),
        object: Box::new(object(5, 9)),
        inline: Some(Bytes::from_static(b"sealed")),
        nonce: [6; 8],
        source: source(),
        replaces: Some(Timestamp(4)),
    };
    let drop = Command::DropFetched { bucket: BucketId(7), key: key("k"), created: Timestamp(4) };
    let commands = [put, drop].map(|command| Envelope { at: Timestamp(12_345), command, audit: None });
    golden("commands-upstream-v1", &commands.to_vec());
    let rule = UpstreamRule {
        id: 3,
        endpoint: "https://s3.example:9000".to_owned(),
        bucket: "there".to_owned(),
        prefix: "p/".to_owned(),
        region: "eu-1".to_owned(),
        declared_regions: vec!["eu-1".to_owned(), "eu-2".to_owned()],
        path_style: true,
        access_key: "AK".to_owned(),
        secret: b"sealed".to_vec(),
        ca: b"pem".to_vec(),
        write_back: true,
        revalidate_s: Some(60),
        absent_s: 5,
    };
    golden("upstream-rule-v1", &rule);
    golden("part-inline-v2", &part(6, 10, PartPlace::Inline));
    golden(
        "upload-v2",
        &UploadRecord {
            id: UploadId([5; 16]),
            key: key("a/b"),
            created: Timestamp(9),
            attributes: attributes(),
            checksum_algorithm: Some(ChecksumAlgorithm::Sha256),
            checksum_kind: Some(ChecksumKind::Composite),
            etag: EtagMode::Md5,
        },
    );
    let reference = |owner| PartRef { bucket: BucketId(7), payload_bytes: 10, placement: placement(), owner };
    let owners = [
        PartOwner::Version { key: key("a"), version: VersionId::NULL, created: Timestamp(1) },
        PartOwner::Upload { key: key("a"), upload: UploadId([5; 16]), number: 3 },
        PartOwner::Manifest { id: UploadId([5; 16]), position: 2 },
        PartOwner::Garbage { since: Timestamp(4) },
    ];
    golden("part-refs-v2", &owners.map(reference));
}

#[test]
fn commands() {
    let condition = Condition {
        if_match: Some(EtagMatch::OneOf(vec![etag(1)])),
        if_none_match: Some(EtagMatch::Any),
        if_match_size: Some(3),
        if_match_last_modified: Some(Timestamp(4)),
    };
    let bucket = BucketId(7);
    let all = vec![
        Command::Noop,
        Command::CreateBucket(Box::new(bucket_record(7, "golden", Versioning::Off, BucketOptions::default()))),
        Command::DeleteBucket { name: name("golden") },
        Command::ChangeBucket { name: name("golden"), change: BucketChange::Versioning(Versioning::Enabled) },
        with_condition(put_inline(bucket, "a", 5, b"sealed"), condition),
        delete(bucket, "a", 6),
        delete_version(bucket, "a", VersionId::NULL),
        Command::ChangeVersion { bucket, key: key("a"), version: None, change: VersionChange::LegalHold(true) },
        create_upload(bucket, "m", 8, 9),
        put_part(bucket, "m", 8, 1, 10, 11),
        complete(bucket, "m", 8, &[(1, 10)]),
        Command::AbortUpload { bucket, key: key("m"), upload: upload_id(8) },
        Command::ForgetGarbage { parts: vec![part_id(1)] },
        Command::MovePart { part: part_id(1), from: placement(), to: placement() },
        Command::RegisterDrive { drive: DriveId([1; 16]) },
        Command::RetireDrive { drive: DriveId([1; 16]) },
        Command::SetSystem { name: "heal/cursor".to_owned(), value: Some(Bytes::from_static(b"x")) },
        Command::Dataset {
            bucket: name("golden"),
            prefix: "d/".to_owned(),
            change: DatasetChange::Manifest(FrozenManifest {
                key: key("m"),
                sha256: [7; 32],
                objects: 1,
                bytes: 2,
                samples: 3,
            }),
        },
    ];
    let all: Vec<_> = all.into_iter().map(|command| Envelope { at: Timestamp(12_345), command, audit: None }).collect();
    golden("commands-v2", &all);
}
