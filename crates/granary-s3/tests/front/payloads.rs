//! How bodies come in: aws-chunked in all forms, trailers, checksums, lengths, `Expect`.

use crate::client::Auth;
use crate::harness::{ACCESS_KEY, SECRET_KEY, Server};
use crate::sign;

const BODY: &[u8] = b"The quick brown fox jumps over the lazy dog";

/// Each algorithm's value for [`BODY`].
const SUMS: [(&str, &str); 5] = [
    ("crc32", "QU+jOQ=="),
    ("crc32c", "ImIEBA=="),
    ("crc64nvme", ""),
    ("sha1", "L9ThxnotKPzthJ7hu3bnORuT6xI="),
    ("sha256", "16j7swfXgJRpypq8sAguT41WUeRtPNt2LQLQvzfJ5ZI="),
];

fn sum(name: &str) -> String {
    use granary_types::{ChecksumAlgorithm, ChecksumHasher};
    let mut hasher = ChecksumHasher::new(ChecksumAlgorithm::from_name(name).unwrap());
    hasher.update(BODY);
    hasher.finish().to_wire()
}

#[test]
fn known_checksums() {
    for (name, value) in SUMS.iter().filter(|(_, value)| !value.is_empty()) {
        assert_eq!(sum(name), *value, "{name}");
    }
}

#[test]
fn chunked_signed() {
    let (_server, client) = Server::with_bucket("data");
    for size in [1, 7, 8192] {
        client.put("/data/k").body(BODY).auth(Auth::Chunks(size)).send().expect(200);
        let get = client.get("/data/k").send().expect_body(BODY);
        get.expect_no_header("content-encoding");
    }
    client.put("/data/e").body(b"").auth(Auth::Chunks(8)).send().expect(200);
    client.get("/data/e").send().expect_body(b"");
    let refused = client.put("/data/bad").body(BODY).auth(Auth::Chunks(8)).bad_chunk().send();
    refused.expect_error(403, "SignatureDoesNotMatch");
    client.get("/data/bad").send().expect(404);
}

#[test]
fn trailers() {
    let (_server, client) = Server::with_bucket("data");
    for auth in [Auth::ChunksTrailer(10), Auth::UnsignedTrailer(10), Auth::UnsignedTrailer(1_000_000)] {
        for (name, _) in SUMS {
            let header = format!("x-amz-checksum-{name}");
            for chunked in [false, true] {
                let put = client.put("/data/k").body(BODY).auth(auth.clone()).trailer(&header, &sum(name));
                let put = if chunked { put.chunked() } else { put };
                put.send().expect(200).expect_header(&header, &sum(name));
                let get = client.get("/data/k").header("x-amz-checksum-mode", "ENABLED").send().expect_body(BODY);
                get.expect_header(&header, &sum(name));
            }
            let wrong = sign::base64(&vec![0; sum(name).len() * 3 / 4 - sum(name).matches('=').count()]);
            let refused = client.put("/data/bad").body(BODY).auth(auth.clone()).trailer(&header, &wrong).send();
            refused.expect_error(400, "BadDigest");
        }
    }
    client.get("/data/bad").send().expect(404);
    let refused = client.put("/data/bad").body(BODY).auth(Auth::UnsignedTrailer(10)).send();
    refused.expect_error(400, "InvalidRequest"); // No x-amz-trailer at all.
    let odd = client.put("/data/bad").body(BODY).auth(Auth::UnsignedTrailer(10)).trailer("x-amz-checksum-md5", "AA==");
    odd.send().expect_error(400, "InvalidRequest");
    let junk = client.put("/data/bad").body(BODY).auth(Auth::UnsignedTrailer(10)).trailer("x-amz-checksum-crc32", "?");
    junk.send().expect_error(400, "InvalidArgument");
}

#[test]
fn one_huge_unsigned_chunk_is_not_gathered() {
    let (_server, client) = Server::with_bucket("data");
    let body = vec![5u8; 20 * 1024 * 1024];
    let put = client.put("/data/k").body(&body).auth(Auth::UnsignedTrailer(usize::MAX));
    put.trailer("x-amz-checksum-crc32", &{
        let mut hasher = granary_types::ChecksumHasher::new(granary_types::ChecksumAlgorithm::Crc32);
        hasher.update(&body);
        hasher.finish().to_wire()
    })
    .send()
    .expect(200);
    client.head("/data/k").send().expect_header("content-length", &body.len().to_string());
    // A signed one has to be whole before it can be believed: over 16 MiB it is refused.
    client.put("/data/s").body(&body).auth(Auth::Chunks(usize::MAX)).send().expect_error(400, "IncompleteBody");
}

#[test]
fn checksums_in_headers() {
    let (_server, client) = Server::with_bucket("data");
    for (name, _) in SUMS {
        let header = format!("x-amz-checksum-{name}");
        for auth in [Auth::Signed, Auth::Unsigned] {
            let put = client.put("/data/k").body(BODY).auth(auth).header(&header, &sum(name)).send().expect(200);
            put.expect_header(&header, &sum(name)).expect_header("x-amz-checksum-type", "FULL_OBJECT");
        }
        let named =
            client.put("/data/k").body(BODY).header("x-amz-sdk-checksum-algorithm", &name.to_uppercase()).send();
        named.expect(200).expect_header(&header, &sum(name));
        let refused = client.put("/data/bad").body(b"other").header(&header, &sum(name)).send();
        refused.expect_error(400, "BadDigest");
        client.put("/data/bad").header(&header, "AAA").send().expect_error(400, "InvalidRequest");
    }
    let both = client.put("/data/bad").body(BODY).header("x-amz-checksum-crc32", &sum("crc32"));
    both.header("x-amz-checksum-sha1", &sum("sha1")).send().expect_error(400, "InvalidRequest");
    let md5 = sign::base64(&<md5::Md5 as md5::Digest>::digest(BODY)[..]);
    client.put("/data/k").body(BODY).header("content-md5", &md5).send().expect(200);
    client.put("/data/bad").body(b"other").header("content-md5", &md5).send().expect_error(400, "BadDigest");
    client.put("/data/bad").header("content-md5", "AAAA").send().expect_error(400, "InvalidDigest");
    client.get("/data/bad").send().expect(404);
}

#[test]
fn payload_hash() {
    let (_server, client) = Server::with_bucket("data");
    let other = sign::sha256_hex(b"other");
    let refused = client.put("/data/bad").body(BODY).payload_hash(&other).send();
    refused.expect_error(400, "XAmzContentSHA256Mismatch");
    client.get("/data/bad").send().expect(404);
}

#[test]
fn lengths() {
    let (_server, client) = Server::with_bucket("data");
    client.put("/data/bad").body(BODY).chunked().send().expect_error(411, "MissingContentLength");
    client.put("/data/bad").body(BODY).chunked().auth(Auth::Unsigned).send().expect_error(411, "MissingContentLength");
    client
        .put("/data/bad")
        .body(BODY)
        .chunked()
        .auth(Auth::Presigned(60))
        .send()
        .expect_error(411, "MissingContentLength");
    let huge = (5u64 * 1024 * 1024 * 1024 + 1).to_string();
    let refused = client.put("/data/bad").auth(Auth::Presigned(60)).header("content-length", &huge).body(b"").cut_at(0);
    // Two content-length lines: hyper refuses the message itself.
    assert_eq!(refused.send().status, 400);
    // A body that ends early is never kept.
    for auth in [Auth::Signed, Auth::Unsigned, Auth::UnsignedTrailer(10), Auth::Chunks(10)] {
        let put = client.put("/data/bad").body(BODY).auth(auth.clone());
        let put = if matches!(auth, Auth::UnsignedTrailer(_)) {
            put.trailer("x-amz-checksum-crc32", &sum("crc32"))
        } else {
            put
        };
        let reply = put.cut_at(20).send();
        assert!(reply.status == 0 || reply.status == 400, "{auth:?}: {}", reply.status);
    }
    client.get("/data/bad").send().expect(404);
}

#[test]
fn expect_continue() {
    let (_server, client) = Server::with_bucket("data");
    let put = client.put("/data/k").body(BODY).header("expect", "100-continue");
    let reply =
        put.auth(Auth::UnsignedTrailer(10)).trailer("x-amz-checksum-crc32", &sum("crc32")).chunked().send().expect(200);
    assert!(reply.continued);
    // Refused without asking for the body.
    let reply = client.put("/none/k").body(BODY).header("expect", "100-continue").auth(Auth::Unsigned).send();
    assert!(!reply.continued);
    assert_eq!(reply.status, 404);
}

#[test]
fn forms() {
    let (_server, client) = Server::with_bucket("data");
    let post = |target: &str, body: &[u8]| {
        let form = client.post(target).header("content-type", "multipart/form-data; boundary=x").auth(Auth::Anonymous);
        form.body(body).send()
    };
    post("/data", b"--x--").expect_error(400, "IncorrectNumberOfFilesInPostRequest");
    post("/data/k", b"--x--").expect_error(405, "MethodNotAllowed");
    let part =
        |name: &str, value: &str| format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    let form = |fields: &[(&str, &str)]| {
        let fields: String = fields.iter().map(|(name, value)| part(name, value)).collect();
        format!("{fields}{}--x--\r\n", part("file", "hello")).into_bytes()
    };
    post("/data", &form(&[])).expect_error(400, "InvalidArgument");
    post("/data", &form(&[("key", "k")])).expect_error(403, "AccessDenied");
    let policy = r#"{"expiration":"2100-01-01T00:00:00Z","conditions":[["starts-with","$key","k"]]}"#;
    let policy = sign::base64(policy.as_bytes());
    let signature = sign::base64(&sign::hmac_sha1(SECRET_KEY.as_bytes(), policy.as_bytes()));
    let signed = [("key", "k"), ("AWSAccessKeyId", ACCESS_KEY), ("policy", &policy), ("signature", &signature)];
    assert_eq!(post("/data", &form(&signed)).status, 204);
    client.get("/data/k").send().expect(200).expect_body(b"hello");
    let other_key = [("key", "other"), signed[1], signed[2], signed[3]];
    post("/data", &form(&other_key)).expect_error(403, "AccessDenied");
    let forged = sign::base64(&sign::hmac_sha1(b"another secret", policy.as_bytes()));
    let forged = [signed[0], signed[1], signed[2], ("signature", &forged)];
    post("/data", &form(&forged)).expect_error(403, "SignatureDoesNotMatch");
}

#[test]
fn documents_are_bounded() {
    let (_server, client) = Server::with_bucket("data");
    let large = vec![b' '; 5 * 1024 * 1024];
    client.post("/data?delete").body(&large).send().expect_error(400, "MaxMessageLengthExceeded");
    client.put("/data?tagging").body(&large).auth(Auth::Unsigned).send().expect_error(400, "MaxMessageLengthExceeded");
    let forged = client.post("/data?delete").body(b"<Delete/>").payload_hash(&sign::sha256_hex(b"other")).send();
    forged.expect_error(400, "XAmzContentSHA256Mismatch");
}
