"""Notifications from the outside: S3's document, and what arrives at a webhook and at a real NATS server."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.server
import json
import os
import shutil
import socket
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path

import pytest

from tests.harness import Server, boto3_client, web
from tests.harness.server import ServerFailed, free_port

from .test_boto3_core import error

SECRET = "a secret of the test"
HOOK = "arn:granary:webhook:us-east-1::hook"
PATIENCE_SECONDS = 60


class Receiver:
    """An HTTP endpoint that keeps what it is sent. `broken` answers 503; `bad` answers 400 to keys with `bad` in them."""

    def __init__(self) -> None:
        self.events: list[dict] = []
        self.signatures_wrong = 0
        self.broken = False
        self.tries = 0
        self._lock = threading.Lock()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(receiver.take(self.headers, body))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/hook"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def take(self, headers, body) -> int:
        signed = hmac.new(SECRET.encode(), headers["X-Granary-Timestamp"].encode() + b"." + body, hashlib.sha256).hexdigest()
        with self._lock:
            self.tries += 1
            if headers["X-Granary-Signature"] != f"sha256={signed}":
                self.signatures_wrong += 1
            if self.broken:
                return 503
            document = json.loads(body)
            if "bad" in document.get("Records", [{}])[0].get("s3", {}).get("object", {}).get("key", ""):
                return 400
            self.events.append(document)
            return 200

    def of(self, bucket: str) -> list[dict]:
        with self._lock:
            records = [e["Records"][0] for e in self.events if "Records" in e]
        return [r for r in records if r["s3"]["bucket"]["name"] == bucket]

    def names(self, bucket: str) -> list[tuple[str, str]]:
        return [(r["eventName"], urllib.parse.unquote_plus(r["s3"]["object"]["key"])) for r in self.of(bucket)]


def wait_until(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def receiver():
    running = Receiver()
    yield running
    running.server.shutdown()


@pytest.fixture(scope="module")
def server(receiver, tmp_path_factory):
    secret = tmp_path_factory.mktemp("secrets") / "hook"
    secret.write_text(SECRET + "\n")
    hooks = f"hook={receiver.url};secret_file={secret},eventbridge={receiver.url};secret_file={secret}"
    with Server(env={"GRANARY_NOTIFY_WEBHOOK": hooks}) as running:
        running.start()
        yield running


def configure(s3, bucket, *queues, **more):
    configuration = {"QueueConfigurations": list(queues), **more}
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=configuration)


def queue(events, arn=HOOK, name=None, **filters):
    rules = [{"Name": k, "Value": v} for k, v in filters.items()]
    made = {"QueueArn": arn, "Events": events}
    return made | ({"Id": name} if name else {}) | ({"Filter": {"Key": {"FilterRules": rules}}} if rules else {})


# --- the document ------------------------------------------------------------------------------------------------


def test_document_round_trip(s3, bucket):
    plain = lambda: {k: v for k, v in s3.get_bucket_notification_configuration(Bucket=bucket).items() if k != "ResponseMetadata"}  # noqa: E731
    assert plain() == {}
    configuration = {
        "QueueConfigurations": [queue(["s3:ObjectCreated:*"], name="q", Prefix="in/", Suffix=".csv")],
        "TopicConfigurations": [{"Id": "t", "TopicArn": HOOK, "Events": ["s3:ObjectRemoved:*"]}],
        "LambdaFunctionConfigurations": [{"Id": "l", "LambdaFunctionArn": HOOK, "Events": ["s3:ObjectTagging:*"]}],
        "EventBridgeConfiguration": {},
    }
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration=configuration)
    assert plain() == configuration
    s3.put_bucket_notification_configuration(Bucket=bucket, NotificationConfiguration={})
    assert plain() == {}


@pytest.mark.parametrize(
    "queues",
    [
        [queue(["s3:ObjectCreated:*"], arn="arn:aws:sqs:us-east-1:123456789012:q")],
        [queue(["s3:ObjectEaten:*"])],
        [queue(["s3:ObjectCreated:*"], middle="x")],
        [queue(["s3:ObjectCreated:*"]), queue(["s3:ObjectCreated:Put"])],
        [queue(["s3:ObjectCreated:*"], Prefix="a"), queue(["s3:ObjectCreated:*"], Prefix="a/b")],
        [queue(["s3:ObjectCreated:*"], name="x", Prefix="a"), queue(["s3:ObjectCreated:*"], name="x", Prefix="b")],
    ],
)
def test_mistakes(s3, bucket, queues):
    assert error(lambda: configure(s3, bucket, *queues)) == (400, "InvalidArgument")


# --- what arrives ------------------------------------------------------------------------------------------------


def test_a_test_event_comes_first(s3, bucket, receiver):
    configure(s3, bucket, queue(["s3:ObjectCreated:*"]))
    wait_until(lambda: any(e.get("Event") == "s3:TestEvent" and e["Bucket"] == bucket for e in receiver.events))


def test_every_way_of_writing_has_its_event(s3, bucket, receiver):
    s3.put_object(Bucket=bucket, Key="before", Body=b"x")
    configure(s3, bucket, queue(["s3:ObjectCreated:*", "s3:ObjectRemoved:*", "s3:ObjectTagging:*"], name="all"))
    etag = s3.put_object(Bucket=bucket, Key="k ü", Body=b"hello")["ETag"]
    s3.copy_object(Bucket=bucket, Key="copy", CopySource={"Bucket": bucket, "Key": "k ü"})
    upload = s3.create_multipart_upload(Bucket=bucket, Key="multi")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="multi", UploadId=upload, PartNumber=1, Body=b"part")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(Bucket=bucket, Key="multi", UploadId=upload, MultipartUpload=parts)
    s3.put_object_tagging(Bucket=bucket, Key="copy", Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    form = s3.generate_presigned_post(bucket, "form")
    assert web.post_form(form["url"], form["fields"], b"x").status == 204
    s3.delete_object(Bucket=bucket, Key="k ü")
    s3.delete_object(Bucket=bucket, Key="never was")
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "multi"}]})
    expected = [
        ("ObjectCreated:Put", "k ü"), ("ObjectCreated:Copy", "copy"), ("ObjectCreated:CompleteMultipartUpload", "multi"),
        ("ObjectTagging:Put", "copy"), ("ObjectCreated:Post", "form"), ("ObjectRemoved:Delete", "k ü"), ("ObjectRemoved:Delete", "multi"),
    ]  # fmt: skip
    wait_until(lambda: len(receiver.names(bucket)) >= len(expected))
    # In order along each key; between keys there is none.
    assert sorted(receiver.names(bucket)) == sorted(expected)
    first = next(r for r in receiver.of(bucket) if r["eventName"] == "ObjectCreated:Put")
    assert first["eventSource"] == "aws:s3" and first["eventVersion"].startswith("2.")
    assert first["s3"]["configurationId"] == "all"
    assert first["s3"]["object"]["size"] == 5 and f'"{first["s3"]["object"]["eTag"]}"' == etag
    assert first["requestParameters"]["sourceIPAddress"] == "127.0.0.1"
    assert first["responseElements"]["x-amz-request-id"]
    assert "versionId" not in first["s3"]["object"]
    assert receiver.signatures_wrong == 0


def test_versions_filters_and_event_bridge(s3, bucket, receiver):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    configure(s3, bucket, queue(["s3:ObjectRemoved:*"], Prefix="in/", Suffix=".csv"), EventBridgeConfiguration={})
    version = s3.put_object(Bucket=bucket, Key="in/a.csv", Body=b"x")["VersionId"]
    s3.put_object(Bucket=bucket, Key="out/a.csv", Body=b"x")
    marker = s3.delete_object(Bucket=bucket, Key="in/a.csv")["VersionId"]
    s3.delete_object(Bucket=bucket, Key="out/a.csv")
    s3.delete_object(Bucket=bucket, Key="in/a.csv", VersionId=version)
    wait_until(lambda: len(receiver.of(bucket)) >= 7)
    told = lambda rule: [  # noqa: E731
        (r["eventName"], r["s3"]["object"]["key"], r["s3"]["object"]["versionId"])
        for r in receiver.of(bucket) if (r["s3"]["configurationId"] == "eventbridge") == (rule == "eventbridge")
    ]  # fmt: skip
    assert told("queue") == [
        ("ObjectRemoved:DeleteMarkerCreated", "in/a.csv", marker), ("ObjectRemoved:Delete", "in/a.csv", version),
    ]  # fmt: skip
    assert len(told("eventbridge")) == 5


def test_order_along_a_key(s3, bucket, receiver):
    configure(s3, bucket, queue(["s3:ObjectCreated:*"]))
    for n in range(40):
        for key in ("a", "b", "c"):
            s3.put_object(Bucket=bucket, Key=key, Body=b"x" * (n + 1))
    wait_until(lambda: len(receiver.of(bucket)) >= 120)
    for key in ("a", "b", "c"):
        objects = [r["s3"]["object"] for r in receiver.of(bucket) if r["s3"]["object"]["key"] == key]
        assert [o["size"] for o in objects] == list(range(1, 41))
        assert [o["sequencer"] for o in objects] == sorted(o["sequencer"] for o in objects)


def test_nothing_is_lost_while_the_target_is_away_and_the_server_is_killed(server, s3, bucket, receiver):
    configure(s3, bucket, queue(["s3:ObjectCreated:*"]))
    receiver.broken = True
    try:
        for n in range(30):
            s3.put_object(Bucket=bucket, Key=f"k{n:02}", Body=b"x")
        tries = receiver.tries
        wait_until(lambda: receiver.tries > tries)
        server.kill()
        server.start()
        page = server.admin_get("/metrics")[1]
        waiting = [line for line in page.splitlines() if line.startswith("granary_notify_waiting_events") and "hook" in line]
        assert any(float(line.split()[-1]) >= 30 for line in waiting), waiting
    finally:
        receiver.broken = False
    wait_until(lambda: {key for _, key in receiver.names(bucket)} == {f"k{n:02}" for n in range(30)})
    metric = f'granary_notify_waiting_events{{target="{HOOK}"}} 0'
    wait_until(lambda: metric in server.admin_get("/metrics")[1])


def test_what_a_target_refuses_for_good_does_not_block_it(server, s3, bucket, receiver):
    configure(s3, bucket, queue(["s3:ObjectCreated:*"]))
    s3.put_object(Bucket=bucket, Key="a bad one", Body=b"x")
    s3.put_object(Bucket=bucket, Key="a good one", Body=b"x")
    wait_until(lambda: receiver.names(bucket) == [("ObjectCreated:Put", "a good one")])
    given_up = f'granary_notify_events_total{{event="given_up",target="{HOOK}"}} 1'
    wait_until(lambda: given_up in server.admin_get("/metrics")[1])


# --- NATS ------------------------------------------------------------------------------------------------------


class NatsServer:
    """A real one, for one user who may publish what `may_publish` says (and to inboxes)."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder, self.port = program, folder, free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, may_publish: str = ">") -> None:
        rights = json.dumps({"publish": [may_publish, "_INBOX.>", "$JS.>"], "subscribe": [">"]})
        config = self.folder / "nats.conf"
        config.write_text(
            f'listen: "127.0.0.1:{self.port}"\njetstream {{ store_dir: "{self.folder}/js" }}\n'
            f'authorization {{ users: [{{ user: "granary", password: "nats-pass", permissions: {rights} }}] }}\n'
        )
        with (self.folder / "nats.log").open("ab") as log:
            self.process = subprocess.Popen([self.program, "-c", str(config)], stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            assert time.monotonic() < deadline and self.process.poll() is None, (self.folder / "nats.log").read_text()
            time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(60)


@pytest.fixture
def nats(tmp_path):
    path = f"{os.environ['PATH']}:/usr/sbin"
    program = shutil.which("nats-server", path=path)
    if program is None:
        subprocess.run(["apt-get", "install", "-y", "-q", "nats-server"], capture_output=True, timeout=300, check=False)
        program = shutil.which("nats-server", path=path)
    if program is None:
        pytest.skip("nats-server (Debian package nats-server) is not installed, and apt-get could not install it")
    server = NatsServer(program, tmp_path)
    server.start()
    yield server
    server.stop()


class NatsClient:
    """As much of the protocol as a test needs."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.socket.settimeout(30)
        self.file = self.socket.makefile("rb")
        assert self.file.readline().startswith(b"INFO ")
        self.send(b'CONNECT {"verbose":false,"user":"granary","pass":"nats-pass","headers":true}\r\nPING\r\n')
        assert self.file.readline() == b"PONG\r\n"

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def message(self) -> tuple[bytes, bytes]:
        while True:
            line = self.file.readline()
            words = line.split()
            if words[0] == b"PING":
                self.send(b"PONG\r\n")
            elif words[0] in (b"MSG", b"HMSG"):
                payload = self.file.read(int(words[-1]) + 2)[:-2]
                head = int(words[-2]) if words[0] == b"HMSG" else 0
                return payload[:head], payload[head:]

    def request(self, subject: str, body: bytes) -> dict:
        self.send(b"SUB _INBOX.test 9\r\nPUB %b _INBOX.test %d\r\n%b\r\n" % (subject.encode(), len(body), body))
        answer = json.loads(self.message()[1])
        self.send(b"UNSUB 9\r\n")
        return answer


NATS = "arn:granary:nats:us-east-1::n"


@contextlib.contextmanager
def publishing(nats: NatsServer, tmp_path: Path, more: str = ""):
    """A node with that target, and a bucket `events` whose new objects are told to it."""
    secret = tmp_path / "nats"
    secret.write_text("granary:nats-pass\n")
    target = f"n=nats://127.0.0.1:{nats.port};subject=granary.events;secret_file={secret}{more}"
    with Server(env={"GRANARY_NOTIFY_NATS": target}) as running:
        try:
            running.start()
        except ServerFailed as failed:
            if "built without NATS" in str(failed):
                pytest.skip("this binary was built without the cargo feature `nats`")
            raise
        s3 = boto3_client(running.endpoint)
        s3.create_bucket(Bucket="events")
        configure(s3, "events", queue(["s3:ObjectCreated:*"], arn=NATS))
        yield running, s3


def listen(nats: NatsServer) -> NatsClient:
    listener = NatsClient(nats.port)
    listener.send(b"SUB granary.events 1\r\nPING\r\n")
    assert listener.file.readline() == b"PONG\r\n"
    return listener


def keys_until(listener: NatsClient, wanted: set[str]) -> list[str]:
    """Keys in the order that they come, until all of `wanted` have."""
    found: list[str] = []
    while not wanted <= set(found):
        event = json.loads(listener.message()[1])
        found += [record["s3"]["object"]["key"] for record in event.get("Records", [])]
    return found


def waits_for(running: Server, count: int) -> bool:
    return f'granary_notify_waiting_events{{target="{NATS}"}} {count}\n' in running.admin_get("/metrics")[1]


@pytest.mark.parametrize("jetstream", [False, True])
def test_nats(nats, tmp_path, jetstream):
    if jetstream:
        made = NatsClient(nats.port).request("$JS.API.STREAM.CREATE.S", json.dumps({"name": "S", "subjects": ["granary.events"]}).encode())
        assert "error" not in made, made
    listener = listen(nats)
    with publishing(nats, tmp_path, ";jetstream=true" if jetstream else "") as (running, s3):
        assert json.loads(listener.message()[1])["Event"] == "s3:TestEvent"
        for n in range(10):
            s3.put_object(Bucket="events", Key=f"k{n}", Body=b"x")
        assert sorted(keys_until(listener, {f"k{n}" for n in range(10)})) == [f"k{n}" for n in range(10)]
        wait_until(lambda: waits_for(running, 0))


def test_nats_that_goes_away_and_comes_back(nats, tmp_path):
    with publishing(nats, tmp_path) as (running, s3):
        wait_until(lambda: waits_for(running, 0))
        nats.stop()
        for n in range(5):
            s3.put_object(Bucket="events", Key=f"k{n}", Body=b"x")
        s3.put_object(Bucket="events", Key="k0", Body=b"again")
        assert waits_for(running, 6), "nobody has taken them"
        running.kill()
        running.start()
        nats.start()
        # Whoever listens late has missed what came before: plain NATS keeps nothing.
        wait_until(lambda: waits_for(running, 0))
        listener = listen(nats)
        s3.put_object(Bucket="events", Key="last", Body=b"x")
        keys_until(listener, {"last"})
        wait_until(lambda: waits_for(running, 0))


def test_nats_that_refuses_the_subject(nats, tmp_path):
    """The server says so on the side, and answers what follows: an event that nobody was given is not delivered."""
    nats.stop()
    nats.start(may_publish="elsewhere")
    with publishing(nats, tmp_path) as (running, s3):
        s3.put_object(Bucket="events", Key="k", Body=b"x")
        wait_until(lambda: f'granary_notify_events_total{{event="failed_tries",target="{NATS}"}} 0' not in running.admin_get("/metrics")[1])
        wait_until(lambda: "ermissions" in running.log())
        assert waits_for(running, 2), "the test event and the object's"
        nats.stop()
        nats.start()
        wait_until(lambda: waits_for(running, 0))
