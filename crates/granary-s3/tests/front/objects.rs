//! PutObject, GetObject, HeadObject, DeleteObject(s), CopyObject.

use crate::harness::{Server, element, elements};

#[test]
fn put_get_head_delete() {
    let (server, client) = Server::with_bucket("data");
    let put = client.put("/data/a/b%20c").body(b"hello").header("content-type", "text/plain").send().expect(200);
    assert_eq!(put.header("etag"), Some("\"5d41402abc4b2a76b9719d911017c592\""));
    assert_eq!(put.header("x-amz-server-side-encryption"), Some("AES256"));
    assert_eq!(put.header("x-amz-version-id"), None);
    assert_eq!(put.header("x-amz-checksum-crc64nvme").map(str::len), Some(12));

    let get = client.get("/data/a/b%20c").send().expect(200).expect_body(b"hello");
    let get = get.expect_header("content-length", "5").expect_header("content-type", "text/plain");
    let get = get.expect_header("accept-ranges", "bytes").expect_header("etag", put.header("etag").unwrap());
    assert!(get.header("last-modified").is_some_and(|date| date.ends_with(" GMT")));
    assert_eq!(get.header("transfer-encoding"), None);
    // Only to who asks.
    assert_eq!(get.header("x-amz-checksum-crc64nvme"), None);

    client.head("/data/a/b%20c").send().expect(200).expect_header("content-length", "5").expect_body(b"");
    client.delete("/data/a/b%20c").send().expect(204);
    client.get("/data/a/b%20c").send().expect_error(404, "NoSuchKey");
    client.delete("/data/a/b%20c").send().expect(204);
    let head = client.head("/data/a/b%20c").send().expect(404);
    assert!(head.body.is_empty());
    assert_eq!(server.service.in_flight(), 0);
}

#[test]
fn large_and_empty_objects() {
    let (_server, client) = Server::with_bucket("data");
    let bytes: Vec<u8> = (0..1_500_000u32).map(|i| (i % 251) as u8).collect();
    client.store("/data/large", &bytes);
    client.get("/data/large").send().expect(200).expect_body(&bytes);
    client.store("/data/empty", b"");
    client.get("/data/empty").send().expect(200).expect_header("content-length", "0").expect_body(b"");
    client.get("/data/empty").header("range", "bytes=0-0").send().expect_error(416, "InvalidRange");
    client.get("/data/empty?partNumber=1").send().expect(200);
}

#[test]
fn metadata_and_system_headers() {
    let (_server, client) = Server::with_bucket("data");
    client
        .put("/data/k")
        .body(b"x")
        .header("x-amz-meta-Plain", "value")
        .header("x-amz-meta-unicode", "=?UTF-8?B?w7w=?=")
        .header("cache-control", "max-age=60")
        .header("content-disposition", "attachment")
        .header("content-encoding", "gzip")
        .header("content-language", "de")
        .header("expires", "Wed, 21 Oct 2026 07:28:00 GMT")
        .header("x-amz-storage-class", "STANDARD_IA")
        .header("x-amz-tagging", "a=1&b=2")
        .header("x-amz-website-redirect-location", "/elsewhere")
        .send()
        .expect(200);
    for reply in [client.get("/data/k").send(), client.head("/data/k").send()] {
        reply
            .expect(200)
            .expect_header("x-amz-meta-plain", "value")
            .expect_header("x-amz-meta-unicode", "=?UTF-8?B?w7w=?=")
            .expect_header("cache-control", "max-age=60")
            .expect_header("content-disposition", "attachment")
            .expect_header("content-encoding", "gzip")
            .expect_header("content-language", "de")
            .expect_header("expires", "Wed, 21 Oct 2026 07:28:00 GMT")
            .expect_header("content-type", "binary/octet-stream")
            .expect_header("x-amz-storage-class", "STANDARD_IA")
            .expect_header("x-amz-website-redirect-location", "/elsewhere");
    }
    client.get("/data/k").send().expect_header("x-amz-tagging-count", "2");
    let overridden = client
        .get("/data/k")
        .query("response-content-type", "text/html")
        .query("response-cache-control", "no-store")
        .query("response-expires", "Thu, 22 Oct 2026 07:28:00 GMT")
        .send()
        .expect(200);
    overridden
        .expect_header("content-type", "text/html")
        .expect_header("cache-control", "no-store")
        .expect_header("expires", "Thu, 22 Oct 2026 07:28:00 GMT");
    client.head("/data/k").query("response-content-type", "a/b").send().expect_header("content-type", "a/b");

    let big = "v".repeat(2046);
    client.put("/data/k").header("x-amz-meta-kk", &big).send().expect(200);
    client.put("/data/k").header("x-amz-meta-kkk", &big).send().expect_error(400, "MetadataTooLarge");
    client.put("/data/k").header("x-amz-storage-class", "GLACIER").send().expect_error(400, "InvalidStorageClass");
    client
        .put("/data/k")
        .header("x-amz-server-side-encryption", "aws:kms:dsse")
        .send()
        .expect_error(501, "NotImplemented");
    client.put("/data/k").header("x-amz-server-side-encryption", "AES256").send().expect(200);
    let sse_c = "x-amz-server-side-encryption-customer-algorithm";
    client.put("/data/k").header(sse_c, "AES256").send().expect_error(400, "InvalidArgument");
    client.get("/data/k").header(sse_c, "AES256").send().expect_error(400, "InvalidArgument");
    client.put("/data/k").header("x-amz-acl", "private").send().expect(200);
    client.put("/data/k").header("x-amz-acl", "public-read").send().expect_error(400, "AccessControlListNotSupported");
}

#[test]
fn ranges() {
    let (_server, client) = Server::with_bucket("data");
    client.store("/data/k", b"0123456789");
    for (range, body, content_range) in [
        ("bytes=0-3", &b"0123"[..], "bytes 0-3/10"),
        ("bytes=5-", b"56789", "bytes 5-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-300", b"0123456789", "bytes 0-9/10"),
        ("bytes=8-300", b"89", "bytes 8-9/10"),
        ("bytes=9-9", b"9", "bytes 9-9/10"),
    ] {
        let get = client.get("/data/k").header("range", range).send().expect(206).expect_body(body);
        get.expect_header("content-range", content_range).expect_header("content-length", &body.len().to_string());
        let head = client.head("/data/k").header("range", range).send().expect(206);
        head.expect_header("content-range", content_range).expect_header("content-length", &body.len().to_string());
    }
    for range in ["bytes=10-", "bytes=10-20", "bytes=-0"] {
        let refused = client.get("/data/k").header("range", range).send().expect_error(416, "InvalidRange");
        refused.expect_header("content-range", "bytes */10");
    }
    // What is no single valid range means nothing (RFC 9110), and the whole object is served.
    for range in ["bytes=0-1,4-5", "bytes=5-2", "items=0-1", "bytes=x-y", "bytes=-"] {
        let get = client.get("/data/k").header("range", range).send().expect(200).expect_body(b"0123456789");
        get.expect_no_header("content-range");
        client.head("/data/k").header("range", range).send().expect(200).expect_header("content-length", "10");
    }
    // A checksum is of the whole object: not shown with a part of it.
    let whole = client.get("/data/k").header("x-amz-checksum-mode", "enabled").send().expect(200);
    assert!(whole.header("x-amz-checksum-crc64nvme").is_some());
    assert_eq!(whole.header("x-amz-checksum-type"), Some("FULL_OBJECT"));
    let part = client.get("/data/k").header("x-amz-checksum-mode", "ENABLED").header("range", "bytes=0-1").send();
    part.expect(206).expect_no_header("x-amz-checksum-crc64nvme");
}

#[test]
fn conditions_of_reads() {
    let (_server, client) = Server::with_bucket("data");
    let etag = client.store("/data/k", b"hello").header("etag").unwrap().to_owned();
    let at = client.head("/data/k").send().header("last-modified").unwrap().to_owned();
    let (past, future) = ("Sun, 06 Nov 1994 08:49:37 GMT", "Sat, 06 Nov 2094 08:49:37 GMT");
    for (headers, status) in [
        (&[("if-match", etag.as_str())][..], 200),
        (&[("if-match", "*")], 200),
        (&[("if-match", "\"other\"")], 412),
        (&[("if-match", "5d41402abc4b2a76b9719d911017c592")], 200),
        (&[("if-none-match", etag.as_str())], 304),
        (&[("if-none-match", "*")], 304),
        (&[("if-none-match", "\"other\"")], 200),
        (&[("if-none-match", "\"other\", W/\"5d41402abc4b2a76b9719d911017c592\", more")], 304),
        (&[("if-match", "other, \"5d41402abc4b2a76b9719d911017c592\"")], 200),
        (&[("if-modified-since", past)], 200),
        (&[("if-modified-since", at.as_str())], 304),
        (&[("if-modified-since", future)], 304),
        (&[("if-modified-since", "Sunday, 06-Nov-94 08:49:37 GMT")], 200),
        (&[("if-modified-since", "whenever")], 200),
        (&[("if-unmodified-since", past)], 412),
        (&[("if-unmodified-since", "Sun Nov  6 08:49:37 1994")], 412),
        (&[("if-unmodified-since", at.as_str())], 200),
        // An ETag condition decides alone (RFC 9110 section 13.2.2).
        (&[("if-match", etag.as_str()), ("if-unmodified-since", past)], 200),
        (&[("if-none-match", "\"other\""), ("if-modified-since", at.as_str())], 200),
    ] {
        for method in ["GET", "HEAD"] {
            let mut request = client.request(method, "/data/k");
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let reply = request.send().expect(status);
            if status == 304 {
                assert!(reply.body.is_empty());
                let reply = reply.expect_header("etag", &etag).expect_header("last-modified", &at);
                reply.expect_no_header("content-type");
            }
        }
    }
    client.get("/data/k").header("if-match", "\"other\"").send().expect_error(412, "PreconditionFailed");
}

#[test]
fn conditions_of_writes() {
    let (_server, client) = Server::with_bucket("data");
    client.put("/data/k").header("if-match", "\"x\"").send().expect_error(404, "NoSuchKey");
    let etag = client.put("/data/k").header("if-none-match", "*").body(b"1").send().expect(200);
    let etag = etag.header("etag").unwrap().to_owned();
    client.put("/data/k").header("if-none-match", "*").body(b"2").send().expect_error(412, "PreconditionFailed");
    client.put("/data/k").header("if-none-match", &etag).send().expect_error(412, "PreconditionFailed");
    client.put("/data/k").header("if-match", "\"x\"").send().expect_error(412, "PreconditionFailed");
    client.put("/data/k").header("if-match", &etag).body(b"3").send().expect(200);
    client.get("/data/k").send().expect_body(b"3");
    client.delete("/data/k").header("if-match", &etag).send().expect_error(412, "PreconditionFailed");
    client.delete("/data/k").header("x-amz-if-match-size", "7").send().expect_error(412, "PreconditionFailed");
    client.delete("/data/k").header("if-match", "*").send().expect(204);
}

#[test]
fn versions() {
    let (_server, client) = Server::with_bucket("data");
    client.store("/data/k", b"null");
    let body = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    client.put("/data?versioning").body(body).send().expect(200);
    client.get("/data?versioning").send().expect(200).text().contains("<Status>Enabled</Status>");
    let first = client.store("/data/k", b"one").header("x-amz-version-id").unwrap().to_owned();
    let second = client.store("/data/k", b"two").header("x-amz-version-id").unwrap().to_owned();
    assert_ne!(first, second);
    client.get("/data/k").send().expect_body(b"two").expect_header("x-amz-version-id", &second);
    client.get(&format!("/data/k?versionId={first}")).send().expect(200).expect_body(b"one");
    client
        .get("/data/k?versionId=null")
        .send()
        .expect(200)
        .expect_body(b"null")
        .expect_header("x-amz-version-id", "null");
    client.get("/data/k?versionId=nonsense").send().expect_error(400, "InvalidArgument");
    client.get(&format!("/data/k?versionId={}", "0".repeat(32))).send().expect_error(404, "NoSuchVersion");

    let gone = client.delete("/data/k").send().expect(204).expect_header("x-amz-delete-marker", "true");
    let marker = gone.header("x-amz-version-id").unwrap().to_owned();
    let missing = client.get("/data/k").send().expect_error(404, "NoSuchKey");
    missing.expect_header("x-amz-delete-marker", "true").expect_header("x-amz-version-id", &marker);
    let refused = client.get(&format!("/data/k?versionId={marker}")).send().expect_error(405, "MethodNotAllowed");
    refused.expect_header("allow", "DELETE").expect_header("x-amz-delete-marker", "true");
    let undone = client.delete(&format!("/data/k?versionId={marker}")).send().expect(204);
    undone.expect_header("x-amz-delete-marker", "true").expect_header("x-amz-version-id", &marker);
    client.get("/data/k").send().expect(200).expect_body(b"two");
    let removed = client.delete(&format!("/data/k?versionId={second}")).send().expect(204);
    removed.expect_no_header("x-amz-delete-marker");
    client.get("/data/k").send().expect(200).expect_body(b"one");
}

#[test]
fn multi_delete() {
    let (_server, client) = Server::with_bucket("data");
    for key in ["a", "b", "c&d"] {
        client.store(&format!("/data/{key}"), b"x");
    }
    let body = "<Delete><Object><Key>a</Key></Object><Object><Key>a</Key></Object><Object><Key>c&amp;d</Key></Object>\
                <Object><Key>b</Key><ETag>other</ETag></Object><Object><Key>missing</Key></Object></Delete>";
    let reply = client.post("/data?delete").body(body.as_bytes()).send().expect(200).text();
    let (_, errors) = reply.split_once("<Error>").unwrap();
    assert_eq!(elements(&reply, "Key"), ["a", "a", "c&amp;d", "missing", "b"]);
    assert_eq!(element(errors, "Code"), Some("PreconditionFailed"));
    client.get("/data/b").send().expect(200);
    client.get("/data/c%26d").send().expect(404);

    let quiet = "<Delete><Quiet>true</Quiet><Object><Key>b</Key></Object></Delete>";
    let md5 = crate::sign::base64(&<md5::Md5 as md5::Digest>::digest(quiet.as_bytes())[..]);
    let reply = client.post("/data?delete").header("content-md5", &md5).body(quiet.as_bytes()).send().expect(200);
    assert!(!reply.text().contains("<Deleted>"));
    let bad = "AAAAAAAAAAAAAAAAAAAAAA==";
    let refused = client.post("/data?delete").header("content-md5", bad).body(quiet.as_bytes()).send();
    refused.expect_error(400, "BadDigest");
    let refused = client.post("/data?delete").header("x-amz-checksum-crc32", "AAAAAA==").body(quiet.as_bytes()).send();
    refused.expect_error(400, "BadDigest");

    let many = |n: usize| {
        let objects: String = (0..n).map(|i| format!("<Object><Key>k{i}</Key></Object>")).collect();
        format!("<Delete>{objects}</Delete>")
    };
    client.post("/data?delete").body(many(1000).as_bytes()).send().expect(200);
    client.post("/data?delete").body(many(1001).as_bytes()).send().expect_error(400, "MalformedXML");
    client.post("/data?delete").body(b"<Delete></Delete>").send().expect_error(400, "MalformedXML");
    client.post("/data?delete").body(b"<Delete><Object>").send().expect_error(400, "MalformedXML");
    client.post("/none?delete").body(many(1).as_bytes()).send().expect_error(404, "NoSuchBucket");
}

#[test]
fn copies() {
    let (_server, client) = Server::with_bucket("data");
    client
        .put("/data/src")
        .body(b"hello")
        .header("x-amz-meta-a", "1")
        .header("x-amz-tagging", "t=1")
        .send()
        .expect(200);
    let copy = |to: &str| client.put(to).header("x-amz-copy-source", "/data/src");
    let reply = copy("/data/dst").send().expect(200).text();
    assert_eq!(element(&reply, "ETag"), Some("\"5d41402abc4b2a76b9719d911017c592\""));
    assert!(element(&reply, "LastModified").is_some() && element(&reply, "ChecksumCRC64NVME").is_some(), "{reply}");
    client
        .get("/data/dst")
        .send()
        .expect_body(b"hello")
        .expect_header("x-amz-meta-a", "1")
        .expect_header("x-amz-tagging-count", "1");

    copy("/data/dst").header("x-amz-metadata-directive", "REPLACE").header("x-amz-meta-b", "2").send().expect(200);
    client.get("/data/dst").send().expect_header("x-amz-meta-b", "2").expect_no_header("x-amz-meta-a");
    copy("/data/dst")
        .header("x-amz-tagging-directive", "REPLACE")
        .header("x-amz-tagging", "u=1&v=2")
        .send()
        .expect(200);
    client.get("/data/dst").send().expect_header("x-amz-tagging-count", "2");
    copy("/data/dst").header("x-amz-metadata-directive", "MIX").send().expect_error(400, "InvalidArgument");
    copy("/data/dst").header("x-amz-checksum-algorithm", "SHA256").send().expect(200).text().contains("ChecksumSHA256");

    copy("/data/src").send().expect_error(400, "InvalidRequest");
    copy("/data/src").header("x-amz-metadata-directive", "REPLACE").send().expect(200);
    let etag = "\"5d41402abc4b2a76b9719d911017c592\"";
    copy("/data/dst").header("x-amz-copy-source-if-match", etag).send().expect(200);
    copy("/data/dst").header("x-amz-copy-source-if-match", "\"x\"").send().expect_error(412, "PreconditionFailed");
    copy("/data/dst").header("x-amz-copy-source-if-none-match", etag).send().expect_error(412, "PreconditionFailed");
    copy("/data/dst").header("if-none-match", "*").send().expect_error(412, "PreconditionFailed");
    client.put("/data/d").header("x-amz-copy-source", "/data/none").send().expect_error(404, "NoSuchKey");
    client.put("/data/d").header("x-amz-copy-source", "/none/src").send().expect_error(404, "NoSuchBucket");
    client.put("/data/d").header("x-amz-copy-source", "nonsense").send().expect(400);
    client.put("/data/a%2Bb%20c").body(b"odd").send().expect(200);
    client.put("/data/d").header("x-amz-copy-source", "data/a%2Bb%20c").send().expect(200);
    client.get("/data/d").send().expect_body(b"odd");
}

#[test]
fn keys_of_all_kinds() {
    let (_server, client) = Server::with_bucket("data");
    for key in
        ["a//b", "/lead", ".", "..", "a/../b", "%C3%BC%E2%82%AC", "a%2Bb", "a%25b", "%0D%0A", "tail/", "a%3Fb%23c"]
    {
        client.store(&format!("/data/{key}"), key.as_bytes());
    }
    for key in
        ["a//b", "/lead", ".", "..", "a/../b", "%C3%BC%E2%82%AC", "a%2Bb", "a%25b", "%0D%0A", "tail/", "a%3Fb%23c"]
    {
        client.get(&format!("/data/{key}")).send().expect(200).expect_body(key.as_bytes());
    }
    client.store(&format!("/data/{}", "k".repeat(1024)), b"");
    client.put(&format!("/data/{}", "k".repeat(1025))).send().expect_error(400, "KeyTooLongError");
    client.put("/data/a%00b").send().expect_error(400, "InvalidArgument");
    client.put("/data/%FF").send().expect_error(400, "InvalidURI");
}

#[test]
fn broken_reads_cut_the_connection() {
    let (_server, client) = Server::with_bucket("data");
    let bytes = vec![7u8; 100_000];
    for key in ["fault-1", "short-1"] {
        client.store(&format!("/data/{key}"), &bytes);
        // Status 0: cut before the head was sent.
        let reply = client.get(&format!("/data/{key}")).send();
        assert!(reply.is_cut || reply.status == 0, "{key}: {} bytes looked whole", reply.body.len());
    }
}

#[test]
fn attributes() {
    let (_server, client) = Server::with_bucket("data");
    client.put("/data/k").body(b"hello").header("x-amz-checksum-crc32", "NhCmhg==").send().expect(200);
    let wanted = "ETag,Checksum,ObjectSize, StorageClass,ObjectParts";
    let reply = client.get("/data/k?attributes").header("x-amz-object-attributes", wanted).send().expect(200);
    assert!(reply.header("last-modified").is_some());
    let text = reply.text();
    assert_eq!(element(&text, "ETag"), Some("5d41402abc4b2a76b9719d911017c592"), "{text}");
    assert_eq!(element(&text, "ChecksumCRC32"), Some("NhCmhg=="));
    assert_eq!(element(&text, "ObjectSize"), Some("5"));
    assert_eq!(element(&text, "StorageClass"), Some("STANDARD"));
    assert!(!text.contains("<ObjectParts>"));
    client.get("/data/k?attributes").send().expect(400);
    let refused = client.get("/data/k?attributes").header("x-amz-object-attributes", "Colour").send();
    refused.expect_error(400, "InvalidArgument");
}
