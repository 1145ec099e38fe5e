"""Signed requests to Granary's own endpoints: botocore's signer and a plain connection, nothing else."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import tarfile
import urllib.parse
from dataclasses import dataclass, field

from botocore.auth import S3SigV4Auth, S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from .server import ACCESS_KEY, REGION, SECRET_KEY


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    cut: bool = False

    def json(self):
        return json.loads(self.body)

    @property
    def code(self) -> str:
        start, end = self.body.find(b"<Code>"), self.body.find(b"</Code>")
        return self.body[start + 6 : end].decode() if start >= 0 else ""


@dataclass
class Signed:
    """Requests with the root keys (or others) to one endpoint; each on a connection of its own."""

    endpoint: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    extra: dict[str, str] = field(default_factory=dict)

    def url(self, path: str, query: dict[str, str]) -> str:
        text = urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
        return f"{self.endpoint}{urllib.parse.quote(path)}" + (f"?{text}" if text else "")

    def presigned(self, path: str, seconds: int = 600, **query: str) -> str:
        request = AWSRequest("GET", self.url(path, query))
        S3SigV4QueryAuth(Credentials(self.access_key, self.secret_key), "s3", REGION, seconds).add_auth(request)
        return request.url

    def __call__(self, method: str, path: str, query: dict[str, str] | None = None, body: bytes = b"",
                 headers: dict[str, str] | None = None, signed: bool = True) -> Answer:  # fmt: skip
        url = self.url(path, query or {})
        request = AWSRequest(method, url, data=body, headers=dict(headers or {}))
        request.headers["X-Amz-Content-SHA256"] = hashlib.sha256(body).hexdigest()
        if signed:
            S3SigV4Auth(Credentials(self.access_key, self.secret_key), "s3", REGION).add_auth(request)
        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        try:
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request(method, target, body=body or None, headers=dict(request.headers.items()))
            reply = connection.getresponse()
            names = {name.lower(): value for name, value in reply.getheaders()}
            try:
                return Answer(reply.status, names, reply.read())
            except http.client.IncompleteRead as cut:
                return Answer(reply.status, names, cut.partial, cut=True)
        finally:
            connection.close()

    def batch(self, bucket: str, items: list[dict], **more: object) -> Answer:
        return self("POST", f"/{bucket}", {"granary-batch": ""}, json.dumps({"items": items, **more}).encode())


def entries(body: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The entries of a batch's tar file, in order; the file must be whole."""
    assert body.endswith(bytes(1024)), "the blocks that end a tar file are missing"
    with tarfile.open(fileobj=io.BytesIO(body)) as tar:
        return [(info, tar.extractfile(info).read()) for info in tar]


def make_tar(members: dict[str, bytes] | list[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for name, data in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
