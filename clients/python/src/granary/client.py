"""The client: signed requests over kept connections."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import urllib.parse
from collections.abc import Iterable, Iterator
from typing import Any

import botocore.session
import urllib3
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest

from .tarstream import entries
from .types import Batch, Checkpoint, Entry, GranaryError, Incomplete, Item, Member, Missing, Sample, Warmed

ITEMS_MAX = 10_000
_NOT_GRANARY = {"NotImplemented", "MethodNotAllowed", "InvalidArgument", "InvalidRequest"}


class Client:
    """A Granary endpoint.

    `endpoint` is `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` when not given; credentials and region are what botocore finds.
    `fallback`: `False`: only Granary's own endpoints; `True`: only plain S3; `None`: plain S3 once the server turns out not
    to be Granary.
    `run`: the training run that requests belong to, for `granary top` and metrics (`GRANARY_RUN` when not given).
    """

    def __init__(
        self,
        endpoint: str | None = None,
        *,
        region: str | None = None,
        access_key: str | None = None,
        secret_key: str | None = None,
        session_token: str | None = None,
        fallback: bool | None = None,
        timeout: float = 60.0,
        connections: int = 16,
        ca_file: str | None = None,
        run: str | None = None,
    ) -> None:
        self._settings: dict[str, Any] = {
            "endpoint": endpoint, "region": region, "access_key": access_key, "secret_key": secret_key,
            "session_token": session_token, "fallback": fallback, "timeout": timeout, "connections": connections,
            "ca_file": ca_file, "run": run,
        }  # fmt: skip
        self._open()

    def _open(self) -> None:
        settings = self._settings
        session = botocore.session.get_session()
        if settings["access_key"]:
            session.set_credentials(settings["access_key"], settings["secret_key"], settings["session_token"])
        self._session = session
        endpoint = settings["endpoint"] or session.get_scoped_config().get("endpoint_url")
        if not endpoint:
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if not endpoint:
            raise ValueError("no endpoint: name one, or set AWS_ENDPOINT_URL")
        self.endpoint: str = endpoint.rstrip("/")
        self.region: str = settings["region"] or session.get_config_variable("region") or "us-east-1"
        self.run: str | None = settings["run"] or os.environ.get("GRANARY_RUN") or None
        self._plain: bool = settings["fallback"] is True
        more = {"ca_certs": settings["ca_file"]} if settings["ca_file"] else {}
        self._pool = urllib3.PoolManager(
            maxsize=settings["connections"], timeout=settings["timeout"], retries=False, **more
        )

    # A client goes to a DataLoader's workers: they open connections of their own.
    def __getstate__(self) -> dict[str, Any]:
        return self._settings

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._settings = state
        self._open()

    # --- requests ----------------------------------------------------------------------------------------------

    def _send(
        self,
        method: str,
        path: str,
        query: dict[str, str],
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        text = urllib.parse.urlencode(query, quote_via=urllib.parse.quote)
        url = self.endpoint + urllib.parse.quote(path, safe="/~") + (f"?{text}" if text else "")
        credentials = self._session.get_credentials()
        if credentials is None:
            raise ValueError("no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name them")
        request = AWSRequest(method, url, data=body, headers=dict(headers or {}) | ({"x-granary-run": self.run} if self.run else {}))
        request.headers["X-Amz-Content-SHA256"] = hashlib.sha256(body).hexdigest()
        S3SigV4Auth(credentials.get_frozen_credentials(), "s3", self.region).add_auth(request)
        answer = self._pool.request(
            method, url, body=body or None, headers=dict(request.headers.items()), preload_content=False,
            decode_content=False,
        )  # fmt: skip
        if answer.status >= 300:
            raise _failure(answer.status, answer.read(1 << 16))
        return answer

    def _whole(self, answer: urllib3.BaseHTTPResponse) -> bytes:
        length = answer.headers.get("content-length")
        try:
            data = answer.read()
        except urllib3.exceptions.HTTPError as error:
            raise Incomplete(f"the answer broke off: {error}") from error
        if length is not None and len(data) != int(length):
            raise Incomplete(f"{len(data)} bytes came, {length} were announced")
        return data

    def _json(self, path: str, query: dict[str, str], method: str = "GET") -> dict[str, Any]:
        answer = self._send(method, path, query)
        if not answer.headers.get("content-type", "").startswith("application/json"):
            answer.drain_conn()
            raise GranaryError(501, "NotImplemented", "the server does not know this endpoint: it is not Granary")
        return json.loads(self._whole(answer))

    def _is_plain(self, error: GranaryError) -> bool:
        """Whether to go on with plain S3: the server does not know the endpoint."""
        if self._settings["fallback"] is False or error.code not in _NOT_GRANARY:
            return False
        return error.status in (400, 405, 501) and "granary" not in error.message.lower() and error.code != "InvalidArgument"

    def get(self, bucket: str, key: str, *, first: int | None = None, last: int | None = None,
            version: str | None = None) -> bytes:  # fmt: skip
        """An object, or bytes `first..=last` of it."""
        headers = {} if first is None else {"Range": f"bytes={first}-{'' if last is None else last}"}
        query = {"versionId": version} if version else {}
        return self._whole(self._send("GET", f"/{bucket}/{key}", query, headers=headers))

    # --- batches ----------------------------------------------------------------------------------------------

    def batch(self, bucket: str, items: Iterable[Item | str], *, missing: str = "mark",
              info: bool = False) -> Iterator[Entry]:  # fmt: skip
        """The items, in order. `missing="fail"`: raises `Missing` before the first entry instead of marking."""
        wanted = [Item(item) if isinstance(item, str) else item for item in items]
        for start in range(0, len(wanted), ITEMS_MAX):
            yield from self._batch(bucket, wanted[start : start + ITEMS_MAX], missing, info)

    def _batch(self, bucket: str, wanted: list[Item], missing: str, info: bool) -> Iterator[Entry]:
        if not self._plain:
            body = json.dumps({"items": [item.wire() for item in wanted], "on_missing": missing, "info": info}).encode()
            try:
                answer = self._send("POST", f"/{bucket}", {"granary-batch": ""}, body)
                if "x-granary-batch-items" not in answer.headers:
                    answer.drain_conn()
                    raise GranaryError(501, "NotImplemented", "the server took the request for something else")
            except GranaryError as error:
                if not self._is_plain(error):
                    raise
                self._plain = True
            else:
                yield from self._entries(answer, len(wanted))
                return
        yield from self._one_by_one(bucket, wanted, missing)

    def _entries(self, answer: urllib3.BaseHTTPResponse, expected: int | None) -> Iterator[Entry]:
        count = 0
        try:
            for name, data, records in entries(answer):
                count += 1
                facts = {k[8:]: v for k, v in records.items() if k.startswith("GRANARY.")}
                error, message = facts.pop("error", None), facts.pop("message", None)
                yield Entry(name, data, error, message, facts)
            if expected is not None and count != expected:
                raise Incomplete(f"{count} entries came, {expected} were asked for")
            answer.drain_conn()
        finally:
            answer.close() if count != expected else answer.release_conn()

    def _one_by_one(self, bucket: str, wanted: list[Item], missing: str) -> Iterator[Entry]:
        for item in wanted:
            try:
                if item.member is not None:
                    data = self.member(bucket, item.key, item.member, version=item.version)
                    if item.range is not None:
                        first, last = item.range
                        data = data[first : None if last is None else last + 1]
                else:
                    first, last = item.range or (None, None)
                    data = self.get(bucket, item.key, first=first, last=last, version=item.version)
            except Missing as error:
                if missing == "fail":
                    raise
                yield Entry(item.entry_name, b"", error.code, error.message)
            else:
                yield Entry(item.entry_name, data)

    # --- members ----------------------------------------------------------------------------------------------

    def member(self, bucket: str, key: str, name: str, *, version: str | None = None) -> bytes:
        """One member of a tar shard."""
        if not self._plain:
            query = {"granary-member": name} | ({"versionId": version} if version else {})
            answer = self._send("GET", f"/{bucket}/{key}", query)
            if "x-granary-member-offset" in answer.headers:
                return self._whole(answer)
            # Plain S3 ignores what it does not know, and sends the whole object.
            answer.close()
            if self._settings["fallback"] is False:
                raise GranaryError(501, "NotImplemented", "the server is not Granary")
            self._plain = True
        with tarfile.open(fileobj=io.BytesIO(self.get(bucket, key, version=version))) as tar:
            try:
                found = tar.extractfile(name)
            except KeyError:
                found = None
            if found is None:
                raise Missing(404, "NoSuchMember", f"{key} has no member {name}")
            return found.read()

    def members(self, bucket: str, key: str, *, version: str | None = None) -> Iterator[Member]:
        """The members of a tar shard, in its order."""
        query = {"granary-members": "", "max-members": "10000"} | ({"versionId": version} if version else {})
        if not self._plain:
            try:
                while True:
                    page = self._json(f"/{bucket}/{key}", query)
                    for one in page["members"]:
                        yield Member(one["name"], one["offset"], one["size"], one["sample"], one["field"])
                    if page["next"] is None:
                        return
                    query["page"] = page["next"]
            except GranaryError as error:
                if error.code != "NotImplemented" or self._settings["fallback"] is False:
                    raise
                self._plain = True
        with tarfile.open(fileobj=io.BytesIO(self.get(bucket, key, version=version))) as tar:
            for found in tar:
                if found.isreg():
                    name = re.sub(r"^(\./)+", "", found.name)
                    sample, field = sample_key(name)
                    yield Member(name, found.offset_data, found.size, sample, field)

    # --- epochs -----------------------------------------------------------------------------------------------

    def dataset(self, bucket: str, prefix: str) -> dict[str, Any]:
        """What is known of a frozen dataset: objects, bytes, samples, manifest."""
        return self._json(f"/{bucket}/{prefix}", {"granary-dataset": ""})

    def epoch_batch(self, bucket: str, prefix: str, *, epoch: int, batch: int, batch_size: int, seed: int = 0,
                    rank: int = 0, world_size: int = 1) -> Batch:  # fmt: skip
        """One batch of an epoch over a frozen dataset: the same samples for the same arguments."""
        query = {
            "granary-epoch": str(epoch), "seed": str(seed), "rank": str(rank), "world-size": str(world_size),
            "batch": str(batch), "batch-size": str(batch_size),
        }  # fmt: skip
        answer = self._send("GET", f"/{bucket}/{prefix}", query)
        count = int(answer.headers.get("x-granary-batch-items", -1))
        if count < 0:
            answer.close()
            raise GranaryError(501, "NotImplemented", "the server is not Granary: epochs need one")
        batches = int(answer.headers["x-granary-rank-batches"])
        samples: list[Sample] = []
        for entry in self._entries(answer, count):
            key, field = sample_key(entry.name)
            if not samples or samples[-1].key != key or field in samples[-1].files:
                samples.append(Sample(key, {}))
            samples[-1].files[field] = entry.data
        return Batch(epoch, batch, batches, samples)

    def epoch(self, bucket: str, prefix: str, *, epoch: int, batch_size: int, seed: int = 0, rank: int = 0,
              world_size: int = 1, start: int = 0) -> Iterator[Batch]:  # fmt: skip
        """The batches of an epoch from `start` on."""
        index = start
        while True:
            try:
                got = self.epoch_batch(bucket, prefix, epoch=epoch, batch=index, batch_size=batch_size, seed=seed,
                                       rank=rank, world_size=world_size)  # fmt: skip
            except GranaryError as error:
                if error.code == "NoSuchBatch":
                    return
                raise
            yield got
            index += 1
            if index >= got.batches:
                return

    # --- the read cache ---------------------------------------------------------------------------------------

    def warm(self, bucket: str, prefix: str, *, pin: bool = False) -> Warmed:
        """Reads what lies under a prefix into the server's read cache, as much as fits; `pin`: to stay there until evicted.

        The answer comes when it is done: give the client a long `timeout`, or warm folder by folder.
        """
        got = self._json(f"/{bucket}/{prefix}", {"granary-warm": "pin" if pin else ""}, "POST")
        return Warmed(got["objects"], got["bytes"], got["isFull"])

    def evict(self, bucket: str, prefix: str) -> int:
        """Gives up what the server's read cache holds of a prefix, pinned or not: how many chunks."""
        return self._json(f"/{bucket}/{prefix}", {"granary-warm": "evict"}, "POST")["chunks"]

    # --- checkpoints ------------------------------------------------------------------------------------------

    def latest(self, bucket: str, run: str, *, marker: str | None = None, suffix: str | None = None) -> Checkpoint:
        """The newest complete checkpoint of a run; raises `Missing` if there is none."""
        run = run if run.endswith("/") or not run else run + "/"
        query = {"granary-latest": ""} | ({"marker": marker} if marker else {}) | ({"suffix": suffix} if suffix else {})
        got = self._json(f"/{bucket}/{run}", query)
        return Checkpoint(got["key"], got["step"], got["kind"], got["marker"], got["etag"], got["versionId"], got["size"])


def sample_key(name: str) -> tuple[str, str]:
    """WebDataset's grouping: up to the first dot of the file name, and what follows it."""
    folder, slash, base = name.rpartition("/")
    stem, _, field = base.partition(".")
    return folder + slash + stem, field


def _failure(status: int, body: bytes) -> GranaryError:
    def element(tag: bytes) -> str:
        found = re.search(rb"<%s>(.*?)</%s>" % (tag, tag), body, re.DOTALL)
        return found.group(1).decode(errors="replace") if found else ""

    code, message = element(b"Code") or str(status), element(b"Message") or body[:200].decode(errors="replace")
    if status in (404, 410) or code in ("NoSuchKey", "NoSuchMember", "NoSuchVersion", "NoSuchCheckpoint"):
        return Missing(status, code, message)
    return GranaryError(status, code, message)
