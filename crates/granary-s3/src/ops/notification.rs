//! Notification configuration: S3's document checked and turned into what `apply` reads, and back.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutBucketNotificationConfiguration.html>

use std::collections::HashSet;

use granary_meta::command::BucketChange;
use granary_meta::events::{EventKind, NOTIFICATION_DOCUMENT, NotificationRule, NotificationRules, RuleForm};
use granary_store::StoreError;
use s3s::dto::{
    self, GetBucketNotificationConfigurationInput, GetBucketNotificationConfigurationOutput,
    PutBucketNotificationConfigurationInput, PutBucketNotificationConfigurationOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::context::Cx;
use crate::convert;
use crate::error::{Fail, invalid_argument};
use crate::front::{FrontDoor, Outcome};

/// Configurations of one bucket, at most (S3's limit).
const RULES_MAX: usize = 100;
/// Characters of an id and of a filter's value, at most.
const ID_CHARS_MAX: usize = 255;
const FILTER_BYTES_MAX: usize = 1024;
/// The target that `EventBridgeConfiguration` means.
const EVENT_BRIDGE: &str = "eventbridge";

/// What all three forms have in common.
struct Given {
    form: RuleForm,
    id: Option<String>,
    target: String,
    events: Vec<dto::Event>,
    filter: Option<dto::NotificationConfigurationFilter>,
}

fn filters(filter: Option<dto::NotificationConfigurationFilter>) -> Result<[Option<String>; 2], S3Error> {
    let mut found = [None, None];
    let rules = filter.and_then(|filter| filter.key).and_then(|key| key.filter_rules).unwrap_or_default();
    for rule in rules {
        let name = rule.name.as_ref().map(|name| name.as_str().to_ascii_lowercase()).unwrap_or_default();
        let (which, twice) = match name.as_str() {
            "prefix" => (0, "Cannot specify more than one prefix rule in a filter."),
            "suffix" => (1, "Cannot specify more than one suffix rule in a filter."),
            _ => return Err(invalid_argument("filter rule name must be either prefix or suffix")),
        };
        let value = rule.value.unwrap_or_default();
        if value.len() > FILTER_BYTES_MAX {
            return Err(invalid_argument("Size of filter rule value cannot exceed 1024 bytes in UTF-8 representation"));
        }
        if found[which].replace(value).is_some() {
            return Err(invalid_argument(twice));
        }
    }
    Ok(found)
}

/// `arn:partition:service:region:account:resource`, as far as S3 looks at it before it looks for the target.
fn is_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let word = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    matches!(&parts[..], ["arn", partition, service, _, _, resource] if word(partition) && word(service) && !resource.is_empty())
}

fn rule(given: Given, targets: &HashSet<String>) -> Result<NotificationRule, S3Error> {
    if !is_arn(&given.target) {
        return Err(invalid_argument("The ARN is not well formed"));
    }
    if !targets.contains(&given.target) {
        return Err(S3Error::with_message(
            S3ErrorCode::InvalidArgument,
            format!("Unable to validate the following destination configurations: there is no target {}", given.target),
        ));
    }
    let id = match given.id {
        Some(id) if id.chars().count() > ID_CHARS_MAX => {
            return Err(invalid_argument("ID length should not exceed allowed limit of 255"));
        }
        Some(id) if !id.is_empty() => id,
        _ => format!("{:032x}", rand::random::<u128>()),
    };
    if given.events.is_empty() {
        return Err(S3Error::with_message(S3ErrorCode::MalformedXML, "A configuration needs an Event"));
    }
    let events: Vec<String> = given.events.iter().map(|event| event.as_ref().to_owned()).collect();
    for event in &events {
        let is_group = event.ends_with(":*") && event.matches(':').count() == 2;
        let is_known = (is_group || !event.contains('*')) && EventKind::ALL.iter().any(|kind| kind.is_meant_by(event));
        if !is_known {
            return Err(invalid_argument(format!("The event '{event}' is not supported for notifications")));
        }
    }
    let [prefix, suffix] = filters(given.filter)?;
    Ok(NotificationRule { id, form: given.form, target: given.target, events, prefix, suffix })
}

/// Whether some key's event would be told by both: S3 wants each event to have one destination.
fn overlap(a: &NotificationRule, b: &NotificationRule) -> bool {
    if a.form == RuleForm::EventBridge || b.form == RuleForm::EventBridge {
        return false;
    }
    let means = |rule: &NotificationRule, kind: EventKind| rule.events.iter().any(|event| kind.is_meant_by(event));
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let (a_prefix, b_prefix) = (text(&a.prefix), text(&b.prefix));
    let (a_suffix, b_suffix) = (text(&a.suffix), text(&b.suffix));
    EventKind::ALL.into_iter().any(|kind| means(a, kind) && means(b, kind))
        && (a_prefix.starts_with(&b_prefix) || b_prefix.starts_with(&a_prefix))
        && (a_suffix.ends_with(&b_suffix) || b_suffix.ends_with(&a_suffix))
}

fn rules_of(given: dto::NotificationConfiguration, targets: &HashSet<String>) -> Result<NotificationRules, S3Error> {
    let mut all = Vec::new();
    for topic in given.topic_configurations.unwrap_or_default() {
        let dto::TopicConfiguration { events, filter, id, topic_arn } = topic;
        all.push(Given { form: RuleForm::Topic, id, target: topic_arn, events, filter });
    }
    for queue in given.queue_configurations.unwrap_or_default() {
        let dto::QueueConfiguration { events, filter, id, queue_arn } = queue;
        all.push(Given { form: RuleForm::Queue, id, target: queue_arn, events, filter });
    }
    for function in given.lambda_function_configurations.unwrap_or_default() {
        let dto::LambdaFunctionConfiguration { events, filter, id, lambda_function_arn } = function;
        all.push(Given { form: RuleForm::Function, id, target: lambda_function_arn, events, filter });
    }
    if all.len() > RULES_MAX {
        return Err(invalid_argument(format!("A bucket has at most {RULES_MAX} notification configurations")));
    }
    let mut rules = all.into_iter().map(|given| rule(given, targets)).collect::<Result<Vec<_>, _>>()?;
    let mut ids = HashSet::new();
    if !rules.iter().all(|rule| ids.insert(rule.id.as_str())) {
        return Err(invalid_argument("Same ID used for multiple configurations. IDs must be unique"));
    }
    for (n, rule) in rules.iter().enumerate() {
        if rules[..n].iter().any(|other| overlap(rule, other)) {
            return Err(invalid_argument(
                "Configurations overlap. Configurations on the same bucket cannot share a common event type.",
            ));
        }
    }
    if given.event_bridge_configuration.is_some() {
        let target = targets.iter().find(|arn| arn.rsplit(':').next() == Some(EVENT_BRIDGE)).ok_or_else(|| {
            invalid_argument(
                "Unable to validate the following destination configurations: there is no target named `eventbridge`",
            )
        })?;
        rules.push(NotificationRule {
            id: EVENT_BRIDGE.to_owned(),
            form: RuleForm::EventBridge,
            target: target.clone(),
            events: Vec::new(),
            prefix: None,
            suffix: None,
        });
    }
    Ok(NotificationRules { rules })
}

fn shown_filter(rule: &NotificationRule) -> Option<dto::NotificationConfigurationFilter> {
    let rules: Vec<_> = [("Prefix", &rule.prefix), ("Suffix", &rule.suffix)]
        .into_iter()
        .filter_map(|(name, value)| {
            let name = Some(dto::FilterRuleName::from(name.to_owned()));
            value.clone().map(|value| dto::FilterRule { name, value: Some(value) })
        })
        .collect();
    (!rules.is_empty())
        .then_some(dto::NotificationConfigurationFilter { key: Some(dto::S3KeyFilter { filter_rules: Some(rules) }) })
}

fn shown(rules: NotificationRules) -> GetBucketNotificationConfigurationOutput {
    let (mut topics, mut queues, mut functions) = (Vec::new(), Vec::new(), Vec::new());
    let mut event_bridge_configuration = None;
    for rule in rules.rules {
        let filter = shown_filter(&rule);
        let events = rule.events.into_iter().map(dto::Event::from).collect();
        let id = Some(rule.id);
        match rule.form {
            RuleForm::Topic => topics.push(dto::TopicConfiguration { events, filter, id, topic_arn: rule.target }),
            RuleForm::Queue => queues.push(dto::QueueConfiguration { events, filter, id, queue_arn: rule.target }),
            RuleForm::Function => functions.push(dto::LambdaFunctionConfiguration {
                events,
                filter,
                id,
                lambda_function_arn: rule.target,
            }),
            RuleForm::EventBridge => event_bridge_configuration = Some(dto::EventBridgeConfiguration::default()),
        }
    }
    GetBucketNotificationConfigurationOutput {
        event_bridge_configuration,
        lambda_function_configurations: (!functions.is_empty()).then_some(functions),
        queue_configurations: (!queues.is_empty()).then_some(queues),
        topic_configurations: (!topics.is_empty()).then_some(topics),
    }
}

pub(crate) async fn put_bucket_notification_configuration(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutBucketNotificationConfigurationInput>,
) -> Outcome<PutBucketNotificationConfigurationOutput> {
    let input = request.input;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let rules = rules_of(input.notification_configuration, &front.notify_targets)?;
    let value = (!rules.rules.is_empty()).then(|| rules.encode());
    front
        .store
        .change_bucket(&bucket, BucketChange::Document { name: NOTIFICATION_DOCUMENT.to_owned(), value })
        .await?;
    Ok(S3Response::new(PutBucketNotificationConfigurationOutput::default()))
}

pub(crate) async fn get_bucket_notification_configuration(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetBucketNotificationConfigurationInput>,
) -> Outcome<GetBucketNotificationConfigurationOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let Some(document) = bucket.documents.get(NOTIFICATION_DOCUMENT) else {
        return Ok(S3Response::new(GetBucketNotificationConfigurationOutput::default()));
    };
    let rules = NotificationRules::decode(document).ok_or_else(|| {
        Fail::Store(StoreError::Internal(format!("the notifications of bucket {} cannot be read", bucket.name)))
    })?;
    Ok(S3Response::new(shown(rules)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TARGET: &str = "arn:granary:webhook:us-east-1::a";

    fn targets() -> HashSet<String> {
        HashSet::from([TARGET.to_owned()])
    }

    fn queue(id: Option<&str>, event: &str, prefix: Option<&str>, suffix: Option<&str>) -> dto::QueueConfiguration {
        let rules: Vec<_> = [("prefix", prefix), ("Suffix", suffix)]
            .into_iter()
            .filter_map(|(name, value)| {
                let name = Some(dto::FilterRuleName::from(name.to_owned()));
                value.map(|value| dto::FilterRule { name, value: Some(value.to_owned()) })
            })
            .collect();
        dto::QueueConfiguration {
            events: vec![dto::Event::from(event.to_owned())],
            filter: Some(dto::NotificationConfigurationFilter {
                key: Some(dto::S3KeyFilter { filter_rules: Some(rules) }),
            }),
            id: id.map(str::to_owned),
            queue_arn: TARGET.to_owned(),
        }
    }

    fn of(queues: Vec<dto::QueueConfiguration>) -> Result<NotificationRules, S3Error> {
        let given = dto::NotificationConfiguration {
            queue_configurations: Some(queues),
            ..dto::NotificationConfiguration::default()
        };
        rules_of(given, &targets())
    }

    #[test]
    fn events_and_targets_must_be_known() {
        for event in ["s3:ObjectCreated:*", "s3:ObjectCreated:Put", "s3:ObjectRemoved:DeleteMarkerCreated"] {
            assert!(of(vec![queue(None, event, None, None)]).is_ok(), "{event}");
        }
        for event in
            ["s3:ObjectCreated", "s3:*", "ObjectCreated:Put", "s3:ObjectEaten:*", "s3:ObjectCreated:P*", "s3:TestEvent"]
        {
            assert!(of(vec![queue(None, event, None, None)]).is_err(), "{event}");
        }
        let mut other = queue(None, "s3:ObjectCreated:*", None, None);
        other.queue_arn = "arn:aws:sqs:us-east-1:1:q".to_owned();
        assert!(of(vec![other]).is_err());
        let bridge = dto::NotificationConfiguration {
            event_bridge_configuration: Some(dto::EventBridgeConfiguration::default()),
            ..dto::NotificationConfiguration::default()
        };
        assert!(rules_of(bridge, &targets()).is_err());
    }

    #[test]
    fn an_event_has_one_destination() {
        let created = "s3:ObjectCreated:*";
        assert!(of(vec![queue(None, created, None, None), queue(None, "s3:ObjectCreated:Put", None, None)]).is_err());
        assert!(of(vec![queue(None, created, None, None), queue(None, "s3:ObjectRemoved:*", None, None)]).is_ok());
        assert!(of(vec![queue(None, created, Some("a/"), None), queue(None, created, Some("a/b"), None)]).is_err());
        assert!(of(vec![queue(None, created, Some("a/"), None), queue(None, created, Some("b/"), None)]).is_ok());
        assert!(of(vec![queue(None, created, None, Some("x.jpg")), queue(None, created, None, Some(".jpg"))]).is_err());
        assert!(of(vec![queue(None, created, None, Some(".png")), queue(None, created, None, Some(".jpg"))]).is_ok());
        assert!(
            of(vec![queue(Some("i"), created, Some("a"), None), queue(Some("i"), created, Some("b"), None)]).is_err()
        );
    }

    #[test]
    fn what_was_put_is_given_back() {
        let given = queue(Some("id"), "s3:ObjectCreated:*", Some("in/"), Some(".csv"));
        let rules = of(vec![given]).unwrap();
        let back = shown(NotificationRules::decode(&rules.encode()).unwrap());
        let queues = back.queue_configurations.unwrap();
        assert_eq!((queues[0].id.as_deref(), queues[0].queue_arn.as_str()), (Some("id"), TARGET));
        let again = of(queues).unwrap();
        assert_eq!(again, rules);
    }
}
