"""Run by test_other_clients.py: MinIO's client library."""

from __future__ import annotations

import datetime
import io
import os
import sys
import urllib.request

from minio import Minio
from minio.commonconfig import CopySource, Tags
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.versioningconfig import ENABLED, VersioningConfig

address, bucket = sys.argv[1:3]
client = Minio(address, os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"], secure=False, region="us-east-1")
assert client.bucket_exists(bucket) and not client.bucket_exists(bucket + "-none")
for size, part in ((0, 0), (5, 0), (11 * 1024 * 1024, 5 * 1024 * 1024)):
    data = os.urandom(size)
    client.put_object(bucket, "k", io.BytesIO(data), size, part_size=part, metadata={"a": "1"}, content_type="text/plain")
    answer = client.get_object(bucket, "k")
    assert answer.read() == data
    answer.release_conn()
    stat = client.stat_object(bucket, "k")
    assert (stat.size, stat.content_type, stat.metadata["x-amz-meta-a"]) == (size, "text/plain", "1")
# Of unknown length: parts until the end.
client.put_object(bucket, "stream", io.BytesIO(b"x" * 6_000_000), -1, part_size=5 * 1024 * 1024)
client.copy_object(bucket, "copy", CopySource(bucket, "stream"))
part = client.get_object(bucket, "copy", offset=5, length=7)
assert part.read() == b"x" * 7
part.release_conn()
tags = Tags.new_object_tags()
tags["who"] = "me"
client.set_object_tags(bucket, "copy", tags)
assert dict(client.get_object_tags(bucket, "copy")) == {"who": "me"}
assert [o.object_name for o in client.list_objects(bucket, recursive=True)] == ["copy", "k", "stream"]
client.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
client.put_object(bucket, "k", io.BytesIO(b"2"), 1)
assert len([o for o in client.list_objects(bucket, prefix="k", include_version=True)]) == 2
url = client.presigned_get_object(bucket, "k", expires=datetime.timedelta(minutes=5))
assert urllib.request.urlopen(url).read() == b"2"
doomed = [DeleteObject(o.object_name, o.version_id) for o in client.list_objects(bucket, recursive=True, include_version=True)]
assert not list(client.remove_objects(bucket, doomed))
try:
    client.stat_object(bucket, "k")
    raise AssertionError("what was removed is still there")
except S3Error as refused:
    assert refused.code == "NoSuchKey", refused.code
print("fine")
