//! AWS's SDK for Rust with its defaults (checksums of requests computed, of answers verified): objects, conditions, listings, versions.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{BehaviorVersion, Config, Credentials, Region};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ChecksumAlgorithm, ChecksumMode, Delete, ObjectIdentifier, VersioningConfiguration,
};
use aws_smithy_http_client::Builder;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use std::time::Duration;

use crate::{Target, content, plain_http};

/// A client as its users make one; a failed request is not tried again, so that nothing is hidden.
pub(crate) fn client(target: &Target) -> Client {
    let http = match &target.ca {
        Some(ca) => {
            let trust = TrustStore::empty().with_pem_certificate(ca.clone());
            let context = TlsContext::builder().with_trust_store(trust).build().expect("a TLS context");
            Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).tls_context(context).build_https()
        }
        None => Builder::new().build_http(),
    };
    let keys = Credentials::new(&target.access_key, &target.secret_key, None, None, "environment");
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .credentials_provider(keys)
        .region(Region::new(target.region.clone()))
        .endpoint_url(&target.endpoint)
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .http_client(http)
        .build();
    Client::from_conf(config)
}

/// The object's bytes, its checksum verified by the SDK where it has one for the whole.
pub(crate) async fn read(client: &Client, bucket: &str, key: &str) -> Vec<u8> {
    let got = client.get_object().bucket(bucket).key(key).send().await;
    let got = got.unwrap_or_else(|why| panic!("GET {key}: {}", DisplayErrorContext(why)));
    let body =
        got.body.collect().await.unwrap_or_else(|why| panic!("GET {key}, its body: {}", DisplayErrorContext(why)));
    body.to_vec()
}

/// All of it, in a bucket that it leaves empty, but versioned.
pub(crate) async fn run(client: &Client, target: &Target) {
    let bucket = target.bucket.as_str();
    objects(client, bucket).await;
    checksums(client, bucket).await;
    conditions(client, bucket).await;
    errors(client, bucket).await;
    listing(client, bucket).await;
    presigned(client, target).await;
    versions(client, bucket).await;
}

async fn objects(client: &Client, bucket: &str) {
    let body = content(1, 100_000);
    let put = client.put_object().bucket(bucket).key("a b/ü+%").body(body.clone().into());
    let put = put.content_type("text/x-a").metadata("who", "me").tagging("t=1").send().await.expect("PUT");
    assert!(put.request_id().is_some() && put.e_tag().is_some());
    let head = client
        .head_object()
        .bucket(bucket)
        .key("a b/ü+%")
        .checksum_mode(ChecksumMode::Enabled)
        .send()
        .await
        .expect("HEAD");
    assert_eq!((head.content_length(), head.content_type()), (Some(100_000), Some("text/x-a")));
    assert_eq!(head.metadata().and_then(|m| m.get("who")).map(String::as_str), Some("me"));
    let sums = [head.checksum_crc32(), head.checksum_crc64_nvme()];
    assert_eq!(sums.iter().flatten().count(), 1, "the SDK's own default checksum is kept: {sums:?}");
    assert_eq!(read(client, bucket, "a b/ü+%").await, body);
    let some = client.get_object().bucket(bucket).key("a b/ü+%").range("bytes=70000-").send().await.expect("a range");
    assert_eq!(some.content_range(), Some("bytes 70000-99999/100000"));
    assert_eq!(some.body.collect().await.expect("its body").to_vec(), body[70_000..]);
    let tags = client.get_object_tagging().bucket(bucket).key("a b/ü+%").send().await.expect("tags");
    assert_eq!(tags.tag_set().iter().map(|t| (t.key(), t.value())).collect::<Vec<_>>(), [("t", "1")]);

    let source = format!("{bucket}/a%20b/%C3%BC%2B%25");
    client.copy_object().bucket(bucket).key("copy").copy_source(source).send().await.expect("a copy");
    assert_eq!(read(client, bucket, "copy").await, body);
    client.put_object().bucket(bucket).key("empty").send().await.expect("an empty object");
    assert!(read(client, bucket, "empty").await.is_empty());
    delete(client, bucket, ["a b/ü+%", "copy", "empty"].map(str::to_owned).to_vec()).await;
}

/// Each algorithm, over a body from memory and over one that is streamed from a file (aws-chunked, the checksum a trailer).
async fn checksums(client: &Client, bucket: &str) {
    let body = content(2, 3_000_001);
    let file = std::env::temp_dir().join(format!("s3-clients-{}", std::process::id()));
    tokio::fs::write(&file, &body).await.expect("a file to stream from");
    let mut keys = Vec::new();
    for algorithm in ["CRC32", "CRC32C", "CRC64NVME", "SHA1", "SHA256"].map(ChecksumAlgorithm::from) {
        for streamed in [false, true] {
            let stream = if streamed {
                ByteStream::from_path(&file).await.expect("a stream")
            } else {
                ByteStream::from(body.clone())
            };
            let key = format!("{algorithm}/{streamed}");
            let put = client.put_object().bucket(bucket).key(&key).body(stream).checksum_algorithm(algorithm.clone());
            put.send().await.unwrap_or_else(|why| panic!("PUT {key}: {}", DisplayErrorContext(why)));
            let head = client
                .head_object()
                .bucket(bucket)
                .key(&key)
                .checksum_mode(ChecksumMode::Enabled)
                .send()
                .await
                .expect("HEAD");
            let kept = match &algorithm {
                ChecksumAlgorithm::Crc32 => head.checksum_crc32(),
                ChecksumAlgorithm::Crc32C => head.checksum_crc32_c(),
                ChecksumAlgorithm::Crc64Nvme => head.checksum_crc64_nvme(),
                ChecksumAlgorithm::Sha1 => head.checksum_sha1(),
                _ => head.checksum_sha256(),
            };
            assert!(kept.is_some(), "{key}: the checksum is not kept: {head:?}");
            assert_eq!(read(client, bucket, &key).await, body, "{key}");
            keys.push(key);
        }
    }
    tokio::fs::remove_file(&file).await.expect("the file goes");
    let wrong = client
        .put_object()
        .bucket(bucket)
        .key("wrong")
        .body(body.into())
        .checksum_sha256("A".repeat(43) + "=")
        .send()
        .await;
    assert_eq!(wrong.expect_err("a checksum of other bytes").code(), Some("BadDigest"));
    delete(client, bucket, keys).await;
}

async fn conditions(client: &Client, bucket: &str) {
    let put = || client.put_object().bucket(bucket).key("k");
    let first = put().if_none_match("*").body(vec![1].into()).send().await.expect("the first");
    let again = put().if_none_match("*").body(vec![2].into()).send().await.expect_err("there already");
    assert_eq!(
        (again.code(), again.raw_response().map(|r| r.status().as_u16())),
        (Some("PreconditionFailed"), Some(412))
    );
    let etag = first.e_tag().expect("an ETag");
    put().if_match(etag).body(vec![3].into()).send().await.expect("as it was");
    let late = put().if_match(etag).body(vec![4].into()).send().await.expect_err("changed meanwhile");
    assert_eq!(late.code(), Some("PreconditionFailed"));
    assert_eq!(read(client, bucket, "k").await, [3]);
    let now = client.head_object().bucket(bucket).key("k").send().await.expect("HEAD").e_tag.expect("an ETag");
    let same = client.get_object().bucket(bucket).key("k").if_none_match(now).send().await.expect_err("not modified");
    assert_eq!(same.raw_response().map(|r| r.status().as_u16()), Some(304));
    // As RenameObject the SDK sends a query and a header; the SDK knows it of directory buckets only, Granary of all.
    let renamed = client.rename_object().bucket(bucket).key("renamed").rename_source("k").send().await;
    renamed.unwrap_or_else(|why| panic!("a rename: {}", DisplayErrorContext(why)));
    assert_eq!(read(client, bucket, "renamed").await, [3]);
    delete(client, bucket, vec!["renamed".to_owned()]).await;
}

async fn errors(client: &Client, bucket: &str) {
    let missing = client.get_object().bucket(bucket).key("none").send().await.expect_err("no such key");
    assert!(missing.as_service_error().is_some_and(|e| e.is_no_such_key()), "{missing:?}");
    let missing = client.head_object().bucket(bucket).key("none").send().await.expect_err("no such key");
    assert!(missing.as_service_error().is_some_and(|e| e.is_not_found()), "{missing:?}");
    let nowhere = client.list_objects_v2().bucket("nobody-has-made-this").send().await.expect_err("no such bucket");
    assert!(nowhere.as_service_error().is_some_and(|e| e.is_no_such_bucket()), "{nowhere:?}");
}

async fn listing(client: &Client, bucket: &str) {
    let keys: Vec<String> = (0..25).map(|n| format!("list/{}/k {n:02}", n % 3)).collect();
    for key in &keys {
        client.put_object().bucket(bucket).key(key).body(vec![0; 10].into()).send().await.expect("PUT");
    }
    let mut sorted = keys.clone();
    sorted.sort();
    let pages = client.list_objects_v2().bucket(bucket).prefix("list/").max_keys(10).into_paginator();
    let found: Vec<_> = pages.send().try_collect().await.expect("a listing");
    assert_eq!(found.len(), 3);
    let found: Vec<&str> = found.iter().flat_map(|page| page.contents()).filter_map(|o| o.key()).collect();
    assert_eq!(found, sorted);
    let folders =
        client.list_objects_v2().bucket(bucket).prefix("list/").delimiter("/").send().await.expect("a listing");
    assert_eq!(
        folders.common_prefixes().iter().filter_map(|p| p.prefix()).collect::<Vec<_>>(),
        ["list/0/", "list/1/", "list/2/"]
    );
    assert!(folders.contents().is_empty());
    delete(client, bucket, keys).await;
    assert_eq!(client.list_objects_v2().bucket(bucket).send().await.expect("a listing").key_count(), Some(0));
}

async fn presigned(client: &Client, target: &Target) {
    let good_for = || PresigningConfig::expires_in(Duration::from_secs(300)).expect("five minutes");
    let put = client.put_object().bucket(&target.bucket).key("by url").presigned(good_for()).await.expect("a URL");
    let get = client.get_object().bucket(&target.bucket).key("by url").presigned(good_for()).await.expect("a URL");
    let http = plain_http(target);
    let mut request = http.put(put.uri()).body("by url");
    for (name, value) in put.headers() {
        request = request.header(name, value);
    }
    let answer = request.send().await.expect("PUT by URL");
    assert_eq!(answer.status(), 200, "{:?}", answer.text().await);
    assert_eq!(http.get(get.uri()).send().await.expect("GET by URL").text().await.expect("its body"), "by url");
    delete(client, &target.bucket, vec!["by url".to_owned()]).await;
}

async fn versions(client: &Client, bucket: &str) {
    let on = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    client.put_bucket_versioning().bucket(bucket).versioning_configuration(on).send().await.expect("versioning");
    let mut ids = Vec::new();
    for n in 0..3_u8 {
        let put = client.put_object().bucket(bucket).key("v").body(vec![n].into()).send().await.expect("PUT");
        ids.push(put.version_id.expect("a version id"));
    }
    let gone = client.delete_object().bucket(bucket).key("v").send().await.expect("DELETE");
    assert_eq!(gone.delete_marker(), Some(true));
    let listed = client.list_object_versions().bucket(bucket).prefix("v").send().await.expect("versions");
    let newest_first: Vec<&str> = listed.versions().iter().filter_map(|v| v.version_id()).collect();
    assert_eq!(newest_first, ids.iter().rev().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(listed.delete_markers().len(), 1);
    let old = client.get_object().bucket(bucket).key("v").version_id(&ids[1]).send().await.expect("a version");
    assert_eq!(old.body.collect().await.expect("its body").to_vec(), [1]);
    ids.push(gone.version_id.expect("the marker's id"));
    for id in ids {
        client.delete_object().bucket(bucket).key("v").version_id(id).send().await.expect("DELETE of a version");
    }
}

/// In one request, which the SDK sends with a checksum.
pub(crate) async fn delete(client: &Client, bucket: &str, keys: Vec<String>) {
    let names = keys.iter().map(|key| ObjectIdentifier::builder().key(key).build().expect("a key"));
    let list = Delete::builder().set_objects(Some(names.collect())).build().expect("a list");
    let done = client.delete_objects().bucket(bucket).delete(list).send().await.expect("DeleteObjects");
    assert!(done.errors().is_empty() && done.deleted().len() == keys.len(), "{done:?}");
}
