//! Events as S3 writes them.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>

use granary_meta::events::{EventKind, EventRecord};
use serde_json::{Value, json};

/// The document that a target gets: one record, or S3's test event.
pub(super) fn body(event: &EventRecord, host_id: &str) -> Vec<u8> {
    let document = match &event.object {
        None => test(event, host_id),
        Some(_) => json!({ "Records": [record(event, host_id)] }),
    };
    document.to_string().into_bytes()
}

fn request_id(event: &EventRecord) -> &str {
    event.origin.as_ref().map_or("", |origin| origin.request_id.as_str())
}

fn test(event: &EventRecord, host_id: &str) -> Value {
    json!({
        "Service": "Granary",
        "Event": EventKind::Test.name(),
        "Time": granary_types::date::iso_millis(event.at),
        "Bucket": event.bucket.as_str(),
        "RequestId": request_id(event),
        "HostId": host_id,
    })
}

/// The version of the structure in which an event was introduced.
fn version(kind: EventKind) -> &'static str {
    match kind {
        EventKind::TaggingPut
        | EventKind::TaggingDelete
        | EventKind::AclPut
        | EventKind::ExpirationDelete
        | EventKind::ExpirationMarkerCreated
        | EventKind::Transition => "2.3",
        _ => "2.1",
    }
}

fn record(event: &EventRecord, host_id: &str) -> Value {
    let origin = event.origin.clone().unwrap_or_default();
    let mut object = json!({ "sequencer": format!("{:016X}", event.sequence) });
    if let Some(told) = &event.object {
        object["key"] = json!(encoded(told.key.as_str()));
        if let Some(version) = told.version {
            object["versionId"] = json!(version.to_string());
        }
        if let Some(etag) = &told.etag {
            object["eTag"] = json!(etag);
            object["size"] = json!(told.size_bytes);
        }
    }
    json!({
        "eventVersion": version(event.kind),
        "eventSource": "aws:s3",
        "awsRegion": event.region,
        "eventTime": granary_types::date::iso_millis(event.at),
        "eventName": event.kind.name().trim_start_matches("s3:"),
        "userIdentity": { "principalId": if origin.principal.is_empty() { "granary" } else { &origin.principal } },
        "requestParameters": { "sourceIPAddress": origin.source_ip },
        "responseElements": { "x-amz-request-id": origin.request_id, "x-amz-id-2": host_id },
        "s3": {
            "s3SchemaVersion": "1.0",
            "configurationId": event.rule,
            "bucket": {
                "name": event.bucket.as_str(),
                "ownerIdentity": { "principalId": event.owner },
                "arn": format!("arn:aws:s3:::{}", event.bucket.as_str()),
            },
            "object": object,
        },
    })
}

/// As S3 writes keys in events: form encoding, a space as `+`.
fn encoded(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'*' | b'/' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_meta::events::EventObject;
    use granary_types::{BucketName, ObjectKey, Timestamp, VersionId};

    #[test]
    fn records_have_the_form_that_clients_parse() {
        let mut event = EventRecord {
            sequence: 0xAB,
            at: Timestamp(0),
            bucket: BucketName::new("bucket").unwrap(),
            owner: "owner".into(),
            region: "us-east-1".into(),
            rule: "rule".into(),
            kind: EventKind::CreatedPut,
            object: Some(EventObject {
                key: ObjectKey::new("a b/ü+").unwrap(),
                version: Some(VersionId::NULL),
                size_bytes: 5,
                etag: Some("e".into()),
            }),
            origin: None,
        };
        let document: Value = serde_json::from_slice(&body(&event, "host")).unwrap();
        let record = &document["Records"][0];
        assert_eq!(record["eventName"], "ObjectCreated:Put");
        assert_eq!(record["eventVersion"], "2.1");
        assert_eq!(record["s3"]["object"]["key"], "a+b/%C3%BC%2B");
        assert_eq!(record["s3"]["object"]["sequencer"], "00000000000000AB");
        assert_eq!(record["s3"]["object"]["versionId"], "null");
        assert_eq!(record["s3"]["object"]["size"], 5);
        assert_eq!(record["s3"]["bucket"]["arn"], "arn:aws:s3:::bucket");
        event.object = None;
        let document: Value = serde_json::from_slice(&body(&event, "host")).unwrap();
        assert_eq!(document["Event"], "s3:TestEvent");
        assert_eq!(document["Bucket"], "bucket");
    }
}
