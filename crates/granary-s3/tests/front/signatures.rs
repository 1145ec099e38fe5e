//! Who may come in: SigV4 and SigV2 in headers and queries, addressing, and limits at the door.

use granary_s3::FrontConfig;

use crate::client::Auth;
use crate::harness::Server;

#[test]
fn v4_headers() {
    let (_server, client) = Server::with_bucket("data");
    client.store("/data/a%20b/%C3%BC", b"x");
    client.get("/data/a%20b/%C3%BC").auth(Auth::Unsigned).send().expect(200);
    client.get("/data").query("prefix", "a b/").query("delimiter", "/").send().expect(200);
    client.get("/data").without_hash_header().send().expect(200);
    client.delete("/data/none").without_hash_header().send().expect(204);
    client.put("/data/none").without_hash_header().send().expect_error(400, "InvalidRequest");
    client.get("/data").secret("wrong-secret").send().expect_error(403, "SignatureDoesNotMatch");
    client.get("/data").auth(Auth::Anonymous).send().expect_error(403, "AccessDenied");
    client.get("/data").clock_shift(-16 * 60).send().expect_error(403, "RequestTimeTooSkewed");
    client.get("/data").clock_shift(16 * 60).send().expect_error(403, "RequestTimeTooSkewed");
    client.get("/data").clock_shift(-14 * 60).send().expect(200);
    let unknown =
        "AWS4-HMAC-SHA256 Credential=NOBODY/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=00";
    let refused = client.get("/data").auth(Auth::Anonymous).header("authorization", unknown).send();
    assert!(matches!(refused.status, 400 | 403), "{}", refused.status);
}

#[test]
fn presigned_v4() {
    let (_server, client) = Server::with_bucket("data");
    client.put("/data/k").body(b"hello").auth(Auth::Presigned(60)).send().expect(200);
    client.get("/data/k").auth(Auth::Presigned(60)).send().expect(200).expect_body(b"hello");
    client.head("/data/k").auth(Auth::Presigned(60)).send().expect(200);
    let typed = client.get("/data/k").query("response-content-type", "text/x").auth(Auth::Presigned(60)).send();
    typed.expect(200).expect_header("content-type", "text/x");
    client.get("/data/k").auth(Auth::Presigned(60)).clock_shift(-61).send().expect_error(403, "AccessDenied");
    client
        .get("/data/k")
        .auth(Auth::Presigned(60))
        .secret("wrong-secret")
        .send()
        .expect_error(403, "SignatureDoesNotMatch");
    let target = client.get("/data/k").auth(Auth::Presigned(60)).target().replace("Signature=", "Signature=0");
    let malformed = client.get("/data/k").auth(Auth::Anonymous).raw_target(&target).send();
    malformed.expect_error(403, "SignatureDoesNotMatch");
    // A header that means nothing is put right after the signature was verified.
    let odd = client.get("/data/k").header("range", "bytes=0-1,3-4").auth(Auth::Presigned(60)).send();
    odd.expect(200).expect_body(b"hello");
    let forged =
        client.get("/data/k").header("range", "bytes=0-1,3-4").auth(Auth::Presigned(60)).secret("wrong-secret");
    forged.send().expect_error(403, "SignatureDoesNotMatch");
    client
        .get("/data/k")
        .header("range", "bytes=0-1,3-4")
        .auth(Auth::Anonymous)
        .send()
        .expect_error(403, "AccessDenied");
}

#[test]
fn presigned_urls_that_are_wrong() {
    let (_server, client) = Server::with_bucket("data");
    client.store("/data/k", b"hello");
    let good = client.get("/data/k").auth(Auth::Presigned(60)).target();
    let code = "AuthorizationQueryParametersError";
    for (from, to) in [
        ("X-Amz-Expires=60", "X-Amz-Expires=604801"),
        ("X-Amz-Expires=60", "X-Amz-Expires=-1"),
        ("X-Amz-Expires=60", "X-Amz-Expires=soon"),
        ("X-Amz-Expires=60", "X-Amz-Exp=60"),
        ("AWS4-HMAC-SHA256", "AWS4-HMAC-MD5"),
        ("aws4_request", "aws5_request"),
        ("X-Amz-Date=2", "X-Amz-Date=x"),
        ("X-Amz-SignedHeaders=host", "X-Amz-Signed=host"),
    ] {
        assert!(good.contains(from), "{good} {from}");
        let target = good.replace(from, to);
        client.get("/data/k").auth(Auth::Anonymous).raw_target(&target).send().expect_error(400, code);
    }
    // Nobody adds to what was signed.
    for (name, value) in [("x-amz-acl", "private"), ("x-amz-meta-a", "b"), ("x-amz-object-lock-legal-hold", "ON")] {
        let added = client.put("/data/k").body(b"x").header(name, value).auth(Auth::Presigned(60));
        let refused = added.send().expect_error(403, "AccessDenied");
        assert!(refused.text().contains(name), "{}", refused.text());
    }
    let overridden = client.get("/data/k").query("response-content-type", "text/x").auth(Auth::Anonymous);
    overridden.send().expect_error(400, "InvalidRequest");
}

#[test]
fn v2() {
    let (_server, client) = Server::with_bucket("data");
    client.put("/data/k").body(b"hello").auth(Auth::V2Header).send().expect(200);
    client.get("/data/k").auth(Auth::V2Header).send().expect(200).expect_body(b"hello");
    client.get("/data/k").auth(Auth::V2Query(60)).send().expect(200).expect_body(b"hello");
    client.get("/data/k").auth(Auth::V2Query(60)).clock_shift(-61).send().expect_error(403, "AccessDenied");
    client
        .get("/data/k")
        .auth(Auth::V2Query(60))
        .secret("wrong-secret")
        .send()
        .expect_error(403, "SignatureDoesNotMatch");
    client.get("/data/k").auth(Auth::V2Header).secret("wrong-secret").send().expect_error(403, "SignatureDoesNotMatch");
    client.get("/data/k").auth(Auth::V2Header).clock_shift(-16 * 60).send().expect_error(403, "RequestTimeTooSkewed");

    let server = Server::with(FrontConfig { allow_sigv2: false, ..FrontConfig::default() });
    let client = server.client();
    client.put("/data").send().expect(200);
    for auth in [Auth::V2Header, Auth::V2Query(60)] {
        let refused = client.get("/data").auth(auth).send().expect_error(400, "InvalidRequest");
        assert!(refused.text().contains("allow_sigv2"), "{}", refused.text());
    }
}

#[test]
fn virtual_hosts() {
    let server = Server::with(FrontConfig { domains: vec!["s3.example.com".into()], ..FrontConfig::default() });
    let client = server.client();
    client.put("/data").send().expect(200);
    client.put("/k").host("data.s3.example.com").body(b"hello").send().expect(200);
    client.get("/data/k").send().expect(200).expect_body(b"hello");
    client.get("/data/k").host("s3.example.com").send().expect(200);
    client.get("/data/k").host("localhost:9000").send().expect(200);
    client.get("/data/k").host("granary").send().expect(200);
    client.get("/k").host("data.s3.example.com:9000").send().expect(200).expect_body(b"hello");
    client.get("/k").host("data.s3.example.com").auth(Auth::Presigned(60)).send().expect(200);
    client.get("/k").host("data.s3.example.com").header("range", "bytes=9-1").send().expect(200).expect_body(b"hello");
    client.get("/?list-type=2").host("data.s3.example.com").send().expect(200).text().contains("<Key>k</Key>");
}

#[test]
fn too_many_at_once() {
    let server = Server::with(FrontConfig { in_flight_max: 0, ..FrontConfig::default() });
    let refused = server.client().get("/").send().expect_error(503, "SlowDown");
    refused.expect_header("retry-after", "1");
    assert_eq!(server.service.in_flight(), 0);
}

#[test]
fn the_observer_is_told_once() {
    let (server, client) = Server::with_bucket("data");
    server.seen.lock().unwrap().clear();
    client.store("/data/k", b"hello");
    client.get("/data/k").send().expect(200);
    client.get("/data/none").send().expect(404);
    client.get("/data/k").header("range", "bytes=1-0").send().expect(200);
    client.get("/data").auth(Auth::Anonymous).send().expect(403);
    client.get("/data/k").secret("wrong-secret").send().expect(403);
    // The last answer's end may be seen a moment after the client has it.
    for _ in 0..200 {
        if server.seen.lock().unwrap().len() >= 6 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let seen = server.seen.lock().unwrap().clone();
    let names: Vec<_> = seen.iter().map(|(op, status, ..)| (*op, *status)).collect();
    assert_eq!(
        names,
        [
            ("PutObject", 200),
            ("GetObject", 200),
            ("GetObject", 404),
            ("GetObject", 200),
            ("ListObjects", 403),
            ("Unknown", 403)
        ]
    );
    assert_eq!((seen[0].2, seen[1].3), (5, 5));
}
