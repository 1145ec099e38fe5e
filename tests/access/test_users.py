"""Users, keys and policies by the command line, and what they mean to S3 clients."""

from __future__ import annotations

import json

import pytest

from .people import allow, client, deny, granary, name, put_policy, refused, user

DENIED = (403, "AccessDenied")


def test_a_new_user_may_nothing(server, bucket):
    who, key = user(server)
    mine = client(server, key)
    assert refused(lambda: mine.list_buckets()) == DENIED
    assert refused(lambda: mine.list_objects_v2(Bucket=bucket)) == DENIED
    assert refused(lambda: mine.put_object(Bucket=bucket, Key="k", Body=b"x")) == DENIED
    assert refused(lambda: mine.create_bucket(Bucket=name("new"))) == DENIED


def test_built_in_policies(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"bytes")
    _, key = user(server, "readonly")
    reader = client(server, key)
    assert reader.get_object(Bucket=bucket, Key="k")["Body"].read() == b"bytes"
    assert reader.list_objects_v2(Bucket=bucket)["KeyCount"] == 1
    assert refused(lambda: reader.put_object(Bucket=bucket, Key="k", Body=b"")) == DENIED
    assert refused(lambda: reader.delete_object(Bucket=bucket, Key="k")) == DENIED

    _, key = user(server, "readwrite")
    writer = client(server, key)
    writer.put_object(Bucket=bucket, Key="k2", Body=b"x")
    writer.delete_object(Bucket=bucket, Key="k2")
    assert refused(lambda: client(server, key, "iam").list_users()) == DENIED

    _, key = user(server, "auditor")
    auditor = client(server, key)
    assert auditor.get_bucket_versioning(Bucket=bucket)["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert refused(lambda: auditor.get_object(Bucket=bucket, Key="k")) == DENIED


def test_buckets_belong_to_their_account(server, s3):
    _, a = user(server, "readwrite")
    _, b = user(server, "readwrite")
    one, two = client(server, a), client(server, b)
    bucket = name("own")
    one.create_bucket(Bucket=bucket)
    one.put_object(Bucket=bucket, Key="k", Body=b"x")
    assert bucket in [x["Name"] for x in one.list_buckets()["Buckets"]]
    assert bucket not in [x["Name"] for x in two.list_buckets()["Buckets"]]
    assert refused(lambda: two.get_object(Bucket=bucket, Key="k")) == DENIED
    assert refused(lambda: two.create_bucket(Bucket=bucket)) == (409, "BucketAlreadyExists")
    assert s3.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x", "the root keys may do everything"
    # The bucket's policy lets the other account in, and its own policies let it go.
    owner_id = two.list_buckets()["Owner"]["ID"]
    statement = {"Effect": "Allow", "Principal": {"CanonicalUser": owner_id}, "Action": "s3:GetObject",
                 "Resource": f"arn:aws:s3:::{bucket}/*"}  # fmt: skip
    one.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": statement}))
    assert two.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    assert refused(lambda: two.put_object(Bucket=bucket, Key="k", Body=b"")) == DENIED
    _, c = user(server)
    assert refused(lambda: client(server, c).get_object(Bucket=bucket, Key="k")) == DENIED


def test_users_of_one_account_share_it(server):
    who, key = user(server, "readwrite")
    _, other = user(server, "readwrite", account=who)
    bucket = name("shared")
    client(server, key).create_bucket(Bucket=bucket)
    assert client(server, other).list_objects_v2(Bucket=bucket)["KeyCount"] == 0


def test_known_keys_are_brought_along(server, bucket, tmp_path):
    who, _ = user(server, "readwrite")
    secret = tmp_path / "secret"
    secret.write_text("a+known/secret-key-0123456789\n")
    access_key = name("KNOWN").replace("-", "")
    pair = {"access_key": access_key, "secret_key": "a+known/secret-key-0123456789"}
    granary(server, "key", "create", "--user", who, "--access-key", access_key, "--secret-key-file", str(secret))
    mine = client(server, pair)
    mine.put_object(Bucket=bucket, Key="k", Body=b"x")
    granary(server, "key", "disable", "--user", who, "--access-key", access_key)
    assert refused(lambda: mine.get_object(Bucket=bucket, Key="k")) == (403, "InvalidAccessKeyId")
    granary(server, "key", "enable", access_key)
    assert mine.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    listed = {k["access_key"]: k for k in granary(server, "key", "list", "--user", who)}
    assert listed[access_key]["status"] == "active" and listed[access_key]["last_used"]
    assert not any("secret" in field for key in listed.values() for field in key)
    granary(server, "key", "delete", access_key)
    assert refused(lambda: mine.get_object(Bucket=bucket, Key="k")) == (403, "InvalidAccessKeyId")


def test_a_deleted_user_is_gone_with_its_keys(server, bucket):
    who, key = user(server, "readwrite")
    granary(server, "user", "delete", who)
    assert refused(lambda: client(server, key).list_buckets()) == (403, "InvalidAccessKeyId")
    assert who not in [u["name"] for u in granary(server, "user", "list")]
    done = server.cli("policy", "attach", "readwrite", "--user", who)
    assert done.returncode == 1 and who in done.stderr


def test_groups(server, bucket):
    group = name("team")
    granary(server, "group", "create", group)
    granary(server, "policy", "attach", "readwrite", "--group", group)
    who, key = user(server)
    mine = client(server, key)
    assert refused(lambda: mine.list_objects_v2(Bucket=bucket)) == DENIED
    granary(server, "group", "add", group, "--user", who)
    assert mine.list_objects_v2(Bucket=bucket)["KeyCount"] == 0
    granary(server, "group", "remove", group, "--user", who)
    assert refused(lambda: mine.list_objects_v2(Bucket=bucket)) == DENIED


def test_own_policies_conditions_and_denials(server, s3, bucket):
    for key in ("home/a", "other/b"):
        s3.put_object(Bucket=bucket, Key=key, Body=b"x")
    policy = put_policy(
        server,
        name("policy"),
        allow("s3:ListBucket", f"arn:aws:s3:::{bucket}", Condition={"StringLike": {"s3:prefix": "home/*"}}),
        allow(["s3:GetObject", "s3:PutObject"], f"arn:aws:s3:::{bucket}/*"),
        deny("s3:*", f"arn:aws:s3:::{bucket}/other/*", Sid="NotOther"),
        deny("s3:PutObject", Condition={"StringEquals": {"s3:x-amz-storage-class": "ONEZONE_IA"}}, Sid="NoCheap"),
        deny("s3:GetObject", Condition={"NotIpAddress": {"aws:SourceIp": "127.0.0.0/8"}}),
    )
    who, key = user(server, policy)
    mine = client(server, key)
    assert mine.list_objects_v2(Bucket=bucket, Prefix="home/")["KeyCount"] == 1
    assert refused(lambda: mine.list_objects_v2(Bucket=bucket)) == DENIED
    assert mine.get_object(Bucket=bucket, Key="home/a")["Body"].read() == b"x"
    assert refused(lambda: mine.get_object(Bucket=bucket, Key="other/b")) == DENIED
    mine.put_object(Bucket=bucket, Key="home/c", Body=b"x")
    assert refused(lambda: mine.put_object(Bucket=bucket, Key="home/c", Body=b"", StorageClass="ONEZONE_IA")) == DENIED
    # Who may not list where a key would be is not told that it is missing.
    assert refused(lambda: mine.get_object(Bucket=bucket, Key="none"))[0] == 403
    assert refused(lambda: mine.get_object(Bucket=bucket, Key="home/none")) == (404, "NoSuchKey")
    assert refused(lambda: s3.get_object(Bucket=bucket, Key="home/none")) == (404, "NoSuchKey")
    # A multi-delete refuses key by key.
    answer = mine.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "home/a"}, {"Key": "other/b"}]})
    assert sorted(e["Key"] for e in answer["Errors"]) == ["home/a", "other/b"]
    assert {e["Code"] for e in answer["Errors"]} == {"AccessDenied"}

    def explain(action, resource, *more):
        return granary(server, "policy", "explain", "--as", key["access_key"], "--action", action, "--resource", resource, *more)

    answer = explain("s3:GetObject", f"arn:aws:s3:::{bucket}/other/b")
    assert (answer["decision"], answer["statement"], answer["policy"]) == ("deny", "NotOther", policy)
    answer = explain("s3:GetObject", f"{bucket}/home/a", "--context", "aws:SourceIp=127.0.0.1")
    assert (answer["decision"], answer["statement"]) == ("allow", "#2")
    answer = explain("s3:GetObject", f"{bucket}/home/a", "--context", "aws:SourceIp=8.8.8.8")
    assert (answer["decision"], answer["statement"]) == ("deny", "#5")
    assert explain("s3:DeleteObject", f"{bucket}/home/a")["decision"] == "deny"
    text = server.cli("policy", "explain", "--as", who, "--action", "GetObject", "--resource", f"{bucket}/other/b")
    assert text.returncode == 0 and text.stdout.startswith("DENY s3:GetObject") and "NotOther" in text.stdout


def test_existing_tags_count(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="blue", Body=b"x", Tagging="team=blue")
    s3.put_object(Bucket=bucket, Key="red", Body=b"x", Tagging="team=red")
    policy = put_policy(
        server,
        name("tags"),
        allow("s3:GetObject", f"arn:aws:s3:::{bucket}/*", Condition={"StringEquals": {"s3:ExistingObjectTag/team": "blue"}}),
        allow("s3:PutObjectTagging", f"arn:aws:s3:::{bucket}/*",
              Condition={"ForAllValues:StringEquals": {"s3:RequestObjectTagKeys": ["team"]}}),
    )  # fmt: skip
    _, key = user(server, policy)
    mine = client(server, key)
    assert mine.get_object(Bucket=bucket, Key="blue")["Body"].read() == b"x"
    assert refused(lambda: mine.get_object(Bucket=bucket, Key="red")) == DENIED
    tags = lambda *keys: {"TagSet": [{"Key": k, "Value": "blue"} for k in keys]}
    assert refused(lambda: mine.put_object_tagging(Bucket=bucket, Key="red", Tagging=tags("team", "x"))) == DENIED
    mine.put_object_tagging(Bucket=bucket, Key="red", Tagging=tags("team"))
    assert mine.get_object(Bucket=bucket, Key="red")["Body"].read() == b"x"


def test_copies_need_both_sides(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="in/a", Body=b"x")
    write = put_policy(server, name("write"), allow("s3:PutObject", f"arn:aws:s3:::{bucket}/out/*"))
    who, key = user(server, write)
    mine = client(server, key)
    copy = lambda: mine.copy_object(Bucket=bucket, Key="out/a", CopySource={"Bucket": bucket, "Key": "in/a"})
    assert refused(copy) == DENIED
    read = put_policy(server, name("read"), allow("s3:GetObject", f"arn:aws:s3:::{bucket}/in/*"))
    granary(server, "policy", "attach", read, "--user", who)
    copy()
    granary(server, "policy", "detach", write, "--user", who)
    assert refused(copy) == DENIED


def test_anonymous_only_where_it_was_opened(server, s3, bucket):
    s3.put_object(Bucket=bucket, Key="open/a", Body=b"x")
    nobody = client(server, None)
    assert refused(lambda: nobody.get_object(Bucket=bucket, Key="open/a")) == DENIED
    assert refused(lambda: nobody.list_buckets()) == DENIED
    statement = {"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/open/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": statement})
    assert refused(lambda: s3.put_bucket_policy(Bucket=bucket, Policy=policy)) == DENIED, "new buckets block public policies"
    s3.delete_public_access_block(Bucket=bucket)
    s3.put_bucket_policy(Bucket=bucket, Policy=policy)
    assert nobody.get_object(Bucket=bucket, Key="open/a")["Body"].read() == b"x"
    assert refused(lambda: nobody.put_object(Bucket=bucket, Key="open/a", Body=b"")) == DENIED
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration={"RestrictPublicBuckets": True})
    assert refused(lambda: nobody.get_object(Bucket=bucket, Key="open/a")) == DENIED


def test_root_is_bound_by_a_bucket_policy_but_can_take_it_away(server, s3, bucket):
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:*",
                 "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]}  # fmt: skip
    s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": statement}))
    assert refused(lambda: s3.put_object(Bucket=bucket, Key="k", Body=b"")) == DENIED
    s3.delete_bucket_policy(Bucket=bucket)
    s3.put_object(Bucket=bucket, Key="k", Body=b"")


def test_service_accounts_narrow_their_user(server, bucket, tmp_path):
    who, _ = user(server, "readwrite")
    narrow = tmp_path / "narrow.json"
    narrow.write_text(json.dumps({"Version": "2012-10-17", "Statement": [allow("s3:*", f"arn:aws:s3:::{bucket}/in/*"), allow("iam:*")]}))
    key = granary(server, "key", "create", "--user", who, "--service-account", "ci", "--policy-file", str(narrow))
    mine = client(server, key)
    mine.put_object(Bucket=bucket, Key="in/a", Body=b"x")
    assert refused(lambda: mine.put_object(Bucket=bucket, Key="out/a", Body=b"")) == DENIED
    assert refused(lambda: client(server, key, "iam").list_users()) == DENIED, "a limit allows nothing by itself"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["user", "create", "no spaces allowed"], "user name"),
        (["user", "create", "root"], "already exists"),
        (["user", "delete", "nobody-of-that-name"], "nobody-of-that-name"),
        (["policy", "attach", "no-such-policy", "--user", "x"], "user with name x"),
        (["key", "disable", "NOSUCHKEY"], "NOSUCHKEY"),
        (["key", "create", "--user", "x"], "user with name x"),
        (["policy", "explain", "--as", "NOSUCHKEY", "--action", "s3:GetObject", "--resource", "b/k"], "NOSUCHKEY"),
    ],
)
def test_errors_say_what_is_wrong(server, arguments, says):
    done = server.cli(*arguments)
    assert done.returncode == 1 and says in done.stderr, done


def test_everything_survives_kill_9_and_secrets_are_nowhere(tmp_path):
    from tests.harness import Server

    with Server() as server:
        server.start()
        _, key = user(server, "readwrite")
        own = client(server, key)
        bucket = name("kept")
        own.create_bucket(Bucket=bucket)
        session = client(server, key, "sts").get_session_token()["Credentials"]
        server.kill()
        server.start()
        own.put_object(Bucket=bucket, Key="k", Body=b"x")
        assert client(server, session).get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
        server.stop()
        secrets = [key["secret_key"].encode(), session["SecretAccessKey"].encode()]
        for path in server.data.rglob("*"):
            if path.is_file():
                found = path.read_bytes()
                assert not any(secret in found for secret in secrets), path
        assert not any(secret.decode() in server.log() for secret in secrets)


def test_a_rename_needs_the_source_too(server, s3, bucket):
    """Else who may write anywhere could read everywhere, under a new name."""
    s3.put_object(Bucket=bucket, Key="secret/k", Body=b"x")
    policy = put_policy(server, name("rename"), allow(["s3:PutObject", "s3:GetObject"], f"arn:aws:s3:::{bucket}/mine/*"))
    _, key = user(server, policy)
    mine = client(server, key)
    move = lambda: mine.rename_object(Bucket=bucket, Key="mine/k", RenameSource="secret/k")  # noqa: E731
    assert refused(move) == DENIED
    put_policy(server, policy, allow(["s3:PutObject", "s3:GetObject"], f"arn:aws:s3:::{bucket}/*"))
    assert refused(move) == DENIED
    put_policy(server, policy, allow(["s3:PutObject", "s3:GetObject", "s3:DeleteObject"], f"arn:aws:s3:::{bucket}/*"))
    move()
    assert mine.get_object(Bucket=bucket, Key="mine/k")["Body"].read() == b"x"
