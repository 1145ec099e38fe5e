"""CreateSession and what SDKs send to directory buckets (`NAME--ZONE--x-s3`): session credentials, the service `s3express`, requests
in every form of payload, and what such a session may not do."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import http.client
import urllib.parse
import xml.etree.ElementTree as ElementTree

import boto3
import pytest
from botocore.auth import S3ExpressAuth, S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

from tests.access.people import allow, client, granary, put_policy, user
from tests.harness import REGION, boto3_client
from tests.harness.failure import failure
from tests.harness.server import ACCESS_KEY, SECRET_KEY
from tests.harness import web

ZONE = "use1-az4"
DIRECTORY = {"Location": {"Type": "AvailabilityZone", "Name": ZONE}, "Bucket": {"Type": "Directory", "DataRedundancy": "SingleAvailabilityZone"}}


@pytest.fixture
def directory(s3, bucket_name):
    name = f"{bucket_name[:40].rstrip('-')}--{ZONE}--x-s3"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration=DIRECTORY)
    return name


def with_session(server, session):
    """A client that signs as for any bucket, with a session's credentials."""
    keys = session["Credentials"]
    return client(server, keys)


def express(server, credentials, method, path, query="", body=b"", headers=None):
    """One request that is signed for `s3express` by botocore's own signer."""
    url = f"{server.endpoint}{path}" + (f"?{query}" if query else "")
    request = AWSRequest(method=method, url=url, data=body, headers=headers or {})
    keys = Credentials(credentials["AccessKeyId"], credentials["SecretAccessKey"], credentials.get("SessionToken"))
    if keys.token:
        S3ExpressAuth(keys, "s3express", REGION, identity_cache=None).add_auth(request)
    else:
        S3SigV4Auth(keys, "s3express", REGION).add_auth(request)
    prepared = request.prepare()
    return web.request(method, prepared.url, body or None, dict(prepared.headers.items()))


def code(reply):
    return ElementTree.fromstring(reply.body).findtext("Code") if reply.body.startswith(b"<") else ""


ROOT = {"AccessKeyId": ACCESS_KEY, "SecretAccessKey": SECRET_KEY}


def test_boto3_uses_sessions_by_itself(s3, directory, server):
    sent = []
    s3.meta.events.register("before-send.s3", lambda request, **_: sent.append((request.url, dict(request.headers))))
    s3.put_object(Bucket=directory, Key="dir/a b+ü", Body=b"bytes" * 1000)
    assert s3.get_object(Bucket=directory, Key="dir/a b+ü")["Body"].read() == b"bytes" * 1000
    signed = [headers for _, headers in sent if b"/s3express/aws4_request" in headers["Authorization"]]
    assert len(signed) == len(sent) and all("x-amz-s3session-token" in {name.lower() for name in headers} for headers in signed[-2:])
    s3.copy_object(Bucket=directory, Key="copy", CopySource={"Bucket": directory, "Key": "dir/a b+ü"})
    listed = s3.list_objects_v2(Bucket=directory)
    assert [entry["Key"] for entry in listed["Contents"]] == ["copy", "dir/a b+ü"]
    upload = s3.create_multipart_upload(Bucket=directory, Key="parts")["UploadId"]
    part = s3.upload_part(Bucket=directory, Key="parts", UploadId=upload, PartNumber=1, Body=b"p" * 100)
    s3.complete_multipart_upload(
        Bucket=directory, Key="parts", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    )
    head = s3.head_bucket(Bucket=directory)
    assert (head["BucketLocationName"], head["BucketLocationType"]) == (ZONE, "AvailabilityZone")
    s3.put_object(Bucket=directory, Key="log", Body=b"one", WriteOffsetBytes=0)
    s3.put_object(Bucket=directory, Key="log", Body=b"two", WriteOffsetBytes=3)
    s3.rename_object(Bucket=directory, Key="log2", RenameSource="log")
    assert s3.get_object(Bucket=directory, Key="log2")["Body"].read() == b"onetwo"
    s3.delete_objects(Bucket=directory, Delete={"Objects": [{"Key": key} for key in ("copy", "dir/a b+ü", "parts", "log2")]})
    assert directory in [bucket["Name"] for bucket in s3.list_directory_buckets()["Buckets"]]
    s3.delete_bucket(Bucket=directory)
    assert directory not in [bucket["Name"] for bucket in s3.list_directory_buckets()["Buckets"]]


def test_without_session_authentication(server, directory):
    """SDKs can be told to sign for `s3express` with the keys themselves."""
    made = boto3_client(server.endpoint)
    made.put_object(Bucket=directory, Key="k", Body=b"x")
    reply = express(server, ROOT, "GET", f"/{directory}/k")
    assert (reply.status, reply.body) == (200, b"x")


def test_presigned_urls(server, s3, directory):
    s3.put_object(Bucket=directory, Key="a/b c", Body=b"x")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": directory, "Key": "a/b c"})
    assert "s3express" in url and "X-Amz-S3session-Token" in url
    assert web.request("GET", url).body == b"x"
    put = s3.generate_presigned_url("put_object", Params={"Bucket": directory, "Key": "new"})
    assert web.request("PUT", put, b"y").status == 200
    assert s3.get_object(Bucket=directory, Key="new")["Body"].read() == b"y"
    changed = url.replace("/a/b%20c", "/new")
    reply = web.request("GET", changed)
    assert (reply.status, code(reply)) == (403, "SignatureDoesNotMatch")
    reply = web.request("GET", url.replace("X-Amz-Expires=3600", "X-Amz-Expires=360000"))
    assert (reply.status, code(reply)) == (403, "SignatureDoesNotMatch")


def test_any_bucket_has_sessions(server, s3, bucket):
    answer = s3.create_session(Bucket=bucket)
    left = answer["Credentials"]["Expiration"] - datetime.datetime.now(datetime.timezone.utc)
    assert datetime.timedelta(0) < left <= datetime.timedelta(minutes=5, seconds=1)
    own = with_session(server, answer)
    own.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert own.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    # For this bucket, and nothing else.
    s3.create_bucket(Bucket=bucket[:50] + "-2")
    assert failure(own.list_objects_v2, Bucket=bucket[:50] + "-2") == (403, "AccessDenied")
    assert failure(own.put_object, Bucket=bucket[:50] + "-2", Key="k", Body=b"x") == (403, "AccessDenied")
    assert failure(own.copy_object, Bucket=bucket, Key="c", CopySource=f"{bucket[:50]}-2/k") == (403, "AccessDenied")
    assert failure(own.list_buckets) == (403, "AccessDenied")
    assert failure(own.create_session, Bucket=bucket) == (403, "AccessDenied")


def test_read_only(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    own = with_session(server, s3.create_session(Bucket=bucket, SessionMode="ReadOnly"))
    assert own.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    own.head_object(Bucket=bucket, Key="k")
    own.list_objects_v2(Bucket=bucket)
    own.get_object_attributes(Bucket=bucket, Key="k", ObjectAttributes=["ETag"])
    for call, more in [
        (own.put_object, {"Key": "k", "Body": b"y"}),
        (own.delete_object, {"Key": "k"}),
        (own.create_multipart_upload, {"Key": "k"}),
        (own.delete_bucket, {}),
        (own.get_bucket_policy, {}),
    ]:
        assert failure(call, Bucket=bucket, **more) == (403, "AccessDenied"), call
    assert failure(s3.create_session, Bucket=bucket, SessionMode="WriteOnly") == (400, "InvalidArgument")


def test_a_session_is_worth_what_its_maker_is(server, s3, bucket):
    """Whoever asks needs `s3:CreateSession`; what it may not do, its session may not."""
    name = put_policy(server, f"sessions-{bucket[-12:]}", allow(["s3:CreateSession", "s3:GetObject"], [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]))
    who, key = user(server, name)
    other = client(server, key)
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    own = with_session(server, other.create_session(Bucket=bucket))
    assert own.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    assert failure(own.put_object, Bucket=bucket, Key="k", Body=b"y") == (403, "AccessDenied")
    _, bare = user(server)
    assert failure(client(server, bare).create_session, Bucket=bucket) == (403, "AccessDenied")
    assert failure(client(server, None).create_session, Bucket=bucket) == (403, "AccessDenied")
    assert failure(s3.create_session, Bucket=bucket[:50] + "-none") == (404, "NoSuchBucket")
    # It ends with the key that it was asked for with.
    granary(server, "key", "disable", key["access_key"])
    assert failure(own.get_object, Bucket=bucket, Key="k")[1] in ("InvalidAccessKeyId", "InvalidToken")


def test_temporary_credentials_have_sessions_too(server, s3, bucket):
    sts = client(server, {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}, service="sts")
    temporary = client(server, sts.get_session_token()["Credentials"])
    own = with_session(server, temporary.create_session(Bucket=bucket))
    own.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert failure(own.create_session, Bucket=bucket) == (403, "AccessDenied")


def test_encryption_of_a_session(s3, bucket):
    s3.create_session(Bucket=bucket, ServerSideEncryption="AES256")
    assert failure(s3.create_session, Bucket=bucket, ServerSideEncryption="aws:kms", SSEKMSKeyId="k") == (501, "NotImplemented")


def test_what_is_wrong(server, s3, directory):
    session = s3.create_session(Bucket=directory)["Credentials"]
    s3.put_object(Bucket=directory, Key="k", Body=b"x")
    assert express(server, session, "GET", f"/{directory}/k").status == 200

    def get(**change):
        reply = express(server, session | change, "GET", f"/{directory}/k")
        return reply.status, code(reply)
    assert get(SecretAccessKey="wrong" * 8) == (403, "SignatureDoesNotMatch")
    assert get(SessionToken="AAAA" + session["SessionToken"][4:])[1] in ("InvalidToken", "AccessDenied")
    assert get(AccessKeyId="ASIA" + "A" * 20)[0] == 403
    assert get(AccessKeyId="nobody")[1] == "InvalidAccessKeyId"
    # The token of one session is nothing to another's keys.
    second = s3.create_session(Bucket=directory)["Credentials"]
    assert get(SessionToken=second["SessionToken"])[1] in ("InvalidToken", "AccessDenied")
    for configuration in (
        {**DIRECTORY, "LocationConstraint": "us-east-1"},
        {"Location": {"Type": "AvailabilityZone", "Name": "other"}, "Bucket": {"Type": "Directory", "DataRedundancy": "SingleAvailabilityZone"}},
    ):
        status, name = failure(s3.create_bucket, Bucket=f"other--{ZONE}--x-s3", CreateBucketConfiguration=configuration)
        assert (status, name) in ((400, "InvalidArgument"), (400, "InvalidBucketName"))


# --- bodies in signed chunks, as the Java SDK sends them over plain HTTP --------------------------------------


def chunked(session, directory, key, chunks, *, trailer=None, spoil=None):
    """The wire form of a PUT with a signature per chunk, for `s3express`."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{now[:8]}/{REGION}/s3express/aws4_request"
    secret = ("AWS4" + session["SecretAccessKey"]).encode()
    for part in (now[:8], REGION, "s3express", "aws4_request"):
        secret = hmac.digest(secret, part.encode(), "sha256")
    sign = lambda text: hmac.digest(secret, text.encode(), "sha256").hex()
    sha = lambda data: hashlib.sha256(data).hexdigest()
    kind = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD" + ("-TRAILER" if trailer else "")
    path = "/" + urllib.parse.quote(f"{directory}/{key}")
    body = b"".join(chunks)
    headers = {
        "content-encoding": "aws-chunked",
        "host": "h",
        "x-amz-content-sha256": kind,
        "x-amz-date": now,
        "x-amz-decoded-content-length": str(len(body)),
        "x-amz-s3session-token": session["SessionToken"],
    }
    if trailer:
        headers["x-amz-trailer"] = trailer[0]
    names = sorted(headers)
    canonical = "\n".join(["PUT", path, "", *[f"{name}:{headers[name]}" for name in names], "", ";".join(names), kind])
    before = sign(f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{sha(canonical.encode())}")
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={session['AccessKeyId']}/{scope}, SignedHeaders={';'.join(names)}, Signature={before}"
    )
    wire = b""
    for number, chunk in enumerate([*chunks, b""]):
        before = sign(f"AWS4-HMAC-SHA256-PAYLOAD\n{now}\n{scope}\n{before}\n{sha(b'')}\n{sha(chunk)}")
        shown = before if spoil != number else before[::-1]
        wire += f"{len(chunk):x};chunk-signature={shown}\r\n".encode() + chunk + (b"\r\n" if chunk else b"")
    if trailer:
        line = f"{trailer[0]}:{trailer[1]}\n"
        last = sign(f"AWS4-HMAC-SHA256-TRAILER\n{now}\n{scope}\n{before}\n{sha(line.encode())}")
        last = last if spoil != "trailer" else last[::-1]
        wire += f"{trailer[0]}:{trailer[1]}\r\nx-amz-trailer-signature:{last}\r\n".encode()
    return path, headers, wire + b"\r\n"


def put_chunked(server, path, headers, wire):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("PUT", path, body=wire, headers=headers | {"content-length": str(len(wire))})
    reply = connection.getresponse()
    text = reply.read()
    connection.close()
    found = ElementTree.fromstring(text).findtext("Code") if text.startswith(b"<") else ""
    return reply.status, found


@pytest.mark.parametrize("chunks", [[b"x"], [b"a" * 65536, b"b" * 65536, b"tail"], []], ids=["one", "three", "empty"])
def test_signed_chunks(server, s3, directory, chunks):
    session = s3.create_session(Bucket=directory)["Credentials"]
    assert put_chunked(server, *chunked(session, directory, "k ü", chunks)) == (200, "")
    assert s3.get_object(Bucket=directory, Key="k ü")["Body"].read() == b"".join(chunks)
    sum_ = base64.b64encode(hashlib.sha256(b"".join(chunks)).digest()).decode()
    assert put_chunked(server, *chunked(session, directory, "t", chunks, trailer=("x-amz-checksum-sha256", sum_))) == (200, "")
    assert s3.head_object(Bucket=directory, Key="t", ChecksumMode="ENABLED")["ChecksumSHA256"] == sum_


def test_signed_chunks_that_are_wrong(server, s3, directory):
    session = s3.create_session(Bucket=directory)["Credentials"]
    chunks = [b"a" * 65536, b"b" * 100]
    for spoil in (0, 1, 2):
        assert put_chunked(server, *chunked(session, directory, "bad", chunks, spoil=spoil))[0] == 403, spoil
    trailer = ("x-amz-checksum-sha256", base64.b64encode(hashlib.sha256(b"".join(chunks)).digest()).decode())
    assert put_chunked(server, *chunked(session, directory, "bad", chunks, trailer=trailer, spoil="trailer"))[0] == 403
    path, headers, wire = chunked(session, directory, "bad", chunks)
    assert put_chunked(server, path, headers, wire.replace(b"b" * 100, b"c" * 100))[0] == 403
    with pytest.raises(ClientError):
        s3.head_object(Bucket=directory, Key="bad")


def test_virtual_hosts(s3, directory, server):
    """SDKs put directory buckets into the host wherever the endpoint is a name."""
    config = Config(retries={"total_max_attempts": 1})
    named = boto3.session.Session().client(
        "s3", endpoint_url=f"http://localhost:{server.port}", aws_access_key_id=ACCESS_KEY, aws_secret_access_key=SECRET_KEY,
        region_name=REGION, config=config,
    )  # fmt: skip
    try:
        named.put_object(Bucket=directory, Key="k", Body=b"x")
    except Exception as error:  # noqa: BLE001
        pytest.skip(f"no names under localhost here: {error}")
    assert s3.get_object(Bucket=directory, Key="k")["Body"].read() == b"x"
