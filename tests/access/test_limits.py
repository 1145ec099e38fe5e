"""Limits that are settings: how far clocks may be apart, how much guessing is borne, whose tokens are taken."""

from __future__ import annotations

import datetime
import sys
import ssl
from pathlib import Path

import botocore.auth
import pytest

from tests.harness import RawClient, Server
from tests.harness.server import ServerFailed
from tests.trust.test_tls import issue

from .people import client, name, refused, user
from .test_guessing import codes
from .test_iam_api import READ_ALL, ROOT, Issuer, trust


def at(server: Server, seconds: int) -> tuple[int, str]:
    """What a client is answered whose clock is so many seconds ahead."""
    raw = RawClient("127.0.0.1", server.port)
    raw.clock_s = seconds
    reply = raw.request("GET", "")
    return reply.status, reply.code


def test_clocks_may_differ_by_as_much_as_is_set(monkeypatch):
    with Server() as server:
        server.start()
        assert [at(server, s)[0] for s in (0, 600, -600)] == [200, 200, 200]
        assert at(server, -960) == at(server, 960) == (403, "RequestTimeTooSkewed")
        server.stop()
        server.env["GRANARY_IDENTITY_CLOCK_SKEW_MAX_MS"] = "60000"
        server.start()
        assert [at(server, s)[0] for s in (0, 30, -30)] == [200, 200, 200]
        assert at(server, -120) == at(server, 120) == (403, "RequestTimeTooSkewed")
        # IAM and STS, and the old signatures.
        sts = client(server, ROOT, "sts")
        sts.get_caller_identity()
        old = client(server, ROOT, signature_version="s3")
        old.list_buckets()
        then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=120)
        # botocore signs with awscrt where that is installed.
        for module in filter(None, (botocore.auth, sys.modules.get("botocore.crt.auth"))):
            now = lambda remove_tzinfo=True: then.replace(tzinfo=None) if remove_tzinfo else then  # noqa: E731
            monkeypatch.setattr(module, "get_current_datetime", now)
        monkeypatch.setattr(botocore.auth, "formatdate", lambda usegmt=True: then.strftime("%a, %d %b %Y %H:%M:%S GMT"))
        assert refused(sts.get_caller_identity)[0] == 403
        assert refused(old.list_buckets) == (403, "RequestTimeTooSkewed")


def test_guesses_are_borne_as_long_as_is_set():
    limits = {"GRANARY_IDENTITY_GUESSES_PER_KEY_MAX": "10", "GRANARY_IDENTITY_GUESSES_PER_KEY_FORGIVEN_PER_SECOND": "1"}
    with Server(env=limits) as server:
        server.start()
        _, mine = user(server, "readwrite")
        _, target = user(server, "readwrite")
        wrong = client(server, target | {"secret_key": "w" * 40})
        seen = codes(wrong, 40)
        assert seen["SignatureDoesNotMatch"] >= 10 and seen["SlowDown"] >= 10 and sum(seen.values()) == 40, seen
        # Another key from the same address is not meant.
        assert codes(client(server, mine), 5) == {"fine": 5}


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("CLOCK_SKEW_MAX_MS", "4999"),
        ("CLOCK_SKEW_MAX_MS", "900001"),
        ("OIDC_CLOCK_SKEW_MAX_MS", "300001"),
        ("GUESSES_PER_KEY_MAX", "9"),
        ("GUESSES_PER_ADDRESS_MAX", "1000001"),
        ("GUESSES_PER_ADDRESS_FORGIVEN_PER_SECOND", "0"),
        ("OIDC_ISSUERS", "http://id.example.org"),
    ],
)
def test_what_is_out_of_range_is_refused_with_the_range(setting, value):
    with Server(env={f"GRANARY_IDENTITY_{setting}": value}) as server:
        with pytest.raises(ServerFailed):
            server.start()
        assert f"identity.{setting.lower()}" in server.log() and value in server.log()


def secure_issuer(folder: Path) -> Issuer:
    """An issuer over https, its certificate by an authority of its own."""
    issuer = Issuer(folder)
    issue(folder, "ca")
    issue(folder, "issuer", "ca")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "issuer.crt", folder / "issuer.key")
    issuer.server.socket = context.wrap_socket(issuer.server.socket, server_side=True)
    issuer.url = issuer.url.replace("http://", "https://")
    return issuer


def role_for(server: Server, provider: str) -> str:
    iam = client(server, ROOT, "iam")
    role = name("web")
    document = trust({"Federated": provider}, "sts:AssumeRoleWithWebIdentity")
    arn = iam.create_role(RoleName=role, AssumeRolePolicyDocument=document)["Role"]["Arn"]
    iam.put_role_policy(RoleName=role, PolicyName="p", PolicyDocument=READ_ALL)
    return arn


def test_tokens_are_taken_from_the_issuers_that_are_named_and_vouched_for(tmp_path):
    for folder in ("named", "other"):
        (tmp_path / folder).mkdir()
    named, other = secure_issuer(tmp_path / "named"), Issuer(tmp_path / "other")
    with Server() as server:
        server.start()
        iam = client(server, ROOT, "iam")
        make = lambda issuer: iam.create_open_id_connect_provider(Url=issuer.url, ClientIDList=["granary"])["OpenIDConnectProviderArn"]  # noqa: E731
        roles = {issuer.url: role_for(server, make(issuer)) for issuer in (named, other)}

        def assume(issuer: Issuer, **claims) -> dict:
            return client(server, None, "sts").assume_role_with_web_identity(
                RoleArn=roles[issuer.url], RoleSessionName="job", WebIdentityToken=issuer.token(**claims)
            )

        # Nothing said: every provider's, but this one's certificate is not the system's to vouch for.
        assert assume(other)["SubjectFromWebIdentityToken"] == "runner-7"
        assert refused(lambda: assume(named)) == (400, "IDPCommunicationError")
        server.stop()
        server.env |= {
            "GRANARY_IDENTITY_OIDC_ISSUERS": named.url,
            "GRANARY_IDENTITY_OIDC_CA_FILE": str(tmp_path / "named" / "ca.crt"),
            "GRANARY_IDENTITY_OIDC_CLOCK_SKEW_MAX_MS": "10000",
        }
        server.start()
        iam = client(server, ROOT, "iam")
        assert assume(named)["SubjectFromWebIdentityToken"] == "runner-7"
        assert refused(lambda: assume(other)) == (400, "InvalidIdentityToken")
        third = Issuer(tmp_path)
        assert refused(lambda: make(third)) == (400, "ValidationError")
        third.server.shutdown()
        # The issuer's clock: ten seconds and no more.
        import time

        now = int(time.time())
        assert refused(lambda: assume(named, exp=now - 30))[0] == 400
        assert refused(lambda: assume(named, nbf=now + 120)) == (400, "InvalidIdentityToken")
        assert assume(named, exp=now - 1)["Audience"] == "granary"
    for issuer in (named, other):
        issuer.server.shutdown()
