//! SQL over the records of one object: what S3 calls SelectObjectContent.
//!
//! [`Select`] is a request that has been read, [`Object`] the bytes it is about, and `run` the stream of [`Event`]s that
//! answers it. The crate knows neither HTTP nor the store. DataFusion evaluates, and is behind the feature `engine`:
//! without it only the types are here.
//!
//! What it guarantees: the SQL can name nothing but the one object, memory and time are bounded by [`Limits`], every error
//! has the code that S3 documents for it, and nothing is read that the answer does not need (of Parquet: other columns'
//! chunks; of a `LIMIT`: the rest).

#[cfg(feature = "engine")]
mod engine;
mod error;
mod event;
mod object;
mod request;

#[cfg(feature = "engine")]
pub use engine::{Events, is_evaluating, run};
pub use error::{Code, Error};
pub use event::{Counts, Event};
pub use object::{Object, ReadError, Reading};
pub use request::{
    Compression, CsvInput, CsvOutput, Header, Input, JsonKind, Limits, Output, QuoteFields, RECORD_BYTES_MAX, Scan,
    Select,
};
