"""A thin S3 client: SigV4 over http.client, one kept connection, no retries, no opinions.

For load: it costs a tenth of boto3's CPU, and says exactly what came back. A connection that breaks raises
`ConnectionError` (or `http.client.HTTPException`): the write's fate is unknown to the caller, as it should be.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import http.client
import socket
import urllib.parse
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass

from .server import ACCESS_KEY, REGION, SECRET_KEY

EMPTY_SHA256 = hashlib.sha256(b"").hexdigest()
NAMESPACE = "{http://s3.amazonaws.com/doc/2006-03-01/}"


class S3Failure(Exception):
    """An answer other than expected: status, S3 code, and the body for the report."""

    def __init__(self, what: str, status: int, code: str, body: bytes) -> None:
        super().__init__(f"{what}: {status} {code} {body[:300]!r}")
        self.status = status
        self.code = code


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def etag(self) -> str:
        return self.headers.get("etag", "")

    @property
    def code(self) -> str:
        if not self.body.startswith(b"<"):
            return ""
        found = ElementTree.fromstring(self.body).find("Code")
        return "" if found is None else (found.text or "")


class RawClient:
    """One connection to one endpoint. Not for use by two threads at once."""

    def __init__(self, host: str, port: int, timeout: float = 60.0) -> None:
        self.answered = 0
        # How far this client's clock is from the machine's.
        self.clock_s = 0
        self.host = host
        self.port = port
        self.timeout = timeout
        self._connection: http.client.HTTPConnection | None = None
        self._signing: tuple[str, bytes] = ("", b"")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    # --- one request -------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        bucket: str = "",
        key: str = "",
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        unsigned: bool = False,
        anonymous: bool = False,
    ) -> Reply:
        path = "/" + bucket + ("/" + urllib.parse.quote(key, safe="/-_.~") if key else "")
        pairs = sorted((query or {}).items())
        text = "&".join(f"{_quote(name)}={_quote(value)}" for name, value in pairs)
        if anonymous:
            signed = {name.lower(): value for name, value in (headers or {}).items()}
        else:
            signed = self.sign(method, path, text, headers or {}, body, "UNSIGNED-PAYLOAD" if unsigned else None)
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(self.host, self.port, timeout=self.timeout)
                self._connection.connect()
                self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connection.request(method, path + ("?" + text if text else ""), body=body or None, headers=signed)
            answer = self._connection.getresponse()
            data = answer.read()
        except Exception:
            self.close()
            raise
        self.answered += 1
        if answer.will_close:
            self.close()
        return Reply(answer.status, {name.lower(): value for name, value in answer.getheaders()}, data)

    def sign(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes, digest: str | None = None,
        with_length: bool = True,
    ) -> dict[str, str]:  # fmt: skip
        """All headers to send, signed; `digest` stands in for the payload's SHA-256."""
        now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=self.clock_s)
        now = now.strftime("%Y%m%dT%H%M%SZ")
        day = now[:8]
        digest = digest or (hashlib.sha256(body).hexdigest() if body else EMPTY_SHA256)
        every = {name.lower(): value for name, value in headers.items()}
        every |= {"host": f"{self.host}:{self.port}", "x-amz-date": now, "x-amz-content-sha256": digest}
        if method in ("PUT", "POST") and with_length:
            every["content-length"] = str(len(body))
        names = sorted(every)
        listed = ";".join(names)
        canonical = "\n".join(
            [method, path, query, *(f"{name}:{every[name].strip()}" for name in names), "", listed, digest]
        )
        scope = f"{day}/{REGION}/s3/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{now}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        if self._signing[0] != day:
            secret = ("AWS4" + SECRET_KEY).encode()
            for part in (day, REGION, "s3", "aws4_request"):
                secret = hmac.digest(secret, part.encode(), "sha256")
            self._signing = (day, secret)
        signature = hmac.new(self._signing[1], to_sign.encode(), "sha256").hexdigest()
        every["authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/{scope}, SignedHeaders={listed}, Signature={signature}"
        )
        return every

    # --- S3 ------------------------------------------------------------------------------------------------

    def put(self, bucket: str, key: str, body: bytes, **headers: str) -> Reply:
        return self.request("PUT", bucket, key, body=body, headers=_named(headers))

    def get(self, bucket: str, key: str, **headers: str) -> Reply:
        return self.request("GET", bucket, key, headers=_named(headers))

    def head(self, bucket: str, key: str) -> Reply:
        return self.request("HEAD", bucket, key)

    def delete(self, bucket: str, key: str, **headers: str) -> Reply:
        return self.request("DELETE", bucket, key, headers=_named(headers))

    def copy(self, bucket: str, source: str, key: str, **headers: str) -> Reply:
        named = _named(headers) | {"x-amz-copy-source": urllib.parse.quote(f"/{bucket}/{source}")}
        return self.request("PUT", bucket, key, headers=named)

    def delete_many(self, bucket: str, keys: list[str]) -> Reply:
        entries = "".join(f"<Object><Key>{key}</Key></Object>" for key in keys)
        body = f"<Delete>{entries}<Quiet>true</Quiet></Delete>".encode()
        md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
        return self.request("POST", bucket, query={"delete": ""}, body=body, headers={"content-md5": md5})

    def create_upload(self, bucket: str, key: str, **headers: str) -> str:
        reply = self.request("POST", bucket, key, query={"uploads": ""}, headers=_named(headers))
        if reply.status != 200:
            raise S3Failure(f"CreateMultipartUpload {key}", reply.status, reply.code, reply.body)
        return ElementTree.fromstring(reply.body).findtext(f"{NAMESPACE}UploadId") or ""

    def upload_part(self, bucket: str, key: str, upload: str, number: int, body: bytes) -> Reply:
        return self.request("PUT", bucket, key, query={"partNumber": str(number), "uploadId": upload}, body=body)

    def complete_upload(self, bucket: str, key: str, upload: str, etags: list[tuple[int, str]]) -> Reply:
        """The reply; an error that comes in the body of a 200 is given the status 500."""
        parts = "".join(f"<Part><PartNumber>{n}</PartNumber><ETag>{e}</ETag></Part>" for n, e in etags)
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        reply = self.request("POST", bucket, key, query={"uploadId": upload}, body=body)
        if reply.status == 200:
            root = ElementTree.fromstring(reply.body)
            if root.tag == "Error":
                return Reply(500, reply.headers, reply.body)
            reply.headers.setdefault("etag", root.findtext(f"{NAMESPACE}ETag") or "")
        return reply

    def abort_upload(self, bucket: str, key: str, upload: str) -> Reply:
        return self.request("DELETE", bucket, key, query={"uploadId": upload})

    def list_parts(self, bucket: str, key: str, upload: str) -> tuple[int, dict[int, tuple[str, int]]]:
        """Status, and number → (etag, size)."""
        reply = self.request("GET", bucket, key, query={"uploadId": upload})
        if reply.status != 200:
            return reply.status, {}
        root = ElementTree.fromstring(reply.body)
        return 200, {
            int(p.findtext(f"{NAMESPACE}PartNumber")): (
                p.findtext(f"{NAMESPACE}ETag"),
                int(p.findtext(f"{NAMESPACE}Size")),
            )
            for p in root.iter(f"{NAMESPACE}Part")
        }

    def list_all(self, bucket: str, prefix: str = "", page: int = 1000) -> dict[str, tuple[str, int]]:
        """Key → (etag, size), all pages of ListObjectsV2; the order and the absence of repeats are checked."""
        found: dict[str, tuple[str, int]] = {}
        token = None
        last = ""
        while True:
            query = {"list-type": "2", "prefix": prefix, "max-keys": str(page)}
            if token:
                query["continuation-token"] = token
            reply = self.request("GET", bucket, query=query)
            if reply.status != 200:
                raise S3Failure(f"ListObjectsV2 {prefix}", reply.status, reply.code, reply.body)
            root = ElementTree.fromstring(reply.body)
            for entry in root.iter(f"{NAMESPACE}Contents"):
                key = entry.findtext(f"{NAMESPACE}Key") or ""
                if key <= last:
                    raise AssertionError(f"listing out of order: {key!r} after {last!r}")
                last = key
                found[key] = (entry.findtext(f"{NAMESPACE}ETag") or "", int(entry.findtext(f"{NAMESPACE}Size") or -1))
            if root.findtext(f"{NAMESPACE}IsTruncated") != "true":
                return found
            token = root.findtext(f"{NAMESPACE}NextContinuationToken")
            if not token:
                raise AssertionError("IsTruncated without NextContinuationToken")


def _quote(text: str) -> str:
    return urllib.parse.quote(text, safe="-_.~")


def _named(headers: dict[str, str]) -> dict[str, str]:
    """Keyword arguments as header names: `if_match` → `if-match`."""
    return {name.replace("_", "-"): value for name, value in headers.items()}
