"""What AWS's own answers say, found by running other projects' suites (those of their cases that are verified against AWS): the elements of
error documents, regions at creation, tags, restores, blocked encryption, and ETags with half their quotes."""

from __future__ import annotations

import io

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from tests.harness import ACCESS_KEY, SECRET_KEY
from tests.harness.failure import failure


def said(call, **arguments):
    """The error's document, as boto3 hands it on."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    return caught.value.response["Error"]


def versioned(s3, bucket):
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    return bucket


# --- error documents ----------------------------------------------------------------------------------------


def test_what_is_missing_is_named(s3, bucket):
    for call, arguments in [
        (s3.get_bucket_cors, {}), (s3.get_bucket_tagging, {}), (s3.get_bucket_policy, {}), (s3.get_bucket_lifecycle_configuration, {}),
        (s3.get_bucket_website, {}), (s3.get_object_lock_configuration, {}),
    ]:  # fmt: skip
        assert said(call, Bucket=bucket, **arguments)["BucketName"] == bucket, call
    assert said(s3.list_objects_v2, Bucket=bucket + "-none")["BucketName"] == bucket + "-none"
    assert said(s3.get_object, Bucket=bucket, Key="a key")["Key"] == "a key"
    assert said(s3.put_object_tagging, Bucket=bucket, Key="k", Tagging={"TagSet": []})["Key"] == "k"
    assert said(s3.abort_multipart_upload, Bucket=bucket, Key="k", UploadId="none")["UploadId"] == "none"


def test_of_a_copy_the_source_is_named(s3, bucket):
    error = said(s3.copy_object, Bucket=bucket, Key="new", CopySource={"Bucket": bucket, "Key": "old+key"})
    assert (error["Code"], error["Key"]) == ("NoSuchKey", "old+key")
    none = bucket[:50] + "-none"
    error = said(s3.copy_object, Bucket=bucket, Key="new", CopySource={"Bucket": none, "Key": "k"})
    assert (error["Code"], error["BucketName"]) == ("NoSuchBucket", none)


def test_versions_and_markers_are_named(s3, bucket):
    versioned(s3, bucket)
    gone = s3.put_object(Bucket=bucket, Key="k")["VersionId"]
    s3.delete_object(Bucket=bucket, Key="k", VersionId=gone)
    error = said(s3.put_object_tagging, Bucket=bucket, Key="k", VersionId=gone, Tagging={"TagSet": []})
    assert (error["Code"], error["Key"], error["VersionId"]) == ("NoSuchVersion", "k", gone)
    marker = s3.delete_object(Bucket=bucket, Key="k")["VersionId"]
    error = said(s3.put_object_tagging, Bucket=bucket, Key="k", VersionId=marker, Tagging={"TagSet": []})
    assert (error["Code"], error["Method"], error["ResourceType"]) == ("MethodNotAllowed", "PUT", "DeleteMarker")


def test_the_condition_is_named_beside_the_message(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"x")["ETag"]
    source = {"Bucket": bucket, "Key": "k"}
    for call, arguments, condition in [
        (s3.put_object, {"Key": "k", "IfNoneMatch": "*"}, "If-None-Match"),
        (s3.put_object, {"Key": "k", "IfMatch": "other"}, "If-Match"),
        (s3.delete_object, {"Key": "k", "IfMatch": "other"}, "If-Match"),
        (s3.get_object, {"Key": "k", "IfMatch": "other"}, "If-Match"),
        (s3.copy_object, {"Key": "c", "CopySource": source, "CopySourceIfNoneMatch": etag}, "x-amz-copy-source-If-None-Match"),
        (s3.copy_object, {"Key": "c", "CopySource": source, "CopySourceIfMatch": "other"}, "x-amz-copy-source-If-Match"),
    ]:
        error = said(call, Bucket=bucket, **arguments)
        assert (error["Code"], error["Condition"]) == ("PreconditionFailed", condition)
        assert error["Message"] == "At least one of the pre-conditions you specified did not hold"


def test_ranges_that_are_not_there(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"some text")
    error = said(s3.get_object, Bucket=bucket, Key="k", Range="bytes=1024-")
    assert (error["Code"], error["ActualObjectSize"], error["RangeRequested"]) == ("InvalidRange", "9", "bytes=1024-")


# --- buckets ------------------------------------------------------------------------------------------------


def of_region(server, region):
    keys = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": SECRET_KEY}
    config = Config(s3={"addressing_style": "path"}, parameter_validation=False)
    return boto3.client("s3", endpoint_url=server.endpoint, region_name=region, config=config, **keys)


def test_a_region_makes_buckets_in_itself(server, bucket_name):
    west, east = of_region(server, "us-west-2"), of_region(server, "us-east-1")
    asked = lambda region: {"Bucket": bucket_name, "CreateBucketConfiguration": {"LocationConstraint": region}}  # noqa: E731
    incompatible = "The {} location constraint is incompatible for the region specific endpoint this request was sent to."
    for region in ("us-east-1", "us-east-2", "us-gov-east-2"):
        error = said(west.create_bucket, **asked(region))
        assert (error["Code"], error["Message"]) == ("IllegalLocationConstraintException", incompatible.format(region))
    error = said(west.create_bucket, Bucket=bucket_name)
    assert (error["Code"], error["Message"]) == ("IllegalLocationConstraintException", incompatible.format("unspecified"))
    assert failure(east.create_bucket, **asked("us-east-1")) == (400, "InvalidLocationConstraint")
    west.create_bucket(**asked("us-west-2"))
    assert east.get_bucket_location(Bucket=bucket_name)["LocationConstraint"] == "us-west-2"
    # A region that AWS has not is nobody's endpoint.
    of_region(server, "here").create_bucket(Bucket="x" + bucket_name[1:])


def test_open_uploads_keep_no_bucket(s3, bucket):
    upload = s3.create_multipart_upload(Bucket=bucket, Key="k")["UploadId"]
    s3.upload_part(Bucket=bucket, Key="k", UploadId=upload, PartNumber=1, Body=io.BytesIO(b"x" * (5 << 20)))
    s3.create_multipart_upload(Bucket=bucket, Key="l")
    s3.put_object(Bucket=bucket, Key="o")
    assert failure(s3.delete_bucket, Bucket=bucket) == (409, "BucketNotEmpty")
    assert len(s3.list_multipart_uploads(Bucket=bucket)["Uploads"]) == 2
    s3.delete_object(Bucket=bucket, Key="o")
    s3.delete_bucket(Bucket=bucket)
    s3.create_bucket(Bucket=bucket)
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_what_a_bucket_says_of_itself(s3, bucket):
    assert s3.head_bucket(Bucket=bucket)["ResponseMetadata"]["HTTPHeaders"]["content-type"] == "application/xml"
    assert s3.create_bucket(Bucket=bucket)["BucketArn"] == f"arn:aws:s3:::{bucket}"
    assert failure(s3.put_public_access_block, Bucket=bucket, PublicAccessBlockConfiguration={}) == (400, "InvalidRequest")
    assert failure(s3.put_object_lock_configuration, Bucket=bucket) == (400, "MissingRequestBodyError")
    logging = {"LoggingEnabled": {"TargetBucket": "NO_SUCH_BUCKET", "TargetPrefix": ""}}
    assert failure(s3.put_bucket_logging, Bucket=bucket, BucketLoggingStatus=logging) == (400, "InvalidTargetBucketForLogging")


def test_keys_of_aws_in_conditions(s3, bucket):
    """Keys about what is not on this server are taken, and a policy that is bound by one is not public."""
    statement = '{{"Effect": "Allow", "Principal": "*", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::{}/*", "Condition": {{"StringEquals": {{"{}": "vpc-1"}}}}}}'
    for key in ("aws:SourceVpc", "aws:SourceVpce", "aws:SourceArn", "aws:SourceAccount", "aws:PrincipalOrgID"):
        s3.put_bucket_policy(Bucket=bucket, Policy='{"Version": "2012-10-17", "Statement": [' + statement.format(bucket, key) + "]}")
        assert s3.get_bucket_policy_status(Bucket=bucket)["PolicyStatus"]["IsPublic"] is False, key
    misspelt = '{"Version": "2012-10-17", "Statement": [' + statement.format(bucket, "aws:SourceVcp") + "]}"
    assert failure(s3.put_bucket_policy, Bucket=bucket, Policy=misspelt) == (400, "MalformedPolicy")


# --- tags, redirects, restores ------------------------------------------------------------------------------


def test_tags(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k")
    many = {"TagSet": [{"Key": f"tag{n}", "Value": ""} for n in range(11)]}
    error = said(s3.put_object_tagging, Bucket=bucket, Key="k", Tagging=many)
    assert (error["Code"], error["Message"]) == ("BadRequest", "Object tags cannot be greater than 10")
    error = said(s3.put_object, Bucket=bucket, Key="k", Tagging="aws:foo=bar")
    assert (error["Code"], error["Message"]) == ("InvalidTag", "Your TagKey cannot be prefixed with aws:")
    answer = s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": [{"Key": "a", "Value": "b"}]})
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 204
    s3.put_bucket_tagging(Bucket=bucket, Tagging={"TagSet": []})
    assert failure(s3.get_bucket_tagging, Bucket=bucket) == (404, "NoSuchTagSet")


def test_a_redirect_is_the_copys_own(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", WebsiteRedirectLocation="/old")
    source = {"Bucket": bucket, "Key": "k"}
    s3.copy_object(Bucket=bucket, Key="plain", CopySource=source)
    assert "WebsiteRedirectLocation" not in s3.head_object(Bucket=bucket, Key="plain")
    s3.copy_object(Bucket=bucket, Key="led", CopySource=source, WebsiteRedirectLocation="/new")
    assert s3.head_object(Bucket=bucket, Key="led")["WebsiteRedirectLocation"] == "/new"
    assert failure(s3.copy_object, Bucket=bucket, Key="k", CopySource=source) == (400, "InvalidRequest")
    s3.copy_object(Bucket=bucket, Key="k", CopySource=source, WebsiteRedirectLocation="/newer")
    assert s3.get_object(Bucket=bucket, Key="k")["WebsiteRedirectLocation"] == "/newer"


def test_nothing_is_archived(s3, bucket):
    s3.put_object(Bucket=bucket, Key="k", StorageClass="STANDARD_IA")
    asked = {"Bucket": bucket, "RestoreRequest": {"Days": 1}}
    error = said(s3.restore_object, Key="k", **asked)
    assert (error["Code"], error["Message"]) == ("InvalidObjectState", "Restore is not allowed for the object's current storage class")
    assert failure(s3.restore_object, Key="none", **asked) == (404, "NoSuchKey")


# --- encryption, ETags --------------------------------------------------------------------------------------


def test_customers_keys_can_be_blocked(s3, bucket):
    def put(*kinds):
        rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BlockedEncryptionTypes": {"EncryptionType": list(kinds)}}
        s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
        shown = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
        assert shown == [rule | {"BucketKeyEnabled": False}]

    own = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": "k" * 32}
    s3.put_object(Bucket=bucket, Key="before", Body=b"x", **own)
    put("SSE-C")
    for call, arguments in [
        (s3.put_object, {"Body": b"x"}), (s3.create_multipart_upload, {}), (s3.copy_object, {"CopySource": f"{bucket}/plain"}),
    ]:  # fmt: skip
        s3.put_object(Bucket=bucket, Key="plain", Body=b"x")
        assert failure(call, Bucket=bucket, Key="k", **arguments, **own) == (403, "AccessDenied")
    assert s3.get_object(Bucket=bucket, Key="before", **own)["Body"].read() == b"x"
    put("NONE")
    s3.put_object(Bucket=bucket, Key="k", Body=b"x", **own)
    with pytest.raises(ClientError, match="MalformedXML"):
        put("AES256")


def test_etags_with_half_their_quotes(s3, bucket):
    etag = s3.put_object(Bucket=bucket, Key="k", Body=b"1")["ETag"]
    for odd in (etag[1:], etag[:-1], etag[1:-1]):
        assert s3.get_object(Bucket=bucket, Key="k", IfMatch=odd)["ETag"] == etag
        assert s3.put_object(Bucket=bucket, Key="k", Body=b"1", IfMatch=odd)["ETag"] == etag
    assert failure(s3.put_object, Bucket=bucket, Key="k", Body=b"2", IfMatch="no such tag") == (412, "PreconditionFailed")
    source = {"Bucket": bucket, "Key": "k"}
    s3.copy_object(Bucket=bucket, Key="c", CopySource=source, CopySourceIfNoneMatch="no such tag")
    assert failure(s3.copy_object, Bucket=bucket, Key="c", CopySource=source, CopySourceIfNoneMatch=etag[1:]) == (412, "PreconditionFailed")
