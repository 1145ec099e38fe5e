//! CreateSession: credentials for one bucket, as directory buckets have them (adr/0017).
//!
//! Any bucket has them here. They are worth what the caller's own are, within the bucket and the mode; whoever asks needs
//! `s3:CreateSession`.

use granary_access::IamError;
use s3s::dto;
use s3s::dto::{
    CreateSessionInput, CreateSessionOutput, ListDirectoryBucketsInput, ListDirectoryBucketsOutput, SessionCredentials,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::auth::session_token;
use crate::context::Cx;
use crate::convert;
use crate::error::{invalid_argument, not_implemented};
use crate::express;
use crate::front::{FrontDoor, Outcome};

/// How long such a session is good for: S3's five minutes. SDKs ask again by themselves.
const SESSION_S: u64 = 300;
/// Directory buckets in one page, at most (S3's limit).
const BUCKETS_PAGE_MAX: i32 = 1_000;

/// What a session may do at most.
fn policy(bucket: &str, mode: &str) -> Option<String> {
    let actions = match mode {
        // Clients at an endpoint of their own send everything about the bucket with it, not just what is about objects.
        "ReadWrite" => r#""s3:*""#,
        "ReadOnly" => {
            r#""s3:GetObject","s3:GetObjectVersion","s3:GetObjectAttributes","s3:GetObjectVersionAttributes","s3:ListBucket","s3:ListMultipartUploadParts","s3:ListBucketMultipartUploads""#
        }
        _ => return None,
    };
    Some(format!(
        r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":[{actions}],"Resource":["arn:aws:s3:::{bucket}","arn:aws:s3:::{bucket}/*"]}}]}}"#
    ))
}

pub(crate) async fn create_session(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<CreateSessionInput>,
) -> Outcome<CreateSessionOutput> {
    let S3Request { input, headers, uri, .. } = request;
    // A session has no encryption of its own here: what is written with it has the bucket's.
    if input.server_side_encryption.as_ref().is_some_and(|sse| sse.as_str() != dto::ServerSideEncryption::AES256)
        || input.ssekms_key_id.is_some()
        || input.ssekms_encryption_context.is_some()
    {
        return Err(not_implemented(
            "A session with an encryption of its own is not implemented: set the bucket's default encryption, or send \
             x-amz-server-side-encryption with the objects.",
        )
        .into());
    }
    if cx.caller.is_anonymous() {
        return Err(S3Error::with_message(S3ErrorCode::AccessDenied, "Access Denied").into());
    }
    let name = convert::bucket_name(&input.bucket)?;
    let mode = input.session_mode.as_ref().map_or(dto::SessionMode::READ_WRITE, dto::SessionMode::as_str);
    let policy = policy(name.as_str(), mode)
        .ok_or_else(|| invalid_argument("x-amz-create-session-mode must be ReadOnly or ReadWrite"))?;
    let token = session_token(&headers, uri.query().unwrap_or_default());
    let issued = front.gate.iam.issue_bucket_session(&cx.caller, token.as_deref(), SESSION_S, policy);
    let issued = issued.map_err(|error| match error {
        IamError::AccessDenied(why) => S3Error::with_message(S3ErrorCode::AccessDenied, why),
        error => invalid_argument(error.to_string()),
    })?;
    let credentials = SessionCredentials {
        access_key_id: issued.access_key,
        expiration: convert::timestamp(issued.expires),
        secret_access_key: issued.secret.to_string(),
        session_token: issued.token,
    };
    Ok(S3Response::new(CreateSessionOutput { credentials, ..CreateSessionOutput::default() }))
}

pub(crate) async fn list_directory_buckets(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<ListDirectoryBucketsInput>,
) -> Outcome<ListDirectoryBucketsOutput> {
    let input = request.input;
    let max = match input.max_directory_buckets {
        None => usize::try_from(BUCKETS_PAGE_MAX).unwrap_or(usize::MAX),
        Some(n) if (0..=BUCKETS_PAGE_MAX).contains(&n) => usize::try_from(n).unwrap_or(usize::MAX),
        Some(_) => return Err(invalid_argument("max-directory-buckets must be an integer between 0 and 1000").into()),
    };
    let after = input.continuation_token.unwrap_or_default();
    let mut buckets: Vec<_> = front
        .store
        .list_buckets()?
        .into_iter()
        .filter(|bucket| express::zone(bucket.name.as_str()).is_some() && bucket.name.as_str() > after.as_str())
        .filter(|bucket| cx.caller.is_root || bucket.owner == cx.caller.owner.id || front.may_list(cx, bucket, None))
        .collect();
    let is_truncated = buckets.len() > max;
    buckets.truncate(max);
    let continuation_token = buckets.last().filter(|_| is_truncated).map(|bucket| bucket.name.as_str().to_owned());
    let shown = buckets.iter().map(|bucket| dto::Bucket {
        bucket_region: Some(bucket.region.clone()),
        creation_date: Some(convert::timestamp(bucket.created)),
        name: Some(bucket.name.as_str().to_owned()),
    });
    Ok(S3Response::new(ListDirectoryBucketsOutput { buckets: Some(shown.collect()), continuation_token }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_access::policy::{Policy, PolicyKind};

    #[test]
    fn policies_of_sessions_are_policies() {
        for mode in ["ReadWrite", "ReadOnly"] {
            let policy = policy("bucket", mode).unwrap();
            Policy::parse(policy.as_bytes(), PolicyKind::Identity).unwrap();
        }
        assert_eq!(policy("bucket", "WriteOnly"), None);
    }
}
