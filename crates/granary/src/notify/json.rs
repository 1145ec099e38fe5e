//! Events as S3 writes them.
//! <https://docs.aws.amazon.com/AmazonS3/latest/userguide/notification-content-structure.html>

use granary_meta::events::{EventKind, EventRecord};
use granary_types::Timestamp;
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
        "Time": time(event.at),
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
        "eventTime": time(event.at),
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

/// `2012-04-23T18:25:43.511Z`.
fn time(at: Timestamp) -> String {
    let (seconds, millis) = (at.0 / 1_000_000, at.0 / 1_000 % 1_000);
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days, for days since 1970.
    let z = days + 719_468;
    let era = z / 146_097;
    let of_era = z % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3_600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;
    use granary_meta::events::EventObject;
    use granary_types::{BucketName, ObjectKey, VersionId};

    #[test]
    fn times_are_civil() {
        assert_eq!(time(Timestamp(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(time(Timestamp(1_335_205_543_511_000)), "2012-04-23T18:25:43.511Z");
        assert_eq!(time(Timestamp::from_secs(1_709_164_800)), "2024-02-29T00:00:00.000Z");
        assert_eq!(time(Timestamp::from_secs(4_102_444_799)), "2099-12-31T23:59:59.000Z");
    }

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
