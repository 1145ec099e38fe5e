//! The fields of a form as the headers of the PutObject that it stands for.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use s3s::xml::Deserialize;
use s3s::{S3Error, S3ErrorCode, dto};

use super::form::Fields;
use crate::convert;
use crate::error::invalid_argument;

/// Fields that are headers of the same name.
const SAME: [&str; 8] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-md5",
    "content-type",
    "expires",
    "x-amz-security-token",
];
/// Fields that are headers by the beginning of their names.
const SAME_PREFIXES: [&str; 8] = [
    "x-amz-meta-",
    "x-amz-storage-class",
    "x-amz-website-redirect-location",
    "x-amz-server-side-encryption",
    "x-amz-checksum-",
    "x-amz-sdk-checksum-algorithm",
    "x-amz-object-lock-",
    "x-amz-grant-",
];
const FILENAME: &str = "${filename}";

impl Fields {
    /// Puts the file's name where fields ask for it. Only what follows the last slash of either kind counts.
    pub(super) fn expand_filename(&mut self) {
        let name = self.filename.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        for (field, value) in &mut self.pairs {
            if field != "policy" && value.contains(FILENAME) {
                *value = value.replace(FILENAME, &name);
            }
        }
    }
}

/// The headers of the PutObject; of the request's own, those that say where it comes from.
pub(super) fn headers(fields: &Fields, own: &HeaderMap) -> Result<HeaderMap, S3Error> {
    let mut headers = HeaderMap::new();
    for name in super::KEPT {
        if let Some(value) = own.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    for (name, value) in &fields.pairs {
        let name = match name.as_str() {
            "acl" | "x-amz-acl" => "x-amz-acl",
            // Which algorithm; the sums themselves are headers of the same name.
            "x-amz-checksum-algorithm" => "x-amz-sdk-checksum-algorithm",
            "tagging" => {
                headers.insert("x-amz-tagging", tagging(value)?);
                continue;
            }
            same if SAME.contains(&same) || SAME_PREFIXES.iter().any(|prefix| same.starts_with(prefix)) => same,
            _ => continue,
        };
        if value.is_empty() {
            continue;
        }
        let bad = || invalid_argument(format!("The form field {name} cannot be a header"));
        let parsed = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let text = if value.is_ascii() {
            HeaderValue::from_str(value)
        } else {
            // As other clients send metadata outside ASCII.
            use base64::Engine as _;
            let word = base64::engine::general_purpose::STANDARD.encode(value);
            HeaderValue::from_str(&format!("=?UTF-8?B?{word}?="))
        };
        headers.insert(parsed, text.map_err(|_| bad())?);
    }
    Ok(headers)
}

/// The tags of a form are a document; those of a PutObject a form.
fn tagging(document: &str) -> Result<HeaderValue, S3Error> {
    let malformed = || {
        S3Error::with_message(
            S3ErrorCode::MalformedXML,
            "The XML you provided was not well-formed or did not validate against our published schema",
        )
    };
    let mut xml = s3s::xml::Deserializer::new(document.as_bytes());
    let tagging = dto::Tagging::deserialize(&mut xml).map_err(|_| malformed())?;
    let tags = convert::tags_from_set(tagging.tag_set, granary_types::limits::OBJECT_TAGS_MAX)?;
    HeaderValue::from_bytes(&convert::tags_to_form(&tags)).map_err(|_| malformed())
}
