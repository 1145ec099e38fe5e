"""Generated operations on versioned, suspended and locked buckets, against lists that say what S3 means.

`MODEL_SEED` repeats a run; `MODEL_VERSION_STEPS` sets its length. A failure shows the last operations.
"""

from __future__ import annotations

import datetime
import os
import random
import urllib.parse
import xml.etree.ElementTree as ElementTree
from collections import deque
from dataclasses import dataclass

from tests.harness import Content, RawClient, Server
from tests.harness.raw import NAMESPACE

STEPS = int(os.environ.get("MODEL_VERSION_STEPS", "5600"))
KEYS = ["a", "a/b", "a/c", "b", "ü/1", "c d"]
SIZES = [0, 1, 100, 16_384, 16_385, 70_000]
# A bucket that is versioned and suspended in turns, one with object lock, one that has never heard of versions.
BUCKETS = {"model-versions": "Off", "model-locked": "Enabled", "model-plain": "Off"}
WRONG_ETAG = '"00000000000000000000000000000000"'
FAR = "2040-01-01T00:00:00Z"


@dataclass
class Version:
    id: str
    data: bytes | None  # None: a delete marker
    etag: str = ""
    note: str = ""
    mode: str = ""
    hold: bool = False

    def locked(self, bypass: bool) -> bool:
        return self.hold or (self.mode == "GOVERNANCE" and not bypass)


class Reference:
    """bucket → key → versions, newest first."""

    def __init__(self, client: RawClient, rng: random.Random) -> None:
        self.client = client
        self.rng = rng
        self.status = dict(BUCKETS)
        self.keys: dict[str, dict[str, list[Version]]] = {name: {} for name in BUCKETS}
        self.numbers = iter(range(1 << 32))
        self.history: deque[str] = deque(maxlen=30)
        self.done = 0
        for name in BUCKETS:
            headers = {"x-amz-bucket-object-lock-enabled": "true"} if name == "model-locked" else {}
            self.expect(client.request("PUT", name, headers=headers), (200, ""))

    # --- small things ---------------------------------------------------------------------------------------------

    def expect(self, reply, *allowed: tuple[int, str]) -> bool:
        got = (reply.status, reply.code if reply.status >= 300 and reply.body else "")
        assert any(got == a or (a[1] == "*" and got[0] == a[0]) for a in allowed), f"{got} where {allowed} is right"
        return reply.status < 300

    def note(self, text: str) -> None:
        self.history.append(text)

    def fresh(self) -> tuple[bytes, str]:
        content = Content(next(self.numbers), self.rng.choice(SIZES))
        return content.data(), str(content.number)

    def versions(self, bucket: str, key: str) -> list[Version]:
        return self.keys[bucket].setdefault(key, [])

    def current(self, bucket: str, key: str) -> Version | None:
        """The object that a plain GET finds."""
        found = self.versions(bucket, key)
        return found[0] if found and found[0].data is not None else None

    def any_version(self, bucket: str, key: str) -> Version | None:
        found = self.versions(bucket, key)
        return self.rng.choice(found) if found else None

    def written(self, bucket: str, key: str, reply, data: bytes | None, **more) -> None:
        """Puts a new version where the bucket's state says."""
        found = self.versions(bucket, key)
        told = reply.headers.get("x-amz-version-id")
        if self.status[bucket] == "Off":
            assert told is None, told
        if self.status[bucket] == "Enabled":
            assert told and told != "null" and all(v.id != told for v in found), told
        else:
            assert told in (None, "null"), told
            found[:] = [v for v in found if v.id != "null"]
            told = "null"
        if data is None and self.status[bucket] == "Off":
            return
        found.insert(0, Version(told, data, **more))

    # --- operations -----------------------------------------------------------------------------------------------

    def step(self) -> None:
        weights = {
            self.put: 16, self.put_if: 8, self.multipart: 4, self.copy: 8, self.delete: 9, self.delete_version: 10,
            self.delete_if: 4, self.delete_many: 4, self.get: 10, self.get_version: 10, self.head: 4, self.listing: 7,
            self.current_listing: 4, self.change_status: 2, self.retention: 5, self.hold: 4, self.tags: 3,
        }  # fmt: skip
        operation = self.rng.choices(list(weights), list(weights.values()))[0]
        operation(self.rng.choice(list(BUCKETS)), self.rng.choice(KEYS))
        self.done += 1

    def lock_headers(self, bucket: str) -> tuple[dict[str, str], dict]:
        if bucket != "model-locked" or self.rng.random() < 0.7:
            return {}, {}
        if self.rng.random() < 0.5:
            return {"x-amz-object-lock-legal-hold": "ON"}, {"hold": True}
        headers = {"x-amz-object-lock-mode": "GOVERNANCE", "x-amz-object-lock-retain-until-date": FAR}
        return headers, {"mode": "GOVERNANCE"}

    def send(self, bucket: str, key: str, data: bytes, headers: dict[str, str]):
        return self.client.request("PUT", bucket, key, headers=headers, body=data)

    def put(self, bucket: str, key: str) -> None:
        data, note = self.fresh()
        headers, lock = self.lock_headers(bucket)
        self.note(f"put {bucket}/{key} {len(data)} {lock}")
        reply = self.send(bucket, key, data, headers | {"x-amz-meta-note": note})
        self.expect(reply, (200, ""))
        self.written(bucket, key, reply, data, etag=reply.etag, note=note, **lock)

    def condition(self, there: Version | None) -> tuple[dict[str, str], bool]:
        kind = self.rng.randrange(4)
        if kind == 0:
            return {"if-none-match": "*"}, there is None
        if kind == 1 and there:
            return {"if-match": there.etag}, True
        if kind == 2:
            return {"if-match": "*"}, there is not None
        return {"if-match": WRONG_ETAG}, False

    def put_if(self, bucket: str, key: str) -> None:
        data, note = self.fresh()
        there = self.current(bucket, key)
        headers, holds = self.condition(there)
        self.note(f"put {bucket}/{key} {len(data)} {headers}")
        reply = self.send(bucket, key, data, headers | {"x-amz-meta-note": note})
        if holds and self.expect(reply, (200, "")):
            self.written(bucket, key, reply, data, etag=reply.etag, note=note)
        elif not holds:
            self.expect(reply, (412, "PreconditionFailed") if there else (404, "NoSuchKey"))

    def multipart(self, bucket: str, key: str) -> None:
        data, note = self.fresh()
        headers, lock = self.lock_headers(bucket)
        reply = self.client.request("POST", bucket, key, query={"uploads": ""}, headers=headers | {"x-amz-meta-note": note})
        self.expect(reply, (200, ""))
        upload = ElementTree.fromstring(reply.body).findtext(f"{NAMESPACE}UploadId")
        sent = [self.client.upload_part(bucket, key, upload, 3, body) for body in (b"replaced", data)]
        old, etag = [reply.etag for reply in sent if self.expect(reply, (200, ""))]
        source_bucket, source = self.rng.choice(list(BUCKETS)), self.rng.choice(KEYS)
        copied = self.any_version(source_bucket, source) if self.rng.random() < 0.4 else None
        if copied and copied.data:
            # The part once more, as a range of a version that is there.
            first = self.rng.randrange(len(copied.data))
            last = self.rng.randrange(first, len(copied.data))
            reply = self.client.request(
                "PUT", bucket, key, query={"partNumber": "3", "uploadId": upload},
                headers={
                    "x-amz-copy-source": f"/{source_bucket}/{urllib.parse.quote(source)}?versionId={copied.id}",
                    "x-amz-copy-source-range": f"bytes={first}-{last}",
                },
            )  # fmt: skip
            self.expect(reply, (200, ""))
            root = ElementTree.fromstring(reply.body)
            old, etag = etag, root.findtext(f"{NAMESPACE}ETag") or root.findtext("ETag")
            data = copied.data[first : last + 1]
        self.note(f"multipart {bucket}/{key} {len(data)} {lock}")
        if old != etag:
            self.expect(self.client.complete_upload(bucket, key, upload, [(3, old)]), (400, "InvalidPart"))
        if self.rng.random() < 0.2:
            self.expect(self.client.abort_upload(bucket, key, upload), (204, ""))
            self.expect(self.client.complete_upload(bucket, key, upload, [(3, etag)]), (404, "NoSuchUpload"))
            return
        there = self.current(bucket, key)
        condition, holds = self.condition(there) if self.rng.random() < 0.4 else ({}, True)
        if "*" in condition.values() and "if-match" in condition:
            condition, holds = {}, True
        body = f"<CompleteMultipartUpload><Part><PartNumber>3</PartNumber><ETag>{etag}</ETag></Part></CompleteMultipartUpload>"
        self.note(f"complete {bucket}/{key} {condition}")
        reply = self.client.request("POST", bucket, key, query={"uploadId": upload}, body=body.encode(), headers=condition)
        if holds and self.expect(reply, (200, "")):
            etag = ElementTree.fromstring(reply.body).findtext(f"{NAMESPACE}ETag")
            self.written(bucket, key, reply, data, etag=etag, note=note, **lock)
        elif not holds:
            self.expect(reply, (412, "PreconditionFailed") if there else (404, "NoSuchKey"))
            self.expect(self.client.abort_upload(bucket, key, upload), (204, ""))

    def copy(self, bucket: str, key: str) -> None:
        source_bucket, source = self.rng.choice(list(BUCKETS)), self.rng.choice(KEYS)
        version = self.any_version(source_bucket, source) if self.rng.random() < 0.5 else None
        there = version or self.current(source_bucket, source)
        header = f"/{source_bucket}/{urllib.parse.quote(source)}" + (f"?versionId={version.id}" if version else "")
        headers = {"x-amz-copy-source": header}
        note = str(next(self.numbers))
        replace = (source_bucket, source) == (bucket, key) or self.rng.random() < 0.3
        if replace:
            headers |= {"x-amz-metadata-directive": "REPLACE", "x-amz-meta-note": note}
        holds = True
        if there and there.data is not None and self.rng.random() < 0.3:
            name, value, holds = self.rng.choice([
                ("if-match", there.etag, True), ("if-match", WRONG_ETAG, False),
                ("if-none-match", WRONG_ETAG, True), ("if-none-match", there.etag, False),
            ])  # fmt: skip
            headers[f"x-amz-copy-source-{name}"] = value
        self.note(f"copy {header} → {bucket}/{key} {'replace' if replace else ''} {'' if holds else 'condition fails'}")
        reply = self.client.request("PUT", bucket, key, headers=headers)
        if there is None:
            self.expect(reply, (404, "NoSuchKey"))
        elif there.data is None:
            self.expect(reply, (400, "InvalidRequest"))
        elif not holds:
            self.expect(reply, (412, "PreconditionFailed"))
        elif self.expect(reply, (200, "")):
            root = ElementTree.fromstring(reply.body)
            etag = root.findtext(f"{NAMESPACE}ETag") or root.findtext("ETag")
            self.written(bucket, key, reply, there.data, etag=etag, note=note if replace else there.note)

    def delete(self, bucket: str, key: str) -> None:
        self.note(f"delete {bucket}/{key}")
        reply = self.client.delete(bucket, key)
        self.expect(reply, (204, ""))
        if self.status[bucket] != "Off":
            assert reply.headers.get("x-amz-delete-marker") == "true"
        self.written(bucket, key, reply, None)

    def delete_if(self, bucket: str, key: str) -> None:
        there = self.current(bucket, key)
        headers, holds = ({"if-match": there.etag}, True) if there and self.rng.random() < 0.5 else ({"if-match": WRONG_ETAG}, False)
        self.note(f"delete {bucket}/{key} {headers}")
        reply = self.client.request("DELETE", bucket, key, headers=headers)
        if holds and self.expect(reply, (204, "")):
            self.written(bucket, key, reply, None)
        elif not holds:
            self.expect(reply, (412, "PreconditionFailed") if there else (404, "NoSuchKey"))

    def delete_version(self, bucket: str, key: str) -> None:
        there = self.any_version(bucket, key)
        bypass = self.rng.random() < 0.3
        version = there.id if there else "null"
        headers = {"x-amz-bypass-governance-retention": "true"} if bypass else {}
        self.note(f"delete {bucket}/{key} version {version} {headers}")
        reply = self.client.request("DELETE", bucket, key, query={"versionId": version}, headers=headers)
        if there and there.locked(bypass):
            self.expect(reply, (403, "AccessDenied"))
        elif self.expect(reply, (204, "")) and there:
            is_marker = reply.headers.get("x-amz-delete-marker") == "true"
            assert is_marker == (there.data is None)
            self.versions(bucket, key).remove(there)

    def delete_many(self, bucket: str, _: str) -> None:
        named = []
        for key in self.rng.sample(KEYS, 3):
            version = self.any_version(bucket, key)
            if version and all(n[0] != key for n in named):
                named.append((key, version))
        if not named:
            return
        self.note(f"delete {bucket} {[(k, v.id) for k, v in named]}")
        entries = "".join(f"<Object><Key>{k}</Key><VersionId>{v.id}</VersionId></Object>" for k, v in named)
        reply = self.client.request("POST", bucket, query={"delete": ""}, body=f"<Delete>{entries}</Delete>".encode())
        self.expect(reply, (200, ""))
        root = ElementTree.fromstring(reply.body)
        refused = {e.findtext(f"{NAMESPACE}Key") for e in root.iter(f"{NAMESPACE}Error")}
        assert refused == {k for k, v in named if v.locked(False)}
        for key, version in named:
            if not version.locked(False):
                self.versions(bucket, key).remove(version)

    # --- reads ----------------------------------------------------------------------------------------------------

    def same(self, reply, there: Version) -> None:
        self.expect(reply, (200, ""))
        assert reply.body == there.data and reply.headers.get("x-amz-meta-note") == there.note and reply.etag == there.etag
        assert (reply.headers.get("x-amz-object-lock-legal-hold") == "ON") == there.hold
        assert reply.headers.get("x-amz-object-lock-mode", "") == there.mode

    def get(self, bucket: str, key: str) -> None:
        self.note(f"get {bucket}/{key}")
        reply, there = self.client.get(bucket, key), self.current(bucket, key)
        if there:
            self.same(reply, there)
            assert self.status[bucket] == "Off" or reply.headers["x-amz-version-id"] == there.id
        else:
            self.expect(reply, (404, "NoSuchKey"))
            assert (reply.headers.get("x-amz-delete-marker") == "true") == bool(self.versions(bucket, key))

    def get_version(self, bucket: str, key: str) -> None:
        there = self.any_version(bucket, key)
        version = there.id if there else "null"
        self.note(f"get {bucket}/{key} version {version}")
        reply = self.client.request("GET", bucket, key, query={"versionId": version})
        if there is None:
            self.expect(reply, (404, "NoSuchVersion"))
        elif there.data is None:
            self.expect(reply, (405, "MethodNotAllowed"))
        else:
            self.same(reply, there)

    def head(self, bucket: str, key: str) -> None:
        self.note(f"head {bucket}/{key}")
        reply, there = self.client.head(bucket, key), self.current(bucket, key)
        assert reply.status == (200 if there else 404)
        if there:
            assert int(reply.headers["content-length"]) == len(there.data)

    def listing(self, bucket: str, _: str) -> None:
        page, prefix = self.rng.choice([1, 2, 3, 7, 1000]), self.rng.choice(["", "a", "a/", "ü", "zz"])
        self.note(f"list versions of {bucket} prefix={prefix!r} max-keys={page}")
        query = {"versions": "", "max-keys": str(page), "prefix": prefix}
        seen = []
        for _ in range(2000):
            reply = self.client.request("GET", bucket, query=query)
            self.expect(reply, (200, ""))
            root = ElementTree.fromstring(reply.body)
            text = lambda node, name: node.findtext(NAMESPACE + name) or ""  # noqa: E731
            entries = [e for e in root if e.tag in (f"{NAMESPACE}Version", f"{NAMESPACE}DeleteMarker")]
            assert len(entries) <= page
            seen += [(text(e, "Key"), text(e, "VersionId"), e.tag.endswith("Marker"), text(e, "IsLatest")) for e in entries]
            if text(root, "IsTruncated") != "true":
                break
            query |= {"key-marker": text(root, "NextKeyMarker"), "version-id-marker": text(root, "NextVersionIdMarker")}
        wanted = [
            (key, version.id, version.data is None, "true" if place == 0 else "false")
            for key in sorted(self.keys[bucket], key=str.encode) if key.startswith(prefix)
            for place, version in enumerate(self.versions(bucket, key))
        ]  # fmt: skip
        assert seen == wanted, f"{seen} where {wanted} is right"

    def current_listing(self, bucket: str, _: str) -> None:
        self.note(f"list {bucket}")
        wanted = {k: (v.etag, len(v.data)) for k in self.keys[bucket] if (v := self.current(bucket, k))}
        assert self.client.list_all(bucket, page=self.rng.choice([1, 3, 1000])) == wanted

    # --- changes --------------------------------------------------------------------------------------------------

    def change_status(self, bucket: str, _: str) -> None:
        if bucket == "model-plain":
            return
        status = self.rng.choice(["Enabled", "Suspended"])
        self.note(f"versioning of {bucket}: {status}")
        body = f"<VersioningConfiguration><Status>{status}</Status></VersioningConfiguration>".encode()
        reply = self.client.request("PUT", bucket, query={"versioning": ""}, body=body)
        if bucket == "model-locked" and status == "Suspended":
            self.expect(reply, (409, "InvalidBucketState"))
        elif self.expect(reply, (200, "")):
            self.status[bucket] = status

    def retention(self, bucket: str, key: str) -> None:
        there = self.any_version("model-locked", key)
        if there is None or there.data is None:
            return
        lift = self.rng.random() < 0.5
        bypass = self.rng.random() < 0.5
        self.note(f"retention of {key} {there.id}: lift={lift} bypass={bypass}")
        inner = "" if lift else f"<Mode>GOVERNANCE</Mode><RetainUntilDate>{FAR}</RetainUntilDate>"
        headers = {"x-amz-bypass-governance-retention": "true"} if bypass else {}
        reply = self.client.request(
            "PUT", "model-locked", key, query={"retention": "", "versionId": there.id}, headers=headers,
            body=f"<Retention>{inner}</Retention>".encode(),
        )  # fmt: skip
        if lift and there.mode and not bypass:
            self.expect(reply, (403, "AccessDenied"))
        elif self.expect(reply, (200, "")):
            there.mode = "" if lift else "GOVERNANCE"

    def hold(self, bucket: str, key: str) -> None:
        there = self.any_version("model-locked", key)
        if there is None or there.data is None:
            return
        status = self.rng.choice(["ON", "OFF"])
        self.note(f"legal hold of {key} {there.id}: {status}")
        body = f"<LegalHold><Status>{status}</Status></LegalHold>".encode()
        self.expect(self.client.request("PUT", "model-locked", key, query={"legal-hold": "", "versionId": there.id}, body=body), (200, ""))
        there.hold = status == "ON"

    def tags(self, bucket: str, key: str) -> None:
        there = self.any_version(bucket, key)
        if there is None or there.data is None:
            return
        value = str(next(self.numbers))
        self.note(f"tags of {bucket}/{key} {there.id}")
        query = {"tagging": "", "versionId": there.id}
        body = f"<Tagging><TagSet><Tag><Key>n</Key><Value>{value}</Value></Tag></TagSet></Tagging>".encode()
        self.expect(self.client.request("PUT", bucket, key, query=query, body=body), (200, ""))
        said = ElementTree.fromstring(self.client.request("GET", bucket, key, query=query).body)
        assert [e.text for e in said.iter(f"{NAMESPACE}Value")] == [value]


def test_generated_operations_on_versions():
    seed = os.environ.get("MODEL_SEED") or f"{random.SystemRandom().getrandbits(40):x}"
    print(f"model: MODEL_SEED={seed} repeats this")
    assert datetime.datetime.now().year < 2040, "FAR is no longer far"
    with Server(preset=None, env={"GRANARY_STORE_GARBAGE_QUARANTINE_MS": "100"}) as server:
        server.start()
        reference = Reference(RawClient("127.0.0.1", server.port), random.Random(f"{seed}/versions"))
        for quarter in range(4):
            while reference.done < STEPS * (quarter + 1) // 4:
                try:
                    reference.step()
                except Exception as failure:
                    story = "\n".join(f"  {line}" for line in reference.history)
                    raise AssertionError(
                        f"MODEL_SEED={seed}, step {reference.done}: {failure}\nlast operations, the failing one at the end:\n{story}"
                    ) from failure
            server.kill() if quarter % 2 else server.stop()
            reference.client.close()
            server.start()
            for bucket in BUCKETS:
                reference.listing(bucket, "")
                for key in KEYS:
                    reference.get(bucket, key)
