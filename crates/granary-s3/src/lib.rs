//! The S3 front door: s3s requests in, store calls out.
//!
//! Row 4, and the only user of s3s. [`service()`] makes what hyper serves; [`FrontDoor`] maps every operation to
//! [`granary_store::ObjectStore`]; [`error`] maps every error in one exhaustive match. What a client may rely
//! on is in `docs/SEMANTICS.md`. Listeners, TLS, metrics and settings are the binary's.

mod access;
mod access_log;
mod ai;
mod audit;
mod auth;
mod blocked;
mod body;
mod checksums;
mod context;
mod convert;
mod cors;
mod documents;
pub mod error;
mod express;
mod front;
mod guess;
mod late;
mod lenient;
mod ops;
mod place;
mod post;
mod precheck;
mod query;
mod rechunk;
mod routes;
mod run;
mod service;
mod sigv2;
mod subject;
mod unread;

pub use access::gate::bucket_facts;
pub use access_log::AccessLog;
pub use context::{Ended, Peer, RequestObserver};
pub use convert::{amz_date, form_decode, parse_http_date, percent_encode};
pub use front::FrontDoor;
pub use ops::sse::default_sse;
pub use place::FrontBody;
pub use run::{RUN_BYTES_MAX, RunRule};
pub use service::{ConfigError, FromBody, FrontConfig, LOG_DIRECTIVE, S3Service, service};
