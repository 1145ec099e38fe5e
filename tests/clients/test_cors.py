"""Cross-origin requests as browsers make them: preflights, actual requests, and what answers let a page see."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError

ORIGIN = "access-control-allow-origin"
METHODS = "access-control-allow-methods"


def put(s3, bucket, *rules):
    s3.put_bucket_cors(Bucket=bucket, CORSConfiguration={"CORSRules": list(rules)})


def rule(origin, *methods, **more):
    return {"AllowedOrigins": [origin], "AllowedMethods": list(methods)} | more


def ask(raw, method, bucket, key="", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return raw.request(method, bucket, key, headers=headers, anonymous=method == "OPTIONS")


def test_rules_are_kept_as_they_are(s3, bucket):
    with pytest.raises(ClientError) as caught:
        s3.get_bucket_cors(Bucket=bucket)
    assert caught.value.response["Error"]["Code"] == "NoSuchCORSConfiguration"
    rules = [
        rule("http://*.example.com", "GET", "HEAD", AllowedHeaders=["*"], ExposeHeaders=["ETag", "x-amz-meta-a"], MaxAgeSeconds=300, ID="one"),
        rule("*", "PUT", "POST", "DELETE"),
    ]
    put(s3, bucket, *rules)
    assert s3.get_bucket_cors(Bucket=bucket)["CORSRules"] == rules
    s3.delete_bucket_cors(Bucket=bucket)
    s3.delete_bucket_cors(Bucket=bucket)
    with pytest.raises(ClientError):
        s3.get_bucket_cors(Bucket=bucket)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (rule("*", "OPTIONS"), "InvalidRequest"),
        (rule("http://*.*", "GET"), "InvalidRequest"),
        (rule("*", "GET", AllowedHeaders=["a*b*"]), "InvalidRequest"),
        (rule("*", "GET", ExposeHeaders=["*"]), "InvalidRequest"),
        (rule("*", "GET", ID="x" * 256), "InvalidRequest"),
    ],
)
def test_rules_that_are_refused(s3, bucket, bad, code):
    with pytest.raises(ClientError) as caught:
        put(s3, bucket, bad)
    assert caught.value.response["Error"]["Code"] == code
    with pytest.raises(ClientError) as caught:
        put(s3, bucket, *[rule("*", "GET")] * 101)
    assert caught.value.response["Error"]["Code"] == "MalformedXML"


def test_actual_requests(s3, raw, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert ORIGIN not in ask(raw, "GET", bucket, "k", origin="http://a.suffix").headers
    put(s3, bucket, rule("*suffix", "GET", ExposeHeaders=["ETag"]), rule("start*end", "GET"), rule("*.put", "PUT"))
    for origin, allowed in [
        ("foo.suffix", True), ("foo.bar", False), ("foo.suffix.get", False), ("startend", True), ("start1end", True),
        ("start12end", True), ("0start12end", False), ("foo.put", False),
    ]:
        reply = ask(raw, "GET", bucket, "k", origin=origin)
        assert reply.status == 200
        assert reply.headers.get(ORIGIN) == (origin if allowed else None), origin
        assert reply.headers.get(METHODS) == ("GET" if allowed else None), origin
    reply = ask(raw, "GET", bucket, "k", origin="a.suffix")
    assert reply.headers["access-control-expose-headers"] == "ETag"
    assert reply.headers["access-control-allow-credentials"] == "true"
    assert "Origin" in reply.headers["vary"]
    # A page may see refusals too, and what its preflight said counts for the request.
    reply = ask(raw, "GET", bucket, "none", origin="a.suffix")
    assert (reply.status, reply.headers[ORIGIN]) == (404, "a.suffix")
    reply = ask(raw, "PUT", bucket, "k", origin="a.suffix", access_control_request_method="GET")
    assert reply.headers[ORIGIN] == "a.suffix"
    assert ORIGIN not in ask(raw, "PUT", bucket, "k", origin="a.suffix").headers
    assert ask(raw, "PUT", bucket, "k", origin="foo.put").headers[METHODS] == "PUT"
    assert ORIGIN not in ask(raw, "GET", bucket, "k").headers


def test_preflights(s3, raw, bucket):
    wanted = {"origin": "foo.suffix", "access_control_request_method": "GET"}
    reply = ask(raw, "OPTIONS", bucket, "k", **wanted)
    assert (reply.status, reply.code) == (403, "AccessForbidden")
    assert b"CORS is not enabled for this bucket" in reply.body
    put(s3, bucket, rule("*suffix", "GET", AllowedHeaders=["x-amz-meta-*"], MaxAgeSeconds=60), rule("*", "PUT"))
    assert ask(raw, "OPTIONS", bucket).code == "BadRequest"
    assert ask(raw, "OPTIONS", bucket, origin="foo.suffix").code == "BadRequest"
    assert ask(raw, "OPTIONS", bucket, origin="foo.suffix", access_control_request_method="BREW").code == "BadRequest"
    for key in ("", "k"):
        reply = ask(raw, "OPTIONS", bucket, key, **wanted)
        assert (reply.status, reply.headers[ORIGIN], reply.headers[METHODS], reply.body) == (200, "foo.suffix", "GET", b"")
        assert reply.headers["access-control-max-age"] == "60"
        assert "x-amz-request-id" in reply.headers
    reply = ask(raw, "OPTIONS", bucket, "k", **wanted, access_control_request_headers="X-Amz-Meta-A, x-amz-meta-b")
    assert reply.headers["access-control-allow-headers"] == "x-amz-meta-a, x-amz-meta-b"
    reply = ask(raw, "OPTIONS", bucket, "k", **wanted, access_control_request_headers="content-type")
    assert (reply.status, reply.code) == (403, "AccessForbidden")
    reply = ask(raw, "OPTIONS", bucket, "k", origin="other", access_control_request_method="PUT")
    assert reply.headers[ORIGIN] == "*"
    assert "access-control-allow-credentials" not in reply.headers
    assert ask(raw, "OPTIONS", bucket, "k", origin="other", access_control_request_method="DELETE").status == 403
    reply = ask(raw, "OPTIONS", f"{bucket}-none", "k", **wanted)
    assert (reply.status, reply.code) == (403, "AccessForbidden")
