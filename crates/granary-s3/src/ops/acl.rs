//! ACLs as S3 has them where object ownership is enforced: the owner holds full control, and nothing else
//! can be granted.

use http::HeaderMap;
use s3s::dto::{
    self, GetBucketAclInput, GetBucketAclOutput, GetObjectAclInput, GetObjectAclOutput, PutBucketAclInput,
    PutBucketAclOutput, PutObjectAclInput, PutObjectAclOutput,
};
use s3s::{S3Error, S3Request, S3Response};

use crate::context::Cx;
use crate::convert;
use crate::front::{FrontDoor, Outcome};
use crate::ops::attributes::{acl_refused, check_acl};
use crate::ops::lock::version_info;

fn owner(id: &str) -> dto::Owner {
    dto::Owner { display_name: None, id: Some(id.to_owned()) }
}

fn full_control(id: &str) -> Vec<dto::Grant> {
    vec![dto::Grant {
        grantee: Some(dto::Grantee {
            display_name: None,
            email_address: None,
            id: Some(id.to_owned()),
            type_: dto::Type::from_static(dto::Type::CANONICAL_USER),
            uri: None,
        }),
        permission: Some(dto::Permission::from_static(dto::Permission::FULL_CONTROL)),
    }]
}

/// A list that says what is so anyway (clients such as s3cmd copy an object's ACL to its copy), or the canned
/// lists that grant nobody anything.
fn check_put(
    headers: &HeaderMap,
    has_canned: bool,
    policy: Option<dto::AccessControlPolicy>,
    id: &str,
) -> Result<(), S3Error> {
    check_acl(headers)?;
    let is_owner = |grant: &dto::Grant| {
        let is_full = grant.permission.as_ref().is_some_and(|p| p.as_str() == dto::Permission::FULL_CONTROL);
        is_full && grant.grantee.as_ref().is_some_and(|grantee| grantee.id.as_deref() == Some(id))
    };
    match policy.and_then(|policy| policy.grants) {
        None if has_canned => Ok(()),
        Some(grants) if grants.iter().all(is_owner) => Ok(()),
        _ => Err(acl_refused()),
    }
}

pub(crate) async fn get_bucket_acl(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetBucketAclInput>,
) -> Outcome<GetBucketAclOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let (grants, owner) = (Some(full_control(&bucket.owner)), Some(owner(&bucket.owner)));
    Ok(S3Response::new(GetBucketAclOutput { grants, owner }))
}

pub(crate) async fn get_object_acl(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetObjectAclInput>,
) -> Outcome<GetObjectAclOutput> {
    let input = request.input;
    let name = convert::bucket_name(&input.bucket)?;
    let bucket = front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    version_info(front, name, input.key, input.version_id.as_deref()).await?;
    let (grants, owner) = (Some(full_control(&bucket.owner)), Some(owner(&bucket.owner)));
    Ok(S3Response::new(GetObjectAclOutput { grants, owner, request_charged: None }))
}

pub(crate) async fn put_bucket_acl(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutBucketAclInput>,
) -> Outcome<PutBucketAclOutput> {
    let S3Request { input, headers, .. } = request;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    check_put(&headers, input.acl.is_some(), input.access_control_policy, &bucket.owner)?;
    Ok(S3Response::new(PutBucketAclOutput::default()))
}

pub(crate) async fn put_object_acl(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutObjectAclInput>,
) -> Outcome<PutObjectAclOutput> {
    let S3Request { input, headers, .. } = request;
    let name = convert::bucket_name(&input.bucket)?;
    let bucket = front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    check_put(&headers, input.acl.is_some(), input.access_control_policy, &bucket.owner)?;
    version_info(front, name, input.key, input.version_id.as_deref()).await?;
    Ok(S3Response::new(PutObjectAclOutput::default()))
}
