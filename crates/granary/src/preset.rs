//! Buckets made at start with settings that fit AI work. Those that exist are left as they are.

use granary_access::Owner;
use granary_meta::command::{BucketChange, Refusal};
use granary_meta::records::{BucketOptions, EtagMode, Versioning};
use granary_store::api::CreateBucketRequest;
use granary_store::{ObjectStore, StoreError};
use granary_types::BucketName;

/// `raw`, `processed`, `artefacts`, `cache`.
///
/// # Errors
/// [`StoreError`]; buckets made before it stay.
pub(crate) async fn ai(store: &impl ObjectStore, owner: &Owner) -> Result<(), StoreError> {
    // What training is repeated from: nothing in it is ever changed or silently lost.
    let raw = BucketOptions { write_once: true, ..BucketOptions::default() };
    // Checkpoints are large and written under time pressure: no MD5, the dearest step of a PUT.
    let artefacts = BucketOptions { etag: EtagMode::Opaque, ..BucketOptions::default() };
    let plain = BucketOptions::default;
    for (name, options, versioning) in [
        ("raw", raw, Versioning::Enabled),
        ("processed", plain(), Versioning::Off),
        ("artefacts", artefacts, Versioning::Off),
        ("cache", plain(), Versioning::Off),
    ] {
        let name = BucketName::new(name).expect("the preset's names follow the rules");
        let request = CreateBucketRequest {
            name: name.clone(),
            owner: owner.id.clone(),
            region: None,
            options,
            documents: std::collections::BTreeMap::new(),
        };
        match store.create_bucket(request).await {
            Ok(()) => {}
            Err(StoreError::Refused(Refusal::BucketExists { .. })) => continue,
            Err(error) => return Err(error),
        }
        if versioning != Versioning::Off {
            store.change_bucket(&name, BucketChange::Versioning(versioning)).await?;
        }
    }
    Ok(())
}
