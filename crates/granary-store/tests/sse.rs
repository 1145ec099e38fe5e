//! Encryption of every kind × every way in which bytes are kept × every way of reading, and copies from each kind to
//! each: the bytes are compared, because wrong ones with a good answer would be the worst of all faults.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod common;

use bytes::Bytes;
use common::{TestStore, body, body_bytes, no_claims, payload};
use granary_meta::command::{CompletedPart, Condition};
use granary_meta::records::{Attributes, EtagMode, Sse};
use granary_store::StoreError;
use granary_store::api::{
    CompleteRequest, CopyRequest, CopySource, CreateUploadRequest, CustomerKey, GetRequest, ObjectStore as _, Portion,
    PutRequest, ReadCondition, Secret32, Unlock, UploadPartRequest,
};
use granary_store::sse::{KMS_DEFAULT_KEY, SseError};
use granary_types::{BucketName, ObjectKey, RangeSpec};

/// Inline, copies, striped, several stripes with a short end.
const SIZES: [usize; 5] = [0, 9_000, 100_000, 700_000, 5_300_000];
const PART: usize = 5 * 1024 * 1024 + 77;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    S3,
    Kms,
    KmsContext,
    Customer(u8),
}

const KINDS: [Kind; 5] = [Kind::S3, Kind::Kms, Kind::KmsContext, Kind::Customer(1), Kind::Customer(2)];

impl Kind {
    fn key(self) -> Option<CustomerKey> {
        let Self::Customer(byte) = self else { return None };
        Some(CustomerKey::new(Secret32::from_bytes([byte; 32]), format!("md5 of {byte}")))
    }

    fn sse(self) -> Sse {
        let kms = |key_id: &str, context: Option<&str>| Sse::Kms {
            key_id: key_id.to_owned(),
            context: context.map(str::to_owned),
            bucket_key_enabled: false,
        };
        match self {
            Self::S3 => Sse::S3,
            Self::Kms => kms("", None),
            Self::KmsContext => kms("arn:aws:kms:us-east-1:123456789012:key/k1", Some("eyJhIjoiYiJ9")),
            Self::Customer(_) => Sse::Customer { key_md5: self.key().unwrap().md5().to_owned() },
        }
    }

    fn unlock(self) -> Unlock {
        self.key().map_or(Unlock::Plain, Unlock::Key)
    }

    fn attributes(self) -> Attributes {
        Attributes { sse: self.sse(), ..common::attributes() }
    }
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

struct Test {
    store: TestStore,
    bucket: BucketName,
    other: BucketName,
}

impl Test {
    async fn new() -> Self {
        let store = TestStore::new().await;
        let (bucket, other) = (BucketName::new("one").unwrap(), BucketName::new("two").unwrap());
        store.create_bucket(&bucket).await;
        store.create_bucket(&other).await;
        assert!(store.store.create_kms_key("k1").await.unwrap());
        assert!(!store.store.create_kms_key("k1").await.unwrap(), "a name never gets a second key");
        Self { store, bucket, other }
    }

    fn request(&self, bucket: &BucketName, name: &str, portion: Portion, unlock: Unlock) -> GetRequest {
        GetRequest {
            bucket: bucket.clone(),
            key: key(name),
            version: None,
            portion,
            condition: ReadCondition::default(),
            unlock,
        }
    }

    async fn put(&self, name: &str, kind: Kind, bytes: &[u8]) -> Result<(), StoreError> {
        let put = PutRequest {
            bucket: self.bucket.clone(),
            key: key(name),
            size_bytes: bytes.len() as u64,
            attributes: kind.attributes(),
            claims: no_claims(),
            condition: Condition::default(),
            customer_key: kind.key(),
            body: body(bytes),
        };
        let put = self.store.store.put(put).await?;
        let md5_like = put.etag.len() == 32 && put.etag.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(md5_like, "{kind:?} {}", put.etag);
        if let Sse::Kms { key_id, .. } = &put.sse {
            assert!(key_id == KMS_DEFAULT_KEY || key_id.ends_with("key/k1"), "{key_id}");
        }
        Ok(())
    }

    async fn upload(&self, name: &str, kind: Kind, parts: &[Vec<u8>]) {
        let store = &self.store.store;
        let create = CreateUploadRequest {
            bucket: self.bucket.clone(),
            key: key(name),
            attributes: kind.attributes(),
            checksum_algorithm: None,
            checksum_kind: None,
        };
        let upload = store.create_upload(create).await.unwrap();
        let part = |number: u16, bytes: &[u8], customer_key| UploadPartRequest {
            bucket: self.bucket.clone(),
            key: key(name),
            upload: upload.id,
            number,
            size_bytes: bytes.len() as u64,
            claims: no_claims(),
            customer_key,
            body: body(bytes),
        };
        let mut named = Vec::new();
        for (number, bytes) in (1u16..).zip(parts) {
            let wrong = Kind::Customer(9).key();
            let refused = store.upload_part(part(number, bytes, wrong)).await.unwrap_err();
            assert!(matches!(refused, StoreError::Sse(SseError::PartKeyDiffers | SseError::PartNeedsKey)));
            if kind.key().is_some() {
                let refused = store.upload_part(part(number, bytes, None)).await.unwrap_err();
                assert!(matches!(refused, StoreError::Sse(SseError::PartNeedsKey)), "{refused}");
            }
            let uploaded = store.upload_part(part(number, bytes, kind.key())).await.unwrap();
            named.push(CompletedPart { number, etag: uploaded.part.etag, checksum: None });
        }
        let complete = CompleteRequest {
            bucket: self.bucket.clone(),
            key: key(name),
            upload: upload.id,
            parts: named,
            checksum: None,
            size_bytes: None,
            condition: Condition::default(),
            customer_key: kind.key(),
        };
        let put = store.complete_upload(complete).await.unwrap();
        assert_eq!(std::mem::discriminant(&put.sse), std::mem::discriminant(&kind.sse()), "{kind:?}");
    }

    async fn read(
        &self,
        bucket: &BucketName,
        name: &str,
        portion: Portion,
        unlock: Unlock,
    ) -> Result<Bytes, StoreError> {
        let (info, body) = self.store.store.get(self.request(bucket, name, portion, unlock)).await?;
        let bytes = body_bytes(body).await;
        assert_eq!(bytes.len() as u64, info.range.len());
        Ok(Bytes::from(bytes))
    }

    /// Whole, ranges over the borders of chunks, stripes and parts, parts by number; and with wrong keys not at all.
    async fn check(&self, bucket: &BucketName, name: &str, kind: Kind, bytes: &[u8], parts: &[Vec<u8>]) {
        let whole = self.read(bucket, name, Portion::Whole, kind.unlock()).await.unwrap();
        assert!(whole == bytes, "{name} {kind:?}");
        let len = bytes.len() as u64;
        let mut borders = vec![1, 65_520, 262_080, 2_096_640];
        let mut at = 0;
        for part in parts {
            at += part.len() as u64;
            borders.extend([at, at + 65_520]);
        }
        for border in borders.into_iter().filter(|border| *border < len) {
            let (first, last) = (border.saturating_sub(3), (border + 70_000).min(len - 1));
            let portion = Portion::Range(RangeSpec::From { first, last: Some(last) });
            let range = self.read(bucket, name, portion, kind.unlock()).await.unwrap();
            assert!(range == bytes[first as usize..=last as usize], "{name} {kind:?} {first}-{last}");
        }
        let mut start = 0;
        for (number, part) in (1u16..).zip(parts) {
            let read = self.read(bucket, name, Portion::Part(number), kind.unlock()).await.unwrap();
            assert!(read == bytes[start..start + part.len()], "{name} {kind:?} part {number}");
            start += part.len();
        }
        let wrong = Unlock::Key(Kind::Customer(9).key().unwrap());
        for unlock in [Unlock::Plain, wrong] {
            let request = self.request(bucket, name, Portion::Whole, unlock.clone());
            let (got, head) =
                (self.store.store.get(request.clone()).await.map(drop), self.store.store.head(request).await.map(drop));
            match (kind, &unlock) {
                (Kind::Customer(_), Unlock::Plain) => {
                    assert!(matches!(got, Err(StoreError::Sse(SseError::KeyNeeded))), "{name}");
                    assert!(matches!(head, Err(StoreError::Sse(SseError::KeyNeeded))), "{name}");
                }
                (Kind::Customer(_), _) => assert!(matches!(got, Err(StoreError::Sse(SseError::KeyWrong))), "{name}"),
                (_, Unlock::Plain) => assert!(got.is_ok() && head.is_ok()),
                _ => assert!(matches!(got, Err(StoreError::Sse(SseError::NotApplicable))), "{name}"),
            }
        }
        // Another key that claims the right MD5 gets past the comparison, not past the data key.
        if let Some(mine) = kind.key().filter(|_| !bytes.is_empty()) {
            let forged = CustomerKey::new(Secret32::from_bytes([99; 32]), mine.md5().to_owned());
            let got = self.read(bucket, name, Portion::Whole, Unlock::Key(forged)).await;
            assert!(matches!(got, Err(StoreError::Sse(SseError::KeyWrong))), "{name}");
        }
        let known = self.store.store.head(self.request(bucket, name, Portion::Whole, Unlock::Unneeded)).await;
        assert_eq!(known.unwrap().object.size_bytes, len, "tags and locks need no key");
    }

    async fn copy(&self, from: (&str, Kind), to: (&str, Kind)) {
        let copy = CopyRequest {
            source: CopySource {
                bucket: self.bucket.clone(),
                key: key(from.0),
                version: None,
                condition: ReadCondition::default(),
                range: None,
                unlock: from.1.unlock(),
            },
            bucket: self.other.clone(),
            key: key(to.0),
            replace_attributes: None,
            replace_tags: None,
            algorithm: None,
            lock: common::attributes(),
            sse: to.1.sse(),
            sse_asked: true,
            storage_class: None,
            class_asked: false,
            customer_key: to.1.key(),
            condition: Condition::default(),
        };
        let copied = self.store.store.copy(copy).await.unwrap();
        assert_eq!(std::mem::discriminant(&copied.put.sse), std::mem::discriminant(&to.1.sse()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_object_reads_back_and_copies_to_every_kind() {
    let mut test = Test::new().await;
    let parts = vec![payload(50, PART), payload(51, PART), payload(52, 3000)];
    let multipart: Vec<u8> = parts.concat();
    for kind in KINDS {
        for size in SIZES {
            let bytes = payload(size as u64, size);
            test.put(&format!("{size}"), kind, &bytes).await.unwrap();
            test.check(&test.bucket, &format!("{size}"), kind, &bytes, &[]).await;
            for to in KINDS.into_iter().filter(|_| size <= 700_000) {
                test.copy((&size.to_string(), kind), ("copy", to)).await;
                test.check(&test.other, "copy", to, &bytes, &[]).await;
            }
        }
        test.upload("multipart", kind, &parts).await;
        test.check(&test.bucket, "multipart", kind, &multipart, &parts).await;
        let to = KINDS[(KINDS.iter().position(|k| *k == kind).unwrap() + 3) % KINDS.len()];
        test.copy(("multipart", kind), ("copy", to)).await;
        test.check(&test.other, "copy", to, &multipart, &[]).await;
        // Nothing of it depends on what is in memory.
        test.store.reopen().await;
        test.check(&test.bucket, "multipart", kind, &multipart, &parts).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_copied_from_every_kind_into_every_kind() {
    let test = Test::new().await;
    let store = &test.store.store;
    let bytes = payload(7, PART);
    for from in KINDS {
        test.put("source", from, &bytes).await.unwrap();
        for to in KINDS {
            let create = CreateUploadRequest {
                bucket: test.other.clone(),
                key: key("assembled"),
                attributes: to.attributes(),
                checksum_algorithm: None,
                checksum_kind: None,
            };
            let upload = store.create_upload(create).await.unwrap();
            let range = (65_000, 200_000);
            let source = || CopySource {
                bucket: test.bucket.clone(),
                key: key("source"),
                version: None,
                condition: ReadCondition::default(),
                range: Some(range),
                unlock: from.unlock(),
            };
            let name = key("assembled");
            let refused =
                store.upload_part_copy(source(), &test.other, &name, upload.id, 1, Kind::Customer(9).key()).await;
            assert!(matches!(refused, Err(StoreError::Sse(_))));
            let copied = store.upload_part_copy(source(), &test.other, &name, upload.id, 1, to.key()).await.unwrap();
            let complete = CompleteRequest {
                bucket: test.other.clone(),
                key: name,
                upload: upload.id,
                parts: vec![CompletedPart { number: 1, etag: copied.part.etag, checksum: None }],
                checksum: None,
                size_bytes: None,
                condition: Condition::default(),
                customer_key: to.key(),
            };
            store.complete_upload(complete).await.unwrap();
            let expected = &bytes[range.0 as usize..=range.1 as usize];
            test.check(&test.other, "assembled", to, expected, &[expected.to_vec()]).await;
        }
    }
}

#[tokio::test]
async fn named_keys_can_be_missing_and_disabled() {
    let test = Test::new().await;
    let bytes = payload(1, 20_000);
    let missing = Sse::Kms { key_id: "nobody".to_owned(), context: None, bucket_key_enabled: false };
    let put = |sse: Sse| PutRequest {
        bucket: test.bucket.clone(),
        key: key("o"),
        size_bytes: bytes.len() as u64,
        attributes: Attributes { sse, ..common::attributes() },
        claims: no_claims(),
        condition: Condition::default(),
        customer_key: None,
        body: body(&bytes),
    };
    let refused = test.store.store.put(put(missing)).await.unwrap_err();
    assert!(matches!(&refused, StoreError::Sse(SseError::NoSuchKmsKey(id)) if id == "nobody"), "{refused}");
    test.store.store.put(put(Kind::KmsContext.sse())).await.unwrap();
    test.store.store.enable_kms_key("k1", false).await.unwrap();
    let refused = test.read(&test.bucket, "o", Portion::Whole, Unlock::Plain).await.unwrap_err();
    assert!(matches!(refused, StoreError::Sse(SseError::KmsKeyDisabled(_))), "{refused}");
    assert!(test.store.store.put(put(Kind::KmsContext.sse())).await.is_err());
    test.store.store.enable_kms_key("k1", true).await.unwrap();
    assert!(test.read(&test.bucket, "o", Portion::Whole, Unlock::Plain).await.unwrap() == bytes);
    for bad in ["", "alias/x", "a b", "arn:aws:kms:r:1:key/x"] {
        assert!(test.store.store.create_kms_key(bad).await.is_err(), "{bad}");
    }
    assert_eq!(EtagMode::default(), EtagMode::Md5);
}
