//! Lifecycle configuration: S3's document checked and turned into the store's rules, and back; `x-amz-expiration`.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/API_PutBucketLifecycleConfiguration.html>

use std::collections::HashSet;

use granary_meta::LIFECYCLE_DOCUMENT;
use granary_meta::command::BucketChange;
use granary_store::StoreError;
use granary_store::lifecycle::{
    Candidate, Expiration, Expiry, FilterForm, LifecycleRule, LifecycleRules, NoncurrentExpiration,
    NoncurrentTransition, RuleFilter, When,
};
use granary_types::{BucketName, ObjectKey, Timestamp};
use s3s::dto::{
    self, DeleteBucketLifecycleInput, DeleteBucketLifecycleOutput, GetBucketLifecycleConfigurationInput,
    GetBucketLifecycleConfigurationOutput, PutBucketLifecycleConfigurationInput, PutBucketLifecycleConfigurationOutput,
};
use s3s::{S3Error, S3ErrorCode, S3Request, S3Response};

use crate::context::Cx;
use crate::convert;
use crate::error::{Fail, invalid_argument, invalid_request};
use crate::front::{FrontDoor, Outcome};

/// S3's limits.
const RULES_MAX: usize = 1000;
const ID_CHARS_MAX: usize = 255;
const NEWER_VERSIONS_MAX: i32 = 100;
/// Classes that objects can move to; they are labels.
const CLASSES: [&str; 3] = ["STANDARD_IA", "INTELLIGENT_TIERING", "ONEZONE_IA"];
/// Days before an object may move to one of the infrequent access classes.
const IA_DAYS_MIN: u32 = 30;
const DAY_SECS: u64 = 86_400;
/// What S3 says where nothing was asked.
const MINIMUM_DEFAULT: &str = "all_storage_classes_128K";

fn malformed(message: &'static str) -> S3Error {
    S3Error::with_message(S3ErrorCode::MalformedXML, message)
}

fn days(days: i32, what: &str) -> Result<u32, S3Error> {
    let bad = || invalid_argument(format!("{what} must be a positive integer"));
    u32::try_from(days).ok().filter(|days| *days > 0).ok_or_else(bad)
}

fn date(at: dto::Timestamp) -> Result<Timestamp, S3Error> {
    let at = convert::from_timestamp(at);
    if at.0.is_multiple_of(DAY_SECS * 1_000_000) {
        Ok(at)
    } else {
        Err(invalid_argument("'Date' must be at midnight GMT"))
    }
}

fn size(bytes: Option<i64>, name: &str) -> Result<Option<u64>, S3Error> {
    let bad = |_| invalid_argument(format!("'{name}' must be a number of bytes, 0 or more"));
    bytes.map(|bytes| u64::try_from(bytes).map_err(bad)).transpose()
}

fn tag(tag: dto::Tag) -> Result<(String, String), S3Error> {
    let tags = convert::tags_from_set(vec![tag], 1)?;
    tags.into_iter().next().ok_or_else(|| malformed("A Tag needs a Key"))
}

fn filter(filter: Option<dto::LifecycleRuleFilter>, prefix: Option<String>) -> Result<RuleFilter, S3Error> {
    let Some(filter) = filter else {
        let prefix = Some(prefix.ok_or_else(|| malformed("A Rule needs a Filter or a Prefix"))?);
        return Ok(RuleFilter { form: FilterForm::Legacy, prefix, ..RuleFilter::default() });
    };
    if prefix.is_some() {
        return Err(malformed("A Rule has a Filter or a Prefix, not both"));
    }
    let dto::LifecycleRuleFilter { and, object_size_greater_than, object_size_less_than, prefix, tag: one_tag } =
        filter;
    let mut wanted = RuleFilter {
        form: FilterForm::One,
        prefix,
        tags: one_tag.map(tag).transpose()?.into_iter().collect(),
        larger_than: size(object_size_greater_than, "ObjectSizeGreaterThan")?,
        smaller_than: size(object_size_less_than, "ObjectSizeLessThan")?,
    };
    let conditions = |wanted: &RuleFilter, prefix: bool| {
        usize::from(prefix)
            + wanted.tags.len()
            + usize::from(wanted.larger_than.is_some())
            + usize::from(wanted.smaller_than.is_some())
    };
    // An empty prefix says nothing, and some clients send one beside another condition.
    let named = conditions(&wanted, wanted.prefix.as_deref().is_some_and(|prefix| !prefix.is_empty()));
    match and {
        None if named > 1 => return Err(malformed("A Filter has one condition; several go into And")),
        None if named == 0 && wanted.prefix.is_none() => wanted.form = FilterForm::Empty,
        None => {}
        Some(_) if named > 0 || wanted.prefix.is_some() => {
            return Err(malformed("A Filter with And has nothing beside it"));
        }
        Some(and) => {
            let tags = and.tags.unwrap_or_default().into_iter().map(tag).collect::<Result<Vec<_>, _>>()?;
            let mut keys = HashSet::new();
            if !tags.iter().all(|(key, _)| keys.insert(key.as_str())) {
                return Err(invalid_request("Duplicate Tag Keys are not allowed."));
            }
            wanted = RuleFilter {
                form: FilterForm::And,
                prefix: and.prefix,
                tags,
                larger_than: size(and.object_size_greater_than, "ObjectSizeGreaterThan")?,
                smaller_than: size(and.object_size_less_than, "ObjectSizeLessThan")?,
            };
            if conditions(&wanted, wanted.prefix.is_some()) < 2 {
                return Err(malformed("And needs two conditions or more"));
            }
        }
    }
    if let (Some(larger), Some(smaller)) = (wanted.larger_than, wanted.smaller_than)
        && smaller <= larger
    {
        return Err(invalid_request("'ObjectSizeLessThan' has to be a value greater than 'ObjectSizeGreaterThan'."));
    }
    Ok(wanted)
}

fn expiration(expiration: dto::LifecycleExpiration) -> Result<Expiration, S3Error> {
    match (expiration.days, expiration.date, expiration.expired_object_delete_marker) {
        (Some(n), None, None) => Ok(Expiration::At(When::Days(days(n, "'Days' for Expiration action")?))),
        (None, Some(at), None) => Ok(Expiration::At(When::Date(date(at)?))),
        (None, None, Some(marker)) => Ok(Expiration::Marker(marker)),
        _ => Err(malformed("Expiration has one of Days, Date and ExpiredObjectDeleteMarker")),
    }
}

fn class(class: Option<dto::TransitionStorageClass>) -> Result<String, S3Error> {
    let class = class.ok_or_else(|| malformed("A transition needs a StorageClass"))?;
    match class.as_str() {
        known if CLASSES.contains(&known) => Ok(known.to_owned()),
        "GLACIER" | "GLACIER_IR" | "DEEP_ARCHIVE" => Err(S3Error::with_message(
            S3ErrorCode::InvalidStorageClass,
            format!("The storage class {} is not on this server; there are {}", class.as_str(), CLASSES.join(", ")),
        )),
        _ => Err(malformed("There is no such StorageClass to move objects to")),
    }
}

fn transition(transition: dto::Transition) -> Result<(When, String), S3Error> {
    let class = class(transition.storage_class)?;
    let when = match (transition.days, transition.date) {
        (Some(n), None) => {
            let n =
                u32::try_from(n).map_err(|_| invalid_argument("'Days' for Transition action must be nonnegative"))?;
            if class.ends_with("_IA") && n < IA_DAYS_MIN {
                return Err(invalid_argument(format!(
                    "'Days' in Transition action must be greater than or equal to {IA_DAYS_MIN} for storageClass '{class}'"
                )));
            }
            When::Days(n)
        }
        (None, Some(at)) => When::Date(date(at)?),
        _ => return Err(malformed("A Transition has one of Days and Date")),
    };
    Ok((when, class))
}

fn newer(kept: Option<i32>) -> Result<Option<u32>, S3Error> {
    let bad =
        || invalid_argument(format!("'NewerNoncurrentVersions' must be an integer between 1 and {NEWER_VERSIONS_MAX}"));
    kept.map(|n| u32::try_from(n).ok().filter(|_| (1..=NEWER_VERSIONS_MAX).contains(&n)).ok_or_else(bad)).transpose()
}

fn noncurrent_transition(transition: dto::NoncurrentVersionTransition) -> Result<NoncurrentTransition, S3Error> {
    let class = class(transition.storage_class)?;
    let n =
        transition.noncurrent_days.ok_or_else(|| malformed("A NoncurrentVersionTransition needs NoncurrentDays"))?;
    let n = u32::try_from(n)
        .map_err(|_| invalid_argument("'NoncurrentDays' for NoncurrentVersionTransition action must be nonnegative"))?;
    if class.ends_with("_IA") && n < IA_DAYS_MIN {
        return Err(invalid_argument(format!(
            "'NoncurrentDays' in NoncurrentVersionTransition action must be greater than or equal to {IA_DAYS_MIN} for \
             storageClass '{class}'"
        )));
    }
    Ok(NoncurrentTransition { days: n, newer_kept: newer(transition.newer_noncurrent_versions)?, class })
}

fn rule(given: dto::LifecycleRule) -> Result<LifecycleRule, S3Error> {
    let id = match given.id {
        Some(id) if id.chars().count() > ID_CHARS_MAX => {
            return Err(invalid_argument("ID length should not exceed allowed limit of 255"));
        }
        Some(id) if !id.is_empty() => id,
        _ => format!("{:032x}", rand::random::<u128>()),
    };
    let enabled = match given.status.as_str() {
        "Enabled" => true,
        "Disabled" => false,
        _ => return Err(malformed("Status is Enabled or Disabled")),
    };
    let filter = filter(given.filter, given.prefix)?;
    let expiration = given.expiration.map(expiration).transpose()?;
    let transitions =
        given.transitions.unwrap_or_default().into_iter().map(transition).collect::<Result<Vec<_>, _>>()?;
    let noncurrent_expiration = match given.noncurrent_version_expiration {
        None => None,
        Some(expiration) => {
            let n = expiration
                .noncurrent_days
                .ok_or_else(|| malformed("NoncurrentVersionExpiration needs NoncurrentDays"))?;
            Some(NoncurrentExpiration {
                days: days(n, "'NoncurrentDays' for NoncurrentVersionExpiration action")?,
                newer_kept: newer(expiration.newer_noncurrent_versions)?,
            })
        }
    };
    let noncurrent_transitions = given.noncurrent_version_transitions.unwrap_or_default();
    let noncurrent_transitions =
        noncurrent_transitions.into_iter().map(noncurrent_transition).collect::<Result<Vec<_>, _>>()?;
    let abort_uploads_days = match given.abort_incomplete_multipart_upload {
        None => None,
        Some(abort) => {
            let n = abort
                .days_after_initiation
                .ok_or_else(|| malformed("AbortIncompleteMultipartUpload needs DaysAfterInitiation"))?;
            Some(days(n, "'DaysAfterInitiation' for AbortIncompleteMultipartUpload action")?)
        }
    };
    let rule = LifecycleRule {
        id,
        enabled,
        filter,
        expiration,
        transitions,
        noncurrent_expiration,
        noncurrent_transitions,
        abort_uploads_days,
    };
    check_actions(&rule)?;
    Ok(rule)
}

/// What a rule's actions must satisfy together.
fn check_actions(rule: &LifecycleRule) -> Result<(), S3Error> {
    let filter = &rule.filter;
    let prefix = filter.prefix.as_deref().unwrap_or_default();
    let is_sized = filter.larger_than.is_some() || filter.smaller_than.is_some();
    if rule.expiration.is_none()
        && rule.transitions.is_empty()
        && rule.noncurrent_expiration.is_none()
        && rule.noncurrent_transitions.is_empty()
        && rule.abort_uploads_days.is_none()
    {
        return Err(invalid_request("At least one action needs to be specified in a rule"));
    }
    if rule.abort_uploads_days.is_some() && !filter.tags.is_empty() {
        return Err(invalid_request("AbortIncompleteMultipartUpload cannot be specified with Tags."));
    }
    if rule.abort_uploads_days.is_some() && is_sized {
        return Err(invalid_request("AbortIncompleteMultipartUpload cannot be specified with object sizes."));
    }
    if matches!(rule.expiration, Some(Expiration::Marker(_))) && !filter.tags.is_empty() {
        return Err(invalid_request("ExpiredObjectDeleteMarker cannot be specified with Tags."));
    }
    let mut classes = HashSet::new();
    if !rule.transitions.iter().all(|(_, class)| classes.insert(class.as_str())) {
        return Err(invalid_argument(format!(
            "'StorageClass' must be different for 'Transition' actions in same 'Rule' with prefix '{prefix}'"
        )));
    }
    let expires = match rule.expiration {
        Some(Expiration::At(when)) => Some(when),
        _ => None,
    };
    let all: Vec<_> = rule.transitions.iter().map(|(when, _)| *when).chain(expires).collect();
    if all.iter().any(|when| matches!(when, When::Days(_))) && all.iter().any(|when| matches!(when, When::Date(_))) {
        return Err(invalid_argument(format!(
            "Found mixed 'Date' and 'Days' based Expiration and Transition actions in lifecycle rule for prefix '{prefix}'"
        )));
    }
    for (when, _) in &rule.transitions {
        let (is_late, unit) = match (when, expires) {
            (When::Days(moved), Some(When::Days(gone))) => (gone <= *moved, "Days"),
            (When::Date(moved), Some(When::Date(gone))) => (gone <= *moved, "Date"),
            _ => (false, ""),
        };
        if is_late {
            return Err(invalid_argument(format!(
                "'{unit}' in the Expiration action for prefix '{prefix}' must be greater than '{unit}' in the Transition action"
            )));
        }
    }
    let gone = rule.noncurrent_expiration.map(|expiration| expiration.days);
    if gone.is_some_and(|gone| rule.noncurrent_transitions.iter().any(|moved| gone <= moved.days)) {
        return Err(invalid_argument(format!(
            "'NoncurrentDays' in the NoncurrentVersionExpiration action for prefix '{prefix}' must be greater than \
             'NoncurrentDays' in the NoncurrentVersionTransition action"
        )));
    }
    Ok(())
}

fn rules_of(given: Vec<dto::LifecycleRule>, minimum: Option<String>) -> Result<LifecycleRules, S3Error> {
    if given.is_empty() || given.len() > RULES_MAX {
        return Err(malformed("A lifecycle configuration has 1 to 1000 rules"));
    }
    if !matches!(minimum.as_deref(), None | Some(MINIMUM_DEFAULT | "varies_by_storage_class")) {
        return Err(invalid_argument(
            "x-amz-transition-default-minimum-object-size is all_storage_classes_128K or varies_by_storage_class",
        ));
    }
    let rules = given.into_iter().map(rule).collect::<Result<Vec<_>, _>>()?;
    let mut ids = HashSet::new();
    if !rules.iter().all(|rule| ids.insert(rule.id.as_str())) {
        return Err(invalid_argument("Rule ID must be unique. Found same ID for more than one rule"));
    }
    Ok(LifecycleRules { rules, transition_minimum: minimum })
}

fn signed(n: u32) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn shown_tag((key, value): (String, String)) -> dto::Tag {
    dto::Tag { key: Some(key), value: Some(value) }
}

fn shown_filter(filter: RuleFilter) -> Option<dto::LifecycleRuleFilter> {
    let size = |bytes: Option<u64>| bytes.map(convert::size);
    let tags: Vec<_> = filter.tags.into_iter().map(shown_tag).collect();
    match filter.form {
        FilterForm::Legacy => None,
        FilterForm::Empty | FilterForm::One => Some(dto::LifecycleRuleFilter {
            and: None,
            object_size_greater_than: size(filter.larger_than),
            object_size_less_than: size(filter.smaller_than),
            prefix: filter.prefix,
            tag: tags.into_iter().next(),
        }),
        FilterForm::And => Some(dto::LifecycleRuleFilter {
            and: Some(dto::LifecycleRuleAndOperator {
                object_size_greater_than: size(filter.larger_than),
                object_size_less_than: size(filter.smaller_than),
                prefix: filter.prefix,
                tags: (!tags.is_empty()).then_some(tags),
            }),
            ..dto::LifecycleRuleFilter::default()
        }),
    }
}

fn shown(rule: LifecycleRule) -> dto::LifecycleRule {
    let split = |when: When| match when {
        When::Days(n) => (Some(signed(n)), None),
        When::Date(at) => (None, Some(convert::timestamp(at))),
    };
    let transitions: Vec<_> = rule
        .transitions
        .into_iter()
        .map(|(when, class)| {
            let (days, date) = split(when);
            dto::Transition { days, date, storage_class: Some(class.into()) }
        })
        .collect();
    let noncurrent: Vec<_> = rule
        .noncurrent_transitions
        .into_iter()
        .map(|moved| dto::NoncurrentVersionTransition {
            newer_noncurrent_versions: moved.newer_kept.map(signed),
            noncurrent_days: Some(signed(moved.days)),
            storage_class: Some(moved.class.into()),
        })
        .collect();
    dto::LifecycleRule {
        abort_incomplete_multipart_upload: rule
            .abort_uploads_days
            .map(|n| dto::AbortIncompleteMultipartUpload { days_after_initiation: Some(signed(n)) }),
        expiration: rule.expiration.map(|expiration| match expiration {
            Expiration::At(when) => {
                let (days, date) = split(when);
                dto::LifecycleExpiration { days, date, ..dto::LifecycleExpiration::default() }
            }
            Expiration::Marker(marker) => dto::LifecycleExpiration {
                expired_object_delete_marker: Some(marker),
                ..dto::LifecycleExpiration::default()
            },
        }),
        id: Some(rule.id),
        noncurrent_version_expiration: rule.noncurrent_expiration.map(|expiration| dto::NoncurrentVersionExpiration {
            newer_noncurrent_versions: expiration.newer_kept.map(signed),
            noncurrent_days: Some(signed(expiration.days)),
        }),
        noncurrent_version_transitions: (!noncurrent.is_empty()).then_some(noncurrent),
        prefix: rule.filter.prefix.clone().filter(|_| rule.filter.form == FilterForm::Legacy),
        filter: shown_filter(rule.filter),
        status: dto::ExpirationStatus::from_static(if rule.enabled { "Enabled" } else { "Disabled" }),
        transitions: (!transitions.is_empty()).then_some(transitions),
    }
}

pub(crate) async fn put_bucket_lifecycle_configuration(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<PutBucketLifecycleConfigurationInput>,
) -> Outcome<PutBucketLifecycleConfigurationOutput> {
    let input = request.input;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let configuration =
        input.lifecycle_configuration.ok_or_else(|| S3Error::new(S3ErrorCode::MissingRequestBodyError))?;
    let minimum = input.transition_default_minimum_object_size;
    let rules = rules_of(configuration.rules, minimum.as_ref().map(|minimum| minimum.as_str().to_owned()))?;
    let change = BucketChange::Document { name: LIFECYCLE_DOCUMENT.to_owned(), value: Some(rules.encode()) };
    front.store.change_bucket(&bucket, change).await?;
    let shown = rules.transition_minimum.unwrap_or_else(|| MINIMUM_DEFAULT.to_owned());
    Ok(S3Response::new(PutBucketLifecycleConfigurationOutput {
        transition_default_minimum_object_size: Some(shown.into()),
    }))
}

pub(crate) async fn get_bucket_lifecycle_configuration(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<GetBucketLifecycleConfigurationInput>,
) -> Outcome<GetBucketLifecycleConfigurationOutput> {
    let input = request.input;
    let bucket = front.bucket(&convert::bucket_name(&input.bucket)?, input.expected_bucket_owner.as_deref())?;
    let document = bucket.documents.get(LIFECYCLE_DOCUMENT).ok_or_else(|| {
        let message = "The lifecycle configuration does not exist";
        S3Error::with_message(S3ErrorCode::NoSuchLifecycleConfiguration, message)
    })?;
    let rules = LifecycleRules::decode(document).ok_or_else(|| {
        Fail::Store(StoreError::Internal(format!("the lifecycle rules of bucket {} cannot be read", bucket.name)))
    })?;
    let minimum = rules.transition_minimum.unwrap_or_else(|| MINIMUM_DEFAULT.to_owned());
    Ok(S3Response::new(GetBucketLifecycleConfigurationOutput {
        rules: Some(rules.rules.into_iter().map(shown).collect()),
        transition_default_minimum_object_size: Some(minimum.into()),
    }))
}

pub(crate) async fn delete_bucket_lifecycle(
    front: &FrontDoor,
    _cx: &Cx,
    request: S3Request<DeleteBucketLifecycleInput>,
) -> Outcome<DeleteBucketLifecycleOutput> {
    let input = request.input;
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    let change = BucketChange::Document { name: LIFECYCLE_DOCUMENT.to_owned(), value: None };
    front.store.change_bucket(&bucket, change).await?;
    Ok(S3Response::new(DeleteBucketLifecycleOutput::default()))
}

/// A bucket's rules on hand, for the headers that tell of them.
pub(crate) struct Lifetimes {
    rules: LifecycleRules,
    day_us: u64,
}

impl Lifetimes {
    /// `None` where the bucket has no rules, so that it costs nothing there.
    pub(crate) fn of(front: &FrontDoor, bucket: &BucketName) -> Option<Self> {
        let bucket = front.store.bucket(bucket).ok()?;
        let rules = LifecycleRules::decode(bucket.documents.get(LIFECYCLE_DOCUMENT)?)?;
        let day_us = u64::try_from(front.store.lifecycle_day().as_micros()).unwrap_or(u64::MAX).max(1);
        Some(Self { rules, day_us })
    }

    /// `x-amz-expiration` of a current object.
    pub(crate) fn expiration(
        &self,
        key: &str,
        size_bytes: u64,
        tags: &[(String, String)],
        created: Timestamp,
    ) -> Option<String> {
        let of = Candidate { key, size_bytes: Some(size_bytes), tags, class: None, created };
        self.rules.expiry(&of, self.day_us).map(|expiry| header(&expiry))
    }

    /// As [`Lifetimes::expiration`], of an object that was just written and is looked up for its tags.
    pub(crate) async fn of_written(front: &FrontDoor, bucket: &BucketName, key: &ObjectKey) -> Option<String> {
        let lifetimes = Self::of(front, bucket)?;
        let request = granary_store::api::GetRequest {
            bucket: bucket.clone(),
            key: key.clone(),
            version: None,
            portion: granary_store::api::Portion::Whole,
            condition: granary_store::api::ReadCondition::default(),
            unlock: granary_store::api::Unlock::Unneeded,
        };
        let info = front.store.head(request).await.ok()?;
        let attributes = &info.object.attributes;
        lifetimes.expiration(key.as_str(), info.object.size_bytes, &attributes.tags, info.stored())
    }

    /// `x-amz-abort-date` and `x-amz-abort-rule-id` of an upload.
    pub(crate) fn abort(&self, key: &str, created: Timestamp) -> Option<(dto::Timestamp, String)> {
        let expiry = self.rules.abort(key, created, self.day_us)?;
        Some((convert::timestamp(expiry.at), expiry.rule))
    }
}

fn header(expiry: &Expiry) -> String {
    let rule = convert::percent_encode(&expiry.rule);
    format!("expiry-date=\"{}\", rule-id=\"{rule}\"", convert::http_date(expiry.at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(change: impl FnOnce(&mut dto::LifecycleRule)) -> dto::LifecycleRule {
        let mut rule = dto::LifecycleRule {
            abort_incomplete_multipart_upload: None,
            expiration: Some(dto::LifecycleExpiration { days: Some(1), ..dto::LifecycleExpiration::default() }),
            filter: None,
            id: Some("r".into()),
            noncurrent_version_expiration: None,
            noncurrent_version_transitions: None,
            prefix: Some("p".into()),
            status: dto::ExpirationStatus::from_static("Enabled"),
            transitions: None,
        };
        change(&mut rule);
        rule
    }

    fn code(change: impl FnOnce(&mut dto::LifecycleRule)) -> String {
        match rules_of(vec![given(change)], None) {
            Ok(_) => "fine".to_owned(),
            Err(error) => error.code().as_str().to_owned(),
        }
    }

    fn filtered(rule: &mut dto::LifecycleRule, filter: dto::LifecycleRuleFilter) {
        rule.prefix = None;
        rule.filter = Some(filter);
    }

    fn tag(key: &str) -> dto::Tag {
        dto::Tag { key: Some(key.into()), value: Some("v".into()) }
    }

    #[test]
    fn each_mistake_has_its_code() {
        let expires =
            |days, date, marker| dto::LifecycleExpiration { days, date, expired_object_delete_marker: marker };
        let at = |secs| Some(convert::timestamp(Timestamp::from_secs(secs)));
        assert_eq!(code(|_| {}), "fine");
        assert_eq!(code(|r| r.id = Some("x".repeat(255))), "fine");
        assert_eq!(code(|r| r.id = Some("x".repeat(256))), "InvalidArgument");
        assert_eq!(code(|r| r.status = dto::ExpirationStatus::from_static("enabled")), "MalformedXML");
        assert_eq!(code(|r| r.prefix = None), "MalformedXML");
        assert_eq!(code(|r| r.expiration = None), "InvalidRequest");
        assert_eq!(code(|r| r.expiration = Some(expires(Some(0), None, None))), "InvalidArgument");
        assert_eq!(code(|r| r.expiration = Some(expires(Some(-1), None, None))), "InvalidArgument");
        assert_eq!(code(|r| r.expiration = Some(expires(Some(1), None, Some(true)))), "MalformedXML");
        assert_eq!(code(|r| r.expiration = Some(expires(None, None, None))), "MalformedXML");
        assert_eq!(code(|r| r.expiration = Some(expires(None, at(86_400), None))), "fine");
        assert_eq!(code(|r| r.expiration = Some(expires(None, at(86_401), None))), "InvalidArgument");
        let marker = |r: &mut dto::LifecycleRule| r.expiration = Some(expires(None, None, Some(true)));
        assert_eq!(code(marker), "fine");
        let tagged = dto::LifecycleRuleFilter { tag: Some(tag("k")), ..dto::LifecycleRuleFilter::default() };
        assert_eq!(code(|r| filtered(r, tagged.clone())), "fine");
        assert_eq!(code(|r| (marker(r), filtered(r, tagged.clone())).1), "InvalidRequest");
        let abort = dto::AbortIncompleteMultipartUpload { days_after_initiation: Some(1) };
        assert_eq!(code(|r| r.abort_incomplete_multipart_upload = Some(abort.clone())), "fine");
        let both = |r: &mut dto::LifecycleRule| {
            filtered(r, tagged.clone());
            r.abort_incomplete_multipart_upload = Some(abort.clone());
        };
        assert_eq!(code(both), "InvalidRequest");
        assert_eq!(code(|r| r.filter = Some(tagged.clone())), "MalformedXML");
    }

    #[test]
    fn filters_take_one_condition_or_and() {
        let filter = dto::LifecycleRuleFilter::default;
        let and = |and| dto::LifecycleRuleFilter { and: Some(and), ..filter() };
        let two = dto::LifecycleRuleFilter { prefix: Some("p".into()), object_size_greater_than: Some(1), ..filter() };
        assert_eq!(code(|r| filtered(r, filter())), "fine");
        assert_eq!(code(|r| filtered(r, two)), "MalformedXML");
        let one = dto::LifecycleRuleAndOperator { prefix: Some("p".into()), ..Default::default() };
        assert_eq!(code(|r| filtered(r, and(one.clone()))), "MalformedXML");
        let tags = |keys: &[&str]| Some(keys.iter().map(|key| tag(key)).collect::<Vec<_>>());
        let fine = dto::LifecycleRuleAndOperator { tags: tags(&["a", "b"]), ..one.clone() };
        assert_eq!(code(|r| filtered(r, and(fine))), "fine");
        let twice = dto::LifecycleRuleAndOperator { tags: tags(&["a", "a"]), ..one.clone() };
        assert_eq!(code(|r| filtered(r, and(twice))), "InvalidRequest");
        let sizes =
            dto::LifecycleRuleAndOperator { object_size_greater_than: Some(5), object_size_less_than: Some(5), ..one };
        assert_eq!(code(|r| filtered(r, and(sizes))), "InvalidRequest");
    }

    #[test]
    fn transitions_go_where_there_is_something() {
        let to = |days: i32, class: &str| {
            let moved = dto::Transition { days: Some(days), date: None, storage_class: Some(class.to_owned().into()) };
            move |r: &mut dto::LifecycleRule| {
                r.expiration = None;
                r.transitions = Some(vec![moved]);
            }
        };
        assert_eq!(code(to(0, "INTELLIGENT_TIERING")), "fine");
        assert_eq!(code(to(30, "STANDARD_IA")), "fine");
        assert_eq!(code(to(29, "STANDARD_IA")), "InvalidArgument");
        assert_eq!(code(to(30, "GLACIER")), "InvalidStorageClass");
        assert_eq!(code(to(30, "STANDARD")), "MalformedXML");
        let late = |r: &mut dto::LifecycleRule| {
            let expiration = r.expiration.clone();
            to(1, "INTELLIGENT_TIERING")(r);
            r.expiration = expiration;
        };
        assert_eq!(code(late), "InvalidArgument");
    }

    #[test]
    fn what_was_put_is_given_back() {
        let and = dto::LifecycleRuleAndOperator {
            prefix: Some("p/".into()),
            tags: Some(vec![tag("a"), tag("b")]),
            object_size_less_than: Some(500),
            ..Default::default()
        };
        let filter = dto::LifecycleRuleFilter { and: Some(and), ..Default::default() };
        let noncurrent =
            dto::NoncurrentVersionExpiration { noncurrent_days: Some(3), newer_noncurrent_versions: Some(2) };
        for rule in [
            given(|_| {}),
            given(|r| (filtered(r, filter), r.noncurrent_version_expiration = Some(noncurrent)).1),
            given(|r| filtered(r, dto::LifecycleRuleFilter::default())),
        ] {
            let rules = rules_of(vec![rule.clone()], None).unwrap();
            assert_eq!(rules.rules.into_iter().map(shown).collect::<Vec<_>>(), [rule]);
        }
    }

    #[test]
    fn ids_are_unique_and_made_where_they_are_missing() {
        let rules = rules_of(vec![given(|r| r.id = None), given(|r| r.id = None)], None).unwrap();
        assert_ne!(rules.rules[0].id, rules.rules[1].id);
        assert!(rules_of(vec![given(|_| {}), given(|_| {})], None).is_err());
        assert!(rules_of(Vec::new(), None).is_err());
    }
}
