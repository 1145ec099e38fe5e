"""IAM and STS as boto3 and the AWS CLI speak them."""

from __future__ import annotations

import base64
import http.server
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.harness import ACCESS_KEY, SECRET_KEY, client_env

from .people import allow, client, deny, granary, name, refused, user

ROOT = {"access_key": ACCESS_KEY, "secret_key": SECRET_KEY}
READ_ALL = json.dumps({"Version": "2012-10-17", "Statement": [allow(["s3:Get*", "s3:List*"])]})


@pytest.fixture
def iam(server):
    return client(server, ROOT, "iam")


@pytest.fixture
def sts(server):
    return client(server, ROOT, "sts")


def pair(answer: dict) -> dict:
    key = answer["AccessKey"]
    return {"access_key": key["AccessKeyId"], "secret_key": key["SecretAccessKey"]}


def test_who_am_i(server, sts):
    mine = sts.get_caller_identity()
    assert mine["Arn"] == f"arn:aws:iam::{mine['Account']}:root" and len(mine["Account"]) == 12
    who, key = user(server)
    theirs = client(server, key, "sts").get_caller_identity()
    assert theirs["Arn"].endswith(f":user/{who}") and theirs["Account"] != mine["Account"]
    wrong = key | {"secret_key": "x" * 40}
    assert refused(lambda: client(server, wrong, "sts").get_caller_identity()) == (403, "SignatureDoesNotMatch")
    unknown = key | {"access_key": "AKIAUNKNOWN"}
    assert refused(lambda: client(server, unknown, "sts").get_caller_identity()) == (403, "InvalidClientTokenId")


def test_users_and_keys(server, iam, bucket):
    who = name("api")
    made = iam.create_user(UserName=who, Path="/team/", Tags=[{"Key": "k", "Value": "v & <w>"}])["User"]
    assert made["Arn"].endswith(f":user/team/{who}") and made["UserId"].startswith("AIDA")
    assert refused(lambda: iam.create_user(UserName=who)) == (409, "EntityAlreadyExists")
    assert iam.get_user(UserName=who)["User"]["Tags"] == [{"Key": "k", "Value": "v & <w>"}]
    assert who in [u["UserName"] for u in iam.list_users()["Users"]]
    assert refused(lambda: iam.get_user(UserName="nobody")) == (404, "NoSuchEntity")

    key = pair(iam.create_access_key(UserName=who))
    mine = client(server, key)
    assert refused(lambda: mine.list_objects_v2(Bucket=bucket)) == (403, "AccessDenied")
    iam.put_user_policy(UserName=who, PolicyName="read", PolicyDocument=READ_ALL)
    assert mine.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert iam.get_user_policy(UserName=who, PolicyName="read")["PolicyDocument"] == json.loads(READ_ALL)
    assert iam.list_user_policies(UserName=who)["PolicyNames"] == ["read"]
    assert refused(lambda: iam.delete_user(UserName=who)) == (409, "DeleteConflict")
    assert iam.get_access_key_last_used(AccessKeyId=key["access_key"])["UserName"] == who

    iam.update_access_key(UserName=who, AccessKeyId=key["access_key"], Status="Inactive")
    assert refused(lambda: mine.list_objects_v2(Bucket=bucket)) == (403, "InvalidAccessKeyId")
    assert iam.list_access_keys(UserName=who)["AccessKeyMetadata"][0]["Status"] == "Inactive"
    iam.delete_access_key(UserName=who, AccessKeyId=key["access_key"])
    iam.delete_user_policy(UserName=who, PolicyName="read")
    iam.update_user(UserName=who, NewUserName=f"{who}-2")
    iam.delete_user(UserName=f"{who}-2")
    assert refused(lambda: iam.get_user(UserName=who)) == (404, "NoSuchEntity")


def test_managed_policies_and_groups(server, iam, bucket):
    who, group, policy = name("api"), name("group"), name("managed")
    iam.create_user(UserName=who)
    mine = client(server, pair(iam.create_access_key(UserName=who)))
    arn = iam.create_policy(PolicyName=policy, PolicyDocument=READ_ALL, Description="d")["Policy"]["Arn"]
    assert iam.get_policy(PolicyArn=arn)["Policy"]["AttachmentCount"] == 0
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    assert iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"] == json.loads(READ_ALL)
    iam.create_group(GroupName=group)
    iam.attach_group_policy(GroupName=group, PolicyArn=arn)
    iam.add_user_to_group(GroupName=group, UserName=who)
    assert mine.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert [g["GroupName"] for g in iam.list_groups_for_user(UserName=who)["Groups"]] == [group]
    assert [u["UserName"] for u in iam.get_group(GroupName=group)["Users"]] == [who]
    assert [p["PolicyArn"] for p in iam.list_attached_group_policies(GroupName=group)["AttachedPolicies"]] == [arn]
    assert refused(lambda: iam.delete_policy(PolicyArn=arn)) == (409, "DeleteConflict")
    iam.put_user_policy(UserName=who, PolicyName="no", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": deny("s3:ListBucket")}))
    assert refused(lambda: mine.list_objects_v2(Bucket=bucket)) == (403, "AccessDenied")
    iam.remove_user_from_group(GroupName=group, UserName=who)
    iam.detach_group_policy(GroupName=group, PolicyArn=arn)
    iam.delete_group(GroupName=group)
    iam.delete_policy(PolicyArn=arn)
    # AWS's names of what is built in.
    iam.delete_user_policy(UserName=who, PolicyName="no")
    iam.attach_user_policy(UserName=who, PolicyArn="arn:aws:iam::aws:policy/AmazonS3ReadOnlyAccess")
    assert mine.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    attached = iam.list_attached_user_policies(UserName=who)["AttachedPolicies"]
    assert [p["PolicyName"] for p in attached] == ["readonly"]
    iam.detach_user_policy(UserName=who, PolicyArn=attached[0]["PolicyArn"])
    assert {"admin", "readwrite", "readonly", "auditor"} <= {p["PolicyName"] for p in iam.list_policies()["Policies"]}


def test_malformed_policies_say_why(iam):
    who = name("api")
    iam.create_user(UserName=who)
    document = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:Get", "Resource": "*"}]})
    with pytest.raises(ClientError, match="s3:Get") as caught:
        iam.put_user_policy(UserName=who, PolicyName="p", PolicyDocument=document)
    assert caught.value.response["Error"]["Code"] == "MalformedPolicyDocument"


def test_only_who_may_manages_and_only_its_own_account(server, iam):
    _, plain = user(server, "readwrite")
    assert refused(lambda: client(server, plain, "iam").create_user(UserName=name("x"))) == (403, "AccessDenied")
    who, key = user(server, "admin")
    admin = client(server, key, "iam")
    child = name("child")
    made = admin.create_user(UserName=child)["User"]
    assert made["Arn"].split(":")[4] == client(server, key, "sts").get_caller_identity()["Account"]
    assert child not in [u["UserName"] for u in iam.list_users()["Users"]]
    assert {who, child} == {u["UserName"] for u in admin.list_users()["Users"]}
    answer = admin.simulate_principal_policy(
        PolicySourceArn=made["Arn"], ActionNames=["s3:GetObject"], ResourceArns=["arn:aws:s3:::b/k"]
    )
    assert answer["EvaluationResults"][0]["EvalDecision"] == "implicitDeny"


def test_actions_that_are_not_there_are_named(iam):
    with pytest.raises(ClientError, match="CreateVirtualMFADevice") as caught:
        iam.create_virtual_mfa_device(VirtualMFADeviceName="x")
    assert caught.value.response["Error"]["Code"] == "InvalidAction"


def test_session_tokens(server, bucket):
    who, key = user(server, "readwrite")
    session = client(server, key, "sts").get_session_token(DurationSeconds=900)["Credentials"]
    mine = client(server, session)
    mine.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert client(server, session, "sts").get_caller_identity()["Arn"].endswith(f"user/{who}")
    bare = {k: v for k, v in session.items() if k != "SessionToken"}
    assert refused(lambda: client(server, bare).list_buckets()) == (400, "InvalidToken")
    token = session["SessionToken"]
    broken = session | {"SessionToken": token[:60] + ("A" if token[60] != "A" else "B") + token[61:]}
    assert refused(lambda: client(server, broken).list_buckets()) == (400, "InvalidToken")
    another = client(server, key, "sts").get_session_token()["Credentials"]
    mixed = session | {"SessionToken": another["SessionToken"]}
    assert refused(lambda: client(server, mixed).list_buckets()) == (400, "InvalidToken")
    url = mine.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"})
    import urllib.request

    assert urllib.request.urlopen(url).read() == b"x"
    granary(server, "user", "delete", who)
    assert refused(lambda: mine.list_buckets()) == (400, "InvalidToken")


def trust(principal: dict, action: str = "sts:AssumeRole", **more) -> str:
    statement = {"Effect": "Allow", "Principal": principal, "Action": action} | more
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


def test_assume_role(server, iam, bucket):
    who, key = user(server)
    arn = client(server, key, "sts").get_caller_identity()["Arn"]
    role = name("role")
    made = iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust({"AWS": arn}))["Role"]
    iam.put_role_policy(RoleName=role, PolicyName="p", PolicyDocument=READ_ALL)
    assert made["AssumeRolePolicyDocument"]["Statement"][0]["Principal"] == {"AWS": arn}
    assume = lambda key, **more: client(server, key, "sts").assume_role(RoleArn=made["Arn"], RoleSessionName="s-1", **more)
    # Another account's role: the caller's own account must allow it too.
    assert refused(lambda: assume(key)) == (403, "AccessDenied")
    granary(server, "policy", "attach", "admin", "--user", who)
    session = assume(key)["Credentials"]
    assert client(server, session, "sts").get_caller_identity()["Arn"].endswith(f"assumed-role/{role}/s-1")
    mine = client(server, session)
    assert mine.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert refused(lambda: mine.put_object(Bucket=bucket, Key="k", Body=b"")) == (403, "AccessDenied")
    # A session policy only narrows.
    policy = json.dumps({"Version": "2012-10-17", "Statement": [allow("s3:*", f"arn:aws:s3:::{bucket}/*")]})
    narrowed = client(server, assume(key, Policy=policy)["Credentials"])
    assert refused(lambda: narrowed.list_objects_v2(Bucket=bucket)) == (403, "AccessDenied")
    assert refused(lambda: narrowed.put_object(Bucket=bucket, Key="k", Body=b"")) == (403, "AccessDenied")
    stranger, other = user(server, "admin")
    assert refused(lambda: assume(other)) == (403, "AccessDenied")
    iam.update_assume_role_policy(RoleName=role, PolicyDocument=trust({"AWS": arn}, Condition={"StringEquals": {"sts:ExternalId": "42"}}))
    assert refused(lambda: assume(key)) == (403, "AccessDenied")
    assume(key, ExternalId="42")
    iam.delete_role_policy(RoleName=role, PolicyName="p")
    iam.delete_role(RoleName=role)
    assert refused(lambda: mine.list_objects_v2(Bucket=bucket)) == (400, "InvalidToken")


# --- web identity ----------------------------------------------------------------------------------------------


def text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def openssl(*arguments: str, given: bytes = b"") -> bytes:
    return subprocess.run(["openssl", *arguments], input=given, capture_output=True, check=True).stdout


def integers(der: bytes) -> list[int]:
    """The integers of a DER sequence (an ECDSA signature)."""
    at, found = 2, []
    while at < len(der):
        size = der[at + 1]
        found.append(int.from_bytes(der[at + 2 : at + 2 + size], "big"))
        at += 2 + size
    return found


class Issuer:
    """An OpenID Connect provider: a discovery document, a key set, and tokens. OpenSSL's command signs."""

    def __init__(self, folder: Path):
        self.rsa, self.ec = folder / "rsa.pem", folder / "ec.pem"
        openssl("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", str(self.rsa))
        openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(self.ec))
        modulus = openssl("rsa", "-in", str(self.rsa), "-noout", "-modulus").decode().strip().split("=")[1]
        # A P-256 public key in DER ends in its uncompressed point.
        point = openssl("pkey", "-in", str(self.ec), "-pubout", "-outform", "DER")[-64:]
        keys = [
            {"kty": "RSA", "kid": "r", "use": "sig", "n": text(bytes.fromhex(modulus)), "e": "AQAB"},
            {"kty": "EC", "kid": "e", "crv": "P-256", "x": text(point[:32]), "y": text(point[32:])},
        ]
        issuer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                documents = {
                    "/.well-known/openid-configuration": {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"},
                    "/keys": {"keys": keys},
                }
                body = json.dumps(documents.get(self.path, {})).encode()
                self.send_response(200 if self.path in documents else 404)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def token(self, algorithm: str = "RS256", **claims) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": "granary", "sub": "runner-7", "iat": now, "exp": now + 600} | claims
        head = {"alg": algorithm, "kid": "r" if algorithm == "RS256" else "e"}
        signed = f"{text(json.dumps(head).encode())}.{text(json.dumps(claims).encode())}"
        key = self.rsa if algorithm == "RS256" else self.ec
        signature = openssl("dgst", "-sha256", "-sign", str(key), given=signed.encode())
        if algorithm == "ES256":
            signature = b"".join(part.to_bytes(32, "big") for part in integers(signature))
        return f"{signed}.{text(signature)}"


@pytest.fixture
def issuer(tmp_path):
    running = Issuer(tmp_path)
    yield running
    running.server.shutdown()


def test_web_identity(server, iam, bucket, issuer, tmp_path_factory):
    provider = iam.create_open_id_connect_provider(Url=issuer.url, ClientIDList=["granary"])["OpenIDConnectProviderArn"]
    assert provider in [p["Arn"] for p in iam.list_open_id_connect_providers()["OpenIDConnectProviderList"]]
    host = issuer.url.removeprefix("http://")
    role = name("web")
    document = trust({"Federated": provider}, "sts:AssumeRoleWithWebIdentity",
                     Condition={"StringLike": {f"{host}:sub": "runner-*"}})  # fmt: skip
    arn = iam.create_role(RoleName=role, AssumeRolePolicyDocument=document)["Role"]["Arn"]
    iam.put_role_policy(RoleName=role, PolicyName="p", PolicyDocument=READ_ALL)
    nobody = client(server, None, "sts")

    def assume(token: str) -> dict:
        return nobody.assume_role_with_web_identity(RoleArn=arn, RoleSessionName="job", WebIdentityToken=token)

    for algorithm in ("RS256", "ES256"):
        answer = assume(issuer.token(algorithm))
        assert answer["SubjectFromWebIdentityToken"] == "runner-7" and answer["Audience"] == "granary"
        assert client(server, answer["Credentials"]).list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    assert refused(lambda: assume(issuer.token(sub="stranger"))) == (403, "AccessDenied")
    assert refused(lambda: assume(issuer.token(aud="other"))) == (400, "InvalidIdentityToken")
    assert refused(lambda: assume(issuer.token(exp=int(time.time()) - 600)))[0] == 400
    good = issuer.token()
    head, body, signature = good.split(".")
    forged = json.loads(base64.urlsafe_b64decode(body + "=="))
    forged["sub"] = "runner-8"
    assert refused(lambda: assume(f"{head}.{text(json.dumps(forged).encode())}.{signature}")) == (400, "InvalidIdentityToken")
    other = Issuer(tmp_path_factory.mktemp("other"))
    assert refused(lambda: assume(other.token())) == (400, "InvalidIdentityToken")
    other.server.shutdown()


# --- the AWS CLI --------------------------------------------------------------------------------------------------


def test_the_aws_command_line(server):
    aws = Path(sys.executable).parent / "aws"
    if not aws.exists():
        pytest.skip("the AWS CLI is not installed")

    def run(*arguments: str, env=None) -> dict:
        done = subprocess.run(
            [str(aws), *arguments, "--output", "json"], capture_output=True, text=True, timeout=120,
            env=env or client_env(server.endpoint),
        )  # fmt: skip
        assert done.returncode == 0, f"aws {' '.join(arguments)}: {done.stderr}"
        return json.loads(done.stdout) if done.stdout.strip() else {}

    who = name("cli")
    run("iam", "create-user", "--user-name", who)
    key = run("iam", "create-access-key", "--user-name", who)["AccessKey"]
    run("iam", "put-user-policy", "--user-name", who, "--policy-name", "p", "--policy-document", READ_ALL)
    mine = client_env(server.endpoint, AWS_ACCESS_KEY_ID=key["AccessKeyId"], AWS_SECRET_ACCESS_KEY=key["SecretAccessKey"])
    assert run("sts", "get-caller-identity", env=mine)["Arn"].endswith(who)
    assert isinstance(run("s3api", "list-buckets", env=mine)["Buckets"], list)
    run("iam", "delete-user-policy", "--user-name", who, "--policy-name", "p")
    run("iam", "delete-access-key", "--user-name", who, "--access-key-id", key["AccessKeyId"])
    run("iam", "delete-user", "--user-name", who)
