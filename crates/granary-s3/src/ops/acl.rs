//! Access control lists of buckets and objects: read and replaced. What a list may say is [`crate::ops::grants`]',
//! what it allows is decided by the authorisation.

use granary_access::acl::{Acl, Grantee};
use granary_meta::command::{BucketChange, VersionChange};
use granary_meta::records::BucketRecord;
use granary_store::StoreError;
use s3s::dto::{
    self, GetBucketAclInput, GetBucketAclOutput, GetObjectAclInput, GetObjectAclOutput, PutBucketAclInput,
    PutBucketAclOutput, PutObjectAclInput, PutObjectAclOutput,
};
use s3s::{S3Request, S3Response};

use crate::context::Cx;
use crate::convert;
use crate::error::Fail;
use crate::front::{FrontDoor, Outcome};
use crate::ops::grants::{self, ACL_DOCUMENT};
use crate::ops::lock::version_info;

/// Who may read a list sees the names that accounts have, as S3 had it for long: old clients (and suites) look for them.
fn owner(front: &FrontDoor, id: &str) -> dto::Owner {
    dto::Owner { display_name: front.gate.iam.display_name(id), id: Some(id.to_owned()) }
}

fn shown(front: &FrontDoor, acl: &Acl) -> Vec<dto::Grant> {
    let one = |grantee: &Grantee| match grantee {
        Grantee::User(id) => dto::Grantee {
            display_name: front.gate.iam.display_name(id),
            email_address: None,
            id: Some(id.clone()),
            type_: dto::Type::from_static(dto::Type::CANONICAL_USER),
            uri: None,
        },
        group => dto::Grantee {
            display_name: None,
            email_address: None,
            id: None,
            type_: dto::Type::from_static(dto::Type::GROUP),
            uri: group.uri().map(str::to_owned),
        },
    };
    acl.grants()
        .iter()
        .map(|grant| dto::Grant {
            grantee: Some(one(&grant.grantee)),
            permission: Some(dto::Permission::from_static(grant.permission.name())),
        })
        .collect()
}

fn read(stored: Option<&[u8]>, owner: &str) -> Result<Acl, Fail> {
    Acl::decode(stored, owner).map_err(|error| Fail::Store(StoreError::Internal(error.to_string())))
}

/// A bucket's list: the private one where lists are switched off, whatever is kept from before.
fn of_bucket(bucket: &BucketRecord) -> Result<Acl, Fail> {
    if !grants::ownership(bucket).has_acls() {
        return Ok(Acl::private(&bucket.owner));
    }
    read(bucket.documents.get(ACL_DOCUMENT).map(Vec::as_slice), &bucket.owner)
}

pub(crate) async fn get_bucket_acl(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetBucketAclInput>,
) -> Outcome<GetBucketAclOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let (grants, owner) = (Some(shown(front, &of_bucket(&bucket)?)), Some(owner(front, &bucket.owner)));
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
    let info = version_info(front, name, input.key, input.version_id.as_deref()).await?;
    let attributes = &info.object.attributes;
    let (id, acl) = if grants::ownership(&bucket).has_acls() {
        (&attributes.owner, read(attributes.acl.as_deref(), &attributes.owner)?)
    } else {
        (&bucket.owner, Acl::private(&bucket.owner))
    };
    let (grants, owner) = (Some(shown(front, &acl)), Some(owner(front, id)));
    Ok(S3Response::new(GetObjectAclOutput { grants, owner, request_charged: None }))
}

pub(crate) async fn put_bucket_acl(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<PutBucketAclInput>,
) -> Outcome<PutBucketAclOutput> {
    let S3Request { input, headers, .. } = request;
    let name = convert::bucket_name(&input.bucket)?;
    let bucket = front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    grants::check_canned(&bucket, &cx.caller.owner.id, &headers)?;
    let acl = grants::of_put(&headers, input.access_control_policy, &bucket.owner, &bucket.owner)?;
    grants::check(&bucket, &acl, &bucket.owner, &|id| front.is_somebody(id))?;
    if grants::ownership(&bucket).has_acls() {
        let change = BucketChange::Document { name: ACL_DOCUMENT.to_owned(), value: acl.encode(&bucket.owner) };
        front.store.change_bucket(&name, change).await?;
    }
    Ok(S3Response::new(PutBucketAclOutput::default()))
}

pub(crate) async fn put_object_acl(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<PutObjectAclInput>,
) -> Outcome<PutObjectAclOutput> {
    let S3Request { input, headers, .. } = request;
    let name = convert::bucket_name(&input.bucket)?;
    let bucket = front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    let info = version_info(front, name.clone(), input.key.clone(), input.version_id.as_deref()).await?;
    let has_acls = grants::ownership(&bucket).has_acls();
    let owner = if has_acls { &info.object.attributes.owner } else { &bucket.owner };
    grants::check_canned(&bucket, &cx.caller.owner.id, &headers)?;
    let acl = grants::of_put(&headers, input.access_control_policy, owner, &bucket.owner)?;
    grants::check(&bucket, &acl, owner, &|id| front.is_somebody(id))?;
    if has_acls {
        let key = convert::object_key(input.key)?;
        // The version whose owner was looked at, and not one that came since.
        let version = match convert::version_id(input.version_id.as_deref())? {
            None => info.version,
            named => named,
        };
        front.store.change_version(&name, &key, version, VersionChange::Acl(acl.encode(owner))).await?;
    }
    Ok(S3Response::new(PutObjectAclOutput::default()))
}
