"""A bucket's settings about access, as boto3 puts and gets them: ownership, public access block, lists, policy, who pays,
default encryption; and what a new bucket has. Who may then do what is tests/clients/test_access*.py's."""

from __future__ import annotations

import json

import pytest
from botocore.exceptions import ClientError

ALL_USERS = "http://acs.amazonaws.com/groups/global/AllUsers"
SIGNED = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers"
LOGS = "http://acs.amazonaws.com/groups/s3/LogDelivery"
STRANGER = "79a59df900b949e55d96a1e698fbacedfd6e09d98eacf8f8d5218e7cd47ef2be"
OPEN = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), False)


def refused(call, *args, **kwargs):
    with pytest.raises(ClientError) as caught:
        call(*args, **kwargs)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]


def own(s3, bucket, ownership):
    s3.put_bucket_ownership_controls(Bucket=bucket, OwnershipControls={"Rules": [{"ObjectOwnership": ownership}]})


def open_up(s3, bucket, ownership="ObjectWriter"):
    own(s3, bucket, ownership)
    s3.delete_public_access_block(Bucket=bucket)


def grants(answer):
    def whom(grantee):
        return grantee.get("ID") or grantee.get("URI")
    return sorted((whom(grant["Grantee"]), grant["Permission"]) for grant in answer["Grants"])


def test_a_new_bucket_is_closed(s3, bucket):
    controls = s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]
    assert controls == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    block = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert block == dict.fromkeys(OPEN, True)
    answer = s3.get_bucket_acl(Bucket=bucket)
    assert grants(answer) == [(answer["Owner"]["ID"], "FULL_CONTROL")]
    assert refused(s3.get_bucket_policy_status, Bucket=bucket) == (404, "NoSuchBucketPolicy")


def test_settings_that_were_removed_stay_removed(s3, bucket):
    s3.delete_public_access_block(Bucket=bucket)
    assert refused(s3.get_public_access_block, Bucket=bucket) == (404, "NoSuchPublicAccessBlockConfiguration")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration={"IgnorePublicAcls": True})
    block = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    assert block == OPEN | {"IgnorePublicAcls": True}
    s3.delete_bucket_ownership_controls(Bucket=bucket)
    assert refused(s3.get_bucket_ownership_controls, Bucket=bucket) == (404, "OwnershipControlsNotFoundError")
    for ownership in ("BucketOwnerPreferred", "ObjectWriter", "BucketOwnerEnforced"):
        own(s3, bucket, ownership)
        assert s3.get_bucket_ownership_controls(Bucket=bucket)["OwnershipControls"]["Rules"][0]["ObjectOwnership"] == ownership
    assert refused(own, s3, bucket, "Nobody") == (400, "MalformedXML")


def test_lists_mean_nothing_where_ownership_is_enforced(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", ACL="bucket-owner-full-control")
    for call, more in [(s3.put_bucket_acl, {}), (s3.put_object_acl, {"Key": "k"}), (s3.put_object, {"Key": "k2"})]:
        assert refused(call, Bucket=bucket, ACL="public-read", **more) == (400, "AccessControlListNotSupported")
    assert refused(s3.create_multipart_upload, Bucket=bucket, Key="k3", ACL="public-read") == (400, "AccessControlListNotSupported")
    assert refused(s3.copy_object, Bucket=bucket, Key="k3", CopySource=f"{bucket}/k", ACL="public-read") == (400, "AccessControlListNotSupported")
    assert refused(s3.put_object, Bucket=bucket, Key="k2", GrantRead=f'id="{STRANGER}"') == (400, "AccessControlListNotSupported")


def test_buckets_made_with_ownership_and_list(s3, bucket_name):
    create = lambda **more: s3.create_bucket(Bucket=bucket_name, **more)
    assert refused(create, ACL="public-read") == (400, "InvalidBucketAclWithObjectOwnership")
    assert refused(create, ACL="public-read", ObjectOwnership="ObjectWriter") == (400, "InvalidBucketAclWithBlockPublicAccessError")
    assert refused(create, ObjectOwnership="Nobody") == (400, "InvalidArgument")
    create(ACL="log-delivery-write", ObjectOwnership="BucketOwnerPreferred")
    assert s3.get_bucket_ownership_controls(Bucket=bucket_name)["OwnershipControls"]["Rules"][0]["ObjectOwnership"] == "BucketOwnerPreferred"
    assert (LOGS, "WRITE") in grants(s3.get_bucket_acl(Bucket=bucket_name))
    assert refused(own, s3, bucket_name, "BucketOwnerEnforced") == (400, "InvalidBucketAclWithObjectOwnership")


def test_canned_lists(s3, bucket):
    open_up(s3, bucket)
    me = s3.get_bucket_acl(Bucket=bucket)["Owner"]["ID"]
    mine = (me, "FULL_CONTROL")
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    for name, more in {
        "private": [],
        "public-read": [(ALL_USERS, "READ")],
        "public-read-write": [(ALL_USERS, "READ"), (ALL_USERS, "WRITE")],
        "authenticated-read": [(SIGNED, "READ")],
    }.items():
        s3.put_bucket_acl(Bucket=bucket, ACL=name)
        assert grants(s3.get_bucket_acl(Bucket=bucket)) == sorted([mine, *more]), name
        s3.put_object_acl(Bucket=bucket, Key="k", ACL=name)
        assert grants(s3.get_object_acl(Bucket=bucket, Key="k")) == sorted([mine, *more]), name
        s3.put_object(Bucket=bucket, Key="new", Body=b"x", ACL=name)
        assert grants(s3.get_object_acl(Bucket=bucket, Key="new")) == sorted([mine, *more]), name
    assert refused(s3.put_bucket_acl, Bucket=bucket, ACL="public-ready") == (400, "InvalidArgument")
    # A list belongs to its version and is not copied.
    s3.put_object_acl(Bucket=bucket, Key="k", ACL="public-read")
    s3.copy_object(Bucket=bucket, Key="copy", CopySource=f"{bucket}/k")
    assert grants(s3.get_object_acl(Bucket=bucket, Key="copy")) == [mine]
    upload = s3.create_multipart_upload(Bucket=bucket, Key="parts", ACL="public-read")["UploadId"]
    part = s3.upload_part(Bucket=bucket, Key="parts", UploadId=upload, PartNumber=1, Body=b"x")
    s3.complete_multipart_upload(Bucket=bucket, Key="parts", UploadId=upload, MultipartUpload={"Parts": [{"ETag": part["ETag"], "PartNumber": 1}]})
    assert (ALL_USERS, "READ") in grants(s3.get_object_acl(Bucket=bucket, Key="parts"))
    # Once ownership is enforced, lists that are kept from before show as private, and come back with it.
    s3.put_bucket_acl(Bucket=bucket, ACL="private")
    own(s3, bucket, "BucketOwnerEnforced")
    assert grants(s3.get_object_acl(Bucket=bucket, Key="k")) == [mine]
    own(s3, bucket, "ObjectWriter")
    assert (ALL_USERS, "READ") in grants(s3.get_object_acl(Bucket=bucket, Key="k"))


def test_lists_as_documents_and_headers(s3, bucket):
    open_up(s3, bucket)
    owner = s3.get_bucket_acl(Bucket=bucket)["Owner"]
    policy = {
        "Owner": owner,
        "Grants": [
            {"Grantee": {"Type": "CanonicalUser", "ID": owner["ID"]}, "Permission": "FULL_CONTROL"},
            {"Grantee": {"Type": "Group", "URI": LOGS}, "Permission": "WRITE"},
            {"Grantee": {"Type": "Group", "URI": LOGS}, "Permission": "READ_ACP"},
        ],
    }
    s3.put_bucket_acl(Bucket=bucket, AccessControlPolicy=policy)
    answer = s3.get_bucket_acl(Bucket=bucket)
    assert grants(answer) == sorted([(owner["ID"], "FULL_CONTROL"), (LOGS, "WRITE"), (LOGS, "READ_ACP")])
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    s3.put_object_acl(Bucket=bucket, Key="k", AccessControlPolicy={"Owner": owner, "Grants": []})
    assert s3.get_object_acl(Bucket=bucket, Key="k").get("Grants", []) == []

    def put(grantee, permission="READ", owner=owner, **more):
        document = {"Grants": [{"Grantee": grantee, "Permission": permission}]} | ({"Owner": owner} if owner else {})
        return refused(s3.put_object_acl, Bucket=bucket, Key="k", AccessControlPolicy=document, **more)
    user = {"Type": "CanonicalUser", "ID": owner["ID"]}
    assert put({"Type": "CanonicalUser", "ID": "_foo"}) == (400, "InvalidArgument")
    assert put({"Type": "Group", "URI": "http://example.com/"}) == (400, "InvalidArgument")
    assert put({"Type": "AmazonCustomerByEmail", "EmailAddress": "a@example.com"}) == (400, "UnresolvableGrantByEmailAddress")
    assert put(user, permission="ALL") == (400, "MalformedACLError")
    assert put(user, owner=None) == (400, "MalformedACLError")
    assert put(user, owner={"ID": STRANGER}) == (403, "AccessDenied")
    assert put(user, ACL="private") == (400, "UnexpectedContent")
    assert refused(s3.put_bucket_acl, Bucket=bucket, ACL="private", GrantRead=f'uri="{ALL_USERS}"') == (400, "InvalidRequest")
    assert refused(s3.put_bucket_acl, Bucket=bucket, GrantRead='emailAddress="a@example.com"') == (400, "UnresolvableGrantByEmailAddress")
    assert refused(s3.put_bucket_acl, Bucket=bucket, GrantRead='id="x"') == (400, "InvalidArgument")
    # Only what headers grant is granted: not even the owner is there of itself.
    s3.put_object(Bucket=bucket, Key="h", Body=b"x", GrantRead=f'uri="{SIGNED}"', GrantReadACP=f'uri="{ALL_USERS}"')
    assert grants(s3.get_object_acl(Bucket=bucket, Key="h")) == sorted([(SIGNED, "READ"), (ALL_USERS, "READ_ACP")])


def test_public_lists_can_be_blocked(s3, bucket):
    open_up(s3, bucket)
    s3.put_object(Bucket=bucket, Key="k", Body=b"x")
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=OPEN | {"BlockPublicAcls": True})
    for name in ("public-read", "public-read-write", "authenticated-read"):
        assert refused(s3.put_bucket_acl, Bucket=bucket, ACL=name) == (403, "AccessDenied")
        assert refused(s3.put_object_acl, Bucket=bucket, Key="k", ACL=name) == (403, "AccessDenied")
        assert refused(s3.put_object, Bucket=bucket, Key="k2", ACL=name) == (403, "AccessDenied")
    s3.put_bucket_acl(Bucket=bucket, ACL="log-delivery-write")


def statement(bucket, principal="*", **more):
    return {"Effect": "Allow", "Principal": principal, "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"} | more


def test_policies(s3, raw, bucket):
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=OPEN)
    text = json.dumps({"Version": "2012-10-17", "Statement": [statement(bucket)]}, indent=3) + "\n "
    s3.put_bucket_policy(Bucket=bucket, Policy=text, ConfirmRemoveSelfBucketAccess=True)
    answer = raw.request("GET", bucket, query={"policy": ""})
    assert (answer.body.decode(), answer.headers["content-type"]) == (text, "application/json")
    assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is True
    for change, public in [
        ({"Condition": {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}}}, False),
        ({"Effect": "Deny"}, False),
    ]:
        s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement(bucket, **change)]}))
        assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is public, change
    s3.delete_bucket_policy(Bucket=bucket)
    s3.delete_bucket_policy(Bucket=bucket)
    assert refused(s3.get_bucket_policy, Bucket=bucket) == (404, "NoSuchBucketPolicy")
    put = lambda policy: refused(s3.put_bucket_policy, Bucket=bucket, Policy=policy)
    wrap = lambda *statements: json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    for policy in [
        "{",
        "[]",
        "{}",
        wrap(statement(f"{bucket}-other")),
        wrap(statement(bucket, Effect="Maybe")),
        wrap({"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject"}),
        wrap({"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"arn:aws:s3:::{bucket}/*"}),
        wrap(*[statement(bucket, Sid=f"s{i}{'x' * 200}") for i in range(100)]),
    ]:
        assert put(policy) == (400, "MalformedPolicy"), policy[:100]
    assert raw.request("PUT", bucket, query={"policy": ""}).code == "MissingRequestBodyError"


def test_public_policies_can_be_blocked(s3, bucket):
    s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=OPEN | {"BlockPublicPolicy": True})
    policy = lambda **more: json.dumps({"Version": "2012-10-17", "Statement": [statement(bucket, **more)]})
    assert refused(s3.put_bucket_policy, Bucket=bucket, Policy=policy()) == (403, "AccessDenied")
    s3.put_bucket_policy(Bucket=bucket, Policy=policy(Effect="Deny"))


def test_who_pays(s3, bucket):
    assert s3.get_bucket_request_payment(Bucket=bucket)["Payer"] == "BucketOwner"
    for payer in ("Requester", "BucketOwner"):
        s3.put_bucket_request_payment(Bucket=bucket, RequestPaymentConfiguration={"Payer": payer})
        assert s3.get_bucket_request_payment(Bucket=bucket)["Payer"] == payer
    bad = {"Payer": "Nobody"}
    assert refused(s3.put_bucket_request_payment, Bucket=bucket, RequestPaymentConfiguration=bad) == (400, "MalformedXML")


def test_default_encryption(s3, bucket):
    get = lambda: s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    aes = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": False}
    assert get() == [aes]
    def put(*rules):
        s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": list(rules)})
    kms = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "training"}, "BucketKeyEnabled": True}
    put(kms)
    assert get() == [kms]
    s3.delete_bucket_encryption(Bucket=bucket)
    assert get() == [aes]
    bad = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256", "KMSMasterKeyID": "training"}}
    assert refused(put, bad) == (400, "InvalidArgument")
    assert refused(put, aes, aes) == (400, "MalformedXML")
    assert refused(put, {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "rot13"}}) == (400, "MalformedXML")


def test_settings_that_are_not_there(s3, bucket):
    for call, more in [
        (s3.put_bucket_website, {"WebsiteConfiguration": {"IndexDocument": {"Suffix": "index.html"}}}),
        (s3.put_bucket_accelerate_configuration, {"AccelerateConfiguration": {"Status": "Enabled"}}),
        (s3.put_bucket_analytics_configuration, {"Id": "a", "AnalyticsConfiguration": {"Id": "a", "StorageClassAnalysis": {}}}),
        (s3.put_bucket_metrics_configuration, {"Id": "a", "MetricsConfiguration": {"Id": "a"}}),
    ]:
        assert refused(call, Bucket=bucket, **more) == (501, "NotImplemented")
    # What is not there is deleted.
    s3.delete_bucket_website(Bucket=bucket)
    s3.delete_bucket_replication(Bucket=bucket)
    for word in ("analytics", "inventory", "metrics", "intelligent_tiering"):
        listed = getattr(s3, f"list_bucket_{word}_configurations")(Bucket=bucket)
        assert (listed["IsTruncated"], [name for name in listed if name.endswith("List")]) == (False, [])
        for act in ("get", "delete"):
            call = getattr(s3, f"{act}_bucket_{word}_configuration")
            assert refused(call, Bucket=bucket, Id="a") == (404, "NoSuchConfiguration")
            assert refused(call, Bucket=bucket + "x", Id="a") == (404, "NoSuchBucket")
    assert refused(s3.get_bucket_website, Bucket=bucket) == (404, "NoSuchWebsiteConfiguration")
    assert refused(s3.get_bucket_replication, Bucket=bucket) == (404, "ReplicationConfigurationNotFoundError")
