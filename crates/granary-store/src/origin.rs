//! Whose request is being served: set around a request by those above, told to `apply` with the commands of buckets
//! that want events. It travels with the task, because it is nobody's business in between and decides nothing.

use std::future::Future;

use granary_meta::command::{Cause, Command, Origin};
use granary_meta::events::NOTIFICATION_DOCUMENT;
use granary_types::BucketId;

use crate::inner::Inner;

tokio::task_local! {
    static ORIGIN: Origin;
}

/// Runs `work`, the serving of a request, as `origin`'s.
pub async fn serve<F: Future>(origin: Origin, work: F) -> F::Output {
    ORIGIN.scope(origin, work).await
}

/// Runs `work` as the present origin's, with another cause.
pub async fn because<F: Future>(cause: Cause, work: F) -> F::Output {
    let origin = ORIGIN.try_with(Clone::clone).unwrap_or_default();
    ORIGIN.scope(Origin { cause, ..origin }, work).await
}

impl Inner {
    /// The command with its origin, where the bucket wants events.
    pub(crate) fn with_origin(&self, command: Command) -> Command {
        let wants = |bucket: BucketId| {
            let record = self.index().ok().and_then(|index| index.bucket_by_id(bucket));
            record.is_some_and(|record| record.documents.contains_key(NOTIFICATION_DOCUMENT))
        };
        match bucket_of(&command) {
            Some(bucket) if wants(bucket) => match ORIGIN.try_with(Clone::clone) {
                Ok(origin) => Command::From { origin: Box::new(origin), command: Box::new(command) },
                Err(_) => command,
            },
            _ => command,
        }
    }
}

/// `x-amz-request-id` of the request that this runs in, if any.
pub(crate) fn request_id() -> String {
    ORIGIN.try_with(|origin| origin.request_id.clone()).unwrap_or_default()
}

/// The bucket of a command that makes events.
fn bucket_of(command: &Command) -> Option<BucketId> {
    match command {
        Command::PutVersion { bucket, .. }
        | Command::DeleteObject { bucket, .. }
        | Command::DeleteVersion { bucket, .. }
        | Command::ChangeVersion { bucket, .. }
        | Command::CompleteUpload { bucket, .. }
        | Command::Append { bucket, .. }
        | Command::Rename { bucket, .. } => Some(*bucket),
        _ => None,
    }
}
