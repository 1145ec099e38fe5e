//! The node: drives, metadata and keys assembled. Face (bodies follow as the crates below land):
//!
//! # granary_store::node (being written by the lead; wire against this)
//! pub struct NodeOptions { pub drives: Vec<PathBuf>, pub segment_bytes: u64, pub reserve_bytes: u64, pub limit_bytes: Option<u64> /*per drive, for tests and quotas*/,
//!                          pub io: IoChoice /* Auto | Uring | Threads */, pub buffer_pool_bytes: usize, pub log_file_bytes: u64, pub store: StoreOptions }   // impl Default
//! impl Node {
//!   pub async fn open(options: NodeOptions, provider: Arc<dyn KeyProvider>, clock: Arc<dyn Clock>) -> Result<Node, NodeError>;   // formats blank folders on the very first start only
//!   pub fn store(&self) -> &Store;                       // Store: Clone + ObjectStore
//!   pub fn start_background(&self);                      // reaper, sweep, repair of reported damage
//!   pub async fn close(&self) -> Result<(), NodeError>;  // after the listeners have drained
//!   pub fn status(&self) -> NodeStatus;                  // Serialize; see crates/granary-store/src/node/status.rs (DriveStatus, HealStatus, ScrubStatus)
//!   pub fn ready(&self) -> Result<(), String>;           // for /health/ready: enough drives up to write, metadata serving
//!   pub async fn add_drive(&self, path: &Path) -> Result<DriveStatus, NodeError>;
//!   pub async fn replace_drive(&self, number: u16, path: &Path) -> Result<DriveStatus, NodeError>; // retires `number`, formats `path`, starts a heal
//!   pub fn start_heal(&self, deep: bool) -> bool;  pub fn heal_status(&self) -> HealStatus;
//!   pub fn start_scrub(&self, drive: Option<u16>) -> bool;  pub fn scrub_status(&self) -> Vec<ScrubStatus>;
//!   pub fn drive_stats(&self) -> Vec<(u16, Arc<DriveStats>)>; pub fn meta_stats(&self) -> Arc<MetaStats>; store().stats() -> Arc<StoreStats>
//! }
