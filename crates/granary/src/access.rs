//! Users and policies, wired to the node: where their records lie, and what keeps them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use granary_access::{Iam, IamError, Owner, Records, RootKeys};
use granary_store::node::{Node, SystemRecords};
use granary_types::SystemClock;
use tokio::task::JoinHandle;

use crate::fetch::HttpFetch;
use crate::settings::Settings;

/// How often it is written down when keys were last used.
const LAST_USED_EVERY: Duration = Duration::from_secs(60);
/// Label of the key that seals records and session tokens.
const KEY_LABEL: &str = "granary access v1";

struct NodeRecords(SystemRecords);

impl Records for NodeRecords {
    fn load(&self, prefix: &str) -> Result<Vec<(String, Bytes)>, String> {
        self.0.load(prefix).map_err(|error| error.to_string())
    }

    fn set(&self, name: String, value: Option<Bytes>) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move { self.0.set(name, value).await.map_err(|error| error.to_string()) })
    }
}

/// Opens the directory of users and policies.
///
/// # Errors
/// [`IamError`] when it cannot be read.
pub(crate) fn open(node: &Node, keys: &RootKeys, owner: Owner, settings: &Settings) -> Result<Iam, IamError> {
    let records = Arc::new(NodeRecords(node.system_records()));
    let key = node.derive_key(KEY_LABEL);
    let iam = Iam::open(records, &key, Arc::new(SystemClock), &keys.access_key, keys.secret.clone(), owner)?
        .with_limits(settings.limits());
    iam.set_fetch(Arc::new(HttpFetch::new(settings.identity.oidc_ca_file.clone())));
    Ok(iam)
}

/// Writes down now and then when keys were last used.
pub(crate) fn keep_last_used(iam: Arc<Iam>) -> JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(LAST_USED_EVERY).await;
            if let Err(error) = iam.save_last_used().await {
                tracing::warn!(%error, "when keys were last used is not written down");
            }
        }
    })
}
