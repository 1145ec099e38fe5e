//! The front door over real HTTP on the loopback interface, driven by hand-signed requests, over a store in
//! memory: every operation, and every way a request can be wrong that we know of.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::type_complexity)]

mod ai;
mod buckets;
mod client;
mod errors;
mod harness;
mod listing;
mod multipart;
mod objects;
mod payloads;
mod sign;
mod signatures;
mod twin;
