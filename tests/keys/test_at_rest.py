"""What lies on a drive: everything that clients and operators hand to the server carries one marker, and no byte of any
file of any drive may hold it, raw or encoded, while the server runs, after kill -9 and after a clean stop."""

from __future__ import annotations

import base64
import mmap
import os
import shutil
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.harness import ACCESS_KEY, Server

# Fits everywhere: bucket names, keys, tags, metadata, passwords.
MARKER = b"n33dle4gr4nary"
SECRET = "abc+" + MARKER.decode() + "/0123456789abcdefghijkl"
MIB = 1 << 20


def forms(needle: bytes) -> dict[str, bytes]:
    """The needle as it could be written down; of base64 the part that does not depend on its neighbours."""
    found = {
        "raw": needle,
        "hex": needle.hex().encode(),
        "HEX": needle.hex().upper().encode(),
        "utf-16-le": needle.decode("latin-1").encode("utf-16-le"),
        "utf-16-be": needle.decode("latin-1").encode("utf-16-be"),
    }
    for shift in range(3):
        text = base64.b64encode(b"\0" * shift + needle)
        first, last = (shift * 8 + 5) // 6, (shift + len(needle)) * 8 // 6
        found[f"base64+{shift}"] = text[first:last]
        found[f"base64url+{shift}"] = text[first:last].replace(b"+", b"-").replace(b"/", b"_")
    return found


def search(folders: list[Path], needle: bytes) -> list[str]:
    """Where the needle lies, in whatever form."""
    hits = []
    wanted = forms(needle)
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            if path.stat().st_size == 0:
                continue
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                hits += [f"{path} {form} at {at}" for form, text in wanted.items() if (at := content.find(text)) >= 0]
    return hits


def client(server: Server):
    return boto3.client(
        "s3", endpoint_url=server.endpoint, region_name="us-east-1", aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET, config=Config(s3={"addressing_style": "path"}, retries={"max_attempts": 0}),
    )  # fmt: skip


def body(size: int) -> bytes:
    """The marker from end to end, at every alignment."""
    return ((MARKER + b"*") * (size // 15 + 1))[:size]


def fill(server: Server) -> None:
    s3 = client(server)
    name = MARKER.decode()
    bucket = f"{name}-bucket"
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": name, "Value": name}]})
    policy = '{"Version":"2012-10-17","Statement":[{"Sid":"%s","Effect":"Deny","Principal":"*","Action":"s3:PutObject","Resource":"arn:aws:s3:::%s/%s/none"}]}'  # noqa: E501
    try:
        s3.put_bucket_policy(Bucket=bucket, Policy=policy % (name, bucket, name))
    except ClientError as refused:
        assert refused.response["Error"]["Code"] == "NotImplemented", refused
    key = (MARKER * 3)[:32]
    customer = {
        "SSECustomerAlgorithm": "AES256",
        "SSECustomerKey": base64.b64encode(key).decode(),
    }
    more = {"Metadata": {"note": name}, "Tagging": f"{name}={name}", "ContentType": f"text/{name}"}
    kinds = [{}, {"ServerSideEncryption": "aws:kms", "SSEKMSEncryptionContext": base64.b64encode(
        b'{"a":"%s"}' % MARKER).decode()}, customer | {"SSECustomerKeyMD5": _md5(key)}]  # fmt: skip
    for number, kind in enumerate(kinds):
        for size in (20, 5000, 100_000, 3 * MIB):
            s3.put_object(Bucket=bucket, Key=f"{name}/{number}/{size}", Body=body(size), **more, **kind)
    upload = s3.create_multipart_upload(Bucket=bucket, Key=f"{name}-parts", Metadata={"note": name})["UploadId"]
    parts = []
    for number in (1, 2):
        tag = s3.upload_part(Bucket=bucket, Key=f"{name}-parts", UploadId=upload, PartNumber=number, Body=body(5 * MIB))
        parts.append({"PartNumber": number, "ETag": tag["ETag"]})
    s3.complete_multipart_upload(Bucket=bucket, Key=f"{name}-parts", UploadId=upload, MultipartUpload={"Parts": parts})
    open_upload = s3.create_multipart_upload(Bucket=bucket, Key=f"{name}-open")["UploadId"]
    s3.upload_part(Bucket=bucket, Key=f"{name}-open", UploadId=open_upload, PartNumber=1, Body=body(70_000))
    # What is deleted and overwritten lies there too.
    s3.put_object(Bucket=bucket, Key=f"{name}/0/20", Body=body(3000))
    s3.delete_object(Bucket=bucket, Key=f"{name}/0/5000")


def _md5(key: bytes) -> str:
    import hashlib

    return base64.b64encode(hashlib.md5(key).digest()).decode()


@pytest.fixture
def own():
    with Server(env={"GRANARY_ROOT_SECRET_KEY": SECRET}, preset=None, drives=4, erasure="2+1") as server:
        yield server


def test_no_drive_holds_anything_readable(own):
    own.start()
    fill(own)
    folders = own.drive_dirs()
    assert len(folders) == 4
    assert search(folders, MARKER) == [], "while the server runs"
    own.kill()
    assert search(folders, MARKER) == [], "after kill -9"
    own.start()
    assert client(own).get_object(Bucket=f"{MARKER.decode()}-bucket", Key=f"{MARKER.decode()}/0/100000")[
        "Body"
    ].read() == body(100_000)
    assert own.stop() == 0
    assert search(folders, MARKER) == [], "after a clean stop"
    # The search finds what is there: something that is known to be in the clear, and the needle in each of its forms.
    assert any("keyring.json raw" in hit for hit in search(folders, b"granary-keyring"))
    planted = folders[0] / "meta" / "planted"
    for form, text in forms(MARKER).items():
        planted.write_bytes(os.urandom(5000) + text + os.urandom(5000))
        assert any(f"planted {form} at" in hit for hit in search([folders[0]], MARKER)), form
    planted.unlink()
    # The log and what the server prints are for people, and hold no secret either.
    for secret in (SECRET, base64.b64encode((MARKER * 3)[:32]).decode()):
        assert secret not in own.log()


def test_without_the_root_key_nothing_opens(own, tmp_path):
    own.start()
    fill(own)
    assert own.stop() == 0
    key = own.data / "root.key"
    assert key.exists()
    shutil.move(key, tmp_path / "root.key")
    with pytest.raises(Exception, match="sealing key"):
        own.start()
    shutil.move(tmp_path / "root.key", key)
    own.start()
