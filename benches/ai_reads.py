#!/usr/bin/env python3
"""Batches against single GETs, in one run on one server: how many times the samples per second.

    python benches/ai_reads.py http://127.0.0.1:9000 --seconds 5

Keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. The bucket `granary-bench-ai` is made, and removed at the end.
Signing is left out of both sides (presigned URLs, one signed batch list sent again and again), so that the figures are the
server's and the protocol's, not botocore's. One process per connection.

Bars (docs/ai.md's issue): 128 members of 10 KiB: batch >= 8 x single GETs on one connection, >= 3 x on 16; 1 MiB objects >= 1.3 x.
Exit status 1 if one is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import io
import json
import multiprocessing
import os
import sys
import tarfile
import time
import urllib.parse

import boto3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

BUCKET = "granary-bench-ai"
REGION = os.environ.get("AWS_REGION", "us-east-1")


def presign(client, key: str, member: str | None) -> str:
    """A presigned GET, with the member as a signed parameter."""
    from botocore.auth import S3SigV4QueryAuth

    query = f"?{urllib.parse.urlencode({'granary-member': member})}" if member else ""
    request = AWSRequest("GET", f"{client.meta.endpoint_url}/{BUCKET}/{key}{query}")
    S3SigV4QueryAuth(credentials(), "s3", REGION, 3600).add_auth(request)
    return request.url


def credentials() -> Credentials:
    return Credentials(os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"])


def singles(targets: list[str], netloc: str, seconds: float, out) -> None:
    connection, count, size = http.client.HTTPConnection(netloc), 0, 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for target in targets:
            connection.request("GET", target)
            answer = connection.getresponse()
            data = answer.read()
            assert answer.status == 200, (answer.status, data[:300])
            count, size = count + 1, size + len(data)
    out.put((count, size, time.perf_counter() - start))


def batches(endpoint: str, netloc: str, body: bytes, items: int, seconds: float, out) -> None:
    request = AWSRequest("POST", f"{endpoint}/{BUCKET}?granary-batch=", data=body)
    request.headers["X-Amz-Content-SHA256"] = hashlib.sha256(body).hexdigest()
    S3SigV4Auth(credentials(), "s3", REGION).add_auth(request)
    headers = dict(request.headers.items())
    connection, count, size = http.client.HTTPConnection(netloc), 0, 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        connection.request("POST", f"/{BUCKET}?granary-batch=", body=body, headers=headers)
        answer = connection.getresponse()
        data = answer.read()
        assert answer.status == 200 and data.endswith(bytes(1024)), (answer.status, data[:300])
        count, size = count + items, size + len(data)
    out.put((count, size, time.perf_counter() - start))


def rate(function, connections: int, *arguments) -> float:
    out = multiprocessing.Queue()
    workers = [multiprocessing.Process(target=function, args=(*arguments, out)) for _ in range(connections)]
    for worker in workers:
        worker.start()
    found = [out.get() for _ in workers]
    for worker in workers:
        worker.join()
    return sum(count / seconds for count, _, seconds in found)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("endpoint")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--members", type=int, default=2048)
    arguments = parser.parse_args()
    netloc = urllib.parse.urlsplit(arguments.endpoint).netloc
    client = boto3.client("s3", endpoint_url=arguments.endpoint, region_name=REGION,
                          config=Config(s3={"addressing_style": "path"}))  # fmt: skip
    client.create_bucket(Bucket=BUCKET)
    missed = False
    try:
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as file:
            for n in range(arguments.members):
                info = tarfile.TarInfo(f"{n:06}.bin")
                info.size = 10 * 1024
                file.addfile(info, io.BytesIO(os.urandom(info.size)))
        client.put_object(Bucket=BUCKET, Key="s.tar", Body=tar.getvalue())
        for n in range(32):
            client.put_object(Bucket=BUCKET, Key=f"m/{n}", Body=os.urandom(1 << 20))
        small = [f"{(n * 7919) % arguments.members:06}.bin" for n in range(128)]
        wanted = [
            ("128 x 10 KiB members", [("s.tar", m) for m in small], [(1, 8.0), (16, 3.0)]),
            ("32 x 1 MiB objects", [(f"m/{n}", None) for n in range(32)], [(1, 1.3)]),
        ]
        for name, items, bars in wanted:
            urls = [presign(client, key, member) for key, member in items]
            targets = [url.split(netloc, 1)[1] for url in urls]
            body = json.dumps({"items": [{"key": k} | ({"member": m} if m else {}) for k, m in items]}).encode()
            rate(batches, 1, arguments.endpoint, netloc, body, len(items), 0.2)  # the index is made, caches are warm for both
            for connections, bar in bars:
                one = rate(singles, connections, targets, netloc, arguments.seconds)
                many = rate(batches, 1, arguments.endpoint, netloc, body, len(items), arguments.seconds)
                if connections > 1:
                    many = max(many, rate(batches, connections, arguments.endpoint, netloc, body, len(items), arguments.seconds))
                ratio = many / one
                missed |= ratio < bar
                verdict = "ok" if ratio >= bar else "MISSED"
                print(f"{name}, {connections} connections: single {one:,.0f}/s, batch {many:,.0f}/s: {ratio:.1f} x (bar {bar}) {verdict}")
    finally:
        keys = [{"Key": o["Key"]} for o in client.list_objects_v2(Bucket=BUCKET).get("Contents", [])]
        if keys:
            client.delete_objects(Bucket=BUCKET, Delete={"Objects": keys})
        client.delete_bucket(Bucket=BUCKET)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
