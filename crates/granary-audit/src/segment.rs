//! Segments: events as Parquet, one row each. The columns are for people and their tools; `record` holds the canonical bytes
//! that the chain is made of, and from them every column can be made again.

use granary_types::{AuditOutcome, AuditRecord};

use crate::cloudtrail::{failure, parameters, source, uuid, version};
use crate::event::{Event, Signature};
use crate::parquet::{self, Cell, Column, Kind, ParquetError};

const fn column(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, optional: true }
}

const fn required(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, optional: false }
}

/// The columns, in order. `record` is the last.
const COLUMNS: [Column; 32] = [
    required("sequence", Kind::Long),
    required("recordedAt", Kind::Time),
    column("eventTime", Kind::Time),
    column("eventID", Kind::Text),
    column("eventSource", Kind::Text),
    column("eventName", Kind::Text),
    column("awsRegion", Kind::Text),
    column("sourceIPAddress", Kind::Text),
    column("userAgent", Kind::Text),
    column("userIdentityType", Kind::Text),
    column("userName", Kind::Text),
    column("accessKeyId", Kind::Text),
    column("accountId", Kind::Text),
    column("arn", Kind::Text),
    column("sessionIssuer", Kind::Text),
    column("bucketName", Kind::Text),
    column("key", Kind::Text),
    column("versionId", Kind::Text),
    column("requestParameters", Kind::Text),
    column("readOnly", Kind::Bool),
    column("httpStatus", Kind::Int),
    required("outcome", Kind::Text),
    column("errorCode", Kind::Text),
    column("errorMessage", Kind::Text),
    column("bytesTransferredIn", Kind::Long),
    column("bytesTransferredOut", Kind::Long),
    column("requestID", Kind::Text),
    column("signatureVersion", Kind::Text),
    column("tlsVersion", Kind::Text),
    column("cipherSuite", Kind::Text),
    column("decision", Kind::Text),
    required("record", Kind::Bytes),
];

/// Why a segment could not be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentError {
    /// The file.
    #[error(transparent)]
    Parquet(#[from] ParquetError),
    /// Not a segment.
    #[error("{0}")]
    Shape(&'static str),
}

fn text(text: &str) -> Cell {
    if text.is_empty() { Cell::Null } else { Cell::Bytes(text.as_bytes().to_vec()) }
}

fn long(value: u64) -> Cell {
    i64::try_from(value).map_or(Cell::Null, Cell::Long)
}

/// The row of a record's canonical bytes.
fn row(bytes: &[u8]) -> Result<Vec<Cell>, SegmentError> {
    let record = AuditRecord::decode(bytes).map_err(|_| SegmentError::Shape("a record is none"))?;
    let known = Event::decode(&record.event);
    let readable = known.is_some();
    let event = known.unwrap_or_default();
    let (code, message) = failure(&record, &event);
    let outcome = match &record.outcome {
        AuditOutcome::Refused(_) => "refused",
        AuditOutcome::Done(_) => "done",
        AuditOutcome::Told if matches!(event.status, 401 | 403) => "refused",
        AuditOutcome::Told if event.status >= 400 || !code.is_empty() => "failed",
        AuditOutcome::Told => "done",
    };
    let signature = match event.signature {
        Signature::None => "",
        Signature::V4Header | Signature::V4Query | Signature::V4Form => "SigV4",
        Signature::V2Header | Signature::V2Query => "SigV2",
        Signature::Admin => "GRANARY1-HMAC-SHA256",
    };
    let actor = &event.actor;
    let tls = event.tls.clone().unwrap_or_default();
    let parameters = parameters(&event);
    let parameters = if parameters.is_null() { String::new() } else { parameters.to_string() };
    let if_readable = |cell: Cell| if readable { cell } else { Cell::Null };
    Ok(vec![
        long(record.sequence),
        long(record.at.0),
        if_readable(long(event.at.0)),
        if_readable(text(&uuid(&event.id))),
        if_readable(text(source(event.source))),
        text(&event.name),
        text(&event.region),
        text(&event.address.map(|address| address.to_string()).unwrap_or_default()),
        text(&event.user_agent),
        text(&actor.kind),
        text(&actor.name),
        text(&actor.access_key),
        text(&actor.account),
        text(&actor.arn),
        text(&actor.session_issuer),
        text(&event.bucket),
        text(&event.key),
        text(&version(&record, &event)),
        text(&parameters),
        if_readable(Cell::Bool(event.read_only)),
        if event.status > 0 { Cell::Int(i32::from(event.status)) } else { Cell::Null },
        Cell::Bytes(outcome.as_bytes().to_vec()),
        text(&code),
        text(&message),
        if_readable(long(event.bytes_in)),
        if_readable(long(event.bytes_out)),
        text(&event.request_id),
        text(signature),
        text(&tls.version),
        text(&tls.cipher),
        text(&event.decision),
        Cell::Bytes(bytes.to_vec()),
    ])
}

/// Writes records, in order, as one Parquet file.
///
/// # Errors
/// [`SegmentError::Shape`] if one is none; if there are none, or too many.
pub fn write(records: &[Vec<u8>]) -> Result<Vec<u8>, SegmentError> {
    let rows = records.iter().map(|record| row(record)).collect::<Result<Vec<_>, _>>()?;
    Ok(parquet::write(&COLUMNS, &rows)?)
}

/// The records of a segment, in the order of its rows.
///
/// # Errors
/// [`SegmentError`].
pub fn read_records(file: &[u8]) -> Result<Vec<Vec<u8>>, SegmentError> {
    let mut columns = parquet::read(file, &["record"])?;
    let records = columns.pop().unwrap_or_default();
    records
        .into_iter()
        .map(|cell| match cell {
            Cell::Bytes(bytes) => Ok(bytes),
            _ => Err(SegmentError::Shape("a record is none")),
        })
        .collect()
}

/// The first row whose readable columns are not what its record says, from 0.
pub(crate) fn first_disguised(file: &[u8]) -> Result<Option<usize>, SegmentError> {
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    let columns = parquet::read(file, &names)?;
    let records = columns.last().map(Vec::as_slice).unwrap_or_default();
    for (at, record) in records.iter().enumerate() {
        let honest = match record {
            Cell::Bytes(record) => row(record)?,
            _ => return Ok(Some(at)),
        };
        if columns.iter().zip(honest).any(|(column, cell)| column[at] != cell) {
            return Ok(Some(at));
        }
    }
    Ok(None)
}
