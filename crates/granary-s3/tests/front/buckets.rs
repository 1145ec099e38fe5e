//! Buckets and their settings, tags, locks, ACLs, and what is not implemented.

use granary_s3::FrontConfig;

use crate::harness::{Server, element, elements};

#[test]
fn life_of_a_bucket() {
    let server = Server::start();
    let client = server.client();
    client.get("/data").send().expect_error(404, "NoSuchBucket");
    assert_eq!(client.head("/data").send().expect(404).body, b"");
    client.put("/data").send().expect(200).expect_header("location", "/data");
    // In us-east-1, again is fine.
    client.put("/data").send().expect(200);
    client.head("/data").send().expect(200).expect_header("x-amz-bucket-region", "us-east-1");
    let text = client.get("/data?location").send().expect(200).text();
    assert!(
        text.contains("<LocationConstraint xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"></LocationConstraint>"),
        "{text}"
    );

    let europe =
        b"<CreateBucketConfiguration><LocationConstraint>eu-central-1</LocationConstraint></CreateBucketConfiguration>";
    client.put("/europe").body(europe).send().expect(200);
    client.put("/europe").body(europe).send().expect_error(409, "BucketAlreadyOwnedByYou");
    client.head("/europe").send().expect_header("x-amz-bucket-region", "eu-central-1");
    assert!(client.get("/europe?location").send().text().contains(">eu-central-1</LocationConstraint>"));

    let text = client.get("/").send().expect(200).text();
    assert_eq!(elements(&text, "Name"), ["data", "europe"]);
    assert_eq!(elements(&text, "ID")[0].len(), 64);
    let text = client.get("/?max-buckets=1").send().expect(200).text();
    assert_eq!((elements(&text, "Name"), element(&text, "ContinuationToken")), (vec!["data"], Some("data")));
    let text = client.get("/?max-buckets=1&continuation-token=data").send().expect(200).text();
    assert_eq!((elements(&text, "Name"), element(&text, "ContinuationToken")), (vec!["europe"], None));
    assert_eq!(elements(&client.get("/?prefix=eu").send().text(), "Name"), ["europe"]);

    client.store("/data/k", b"x");
    client.delete("/data").send().expect_error(409, "BucketNotEmpty");
    client.delete("/data/k").send().expect(204);
    client.delete("/data").send().expect(204);
    client.delete("/data").send().expect_error(404, "NoSuchBucket");
    for name in ["ab", "Upper", "a..b", "192.168.1.1", "-a-", "x_y"] {
        client.put(&format!("/{name}")).send().expect_error(400, "InvalidBucketName");
    }
    client
        .put("/public")
        .header("x-amz-acl", "public-read")
        .send()
        .expect_error(400, "InvalidBucketAclWithObjectOwnership");
    client.put("/odd").body(b"<CreateBucketConfiguration>").send().expect_error(400, "MalformedXML");
}

#[test]
fn regions_can_be_strict() {
    let server = Server::with(FrontConfig { region: "eu-west-1".into(), any_region: false, ..FrontConfig::default() });
    let client = server.client();
    let asks = |region: &str| {
        let body = format!(
            "<CreateBucketConfiguration><LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
        );
        client.put("/data").body(body.as_bytes()).send()
    };
    asks("us-west-2").expect_error(400, "InvalidLocationConstraint");
    asks("eu-west-1").expect(200);
    client.put("/data").send().expect_error(409, "BucketAlreadyOwnedByYou");
}

#[test]
fn expected_owner() {
    let (_server, client) = Server::with_bucket("data");
    let owner = "ab".repeat(32);
    client.put("/data/k").header("x-amz-expected-bucket-owner", &owner).send().expect(200);
    for request in [client.put("/data/k"), client.get("/data/k"), client.get("/data"), client.delete("/data")] {
        request.header("x-amz-expected-bucket-owner", "someone").send().expect_error(403, "AccessDenied");
    }
}

#[test]
fn settings_that_are_not_there() {
    let (_server, client) = Server::with_bucket("data");
    for (name, code) in [
        ("policy", "NoSuchBucketPolicy"),
        ("policyStatus", "NoSuchBucketPolicy"),
        ("cors", "NoSuchCORSConfiguration"),
        ("lifecycle", "NoSuchLifecycleConfiguration"),
        ("website", "NoSuchWebsiteConfiguration"),
        ("replication", "ReplicationConfigurationNotFoundError"),
        ("tagging", "NoSuchTagSet"),
        ("object-lock", "ObjectLockConfigurationNotFoundError"),
    ] {
        client.get(&format!("/data?{name}")).send().expect_error(404, code);
        client.get(&format!("/none?{name}")).send().expect_error(404, "NoSuchBucket");
    }
    for (name, text) in [
        ("encryption", "<SSEAlgorithm>AES256</SSEAlgorithm>"),
        ("acl", "<Permission>FULL_CONTROL</Permission>"),
        ("ownershipControls", "BucketOwnerEnforced"),
        ("publicAccessBlock", "<BlockPublicAcls>true</BlockPublicAcls>"),
        ("requestPayment", "<Payer>BucketOwner</Payer>"),
        ("logging", "BucketLoggingStatus"),
        ("notification", "NotificationConfiguration"),
        ("accelerate", "AccelerateConfiguration"),
        ("versioning", "VersioningConfiguration"),
    ] {
        let reply = client.get(&format!("/data?{name}")).send().expect(200);
        assert!(reply.text().contains(text), "{name}: {}", reply.text());
        client.get(&format!("/none?{name}")).send().expect_error(404, "NoSuchBucket");
    }
    client.store("/data/k", b"x");
    assert!(client.get("/data/k?acl").send().expect(200).text().contains("FULL_CONTROL"));
    client.put("/data/k?acl").header("x-amz-acl", "private").send().expect(200);
    client
        .put("/data/k?acl")
        .header("x-amz-acl", "public-read")
        .send()
        .expect_error(400, "AccessControlListNotSupported");
    client.put("/data?acl").header("x-amz-acl", "private").send().expect(200);
    // A list taken from GetObjectAcl may be put back; one that grants more may not.
    let list = client.get("/data/k?acl").send().text();
    client.put("/data/k?acl").body(list.as_bytes()).send().expect(200);
    let more = list.replace("FULL_CONTROL", "READ");
    client.put("/data/k?acl").body(more.as_bytes()).send().expect_error(400, "AccessControlListNotSupported");
}

#[test]
fn what_is_not_implemented_says_so() {
    let (_server, client) = Server::with_bucket("data");
    client.store("/data/k", b"x");
    let website = b"<WebsiteConfiguration><IndexDocument><Suffix>i</Suffix></IndexDocument></WebsiteConfiguration>";
    let faster = b"<AccelerateConfiguration><Status>Enabled</Status></AccelerateConfiguration>";
    for (method, target, body, name) in [
        ("PUT", "/data?website", &website[..], "PutBucketWebsite"),
        ("PUT", "/data?accelerate", &faster[..], "PutBucketAccelerateConfiguration"),
    ] {
        let reply = client.request(method, target).body(body).send().expect_error(501, "NotImplemented");
        assert!(reply.text().contains(name), "{}", reply.text());
    }
}

#[test]
fn methods_that_are_not_there() {
    let (_server, client) = Server::with_bucket("data");
    client.store("/data/k", b"x");
    for (method, target) in
        [("PATCH", "/data/k"), ("BREW", "/data"), ("PUT", "/"), ("DELETE", "/"), ("POST", "/"), ("POST", "/data/k")]
    {
        client.request(method, target).send().expect_error(405, "MethodNotAllowed");
    }
    client.request("POST", "/data").send().expect_error(412, "PreconditionFailed");
    client.request("OPTIONS", "/data/k").send().expect_error(400, "BadRequest");
}

#[test]
fn settings_can_be_put_got_and_removed() {
    let (server, client) = Server::with_bucket("data");
    let cors = "<CORSConfiguration><CORSRule><AllowedOrigin>http://a</AllowedOrigin><AllowedMethod>GET</AllowedMethod>\
                </CORSRule></CORSConfiguration>";
    let block =
        "<PublicAccessBlockConfiguration><BlockPublicAcls>true</BlockPublicAcls></PublicAccessBlockConfiguration>";
    let ownership =
        "<OwnershipControls><Rule><ObjectOwnership>ObjectWriter</ObjectOwnership></Rule></OwnershipControls>";
    for (name, document, shown, removed) in [
        ("cors", cors, "<AllowedOrigin>http://a</AllowedOrigin>", "NoSuchCORSConfiguration"),
        ("publicAccessBlock", block, "<BlockPublicPolicy>false<", "NoSuchPublicAccessBlockConfiguration"),
        ("ownershipControls", ownership, "ObjectWriter", "OwnershipControlsNotFoundError"),
    ] {
        let target = format!("/data?{name}");
        client.put(&target).body(document.as_bytes()).send().expect(200);
        let reply = client.get(&target).send().expect(200);
        assert!(reply.text().contains(shown), "{name}: {}", reply.text());
        assert_eq!(client.delete(&target).send().status, 204, "{name}");
        client.get(&target).send().expect_error(404, removed);
        client.put(&format!("/none?{name}")).body(document.as_bytes()).send().expect_error(404, "NoSuchBucket");
        client.put(&target).body(b"<a").send().expect_error(400, "MalformedXML");
    }
    // Lists count now, and a list that is no list is called that.
    client.put("/data?acl").header("x-amz-acl", "public-read").send().expect(200);
    assert!(client.get("/data?acl").send().text().contains("global/AllUsers"));
    client.put("/data?acl").body(b"<a").send().expect_error(400, "MalformedACLError");
    client.put("/data?acl").send().expect_error(400, "MissingSecurityHeader");
    drop(server);
}

#[test]
fn tags() {
    let (_server, client) = Server::with_bucket("data");
    client.store("/data/k", b"x");
    let set = |tags: &[(&str, &str)]| {
        let tags: String = tags.iter().map(|(k, v)| format!("<Tag><Key>{k}</Key><Value>{v}</Value></Tag>")).collect();
        format!("<Tagging><TagSet>{tags}</TagSet></Tagging>")
    };
    for target in ["/data/k?tagging", "/data?tagging"] {
        client.put(target).body(set(&[("a", "1"), ("b+c", "x y")]).as_bytes()).send();
        let text = client.get(target).send().expect(200).text();
        assert_eq!(elements(&text, "Key"), ["a", "b+c"], "{text}");
        assert_eq!(elements(&text, "Value"), ["1", "x y"], "{text}");
        client.put(target).body(set(&[("a", "1"), ("a", "2")]).as_bytes()).send().expect_error(400, "InvalidTag");
        client.delete(target).send().expect(204);
    }
    client.get("/data?tagging").send().expect_error(404, "NoSuchTagSet");
    assert!(elements(&client.get("/data/k?tagging").send().expect(200).text(), "Key").is_empty());
    let names: Vec<_> = (0..11).map(|i| format!("k{i}")).collect();
    let many: Vec<_> = names.iter().map(|k| (k.as_str(), "v")).collect();
    client.put("/data/k?tagging").body(set(&many).as_bytes()).send().expect_error(400, "BadRequest");
    client.get("/data/none?tagging").send().expect_error(404, "NoSuchKey");
    client.put("/data/k").header("x-amz-tagging", "a=1&a=2").send().expect_error(400, "InvalidArgument");
}

#[test]
fn locks() {
    let (_server, client) = Server::with_bucket("plain");
    let until = "2099-01-01T00:00:00Z";
    let locked = |target: &str| {
        let put = client.put(target).header("x-amz-object-lock-mode", "GOVERNANCE");
        put.header("x-amz-object-lock-retain-until-date", until)
    };
    locked("/plain/k").send().expect_error(400, "InvalidRequest");
    client.put("/vault").header("x-amz-bucket-object-lock-enabled", "true").send().expect(200);
    assert!(client.get("/vault?object-lock").send().expect(200).text().contains("Enabled"));
    assert!(client.get("/vault?versioning").send().expect(200).text().contains("Enabled"));
    let suspend = b"<VersioningConfiguration><Status>Suspended</Status></VersioningConfiguration>";
    client.put("/vault?versioning").body(suspend).send().expect_error(409, "InvalidBucketState");
    let version = locked("/vault/k").body(b"kept").send().expect(200).header("x-amz-version-id").unwrap().to_owned();
    client.head("/vault/k").send().expect(200).expect_header("x-amz-object-lock-mode", "GOVERNANCE");
    let text = client.get("/vault/k?retention").send().expect(200).text();
    assert_eq!(element(&text, "Mode"), Some("GOVERNANCE"), "{text}");
    let target = format!("/vault/k?versionId={version}");
    client.delete(&target).send().expect_error(403, "AccessDenied");

    let hold = |status: &str| format!("<LegalHold><Status>{status}</Status></LegalHold>");
    client.put("/vault/k?legal-hold").body(hold("ON").as_bytes()).send().expect(200);
    assert_eq!(element(&client.get("/vault/k?legal-hold").send().expect(200).text(), "Status"), Some("ON"));
    let bypass = || client.delete(&target).header("x-amz-bypass-governance-retention", "true").send();
    bypass().expect_error(403, "AccessDenied");
    client.put("/vault/k?legal-hold").body(hold("MAYBE").as_bytes()).send().expect_error(400, "MalformedXML");
    client.put("/vault/k?legal-hold").body(hold("OFF").as_bytes()).send().expect(200);
    bypass().expect(204);
    let past = b"<Retention><Mode>GOVERNANCE</Mode><RetainUntilDate>2001-01-01T00:00:00Z</RetainUntilDate></Retention>";
    client.store("/vault/k2", b"x");
    client.put("/vault/k2?retention").body(past).send().expect_error(400, "InvalidArgument");
    client.get("/vault/k2?retention").send().expect_error(404, "NoSuchObjectLockConfiguration");
}
