//! Encryption headers: SSE-S3, SSE-KMS and SSE-C, what a bucket has as its default, and what answers say of it.
//!
//! Everything is sealed whatever the headers say; they choose what beside the bucket's key is needed to open it. A
//! customer's key is taken from the headers here and handed to the store; nothing else looks at it.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/serv-side-encryption.html>

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use granary_meta::records::{BucketRecord, Sse};
use granary_store::api::{CustomerKey, Secret32, Unlock};
use http::{HeaderMap, HeaderName, HeaderValue};
use md5::{Digest as _, Md5};
use s3s::dto;
use s3s::{S3Error, S3ErrorCode};
use zeroize::{Zeroize as _, Zeroizing};

use crate::error::{invalid_argument, invalid_request, not_implemented};
use crate::front::FrontDoor;
use crate::ops::encryption;

const METHOD: HeaderName = HeaderName::from_static("x-amz-server-side-encryption");
const KMS_KEY: HeaderName = HeaderName::from_static("x-amz-server-side-encryption-aws-kms-key-id");
const CONTEXT: HeaderName = HeaderName::from_static("x-amz-server-side-encryption-context");
const BUCKET_KEY: HeaderName = HeaderName::from_static("x-amz-server-side-encryption-bucket-key-enabled");
const CUSTOMER_ALGORITHM: HeaderName = HeaderName::from_static("x-amz-server-side-encryption-customer-algorithm");
const CUSTOMER_KEY_MD5: HeaderName = HeaderName::from_static("x-amz-server-side-encryption-customer-key-md5");

/// A customer's key: algorithm, key, MD5 of the key.
pub(crate) type Customer = [HeaderName; 3];
/// The object that the request is about.
pub(crate) const OWN: Customer =
    [CUSTOMER_ALGORITHM, HeaderName::from_static("x-amz-server-side-encryption-customer-key"), CUSTOMER_KEY_MD5];
/// The object that a copy is made from.
pub(crate) const SOURCE: Customer = [
    HeaderName::from_static("x-amz-copy-source-server-side-encryption-customer-algorithm"),
    HeaderName::from_static("x-amz-copy-source-server-side-encryption-customer-key"),
    HeaderName::from_static("x-amz-copy-source-server-side-encryption-customer-key-md5"),
];

/// The only algorithm of SSE-S3 and SSE-C.
const AES256: &str = "AES256";
/// Characters of an encryption context or a key id, at most.
const TEXT_CHARS_MAX: usize = 8192;

/// What a write is to be encrypted with.
pub(crate) struct Asked {
    /// For the record.
    pub(crate) sse: Sse,
    /// The customer's key, where `sse` names one.
    pub(crate) key: Option<CustomerKey>,
    /// The request or the bucket's configuration says so, and not only the default of all.
    pub(crate) is_named: bool,
}

/// A header's text; an empty one is there too.
fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, S3Error> {
    let Some(value) = headers.get(name) else { return Ok(None) };
    match value.to_str() {
        Ok(text) if text.len() <= TEXT_CHARS_MAX => Ok(Some(text)),
        _ => Err(invalid_argument(format!("The {name} header is too long or not visible ASCII"))),
    }
}

fn default(bucket: &BucketRecord) -> Result<Option<BucketDefault>, S3Error> {
    bucket.documents.get(encryption::DOCUMENT).map(|document| BucketDefault::of(document)).transpose()
}

/// What the headers of a write, or else the bucket's configuration, ask for.
///
/// # Errors
/// As S3 answers headers that contradict each other or are not there whole.
pub(crate) fn of_write(front: &FrontDoor, bucket: &BucketRecord, headers: &HeaderMap) -> Result<Asked, S3Error> {
    let method = text(headers, &METHOD)?;
    if OWN.iter().any(|name| headers.contains_key(name)) {
        if method.is_some() || headers.contains_key(KMS_KEY) {
            return Err(invalid_argument(
                "Server Side Encryption with Customer provided key is incompatible with the encryption method specified",
            ));
        }
        let key = customer_key(front, headers, &OWN)?;
        let Some(key) = key else { return Err(no_algorithm()) };
        if default(bucket)?.is_some_and(|default| default.blocks_customers) {
            return Err(S3Error::with_message(
                S3ErrorCode::AccessDenied,
                "Access Denied because the bucket blocks SSE-C: its BlockedEncryptionTypes name it",
            ));
        }
        let sse = Sse::Customer { key_md5: key.md5().to_owned() };
        return Ok(Asked { sse, key: Some(key), is_named: true });
    }
    let bucket_key = bucket_key(headers)?;
    let default = default(bucket)?;
    let sse = match method {
        Some("aws:kms") => Sse::Kms {
            key_id: text(headers, &KMS_KEY)?.unwrap_or_default().to_owned(),
            context: context(headers)?,
            bucket_key_enabled: bucket_key.unwrap_or_else(|| default.as_ref().is_some_and(|d| d.bucket_key)),
        },
        Some("aws:kms:dsse") => {
            return Err(not_implemented(
                "Dual-layer encryption (aws:kms:dsse) is not implemented: use aws:kms, AES256 or a customer key",
            ));
        }
        Some(AES256) | None if headers.contains_key(KMS_KEY) || headers.contains_key(CONTEXT) => {
            return Err(invalid_argument(
                "Server Side Encryption with AWS KMS managed key requires HTTP header x-amz-server-side-encryption : aws:kms",
            ));
        }
        Some(AES256) => Sse::S3,
        Some(_) => return Err(invalid_argument("The encryption method specified is not supported")),
        None => match &default {
            Some(BucketDefault { kms_key: Some(key), bucket_key: enabled, .. }) => {
                Sse::Kms { key_id: key.clone(), context: None, bucket_key_enabled: bucket_key.unwrap_or(*enabled) }
            }
            _ => Sse::S3,
        },
    };
    Ok(Asked { sse, key: None, is_named: method.is_some() || default.is_some() })
}

/// What objects are encrypted with that nobody's request brings: as the bucket's configuration says.
///
/// # Errors
/// `Internal` where the configuration cannot be read.
pub fn default_sse(bucket: &BucketRecord) -> granary_store::api::Result<Sse> {
    let Some(document) = bucket.documents.get(encryption::DOCUMENT) else { return Ok(Sse::S3) };
    let default = BucketDefault::of(document).map_err(|_| {
        granary_store::StoreError::Internal(format!("bucket {}'s encryption configuration cannot be read", bucket.name))
    })?;
    Ok(match default.kms_key {
        Some(key_id) => Sse::Kms { key_id, context: None, bucket_key_enabled: default.bucket_key },
        None => Sse::S3,
    })
}

/// How a read opens its object.
///
/// # Errors
/// As S3 answers headers that a read does not have.
pub(crate) fn of_read(front: &FrontDoor, headers: &HeaderMap) -> Result<Unlock, S3Error> {
    if [METHOD, KMS_KEY, CONTEXT, BUCKET_KEY].iter().any(|name| headers.contains_key(name)) {
        return Err(invalid_argument("x-amz-server-side-encryption header is not supported for this operation."));
    }
    Ok(customer_key(front, headers, &OWN)?.map_or(Unlock::Plain, Unlock::Key))
}

/// How a copy opens its source.
pub(crate) fn of_source(front: &FrontDoor, headers: &HeaderMap) -> Result<Unlock, S3Error> {
    Ok(customer_key(front, headers, &SOURCE)?.map_or(Unlock::Plain, Unlock::Key))
}

fn no_algorithm() -> S3Error {
    invalid_argument(
        "Requests specifying Server Side Encryption with Customer provided keys must provide a valid encryption algorithm.",
    )
}

/// The customer's key, if one of its headers is there; checked in S3's order.
pub(crate) fn customer_key(
    front: &FrontDoor,
    headers: &HeaderMap,
    names: &Customer,
) -> Result<Option<CustomerKey>, S3Error> {
    let [algorithm, key, key_md5] = names;
    if !names.iter().any(|name| headers.contains_key(name)) {
        return Ok(None);
    }
    if !front.allow_customer_keys {
        return Err(invalid_request(
            "Requests specifying Server Side Encryption with Customer provided keys must be made over a secure connection.",
        ));
    }
    match text(headers, algorithm)?.filter(|text| !text.is_empty()) {
        None => return Err(no_algorithm()),
        Some(AES256) => {}
        Some(_) => {
            return Err(S3Error::with_message(
                S3ErrorCode::InvalidEncryptionAlgorithmError,
                "The Encryption request you specified is not valid. Supported value: AES256.",
            ));
        }
    }
    let key = text(headers, key)?.filter(|text| !text.is_empty()).ok_or_else(|| {
        invalid_argument(
            "Requests specifying Server Side Encryption with Customer provided keys must provide an appropriate secret key.",
        )
    })?;
    let wrong_key = || invalid_argument("The secret key was invalid for the specified algorithm.");
    let key = BASE64.decode(key).map(Zeroizing::new).map_err(|_| wrong_key())?;
    let given = text(headers, key_md5)?.filter(|text| !text.is_empty()).ok_or_else(|| {
        invalid_argument(
            "Requests specifying Server Side Encryption with Customer provided keys must provide the client calculated \
             MD5 of the secret key.",
        )
    })?;
    let md5 = BASE64.encode(Md5::digest(key.as_slice()));
    if given != md5 {
        return Err(invalid_argument("The calculated MD5 hash of the key did not match the hash that was provided."));
    }
    let mut bytes = <[u8; 32]>::try_from(key.as_slice()).map_err(|_| wrong_key())?;
    let secret = Secret32::from_bytes(bytes);
    bytes.zeroize();
    Ok(Some(CustomerKey::new(secret, md5)))
}

/// `x-amz-server-side-encryption-context`: base64 of a JSON object of strings.
fn context(headers: &HeaderMap) -> Result<Option<String>, S3Error> {
    let Some(text) = text(headers, &CONTEXT)?.filter(|text| !text.is_empty()) else { return Ok(None) };
    let decoded = BASE64.decode(text).ok();
    let map = decoded.and_then(|json| serde_json::from_slice::<std::collections::BTreeMap<String, String>>(&json).ok());
    match map {
        Some(_) => Ok(Some(text.to_owned())),
        None => Err(invalid_argument(
            "The header 'x-amz-server-side-encryption-context' shall be Base64-encoded UTF-8 string holding JSON which \
             represents a string-string map",
        )),
    }
}

fn bucket_key(headers: &HeaderMap) -> Result<Option<bool>, S3Error> {
    match text(headers, &BUCKET_KEY)? {
        None | Some("") => Ok(None),
        Some(text) if text.eq_ignore_ascii_case("true") => Ok(Some(true)),
        Some(text) if text.eq_ignore_ascii_case("false") => Ok(Some(false)),
        Some(_) => Err(invalid_argument(format!("The {BUCKET_KEY} header must be `true` or `false`"))),
    }
}

/// A bucket's default encryption.
#[derive(Debug, PartialEq, Eq)]
struct BucketDefault {
    /// The named key (empty: the one of those who name none), if it is SSE-KMS.
    kms_key: Option<String>,
    bucket_key: bool,
    /// New objects under customers' keys are refused.
    blocks_customers: bool,
}

impl BucketDefault {
    /// Of the bucket's `encryption` document: the configuration as S3 has it, in XML. It was validated when it was
    /// put; one that cannot be read refuses writes rather than weaken them.
    fn of(document: &[u8]) -> Result<Self, S3Error> {
        let unreadable = || {
            S3Error::with_message(S3ErrorCode::InternalError, "The bucket's encryption configuration cannot be read.")
        };
        let (configuration, blocked) = encryption::parse(document).ok_or_else(unreadable)?;
        let blocks_customers = blocked.is_some_and(|blocked| blocked.0);
        let rule = configuration.rules.into_iter().next().ok_or_else(unreadable)?;
        let bucket_key = rule.bucket_key_enabled.unwrap_or(false);
        let Some(default) = rule.apply_server_side_encryption_by_default else {
            return Ok(Self { kms_key: None, bucket_key, blocks_customers });
        };
        match default.sse_algorithm.as_str() {
            AES256 => Ok(Self { kms_key: None, bucket_key, blocks_customers }),
            "aws:kms" => {
                let kms_key = Some(default.kms_master_key_id.unwrap_or_default());
                Ok(Self { kms_key, bucket_key, blocks_customers })
            }
            _ => Err(unreadable()),
        }
    }
}

/// What an answer says of an object's encryption. SSE-C answers name no method, only the customer's algorithm.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    pub(crate) method: Option<dto::ServerSideEncryption>,
    pub(crate) kms_key_id: Option<String>,
    /// Told by writes only.
    pub(crate) context: Option<String>,
    pub(crate) bucket_key_enabled: Option<bool>,
    pub(crate) customer_algorithm: Option<String>,
    pub(crate) customer_key_md5: Option<String>,
}

impl Fields {
    pub(crate) fn of(sse: &Sse) -> Self {
        let method = |name: &'static str| Some(dto::ServerSideEncryption::from_static(name));
        match sse {
            Sse::S3 => Self { method: method(dto::ServerSideEncryption::AES256), ..Self::default() },
            Sse::Kms { key_id, context, bucket_key_enabled } => Self {
                method: method(dto::ServerSideEncryption::AWS_KMS),
                kms_key_id: Some(key_id.clone()),
                context: context.clone(),
                bucket_key_enabled: bucket_key_enabled.then_some(true),
                ..Self::default()
            },
            Sse::Customer { key_md5 } => Self {
                customer_algorithm: Some(AES256.to_owned()),
                customer_key_md5: Some(key_md5.clone()),
                ..Self::default()
            },
        }
    }

    /// The customer's key as headers, for answers that have no fields for it.
    pub(crate) fn customer_headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let (Some(algorithm), Some(md5)) = (&self.customer_algorithm, &self.customer_key_md5) {
            for (name, text) in [(CUSTOMER_ALGORITHM, algorithm), (CUSTOMER_KEY_MD5, md5)] {
                if let Ok(value) = HeaderValue::from_str(text) {
                    headers.insert(name, value);
                }
            }
        }
        headers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "pO3upElrwuEXSoFwCfnZPdSsmt/xWeFa0N9KgDijwVs=";
    const KEY_MD5: &str = "DWygnHRtgiJ77HCm+1rvHw==";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn a_buckets_default_is_read_from_its_document() {
        let document = |inner: &str| {
            format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?><ServerSideEncryptionConfiguration \
                 xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"><Rule>{inner}</Rule></ServerSideEncryptionConfiguration>"
            )
        };
        let kms = "<ApplyServerSideEncryptionByDefault><SSEAlgorithm>aws:kms</SSEAlgorithm><KMSMasterKeyID>k1\
                   </KMSMasterKeyID></ApplyServerSideEncryptionByDefault><BucketKeyEnabled>true</BucketKeyEnabled>";
        let of = |inner: &str| BucketDefault::of(document(inner).as_bytes());
        assert_eq!(of(kms).unwrap(), BucketDefault { kms_key: Some("k1".to_owned()), bucket_key: true });
        let aes = "<ApplyServerSideEncryptionByDefault><SSEAlgorithm>AES256</SSEAlgorithm>\
                   </ApplyServerSideEncryptionByDefault>";
        assert_eq!(of(aes).unwrap(), BucketDefault { kms_key: None, bucket_key: false });
        assert!(of(&aes.replace("AES256", "ROT13")).is_err(), "an unknown one is not taken for none");
        assert!(BucketDefault::of(b"rubbish").is_err());
    }

    #[test]
    fn contexts_are_base64_of_a_map_of_strings() {
        let of = |text: &'static str| context(&headers(&[("x-amz-server-side-encryption-context", text)]));
        assert_eq!(of("eyJhIjoiYiJ9").unwrap().as_deref(), Some("eyJhIjoiYiJ9"));
        for bad in ["{}", "bm8=", "WzFd", "eyJhIjoxfQ=="] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_customers_key_never_shows() {
        let bytes = BASE64.decode(KEY).unwrap();
        let key = CustomerKey::new(Secret32::from_bytes(bytes.try_into().unwrap()), KEY_MD5.to_owned());
        let shown = format!("{key:?} {:?}", Unlock::Key(key.clone()));
        assert!(!shown.contains(&KEY[..8]) && !shown.contains("164, 237"), "{shown}");
        assert_eq!(BASE64.encode(Md5::digest(BASE64.decode(KEY).unwrap())), KEY_MD5);
    }
}
