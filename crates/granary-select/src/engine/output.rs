//! Records of the answer, as CSV or JSON.

use std::borrow::Cow;

use datafusion::arrow::array::{Array, ArrayRef, AsArray as _, RecordBatch};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Decimal128Type, Float32Type, Float64Type, TimestampMicrosecondType};
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};

use super::functions::timestamp;
use super::json::{elements, values};
use super::value::{Val, float};
use super::{csv, time};
use crate::error::{Code, Error};
use crate::request::{CsvOutput, Output, QuoteFields, RECORD_BYTES_MAX};

/// What a record of the answer is.
#[derive(Debug)]
pub(super) enum Record {
    /// Columns by name; `is_json`: those of type `LargeUtf8` hold JSON.
    Columns { names: Vec<String>, is_json: bool },
    /// Whole CSV records, in a list; the header's names, where there are some.
    Csv { names: Vec<String> },
    /// Whole JSON records.
    Json,
}

/// Writes records.
#[derive(Debug)]
pub(super) struct Writer {
    record: Record,
    output: Output,
}

fn internal(error: impl ToString) -> Error {
    Error::new(Code::InternalError, error.to_string())
}

impl Writer {
    pub(super) fn new(record: Record, output: Output) -> Self {
        Self { record, output }
    }

    /// Appends one record of a batch.
    pub(super) fn write(&mut self, batch: &RecordBatch, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        let start = out.len();
        match &self.output {
            Output::Csv(format) => self.csv(batch, row, format, out)?,
            Output::Json { record_delimiter } => {
                self.json(batch, row, out)?;
                out.extend_from_slice(record_delimiter.as_bytes());
            }
        }
        if out.len() - start > RECORD_BYTES_MAX { Err(csv::over_max()) } else { Ok(()) }
    }

    fn csv(&self, batch: &RecordBatch, row: usize, format: &CsvOutput, out: &mut Vec<u8>) -> Result<(), Error> {
        let mut is_first = true;
        let mut put = |text: &str| {
            if !std::mem::take(&mut is_first) {
                out.extend_from_slice(format.field_delimiter.as_bytes());
            }
            put_field(text, format, out);
        };
        match &self.record {
            Record::Columns { is_json, .. } => {
                for column in batch.columns() {
                    put(&text(column, row, *is_json)?.unwrap_or_default());
                }
            }
            Record::Csv { .. } => {
                let list = batch.column(0).as_list::<i32>().value(row);
                list.as_string::<i32>().iter().for_each(|field| put(field.unwrap_or_default()));
            }
            Record::Json => {
                let raw = raw(batch, row).unwrap_or("{}");
                let fields = match raw.as_bytes().first() {
                    Some(b'{') => values(raw).map_err(internal)?,
                    Some(b'[') => elements(raw).map_err(internal)?,
                    _ => vec![raw],
                };
                for field in fields {
                    put(&compact(&Val::of_json(field).into_text().unwrap_or_default(), is_nested(field)));
                }
            }
        }
        out.extend_from_slice(format.record_delimiter.as_bytes());
        Ok(())
    }

    fn json(&self, batch: &RecordBatch, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        if let Record::Json = &self.record
            && let Some(raw) = raw(batch, row)
            && raw.starts_with('{')
        {
            out.extend_from_slice(compact(raw, true).as_bytes());
            return Ok(());
        }
        out.push(b'{');
        let mut is_first = true;
        let mut name = |name: &str, out: &mut Vec<u8>| {
            if !std::mem::take(&mut is_first) {
                out.push(b',');
            }
            put_text(name, out);
            out.push(b':');
        };
        match &self.record {
            Record::Columns { names, is_json } => {
                for (column, known) in batch.columns().iter().zip(names) {
                    if *is_json && *column.data_type() == super::value::JSON {
                        // MISSING is left out, null is not.
                        if column.is_valid(row) {
                            name(known, out);
                            out.extend_from_slice(compact(column.as_string::<i64>().value(row), true).as_bytes());
                        }
                    } else {
                        name(known, out);
                        put_json(column, row, out)?;
                    }
                }
            }
            Record::Csv { names } => {
                let list = batch.column(0).as_list::<i32>().value(row);
                for (at, field) in list.as_string::<i32>().iter().enumerate() {
                    match names.get(at) {
                        Some(known) => name(known, out),
                        None => name(&format!("_{}", at + 1), out),
                    }
                    put_text(field.unwrap_or_default(), out);
                }
            }
            Record::Json => {
                if let Some(raw) = raw(batch, row) {
                    name("_1", out);
                    out.extend_from_slice(compact(raw, true).as_bytes());
                }
            }
        }
        out.push(b'}');
        Ok(())
    }
}

fn raw(batch: &RecordBatch, row: usize) -> Option<&str> {
    let column = batch.column(0).as_string::<i64>();
    column.is_valid(row).then(|| column.value(row))
}

fn is_nested(raw: &str) -> bool {
    raw.starts_with(['{', '['])
}

/// JSON without the blanks between its tokens, where it has line ends: records are told apart by those.
fn compact(raw: &str, is_json: bool) -> Cow<'_, str> {
    if !is_json || !raw.contains(['\n', '\r']) {
        return raw.into();
    }
    let (mut in_text, mut is_escaped) = (false, false);
    let keep = |c: &char| {
        if in_text {
            if is_escaped {
                is_escaped = false;
            } else if *c == '\\' {
                is_escaped = true;
            } else if *c == '"' {
                in_text = false;
            }
            return true;
        }
        in_text = *c == '"';
        !matches!(c, ' ' | '\t' | '\n' | '\r')
    };
    raw.chars().filter(keep).collect::<String>().into()
}

fn put_field(text: &str, format: &CsvOutput, out: &mut Vec<u8>) {
    let is_special = || {
        text.contains(format.quote)
            || text.contains(format.field_delimiter.as_str())
            || text.contains(format.record_delimiter.as_str())
            || text.contains(['\n', '\r'])
    };
    if format.quote_fields == QuoteFields::AsNeeded && !is_special() {
        out.extend_from_slice(text.as_bytes());
        return;
    }
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(format.quote);
    for c in text.chars() {
        if c == format.quote || c == format.escape {
            quoted.push(format.escape);
        }
        quoted.push(c);
    }
    quoted.push(format.quote);
    out.extend_from_slice(quoted.as_bytes());
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    // Writing into a vector does not fail.
    let _ = serde_json::to_writer(out, text);
}

/// A value as text; `None`: NULL.
fn text(column: &ArrayRef, row: usize, is_json: bool) -> Result<Option<Cow<'_, str>>, Error> {
    if column.is_null(row) {
        return Ok(None);
    }
    Ok(match column.data_type() {
        DataType::Utf8 => Some(column.as_string::<i32>().value(row).into()),
        DataType::LargeUtf8 => {
            let value = column.as_string::<i64>().value(row);
            if is_json {
                Val::of_json(value).into_text().map(|text| compact(&text, is_nested(value)).into_owned().into())
            } else {
                Some(value.into())
            }
        }
        DataType::Utf8View => Some(column.as_string_view().value(row).into()),
        DataType::Struct(_) | DataType::List(_) | DataType::LargeList(_) | DataType::Map(..) => {
            let mut json = Vec::new();
            put_json(column, row, &mut json)?;
            Some(String::from_utf8(json).map_err(internal)?.into())
        }
        _ => Some(scalar(column, row)?.into()),
    })
}

/// A number, a date or bytes, as text.
fn scalar(column: &ArrayRef, row: usize) -> Result<String, Error> {
    Ok(match column.data_type() {
        DataType::Float64 => float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Float32 => {
            let number = column.as_primitive::<Float32Type>().value(row);
            if number.is_finite() { number.to_string() } else { "null".to_owned() }
        }
        DataType::Decimal128(_, scale) if *scale > 0 => {
            let number = column.as_primitive::<Decimal128Type>().value_as_string(row);
            number.trim_end_matches('0').trim_end_matches('.').to_owned()
        }
        DataType::Timestamp(..) => {
            let one = cast(&column.slice(row, 1), &timestamp()).map_err(internal)?;
            let micros = one.as_primitive::<TimestampMicrosecondType>().value(0);
            time::write(micros).unwrap_or_default()
        }
        DataType::Binary | DataType::LargeBinary | DataType::FixedSizeBinary(_) | DataType::BinaryView => {
            let one = cast(&column.slice(row, 1), &DataType::Binary).map_err(internal)?;
            String::from_utf8_lossy(one.as_binary::<i32>().value(0)).into_owned()
        }
        _ => {
            let formatter = ArrayFormatter::try_new(column, &FormatOptions::default()).map_err(internal)?;
            formatter.value(row).to_string()
        }
    })
}

/// A value of Arrow's as JSON.
fn put_json(column: &ArrayRef, row: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    if column.is_null(row) {
        out.extend_from_slice(b"null");
        return Ok(());
    }
    let list = |values: ArrayRef, out: &mut Vec<u8>| {
        out.push(b'[');
        for at in 0..values.len() {
            if at > 0 {
                out.push(b',');
            }
            put_json(&values, at, out)?;
        }
        out.push(b']');
        Ok(())
    };
    match column.data_type() {
        DataType::List(_) => return list(column.as_list::<i32>().value(row), out),
        DataType::LargeList(_) => return list(column.as_list::<i64>().value(row), out),
        DataType::FixedSizeList(..) => return list(column.as_fixed_size_list().value(row), out),
        DataType::Struct(members) => {
            out.push(b'{');
            for (at, (member, values)) in members.iter().zip(column.as_struct().columns()).enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                put_text(member.name(), out);
                out.push(b':');
                put_json(values, row, out)?;
            }
            out.push(b'}');
        }
        DataType::Map(..) => {
            let entries = column.as_map().value(row);
            out.push(b'{');
            for at in 0..entries.len() {
                if at > 0 {
                    out.push(b',');
                }
                put_text(&text(entries.column(0), at, false)?.unwrap_or_default(), out);
                out.push(b':');
                put_json(entries.column(1), at, out)?;
            }
            out.push(b'}');
        }
        kind if kind.is_numeric() || *kind == DataType::Boolean => {
            out.extend_from_slice(scalar(column, row)?.as_bytes())
        }
        _ => put_text(&text(column, row, false)?.unwrap_or_default(), out),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(text: &str, format: &CsvOutput) -> String {
        let mut out = Vec::new();
        put_field(text, format, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn fields_are_quoted_where_they_would_be_read_as_something_else() {
        let format = CsvOutput::default();
        assert_eq!(field("plain", &format), "plain");
        assert_eq!(field("a,b", &format), "\"a,b\"");
        assert_eq!(field("a\"b", &format), "\"a\"\"b\"");
        assert_eq!(field("a\r", &format), "\"a\r\"");
        let always = CsvOutput { quote_fields: QuoteFields::Always, quote: '\'', escape: '\\', ..format };
        assert_eq!(field("it's \\", &always), "'it\\'s \\\\'");
    }

    #[test]
    fn json_loses_its_line_ends_and_nothing_else() {
        assert_eq!(
            compact("{\n \"a b\": \"x\\\"\\n y\",\r\n\t\"c\": [1, 2]}", true),
            "{\"a b\":\"x\\\"\\n y\",\"c\":[1,2]}"
        );
        assert_eq!(compact("{\"a\": 1}", true), "{\"a\": 1}");
    }
}
