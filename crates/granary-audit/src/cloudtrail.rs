//! Events as CloudTrail writes S3 data events, so that what parses those parses these.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/cloudtrail-logging-understanding-s3-entries.html>

use granary_types::date;
use granary_types::{AuditOutcome, AuditRecord};
use serde_json::{Map, Value, json};

use crate::event::{Event, Signature, Source};

/// CloudTrail's version of these fields.
const EVENT_VERSION: &str = "1.11";

/// Calls that read or write objects; all others manage something.
const DATA_EVENTS: [&str; 26] = [
    "GetObject",
    "HeadObject",
    "PutObject",
    "PostObject",
    "CopyObject",
    "DeleteObject",
    "DeleteObjects",
    "ListObjects",
    "ListObjectsV2",
    "ListObjectVersions",
    "GetObjectAttributes",
    "GetObjectTagging",
    "PutObjectTagging",
    "DeleteObjectTagging",
    "GetObjectAcl",
    "PutObjectAcl",
    "CreateMultipartUpload",
    "UploadPart",
    "UploadPartCopy",
    "CompleteMultipartUpload",
    "AbortMultipartUpload",
    "ListParts",
    "ListMultipartUploads",
    "SelectObjectContent",
    "AppendObject",
    "RenameObject",
];

/// The record as one CloudTrail event. A record whose event cannot be read (a newer program wrote it) keeps its
/// sequence number and says so.
#[must_use]
pub fn cloudtrail(record: &AuditRecord) -> Value {
    let Some(event) = Event::decode(&record.event) else {
        return json!({ "eventVersion": EVENT_VERSION, "eventName": "Unreadable",
            "additionalEventData": { "sequence": record.sequence, "recordedAt": date::iso_micros(record.at) } });
    };
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            out.insert(name.to_owned(), value);
        }
    };
    put("eventVersion", json!(EVENT_VERSION));
    put("userIdentity", identity(&event));
    put("eventTime", json!(date::iso(event.at)));
    put("eventSource", json!(source(event.source)));
    put("eventName", json!(event.name));
    put("awsRegion", text(&event.region));
    put(
        "sourceIPAddress",
        match event.address {
            Some(address) => json!(address.to_string()),
            None => json!("granary.internal"),
        },
    );
    put("userAgent", text(&event.user_agent));
    let (code, message) = failure(record, &event);
    put("errorCode", text(&code));
    put("errorMessage", text(&message));
    put("requestParameters", parameters(&event));
    put(
        "responseElements",
        match &record.outcome {
            AuditOutcome::Done(Some(version)) => json!({ "x-amz-version-id": version.to_string() }),
            _ => Value::Null,
        },
    );
    put("additionalEventData", additional(record, &event));
    put("requestID", text(&event.request_id));
    put("eventID", json!(uuid(&event.id)));
    put("readOnly", json!(event.read_only));
    put("resources", resources(&event));
    put("eventType", json!(if event.source == Source::System { "AwsServiceEvent" } else { "AwsApiCall" }));
    let data = event.source == Source::S3 && DATA_EVENTS.contains(&event.name.as_str());
    put("managementEvent", json!(!data));
    put("recipientAccountId", text(&event.actor.account));
    put("eventCategory", json!(if data { "Data" } else { "Management" }));
    if let Some(tls) = &event.tls {
        put(
            "tlsDetails",
            json!({ "tlsVersion": tls.version, "cipherSuite": tls.cipher,
            "clientProvidedHostHeader": event.host }),
        );
    }
    Value::Object(out)
}

/// The error's code and message, from whoever knows: the request's end, or `apply`.
pub(crate) fn failure(record: &AuditRecord, event: &Event) -> (String, String) {
    match &record.outcome {
        AuditOutcome::Refused(code) => (code.clone(), String::new()),
        _ => (event.error_code.clone(), event.error_message.clone()),
    }
}

/// The version that the event is about: the one that came of it, else the one that was named.
pub(crate) fn version(record: &AuditRecord, event: &Event) -> String {
    match &record.outcome {
        AuditOutcome::Done(Some(version)) => version.to_string(),
        _ => event.version.clone(),
    }
}

fn text(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { json!(text) }
}

pub(crate) const fn source(source: Source) -> &'static str {
    match source {
        Source::S3 => "s3.amazonaws.com",
        Source::Admin => "admin.granary",
        Source::System => "system.granary",
        Source::Iam => "iam.amazonaws.com",
        Source::Sts => "sts.amazonaws.com",
    }
}

fn identity(event: &Event) -> Value {
    let actor = &event.actor;
    let mut out = Map::new();
    out.insert("type".to_owned(), json!(actor.kind));
    for (name, value) in [
        ("principalId", &actor.principal_id),
        ("arn", &actor.arn),
        ("accountId", &actor.account),
        ("accessKeyId", &actor.access_key),
    ] {
        if !value.is_empty() {
            out.insert(name.to_owned(), json!(value));
        }
    }
    if !actor.name.is_empty() {
        let name = if actor.kind == "AWSService" { "invokedBy" } else { "userName" };
        out.insert(name.to_owned(), json!(actor.name));
    }
    if !actor.session_issuer.is_empty() {
        out.insert("sessionContext".to_owned(), json!({ "sessionIssuer": { "arn": actor.session_issuer } }));
    }
    Value::Object(out)
}

/// `requestParameters`.
pub(crate) fn parameters(event: &Event) -> Value {
    let mut out = Map::new();
    for (name, value) in
        [("bucketName", &event.bucket), ("key", &event.key), ("versionId", &event.version), ("Host", &event.host)]
    {
        if !value.is_empty() {
            out.insert(name.to_owned(), json!(value));
        }
    }
    for (name, value) in &event.parameters {
        out.insert(name.clone(), json!(value));
    }
    if out.is_empty() { Value::Null } else { Value::Object(out) }
}

fn additional(record: &AuditRecord, event: &Event) -> Value {
    let mut out = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            out.insert(name.to_owned(), value);
        }
    };
    put("sequence", json!(record.sequence));
    put("recordedAt", json!(date::iso_micros(record.at)));
    put("eventTime", json!(date::iso_micros(event.at)));
    let (version, method) = match event.signature {
        Signature::None => (Value::Null, Value::Null),
        Signature::V4Header => (json!("SigV4"), json!("AuthHeader")),
        Signature::V4Query => (json!("SigV4"), json!("QueryString")),
        Signature::V4Form => (json!("SigV4"), json!("Form")),
        Signature::V2Header => (json!("SigV2"), json!("AuthHeader")),
        Signature::V2Query => (json!("SigV2"), json!("QueryString")),
        Signature::Admin => (json!("GRANARY1-HMAC-SHA256"), json!("AuthHeader")),
    };
    put("SignatureVersion", version);
    put("AuthenticationMethod", method);
    put("CipherSuite", event.tls.as_ref().map_or(Value::Null, |tls| text(&tls.cipher)));
    put("clientCertificateSha256", event.tls.as_ref().map_or(Value::Null, |tls| text(&tls.client_certificate)));
    if event.source == Source::S3 {
        put("bytesTransferredIn", json!(event.bytes_in));
        put("bytesTransferredOut", json!(event.bytes_out));
    }
    put("httpStatus", if event.status == 0 { Value::Null } else { json!(event.status) });
    put("decision", text(&event.decision));
    put("step", if event.step == 0 { Value::Null } else { json!(event.step) });
    Value::Object(out)
}

fn resources(event: &Event) -> Value {
    if event.source == Source::Sts
        && let Some((_, role)) = event.parameters.iter().find(|(name, _)| name == "roleArn")
    {
        return json!([{ "type": "AWS::IAM::Role", "ARN": role }]);
    }
    if event.bucket.is_empty() {
        return Value::Null;
    }
    let arn = format!("arn:aws:s3:::{}", event.bucket);
    let bucket = json!({ "accountId": event.actor.account, "type": "AWS::S3::Bucket", "ARN": arn });
    if event.key.is_empty() {
        return json!([bucket]);
    }
    json!([{ "type": "AWS::S3::Object", "ARN": format!("{arn}/{}", event.key) }, bucket])
}

/// 16 bytes as CloudTrail writes ids.
pub(crate) fn uuid(id: &[u8; 16]) -> String {
    let hex = granary_types::hex::encode(id);
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Actor, EventTls};
    use granary_types::{Timestamp, VersionId};

    #[test]
    fn the_fields_that_siems_look_for() {
        let event = Event {
            id: [0xab; 16],
            at: Timestamp::from_secs(1),
            name: "PutObject".into(),
            request_id: "R".into(),
            actor: Actor {
                kind: "IAMUser".into(),
                access_key: "AK".into(),
                account: "012".into(),
                name: "ann".into(),
                ..Actor::default()
            },
            address: Some("10.0.0.1".parse().unwrap()),
            tls: Some(EventTls {
                version: "TLSv1.3".into(),
                cipher: "AES_256_GCM_SHA384".into(),
                ..EventTls::default()
            }),
            signature: Signature::V4Query,
            bucket: "b".into(),
            key: "k/é".into(),
            bytes_in: 7,
            ..Event::default()
        };
        let record = AuditRecord {
            sequence: 9,
            at: Timestamp::from_secs(2),
            outcome: AuditOutcome::Done(Some(VersionId([1; 16]))),
            event: event.clone().encode(),
        };
        let shown = cloudtrail(&record);
        assert_eq!(shown["userIdentity"]["userName"], "ann");
        assert_eq!(shown["eventSource"], "s3.amazonaws.com");
        assert_eq!(shown["requestParameters"]["key"], "k/é");
        assert_eq!(shown["resources"][0]["ARN"], "arn:aws:s3:::b/k/é");
        assert_eq!(shown["additionalEventData"]["AuthenticationMethod"], "QueryString");
        assert_eq!(shown["additionalEventData"]["bytesTransferredIn"], 7);
        assert_eq!(shown["tlsDetails"]["tlsVersion"], "TLSv1.3");
        assert_eq!(shown["eventCategory"], "Data");
        assert_eq!(shown["eventID"], "abababab-abab-abab-abab-abababababab");
        assert!(shown.get("errorCode").is_none());
        let refused = AuditRecord { outcome: AuditOutcome::Refused("PreconditionFailed".into()), ..record };
        assert_eq!(cloudtrail(&refused)["errorCode"], "PreconditionFailed");
    }
}
