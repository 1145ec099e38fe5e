//! Multipart uploads: parts, copies of parts, completing, aborting, listing.

use granary_types::{ChecksumAlgorithm, ChecksumHasher};

use crate::client::{Auth, Client, Reply};
use crate::harness::{Server, element, elements};

const MIN: usize = 5 * 1024 * 1024;

fn begin(client: &Client, target: &str) -> String {
    let text = client.post(&format!("{target}?uploads")).send().expect(200).text();
    element(&text, "UploadId").unwrap().to_owned()
}

fn part(client: &Client, target: &str, upload: &str, number: u32, body: &[u8]) -> String {
    let put = client.put(&format!("{target}?partNumber={number}&uploadId={upload}")).body(body).send().expect(200);
    put.header("etag").unwrap().to_owned()
}

fn document(parts: &[(u32, &str)]) -> String {
    let parts: String = parts
        .iter()
        .map(|(n, etag)| {
            format!("<Part><PartNumber>{n}</PartNumber><ETag>{}</ETag></Part>", etag.replace('"', "&quot;"))
        })
        .collect();
    format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
}

fn complete(client: &Client, target: &str, upload: &str, parts: &[(u32, &str)]) -> Reply {
    client.post(&format!("{target}?uploadId={upload}")).body(document(parts).as_bytes()).send()
}

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i % 249) as u8).collect()
}

#[test]
fn in_three_parts() {
    let (_server, client) = Server::with_bucket("data");
    let whole = bytes(2 * MIN + 1000);
    let text = client.post("/data/k?uploads").header("x-amz-meta-a", "1").header("content-type", "a/b").send();
    let text = text.expect(200).expect_header("x-amz-server-side-encryption", "AES256").text();
    assert_eq!((element(&text, "Bucket"), element(&text, "Key")), (Some("data"), Some("k")));
    let upload = element(&text, "UploadId").unwrap();
    // Out of order, and one replaced.
    let three = part(&client, "/data/k", upload, 3, &whole[2 * MIN..]);
    part(&client, "/data/k", upload, 1, b"replaced");
    let one = part(&client, "/data/k", upload, 1, &whole[..MIN]);
    let two = part(&client, "/data/k", upload, 2, &whole[MIN..2 * MIN]);

    let listed = client.get(&format!("/data/k?uploadId={upload}&max-parts=2")).send().expect(200).text();
    assert_eq!(elements(&listed, "PartNumber"), ["1", "2"]);
    assert_eq!((element(&listed, "IsTruncated"), element(&listed, "NextPartNumberMarker")), (Some("true"), Some("2")));
    let listed = client.get(&format!("/data/k?uploadId={upload}&part-number-marker=2")).send().expect(200).text();
    assert_eq!(elements(&listed, "PartNumber"), ["3"]);
    assert_eq!(element(&listed, "IsTruncated"), Some("false"));

    let done = complete(&client, "/data/k", upload, &[(1, &one), (2, &two), (3, &three)]).expect(200);
    assert_eq!(done.header("content-type"), Some("application/xml"));
    let done = done.text();
    let etag = element(&done, "ETag").unwrap().to_owned();
    assert!(etag.ends_with("-3\""), "{done}");
    assert!(element(&done, "Location").unwrap().ends_with("/data/k"), "{done}");
    let mut hasher = ChecksumHasher::new(ChecksumAlgorithm::Crc64nvme);
    hasher.update(&whole);
    assert_eq!(element(&done, "ChecksumCRC64NVME"), Some(hasher.finish().to_wire().as_str()));

    let get = client.get("/data/k").send().expect(200).expect_body(&whole);
    get.expect_header("etag", &etag).expect_header("x-amz-meta-a", "1").expect_header("content-type", "a/b");
    for (number, range) in [(1, 0..MIN), (2, MIN..2 * MIN), (3, 2 * MIN..whole.len())] {
        let get = client.get(&format!("/data/k?partNumber={number}")).header("x-amz-checksum-mode", "ENABLED").send();
        let get = get.expect(206).expect_body(&whole[range.clone()]).expect_header("x-amz-mp-parts-count", "3");
        let content_range = format!("bytes {}-{}/{}", range.start, range.end - 1, whole.len());
        let get = get.expect_header("content-range", &content_range);
        let mut hasher = ChecksumHasher::new(ChecksumAlgorithm::Crc64nvme);
        hasher.update(&whole[range]);
        get.expect_header("x-amz-checksum-crc64nvme", &hasher.finish().to_wire());
        client
            .head(&format!("/data/k?partNumber={number}"))
            .send()
            .expect(206)
            .expect_header("x-amz-mp-parts-count", "3");
    }
    client.head("/data/k").send().expect(200).expect_no_header("x-amz-mp-parts-count");
    client.get("/data/k?partNumber=4").send().expect_error(416, "InvalidPartNumber");
    client.get("/data/k?partNumber=0").send().expect_error(400, "InvalidArgument");
    client.get("/data/k?partNumber=1").header("range", "bytes=0-1").send().expect_error(400, "InvalidRequest");

    let attributes = client.get("/data/k?attributes").header("x-amz-object-attributes", "ObjectParts");
    let attributes = attributes.header("x-amz-max-parts", "2").send();
    let text = attributes.expect(200).text();
    assert_eq!(element(&text, "PartsCount").or(element(&text, "TotalPartsCount")), Some("3"), "{text}");
    assert_eq!(elements(&text, "PartNumber"), ["1", "2"], "{text}");
    assert_eq!(element(&text, "NextPartNumberMarker"), Some("2"), "{text}");
    client.get(&format!("/data/k?uploadId={upload}")).send().expect_error(404, "NoSuchUpload");
}

#[test]
fn what_cannot_be_completed() {
    let (_server, client) = Server::with_bucket("data");
    let upload = begin(&client, "/data/k");
    let small = part(&client, "/data/k", &upload, 1, b"small");
    let last = part(&client, "/data/k", &upload, 2, b"last");
    let finish = |parts: &[(u32, &str)]| complete(&client, "/data/k", &upload, parts);
    finish(&[(1, &small), (2, &last)]).expect_error(400, "EntityTooSmall");
    finish(&[(2, &last), (1, &small)]).expect_error(400, "InvalidPartOrder");
    finish(&[(1, "\"0123\"")]).expect_error(400, "InvalidPart");
    finish(&[(7, &small)]).expect_error(400, "InvalidPart");
    finish(&[(0, &small)]).expect_error(400, "InvalidArgument");
    finish(&[]).expect_error(400, "MalformedXML");
    let target = format!("/data/k?uploadId={upload}");
    client.post(&target).body(b"<CompleteMultipartUpload><Part>").send().expect_error(400, "MalformedXML");
    client.post(&target).send().expect(400);
    let no_etag = b"<CompleteMultipartUpload><Part><PartNumber>1</PartNumber></Part></CompleteMultipartUpload>";
    client.post(&target).body(no_etag).send().expect_error(400, "MalformedXML");
    let one = document(&[(2, &last)]);
    let post = || client.post(&target).body(one.as_bytes());
    post().header("x-amz-mp-object-size", "5").send().expect_error(400, "InvalidRequest");
    post().header("x-amz-checksum-crc64nvme", "AAAAAAAAAAA=").send().expect_error(400, "BadDigest");
    client.store("/data/k", b"exists");
    post().header("if-none-match", "*").send().expect_error(412, "PreconditionFailed");
    post().header("if-match", "\"x\"").send().expect_error(412, "PreconditionFailed");
    post().header("x-amz-mp-object-size", "4").send().expect(200);
    client.get("/data/k").send().expect_body(b"last");

    complete(&client, "/data/k", "nonsense", &[(1, &small)]).expect_error(404, "NoSuchUpload");
    client.put(&format!("/data/k?partNumber=0&uploadId={upload}")).send().expect_error(400, "InvalidArgument");
    client.put(&format!("/data/k?partNumber=10001&uploadId={upload}")).send().expect_error(400, "InvalidArgument");
    client.put(&format!("/data/k?partNumber=1&uploadId={upload}")).send().expect_error(404, "NoSuchUpload");
    client.put(&format!("/data/k?partNumber=1&uploadId={}", "0".repeat(32))).send().expect_error(404, "NoSuchUpload");
}

#[test]
fn composite_checksums() {
    let (_server, client) = Server::with_bucket("data");
    let begin = client.post("/data/k?uploads").header("x-amz-checksum-algorithm", "SHA256").send().expect(200);
    let begin =
        begin.expect_header("x-amz-checksum-algorithm", "SHA256").expect_header("x-amz-checksum-type", "COMPOSITE");
    let text = begin.text();
    let upload = element(&text, "UploadId").unwrap();
    let put =
        client.put(&format!("/data/k?partNumber=1&uploadId={upload}")).body(b"hello").auth(Auth::UnsignedTrailer(3));
    let mut hasher = ChecksumHasher::new(ChecksumAlgorithm::Sha256);
    hasher.update(b"hello");
    let sum = hasher.finish();
    let put = put.trailer("x-amz-checksum-sha256", &sum.to_wire()).send().expect(200);
    let etag = put.header("etag").unwrap().replace('"', "");
    let body = |sum: &str| {
        format!(
            "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{etag}</ETag>\
             <ChecksumSHA256>{sum}</ChecksumSHA256></Part></CompleteMultipartUpload>"
        )
    };
    let post = |sum: &str| client.post(&format!("/data/k?uploadId={upload}")).body(body(sum).as_bytes());
    let other = crate::sign::base64(&[1; 32]);
    post(&other).send().expect_error(400, "InvalidPart");
    post("junk").send().expect_error(400, "InvalidRequest");
    let mut outer = ChecksumHasher::new(ChecksumAlgorithm::Sha256);
    outer.update(&sum.value);
    let whole = outer.finish().to_wire();
    let wire = format!("{whole}-1");
    post(&sum.to_wire()).header("x-amz-checksum-sha256", &format!("{other}-1")).send().expect_error(400, "BadDigest");
    let done = post(&sum.to_wire()).header("x-amz-checksum-sha256", &wire).send().expect(200).text();
    assert_eq!(
        (element(&done, "ChecksumSHA256"), element(&done, "ChecksumType")),
        (Some(wire.as_str()), Some("COMPOSITE"))
    );
    let head = client.head("/data/k").header("x-amz-checksum-mode", "ENABLED").send().expect(200);
    head.expect_header("x-amz-checksum-sha256", &wire).expect_header("x-amz-checksum-type", "COMPOSITE");
    let text = client.get("/data/k?attributes").header("x-amz-object-attributes", "Checksum").send().expect(200).text();
    assert_eq!(element(&text, "ChecksumSHA256"), Some(whole.as_str()));

    let bad = client.post("/data/k?uploads").header("x-amz-checksum-algorithm", "CRC64NVME");
    bad.header("x-amz-checksum-type", "COMPOSITE").send().expect_error(400, "InvalidRequest");
    client
        .post("/data/k?uploads")
        .header("x-amz-checksum-type", "FULL_OBJECT")
        .send()
        .expect_error(400, "InvalidRequest");
}

#[test]
fn parts_from_copies() {
    let (_server, client) = Server::with_bucket("data");
    let source = bytes(MIN + 100);
    client.store("/data/src", &source);
    let upload = begin(&client, "/data/k");
    let copy = |number: u32, range: &str| {
        let put = client.put(&format!("/data/k?partNumber={number}&uploadId={upload}"));
        put.header("x-amz-copy-source", "/data/src").header("x-amz-copy-source-range", range)
    };
    let etag = |reply: Reply| element(&reply.expect(200).text(), "ETag").unwrap().to_owned();
    let one = etag(copy(1, &format!("bytes=0-{}", MIN - 1)).send());
    let two = etag(copy(2, &format!("bytes={MIN}-{}", MIN + 99)).send());
    complete(&client, "/data/k", &upload, &[(1, &one), (2, &two)]).expect(200);
    client.get("/data/k").send().expect_body(&source);

    let upload = begin(&client, "/data/k");
    let copy = |range: &str| {
        let put = client.put(&format!("/data/k?partNumber=1&uploadId={upload}"));
        put.header("x-amz-copy-source", "/data/src").header("x-amz-copy-source-range", range)
    };
    for range in ["bytes=5-1", "bytes=-5", "bytes=5-", "5-6", "bytes=0-99999999"] {
        copy(range).send().expect_error(400, "InvalidArgument");
    }
    let unmatched = copy("bytes=0-9").header("x-amz-copy-source-if-match", "\"x\"").send();
    unmatched.expect_error(412, "PreconditionFailed");
}

#[test]
fn uploads_are_listed_and_aborted() {
    let (_server, client) = Server::with_bucket("data");
    let uploads: Vec<_> = ["a", "a", "b/1", "b/2", "c"].iter().map(|k| begin(&client, &format!("/data/{k}"))).collect();
    let text = client.get("/data?uploads").send().expect(200).text();
    assert_eq!(elements(&text, "UploadId"), uploads.iter().map(String::as_str).collect::<Vec<_>>());
    let text = client.get("/data?uploads&delimiter=/&prefix=b").send().expect(200).text();
    assert!(text.contains("<Prefix>b/</Prefix>") && elements(&text, "UploadId").is_empty(), "{text}");

    let (mut seen, mut marker) = (Vec::new(), None::<(String, String)>);
    loop {
        let mut request = client.get("/data?uploads&max-uploads=2");
        if let Some((key, upload)) = &marker {
            request = request.query("key-marker", key).query("upload-id-marker", upload);
        }
        let text = request.send().expect(200).text();
        seen.extend(elements(&text, "UploadId").into_iter().map(str::to_owned));
        if element(&text, "IsTruncated") == Some("false") {
            break;
        }
        let next = (element(&text, "NextKeyMarker").unwrap(), element(&text, "NextUploadIdMarker").unwrap());
        marker = Some((next.0.to_owned(), next.1.to_owned()));
    }
    assert_eq!(seen, uploads);
    for (key, upload) in ["a", "a", "b/1", "b/2", "c"].iter().zip(&uploads) {
        client.delete(&format!("/data/{key}?uploadId={upload}")).send().expect(204);
        client.delete(&format!("/data/{key}?uploadId={upload}")).send().expect_error(404, "NoSuchUpload");
    }
    client.delete("/data").send().expect(204);
}
