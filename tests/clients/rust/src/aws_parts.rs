//! AWS's SDK for Rust: multipart uploads with checksums of each kind, copies of ranges into parts, what is left of an abandoned one.

use aws_sdk_s3::Client;
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ChecksumType, CompletedMultipartUpload, CompletedPart};

use crate::aws::{delete, read};
use crate::content;

const MIB: usize = 1 << 20;
const PARTS: [usize; 3] = [5 * MIB, 5 * MIB + 77, 12_345];

/// All of it; what it writes, it deletes.
pub(crate) async fn run(client: &Client, bucket: &str) {
    for (algorithm, kind) in [
        (ChecksumAlgorithm::Crc32, ChecksumType::Composite),
        (ChecksumAlgorithm::Sha256, ChecksumType::Composite),
        (ChecksumAlgorithm::Crc32C, ChecksumType::FullObject),
        (ChecksumAlgorithm::Crc64Nvme, ChecksumType::FullObject),
    ] {
        upload(client, bucket, algorithm, kind).await;
    }
    copied(client, bucket).await;
    abandoned(client, bucket).await;
}

async fn upload(client: &Client, bucket: &str, algorithm: ChecksumAlgorithm, kind: ChecksumType) {
    let key = format!("{algorithm}/{kind}");
    let begun = client
        .create_multipart_upload()
        .bucket(bucket)
        .key(&key)
        .checksum_algorithm(algorithm.clone())
        .checksum_type(kind.clone());
    let begun = begun.send().await.unwrap_or_else(|why| panic!("{key}: {}", DisplayErrorContext(why)));
    let id = begun.upload_id().expect("an upload id");
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    for (number, bytes) in (1..).zip(PARTS) {
        let body = content(number, bytes);
        whole.extend_from_slice(&body);
        let number = i32::try_from(number).expect("a few");
        let put = client.upload_part().bucket(bucket).key(&key).upload_id(id).part_number(number).body(body.into());
        let put = put.checksum_algorithm(algorithm.clone()).send().await;
        let put = put.unwrap_or_else(|why| panic!("{key}, part {number}: {}", DisplayErrorContext(why)));
        let part =
            CompletedPart::builder().part_number(number).set_e_tag(put.e_tag).set_checksum_crc32(put.checksum_crc32);
        let part = part.set_checksum_crc32_c(put.checksum_crc32_c).set_checksum_crc64_nvme(put.checksum_crc64_nvme);
        parts.push(part.set_checksum_sha256(put.checksum_sha256).build());
    }
    let listed = client.list_parts().bucket(bucket).key(&key).upload_id(id).send().await.expect("the parts");
    assert_eq!(listed.parts().iter().filter_map(|p| p.size()).collect::<Vec<_>>(), PARTS.map(|bytes| bytes as i64));
    let list = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let done =
        client.complete_multipart_upload().bucket(bucket).key(&key).upload_id(id).multipart_upload(list).send().await;
    let done = done.unwrap_or_else(|why| panic!("{key}, completed: {}", DisplayErrorContext(why)));
    assert_eq!(done.checksum_type(), Some(&kind));
    assert_eq!(read(client, bucket, &key).await, whole, "{key}");
    let second = client
        .get_object()
        .bucket(bucket)
        .key(&key)
        .part_number(2)
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .expect("a part");
    assert_eq!(second.parts_count(), Some(3));
    let second =
        second.body.collect().await.unwrap_or_else(|why| panic!("{key}, part 2: {}", DisplayErrorContext(why)));
    assert_eq!(second.to_vec(), content(2, PARTS[1]));
    delete(client, bucket, vec![key]).await;
}

/// A new object of ranges of old ones.
async fn copied(client: &Client, bucket: &str) {
    let body = content(9, 11 * MIB);
    client.put_object().bucket(bucket).key("from").body(body.clone().into()).send().await.expect("PUT");
    let begun = client.create_multipart_upload().bucket(bucket).key("to").send().await.expect("an upload");
    let id = begun.upload_id().expect("an upload id");
    let mut parts = Vec::new();
    for (number, range) in [(1, 5 * MIB..10 * MIB), (2, 0..1000)] {
        let copy = client.upload_part_copy().bucket(bucket).key("to").upload_id(id).part_number(number);
        let copy = copy.copy_source(format!("{bucket}/from")).copy_source_range(format!(
            "bytes={}-{}",
            range.start,
            range.end - 1
        ));
        let result = copy.send().await.expect("a copied part").copy_part_result.expect("a result");
        let part = CompletedPart::builder()
            .part_number(number)
            .set_e_tag(result.e_tag)
            .set_checksum_crc64_nvme(result.checksum_crc64_nvme);
        parts.push(part.set_checksum_crc32(result.checksum_crc32).build());
    }
    let list = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    let done =
        client.complete_multipart_upload().bucket(bucket).key("to").upload_id(id).multipart_upload(list).send().await;
    done.unwrap_or_else(|why| panic!("completed: {}", DisplayErrorContext(why)));
    assert_eq!(read(client, bucket, "to").await, [&body[5 * MIB..10 * MIB], &body[..1000]].concat());
    delete(client, bucket, vec!["from".to_owned(), "to".to_owned()]).await;
}

async fn abandoned(client: &Client, bucket: &str) {
    let begun = client.create_multipart_upload().bucket(bucket).key("left").send().await.expect("an upload");
    let id = begun.upload_id().expect("an upload id");
    client
        .upload_part()
        .bucket(bucket)
        .key("left")
        .upload_id(id)
        .part_number(1)
        .body(vec![1; 100].into())
        .send()
        .await
        .expect("a part");
    let open = client.list_multipart_uploads().bucket(bucket).send().await.expect("the open ones");
    assert_eq!(open.uploads().iter().filter_map(|u| u.upload_id()).collect::<Vec<_>>(), [id]);
    client.abort_multipart_upload().bucket(bucket).key("left").upload_id(id).send().await.expect("an end");
    let gone = client.list_parts().bucket(bucket).key("left").upload_id(id).send().await.expect_err("no such upload");
    assert_eq!(gone.code(), Some("NoSuchUpload"));
    assert!(client.list_multipart_uploads().bucket(bucket).send().await.expect("none").uploads().is_empty());
}
