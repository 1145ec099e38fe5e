//! Multipart uploads: parts, completion, what becomes garbage, and repeats.

use crate::support::*;
use granary_meta::Proposer;
use granary_meta::command::{Command, CompletedPart, Condition, EtagMatch, Outcome, Refusal};
use granary_meta::records::{BucketOptions, PartOwner, PartPlace, Versioning};
use granary_types::{BucketId, Checksum, ChecksumAlgorithm, ChecksumHasher, ChecksumKind};

const MIB: u64 = 1 << 20;

fn setup() -> (granary_meta::MemoryProposer, BucketId) {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    assert_eq!(propose(&p, create_upload(bucket, "big", 1, 10)), Outcome::Done);
    (p, bucket)
}

#[test]
fn parts_are_replaced_named_and_left_over() {
    let (p, bucket) = setup();
    propose(&p, put_part(bucket, "big", 1, 1, 11, 5 * MIB));
    propose(&p, put_part(bucket, "big", 1, 1, 12, 6 * MIB));
    propose(&p, put_part(bucket, "big", 1, 2, 13, 5 * MIB));
    propose(&p, put_part(bucket, "big", 1, 9, 14, 7));
    let index = p.index();
    assert_eq!(index.usage(bucket).unwrap().upload_bytes, 11 * MIB + 7);
    let numbers: Vec<_> = index.parts(upload_id(1), 1, 10).unwrap().into_iter().map(|(n, _)| n).collect();
    assert_eq!(numbers, [2, 9]);
    let outcome = propose(&p, complete(bucket, "big", 1, &[(1, 12), (9, 14)]));
    let Outcome::Put { size_bytes, etag: made, .. } = outcome.clone() else { panic!("{outcome:?}") };
    assert_eq!(size_bytes, 6 * MIB + 7);
    // MD5 over the two parts' raw MD5s, as S3 makes it.
    use md5::Digest as _;
    let mut hash = md5::Md5::new();
    hash.update(12u128.to_be_bytes());
    hash.update(14u128.to_be_bytes());
    let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(made, format!("{hex}-2"));
    let garbage: Vec<_> = index.garbage(None, 10).unwrap().into_iter().map(|(id, _)| id).collect();
    assert_eq!(garbage, [part_id(11), part_id(13)]);
    let manifest = index.manifest(upload_id(1)).unwrap().unwrap();
    assert_eq!(manifest.iter().map(|p| p.id).collect::<Vec<_>>(), [part_id(12), part_id(14)]);
    let owner = index.part_ref(part_id(14)).unwrap().unwrap().owner;
    assert_eq!(owner, PartOwner::Manifest { id: upload_id(1), position: 1 });
    let usage = index.usage(bucket).unwrap();
    assert_eq!((usage.uploads, usage.upload_bytes, usage.bytes, usage.objects), (0, 0, size_bytes, 1));

    assert_eq!(propose(&p, complete(bucket, "big", 1, &[(1, 12), (9, 14)])), outcome, "a repeat is answered alike");
    assert_eq!(
        propose(&p, complete(bucket, "big", 1, &[(1, 12)])),
        Outcome::Refused(Refusal::NoSuchUpload),
        "another list is no repeat"
    );
    propose(&p, delete(bucket, "big", 1));
    assert_eq!(index.manifest(upload_id(1)).unwrap(), None);
    assert_eq!(index.garbage(None, 10).unwrap().len(), 4);
    assert_eq!(index.usage(bucket).unwrap(), granary_meta::Usage::default());
}

#[test]
fn completion_is_checked() {
    let (p, bucket) = setup();
    propose(&p, put_part(bucket, "big", 1, 1, 11, 100));
    propose(&p, put_part(bucket, "big", 1, 2, 12, 5 * MIB));
    let refusal = |parts: &[(u16, u64)]| match propose(&p, complete(bucket, "big", 1, parts)) {
        Outcome::Refused(refusal) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refusal(&[(2, 12), (1, 11)]), Refusal::InvalidPartOrder);
    assert_eq!(refusal(&[(1, 11), (1, 11)]), Refusal::InvalidPartOrder);
    assert_eq!(refusal(&[(2, 11)]), Refusal::InvalidPart { number: 2 });
    assert_eq!(refusal(&[(3, 12)]), Refusal::InvalidPart { number: 3 });
    assert_eq!(refusal(&[(1, 11), (2, 12)]), Refusal::EntityTooSmall { number: 1, size_bytes: 100 });
    assert!(matches!(refusal(&[]), Refusal::InvalidState(_)));
    let claim = |size: Option<u64>, condition: Condition| {
        let Command::CompleteUpload { bucket, key, upload, parts, nonce, .. } = complete(bucket, "big", 1, &[(2, 12)])
        else {
            unreachable!()
        };
        propose(
            &p,
            Command::CompleteUpload { bucket, key, upload, parts, checksum: None, size_bytes: size, nonce, condition },
        )
    };
    assert_eq!(claim(Some(1), Condition::default()), Outcome::Refused(Refusal::BadSize));
    propose(&p, put(bucket, "big", 50, 1));
    let none = Condition { if_none_match: Some(EtagMatch::Any), ..Condition::default() };
    assert_eq!(claim(None, none), Outcome::Refused(Refusal::Precondition("If-None-Match")));
    let same = Condition { if_match: Some(EtagMatch::OneOf(vec![etag(50)])), ..Condition::default() };
    assert!(matches!(claim(Some(5 * MIB), same), Outcome::Put { .. }));
    let other = Command::AbortUpload { bucket, key: key("big"), upload: upload_id(1) };
    assert_eq!(propose(&p, other), Outcome::Refused(Refusal::NoSuchUpload));
    assert_eq!(
        propose(&p, put_part(bucket, "big", 1, 1, 60, 1)),
        Outcome::Refused(Refusal::NoSuchUpload),
        "the upload is over"
    );
}

#[test]
fn an_upload_belongs_to_its_bucket_and_key() {
    let (p, bucket) = setup();
    let other = make_bucket(&p, 2, Versioning::Off, BucketOptions::default());
    assert_eq!(propose(&p, put_part(bucket, "small", 1, 1, 11, 1)), Outcome::Refused(Refusal::NoSuchUpload));
    assert_eq!(propose(&p, put_part(other, "big", 1, 1, 11, 1)), Outcome::Refused(Refusal::NoSuchUpload));
    assert!(matches!(propose(&p, put_part(bucket, "big", 1, 0, 11, 1)), Outcome::Refused(Refusal::InvalidState(_))));
    assert!(p.index().upload(other, &key("big"), upload_id(1)).unwrap().is_none());
    assert!(p.index().upload(bucket, &key("big"), upload_id(1)).unwrap().is_some());
    assert!(matches!(propose(&p, create_upload(other, "x", 1, 1)), Outcome::Refused(Refusal::InvalidState(_))));
}

#[test]
fn aborting_frees_all_parts() {
    let (p, bucket) = setup();
    propose(&p, put_part(bucket, "big", 1, 1, 11, 5));
    let inline = Command::PutPart {
        bucket,
        key: key("big"),
        upload: upload_id(1),
        number: 2,
        part: Box::new(part(12, 3, PartPlace::Inline)),
        inline: Some(bytes::Bytes::from_static(b"xyz")),
    };
    assert_eq!(propose(&p, inline), Outcome::Done);
    propose(&p, Command::AbortUpload { bucket, key: key("big"), upload: upload_id(1) });
    assert_eq!(p.index().garbage(None, 9).unwrap().len(), 1);
    assert_eq!(p.index().inline(part_id(12)).unwrap(), None);
    assert!(p.index().parts(upload_id(1), 0, 9).unwrap().is_empty());
    assert_eq!(p.index().usage(bucket).unwrap(), granary_meta::Usage::default());
}

#[test]
fn checksums_of_parts_make_the_objects() {
    let of = |algorithm, bytes: &[u8]| {
        let mut hasher = ChecksumHasher::new(algorithm);
        hasher.update(bytes);
        hasher.finish()
    };
    let bodies = [vec![1u8; 5 << 20], vec![2u8; 10]];
    let whole = bodies.concat();
    for (upload, announced, kind) in [
        (21, None, None),
        (22, Some(ChecksumAlgorithm::Sha256), None),
        (23, Some(ChecksumAlgorithm::Crc32c), Some(ChecksumKind::FullObject)),
        (24, Some(ChecksumAlgorithm::Crc32), None),
    ] {
        let (p, bucket) = setup();
        let Command::CreateUpload { upload: mut record, .. } = create_upload(bucket, "c", upload, 5) else {
            unreachable!()
        };
        record.checksum_algorithm = announced;
        record.checksum_kind = kind;
        propose(&p, Command::CreateUpload { bucket, upload: record });
        let algorithm = announced.unwrap_or(ChecksumAlgorithm::Crc64nvme);
        let mut named = Vec::new();
        for (number, body) in (1u16..).zip(&bodies) {
            let mut record = part(u64::from(number) + 100, body.len() as u64, PartPlace::Drives(placement()));
            record.checksum = Some(of(algorithm, body));
            named.push(CompletedPart { number, etag: record.etag.clone(), checksum: record.checksum.clone() });
            let part = Box::new(record);
            propose(
                &p,
                Command::PutPart { bucket, key: key("c"), upload: upload_id(upload), number, part, inline: None },
            );
        }
        let finish = |parts: &[CompletedPart], checksum: Option<Checksum>| {
            propose(
                &p,
                Command::CompleteUpload {
                    bucket,
                    key: key("c"),
                    upload: upload_id(upload),
                    parts: parts.to_vec(),
                    checksum,
                    size_bytes: None,
                    nonce: [0; 8],
                    condition: Condition::default(),
                },
            )
        };
        let mut wrong = named.clone();
        wrong[1].checksum = Some(of(algorithm, b"other"));
        assert_eq!(finish(&wrong, None), Outcome::Refused(Refusal::InvalidPart { number: 2 }));
        assert_eq!(finish(&named, Some(of(algorithm, b"other"))), Outcome::Refused(Refusal::BadChecksum));
        let full = kind == Some(ChecksumKind::FullObject) || announced.is_none();
        let claimed = full.then(|| of(algorithm, &whole));
        let Outcome::Put { checksum: Some(made), .. } = finish(&named, claimed) else { panic!("no checksum") };
        if full {
            assert_eq!(made, of(algorithm, &whole));
        } else {
            assert_eq!(made.kind, ChecksumKind::Composite);
            assert!(made.to_wire().ends_with("-2"));
        }
    }
}

#[test]
fn old_completions_are_forgotten() {
    let (p, clock) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    let run = |n: u64| {
        propose(&p, create_upload(bucket, "k", n, n));
        propose(&p, put_part(bucket, "k", n, 1, n + 1000, 1));
        propose(&p, complete(bucket, "k", n, &[(1, n + 1000)]))
    };
    let first = run(1);
    assert_eq!(propose(&p, complete(bucket, "k", 1, &[(1, 1001)])), first);
    clock.0.0.fetch_add(25 * 3600 * 1_000_000, std::sync::atomic::Ordering::SeqCst);
    run(2);
    assert_eq!(propose(&p, complete(bucket, "k", 1, &[(1, 1001)])), Outcome::Refused(Refusal::NoSuchUpload));
}

#[test]
fn uploads_are_listed_by_key_then_time() {
    let (p, _) = memory();
    let bucket = make_bucket(&p, 1, Versioning::Off, BucketOptions::default());
    for (text, upload, created) in [("b", 1, 30), ("a/1", 2, 20), ("b", 3, 10), ("a/2", 4, 5), ("c", 5, 1)] {
        propose(&p, create_upload(bucket, text, upload, created));
    }
    let index = p.index();
    let ids = |page: &granary_meta::UploadPage| page.uploads.iter().map(|u| u.id).collect::<Vec<_>>();
    let all = index.list_uploads(bucket, "", None, None, None, 10).unwrap();
    assert_eq!(ids(&all), [2, 4, 3, 1, 5].map(upload_id));
    assert_eq!(all.next, None);
    for max in 1..5 {
        let mut found = Vec::new();
        let mut marker: Option<(String, granary_types::UploadId)> = None;
        loop {
            let (key, upload) = marker.as_ref().map(|(k, u)| (Some(k.as_str()), Some(*u))).unwrap_or_default();
            let page = index.list_uploads(bucket, "", None, key, upload, max).unwrap();
            found.extend(ids(&page));
            marker = page.next;
            if marker.is_none() {
                break;
            }
        }
        assert_eq!(found, ids(&all), "pages of {max}");
    }
    let rolled = index.list_uploads(bucket, "", Some("/"), None, None, 2).unwrap();
    assert_eq!((rolled.common_prefixes.as_slice(), ids(&rolled)), (&["a/".to_owned()][..], vec![upload_id(3)]));
    let (key, upload) = rolled.next.unwrap();
    let rest = index.list_uploads(bucket, "", Some("/"), Some(&key), Some(upload), 9).unwrap();
    assert_eq!(ids(&rest), [1, 5].map(upload_id));
    let behind = index.list_uploads(bucket, "", Some("/"), Some("a/"), None, 9).unwrap();
    assert!(behind.common_prefixes.is_empty());
    assert_eq!(ids(&behind), [3, 1, 5].map(upload_id));
}
