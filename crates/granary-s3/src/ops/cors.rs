//! A bucket's CORS configuration: put, got and deleted. What it means is [`crate::cors`]'s.

use s3s::dto::{
    CORSConfiguration, CORSRule, DeleteBucketCorsInput, DeleteBucketCorsOutput, GetBucketCorsInput,
    GetBucketCorsOutput, PutBucketCorsInput, PutBucketCorsOutput,
};
use s3s::xml::Serialize;
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::context::Cx;
use crate::convert;
use crate::cors::{DOCUMENT, METHODS, parse};
use crate::error::{Fail, invalid_request};
use crate::front::{FrontDoor, Outcome};
use crate::ops::access::{malformed_xml, set};

/// Rules of a bucket, at most, and bytes of the document (S3's limits).
const RULES_MAX: usize = 100;
const BYTES_MAX: usize = 64 * 1024;
/// Characters of a rule's id, at most.
const ID_CHARS_MAX: usize = 255;

fn check(rule: &CORSRule) -> Result<(), S3Error> {
    let wildcards = |text: &str| text.bytes().filter(|b| *b == b'*').count();
    if rule.allowed_methods.is_empty() || rule.allowed_origins.is_empty() {
        return Err(malformed_xml("A CORSRule needs an AllowedMethod and an AllowedOrigin"));
    }
    if let Some(method) = rule.allowed_methods.iter().find(|method| !METHODS.contains(&method.as_str())) {
        return Err(invalid_request(format!(
            "Found unsupported HTTP method in CORS config. Unsupported method is {method}"
        )));
    }
    for (element, patterns) in
        [("AllowedOrigin", Some(&rule.allowed_origins)), ("AllowedHeader", rule.allowed_headers.as_ref())]
    {
        if let Some(pattern) = patterns.into_iter().flatten().find(|pattern| wildcards(pattern) > 1) {
            return Err(invalid_request(format!("{element} \"{pattern}\" can not have more than one wildcard.")));
        }
    }
    if let Some(header) = rule.expose_headers.iter().flatten().find(|header| wildcards(header) > 0) {
        return Err(invalid_request(format!(
            "ExposeHeader \"{header}\" contains wildcard. We currently do not support wildcard for ExposeHeader."
        )));
    }
    if rule.id.as_ref().is_some_and(|id| id.chars().count() > ID_CHARS_MAX) {
        return Err(invalid_request("The ID of a CORSRule has at most 255 characters"));
    }
    if rule.max_age_seconds.is_some_and(|seconds| seconds < 0) {
        return Err(malformed_xml("MaxAgeSeconds is not negative"));
    }
    Ok(())
}

fn stored(configuration: &CORSConfiguration) -> Result<Vec<u8>, Fail> {
    let rules = &configuration.cors_rules;
    if rules.is_empty() || rules.len() > RULES_MAX {
        return Err(malformed_xml("A CORS configuration has 1 to 100 rules").into());
    }
    rules.iter().try_for_each(check)?;
    let mut document = Vec::new();
    configuration
        .serialize(&mut s3s::xml::Serializer::new(&mut document))
        .map_err(|error| Fail::Store(granary_store::StoreError::Internal(error.to_string())))?;
    if document.len() > BYTES_MAX {
        return Err(invalid_request("A CORS configuration has at most 64 KB").into());
    }
    Ok(document)
}

pub(crate) async fn get_bucket_cors(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetBucketCorsInput>,
) -> Outcome<GetBucketCorsOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let document = bucket.documents.get(DOCUMENT).ok_or_else(|| {
        S3Error::with_message(S3ErrorCode::NoSuchCORSConfiguration, "The CORS configuration does not exist")
    })?;
    let configuration = parse(document).ok_or_else(|| {
        Fail::Store(granary_store::StoreError::Internal(format!(
            "the CORS configuration of bucket {} cannot be read",
            bucket.name
        )))
    })?;
    Ok(S3Response::new(GetBucketCorsOutput { cors_rules: Some(configuration.cors_rules) }))
}

pub(crate) async fn put_bucket_cors(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutBucketCorsInput>,
) -> Outcome<PutBucketCorsOutput> {
    let input = request.input;
    let name = convert::bucket_name(&input.bucket)?;
    front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    set(front, &name, DOCUMENT, Some(stored(&input.cors_configuration)?)).await?;
    Ok(S3Response::new(PutBucketCorsOutput::default()))
}

pub(crate) async fn delete_bucket_cors(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<DeleteBucketCorsInput>,
) -> Outcome<DeleteBucketCorsOutput> {
    let input = request.input;
    let name = convert::bucket_name(&input.bucket)?;
    front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    set(front, &name, DOCUMENT, None).await?;
    Ok(S3Response::new(DeleteBucketCorsOutput::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(origin: &str, method: &str) -> CORSRule {
        CORSRule {
            allowed_headers: None,
            allowed_methods: vec![method.to_owned()],
            allowed_origins: vec![origin.to_owned()],
            expose_headers: None,
            id: None,
            max_age_seconds: None,
        }
    }

    #[test]
    fn what_a_rule_may_say() {
        assert!(check(&rule("http://*.example.com", "GET")).is_ok());
        assert!(check(&rule("http://*.*.com", "GET")).is_err());
        assert!(check(&rule("*", "OPTIONS")).is_err());
        assert!(check(&rule("*", "get")).is_err());
        assert!(check(&CORSRule { expose_headers: Some(vec!["*".into()]), ..rule("*", "GET") }).is_err());
        assert!(check(&CORSRule { allowed_headers: Some(vec!["*-*".into()]), ..rule("*", "GET") }).is_err());
        assert!(check(&CORSRule { id: Some("x".repeat(256)), ..rule("*", "GET") }).is_err());
        assert!(check(&CORSRule { allowed_methods: Vec::new(), ..rule("*", "GET") }).is_err());
    }

    #[test]
    fn what_is_stored_is_read_again() {
        let of = |count: usize| CORSConfiguration { cors_rules: vec![rule("http://a&b", "PUT"); count] };
        let document = stored(&of(100)).unwrap();
        assert_eq!(parse(&document).unwrap(), of(100));
        assert!(stored(&of(0)).is_err());
        assert!(stored(&of(101)).is_err());
    }
}
