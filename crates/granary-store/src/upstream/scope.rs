//! The audit event of a fetch: an act of the node's own, which names the upstream and the request that caused it.

use bytes::Bytes;
use futures::future::BoxFuture;
use granary_audit::Event;
use granary_types::Timestamp;

use crate::audit::{AuditScope, Subject, node_event};

/// Makes the events of one fetch.
pub(crate) struct FetchScope {
    pub(crate) name: &'static str,
    pub(crate) region: String,
    pub(crate) at: Timestamp,
    pub(crate) bucket: String,
    pub(crate) key: String,
    pub(crate) request_id: String,
    pub(crate) parameters: Vec<(String, String)>,
}

impl AuditScope for FetchScope {
    fn event(&self, _: Option<&Subject<'_>>) -> Bytes {
        let event = Event {
            bucket: self.bucket.clone(),
            key: self.key.clone(),
            request_id: self.request_id.clone(),
            parameters: self.parameters.clone(),
            ..node_event(self.name, &self.region, self.at)
        };
        event.encode().into()
    }

    fn written(&self, _: bool) {}

    fn refused<'a>(&'a self, _: Subject<'a>, _: &'a str) -> BoxFuture<'a, ()> {
        // No fetch is about several keys.
        Box::pin(std::future::ready(()))
    }
}
