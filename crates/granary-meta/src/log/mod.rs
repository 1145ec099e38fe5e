//! The log: mirrored, sealed, framed, group-committed files. The only thing that is synced on the metadata path.

pub(crate) mod engine;
pub(crate) mod folder;
pub(crate) mod frame;
pub(crate) mod join;
pub(crate) mod mirrors;
pub(crate) mod queue;
pub(crate) mod reader;
pub(crate) mod seal;
pub(crate) mod spares;
pub(crate) mod writer;
