//! A bucket's settings about access: policy, policy status, public access block, ownership controls, who pays.

use granary_access::acl::Acl;
use granary_access::ownership::{OWNERSHIP_DOCUMENT, Ownership, PUBLIC_ACCESS_DOCUMENT, PublicAccessBlock};
use granary_meta::command::BucketChange;
use granary_store::StoreError;
use granary_types::BucketName;
use s3s::dto::{
    self, DeleteBucketOwnershipControlsInput, DeleteBucketOwnershipControlsOutput, DeleteBucketPolicyInput,
    DeleteBucketPolicyOutput, DeletePublicAccessBlockInput, DeletePublicAccessBlockOutput,
    GetBucketOwnershipControlsInput, GetBucketOwnershipControlsOutput, GetBucketPolicyInput, GetBucketPolicyOutput,
    GetBucketPolicyStatusInput, GetBucketPolicyStatusOutput, GetBucketRequestPaymentInput,
    GetBucketRequestPaymentOutput, GetPublicAccessBlockInput, GetPublicAccessBlockOutput,
    PutBucketOwnershipControlsInput, PutBucketOwnershipControlsOutput, PutBucketPolicyInput, PutBucketPolicyOutput,
    PutBucketRequestPaymentInput, PutBucketRequestPaymentOutput, PutPublicAccessBlockInput, PutPublicAccessBlockOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::context::Cx;
use crate::convert;
use crate::error::{Fail, invalid_request, not_found};
use crate::front::{FrontDoor, Outcome};
use crate::ops::grants::{self, ACL_DOCUMENT};

/// The bucket's document that holds its policy, byte for byte as it was put.
pub(crate) const POLICY_DOCUMENT: &str = "policy";
/// The bucket's document that says who pays, where it is not the owner.
const PAYMENT_DOCUMENT: &str = "requestPayment";
/// Bytes of a policy, at most (S3's limit).
const POLICY_BYTES_MAX: usize = 20 * 1024;

pub(crate) async fn set(
    front: &FrontDoor,
    bucket: &BucketName,
    name: &str,
    value: Option<Vec<u8>>,
) -> Result<(), Fail> {
    let change = BucketChange::Document { name: name.to_owned(), value };
    Ok(front.store.change_bucket(bucket, change).await?)
}

fn no_policy() -> S3Error {
    S3Error::with_message(S3ErrorCode::NoSuchBucketPolicy, "The bucket policy does not exist")
}

fn malformed_policy(message: impl Into<std::borrow::Cow<'static, str>>) -> S3Error {
    S3Error::with_message(S3ErrorCode::MalformedPolicy, message)
}

pub(crate) fn malformed_xml(message: &'static str) -> S3Error {
    S3Error::with_message(S3ErrorCode::MalformedXML, message)
}

pub(crate) async fn get_bucket_policy(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetBucketPolicyInput>,
) -> Outcome<GetBucketPolicyOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let stored = bucket.documents.get(POLICY_DOCUMENT).ok_or_else(no_policy)?;
    let policy = String::from_utf8(stored.clone()).map_err(|_| {
        Fail::Store(StoreError::Internal(format!("the policy of bucket {} cannot be read", bucket.name)))
    })?;
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    Ok(S3Response::with_headers(GetBucketPolicyOutput { policy: Some(policy) }, headers))
}

pub(crate) async fn put_bucket_policy(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutBucketPolicyInput>,
) -> Outcome<PutBucketPolicyOutput> {
    let input = request.input;
    let name = convert::bucket_name(&input.bucket)?;
    let bucket = front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    let document = input.policy.into_bytes();
    if document.is_empty() {
        return Err(S3Error::with_message(S3ErrorCode::MissingRequestBodyError, "Request Body is empty").into());
    }
    if document.len() > POLICY_BYTES_MAX {
        return Err(malformed_policy(format!(
            "Normalized policy document exceeds the maximum allowed size of {POLICY_BYTES_MAX} bytes."
        ))
        .into());
    }
    let policy = parse(&document, bucket.name.as_str())?;
    if grants::public_access(&bucket).block_public_policy && policy.is_public() {
        return Err(S3Error::with_message(
            S3ErrorCode::AccessDenied,
            "Access Denied: public policies are prevented by the BlockPublicPolicy setting in S3 Block Public Access",
        )
        .into());
    }
    set(front, &name, POLICY_DOCUMENT, Some(document)).await?;
    Ok(S3Response::new(PutBucketPolicyOutput::default()))
}

fn parse(document: &[u8], bucket: &str) -> Result<granary_access::Policy, S3Error> {
    let kind = granary_access::PolicyKind::Bucket(bucket);
    granary_access::Policy::parse(document, kind).map_err(|error| malformed_policy(error.to_string()))
}

pub(crate) async fn delete_bucket_policy(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<DeleteBucketPolicyInput>,
) -> Outcome<DeleteBucketPolicyOutput> {
    let input = request.input;
    let name = convert::bucket_name(&input.bucket)?;
    front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    set(front, &name, POLICY_DOCUMENT, None).await?;
    Ok(S3Response::new(DeleteBucketPolicyOutput::default()))
}

pub(crate) async fn get_bucket_policy_status(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetBucketPolicyStatusInput>,
) -> Outcome<GetBucketPolicyStatusOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    // S3 calls a bucket public by its list too.
    let is_listed = grants::ownership(&bucket).has_acls() && !grants::public_access(&bucket).ignore_public_acls && {
        let stored = bucket.documents.get(ACL_DOCUMENT).map(Vec::as_slice);
        Acl::decode(stored, &bucket.owner)
            .map_err(|error| Fail::Store(StoreError::Internal(error.to_string())))?
            .is_public()
    };
    let is_public = match bucket.documents.get(POLICY_DOCUMENT) {
        Some(policy) => is_listed || parse(policy, bucket.name.as_str())?.is_public(),
        None if is_listed => true,
        None => return Err(no_policy().into()),
    };
    let policy_status = Some(dto::PolicyStatus { is_public: Some(is_public) });
    Ok(S3Response::new(GetBucketPolicyStatusOutput { policy_status }))
}

pub(crate) async fn get_public_access_block(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetPublicAccessBlockInput>,
) -> Outcome<GetPublicAccessBlockOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let stored = bucket.documents.get(PUBLIC_ACCESS_DOCUMENT).map(Vec::as_slice);
    let block = PublicAccessBlock::shown(stored).ok_or_else(|| {
        not_found("NoSuchPublicAccessBlockConfiguration", "The public access block configuration was not found")
    })?;
    Ok(S3Response::new(GetPublicAccessBlockOutput {
        public_access_block_configuration: Some(dto::PublicAccessBlockConfiguration {
            block_public_acls: Some(block.block_public_acls),
            block_public_policy: Some(block.block_public_policy),
            ignore_public_acls: Some(block.ignore_public_acls),
            restrict_public_buckets: Some(block.restrict_public_buckets),
        }),
    }))
}

pub(crate) async fn put_public_access_block(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutPublicAccessBlockInput>,
) -> Outcome<PutPublicAccessBlockOutput> {
    let input = request.input;
    let name = convert::bucket_name(&input.bucket)?;
    front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    let asked = input.public_access_block_configuration;
    let flags =
        [asked.block_public_acls, asked.ignore_public_acls, asked.block_public_policy, asked.restrict_public_buckets];
    if flags.iter().all(Option::is_none) {
        return Err(invalid_request("Must specify at least one configuration.").into());
    }
    let block = PublicAccessBlock {
        block_public_acls: asked.block_public_acls.unwrap_or(false),
        ignore_public_acls: asked.ignore_public_acls.unwrap_or(false),
        block_public_policy: asked.block_public_policy.unwrap_or(false),
        restrict_public_buckets: asked.restrict_public_buckets.unwrap_or(false),
    };
    set(front, &name, PUBLIC_ACCESS_DOCUMENT, Some(block.encode())).await?;
    Ok(S3Response::new(PutPublicAccessBlockOutput::default()))
}

pub(crate) async fn delete_public_access_block(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<DeletePublicAccessBlockInput>,
) -> Outcome<DeletePublicAccessBlockOutput> {
    let input = request.input;
    let name = convert::bucket_name(&input.bucket)?;
    front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    // Nothing stored means a new bucket's block, so that it was removed has to be kept.
    set(front, &name, PUBLIC_ACCESS_DOCUMENT, Some(Vec::new())).await?;
    Ok(S3Response::new(DeletePublicAccessBlockOutput::default()))
}

pub(crate) async fn get_bucket_ownership_controls(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetBucketOwnershipControlsInput>,
) -> Outcome<GetBucketOwnershipControlsOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let stored = bucket.documents.get(OWNERSHIP_DOCUMENT).map(Vec::as_slice);
    let ownership = Ownership::shown(stored)
        .ok_or_else(|| not_found("OwnershipControlsNotFoundError", "The bucket ownership controls were not found"))?;
    Ok(S3Response::new(GetBucketOwnershipControlsOutput {
        ownership_controls: Some(dto::OwnershipControls {
            rules: vec![dto::OwnershipControlsRule {
                object_ownership: dto::ObjectOwnership::from_static(ownership.name()),
            }],
        }),
    }))
}

pub(crate) async fn put_bucket_ownership_controls(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutBucketOwnershipControlsInput>,
) -> Outcome<PutBucketOwnershipControlsOutput> {
    let input = request.input;
    let name = convert::bucket_name(&input.bucket)?;
    let bucket = front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    let [rule] = &input.ownership_controls.rules[..] else {
        return Err(malformed_xml("OwnershipControls has exactly one Rule").into());
    };
    let ownership = Ownership::from_name(rule.object_ownership.as_str())
        .ok_or_else(|| malformed_xml("ObjectOwnership is BucketOwnerEnforced, BucketOwnerPreferred or ObjectWriter"))?;
    if !ownership.has_acls() {
        let stored = bucket.documents.get(ACL_DOCUMENT).map(Vec::as_slice);
        let acl =
            Acl::decode(stored, &bucket.owner).map_err(|error| Fail::Store(StoreError::Internal(error.to_string())))?;
        if !acl.is_trivial(&bucket.owner, &bucket.owner) {
            return Err(grants::acl_with_ownership().into());
        }
    }
    set(front, &name, OWNERSHIP_DOCUMENT, Some(ownership.name().as_bytes().to_vec())).await?;
    Ok(S3Response::new(PutBucketOwnershipControlsOutput::default()))
}

pub(crate) async fn delete_bucket_ownership_controls(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<DeleteBucketOwnershipControlsInput>,
) -> Outcome<DeleteBucketOwnershipControlsOutput> {
    let input = request.input;
    let name = convert::bucket_name(&input.bucket)?;
    front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    set(front, &name, OWNERSHIP_DOCUMENT, Some(Vec::new())).await?;
    Ok(S3Response::new(DeleteBucketOwnershipControlsOutput::default()))
}

/// Whether others than the owner have to say that they pay.
pub(crate) fn requester_pays(bucket: &granary_meta::records::BucketRecord) -> bool {
    bucket.documents.contains_key(PAYMENT_DOCUMENT)
}

pub(crate) async fn get_bucket_request_payment(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetBucketRequestPaymentInput>,
) -> Outcome<GetBucketRequestPaymentOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let payer = if requester_pays(&bucket) { dto::Payer::REQUESTER } else { dto::Payer::BUCKET_OWNER };
    Ok(S3Response::new(GetBucketRequestPaymentOutput { payer: Some(dto::Payer::from_static(payer)) }))
}

pub(crate) async fn put_bucket_request_payment(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutBucketRequestPaymentInput>,
) -> Outcome<PutBucketRequestPaymentOutput> {
    let input = request.input;
    let name = convert::bucket_name(&input.bucket)?;
    front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    let value = match input.request_payment_configuration.payer.as_str() {
        dto::Payer::BUCKET_OWNER => None,
        dto::Payer::REQUESTER => Some(dto::Payer::REQUESTER.as_bytes().to_vec()),
        _ => return Err(malformed_xml("Payer is BucketOwner or Requester").into()),
    };
    set(front, &name, PAYMENT_DOCUMENT, value).await?;
    Ok(S3Response::new(PutBucketRequestPaymentOutput::default()))
}
