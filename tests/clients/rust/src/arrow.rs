//! Apache Arrow's object_store (under Delta, Lance, DataFusion, polars): its own integration suite, which it runs against AWS too.
//!
//! The suite deletes whatever is in the bucket. Beside it: signed URLs, and copies that must not overwrite in each of their ways.

use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum, S3CopyIfNotExists};
use object_store::path::Path;
use object_store::signer::Signer as _;
use object_store::{Certificate, ClientOptions, Error, ObjectStoreExt as _, integration};
use std::time::Duration;

use crate::{Target, plain_http};

fn builder(target: &Target) -> AmazonS3Builder {
    let mut options = ClientOptions::new().with_allow_http(true);
    if let Some(pem) = &target.ca {
        options = options.with_root_certificate(Certificate::from_pem(pem).expect("a certificate"));
    }
    AmazonS3Builder::new()
        .with_endpoint(&target.endpoint)
        .with_bucket_name(&target.bucket)
        .with_access_key_id(&target.access_key)
        .with_secret_access_key(&target.secret_key)
        .with_region(&target.region)
        .with_client_options(options)
        .with_copy_if_not_exists(S3CopyIfNotExists::Multipart)
}

/// All of it.
pub(crate) async fn run(target: &Target) {
    let store = builder(target).build().expect("a store");
    suite(&store).await;
    signed_urls(target, &store).await;
    nothing_there(target, &store).await;
    // S3 has had If-None-Match on copies since 2025; object_store calls such a thing a custom header.
    let header = S3CopyIfNotExists::Header("if-none-match".to_owned(), "*".to_owned());
    integration::copy_if_not_exists(&builder(target).with_copy_if_not_exists(header).build().expect("a store")).await;
    for other in [
        builder(target).with_unsigned_payload(true),
        builder(target).with_checksum_algorithm(Checksum::SHA256),
        builder(target).with_checksum_algorithm(Checksum::CRC64NVME),
        builder(target).with_disable_tagging(true),
    ] {
        integration::put_get_delete_list(&other.build().expect("a store")).await;
    }
}

/// What object_store's own `s3_test` calls, in its order.
async fn suite(store: &AmazonS3) {
    integration::put_get_delete_list(store).await;
    integration::list_with_offset_exclusivity(store).await;
    integration::get_opts(store).await;
    integration::list_uses_directories_correctly(store).await;
    integration::list_with_delimiter(store).await;
    integration::rename_and_copy(store).await;
    integration::copy_rename_nonexistent_object(store).await;
    integration::stream_get(store).await;
    integration::multipart(store, store).await;
    integration::multipart_with_opts(store, store).await;
    integration::multipart_put_part_out_of_order(store, store).await;
    integration::multipart_race_condition(store, true).await;
    integration::multipart_out_of_order(store).await;
    integration::put_get_attributes(store).await;
    integration::list_paginated(store, store).await;
    integration::copy_if_not_exists(store).await;
    integration::put_opts(store, true).await;
}

async fn signed_urls(target: &Target, store: &AmazonS3) {
    let path = Path::from("signed url");
    let http = plain_http(target);
    let url = store.signed_url(reqwest::Method::PUT, &path, Duration::from_secs(300)).await.expect("a URL");
    assert_eq!(http.put(url).body("by url").send().await.expect("PUT by URL").status(), 200);
    let url = store.signed_url(reqwest::Method::GET, &path, Duration::from_secs(300)).await.expect("a URL");
    assert_eq!(http.get(url).send().await.expect("GET by URL").text().await.expect("its body"), "by url");
    store.delete(&path).await.expect("DELETE");
}

async fn nothing_there(target: &Target, store: &AmazonS3) {
    let path = Path::from("nothing");
    let missing = integration::get_nonexistent_object(store, Some(path.clone())).await.expect_err("no such key");
    assert!(matches!(missing, Error::NotFound { .. }), "{missing}");
    store.delete(&path).await.expect("what is not there can be deleted");
    let nowhere = builder(target).with_bucket_name("nobody-has-made-this").build().expect("a store");
    for error in [
        nowhere.get(&path).await.expect_err("no such bucket"),
        nowhere.put(&path, "x".into()).await.expect_err("no such bucket"),
        nowhere.delete(&path).await.expect_err("no such bucket"),
    ] {
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
}
