//! A request that has been read, and the limits that it runs under.

use std::time::Duration;

use crate::error::{Code, Error};

/// Longest expression, as S3 documents it.
pub(crate) const EXPRESSION_BYTES_MAX: usize = 256 << 10;

/// Longest record, in and out, as S3 documents it.
pub const RECORD_BYTES_MAX: usize = 1 << 20;

/// Longest delimiter or quote: one character or a pair of ASCII ones.
const MARK_BYTES_MAX: usize = 4;

/// What one query may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory: what is read at once of a Parquet row group or a JSON document, and what evaluation may hold.
    pub memory_bytes: usize,
    /// Time from the request to the answer's end.
    pub time: Duration,
}

/// `CompressionType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// None.
    #[default]
    None,
    /// gzip, members one after another included.
    Gzip,
    /// bzip2, streams one after another included.
    Bzip2,
}

/// `FileHeaderInfo`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Header {
    /// The first record is a record.
    #[default]
    None,
    /// The first record names the columns.
    Use,
    /// The first record is passed over.
    Ignore,
}

/// CSV to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvInput {
    /// `FileHeaderInfo`.
    pub header: Header,
    /// `FieldDelimiter`.
    pub field_delimiter: String,
    /// `RecordDelimiter`. For `\n`, `\r\n` is one too.
    pub record_delimiter: String,
    /// `QuoteCharacter`; `None`: nothing is quoted.
    pub quote: Option<u8>,
    /// `QuoteEscapeCharacter`; as the quote itself: it is doubled.
    pub escape: Option<u8>,
    /// `Comments`: records that begin with it are passed over.
    pub comment: Option<u8>,
    /// `AllowQuotedRecordDelimiter`.
    pub quoted_record_delimiter: bool,
}

impl Default for CsvInput {
    fn default() -> Self {
        Self {
            header: Header::None,
            field_delimiter: ",".to_owned(),
            record_delimiter: "\n".to_owned(),
            quote: Some(b'"'),
            escape: Some(b'"'),
            comment: Some(b'#'),
            quoted_record_delimiter: false,
        }
    }
}

/// `JSON/Type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JsonKind {
    /// Values of any length one after another.
    Document,
    /// A record a line.
    Lines,
}

/// `InputSerialization`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// CSV.
    Csv(CsvInput),
    /// JSON.
    Json(JsonKind),
    /// Parquet.
    Parquet,
}

/// `QuoteFields`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum QuoteFields {
    /// Where a field would otherwise be read as something else.
    #[default]
    AsNeeded,
    /// All.
    Always,
}

/// CSV to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvOutput {
    /// `QuoteFields`.
    pub quote_fields: QuoteFields,
    /// `FieldDelimiter`.
    pub field_delimiter: String,
    /// `RecordDelimiter`.
    pub record_delimiter: String,
    /// `QuoteCharacter`.
    pub quote: char,
    /// `QuoteEscapeCharacter`.
    pub escape: char,
}

impl Default for CsvOutput {
    fn default() -> Self {
        Self {
            quote_fields: QuoteFields::AsNeeded,
            field_delimiter: ",".to_owned(),
            record_delimiter: "\n".to_owned(),
            quote: '"',
            escape: '"',
        }
    }
}

/// `OutputSerialization`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// CSV.
    Csv(CsvOutput),
    /// JSON, a record after another.
    Json {
        /// `RecordDelimiter`.
        record_delimiter: String,
    },
}

/// `ScanRange`: the records that begin in it, their ends wherever they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scan {
    /// `Start`.
    pub start: Option<u64>,
    /// `End`, inclusive; alone: the last that many bytes.
    pub end: Option<u64>,
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Select {
    /// SQL.
    pub expression: String,
    /// What the object is.
    pub input: Input,
    /// What it is compressed with as a whole.
    pub compression: Compression,
    /// What the answer is.
    pub output: Output,
    /// The part of the object that is read.
    pub scan: Option<Scan>,
    /// Whether `Progress` events are wanted.
    pub progress: bool,
}

fn bad(parameter: &str, wants: &str) -> Error {
    Error::new(Code::InvalidRequestParameter, format!("The value of {parameter} is not valid: it must be {wants}."))
}

fn is_mark(text: &str) -> bool {
    !text.is_empty() && text.len() <= MARK_BYTES_MAX && text.chars().count() <= 2
}

impl Select {
    /// Whether it can be run at all, before anything of the object is read.
    ///
    /// # Errors
    /// The first thing that is wrong, with what would be right.
    pub fn check(&self) -> Result<(), Error> {
        if self.expression.trim().is_empty() {
            return Err(Error::new(Code::ParseEmptySelect, "The SQL expression is empty."));
        }
        if self.expression.len() > EXPRESSION_BYTES_MAX {
            let message = format!("The SQL expression is longer than {EXPRESSION_BYTES_MAX} bytes.");
            return Err(Error::new(Code::ExpressionTooLong, message));
        }
        if let Input::Csv(csv) = &self.input {
            csv.check()?;
        }
        let (field, record) = match &self.output {
            Output::Csv(csv) => (csv.field_delimiter.as_str(), csv.record_delimiter.as_str()),
            Output::Json { record_delimiter } => (",", record_delimiter.as_str()),
        };
        if !is_mark(field) {
            return Err(bad("OutputSerialization's FieldDelimiter", "one character"));
        }
        if !is_mark(record) {
            return Err(bad("OutputSerialization's RecordDelimiter", "one or two characters"));
        }
        if self.input == Input::Parquet && self.compression != Compression::None {
            let message = "CompressionType must be NONE for Parquet: its columns are compressed within.";
            return Err(Error::new(Code::InvalidCompressionFormat, message));
        }
        self.check_scan()
    }

    fn check_scan(&self) -> Result<(), Error> {
        let Some(scan) = self.scan else { return Ok(()) };
        let why = match &self.input {
            _ if self.compression != Compression::None => Some("compressed objects"),
            Input::Csv(csv) if csv.quoted_record_delimiter => Some("CSV with AllowQuotedRecordDelimiter"),
            Input::Json(JsonKind::Document) => Some("JSON of type DOCUMENT"),
            Input::Parquet => Some("Parquet"),
            _ => None,
        };
        if let Some(what) = why {
            let message = format!("ScanRange is not supported for {what}.");
            return Err(Error::new(Code::UnsupportedScanRangeInput, message));
        }
        match (scan.start, scan.end) {
            (None, None) => Err(Error::new(Code::InvalidScanRange, "ScanRange needs Start, End or both.")),
            (Some(start), Some(end)) if start > end => {
                Err(Error::new(Code::InvalidScanRange, format!("ScanRange ends at {end}, before its start {start}.")))
            }
            _ => Ok(()),
        }
    }
}

impl CsvInput {
    fn check(&self) -> Result<(), Error> {
        if !is_mark(&self.field_delimiter) || self.field_delimiter.chars().count() != 1 {
            return Err(bad("FieldDelimiter", "one character"));
        }
        if !is_mark(&self.record_delimiter) {
            return Err(bad("RecordDelimiter", "one or two characters"));
        }
        let (field, record) = (self.field_delimiter.as_bytes()[0], self.record_delimiter.as_bytes()[0]);
        if field == record {
            return Err(bad("FieldDelimiter", "another than RecordDelimiter"));
        }
        if self.quote.is_some_and(|quote| quote == field || quote == record) {
            return Err(bad("QuoteCharacter", "another than the delimiters"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn select(input: Input) -> Select {
        Select {
            expression: "SELECT * FROM S3Object".to_owned(),
            input,
            compression: Compression::None,
            output: Output::Csv(CsvOutput::default()),
            scan: None,
            progress: false,
        }
    }

    fn code(select: &Select) -> Option<Code> {
        select.check().err().map(|error| error.code)
    }

    #[test]
    fn what_cannot_be_run_is_refused_before_anything_is_read() {
        let good = select(Input::Csv(CsvInput::default()));
        assert_eq!(code(&good), None);
        assert_eq!(code(&Select { expression: " \n".into(), ..good.clone() }), Some(Code::ParseEmptySelect));
        let long = " ".repeat(EXPRESSION_BYTES_MAX) + "x";
        assert_eq!(code(&Select { expression: long, ..good.clone() }), Some(Code::ExpressionTooLong));
        for csv in [
            CsvInput { field_delimiter: String::new(), ..CsvInput::default() },
            CsvInput { field_delimiter: "ab".into(), ..CsvInput::default() },
            CsvInput { record_delimiter: ",".into(), ..CsvInput::default() },
            CsvInput { record_delimiter: "abc".into(), ..CsvInput::default() },
            CsvInput { quote: Some(b','), ..CsvInput::default() },
        ] {
            assert_eq!(code(&select(Input::Csv(csv))), Some(Code::InvalidRequestParameter));
        }
        let packed = Select { compression: Compression::Gzip, ..select(Input::Parquet) };
        assert_eq!(code(&packed), Some(Code::InvalidCompressionFormat));
    }

    #[test]
    fn a_scan_range_needs_records_that_can_be_found_from_the_middle() {
        let scan = Some(Scan { start: Some(5), end: Some(9) });
        let csv = CsvInput::default();
        assert_eq!(code(&Select { scan, ..select(Input::Csv(csv.clone())) }), None);
        assert_eq!(code(&Select { scan, ..select(Input::Json(JsonKind::Lines)) }), None);
        let quoted = CsvInput { quoted_record_delimiter: true, ..csv.clone() };
        for input in [Input::Csv(quoted), Input::Json(JsonKind::Document), Input::Parquet] {
            assert_eq!(code(&Select { scan, ..select(input) }), Some(Code::UnsupportedScanRangeInput));
        }
        let base = select(Input::Csv(csv));
        let packed = Select { scan, compression: Compression::Bzip2, ..base.clone() };
        assert_eq!(code(&packed), Some(Code::UnsupportedScanRangeInput));
        for scan in [Scan { start: None, end: None }, Scan { start: Some(2), end: Some(1) }] {
            assert_eq!(code(&Select { scan: Some(scan), ..base.clone() }), Some(Code::InvalidScanRange));
        }
    }
}
