//! Buckets: list, create, head, location, delete, versioning.

use std::collections::BTreeMap;

use granary_access::Acl;
use granary_access::ownership::{OWNERSHIP_DOCUMENT, Ownership, PUBLIC_ACCESS_DOCUMENT};
use granary_meta::command::{BucketChange, Refusal};
use granary_meta::records::{BucketOptions, Versioning};
use granary_store::StoreError;
use granary_store::api::CreateBucketRequest;
use granary_types::names::AUDIT_BUCKET;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use s3s::dto::{
    self, CreateBucketInput, CreateBucketOutput, DeleteBucketInput, DeleteBucketOutput, GetBucketLocationInput,
    GetBucketLocationOutput, GetBucketVersioningInput, GetBucketVersioningOutput, HeadBucketInput, HeadBucketOutput,
    ListBucketsInput, ListBucketsOutput, PutBucketVersioningInput, PutBucketVersioningOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::context::Cx;
use crate::convert;
use crate::error::{Fail, invalid_argument, not_implemented};
use crate::express;
use crate::front::{FrontDoor, Outcome};
use crate::ops::grants;

/// S3's first region, with habits of its own: its name is never a `LocationConstraint`, and there creating a
/// bucket that one has already succeeds.
const US_EAST_1: &str = "us-east-1";
/// Buckets in one page, at most (S3's limit).
const BUCKETS_PAGE_MAX: i32 = 10_000;
const BUCKET_ARN: HeaderName = HeaderName::from_static("x-amz-bucket-arn");
const LOCATION_NAME: HeaderName = HeaderName::from_static("x-amz-bucket-location-name");
const LOCATION_TYPE: HeaderName = HeaderName::from_static("x-amz-bucket-location-type");
const BUCKET_REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");

pub(crate) async fn list_buckets(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<ListBucketsInput>,
) -> Outcome<ListBucketsOutput> {
    let input = request.input;
    let max = match input.max_buckets {
        None => usize::MAX,
        Some(n) if (1..=BUCKETS_PAGE_MAX).contains(&n) => usize::try_from(n).unwrap_or(usize::MAX),
        Some(_) => return Err(invalid_argument("max-buckets must be an integer between 1 and 10000").into()),
    };
    let prefix = input.prefix.clone().unwrap_or_default();
    // A bucket's name is nothing to hide from its owner, so it is its own token.
    let after = input.continuation_token.unwrap_or_default();
    let mut buckets: Vec<_> = front
        .store
        .list_buckets()?
        .into_iter()
        // The audit bucket is the node's own: it is there to be read, not among anybody's.
        .filter(|bucket| bucket.name.as_str() != AUDIT_BUCKET)
        .filter(|bucket| cx.caller.is_root || bucket.owner == cx.caller.owner.id || front.may_list(cx, bucket, None))
        .filter(|bucket| bucket.name.as_str().starts_with(&prefix) && bucket.name.as_str() > after.as_str())
        .filter(|bucket| input.bucket_region.as_ref().is_none_or(|region| *region == bucket.region))
        .collect();
    let is_truncated = buckets.len() > max;
    buckets.truncate(max);
    let continuation_token = buckets.last().filter(|_| is_truncated).map(|bucket| bucket.name.as_str().to_owned());
    let shown = buckets
        .iter()
        .map(|bucket| dto::Bucket {
            bucket_region: Some(bucket.region.clone()),
            creation_date: Some(convert::timestamp(bucket.created)),
            name: Some(bucket.name.as_str().to_owned()),
        })
        .collect();
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(shown),
        continuation_token,
        owner: Some(dto::Owner {
            display_name: Some(cx.caller.owner.display_name.clone()),
            id: Some(cx.caller.owner.id.clone()),
        }),
        prefix: input.prefix,
    }))
}

/// Whether a name looks like one of AWS's regions: `eu-west-1`, `us-gov-east-1`.
fn is_aws_region(name: &str) -> bool {
    let parts: Vec<&str> = name.split('-').collect();
    let word = |part: &&str| part.len() >= 2 && part.bytes().all(|b| b.is_ascii_lowercase());
    match &parts[..] {
        [area, words @ .., number] if !words.is_empty() => {
            (2..=3).contains(&area.len())
                && word(area)
                && words.iter().all(word)
                && !number.is_empty()
                && number.bytes().all(|b| b.is_ascii_digit())
        }
        _ => false,
    }
}

/// Where any region is taken, the one that a request is signed for stands for AWS's endpoint there, which makes buckets in
/// its own region only; `us-east-1` alone makes them anywhere, and nowhere by its own name.
fn check_endpoint(front: &FrontDoor, signed: Option<&str>, asked: Option<&str>) -> Result<(), S3Error> {
    let Some(signed) = signed.filter(|region| front.any_region && is_aws_region(region)) else { return Ok(()) };
    if asked == Some(signed) && signed == US_EAST_1 {
        return Err(invalid_location());
    }
    let is_nodes = &*front.region != US_EAST_1 && asked.unwrap_or(signed) == &*front.region;
    if signed == US_EAST_1 || asked == Some(signed) || is_nodes {
        return Ok(());
    }
    let message = format!(
        "The {} location constraint is incompatible for the region specific endpoint this request was sent to.",
        asked.unwrap_or("unspecified")
    );
    Err(S3Error::with_message(S3ErrorCode::IllegalLocationConstraintException, message))
}

/// The region a bucket is asked to be in.
fn asked_region(front: &FrontDoor, input: &CreateBucketInput, signed: Option<&str>) -> Result<Option<String>, S3Error> {
    let configuration = input.create_bucket_configuration.as_ref();
    if let Some(configuration) = configuration
        && (configuration.bucket.is_some() || configuration.location.is_some())
    {
        return directory_bucket(input, configuration).map(|()| None);
    }
    let region = configuration.and_then(|configuration| configuration.location_constraint.as_ref());
    let region = region.map(dto::BucketLocationConstraint::as_str).filter(|region| !region.is_empty());
    if express::zone(&input.bucket).is_none() {
        check_endpoint(front, signed, region)?;
    }
    match region {
        None => Ok(None),
        Some(region) if region == &*front.region || front.any_region => {
            let fine = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            if region.len() <= 64 && region.bytes().all(fine) {
                Ok(Some(region.to_owned()))
            } else {
                Err(invalid_location())
            }
        }
        Some(_) => Err(invalid_location()),
    }
}

/// A directory bucket is a bucket like any other here; what is asked of it has to agree with its name, as on AWS.
fn directory_bucket(input: &CreateBucketInput, asked: &dto::CreateBucketConfiguration) -> Result<(), S3Error> {
    let kind = asked.bucket.as_ref().and_then(|bucket| bucket.type_.as_ref()).map(dto::BucketType::as_str);
    let zone = asked.location.as_ref().and_then(|location| location.name.as_deref());
    if kind != Some(dto::BucketType::DIRECTORY) || zone.is_none() || asked.location_constraint.is_some() {
        return Err(invalid_argument(
            "A directory bucket is created with Bucket.Type Directory and Location.Name, and without LocationConstraint",
        ));
    }
    if express::zone(&input.bucket) != zone {
        return Err(S3Error::with_message(
            S3ErrorCode::InvalidBucketName,
            "The name of a directory bucket ends in its zone: NAME--ZONE--x-s3, with Location.Name ZONE",
        ));
    }
    Ok(())
}

/// Where the bucket is pinned: to the region that the client names, where that is this node's. (Another name is a label, and
/// taken only where `s3.any_region` says so.)
fn pins(front: &FrontDoor, input: &CreateBucketInput) -> Vec<String> {
    let asked = input.create_bucket_configuration.as_ref().and_then(|asked| asked.location_constraint.as_ref());
    asked
        .map(dto::BucketLocationConstraint::as_str)
        .filter(|region| *region == &*front.region)
        .map(str::to_owned)
        .into_iter()
        .collect()
}

fn invalid_location() -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidLocationConstraint, "The specified location-constraint is not valid")
}

fn already_exists() -> S3Error {
    S3Error::with_message(
        S3ErrorCode::BucketAlreadyExists,
        "The requested bucket name is not available. The bucket namespace is shared by all users of the system. \
         Please select a different name and try again.",
    )
}

fn already_yours() -> S3Error {
    S3Error::with_message(
        S3ErrorCode::BucketAlreadyOwnedByYou,
        "Your previous request to create the named bucket succeeded and you already own it.",
    )
}

/// Ownership and list, as far as they are asked to differ from a new bucket's.
fn access_documents(
    front: &FrontDoor,
    input: &CreateBucketInput,
    headers: &HeaderMap,
    owner: &str,
) -> Result<BTreeMap<String, Vec<u8>>, S3Error> {
    let mut documents = BTreeMap::new();
    let ownership = match input.object_ownership.as_ref().map(dto::ObjectOwnership::as_str) {
        None | Some("") if front.open_new_buckets => {
            documents.insert(OWNERSHIP_DOCUMENT.to_owned(), Ownership::ObjectWriter.name().as_bytes().to_vec());
            Ownership::ObjectWriter
        }
        None | Some("") => Ownership::default(),
        Some(name) => {
            let ownership = Ownership::from_name(name)
                .ok_or_else(|| invalid_argument(format!("Invalid x-amz-object-ownership header: {name}")))?;
            documents.insert(OWNERSHIP_DOCUMENT.to_owned(), ownership.name().as_bytes().to_vec());
            ownership
        }
    };
    if front.open_new_buckets {
        // As if its owner had removed it.
        documents.insert(PUBLIC_ACCESS_DOCUMENT.to_owned(), Vec::new());
    }
    let is_blocked = !front.open_new_buckets;
    if let Some(acl) = grants::of_new_bucket(headers, owner, (ownership, is_blocked), &|id| front.is_somebody(id))? {
        documents.insert(grants::ACL_DOCUMENT.to_owned(), acl);
    }
    Ok(documents)
}

pub(crate) async fn create_bucket(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<CreateBucketInput>,
) -> Outcome<CreateBucketOutput> {
    let S3Request { input, headers, region: signed, .. } = request;
    let owner = cx.caller.owner.id.clone();
    let name = convert::bucket_name(&input.bucket)?;
    if let Ok(there) = front.store.bucket(&name)
        && there.owner == owner
        && grants::of_headers(&headers, &owner, &owner)?.is_some_and(|acl| acl != Acl::private(&owner))
    {
        // What is there is not made again with another list.
        return Err(already_exists().into());
    }
    let documents = access_documents(front, &input, &headers, &owner)?;
    let region =
        asked_region(front, &input, signed.as_ref().map(AsRef::as_ref))?.unwrap_or_else(|| front.region.to_string());
    let options = BucketOptions {
        object_lock: input.object_lock_enabled_for_bucket.unwrap_or(false),
        regions: pins(front, &input),
        ..BucketOptions::default()
    };
    let request = CreateBucketRequest { name: name.clone(), owner, region: Some(region.clone()), options, documents };
    match front.store.create_bucket(request).await {
        Ok(()) => {}
        Err(StoreError::Refused(Refusal::BucketExists { owner })) if owner == cx.caller.owner.id => {
            if region != US_EAST_1 {
                return Err(already_yours().into());
            }
            // As in S3's first region: the bucket stays as it is, but for its list.
            if front.store.bucket(&name)?.documents.contains_key(grants::ACL_DOCUMENT) {
                let private = BucketChange::Document { name: grants::ACL_DOCUMENT.to_owned(), value: None };
                front.store.change_bucket(&name, private).await?;
            }
        }
        Err(error) => return Err(error.into()),
    }
    let output = CreateBucketOutput { location: Some(format!("/{}", input.bucket)) };
    let mut headers = HeaderMap::new();
    insert_arn(&mut headers, &input.bucket);
    Ok(S3Response::with_headers(output, headers))
}

fn insert_arn(headers: &mut HeaderMap, bucket: &str) {
    if let Ok(arn) = HeaderValue::try_from(format!("arn:aws:s3:::{bucket}")) {
        headers.insert(BUCKET_ARN, arn);
    }
}

pub(crate) async fn head_bucket(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<HeadBucketInput>,
) -> Outcome<HeadBucketOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let mut headers = HeaderMap::new();
    // As AWS has it, though there is no document.
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    insert_arn(&mut headers, &input.bucket);
    if let Ok(region) = HeaderValue::from_str(&bucket.region) {
        headers.insert(BUCKET_REGION, region);
    }
    if let Some(Ok(zone)) = express::zone(&input.bucket).map(HeaderValue::from_str) {
        headers.insert(LOCATION_NAME, zone);
        headers.insert(LOCATION_TYPE, HeaderValue::from_static("AvailabilityZone"));
    }
    Ok(S3Response::with_headers(HeadBucketOutput::default(), headers))
}

pub(crate) async fn get_bucket_location(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetBucketLocationInput>,
) -> Outcome<GetBucketLocationOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let location_constraint = (bucket.region != US_EAST_1).then(|| bucket.region.clone().into());
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
}

pub(crate) async fn delete_bucket(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<DeleteBucketInput>,
) -> Outcome<DeleteBucketOutput> {
    let input = request.input;
    let name = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    front.store.delete_bucket(&name).await?;
    Ok(S3Response::new(DeleteBucketOutput::default()))
}

pub(crate) async fn get_bucket_versioning(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetBucketVersioningInput>,
) -> Outcome<GetBucketVersioningOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let status = match bucket.versioning {
        Versioning::Off => None,
        Versioning::Enabled => Some(dto::BucketVersioningStatus::ENABLED),
        Versioning::Suspended => Some(dto::BucketVersioningStatus::SUSPENDED),
    };
    Ok(S3Response::new(GetBucketVersioningOutput {
        status: status.map(dto::BucketVersioningStatus::from_static),
        ..GetBucketVersioningOutput::default()
    }))
}

pub(crate) async fn put_bucket_versioning(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutBucketVersioningInput>,
) -> Outcome<PutBucketVersioningOutput> {
    let input = request.input;
    let name = convert::bucket_name(&input.bucket)?;
    let bucket = front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    let wanted = &input.versioning_configuration;
    if wanted.mfa_delete.as_ref().is_some_and(|mfa| mfa.as_str() == dto::MFADelete::ENABLED) {
        return Err(not_implemented("MFA delete is not implemented").into());
    }
    let state = match wanted.status.as_ref().map(dto::BucketVersioningStatus::as_str) {
        Some(dto::BucketVersioningStatus::ENABLED) => Versioning::Enabled,
        Some(dto::BucketVersioningStatus::SUSPENDED) => Versioning::Suspended,
        _ => {
            return Err(Fail::from(S3Error::with_message(
                S3ErrorCode::IllegalVersioningConfigurationException,
                "The Versioning element must be specified",
            )));
        }
    };
    if state == Versioning::Suspended && bucket.options.object_lock {
        return Err(S3Error::with_message(
            S3ErrorCode::InvalidBucketState,
            "An Object Lock configuration is present on this bucket, so the versioning state cannot be changed.",
        )
        .into());
    }
    front.store.change_bucket(&name, BucketChange::Versioning(state)).await?;
    Ok(S3Response::new(PutBucketVersioningOutput::default()))
}
