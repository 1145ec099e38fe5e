//! Tests of the metadata as those above see it: one binary, so that RocksDB is linked once.

#![allow(clippy::unwrap_used)]
#![allow(missing_docs, unreachable_pub, clippy::wildcard_imports)]

mod audit;
mod checkpoints;
mod commands;
mod conformance;
mod datasets;
mod flow;
mod golden;
mod model;
mod recovery;
mod rescue;
mod scale;
mod shared;
mod support;
mod uploads;
mod upstream;
mod wall;
