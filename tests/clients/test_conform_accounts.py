"""Two accounts and nobody: what lists, ownership and who writes mean between them, as the field's suites ask for it. On a server that
makes buckets as S3 made them before April 2023 (`s3.open_new_buckets`), for that is what these cases are about."""

from __future__ import annotations

import base64
import json
import zlib

import pytest

from tests.access.people import allow, client, put_policy, user
from tests.harness import Server, boto3_client, web
from tests.harness.failure import failure

ALL, SIGNED, LOGS = (
    "http://acs.amazonaws.com/groups/global/AllUsers",
    "http://acs.amazonaws.com/groups/global/AuthenticatedUsers",
    "http://acs.amazonaws.com/groups/s3/LogDelivery",
)
DENIED = (403, "AccessDenied")


@pytest.fixture(scope="module")
def accounts():
    """Main (the root keys), another account that may do everything of its own, nobody; and the server."""
    with Server(env={"GRANARY_S3_OPEN_NEW_BUCKETS": "true"}) as server:
        server.start()
        _, key = user(server, put_policy(server, "own", allow(["s3:CreateBucket", "s3:ListAllMyBuckets"])))
        yield server, boto3_client(server.endpoint), client(server, key), client(server, None)
        assert server.stop() == 0, server.log_tail()


@pytest.fixture
def main(accounts):
    return accounts[1]


@pytest.fixture
def alt(accounts):
    return accounts[2]


@pytest.fixture
def nobody(accounts):
    return accounts[3]


@pytest.fixture
def make(main, bucket_name):
    """Makes a bucket with a list, and an object in it with another."""
    def made(bucket_acl="private", object_acl=None, **more):
        main.create_bucket(Bucket=bucket_name, ACL=bucket_acl, **more)
        if object_acl:
            main.put_object(Bucket=bucket_name, Key="foo", Body=b"foo", ACL=object_acl)
            main.put_object(Bucket=bucket_name, Key="bar", Body=b"bar")
        return bucket_name
    return made


def grants(answer):
    return [(g["Grantee"].get("ID") or g["Grantee"].get("URI"), g["Permission"]) for g in answer["Grants"]]


def ids(main, alt):
    return main.list_buckets()["Owner"]["ID"], alt.list_buckets()["Owner"]["ID"]


def test_lists_at_creation(main, make):
    bucket = make("public-read-write")
    answer = main.get_bucket_acl(Bucket=bucket)
    me = answer["Owner"]["ID"]
    assert grants(answer) == [(me, "FULL_CONTROL"), (ALL, "READ"), (ALL, "WRITE")]
    assert answer["Owner"]["DisplayName"] == answer["Grants"][0]["Grantee"]["DisplayName"]


def test_made_again(main, alt, make):
    """In S3's first region a bucket that is made again stays, but for its list; another list is refused."""
    bucket = make("public-read")
    main.put_object(Bucket=bucket, Key="k", Body=b"x")
    main.create_bucket(Bucket=bucket)
    assert [permission for _, permission in grants(main.get_bucket_acl(Bucket=bucket))] == ["FULL_CONTROL"]
    assert main.get_object(Bucket=bucket, Key="k")["Body"].read() == b"x"
    assert failure(main.create_bucket, Bucket=bucket, ACL="public-read") == (409, "BucketAlreadyExists")
    assert failure(alt.create_bucket, Bucket=bucket) == (409, "BucketAlreadyExists")


READS = {
    # What another account may with the bucket's list and the object's: read the object, list, create.
    ("private", "private"): (False, False, False),
    ("private", "public-read"): (True, False, False),
    ("private", "public-read-write"): (True, False, False),
    ("private", "authenticated-read"): (True, False, False),
    ("public-read", "private"): (False, True, False),
    ("public-read", "public-read"): (True, True, False),
    ("public-read", "public-read-write"): (True, True, False),
    ("public-read-write", "private"): (False, True, True),
    ("public-read-write", "public-read"): (True, True, True),
    ("public-read-write", "public-read-write"): (True, True, True),
    ("authenticated-read", "private"): (False, True, False),
}


@pytest.mark.parametrize("lists", READS, ids="-".join)
def test_what_another_account_may(alt, make, lists):
    bucket = make(*lists)
    reads, lists_, writes = READS[lists]
    if reads:
        assert alt.get_object(Bucket=bucket, Key="foo")["Body"].read() == b"foo"
    else:
        assert failure(alt.get_object, Bucket=bucket, Key="foo") == DENIED
    assert failure(alt.get_object, Bucket=bucket, Key="bar") == DENIED
    for call in (alt.list_objects, alt.list_objects_v2):
        if lists_:
            assert [entry["Key"] for entry in call(Bucket=bucket)["Contents"]] == ["bar", "foo"]
        else:
            assert failure(call, Bucket=bucket) == DENIED
    if writes:
        alt.put_object(Bucket=bucket, Key="new", Body=b"new")
        assert alt.get_object_acl(Bucket=bucket, Key="new")["Owner"]["ID"] == alt.list_buckets()["Owner"]["ID"]
    else:
        assert failure(alt.put_object, Bucket=bucket, Key="new", Body=b"new") == DENIED
    assert failure(alt.put_bucket_acl, Bucket=bucket, ACL="private") == DENIED
    assert failure(alt.get_bucket_acl, Bucket=bucket) == DENIED
    assert failure(alt.delete_bucket, Bucket=bucket) == DENIED


@pytest.mark.parametrize(
    ("permission", "may"),
    [("FULL_CONTROL", "rwRW"), ("READ", "r"), ("WRITE", "w"), ("READ_ACP", "R"), ("WRITE_ACP", "W")],
)
def test_grants_on_buckets(main, alt, make, permission, may):
    bucket = make()
    me, other = ids(main, alt)
    owner = main.get_bucket_acl(Bucket=bucket)["Owner"]
    main.put_bucket_acl(Bucket=bucket, AccessControlPolicy={"Owner": owner, "Grants": [
        {"Grantee": {"Type": "CanonicalUser", "ID": me}, "Permission": "FULL_CONTROL"},
        {"Grantee": {"Type": "CanonicalUser", "ID": other}, "Permission": permission},
    ]})  # fmt: skip
    assert grants(main.get_bucket_acl(Bucket=bucket)) == [(me, "FULL_CONTROL"), (other, permission)]
    calls = {
        "r": (alt.head_bucket, {}),
        "w": (alt.put_object, {"Key": "foo-write", "Body": b"bar"}),
        "R": (alt.get_bucket_acl, {}),
        "W": (alt.put_bucket_acl, {"ACL": "public-read"}),
    }
    for letter, (call, more) in calls.items():
        if letter in may:
            call(Bucket=bucket, **more)
        else:
            assert failure(call, Bucket=bucket, **more)[0] == 403, letter


def test_grants_on_objects(main, alt, make):
    bucket = make()
    me, other = ids(main, alt)
    for header, permission, call, more in [
        ("GrantRead", "READ", alt.get_object, {}),
        ("GrantReadACP", "READ_ACP", alt.get_object_acl, {}),
        ("GrantWriteACP", "WRITE_ACP", alt.put_object_acl, {"ACL": "public-read"}),
    ]:
        main.put_object(Bucket=bucket, Key="k", Body=b"x")
        assert failure(call, Bucket=bucket, Key="k", **more) == DENIED
        main.put_object_acl(Bucket=bucket, Key="k", **{header: f"id={other}"})
        assert grants(main.get_object_acl(Bucket=bucket, Key="k")) == [(other, permission)]
        call(Bucket=bucket, Key="k", **more)
    main.put_object(Bucket=bucket, Key="all", Body=b"x", GrantFullControl=f"id={other}", GrantRead=f"id={other}, id={me}")
    assert grants(main.get_object_acl(Bucket=bucket, Key="all")) == [(other, "FULL_CONTROL"), (other, "READ"), (me, "READ")]


def test_grantees_have_to_be_there(main, make):
    bucket = make()
    stranger = "79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be"
    for header in (f"id={stranger}", "id=_foo"):
        assert failure(main.put_bucket_acl, Bucket=bucket, GrantRead=header) == (400, "InvalidArgument")
        assert failure(main.put_object, Bucket=bucket, Key="k", Body=b"x", GrantRead=header) == (400, "InvalidArgument")
        assert failure(main.create_bucket, Bucket=bucket + "2"[:1], GrantRead=header) == (400, "InvalidArgument")
    owner = main.get_bucket_acl(Bucket=bucket)["Owner"]

    def put(grantee):
        return failure(main.put_bucket_acl, Bucket=bucket, AccessControlPolicy={"Owner": owner, "Grants": [{"Grantee": grantee, "Permission": "READ"}]})
    assert put({"Type": "CanonicalUser", "ID": stranger}) == (400, "InvalidArgument")
    assert put({"Type": "AmazonCustomerByEmail", "EmailAddress": "nobody@example.com"}) == (400, "UnresolvableGrantByEmailAddress")
    main.put_bucket_acl(Bucket=bucket, GrantWrite=f'uri="{LOGS}"', GrantReadACP=f'uri="{LOGS}"')


def test_all_may_be_revoked(main, make):
    bucket = make()
    main.put_object(Bucket=bucket, Key="k", Body=b"x")
    owner = main.get_bucket_acl(Bucket=bucket)["Owner"]
    main.put_bucket_acl(Bucket=bucket, AccessControlPolicy={"Owner": owner, "Grants": []})
    assert main.get_bucket_acl(Bucket=bucket).get("Grants", []) == []
    main.put_bucket_acl(Bucket=bucket, ACL="private")


def test_the_bucket_owners_share(main, alt, make):
    bucket = make("public-read-write")
    me, other = ids(main, alt)
    alt.put_object(Bucket=bucket, Key="foo", Body=b"x", ACL="bucket-owner-read")
    assert grants(alt.get_object_acl(Bucket=bucket, Key="foo")) == [(other, "FULL_CONTROL"), (me, "READ")]
    alt.put_object(Bucket=bucket, Key="foo", Body=b"x", ACL="bucket-owner-full-control")
    assert grants(alt.get_object_acl(Bucket=bucket, Key="foo")) == [(other, "FULL_CONTROL"), (me, "FULL_CONTROL")]
    main.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": "BucketOwnerPreferred"}]})
    alt.put_object(Bucket=bucket, Key="foo", Body=b"x", ACL="bucket-owner-full-control")
    assert main.get_object_acl(Bucket=bucket, Key="foo")["Owner"]["ID"] == me
    assert failure(alt.get_object_acl, Bucket=bucket, Key="foo") == DENIED


def test_the_owner_stays_whoever_changes_the_list(main, alt, make):
    bucket = make("public-read-write", "private")
    me, other = ids(main, alt)
    owner = {"ID": me}
    user_grant = {"Type": "CanonicalUser", "ID": other}
    main.put_object_acl(Bucket=bucket, Key="foo", AccessControlPolicy={"Owner": owner, "Grants": [{"Grantee": user_grant, "Permission": "FULL_CONTROL"}]})
    alt.put_object_acl(Bucket=bucket, Key="foo", AccessControlPolicy={"Owner": owner, "Grants": [{"Grantee": user_grant, "Permission": "READ_ACP"}]})
    assert alt.get_object_acl(Bucket=bucket, Key="foo")["Owner"]["ID"] == me


def test_copies_across_accounts(main, alt, make, bucket_name):
    bucket = make()
    main.put_object(Bucket=bucket, Key="k", Body=b"x")
    own = f"{bucket_name[:58]}-alt"
    alt.create_bucket(Bucket=own)
    source = {"Bucket": bucket, "Key": "k"}
    assert failure(alt.copy_object, Bucket=own, Key="c", CopySource=source) == DENIED
    _, other = ids(main, alt)
    main.put_object_acl(Bucket=bucket, Key="k", GrantFullControl=f"id={other}")
    alt.copy_object(Bucket=own, Key="c", CopySource=source)
    main.put_bucket_acl(Bucket=bucket, GrantFullControl=f"id={other}")
    alt.copy_object(Bucket=bucket, Key="c", CopySource=source)
    main.put_bucket_acl(Bucket=bucket, ACL="private")
    main.copy_object(Bucket=bucket, Key="public", CopySource=source, ACL="public-read")
    alt.get_object(Bucket=bucket, Key="public")


def test_nobody(main, nobody, make):
    bucket = make("public-read-write", "public-read")
    assert nobody.get_object(Bucket=bucket, Key="foo")["Body"].read() == b"foo"
    assert failure(nobody.get_object, Bucket=bucket, Key="bar") == DENIED
    nobody.put_object(Bucket=bucket, Key="anon", Body=b"x", ACL="public-read", Tagging="a=b")
    assert main.get_object(Bucket=bucket, Key="anon")["Body"].read() == b"x"
    assert failure(nobody.put_object_tagging, Bucket=bucket, Key="foo", Tagging={"TagSet": []}) == DENIED
    assert failure(nobody.list_objects, Bucket=bucket, ExpectedBucketOwner="1" * 12) == DENIED
    main.put_bucket_acl(Bucket=bucket, ACL="private")
    assert failure(nobody.get_object, Bucket=bucket, Key="none") == DENIED
    for entry in main.list_objects_v2(Bucket=bucket)["Contents"]:
        main.delete_object(Bucket=bucket, Key=entry["Key"])
    main.delete_bucket(Bucket=bucket)
    assert failure(nobody.get_object, Bucket=bucket, Key="foo") == (404, "NoSuchBucket")
    assert failure(nobody.delete_object, Bucket=bucket, Key="foo") == (404, "NoSuchBucket")


def test_a_missing_key_is_told_to_whom_the_bucket_is_listed(main, alt, nobody, make):
    bucket = make("public-read", "public-read")
    for who in (alt, nobody):
        assert failure(who.get_object, Bucket=bucket, Key="none") == (404, "NoSuchKey")
        assert failure(who.head_object, Bucket=bucket, Key="none")[0] == 404
        assert failure(who.get_object, Bucket=bucket, Key="foo", VersionId="A" * 32)[0] in (400, 404)
        assert failure(who.get_object, Bucket=bucket, Key="bar") == DENIED
        # Of what is done to it nothing is told.
        assert failure(who.get_object_tagging, Bucket=bucket, Key="none") == DENIED
    main.put_bucket_acl(Bucket=bucket, ACL="authenticated-read")
    assert failure(alt.get_object, Bucket=bucket, Key="none") == (404, "NoSuchKey")
    assert failure(nobody.get_object, Bucket=bucket, Key="none") == DENIED
    main.put_bucket_policy(Bucket=bucket, Policy=public(bucket, "s3:GetObject", Effect="Deny", Resource=f"arn:aws:s3:::{bucket}/*"))
    assert failure(alt.get_object, Bucket=bucket, Key="none") == DENIED


def test_forms_of_nobody(accounts, main, make):
    bucket = make("public-read-write")
    url = f"{accounts[0].endpoint}/{bucket}"
    fields = [("key", "foo.txt"), ("acl", "public-read"), ("Content-Type", "text/plain")]
    tags = "<Tagging><TagSet><Tag><Key>0</Key><Value>0</Value></Tag><Tag><Key>1</Key><Value>1</Value></Tag></TagSet></Tagging>"

    def post(more=()):
        return web.post_form(url, [*fields, *more], b"bar")
    assert post().status == 204
    assert (ALL, "READ") in grants(main.get_object_acl(Bucket=bucket, Key="foo.txt"))
    assert post([("success_action_status", "201")]).status == 201
    assert post([("success_action_status", "404")]).status == 204
    assert post([("tagging", tags)]).status == 204
    assert main.get_object_tagging(Bucket=bucket, Key="foo.txt")["TagSet"] == [{"Key": "0", "Value": "0"}, {"Key": "1", "Value": "1"}]
    main.put_bucket_acl(Bucket=bucket, ACL="public-read")
    assert post().status == 403


def public(bucket, action="*", **more):
    return json.dumps({"Version": "2012-10-17", "Statement": [{
        "Effect": "Allow", "Principal": {"AWS": "*"}, "Action": action, "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
    } | more]})  # fmt: skip


@pytest.mark.parametrize("ownership", ["BucketOwnerEnforced", "BucketOwnerPreferred", "ObjectWriter"])
def test_ownership_of_what_another_account_writes(main, alt, make, ownership):
    bucket = make(ObjectOwnership=ownership)
    assert main.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"] == [{"ObjectOwnership": ownership}]
    main.put_bucket_policy(Bucket=bucket, Policy=public(bucket))
    me, other = ids(main, alt)

    def put(key, **more):
        alt.put_object(Bucket=bucket, Key=key, Body=b"x", **more)

    def upload(key, **more):
        alt.create_multipart_upload(Bucket=bucket, Key=key, **more)

    def copy(key, **more):
        alt.copy_object(Bucket=bucket, Key=key, CopySource=f"{bucket}/source", **more)
    main.put_object(Bucket=bucket, Key="source", Body=b"x")
    for write in (put, upload, copy):
        for acl in (None, "bucket-owner-full-control", "private"):
            key, more = f"{write.__name__}-{acl}", {"ACL": acl} if acl else {}
            if ownership == "BucketOwnerEnforced" and acl == "private":
                assert failure(write, key=key, **more) == (400, "AccessControlListNotSupported")
                continue
            write(key, **more)
            is_mine = ownership == "BucketOwnerEnforced" or (ownership == "BucketOwnerPreferred" and acl == "bucket-owner-full-control")
            if write is upload:
                open_ = alt.list_multipart_uploads(Bucket=bucket, Prefix=key)["Uploads"][0]
                found = alt.list_parts(Bucket=bucket, Key=key, UploadId=open_["UploadId"])["Owner"]["ID"]
            else:
                found = (main if is_mine else alt).get_object_acl(Bucket=bucket, Key=key)["Owner"]["ID"]
            assert found == (me if is_mine else other), key
    if ownership == "BucketOwnerEnforced":
        assert failure(alt.put_bucket_acl, Bucket=bucket, ACL="private") == (400, "AccessControlListNotSupported")
        assert failure(alt.put_object_acl, Bucket=bucket, Key="put-None", ACL="private") == (400, "AccessControlListNotSupported")
    else:
        alt.put_bucket_acl(Bucket=bucket, ACL="private")
        alt.put_object_acl(Bucket=bucket, Key="put-None", ACL="private")


def test_enforcing_needs_a_private_list(main, make):
    bucket = make("public-read")
    enforced = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    assert failure(main.put_bucket_ownership_controls, Bucket=bucket, OwnershipControls=enforced) == (400, "InvalidBucketAclWithObjectOwnership")
    main.put_bucket_acl(Bucket=bucket, ACL="private")
    main.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls=enforced)
    main.delete_bucket_ownership_controls(Bucket=bucket)
    assert failure(main.get_bucket_ownership_controls, Bucket=bucket) == (404, "OwnershipControlsNotFoundError")
    main.delete_bucket_ownership_controls(Bucket=bucket)


# --- bucket policies ----------------------------------------------------------------------------------------


def test_policies_let_in(main, alt, make):
    bucket = make(object_acl="private")
    assert failure(alt.list_objects, Bucket=bucket) == DENIED
    main.put_bucket_policy(Bucket=bucket, Policy=public(bucket, "s3:ListBucket"))
    assert len(alt.list_objects(Bucket=bucket)["Contents"]) == len(alt.list_objects_v2(Bucket=bucket)["Contents"]) == 2
    main.put_bucket_acl(Bucket=bucket, ACL="authenticated-read")
    main.put_bucket_policy(Bucket=bucket, Policy=public(bucket, "s3:ListBucket", Effect="Deny"))
    assert failure(alt.list_objects, Bucket=bucket) == DENIED
    assert failure(alt.list_objects_v2, Bucket=bucket) == DENIED
    main.delete_bucket_policy(Bucket=bucket)
    assert len(alt.list_objects(Bucket=bucket)["Contents"]) == 2
    main.put_bucket_acl(Bucket=bucket, ACL="private")
    main.put_bucket_policy(Bucket=bucket, Policy=public(bucket, "s3:ListBucket", Resource=["arn:aws:s3:::*", "arn:aws:s3:::*/*"]))
    assert len(alt.list_objects(Bucket=bucket)["Contents"]) == 2
    for elsewhere in ("*", "arn:aws:s3:::another", "arn:aws:s3:::another/*"):
        policy = public(bucket, "s3:ListBucket", Resource=elsewhere)
        assert failure(main.put_bucket_policy, Bucket=bucket, Policy=policy) == (400, "MalformedPolicy"), elsewhere


def test_uploads_under_a_policy(main, alt, make):
    bucket = make()
    assert failure(alt.create_multipart_upload, Bucket=bucket, Key="k") == DENIED
    of = lambda resource: public(bucket, "s3:PutObject", Resource=resource)
    main.put_bucket_policy(Bucket=bucket, Policy=of(f"arn:aws:s3:::{bucket}/k"))
    upload = alt.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    part = alt.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=b"x")
    assert failure(alt.create_multipart_upload, Bucket=bucket, Key="k2") == DENIED
    alt.complete_multipart_upload(Bucket=bucket, Key="k", UploadId=upload, MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]})


def test_a_missing_key_is_told_to_whom_a_prefix_is_open(main, alt, make):
    bucket = make()
    prefix = {"Condition": {"StringLike": {"s3:prefix": "public/*"}}}
    both = json.loads(public(bucket, "s3:ListBucket", Resource=f"arn:aws:s3:::{bucket}", **prefix))
    both["Statement"] += json.loads(public(bucket, "s3:GetObject", Resource=f"arn:aws:s3:::{bucket}/*"))["Statement"]
    main.put_bucket_policy(Bucket=bucket, Policy=json.dumps(both))
    assert failure(alt.head_object, Bucket=bucket, Key="public/object")[0] == 404
    assert failure(alt.head_object, Bucket=bucket, Key="private/object")[0] == 403
    assert failure(alt.get_object, Bucket=bucket, Key="public/object") == (404, "NoSuchKey")


def test_conditions_on_tags(main, alt, make):
    bucket = make()
    for key, tags in {"public": "security=public&foo=bar", "private": "security=private", "other": "security1=public"}.items():
        main.put_object(Bucket=bucket, Key=key, Body=b"x", Tagging=tags)
    existing = {"Condition": {"StringEquals": {"s3:ExistingObjectTag/security": "public"}}}
    for action, call, more in [
        ("s3:GetObject", alt.get_object, {}),
        ("s3:GetObjectTagging", alt.get_object_tagging, {}),
        ("s3:GetObjectAcl", alt.get_object_acl, {}),
        ("s3:PutObjectTagging", alt.put_object_tagging, {"Tagging": {"TagSet": [{"Key": "security", "Value": "public"}]}}),
    ]:
        main.put_bucket_policy(Bucket=bucket, Policy=public(bucket, action, Resource=f"arn:aws:s3:::{bucket}/*", **existing))
        call(Bucket=bucket, Key="public", **more)
        for key in ("private", "other"):
            assert failure(call, Bucket=bucket, Key=key, **more) == DENIED, (action, key)
    alt.put_object_tagging(Bucket=bucket, Key="public", Tagging={"TagSet": [{"Key": "security", "Value": "private"}]})
    assert failure(alt.put_object_tagging, Bucket=bucket, Key="public", Tagging={"TagSet": []}) == DENIED
    requested = {"Condition": {"StringEquals": {"s3:RequestObjectTag/security": "public"}}}
    main.put_bucket_policy(Bucket=bucket, Policy=public(bucket, ["s3:PutObject", "s3:PutObjectTagging"], Resource=f"arn:aws:s3:::{bucket}/*", **requested))
    assert failure(alt.put_object, Bucket=bucket, Key="new", Body=b"x") == DENIED
    alt.put_object(Bucket=bucket, Key="new", Body=b"x", Tagging="security=public")


def test_conditions_on_copies_and_lists(main, alt, make, bucket_name):
    source = make()
    for key in ("public/foo", "private/foo"):
        main.put_object(Bucket=source, Key=key, Body=key.encode())
    main.put_bucket_policy(Bucket=source, Policy=public(source, "s3:GetObject", Resource=f"arn:aws:s3:::{source}/*"))
    target = f"{bucket_name[:58]}-to"
    main.create_bucket(Bucket=target)

    def rule(**condition):
        main.put_bucket_policy(Bucket=target, Policy=public(
            target, ["s3:PutObject", "s3:PutObjectAcl", "s3:GetObject"], Resource=f"arn:aws:s3:::{target}/*", Condition=condition
        ))  # fmt: skip
    rule(StringLike={"s3:x-amz-copy-source": f"{source}/public/*"})
    alt.copy_object(Bucket=target, Key="k", CopySource=f"{source}/public/foo")
    assert failure(alt.copy_object, Bucket=target, Key="k", CopySource=f"{source}/private/foo") == DENIED
    assert failure(alt.put_object, Bucket=target, Key="k", Body=b"x") == DENIED
    rule(StringEquals={"s3:x-amz-metadata-directive": "COPY"})
    alt.copy_object(Bucket=target, Key="k", CopySource=f"{source}/public/foo", MetadataDirective="COPY")
    assert failure(alt.copy_object, Bucket=target, Key="k", CopySource=f"{source}/public/foo", MetadataDirective="REPLACE") == DENIED
    rule(StringEquals={"s3:x-amz-acl": "private"})
    alt.put_object(Bucket=target, Key="k", Body=b"x", ACL="private")
    assert failure(alt.put_object, Bucket=target, Key="k", Body=b"x", ACL="public-read") == DENIED
    me = main.list_buckets()["Owner"]["ID"]
    rule(StringEquals={"s3:x-amz-grant-full-control": f"id={me}"})
    alt.put_object(Bucket=target, Key="granted", Body=b"x", GrantFullControl=f"id={me}")
    assert grants(main.get_object_acl(Bucket=target, Key="granted")) == [(me, "FULL_CONTROL")]
    rule(StringEquals={"s3:authType": "POST"})
    assert failure(alt.put_object, Bucket=target, Key="k", Body=b"x") == DENIED


def test_conditions_on_how_a_form_is_signed(accounts, main, make):
    """`s3:authType` and `s3:signatureversion` of forms."""
    bucket = make()
    deny = lambda **condition: main.put_bucket_policy(Bucket=bucket, Policy=public(bucket, "s3:PutObject", Effect="Deny", Resource=f"arn:aws:s3:::{bucket}/*", Condition=condition))
    def post(signature):
        form = boto3_client(accounts[0].endpoint, signature=signature).generate_presigned_post(bucket, "k")
        return web.post_form(f"{accounts[0].endpoint}/{bucket}", form["fields"], b"x").status
    deny(StringEquals={"s3:authType": "POST"})
    assert post("s3v4") == post("s3") == 403
    main.put_object(Bucket=bucket, Key="k", Body=b"x")
    deny(StringNotEquals={"s3:authType": "POST"})
    assert post("s3v4") == post("s3") == 204
    deny(StringEquals={"s3:signatureversion": "AWS"})
    assert (post("s3v4"), post("s3")) == (204, 403)


def test_conditions_on_encryption(main, make):
    bucket = make()
    def deny(*conditions):
        statements = [json.loads(public(bucket, "s3:PutObject", Effect="Deny", Resource=f"arn:aws:s3:::{bucket}/*", Condition=c))["Statement"][0] for c in conditions]
        main.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": statements}))
    put = lambda **more: main.put_object(Bucket=bucket, Key="k", Body=b"x", **more)
    name = "s3:x-amz-server-side-encryption"
    deny({"Null": {name: "true"}})
    assert failure(put) == DENIED
    assert put(ServerSideEncryption="AES256")["ServerSideEncryption"] == "AES256"
    deny({"StringNotEquals": {name: "AES256"}})
    assert failure(put, ServerSideEncryption="AES192") == DENIED
    put(ServerSideEncryption="AES256")
    deny({"StringNotEquals": {name: "aws:kms"}}, {"Null": {name: "true"}})
    assert failure(put, ServerSideEncryption="AES256") == failure(put) == DENIED
    customer = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "0" * 32}
    deny({"Null": {f"{name}-customer-algorithm": "true"}})
    assert failure(put) == DENIED
    put(**customer)
    deny({"StringNotEquals": {f"{name}-customer-algorithm": "AES256"}})
    assert failure(put, SSECustomerAlgorithm="AES192") == DENIED
    put(**customer)


def test_blocks(main, alt, nobody, make):
    bucket = make("public-read", "public-read")
    off = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), False)
    block = lambda **more: main.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=off | more)
    assert failure(main.get_public_access_block, Bucket=bucket) == (404, "NoSuchPublicAccessBlockConfiguration")
    block(IgnorePublicAcls=True)
    assert failure(alt.list_objects, Bucket=bucket) == failure(nobody.get_object, Bucket=bucket, Key="foo") == DENIED
    block(BlockPublicAcls=True)
    alt.list_objects(Bucket=bucket)
    assert failure(main.put_object, Bucket=bucket, Key="k", Body=b"", ACL="public-read") == DENIED
    main.put_object(Bucket=bucket, Key="k", Body=b"", ACL="private")
    block(BlockPublicPolicy=True)
    read = public(bucket, "s3:GetObject", Resource=f"arn:aws:s3:::{bucket}/*")
    assert failure(main.put_bucket_policy, Bucket=bucket, Policy=read) == DENIED
    block()
    main.put_bucket_policy(Bucket=bucket, Policy=read)
    assert nobody.get_object(Bucket=bucket, Key="bar")["Body"].read() == b"bar"
    block(RestrictPublicBuckets=True)
    assert failure(nobody.get_object, Bucket=bucket, Key="bar") == DENIED
    assert main.get_object(Bucket=bucket, Key="bar")["Body"].read() == b"bar"
    main.delete_public_access_block(Bucket=bucket)
    main.put_bucket_policy(Bucket=bucket, Policy=public(bucket, "s3:GetBucketPublicAccessBlock", Effect="Deny", Resource=f"arn:aws:s3:::{bucket}"))
    assert failure(main.get_public_access_block, Bucket=bucket) == DENIED


def test_chunks_of_nobody(accounts, main, make):
    """SDKs send a body in chunks, with a checksum behind it, whether or not they sign: over HTTPS boto3 does so for anonymous writes."""
    bucket = make("public-read-write")
    body = b"hello" * 30_000
    crc = base64.b64encode(zlib.crc32(body).to_bytes(4, "big")).decode()

    def put(sum_):
        wire = b"".join(f"{len(piece):x}\r\n".encode() + piece + b"\r\n" for piece in (body[:70_000], body[70_000:]))
        wire += f"0\r\nx-amz-checksum-crc32:{sum_}\r\n\r\n".encode()
        return web.request("PUT", f"{accounts[0].endpoint}/{bucket}/k", wire, {
            "content-encoding": "aws-chunked", "x-amz-trailer": "x-amz-checksum-crc32", "x-amz-sdk-checksum-algorithm": "CRC32",
            "x-amz-content-sha256": "STREAMING-UNSIGNED-PAYLOAD-TRAILER", "x-amz-decoded-content-length": str(len(body)),
        }).status  # fmt: skip
    assert put("AAAAAA==") == 400
    assert failure(main.head_object, Bucket=bucket, Key="k")[0] == 404
    assert put(crc) == 200
    answer = main.get_object(Bucket=bucket, Key="k", ChecksumMode="ENABLED")
    assert (answer["Body"].read(), answer["ChecksumCRC32"], answer.get("ContentEncoding")) == (body, crc, None)
