//! Small values between S3's wire form and the store's: names, ids, times, ETags, tags.

use std::borrow::Cow;
use std::time::{Duration, UNIX_EPOCH};

use granary_meta::command::EtagMatch;
use granary_types::{BucketName, ObjectKey, Timestamp, UploadId, VersionId};
use http::HeaderMap;
use http::header::HeaderName;
use s3s::dto;
use s3s::{S3Error, S3ErrorCode};
use time::OffsetDateTime;
use time::format_description::FormatItem;
use time::macros::format_description;

use crate::error::{bad_request, invalid_argument};

/// Tags on a bucket, at most (S3's limit).
pub(crate) const BUCKET_TAGS_MAX: usize = 50;
/// Characters of a tag's key and value, at most (S3's limits).
const TAG_KEY_CHARS_MAX: usize = 128;
const TAG_VALUE_CHARS_MAX: usize = 256;
/// ETags in one `If-Match` or `If-None-Match`, at most.
const ETAGS_MAX: usize = 64;

pub(crate) fn bucket_name(name: &str) -> Result<BucketName, S3Error> {
    BucketName::new(name).map_err(|error| S3Error::with_message(S3ErrorCode::InvalidBucketName, error.to_string()))
}

pub(crate) fn object_key(key: String) -> Result<ObjectKey, S3Error> {
    ObjectKey::new(key).map_err(|error| {
        let code = match error {
            granary_types::names::NameError::KeyTooLong(_) => S3ErrorCode::KeyTooLongError,
            _ => S3ErrorCode::InvalidArgument,
        };
        S3Error::with_message(code, error.to_string())
    })
}

pub(crate) fn version_id(text: Option<&str>) -> Result<Option<VersionId>, S3Error> {
    match text {
        None => Ok(None),
        Some("") => Err(invalid_argument("Version id cannot be the empty string")),
        Some(text) => text.parse().map(Some).map_err(|_| invalid_argument("Invalid version id specified")),
    }
}

/// An upload id that is not one of ours names no upload.
pub(crate) fn upload_id(text: &str) -> Result<UploadId, S3Error> {
    text.parse().map_err(|_| {
        S3Error::with_message(
            S3ErrorCode::NoSuchUpload,
            "The specified upload does not exist. The upload ID is invalid.",
        )
    })
}

pub(crate) fn part_number(number: i32) -> Result<u16, S3Error> {
    let max = i32::try_from(granary_types::limits::PARTS_COUNT_MAX).unwrap_or(i32::MAX);
    u16::try_from(number)
        .ok()
        .filter(|_| (1..=max).contains(&number))
        .ok_or_else(|| invalid_argument("Part number must be an integer between 1 and 10000, inclusive"))
}

/// A page size: S3 takes anything from 0 up and serves at most 1,000.
pub(crate) fn page_size(name: &str, asked: Option<i32>) -> Result<u32, S3Error> {
    let max = granary_types::limits::LIST_KEYS_MAX;
    match asked {
        None => Ok(max),
        Some(n) => u32::try_from(n)
            .map(|n| n.min(max))
            .map_err(|_| invalid_argument(format!("Argument {name} must be an integer between 0 and 2147483647"))),
    }
}

/// As S3 shows counts; all of ours are far below 2^31.
pub(crate) fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// As s3s shows sizes; objects are far below 2^63 bytes.
pub(crate) fn size(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

pub(crate) fn timestamp(at: Timestamp) -> dto::Timestamp {
    dto::Timestamp::from(UNIX_EPOCH + Duration::from_micros(at.as_micros()))
}

pub(crate) fn from_timestamp(at: dto::Timestamp) -> Timestamp {
    let at: OffsetDateTime = at.into();
    let micros = at.unix_timestamp_nanos() / 1_000;
    Timestamp(u64::try_from(micros.max(0)).unwrap_or(u64::MAX))
}

const IMF_FIXDATE: &[FormatItem<'_>] =
    format_description!("[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT");
const ASCTIME: &[FormatItem<'_>] =
    format_description!("[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]");

/// `Last-Modified` and its like (RFC 9110 section 5.6.7).
pub(crate) fn http_date(at: Timestamp) -> String {
    i64::try_from(at.as_secs())
        .ok()
        .and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok())
        .and_then(|at| at.format(IMF_FIXDATE).ok())
        .unwrap_or_else(|| "Thu, 01 Jan 1970 00:00:00 GMT".to_owned())
}

const AMZ_DATE: &[FormatItem<'_>] = format_description!("[year][month][day]T[hour][minute][second]Z");

/// `x-amz-date`'s form.
#[must_use]
pub fn amz_date(at: Timestamp) -> String {
    i64::try_from(at.as_secs())
        .ok()
        .and_then(|secs| OffsetDateTime::from_unix_timestamp(secs).ok())
        .and_then(|at| at.format(AMZ_DATE).ok())
        .unwrap_or_default()
}

/// Any of the three forms of an HTTP date. RFC 850's two-digit years are taken to lie in 1970..2070.
#[must_use]
pub fn parse_http_date(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let parsed = time::PrimitiveDateTime::parse(text, IMF_FIXDATE)
        .or_else(|_| time::PrimitiveDateTime::parse(text, ASCTIME))
        .ok()
        .or_else(|| rfc850(text))?;
    u64::try_from(parsed.assume_utc().unix_timestamp()).ok().map(Timestamp::from_secs)
}

/// The date of a SigV2 request: an HTTP date, or one with an offset as mail has it (`+0000`).
pub(crate) fn parse_rfc2822(text: &str) -> Option<Timestamp> {
    parse_http_date(text).or_else(|| {
        let at = OffsetDateTime::parse(text.trim(), &time::format_description::well_known::Rfc2822).ok()?;
        u64::try_from(at.unix_timestamp()).ok().map(Timestamp::from_secs)
    })
}

fn rfc850(text: &str) -> Option<time::PrimitiveDateTime> {
    // `time` cannot make a year of two digits: write it out, then read it as an IMF date without the weekday.
    const REST: &[FormatItem<'_>] = format_description!("[day]-[month repr:short]-[year] [hour]:[minute]:[second] GMT");
    let rest = text.split_once(", ")?.1;
    let (day_month, rest) = rest.rsplit_once('-')?;
    let (year, time) = rest.split_once(' ')?;
    let short: u16 = (year.len() == 2).then(|| year.parse().ok())??;
    let year = if short < 70 { 2000 + short } else { 1900 + short };
    time::PrimitiveDateTime::parse(&format!("{day_month}-{year} {time}"), REST).ok()
}

/// With the quotes of a header.
pub(crate) fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

pub(crate) fn etag(etag: &str) -> dto::ETag {
    dto::ETag::Strong(etag.to_owned())
}

/// `*`, or a list of ETags: quoted, weak, or bare as some clients send them.
pub(crate) fn etag_match(headers: &HeaderMap, name: &HeaderName) -> Result<Option<EtagMatch>, S3Error> {
    let mut tags = Vec::new();
    for value in headers.get_all(name) {
        let bad = || invalid_argument(format!("The {name} header is not a list of entity tags"));
        let mut rest = value.to_str().map_err(|_| bad())?.trim();
        if rest == "*" {
            return Ok(Some(EtagMatch::Any));
        }
        while !rest.is_empty() {
            let tag = rest.strip_prefix("W/").unwrap_or(rest);
            let (tag, after) = match tag.strip_prefix('"') {
                Some(inner) => inner.split_once('"').ok_or_else(bad)?,
                None => tag.split_at(tag.find(',').unwrap_or(tag.len())),
            };
            tags.push(tag.trim().trim_matches('"').to_owned());
            let after = after.trim_start();
            rest = match after.strip_prefix(',') {
                Some(next) => next.trim_start(),
                None if after.is_empty() => "",
                None => return Err(bad()),
            };
            if tags.len() > ETAGS_MAX {
                return Err(invalid_argument(format!("The {name} header has more than {ETAGS_MAX} entity tags")));
            }
        }
    }
    Ok((!tags.is_empty()).then_some(EtagMatch::OneOf(tags)))
}

/// What `encoding-type=url` means: everything but unreserved characters and `/` is percent-encoded. A space
/// becomes `%20` and never `+`, so that clients which decode `+` and those which do not agree.
#[must_use]
pub fn percent_encode(text: &str) -> String {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~' | b'/') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

/// The inverse, of a form field: `+` is a space. `None` where the encoding is broken or not UTF-8.
#[must_use]
pub fn form_decode(text: &str) -> Option<String> {
    percent_decoded(text, true, false).and_then(|bytes| String::from_utf8(bytes).ok())
}

/// The inverse, of a path, in which `+` is a plus.
pub(crate) fn path_decode(text: &str) -> Option<String> {
    percent_decoded(text, false, false).and_then(|bytes| String::from_utf8(bytes).ok())
}

/// A path or a parameter, to be shown: what is broken stays as it is.
pub(crate) fn shown_decode(text: &str) -> String {
    let bytes = percent_decoded(text, false, true).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The one decoder of `%XX`. `None` where the encoding is broken, unless `keep_broken`.
fn percent_decoded(text: &str, plus_is_space: bool, keep_broken: bool) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).ok()?);
                at += 2;
            }
            (b'%', _, _) if !keep_broken => return None,
            (b'+', _, _) if plus_is_space => out.push(b' '),
            (byte, _, _) => out.push(*byte),
        }
        at += 1;
    }
    Some(out)
}

/// Strings of a listing, encoded where the client asked for it.
pub(crate) struct Encoder {
    url: bool,
}

impl Encoder {
    pub(crate) fn new(encoding: Option<&dto::EncodingType>) -> Result<Self, S3Error> {
        match encoding.map(dto::EncodingType::as_str) {
            None => Ok(Self { url: false }),
            Some("url") => Ok(Self { url: true }),
            Some(_) => Err(invalid_argument("Invalid Encoding Method specified in Request")),
        }
    }

    pub(crate) fn text(&self, text: String) -> String {
        if self.url { percent_encode(&text) } else { text }
    }

    pub(crate) fn prefixes(&self, prefixes: Vec<String>) -> Option<Vec<dto::CommonPrefix>> {
        let one = |prefix| dto::CommonPrefix { prefix: Some(self.text(prefix)) };
        (!prefixes.is_empty()).then(|| prefixes.into_iter().map(one).collect())
    }
}

/// `x-amz-tagging`: a form.
pub(crate) fn tags_from_header(text: &str) -> Result<Vec<(String, String)>, S3Error> {
    let bad = || {
        invalid_argument(
            "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates.",
        )
    };
    let mut tags = Vec::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        tags.push((form_decode(key).ok_or_else(bad)?, form_decode(value).ok_or_else(bad)?));
        if tags.len() > 1 && tags[..tags.len() - 1].iter().any(|(other, _)| *other == tags[tags.len() - 1].0) {
            return Err(bad());
        }
    }
    // The header's own words.
    let is_system = |(key, _): &(String, String)| key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:"));
    if tags.iter().any(is_system) {
        return Err(S3Error::with_message(S3ErrorCode::InvalidTag, "Your TagKey cannot be prefixed with aws:"));
    }
    check_tags(&tags, granary_types::limits::OBJECT_TAGS_MAX)?;
    Ok(tags)
}

pub(crate) fn tags_from_set(set: Vec<dto::Tag>, max: usize) -> Result<Vec<(String, String)>, S3Error> {
    let tags: Vec<_> =
        set.into_iter().map(|tag| (tag.key.unwrap_or_default(), tag.value.unwrap_or_default())).collect();
    check_tags(&tags, max)?;
    Ok(tags)
}

fn check_tags(tags: &[(String, String)], max: usize) -> Result<(), S3Error> {
    let refuse = |code, message: Cow<'static, str>| Err(S3Error::with_message(code, message));
    if tags.len() > max {
        let whose = if max == BUCKET_TAGS_MAX { "Bucket tag count" } else { "Object tags" };
        return Err(bad_request("BadRequest", format!("{whose} cannot be greater than {max}")));
    }
    let is_fine = |text: &str| text.chars().all(|c| c.is_alphanumeric() || c.is_whitespace() || "+-=._:/@".contains(c));
    for (i, (key, value)) in tags.iter().enumerate() {
        if key.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("aws:")) {
            return refuse(S3ErrorCode::InvalidTag, "System tags cannot be added/updated by requester".into());
        }
        if key.is_empty() || key.chars().count() > TAG_KEY_CHARS_MAX || !is_fine(key) {
            return refuse(S3ErrorCode::InvalidTag, "The TagKey you have provided is invalid".into());
        }
        if value.chars().count() > TAG_VALUE_CHARS_MAX || !is_fine(value) {
            return refuse(S3ErrorCode::InvalidTag, "The TagValue you have provided is invalid".into());
        }
        if tags[..i].iter().any(|(other, _)| other == key) {
            return refuse(S3ErrorCode::InvalidTag, "Cannot provide multiple Tags with the same key".into());
        }
    }
    Ok(())
}

/// Tags as S3 shows them: by their keys.
pub(crate) fn tag_set(tags: &[(String, String)]) -> Vec<dto::Tag> {
    let mut tags: Vec<_> = tags.iter().collect();
    tags.sort();
    tags.into_iter().map(|(key, value)| dto::Tag { key: Some(key.clone()), value: Some(value.clone()) }).collect()
}

/// How a bucket's tags are kept in its documents: the form of `x-amz-tagging`.
pub(crate) fn tags_to_form(tags: &[(String, String)]) -> Vec<u8> {
    let pairs: Vec<_> =
        tags.iter().map(|(key, value)| format!("{}={}", percent_encode(key), percent_encode(value))).collect();
    pairs.join("&").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::IF_NONE_MATCH;

    #[test]
    fn http_dates_in_three_forms() {
        let at = Timestamp::from_secs(784_111_777);
        assert_eq!(http_date(at), "Sun, 06 Nov 1994 08:49:37 GMT");
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse_http_date(text), Some(at), "{text}");
        }
        for text in ["", "yesterday", "Sun, 06 Nov 1994 08:49:37 CET", "784111777"] {
            assert_eq!(parse_http_date(text), None, "{text}");
        }
    }

    #[test]
    fn etag_lists() {
        let parse = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, HeaderValue::from_static(text));
            etag_match(&headers, &IF_NONE_MATCH)
        };
        let list = |tags: &[&str]| Some(EtagMatch::OneOf(tags.iter().map(|t| (*t).to_owned()).collect()));
        assert_eq!(parse("*").unwrap(), Some(EtagMatch::Any));
        assert_eq!(parse("\"a\"").unwrap(), list(&["a"]));
        assert_eq!(parse("a").unwrap(), list(&["a"]));
        assert_eq!(parse("\"a\", W/\"b,c\" ,d").unwrap(), list(&["a", "b,c", "d"]));
        assert!(parse("\"a\" \"b\"").is_err());
        assert!(parse("\"a").is_err());
    }

    #[test]
    fn percent_encoding_round_trips() {
        for text in ["a/b c", "ü+%&=\u{1}", "", "100%"] {
            assert_eq!(form_decode(&percent_encode(text)).as_deref(), Some(text));
        }
        assert_eq!(percent_encode("a b+c/d"), "a%20b%2Bc/d");
        assert_eq!(form_decode("%zz"), None);
        assert_eq!(form_decode("%e"), None);
        assert_eq!(form_decode("%ff"), None);
        assert_eq!(path_decode("a+b%20c").as_deref(), Some("a+b c"));
        assert_eq!(path_decode("a%"), None);
        assert_eq!(shown_decode("%zz%4a+%ff%"), "%zzJ+\u{fffd}%");
    }

    #[test]
    fn tags_are_bounded_and_unique() {
        assert_eq!(tags_from_header("a=1&b=x+y&c").unwrap()[1], ("b".into(), "x y".into()));
        assert!(tags_from_header("a=1&a=2").is_err());
        assert!(tags_from_header("=1").is_err());
        assert!(tags_from_header("aws:a=1").is_err());
        assert!(tags_from_header("a=%3C").is_err());
        assert!(tags_from_header("a%20b=x%3D%2B-._:/@").is_ok());
        assert!(tags_from_header(&(0..11).map(|i| format!("k{i}=v&")).collect::<String>()).is_err());
        assert!(tags_from_header(&format!("{}=v", "k".repeat(129))).is_err());
    }
}
