//! A bucket's default encryption: put, got and deleted. Writes apply it where they ask for none themselves.

use granary_meta::records::BucketRecord;
use s3s::dto::{
    self, DeleteBucketEncryptionInput, DeleteBucketEncryptionOutput, GetBucketEncryptionInput,
    GetBucketEncryptionOutput, PutBucketEncryptionInput, PutBucketEncryptionOutput, ServerSideEncryptionConfiguration,
};
use s3s::xml::{Deserialize, Serialize};
use s3s::{S3Request, S3Response};

use crate::blocked::{self, Blocked};
use crate::context::Cx;
use crate::convert;
use crate::error::{Fail, invalid_argument, not_implemented};
use crate::front::{FrontDoor, Outcome};
use crate::ops::access::{malformed_xml, set};

/// The bucket's document that holds the configuration, as XML.
pub(crate) const DOCUMENT: &str = "encryption";
/// Characters of a key's id or ARN, at most.
const KEY_ID_CHARS_MAX: usize = 2048;

/// The configuration as it is kept, and what it blocks.
pub(crate) fn parse(document: &[u8]) -> Option<(ServerSideEncryptionConfiguration, Option<Blocked>)> {
    let (document, blocked) = blocked::taken_out(std::str::from_utf8(document).ok()?).ok()?;
    let mut xml = s3s::xml::Deserializer::new(document.as_bytes());
    Some((ServerSideEncryptionConfiguration::deserialize(&mut xml).ok()?, blocked))
}

fn unreadable(bucket: &BucketRecord) -> Fail {
    let what = format!("the encryption configuration of bucket {} cannot be read", bucket.name);
    Fail::Store(granary_store::StoreError::Internal(what))
}

fn check(configuration: &ServerSideEncryptionConfiguration) -> Result<(), Fail> {
    let [rule] = &configuration.rules[..] else {
        return Err(malformed_xml("ServerSideEncryptionConfiguration has exactly one Rule").into());
    };
    let default = rule.apply_server_side_encryption_by_default.as_ref();
    let default = default.ok_or_else(|| malformed_xml("A Rule needs ApplyServerSideEncryptionByDefault"))?;
    match default.sse_algorithm.as_str() {
        dto::ServerSideEncryption::AES256 if default.kms_master_key_id.is_some() => {
            let message = "a KMSMasterKeyID is not applicable if the default sse algorithm is not aws:kms";
            return Err(invalid_argument(message).into());
        }
        dto::ServerSideEncryption::AES256 => {}
        dto::ServerSideEncryption::AWS_KMS => {
            let is_bad = |id: &String| id.is_empty() || id.chars().count() > KEY_ID_CHARS_MAX;
            if default.kms_master_key_id.as_ref().is_some_and(is_bad) {
                return Err(invalid_argument("KMSMasterKeyID is not a key's id").into());
            }
        }
        dto::ServerSideEncryption::AWS_KMS_DSSE => {
            return Err(not_implemented("aws:kms:dsse (dual-layer encryption) is not implemented").into());
        }
        _ => return Err(malformed_xml("SSEAlgorithm is AES256 or aws:kms").into()),
    }
    Ok(())
}

pub(crate) async fn get_bucket_encryption(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<GetBucketEncryptionInput>,
) -> Outcome<GetBucketEncryptionOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let configuration = match bucket.documents.get(DOCUMENT) {
        Some(document) => {
            let (mut configuration, blocked) = parse(document).ok_or_else(|| unreadable(&bucket))?;
            // s3s has no place for it: it is written into the answer's document.
            if let Some(blocked) = blocked {
                cx.trace.set_blocked(blocked);
            }
            for rule in &mut configuration.rules {
                rule.bucket_key_enabled.get_or_insert(false);
            }
            configuration
        }
        None => aes256(),
    };
    Ok(S3Response::new(GetBucketEncryptionOutput { server_side_encryption_configuration: Some(configuration) }))
}

/// What a bucket without a configuration has.
fn aes256() -> ServerSideEncryptionConfiguration {
    ServerSideEncryptionConfiguration {
        rules: vec![dto::ServerSideEncryptionRule {
            apply_server_side_encryption_by_default: Some(dto::ServerSideEncryptionByDefault {
                kms_master_key_id: None,
                sse_algorithm: dto::ServerSideEncryption::from_static(dto::ServerSideEncryption::AES256),
            }),
            bucket_key_enabled: Some(false),
        }],
    }
}

pub(crate) async fn put_bucket_encryption(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutBucketEncryptionInput>,
) -> Outcome<PutBucketEncryptionOutput> {
    let input = request.input;
    let name = convert::bucket_name(&input.bucket)?;
    front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    let configuration = input.server_side_encryption_configuration;
    check(&configuration)?;
    let mut document = Vec::new();
    configuration
        .serialize(&mut s3s::xml::Serializer::new(&mut document))
        .map_err(|error| Fail::Store(granary_store::StoreError::Internal(error.to_string())))?;
    if let Some(blocked) = request.extensions.get::<Blocked>() {
        document = blocked.put_into(&document).ok_or_else(|| malformed_xml("The configuration has no Rule"))?;
    }
    set(front, &name, DOCUMENT, Some(document)).await?;
    Ok(S3Response::new(PutBucketEncryptionOutput::default()))
}

pub(crate) async fn delete_bucket_encryption(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<DeleteBucketEncryptionInput>,
) -> Outcome<DeleteBucketEncryptionOutput> {
    let input = request.input;
    let name = convert::bucket_name(&input.bucket)?;
    front.bucket(&name, input.expected_bucket_owner.as_deref())?;
    set(front, &name, DOCUMENT, None).await?;
    Ok(S3Response::new(DeleteBucketEncryptionOutput::default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(algorithm: &'static str, key: Option<&str>) -> ServerSideEncryptionConfiguration {
        let mut configuration = aes256();
        configuration.rules[0].apply_server_side_encryption_by_default = Some(dto::ServerSideEncryptionByDefault {
            kms_master_key_id: key.map(str::to_owned),
            sse_algorithm: dto::ServerSideEncryption::from_static(algorithm),
        });
        configuration
    }

    #[test]
    fn what_a_configuration_may_say() {
        assert!(check(&of("AES256", None)).is_ok());
        assert!(check(&of("aws:kms", None)).is_ok());
        assert!(check(&of("aws:kms", Some("training"))).is_ok());
        assert!(check(&of("AES256", Some("training"))).is_err());
        assert!(check(&of("aws:kms", Some(""))).is_err());
        assert!(check(&of("rot13", None)).is_err());
        assert!(check(&ServerSideEncryptionConfiguration { rules: Vec::new() }).is_err());
    }
}
