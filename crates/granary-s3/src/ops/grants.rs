//! The access control list that a request asks for: a canned name, grant headers, or a document, and whether the
//! bucket takes it.

use granary_access::acl::{Acl, AclError, Grant, Grantee, Permission};
use granary_access::ownership::{OWNERSHIP_DOCUMENT, Ownership, PUBLIC_ACCESS_DOCUMENT, PublicAccessBlock};
use granary_meta::records::BucketRecord;
use http::{HeaderMap, HeaderName};
use s3s::dto;
use s3s::{S3Error, S3ErrorCode};

use crate::error::{bad_request, invalid_argument, invalid_request};

/// The bucket's document that holds its list.
pub(crate) const ACL_DOCUMENT: &str = "acl";

const ACL: HeaderName = HeaderName::from_static("x-amz-acl");
const OWNER_FULL_CONTROL: &str = "bucket-owner-full-control";
const GRANTS: [(HeaderName, Permission); 5] = [
    (HeaderName::from_static("x-amz-grant-full-control"), Permission::FullControl),
    (HeaderName::from_static("x-amz-grant-read"), Permission::Read),
    (HeaderName::from_static("x-amz-grant-read-acp"), Permission::ReadAcp),
    (HeaderName::from_static("x-amz-grant-write"), Permission::Write),
    (HeaderName::from_static("x-amz-grant-write-acp"), Permission::WriteAcp),
];

/// Who owns what is written into the bucket, and whether lists count.
pub(crate) fn ownership(bucket: &BucketRecord) -> Ownership {
    Ownership::effective(bucket.documents.get(OWNERSHIP_DOCUMENT).map(Vec::as_slice))
}

/// The bucket's switches against public access.
pub(crate) fn public_access(bucket: &BucketRecord) -> PublicAccessBlock {
    PublicAccessBlock::effective(bucket.documents.get(PUBLIC_ACCESS_DOCUMENT).map(Vec::as_slice))
}

/// S3's answer to a list that cannot be.
pub(crate) fn refusal(error: &AclError) -> S3Error {
    match error {
        AclError::TooMany => malformed(),
        AclError::Id => invalid_argument("Invalid id"),
        AclError::Group => invalid_argument("Invalid group uri"),
        AclError::Email => S3Error::with_message(
            S3ErrorCode::UnresolvableGrantByEmailAddress,
            "The e-mail address you provided does not match any account on record.",
        ),
        AclError::Header => invalid_argument("Argument format not recognized"),
        AclError::Canned => invalid_argument("The x-amz-acl header names no canned access control list"),
        AclError::Stored => S3Error::new(S3ErrorCode::InternalError),
    }
}

pub(crate) fn malformed() -> S3Error {
    S3Error::with_message(
        S3ErrorCode::MalformedACLError,
        "The XML you provided was not well-formed or did not validate against our published schema",
    )
}

pub(crate) fn not_supported() -> S3Error {
    S3Error::with_message(S3ErrorCode::AccessControlListNotSupported, "The bucket does not allow ACLs")
}

fn access_denied() -> S3Error {
    S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied")
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, S3Error> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    let text = value.to_str().map_err(|_| invalid_argument(format!("The {name} header is not visible ASCII")))?;
    Ok((!text.is_empty()).then_some(text))
}

/// The list that headers ask for; `None` where they ask for none.
pub(crate) fn of_headers(headers: &HeaderMap, owner: &str, bucket_owner: &str) -> Result<Option<Acl>, S3Error> {
    let canned = text(headers, &ACL)?;
    let mut grants = Vec::new();
    for (name, permission) in &GRANTS {
        if let Some(grantees) = text(headers, name)? {
            let grantees = Acl::grantees_of_header(grantees).map_err(|error| refusal(&error))?;
            grants.extend(grantees.into_iter().map(|grantee| Grant { grantee, permission: *permission }));
        }
    }
    let acl = match (canned, grants.is_empty()) {
        (None, true) => return Ok(None),
        (Some(_), false) => {
            return Err(invalid_request("Specifying both Canned ACLs and Header Grants is not allowed"));
        }
        (Some(name), true) => Acl::canned(name, owner, bucket_owner),
        (None, false) => Acl::new(grants),
    };
    acl.map(Some).map_err(|error| refusal(&error))
}

fn grantee(grantee: dto::Grantee) -> Result<Grantee, S3Error> {
    let parsed = match grantee.type_.as_str() {
        dto::Type::CANONICAL_USER => Acl::user_grantee(grantee.id.as_deref().ok_or_else(malformed)?),
        dto::Type::GROUP => Grantee::from_uri(grantee.uri.as_deref().ok_or_else(malformed)?).ok_or(AclError::Group),
        dto::Type::AMAZON_CUSTOMER_BY_EMAIL => Err(AclError::Email),
        _ => return Err(malformed()),
    };
    parsed.map_err(|error| refusal(&error))
}

/// The list of a document, which must name the owner that there is.
pub(crate) fn of_document(policy: dto::AccessControlPolicy, owner: &str) -> Result<Acl, S3Error> {
    let named = policy.owner.and_then(|owner| owner.id).ok_or_else(malformed)?;
    if named != owner {
        // S3 does not hand things over.
        return Err(access_denied());
    }
    let mut grants = Vec::new();
    for grant in policy.grants.unwrap_or_default() {
        let permission = grant.permission.as_ref().and_then(|p| Permission::from_name(p.as_str()));
        let permission = permission.ok_or_else(malformed)?;
        grants.push(Grant { grantee: grantee(grant.grantee.ok_or_else(malformed)?)?, permission });
        if grants.len() > granary_access::acl::GRANTS_MAX {
            return Err(malformed());
        }
    }
    Acl::new(grants).map_err(|error| refusal(&error))
}

/// Which list a request to replace one asks for: exactly one of a canned name, headers and a document.
pub(crate) fn of_put(
    headers: &HeaderMap,
    policy: Option<dto::AccessControlPolicy>,
    owner: &str,
    bucket_owner: &str,
) -> Result<Acl, S3Error> {
    match (of_headers(headers, owner, bucket_owner)?, policy) {
        (Some(_), Some(_)) => {
            Err(S3Error::with_message(S3ErrorCode::UnexpectedContent, "This request does not support content"))
        }
        (Some(acl), None) => Ok(acl),
        (None, Some(policy)) => of_document(policy, owner),
        (None, None) => Err(S3Error::with_message(
            S3ErrorCode::MissingSecurityHeader,
            "Your request was missing a required header: x-amz-acl, an x-amz-grant- header, or a document",
        )),
    }
}

/// Tells whether a canonical id is somebody's.
pub(crate) type Known<'a> = &'a dyn Fn(&str) -> bool;

/// Whoever is granted something has to be there.
fn check_grantees(acl: &Acl, known: Known<'_>) -> Result<(), S3Error> {
    let is_known = |grant: &Grant| match &grant.grantee {
        Grantee::User(id) => known(id),
        _ => true,
    };
    if acl.grants().iter().all(is_known) { Ok(()) } else { Err(refusal(&AclError::Id)) }
}

/// Whether the bucket takes the list: lists may be switched off, or public ones blocked.
pub(crate) fn check(bucket: &BucketRecord, acl: &Acl, owner: &str, known: Known<'_>) -> Result<(), S3Error> {
    if !ownership(bucket).has_acls() && !acl.is_trivial(owner, &bucket.owner) {
        return Err(not_supported());
    }
    if public_access(bucket).block_public_acls && acl.is_public() {
        return Err(access_denied());
    }
    check_grantees(acl, known)
}

/// Where ownership is enforced, what another account writes is not its own: `private` would say that it is. (The bucket's owner
/// may say `private`, which is so anyway: old clients always do. AWS refuses it to them, too.)
pub(crate) fn check_canned(bucket: &BucketRecord, caller: &str, headers: &HeaderMap) -> Result<(), S3Error> {
    let says_other = text(headers, &ACL)?.is_some_and(|name| name != OWNER_FULL_CONTROL);
    if says_other && caller != bucket.owner && !ownership(bucket).has_acls() { Err(not_supported()) } else { Ok(()) }
}

/// The owner and the stored list of an object that `writer` writes. An object that nobody in particular wrote
/// (`None`) is the bucket owner's.
pub(crate) fn of_write(
    bucket: &BucketRecord,
    writer: Option<&str>,
    headers: &HeaderMap,
    known: Known<'_>,
) -> Result<(String, Option<Vec<u8>>), S3Error> {
    let writer = writer.unwrap_or(&bucket.owner);
    check_canned(bucket, writer, headers)?;
    let owner = match ownership(bucket) {
        Ownership::BucketOwnerEnforced => &bucket.owner,
        Ownership::BucketOwnerPreferred if text(headers, &ACL)? == Some(OWNER_FULL_CONTROL) => &bucket.owner,
        Ownership::BucketOwnerPreferred | Ownership::ObjectWriter => writer,
    };
    let Some(acl) = of_headers(headers, owner, &bucket.owner)? else { return Ok((owner.to_owned(), None)) };
    check(bucket, &acl, owner, known)?;
    let stored = if ownership(bucket).has_acls() { acl.encode(owner) } else { None };
    Ok((owner.to_owned(), stored))
}

/// The stored list of a bucket to be made with this ownership, and with public lists blocked or not.
pub(crate) fn of_new_bucket(
    headers: &HeaderMap,
    owner: &str,
    (ownership, is_blocked): (Ownership, bool),
    known: Known<'_>,
) -> Result<Option<Vec<u8>>, S3Error> {
    let Some(acl) = of_headers(headers, owner, owner)? else { return Ok(None) };
    if !ownership.has_acls() && !acl.is_trivial(owner, owner) {
        return Err(acl_with_ownership());
    }
    if is_blocked && acl.is_public() {
        return Err(bad_request(
            "InvalidBucketAclWithBlockPublicAccessError",
            "Bucket cannot have public ACLs set with BlockPublicAccess enabled",
        ));
    }
    check_grantees(&acl, known)?;
    Ok(acl.encode(owner))
}

/// Lists and `BucketOwnerEnforced` do not go together.
pub(crate) fn acl_with_ownership() -> S3Error {
    bad_request(
        "InvalidBucketAclWithObjectOwnership",
        "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_str(v).unwrap())).collect()
    }

    #[test]
    fn headers_name_one_list() {
        assert_eq!(of_headers(&headers(&[]), A, A).unwrap(), None);
        let read = format!("id={A}");
        let acl = of_headers(&headers(&[("x-amz-grant-read", &read), ("x-amz-grant-write", &read)]), "o", "o");
        assert_eq!(acl.unwrap().unwrap().grants().len(), 2);
        let both = of_headers(&headers(&[("x-amz-acl", "private"), ("x-amz-grant-read", &read)]), A, A).unwrap_err();
        assert_eq!(both.code(), &S3ErrorCode::InvalidRequest);
        let unknown = of_headers(&headers(&[("x-amz-acl", "public-reed")]), A, A).unwrap_err();
        assert_eq!(unknown.code(), &S3ErrorCode::InvalidArgument);
        let email = of_headers(&headers(&[("x-amz-grant-read", "emailAddress=\"a@b\"")]), A, A).unwrap_err();
        assert_eq!(email.code(), &S3ErrorCode::UnresolvableGrantByEmailAddress);
    }

    #[test]
    fn a_new_bucket_takes_no_public_list() {
        let of = |name, ownership| of_new_bucket(&headers(&[("x-amz-acl", name)]), A, (ownership, true), &|_| true);
        assert_eq!(of("private", Ownership::BucketOwnerEnforced).unwrap(), None);
        let code = |result: Result<_, S3Error>| result.unwrap_err().code().as_str().to_owned();
        assert_eq!(code(of("public-read", Ownership::BucketOwnerEnforced)), "InvalidBucketAclWithObjectOwnership");
        assert_eq!(code(of("public-read", Ownership::ObjectWriter)), "InvalidBucketAclWithBlockPublicAccessError");
        assert!(of("log-delivery-write", Ownership::ObjectWriter).unwrap().is_some());
        let read = format!("id={A}");
        let stranger =
            of_new_bucket(&headers(&[("x-amz-grant-read", &read)]), "o", (Ownership::ObjectWriter, true), &|_| false);
        assert_eq!(code(stranger), "InvalidArgument");
    }
}
