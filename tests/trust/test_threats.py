"""What docs/threat-model.md claims, tried from outside: each test is one attack that must come to nothing."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import http.client
import socket
import time
import urllib.error
import urllib.parse
import urllib.request

import botocore.auth
import botocore.awsrequest
import botocore.credentials
import pytest

from tests.harness import ACCESS_KEY, SECRET_KEY, Server, ServerFailed, boto3_client

CREDENTIALS = botocore.credentials.Credentials(ACCESS_KEY, SECRET_KEY)


@pytest.fixture(scope="module")
def server():
    env = {"GRANARY_S3_HEADER_TIMEOUT_MS": "1000", "GRANARY_S3_STALL_TIMEOUT_MS": "2000"}
    with Server(env=env) as running:
        running.start()
        s3 = boto3_client(running.endpoint)
        s3.create_bucket(Bucket="mine")
        s3.put_object(Bucket="mine", Key="secret", Body=b"secret")
        s3.put_object(Bucket="mine", Key="public/one", Body=b"one")
        yield running


def signed(method: str, url: str, body: bytes = b"", headers: dict[str, str] | None = None) -> dict[str, str]:
    request = botocore.awsrequest.AWSRequest(method=method, url=url, data=body, headers=headers or {})
    request.headers["x-amz-content-sha256"] = hashlib.sha256(body).hexdigest()
    botocore.auth.S3SigV4Auth(CREDENTIALS, "s3", "us-east-1").add_auth(request)
    return dict(request.headers)


def send(server: Server, method: str, path: str, headers: dict[str, str], body: bytes = b"") -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body=body, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def raw(server: Server, data: bytes, seconds: float = 20) -> bytes:
    with socket.create_connection(("127.0.0.1", server.port), seconds) as stream:
        stream.settimeout(seconds)
        stream.sendall(data)
        out = b""
        try:
            while chunk := stream.recv(65_536):
                out += chunk
        except (TimeoutError, ConnectionResetError):
            pass
        return out


def test_a_signed_request_is_good_for_what_it_says_only(server):
    url = f"{server.endpoint}/mine/public/one"
    headers = signed("GET", url)
    assert send(server, "GET", "/mine/public/one", headers)[0] == 200
    for method, path in [("GET", "/mine/secret"), ("DELETE", "/mine/public/one"), ("GET", "/mine/public/one?acl"), ("HEAD", "/mine/secret")]:
        assert send(server, method, path, headers)[0] == 403, (method, path)
    changed = headers | {"x-amz-date": "20200101T000000Z"}
    assert send(server, "GET", "/mine/public/one", changed)[0] in (400, 403)


def test_an_old_signature_is_refused(server):
    then = datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=20)
    stamp = then.strftime("%Y%m%dT%H%M%SZ")
    day, scope = stamp[:8], f"{stamp[:8]}/us-east-1/s3/aws4_request"
    host, empty = f"127.0.0.1:{server.port}", hashlib.sha256(b"").hexdigest()
    names = "host;x-amz-content-sha256;x-amz-date"
    canonical = f"GET\n/mine/public/one\n\nhost:{host}\nx-amz-content-sha256:{empty}\nx-amz-date:{stamp}\n\n{names}\n{empty}"
    to_sign = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = b"AWS4" + SECRET_KEY.encode()
    for part in (day, "us-east-1", "s3", "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(key, to_sign.encode(), hashlib.sha256).hexdigest()
    headers = {
        "x-amz-date": stamp, "x-amz-content-sha256": empty,
        "Authorization": f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={names}, Signature={signature}",
    }  # fmt: skip
    status, body = send(server, "GET", "/mine/public/one", headers)
    assert status == 403 and b"RequestTimeTooSkewed" in body, body


def test_a_presigned_url_cannot_be_widened(server):
    s3 = boto3_client(server.endpoint, signature="s3v4")
    url = s3.generate_presigned_url("get_object", Params={"Bucket": "mine", "Key": "public/one"}, ExpiresIn=60)
    assert urllib.request.urlopen(url).read() == b"one"
    split = urllib.parse.urlsplit(url)
    query = split.query

    def status(path: str = split.path, query: str = query, method: str = "GET") -> int:
        return send(server, method, f"{path}?{query}", {})[0]

    assert status() == 200
    assert status("/mine/secret") == 403
    assert status("/mine/public/../secret") == 403
    assert status("/mine/public%2Fone/../../secret") == 403
    assert status(query=query + "&versionId=null") == 403
    assert status(query="acl&" + query) == 403
    assert status(query=query.replace("X-Amz-Expires=60", "X-Amz-Expires=600000")) in (400, 403)
    assert status(query=query.replace("X-Amz-SignedHeaders=host", "X-Amz-SignedHeaders=")) in (400, 403)
    assert status(method="PUT") == 403 and status(method="DELETE") == 403
    # The same parameter twice: neither reading of it lets anything else through.
    assert status(query=query + "&X-Amz-Expires=600000") in (400, 403)


def test_header_and_query_signatures_do_not_mix(server):
    s3 = boto3_client(server.endpoint, signature="s3v4")
    query = urllib.parse.urlsplit(
        s3.generate_presigned_url("get_object", Params={"Bucket": "mine", "Key": "public/one"}, ExpiresIn=60)
    ).query
    # A presigned query for one object with a header for another, in either order of belief.
    headers = signed("GET", f"{server.endpoint}/mine/public/one")
    assert send(server, "GET", f"/mine/secret?{query}", headers)[0] in (400, 403)
    bad = headers | {"Authorization": headers["Authorization"][:-4] + "0000"}
    assert send(server, "GET", f"/mine/secret?{query}", bad)[0] in (400, 403)
    bad = {"Authorization": f"AWS {ACCESS_KEY}:AAAA"}
    assert send(server, "GET", f"/mine/secret?{query}", bad)[0] in (400, 403)


def test_a_body_that_is_not_what_was_signed_is_not_kept(server):
    s3 = boto3_client(server.endpoint)
    headers = signed("PUT", f"{server.endpoint}/mine/body", b"honest")
    status, _ = send(server, "PUT", "/mine/body", headers, b"forged")
    assert status in (400, 403)
    with pytest.raises(s3.exceptions.ClientError):
        s3.head_object(Bucket="mine", Key="body")


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /mine/secret HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET /mine/%00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /mine/a\x00b HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /" + b"a" * 600_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X-A: " + b"b" * 600_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(5000)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64,
    ],
)
def test_malformed_and_oversized_heads_are_refused_and_nothing_falls_over(server, head):
    answer = raw(server, head)
    first = answer.split(b"\r\n")[0]
    assert first == b"" or first.split(b" ")[1][:1] in (b"4", b"5"), answer[:200]
    assert b"secret" not in answer.lower().replace(b"secret access key", b"") or first.split(b" ")[1] != b"200"
    assert answer.count(b"HTTP/1.1 200") == 0
    assert boto3_client(server.endpoint).head_object(Bucket="mine", Key="secret")["ContentLength"] == 6


def test_oversized_documents_are_refused(server):
    body = b"<Delete>" + b"<Object><Key>k</Key></Object>" * 400_000 + b"</Delete>"
    url = f"{server.endpoint}/mine?delete="
    status, answer = send(server, "POST", "/mine?delete=", signed("POST", url, body), body)
    assert status in (400, 413), (status, answer[:300])
    bomb = b'<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]><Delete><Object><Key>&b;</Key></Object></Delete>'
    status, answer = send(server, "POST", "/mine?delete=", signed("POST", url, bomb), bomb)
    assert status == 400 or b"aaaaaaaaaaaaaaaaaaaa" not in answer
    status, _ = send(server, "PUT", "/mine/" + "k" * 2000, signed("PUT", f"{server.endpoint}/mine/" + "k" * 2000, b""))
    assert status == 400


def test_slow_clients_are_cut(server):
    # Headers that dribble.
    with socket.create_connection(("127.0.0.1", server.port), 30) as stream:
        stream.settimeout(0.2)
        stream.sendall(b"GET / HTTP/1.1\r\n")
        deadline = time.monotonic() + 30
        while True:
            try:
                stream.sendall(b"X")
                if stream.recv(1) == b"":
                    break
            except TimeoutError:
                pass
            except (BrokenPipeError, ConnectionResetError):
                break
            assert time.monotonic() < deadline, "still there"
    # A body that stops.
    headers = signed("PUT", f"{server.endpoint}/mine/slow", b"x" * 1000)
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    data = f"PUT /mine/slow HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: 1000\r\n{head}\r\nxxx"
    began = time.monotonic()
    raw(server, data.encode(), 30)
    assert time.monotonic() - began < 29, "the connection was closed by the server"


def test_the_admin_port_gives_strangers_health_and_figures_only(server):
    for path in ("/health/live", "/health/ready", "/metrics"):
        assert server.admin_get(path)[0] == 200
    text = server.admin_get("/metrics")[1]
    # Buckets and runs are named there (docs/threat-model.md); keys of objects and credentials are not.
    assert ACCESS_KEY not in text and SECRET_KEY not in text and "mine/" not in text
    for path in ("/admin/v1/status", "/admin/v1/drives", "/admin/v1/heal", "/admin/v1/audit/public-key", "/", "/debug"):
        assert server.admin_get(path)[0] == 403, path
    # S3 signatures are no admin signatures.
    headers = signed("GET", f"{server.admin}/admin/v1/status")
    request = urllib.request.Request(server.admin + "/admin/v1/status", headers=headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    assert refused.value.code == 403


def test_metrics_may_ask_for_a_token(tmp_path):
    token, file = "0123456789abcdef" * 4, tmp_path / "token"
    file.write_text(token + "\n")
    file.chmod(0o644)
    env = {"GRANARY_ADMIN_METRICS_TOKEN_FILE": str(file)}
    with Server(env=env) as server:
        with pytest.raises(ServerFailed, match="chmod 600"):
            server.start()
    file.chmod(0o600)
    with Server(env=env) as server:
        server.start()

        def scrape(authorization: str | None) -> int:
            headers = {"Authorization": authorization} if authorization else {}
            try:
                with urllib.request.urlopen(urllib.request.Request(server.admin + "/metrics", headers=headers)) as answer:
                    assert b"granary_" in answer.read()
                    return answer.status
            except urllib.error.HTTPError as error:
                assert b"granary_" not in error.read() and error.headers["WWW-Authenticate"] == "Bearer"
                return error.code

        assert scrape(f"Bearer {token}") == 200
        for wrong in (None, token, f"Bearer {token[:-1]}", f"Bearer {token}0", f"Basic {token}"):
            assert scrape(wrong) == 401, wrong
        assert server.admin_get("/health/ready")[0] == 200
        assert token not in server.log()


def test_no_secret_in_logs_however_chatty():
    env = {"GRANARY_LOG_FILTER": "trace"}
    with Server(env=env) as chatty:
        chatty.start()
        s3 = boto3_client(chatty.endpoint, signature="s3v4")
        s3.put_object(Bucket="processed", Key="k", Body=b"HUSH-payload", Metadata={"note": "HUSH-metadata"})
        url = s3.generate_presigned_url("get_object", Params={"Bucket": "processed", "Key": "k"})
        urllib.request.urlopen(url).read()
        headers = signed("GET", f"{chatty.endpoint}/processed/k")
        send(chatty, "GET", "/processed/k", headers | {"Authorization": headers["Authorization"][:-4] + "0000"})
        chatty.cli("status")
        chatty.stop()
        log = chatty.log()
        signature = url.split("X-Amz-Signature=")[1].split("&")[0]
        for secret in (SECRET_KEY, signature, headers["Authorization"].split("Signature=")[1], "HUSH-payload"):
            assert secret not in log, secret[:12]
