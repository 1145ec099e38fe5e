//! CSV into records: quotes, escapes, comments, records shorter and longer than the others.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, ListBuilder, RecordBatch, RecordBatchOptions, StringBuilder};
use datafusion::arrow::datatypes::SchemaRef;
use memchr::{memchr, memchr2, memmem};

use super::columns::COLUMNS_MAX;
use super::feed::Feed;
use crate::error::{Code, Error};
use crate::request::{CsvInput, Header, RECORD_BYTES_MAX};

/// Rows of a batch at most, and their bytes from which on it is full.
pub(super) const BATCH_ROWS: usize = 4096;
pub(super) const BATCH_BYTES: usize = 1 << 20;

/// A field in its record: where it is, and whether escapes are to be taken out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct FieldAt {
    range: Range<usize>,
    is_escaped: bool,
}

/// How records and fields are told apart.
#[derive(Debug, Clone)]
struct Shape {
    field: Vec<u8>,
    record: Vec<u8>,
    quote: Option<u8>,
    escape: Option<u8>,
    comment: Option<u8>,
    /// `\n` ends records, and so does `\r\n`.
    drops_return: bool,
    quoted_record_delimiter: bool,
}

fn broken(what: &str) -> Error {
    Error::new(Code::CSVParsingError, format!("The input is not CSV as described: {what}."))
}

pub(super) fn over_max() -> Error {
    Error::new(
        Code::OverMaxRecordSize,
        format!("A record is longer than {RECORD_BYTES_MAX} bytes, the most there may be."),
    )
}

impl Shape {
    fn of(csv: &CsvInput) -> Self {
        Self {
            field: csv.field_delimiter.as_bytes().to_vec(),
            record: csv.record_delimiter.as_bytes().to_vec(),
            quote: csv.quote,
            escape: csv.escape.or(csv.quote),
            comment: csv.comment,
            drops_return: csv.record_delimiter == "\n",
            quoted_record_delimiter: csv.quoted_record_delimiter,
        }
    }

    /// The next record's fields and the bytes that it takes with its delimiter; `None`: its end is not in the window.
    fn next(&self, window: &[u8], is_at_end: bool, fields: &mut Vec<FieldAt>) -> Result<Option<usize>, Error> {
        fields.clear();
        let is_comment = self.comment.is_some_and(|comment| window.first() == Some(&comment));
        if is_comment || !self.quoted_record_delimiter || self.quote.is_none() {
            let (end, taken) = match memmem::find(window, &self.record) {
                Some(end) => (end, end + self.record.len()),
                None if is_at_end => (window.len(), window.len()),
                None => return Ok(None),
            };
            if !is_comment {
                let line = &window[..end];
                let line = if self.drops_return { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
                // A record that holds nothing is none.
                if !line.is_empty() && self.fields(line, true, false, fields)?.is_none() {
                    return Err(broken(
                        "a quoted field does not end in its record (AllowQuotedRecordDelimiter may be what is missing)",
                    ));
                }
            }
            return Ok(Some(taken));
        }
        let taken = self.fields(window, is_at_end, true, fields)?;
        if taken.is_none() && is_at_end {
            return Err(broken("a quoted field does not end"));
        }
        if let [FieldAt { range, is_escaped: false }] = fields.as_slice()
            && range.is_empty()
            && range.start == 0
        {
            fields.clear();
        }
        Ok(taken)
    }

    /// Splits bytes into fields up to the end of the record. `None`: more bytes are needed.
    fn fields(
        &self,
        bytes: &[u8],
        is_all: bool,
        ends_at_delimiter: bool,
        fields: &mut Vec<FieldAt>,
    ) -> Result<Option<usize>, Error> {
        let mut at = 0;
        loop {
            if fields.len() >= COLUMNS_MAX {
                return Err(Error::new(Code::OverMaxColumn, format!("A record has more than {COLUMNS_MAX} columns.")));
            }
            let is_quoted = self.quote.is_some_and(|quote| bytes.get(at) == Some(&quote));
            let (field, mut end) = if is_quoted {
                match self.quoted(bytes, at + 1) {
                    Some((field, end)) => (field, end),
                    None => return Ok(None),
                }
            } else {
                let end = self.plain(bytes, at, is_all, ends_at_delimiter);
                (FieldAt { range: at..end, is_escaped: false }, end)
            };
            let rest = &bytes[end..];
            // Too few bytes to know whether a delimiter follows.
            let longest = self.field.len().max(self.record.len()).max(2);
            if rest.len() < longest && !is_all {
                return Ok(None);
            }
            if rest.is_empty() {
                fields.push(field);
                return Ok(Some(end));
            }
            if rest.starts_with(&self.field) {
                fields.push(field);
                at = end + self.field.len();
                continue;
            }
            let is_return = self.drops_return && ends_at_delimiter && is_quoted && rest.starts_with(b"\r\n");
            if is_return {
                end += 1;
            }
            if ends_at_delimiter && bytes[end..].starts_with(&self.record) {
                let mut field = field;
                if !is_quoted && self.drops_return && bytes[field.range.clone()].ends_with(b"\r") {
                    field.range.end -= 1;
                }
                fields.push(field);
                return Ok(Some(end + self.record.len()));
            }
            return Err(broken("something follows the closing quote of a field"));
        }
    }

    /// Where an unquoted field ends.
    fn plain(&self, bytes: &[u8], start: usize, is_all: bool, ends_at_delimiter: bool) -> usize {
        let (field, record) = (self.field[0], self.record[0]);
        let mut at = start;
        loop {
            let rest = &bytes[at..];
            let found = if ends_at_delimiter { memchr2(field, record, rest) } else { memchr(field, rest) };
            let Some(found) = found else { return bytes.len() };
            at += found;
            let here = &bytes[at..];
            // A delimiter that is cut off by the window's end may be one: the caller asks for more.
            let fits =
                |mark: &[u8]| here.starts_with(mark) || (!is_all && here.len() < mark.len() && mark.starts_with(here));
            if fits(&self.field) || (ends_at_delimiter && fits(&self.record)) {
                return at;
            }
            at += 1;
        }
    }

    /// A quoted field's inside, and where it ends behind its quote.
    fn quoted(&self, bytes: &[u8], start: usize) -> Option<(FieldAt, usize)> {
        let (quote, escape) = (self.quote?, self.escape?);
        let (mut at, mut is_escaped) = (start, false);
        loop {
            at += memchr2(quote, escape, &bytes[at..])?;
            let next = bytes.get(at + 1);
            if bytes[at] == escape && next.is_some_and(|next| *next == quote || *next == escape) {
                is_escaped = true;
                at += 2;
            } else if bytes[at] == quote {
                return Some((FieldAt { range: start..at, is_escaped }, at + 1));
            } else {
                at += 1;
            }
        }
    }

    fn text<'a>(&self, record: &'a [u8], field: &FieldAt) -> Result<Cow<'a, str>, Error> {
        let raw = std::str::from_utf8(&record[field.range.clone()]).map_err(|_| not_utf8())?;
        if !field.is_escaped {
            return Ok(raw.into());
        }
        let (quote, escape) = (self.quote.map(char::from), self.escape.map(char::from));
        let mut text = String::with_capacity(raw.len());
        let mut chars = raw.chars().peekable();
        while let Some(next) = chars.next() {
            match chars.peek().copied() {
                Some(meant) if Some(next) == escape && (Some(meant) == quote || Some(meant) == escape) => {
                    text.push(meant);
                    chars.next();
                }
                _ => text.push(next),
            }
        }
        Ok(text.into())
    }
}

pub(super) fn not_utf8() -> Error {
    Error::new(Code::InvalidTextEncoding, "The input is not UTF-8.")
}

/// Records of a feed, in batches.
pub(super) struct CsvReader {
    feed: Feed,
    shape: Shape,
    fields: Vec<FieldAt>,
    /// Bytes until the scan range's end: a record that begins behind it is not read.
    left_bytes: u64,
    is_done: bool,
}

impl CsvReader {
    pub(super) fn new(feed: Feed, csv: &CsvInput, left_bytes: u64) -> Self {
        Self { feed, shape: Shape::of(csv), fields: Vec::new(), left_bytes, is_done: false }
    }

    /// Passes over what marks the encoding.
    pub(super) async fn skip_mark(&mut self) -> Result<(), Error> {
        let bytes = self.feed.mark_bytes().await?;
        self.pass(bytes);
        Ok(())
    }

    pub(super) fn left_bytes(&self) -> u64 {
        self.left_bytes
    }

    pub(super) fn set_left_bytes(&mut self, bytes: u64) {
        self.left_bytes = bytes;
    }

    /// Passes over the record that began before the scan range.
    pub(super) async fn skip_begun(&mut self) -> Result<(), Error> {
        loop {
            if let Some(end) = memmem::find(&self.feed.window, &self.shape.record) {
                self.pass(end + self.shape.record.len());
                return Ok(());
            }
            if self.feed.is_at_end {
                self.is_done = true;
                return Ok(());
            }
            // The delimiter may lie across frames; a record's length bounds the search.
            if self.feed.window.len() > RECORD_BYTES_MAX + self.shape.record.len() {
                return Err(over_max());
            }
            self.feed.fill().await?;
        }
    }

    fn pass(&mut self, bytes: usize) {
        self.feed.take(bytes);
        self.left_bytes = self.left_bytes.saturating_sub(bytes as u64);
    }

    /// The first record's fields: the header, used or not.
    pub(super) async fn header(&mut self, header: Header) -> Result<Vec<String>, Error> {
        if header == Header::None {
            return Ok(Vec::new());
        }
        while let Some(taken) = self.advance().await? {
            let names: Result<Vec<String>, Error> = self
                .fields
                .iter()
                .map(|field| Ok(self.shape.text(&self.feed.window, field)?.trim().to_owned()))
                .collect();
            self.pass(taken);
            let names = names?;
            if !names.is_empty() {
                return Ok(names);
            }
        }
        Ok(Vec::new())
    }

    /// Finds the next record, whose fields are in `fields` until it is passed over.
    async fn advance(&mut self) -> Result<Option<usize>, Error> {
        loop {
            if self.is_done || self.left_bytes == 0 || (self.feed.is_at_end && self.feed.window.is_empty()) {
                self.is_done = true;
                return Ok(None);
            }
            match self.shape.next(&self.feed.window, self.feed.is_at_end, &mut self.fields)? {
                Some(taken) if taken > RECORD_BYTES_MAX + self.shape.record.len() => return Err(over_max()),
                Some(taken) => return Ok(Some(taken)),
                None if self.feed.window.len() > RECORD_BYTES_MAX + 2 => return Err(over_max()),
                None => self.feed.fill().await?,
            }
        }
    }

    /// The next batch: the columns asked for, and whole records behind them where `is_whole`.
    pub(super) async fn batch(
        &mut self,
        schema: &SchemaRef,
        used: &[usize],
        is_whole: bool,
    ) -> Result<Option<RecordBatch>, Error> {
        let mut columns: Vec<StringBuilder> = used.iter().map(|_| StringBuilder::new()).collect();
        let mut records = ListBuilder::new(StringBuilder::new());
        let (mut rows, mut bytes) = (0, 0);
        while rows < BATCH_ROWS && bytes < BATCH_BYTES {
            let Some(taken) = self.advance().await? else { break };
            if !self.fields.is_empty() {
                let window = &self.feed.window;
                for (builder, at) in columns.iter_mut().zip(used) {
                    builder
                        .append_option(self.fields.get(*at).map(|field| self.shape.text(window, field)).transpose()?);
                }
                if is_whole {
                    for field in &self.fields {
                        records.values().append_value(self.shape.text(window, field)?);
                    }
                    records.append(true);
                }
                rows += 1;
                bytes += taken;
            }
            self.pass(taken);
        }
        if rows == 0 {
            return Ok(None);
        }
        let mut arrays: Vec<ArrayRef> =
            columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        if is_whole {
            arrays.push(Arc::new(records.finish()));
        }
        batch(schema, arrays, rows).map(Some)
    }
}

/// Arrays as a batch; there may be none, and yet rows.
pub(super) fn batch(schema: &SchemaRef, arrays: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, Error> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)
        .map_err(|error| Error::new(Code::InternalError, error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(csv: &CsvInput, text: &str) -> Result<Vec<Vec<String>>, Error> {
        let shape = Shape::of(csv);
        let (mut at, mut records, mut fields) = (0, Vec::new(), Vec::new());
        while at < text.len() {
            let window = &text.as_bytes()[at..];
            // Whatever the window's length, a record is either found as it is or more is asked for.
            for len in 0..window.len() {
                let mut some = Vec::new();
                if let Ok(Some(taken)) = shape.next(&window[..len], false, &mut some) {
                    let whole = shape.next(window, true, &mut fields)?;
                    assert_eq!((Some(taken), &some), (whole, &fields), "of {:?} with {len} bytes", &text[at..]);
                }
            }
            let taken = shape.next(window, true, &mut fields)?.expect("all is there");
            if !fields.is_empty() {
                records.push(
                    fields
                        .iter()
                        .map(|field| shape.text(window, field).map(Cow::into_owned))
                        .collect::<Result<_, _>>()?,
                );
            }
            at += taken;
        }
        Ok(records)
    }

    #[test]
    fn records_and_fields_are_told_apart() {
        let csv = CsvInput::default();
        assert_eq!(
            split(&csv, "a,b\n1,\n\n,x\r\n#no\n\"a \"\"b\"\"\",c").expect("CSV"),
            [vec!["a", "b"], vec!["1", ""], vec!["", "x"], vec!["a \"b\"", "c"],]
        );
        assert_eq!(split(&csv, "a\"b,c\n").expect("a quote within"), [["a\"b", "c"]]);
        assert_eq!(split(&csv, "a\n\"b\nc\"\n").expect_err("two records").code, Code::CSVParsingError);
        assert_eq!(split(&csv, "\"a\"b,c\n").expect_err("behind the quote").code, Code::CSVParsingError);
    }

    #[test]
    fn delimiters_may_lie_in_quotes_where_that_is_allowed() {
        let csv = CsvInput { quoted_record_delimiter: true, ..CsvInput::default() };
        assert_eq!(
            split(&csv, "\"a\nb\",1\r\n\"c,\"\"d\",2\n\ne,\r\n").expect("CSV"),
            [["a\nb", "1"], ["c,\"d", "2"], ["e", ""]]
        );
        assert_eq!(split(&csv, "\"a\n").expect_err("open").code, Code::CSVParsingError);
    }

    #[test]
    fn every_mark_can_be_another() {
        let csv = CsvInput {
            field_delimiter: "ä".into(),
            record_delimiter: "|\t".into(),
            quote: Some(b'\''),
            escape: Some(b'\\'),
            comment: None,
            ..CsvInput::default()
        };
        assert_eq!(
            split(&csv, "#1ä'it\\'s \\\\'ä|x|\t2ä\"ä|\t").expect("CSV"),
            [["#1", "it's \\", "|x"], ["2", "\"", ""]]
        );
        let bare = CsvInput { quote: None, ..CsvInput::default() };
        assert_eq!(split(&bare, "\"a,b\"\n").expect("no quotes"), [["\"a", "b\""]]);
    }
}
