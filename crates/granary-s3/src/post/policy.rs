//! The policy document of a form upload: what the form may say, until when.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-HTTPPOSTConstructPolicy.html>

use granary_types::Timestamp;
use s3s::dto;
use s3s::{S3Error, S3ErrorCode};
use serde_json::Value;

use super::form::Fields;
use crate::convert;

/// What one condition asks of a field.
#[derive(Debug, PartialEq, Eq)]
enum Test {
    Is(String),
    StartsWith(String),
}

/// A policy, read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PostPolicy {
    expiration: Timestamp,
    /// Name of the field in lower case, and what is asked of it.
    conditions: Vec<(String, Test)>,
    /// `content-length-range`.
    bytes: Option<(u64, u64)>,
}

fn invalid(what: &str) -> S3Error {
    S3Error::with_message(S3ErrorCode::InvalidPolicyDocument, format!("Invalid Policy: {what}"))
}

fn refused(what: &str) -> S3Error {
    S3Error::with_message(S3ErrorCode::AccessDenied, format!("Invalid according to Policy: {what}"))
}

/// Fields that no condition has to cover.
fn is_exempt(name: &str) -> bool {
    matches!(name, "policy" | "signature" | "x-amz-signature" | "awsaccesskeyid" | "file")
        || name.starts_with("x-ignore-")
        // A sum can only make the upload fail. The field's suites send one beside a policy that does not name it.
        || name.starts_with("x-amz-checksum-")
}

fn number(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// In policies a dollar sign is escaped with a backslash, which JSON itself does not know.
fn unescape(text: &str) -> String {
    text.replace("\\$", "$")
}

impl PostPolicy {
    /// Reads a policy document (already out of its Base64).
    ///
    /// # Errors
    /// `InvalidPolicyDocument`, saying what is wrong.
    pub(crate) fn parse(document: &[u8]) -> Result<Self, S3Error> {
        let text = std::str::from_utf8(document).map_err(|_| invalid("Invalid JSON."))?;
        // `\$` is in the policies that AWS's own documentation shows, though it is no JSON.
        let text = text.replace("\\\\$", "\u{1}").replace("\\$", "\\\\$").replace('\u{1}', "\\\\$");
        let policy: Value = serde_json::from_str(&text).map_err(|_| invalid("Invalid JSON."))?;
        let policy = policy.as_object().ok_or_else(|| invalid("Invalid JSON."))?;
        let expiration = policy.get("expiration").ok_or_else(|| invalid("Policy missing expiration."))?;
        let expiration = expiration
            .as_str()
            .and_then(|text| dto::Timestamp::parse(dto::TimestampFormat::DateTime, text).ok())
            .ok_or_else(|| invalid("Invalid 'expiration' value: it must be a date in ISO 8601 format."))?;
        let list = policy.get("conditions").ok_or_else(|| invalid("Policy missing conditions."))?;
        let list = list.as_array().ok_or_else(|| invalid("Invalid 'conditions' value: must be a List."))?;
        let mut read = Self { expiration: convert::from_timestamp(expiration), conditions: Vec::new(), bytes: None };
        for condition in list {
            read.add(condition)?;
        }
        Ok(read)
    }

    fn add(&mut self, condition: &Value) -> Result<(), S3Error> {
        match condition {
            Value::Object(pairs) => {
                let mut pairs = pairs.iter();
                let (Some((name, value)), None) = (pairs.next(), pairs.next()) else {
                    return Err(invalid(
                        "Invalid Simple-Condition: Simple-Conditions must have exactly one property specified.",
                    ));
                };
                let value =
                    value.as_str().ok_or_else(|| invalid("Invalid Simple-Condition: value must be a string."))?;
                self.conditions.push((name.to_ascii_lowercase(), Test::Is(unescape(value))));
            }
            Value::Array(items) => {
                let [operator, first, second] = &items[..] else {
                    return Err(invalid("Invalid Condition: wrong number of arguments."));
                };
                let operator = operator.as_str().unwrap_or_default().to_ascii_lowercase();
                if operator == "content-length-range" {
                    let (min, max) = number(first)
                        .zip(number(second))
                        .ok_or_else(|| invalid("Invalid content-length-range: both ends must be whole numbers."))?;
                    if min > max {
                        return Err(invalid("Invalid content-length-range: it is empty."));
                    }
                    let (old_min, old_max) = self.bytes.unwrap_or((0, u64::MAX));
                    self.bytes = Some((old_min.max(min), old_max.min(max)));
                    return Ok(());
                }
                let text = |value: &Value| {
                    value.as_str().map(str::to_owned).ok_or_else(|| invalid("Invalid Condition: expected a string."))
                };
                let (name, value) = (text(first)?, unescape(&text(second)?));
                let name = name
                    .strip_prefix('$')
                    .ok_or_else(|| invalid("Invalid Condition: the field's name must begin with '$'."))?;
                let test = match operator.as_str() {
                    "eq" => Test::Is(value),
                    "starts-with" => Test::StartsWith(value),
                    _ => return Err(invalid("Invalid Condition: unknown operation.")),
                };
                self.conditions.push((name.to_ascii_lowercase(), test));
            }
            _ => return Err(invalid("Invalid Condition: must be a List or an object.")),
        }
        Ok(())
    }

    /// Whether the policy allows the form, with a file of `size_bytes` for `bucket`.
    ///
    /// # Errors
    /// `AccessDenied` saying which condition fails, `EntityTooLarge`, `EntityTooSmall`.
    pub(crate) fn check(&self, fields: &Fields, bucket: &str, size_bytes: u64, now: Timestamp) -> Result<(), S3Error> {
        if now >= self.expiration {
            return Err(refused("Policy expired."));
        }
        for (name, test) in &self.conditions {
            let value = match name.as_str() {
                // The bucket that is written to, whatever the form calls it.
                "bucket" => bucket,
                name => fields.get(name).unwrap_or_default(),
            };
            let (operator, wanted, holds) = match test {
                Test::Is(wanted) => ("eq", wanted, value == wanted),
                Test::StartsWith(wanted) => ("starts-with", wanted, value.starts_with(wanted.as_str())),
            };
            if !holds {
                return Err(refused(&format!("Policy Condition failed: [\"{operator}\", \"${name}\", \"{wanted}\"]")));
            }
        }
        let is_covered = |name: &str| self.conditions.iter().any(|(covered, _)| covered == name);
        let extra: Vec<_> =
            fields.pairs.iter().map(|(name, _)| name.as_str()).filter(|n| !is_exempt(n) && !is_covered(n)).collect();
        if !extra.is_empty() {
            return Err(refused(&format!("Extra input fields: {}", extra.join(", "))));
        }
        match self.bytes {
            Some((_, max)) if size_bytes > max => Err(S3Error::with_message(
                S3ErrorCode::EntityTooLarge,
                format!("Your proposed upload of {size_bytes} bytes exceeds the maximum allowed size of {max} bytes"),
            )),
            Some((min, _)) if size_bytes < min => Err(S3Error::with_message(
                S3ErrorCode::EntityTooSmall,
                format!(
                    "Your proposed upload of {size_bytes} bytes is smaller than the minimum allowed size of {min} bytes"
                ),
            )),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Fields {
        let pairs = pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Fields { pairs, filename: String::new() }
    }

    fn policy(conditions: &str) -> Result<PostPolicy, S3Error> {
        let document = format!("{{\"expiration\":\"2030-01-01T00:00:00.000Z\",\"conditions\":[{conditions}]}}");
        PostPolicy::parse(document.as_bytes())
    }

    fn outcome(conditions: &str, pairs: &[(&str, &str)], size: u64) -> String {
        let now = Timestamp::from_secs(1_800_000_000);
        match policy(conditions).and_then(|policy| policy.check(&fields(pairs), "b", size, now)) {
            Ok(()) => "fine".to_owned(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    #[test]
    fn conditions() {
        let all = r#"{"bUcKeT":"b"},["StArTs-WiTh","$KeY","foo"],{"acl":"private"},["content-length-range",1,"10"]"#;
        let form: &[_] = &[
            ("key", "foo.txt"),
            ("acl", "private"),
            ("x-ignore-a", "b"),
            ("policy", "p"),
            ("x-amz-checksum-crc32", "AAAAAA=="),
        ];
        assert_eq!(outcome(all, form, 5), "fine");
        assert_eq!(outcome(all, form, 11), "EntityTooLarge");
        assert_eq!(outcome(all, form, 0), "EntityTooSmall");
        assert_eq!(outcome(all, &[("key", "bar"), ("acl", "private")], 5), "AccessDenied");
        assert_eq!(outcome(all, &[("key", "foo")], 5), "AccessDenied");
        assert_eq!(outcome(all, &[("key", "foo"), ("acl", "private"), ("x-amz-meta-a", "1")], 5), "AccessDenied");
        assert_eq!(outcome(r#"{"bucket":"c"}"#, &[], 5), "AccessDenied");
        assert_eq!(outcome(r#"["eq","$key","a"]"#, &[("key", "a")], 5), "fine");
        assert_eq!(outcome(r#"["starts-with","$key","\$a"]"#, &[("key", "$a.txt")], 5), "fine");
        assert_eq!(outcome(r#"["starts-with","$key","\\$a"]"#, &[("key", "$a.txt")], 5), "fine");
    }

    #[test]
    fn documents_that_are_none() {
        for bad in [
            r#"{}"#,
            r#"{"a":"1","b":"2"}"#,
            r#"{"a":1}"#,
            r#"["eq","key","a"]"#,
            r#"["is","$key","a"]"#,
            r#"["content-length-range",0]"#,
            r#"["content-length-range",-1,0]"#,
            r#"["content-length-range",5,1]"#,
            r#"["eq","$key"]"#,
            "7",
        ] {
            assert_eq!(policy(bad).unwrap_err().code(), &S3ErrorCode::InvalidPolicyDocument, "{bad}");
        }
        for bad in [
            "",
            "[]",
            "{}",
            r#"{"expiration":"2030-01-01T00:00:00Z"}"#,
            r#"{"conditions":[]}"#,
            r#"{"EXPIRATION":"2030-01-01T00:00:00Z","conditions":[]}"#,
            r#"{"expiration":"2030-01-01 00:00:00","conditions":[]}"#,
            r#"{"expiration":"2030-01-01T00:00:00Z","conditions":{}}"#,
        ] {
            assert_eq!(
                PostPolicy::parse(bad.as_bytes()).unwrap_err().code().as_str(),
                "InvalidPolicyDocument",
                "{bad}"
            );
        }
    }

    #[test]
    fn policies_expire() {
        let policy = policy("").unwrap();
        let late = Timestamp::from_secs(1_900_000_000);
        let error = policy.check(&fields(&[]), "b", 0, late).unwrap_err();
        assert_eq!(error.message(), Some("Invalid according to Policy: Policy expired."));
    }
}
