//! Which events a question means.

use granary_types::{AuditOutcome, AuditRecord, Timestamp};
use serde::{Deserialize, Serialize};

use crate::event::Event;

/// A question. Everything that is set must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Filter {
    /// Not before.
    pub since: Option<Timestamp>,
    /// Before.
    pub until: Option<Timestamp>,
    /// This bucket.
    pub bucket: Option<String>,
    /// This key; `prefix*` for all that begin so.
    pub key: Option<String>,
    /// This access key, user name or ARN.
    pub principal: Option<String>,
    /// `allowed` (also `done`), `refused` (403 or by the rules), `failed` (other errors), or an error code.
    pub outcome: Option<String>,
    /// This operation.
    pub name: Option<String>,
}

impl Filter {
    /// Whether a record is meant.
    #[must_use]
    pub fn matches(&self, record: &AuditRecord) -> bool {
        let Some(event) = Event::decode(&record.event) else { return *self == Self::default() };
        let is = |wanted: &Option<String>, have: &str| wanted.as_ref().is_none_or(|wanted| wanted == have);
        let key = self.key.as_ref().is_none_or(|wanted| match wanted.strip_suffix('*') {
            Some(prefix) => event.key.starts_with(prefix),
            None => *wanted == event.key,
        });
        let actor = &event.actor;
        let principal = self
            .principal
            .as_ref()
            .is_none_or(|wanted| [&actor.access_key, &actor.name, &actor.arn, &actor.principal_id].contains(&wanted));
        self.since.is_none_or(|since| event.at >= since)
            && self.until.is_none_or(|until| event.at < until)
            && is(&self.bucket, &event.bucket)
            && key
            && principal
            && is(&self.name, &event.name)
            && self.outcome.as_ref().is_none_or(|wanted| outcome_is(wanted, record, &event))
    }
}

fn outcome_is(wanted: &str, record: &AuditRecord, event: &Event) -> bool {
    let code = match &record.outcome {
        AuditOutcome::Refused(code) => code.as_str(),
        _ => event.error_code.as_str(),
    };
    let refused = matches!(record.outcome, AuditOutcome::Refused(_)) || event.status == 403 || event.status == 401;
    match wanted {
        "allowed" | "done" => code.is_empty() && event.status < 400,
        "refused" => refused,
        "failed" => !refused && (!code.is_empty() || event.status >= 400),
        other => other == code,
    }
}
