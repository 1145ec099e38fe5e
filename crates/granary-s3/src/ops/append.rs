//! What directory buckets have beyond S3's other ones: appends (`x-amz-write-offset-bytes`) and RenameObject.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_RenameObject.html>

use granary_meta::command::RenameCondition;
use granary_store::api::RenameRequest;
use granary_types::Timestamp;
use http::header::{HeaderMap, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use s3s::S3Error;

use crate::convert;
use crate::error::{Fail, invalid_argument, invalid_request};
use crate::front::FrontDoor;

const SOURCE: HeaderName = HeaderName::from_static("x-amz-rename-source");
const TOKEN: HeaderName = HeaderName::from_static("x-amz-client-token");
/// S3's limit.
const TOKEN_CHARS_MAX: usize = 64;

/// The offset of an append; `None` of an ordinary PUT.
pub(crate) fn offset(offset: Option<i64>) -> Result<Option<u64>, S3Error> {
    let bad = |_| invalid_argument("x-amz-write-offset-bytes must be a number of bytes, 0 or more");
    offset.map(|offset| u64::try_from(offset).map_err(bad)).transpose()
}

/// Whether a PUT is a RenameObject, which s3s does not know.
pub(crate) fn is_rename(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|pair| pair.split('=').next() == Some("renameObject")))
}

fn date(headers: &HeaderMap, name: &HeaderName) -> Option<Timestamp> {
    headers.get(name).and_then(|value| value.to_str().ok()).and_then(convert::parse_http_date)
}

fn condition(headers: &HeaderMap, names: [&HeaderName; 4]) -> Result<RenameCondition, S3Error> {
    Ok(RenameCondition {
        if_match: convert::etag_match(headers, names[0])?,
        if_none_match: convert::etag_match(headers, names[1])?,
        if_modified_since: date(headers, names[2]),
        if_unmodified_since: date(headers, names[3]),
    })
}

/// The key that an object is renamed from: percent-encoded, in the same bucket.
pub(crate) fn source(headers: &HeaderMap) -> Result<String, S3Error> {
    let value = headers
        .get(SOURCE)
        .ok_or_else(|| invalid_request("Missing required header for this request: x-amz-rename-source"))?;
    let text = value.to_str().map_err(|_| invalid_argument("The x-amz-rename-source header is not visible ASCII"))?;
    // Unlike in a form, `+` is a plus here.
    let decoded = convert::path_decode(text);
    decoded.ok_or_else(|| invalid_argument("The x-amz-rename-source header is not URL encoded"))
}

pub(crate) async fn rename(
    front: &FrontDoor,
    bucket: &str,
    owner: Option<&str>,
    key: String,
    headers: &HeaderMap,
) -> Result<(), Fail> {
    let bucket = front.named(bucket, owner)?;
    let destination = convert::object_key(key)?;
    let source = convert::object_key(source(headers)?)?;
    if source == destination {
        return Err(invalid_request("The source and the destination of a rename are the same key").into());
    }
    let token = match headers.get(TOKEN).map(|value| value.to_str().unwrap_or_default()) {
        None => None,
        Some(token) if (1..=TOKEN_CHARS_MAX).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic()) => {
            Some(token.to_owned())
        }
        Some(_) => {
            return Err(invalid_argument("x-amz-client-token has 1 to 64 visible ASCII characters").into());
        }
    };
    let of_source = [
        HeaderName::from_static("x-amz-rename-source-if-match"),
        HeaderName::from_static("x-amz-rename-source-if-none-match"),
        HeaderName::from_static("x-amz-rename-source-if-modified-since"),
        HeaderName::from_static("x-amz-rename-source-if-unmodified-since"),
    ];
    let request = RenameRequest {
        bucket,
        source,
        destination,
        source_condition: condition(headers, [&of_source[0], &of_source[1], &of_source[2], &of_source[3]])?,
        condition: condition(headers, [&IF_MATCH, &IF_NONE_MATCH, &IF_MODIFIED_SINCE, &IF_UNMODIFIED_SINCE])?,
        token,
    };
    Ok(front.store.rename(request).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn sources_are_decoded() {
        let of = |text: &'static str| source(&HeaderMap::from_iter([(SOURCE, HeaderValue::from_static(text))]));
        assert_eq!(of("a/b").unwrap(), "a/b");
        assert_eq!(of("my%20%20file+1.txt").unwrap(), "my  file+1.txt");
        assert!(of("a%zz").is_err());
        assert!(source(&HeaderMap::new()).is_err());
        assert!(is_rename(Some("renameObject")) && is_rename(Some("x-id=RenameObject&renameObject=")));
        assert!(!is_rename(Some("x=renameObject")) && !is_rename(None));
    }
}
