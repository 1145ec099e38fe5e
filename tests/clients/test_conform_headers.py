"""Headers that are wrong, missing or strange: which of them S3 refuses, and with which code."""

from __future__ import annotations

import base64
import datetime
import email.utils
import hashlib
import hmac
import http.client
import socket
import xml.etree.ElementTree as ElementTree

import pytest

from tests.harness import ACCESS_KEY, SECRET_KEY

PAST, FUTURE = "Tue, 07 Jul 2010 21:53:04 GMT", "Tue, 07 Jul 2040 21:53:04 GMT"


def exchange(port: int, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, str]:
    """Sends exactly these headers; status and S3 code of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    code = ElementTree.fromstring(text).findtext("Code") if text.startswith(b"<") and answer.status >= 300 else ""
    return answer.status, code or ""


def v4(raw, bucket: str, change: dict[str, str | None], sign: dict[str, str] | None = None, body: bytes = b"bar") -> tuple[int, str]:
    """A PUT that is signed and then changed: `None` takes a header away."""
    path = f"/{bucket}/foo"
    # The length is not among what is signed, as SDKs have it.
    headers = raw.sign("PUT", path, "", sign or {}, body, with_length=False) | {"content-length": str(len(body))}
    for name, value in change.items():
        headers.pop(name, None)
        if value is not None:
            headers[name] = value
    return exchange(raw.port, "PUT", path, headers, body)


def v2(
    port: int, bucket: str, headers: dict[str, str], body: bytes = b"bar", more: dict[str, str | None] | None = None, key: str = "/foo"
) -> tuple[int, str]:
    """A PUT signed in the old way over its dates, then changed."""
    path = f"/{bucket}{key}"
    amz = "".join(f"{name}:{value}\n" for name, value in sorted(headers.items()) if name.startswith("x-amz-"))
    date = "" if "x-amz-date" in headers else headers.get("date", "")
    # Of a bucket boto3 signs `/bucket/` and asks for `/bucket`.
    to_sign = f"PUT\n{headers.get('content-md5', '')}\n\n{date}\n{amz}{path if key else path + '/'}"
    signature = base64.b64encode(hmac.digest(SECRET_KEY.encode(), to_sign.encode(), "sha1")).decode()
    every: dict[str, str] = {"host": f"127.0.0.1:{port}", "content-length": str(len(body))}
    every |= headers | {"authorization": f"AWS {ACCESS_KEY}:{signature}"}
    for name, value in (more or {}).items():
        every.pop(name, None)
        if value is not None:
            every[name] = value
    return exchange(port, "PUT", path, every, body)


SKEWED = {(403, "RequestTimeTooSkewed"), (403, "SignatureDoesNotMatch")}
DATELESS = {(403, "AccessDenied"), (403, "SignatureDoesNotMatch")}


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"authorization": ""}, {(403, "AccessDenied")}),
        ({"authorization": None}, {(403, "AccessDenied")}),
        ({"authorization": "AWS HAHAHA"}, {(400, "InvalidArgument")}),
        ({"authorization": "AWS4 HAHAHA"}, {(400, "InvalidArgument")}),
        ({"authorization": "AWS4-HMAC-SHA256 Credential=HAHAHA"}, {(400, "AuthorizationHeaderMalformed")}),
        ({"authorization": "AWS AKIAIGR7ZNNBHC5BKSUB:FWeDfwojDSdS2Ztmpfeubhd9isU=", "date": "now", "x-amz-date": None}, {(403, "InvalidAccessKeyId")}),
        ({"x-amz-date": "Bad Date"}, DATELESS),
        ({"x-amz-date": ""}, DATELESS),
        ({"x-amz-date": None}, DATELESS),
        ({"x-amz-date": "20100707T215304Z"}, SKEWED),
        ({"x-amz-date": "20300707T215304Z"}, SKEWED),
        ({"x-amz-date": "19500707T215304Z"}, SKEWED),
        ({"x-amz-date": "99990707T215304Z"}, SKEWED),
        ({"date": "Bad Date"}, {(200, "")}),
        ({"date": ""}, {(200, "")}),
        ({"date": PAST}, {(200, "")}),
        ({"date": FUTURE}, {(200, "")}),
        ({"content-md5": "YWJyYWNhZGFicmE="}, {(400, "InvalidDigest")}),
        ({"content-md5": "AWS HAHAHA"}, {(400, "InvalidDigest")}),
        ({"content-md5": ""}, {(400, "InvalidDigest")}),
        ({"content-md5": "rL0Y20xC+Fzt72VPzMSk2A=="}, {(400, "BadDigest")}),
        ({"content-type": "text/plain"}, {(200, "")}),
        ({"content-type": ""}, {(200, "")}),
        ({"content-type": "nonsense"}, {(200, "")}),
        ({"expect": "200"}, {(200, "")}),
        ({"expect": ""}, {(200, "")}),
        ({"user-agent": ""}, {(200, "")}),
        ({"content-length": "-1"}, {(400, "")}),
        ({"content-length": ""}, {(400, "")}),
        ({"content-length": None}, {(411, "MissingContentLength")}),
        ({"content-length": "2"}, {(400, "XAmzContentSHA256Mismatch")}),
        ({"x-amz-content-sha256": "0" * 64}, {(403, "SignatureDoesNotMatch")}),
        ({"x-amz-acl": "public-ready"}, {(400, "InvalidArgument"), (400, "AccessControlListNotSupported")}),
        ({"x-amz-storage-class": "FAST"}, {(400, "InvalidStorageClass")}),
        ({"x-amz-meta-bad": "h\x04w"}, {(400, "")}),
    ],
)
def test_changed_after_signing(raw, bucket, change, allowed):
    if change.get("date") == "now":
        change = change | {"date": email.utils.formatdate(usegmt=True)}
    # Without a length there is no body: what came would be another request.
    body = b"" if "content-length" in change and not change["content-length"] else b"bar"
    if change.get("content-length") == "-1":
        body = b""
    assert v4(raw, bucket, change, body=body) in allowed


def test_a_signed_header_that_does_not_come(raw, bucket):
    assert v4(raw, bucket, {"x-amz-foo": None}, sign={"x-amz-foo": "bar"}) == (403, "SignatureDoesNotMatch")
    assert v4(raw, bucket, {"user-agent": ""}, sign={"user-agent": "me"}) == (403, "SignatureDoesNotMatch")


def test_a_signature_over_date_alone(raw, bucket):
    """`Date` stands for `x-amz-date` where only it is sent, and is not taken for another instant."""
    headers = raw.sign("PUT", f"/{bucket}/foo", "", {}, b"bar")
    stamp = datetime.datetime.strptime(headers.pop("x-amz-date"), "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    for shift, answer in ((0, (200, "")), (1, (403, "SignatureDoesNotMatch"))):
        date = email.utils.format_datetime(stamp + datetime.timedelta(seconds=shift), usegmt=True)
        assert exchange(raw.port, "PUT", f"/{bucket}/foo", headers | {"date": date}, b"bar") == answer


def test_old_signatures(raw, bucket):
    now = email.utils.formatdate(usegmt=True)
    assert v2(raw.port, bucket, {"date": now}) == (200, "")
    assert v2(raw.port, bucket, {"x-amz-date": now}) == (200, "")
    assert v2(raw.port, bucket, {"x-amz-date": now, "date": now}) == (200, "")
    for date, answer in [
        ("Bad Date", (403, "AccessDenied")),
        ("", (403, "AccessDenied")),
        (PAST, (403, "RequestTimeTooSkewed")),
        (FUTURE, (403, "RequestTimeTooSkewed")),
        ("Tue, 07 Jul 1950 21:53:04 GMT", (403, "AccessDenied")),
        ("Wed, 07 Jul 9999 21:53:04 GMT", (403, "RequestTimeTooSkewed")),
        ("Tue, 07 Jul 9999 21:53:04 GMT", (403, "RequestTimeTooSkewed")),
    ]:
        assert v2(raw.port, bucket, {"x-amz-date": date}) == answer, date
    assert v2(raw.port, bucket, {}) == (403, "AccessDenied")
    assert v2(raw.port, bucket, {"date": now, "content-md5": "AWS HAHAHA"}) == (400, "InvalidDigest")
    md5 = base64.b64encode(hashlib.md5(b"bar").digest()).decode()
    assert v2(raw.port, bucket, {"date": now, "content-md5": md5}) == (200, "")
    assert v2(raw.port, bucket, {"date": now, "content-md5": md5}, body=b"ba") == (400, "BadDigest")
    assert v2(raw.port, bucket, {"date": now}, more={"authorization": "AWS HAHAHA"}) == (400, "InvalidArgument")


def test_creating_a_bucket_without_a_length(raw, bucket_name):
    now = {"date": email.utils.formatdate(usegmt=True)}
    assert v2(raw.port, bucket_name, now, b"", more={"content-length": None}, key="") == (200, "")
    assert v2(raw.port, bucket_name, now, b"", more={"content-length": "-1"}, key="")[0] == 400
    assert v2(raw.port, bucket_name, now, b"", more={"expect": "200"}, key="") == (200, "")


def expecting(port: int, path: str, headers: dict[str, str]) -> socket.socket:
    """Sends a head that asks whether the body may come."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=30)
    lines = [f"PUT {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "expect: 100-continue"]
    connection.sendall("\r\n".join([*lines, "", ""]).encode())
    return connection


def test_expect_continue(raw, bucket):
    headers = raw.sign("PUT", f"/{bucket}/k", "", {}, b"bar")
    with expecting(raw.port, f"/{bucket}/k", headers) as connection:
        assert connection.recv(1024).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"bar")
        assert connection.recv(1024).startswith(b"HTTP/1.1 200 ")
    anonymous = {name: value for name, value in headers.items() if name in ("host", "content-length")}
    with expecting(raw.port, f"/{bucket}/k", anonymous) as connection:
        assert connection.recv(1024).startswith(b"HTTP/1.1 403 ")
    gone = raw.sign("PUT", f"/{bucket}-gone/k", "", {}, b"bar")
    with expecting(raw.port, f"/{bucket}-gone/k", gone) as connection:
        assert connection.recv(1024).startswith(b"HTTP/1.1 404 ")


def test_a_body_that_stops_short_leaves_nothing(raw, bucket):
    headers = raw.sign("PUT", f"/{bucket}/short", "", {}, b"bars")
    with socket.create_connection(("127.0.0.1", raw.port), timeout=30) as connection:
        lines = [f"PUT /{bucket}/short HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        connection.sendall("\r\n".join([*lines, "", "bar"]).encode())
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(1024)
        assert not answer.startswith(b"HTTP/1.1 200"), answer
    assert raw.head(bucket, "short").status == 404


def test_pipelined_requests_are_answered_in_order(raw, bucket):
    requests = b""
    for number in range(5):
        headers = raw.sign("PUT", f"/{bucket}/p{number}", "", {}, b"x" * number)
        lines = [f"PUT /{bucket}/p{number} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
        requests += "\r\n".join(lines).encode() + b"x" * number
    with socket.create_connection(("127.0.0.1", raw.port), timeout=30) as connection:
        connection.sendall(requests)
        answers = b""
        while answers.count(b"HTTP/1.1 200 OK") < 5:
            more = connection.recv(65536)
            assert more, answers
            answers += more
    assert sorted(raw.list_all(bucket)) == [f"p{number}" for number in range(5)]


def test_errors_are_whole_documents(raw, bucket):
    for reply in (raw.get(bucket, "a<b"), raw.request("GET", bucket, query={"max-keys": "x"}), raw.request("PUT", "A")):
        root = ElementTree.fromstring(reply.body)
        assert root.tag == "Error" and reply.headers["content-type"] == "application/xml"
        for name in ("Code", "Message", "Resource", "RequestId", "HostId"):
            assert root.findtext(name), name
        assert root.findtext("RequestId") == reply.headers["x-amz-request-id"]


def test_a_refused_sender_is_told_that_the_connection_ends(raw, bucket):
    """Who asks before it sends and is refused never sends: its next request must not go down a connection that is about to close."""
    connection = http.client.HTTPConnection("127.0.0.1", raw.port, timeout=30)
    connection.putrequest("PUT", f"/{bucket}/foo")
    connection.putheader("Expect", "100-continue")
    connection.putheader("Content-Length", "700000")
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 403 and answer.headers["Connection"] == "close"
    connection.close()
    # Without asking, the connection stays.
    connection = http.client.HTTPConnection("127.0.0.1", raw.port, timeout=30)
    for _ in range(2):
        connection.request("PUT", f"/{bucket}/foo", body=b"x" * 700_000)
        answer = connection.getresponse()
        assert answer.status == 403 and answer.headers.get("Connection") != "close" and answer.read()
    connection.close()
