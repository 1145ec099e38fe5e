//! SelectObjectContent: SQL over one object, answered as a stream of events.
//!
//! What the document says becomes a `granary_select::Select`, the store's object its `Object`; s3s frames the events
//! (`application/vnd.amazon.eventstream`). What is wrong before the first event is an error document with a status, what
//! goes wrong later an error event. A build without the feature `select` answers `501 NotImplemented`.

#[cfg(feature = "select")]
mod engine;

use granary_select::{
    Compression, CsvInput, CsvOutput, Header, Input, JsonKind, Limits, Output, QuoteFields, Scan, Select,
};
use s3s::dto::{self, SelectObjectContentInput, SelectObjectContentOutput};
use s3s::{S3Error, S3ErrorCode, S3Request};

use crate::context::Cx;
use crate::front::{FrontDoor, Outcome};

/// What queries may take, together and each.
#[derive(Debug, Clone, Copy)]
pub struct SelectConfig {
    /// Queries evaluated at once; more are answered `503 SlowDown`.
    pub queries_max: usize,
    /// What one of them may take.
    pub limits: Limits,
}

impl Default for SelectConfig {
    fn default() -> Self {
        let limits = Limits { memory_bytes: 256 << 20, time: std::time::Duration::from_secs(300) };
        Self { queries_max: 8, limits }
    }
}

pub(crate) async fn select_object_content(
    front: &FrontDoor,
    cx: &Cx,
    request: S3Request<SelectObjectContentInput>,
) -> Outcome<SelectObjectContentOutput> {
    let S3Request { input, headers, uri, .. } = request;
    // Who may not know of the bucket hears nothing of what this build can do.
    let bucket = front.named(&input.bucket, input.expected_bucket_owner.as_deref())?;
    front.bucket(&bucket, None)?;
    let select = select(input.request)?;
    select.check().map_err(|error| refusal(cx, &error))?;
    #[cfg(feature = "select")]
    {
        let asked = engine::Asked { bucket, key: input.key, headers: &headers, uri: &uri };
        engine::answer(front, cx, asked, select).await
    }
    #[cfg(not(feature = "select"))]
    {
        let _ = (headers, uri, select);
        let message = "SelectObjectContent is not in this build of Granary: build it with `--features granary/select`, as `make release` does.";
        Err(crate::error::not_implemented(message).into())
    }
}

/// An error of the query as S3's. What is ours goes to the log.
fn refusal(cx: &Cx, error: &granary_select::Error) -> S3Error {
    let code = S3ErrorCode::from_bytes(error.code.as_str().as_bytes()).unwrap_or(S3ErrorCode::InternalError);
    if error.code == granary_select::Code::InternalError {
        tracing::error!(request_id = %cx.trace.id, "query: {}", error.message);
        return S3Error::with_message(code, "We encountered an internal error. Please try again.");
    }
    let mut refusal = S3Error::with_message(code, error.message.to_string());
    if let Ok(status) = http::StatusCode::from_u16(error.code.status()) {
        refusal.set_status_code(status);
    }
    refusal
}

fn bad(code: S3ErrorCode, message: &'static str) -> S3Error {
    S3Error::with_message(code, message)
}

/// The request's document.
fn select(request: dto::SelectObjectContentRequest) -> Result<Select, S3Error> {
    if !request.expression_type.as_str().eq_ignore_ascii_case("SQL") {
        return Err(bad(
            S3ErrorCode::InvalidExpressionType,
            "The ExpressionType is invalid. Only SQL expressions are supported.",
        ));
    }
    let compression = match request.input_serialization.compression_type.as_ref().map(dto::CompressionType::as_str) {
        None | Some("NONE" | "") => Compression::None,
        Some("GZIP") => Compression::Gzip,
        Some("BZIP2") => Compression::Bzip2,
        Some(_) => {
            return Err(bad(
                S3ErrorCode::InvalidCompressionFormat,
                "The file is not in a supported compression format. Only GZIP and BZIP2 are supported.",
            ));
        }
    };
    let scan = request.scan_range.map(|range| {
        let place = |at: Option<i64>| at.map(u64::try_from).transpose();
        match (place(range.start), place(range.end)) {
            (Ok(start), Ok(end)) => Ok(Scan { start, end }),
            _ => Err(bad(S3ErrorCode::InvalidScanRange, "The scan range is negative.")),
        }
    });
    Ok(Select {
        expression: request.expression,
        input: input(request.input_serialization)?,
        compression,
        output: output(request.output_serialization)?,
        scan: scan.transpose()?,
        progress: request.request_progress.and_then(|progress| progress.enabled).unwrap_or(false),
    })
}

fn input(given: dto::InputSerialization) -> Result<Input, S3Error> {
    match (given.csv, given.json, given.parquet) {
        (Some(csv), None, None) => Ok(Input::Csv(csv_input(csv)?)),
        (None, Some(json), None) => match json.type_.as_ref().map(dto::JSONType::as_str) {
            Some(kind) if kind.eq_ignore_ascii_case("LINES") => Ok(Input::Json(JsonKind::Lines)),
            Some(kind) if kind.eq_ignore_ascii_case("DOCUMENT") => Ok(Input::Json(JsonKind::Document)),
            _ => Err(bad(
                S3ErrorCode::InvalidJsonType,
                "The JsonType is invalid. Only DOCUMENT and LINES are supported.",
            )),
        },
        (None, None, Some(_)) => Ok(Input::Parquet),
        (None, None, None) => Err(bad(
            S3ErrorCode::MissingRequiredParameter,
            "The SelectRequest entity is missing a required parameter: InputSerialization needs CSV, JSON or Parquet.",
        )),
        _ => Err(bad(
            S3ErrorCode::ObjectSerializationConflict,
            "InputSerialization must be one of CSV, JSON and Parquet.",
        )),
    }
}

/// One character of ASCII, or none where the text is empty.
fn mark(name: &str, text: Option<String>, default: Option<u8>) -> Result<Option<u8>, S3Error> {
    match text.as_deref().map(str::as_bytes) {
        None => Ok(default),
        Some([]) => Ok(None),
        Some([byte]) if byte.is_ascii() => Ok(Some(*byte)),
        Some(_) => {
            let message = format!("The value of {name} is not valid: it must be one ASCII character.");
            Err(S3Error::with_message(S3ErrorCode::InvalidRequestParameter, message))
        }
    }
}

fn csv_input(given: dto::CSVInput) -> Result<CsvInput, S3Error> {
    let default = CsvInput::default();
    let header = match given.file_header_info.as_ref().map(dto::FileHeaderInfo::as_str) {
        None | Some("") => Header::None,
        Some(name) if name.eq_ignore_ascii_case("NONE") => Header::None,
        Some(name) if name.eq_ignore_ascii_case("USE") => Header::Use,
        Some(name) if name.eq_ignore_ascii_case("IGNORE") => Header::Ignore,
        Some(_) => {
            return Err(bad(
                S3ErrorCode::InvalidFileHeaderInfo,
                "The FileHeaderInfo is invalid. Only NONE, USE, and IGNORE are supported.",
            ));
        }
    };
    let quote = mark("QuoteCharacter", given.quote_character, default.quote)?;
    Ok(CsvInput {
        header,
        field_delimiter: given.field_delimiter.unwrap_or(default.field_delimiter),
        record_delimiter: given.record_delimiter.unwrap_or(default.record_delimiter),
        quote,
        escape: mark("QuoteEscapeCharacter", given.quote_escape_character, quote)?,
        comment: mark("Comments", given.comments, default.comment)?,
        quoted_record_delimiter: given.allow_quoted_record_delimiter.unwrap_or(false),
    })
}

fn output(given: dto::OutputSerialization) -> Result<Output, S3Error> {
    match (given.csv, given.json) {
        (Some(csv), None) => Ok(Output::Csv(csv_output(csv)?)),
        (None, Some(json)) => {
            Ok(Output::Json { record_delimiter: json.record_delimiter.unwrap_or_else(|| "\n".to_owned()) })
        }
        (None, None) => Err(bad(
            S3ErrorCode::MissingRequiredParameter,
            "The SelectRequest entity is missing a required parameter: OutputSerialization needs CSV or JSON.",
        )),
        _ => Err(bad(S3ErrorCode::ObjectSerializationConflict, "OutputSerialization must be one of CSV and JSON.")),
    }
}

fn csv_output(given: dto::CSVOutput) -> Result<CsvOutput, S3Error> {
    let default = CsvOutput::default();
    let quote_fields = match given.quote_fields.as_ref().map(dto::QuoteFields::as_str) {
        None | Some("") => QuoteFields::AsNeeded,
        Some(name) if name.eq_ignore_ascii_case("ASNEEDED") => QuoteFields::AsNeeded,
        Some(name) if name.eq_ignore_ascii_case("ALWAYS") => QuoteFields::Always,
        Some(_) => {
            return Err(bad(
                S3ErrorCode::InvalidQuoteFields,
                "The QuoteFields is invalid. Only ALWAYS and ASNEEDED are supported.",
            ));
        }
    };
    let quote = mark("QuoteCharacter", given.quote_character, None)?.map_or(default.quote, char::from);
    let escape = mark("QuoteEscapeCharacter", given.quote_escape_character, None)?.map_or(quote, char::from);
    Ok(CsvOutput {
        quote_fields,
        field_delimiter: given.field_delimiter.unwrap_or(default.field_delimiter),
        record_delimiter: given.record_delimiter.unwrap_or(default.record_delimiter),
        quote,
        escape,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> dto::SelectObjectContentRequest {
        dto::SelectObjectContentRequest {
            expression: "SELECT * FROM S3Object".to_owned(),
            expression_type: dto::ExpressionType::from_static("SQL"),
            input_serialization: dto::InputSerialization { csv: Some(dto::CSVInput::default()), ..Default::default() },
            output_serialization: dto::OutputSerialization {
                json: Some(dto::JSONOutput::default()),
                ..Default::default()
            },
            request_progress: None,
            scan_range: None,
        }
    }

    fn code(request: dto::SelectObjectContentRequest) -> S3ErrorCode {
        select(request).expect_err("refused").code().clone()
    }

    #[test]
    fn a_document_becomes_a_query() {
        let defaults = select(request()).expect("a query");
        assert_eq!(defaults.input, Input::Csv(CsvInput::default()));
        assert_eq!(defaults.output, Output::Json { record_delimiter: "\n".to_owned() });
        let csv = dto::CSVInput {
            allow_quoted_record_delimiter: Some(true),
            comments: Some(String::new()),
            field_delimiter: Some("\t".to_owned()),
            file_header_info: Some("use".to_owned().into()),
            quote_character: Some("'".to_owned()),
            quote_escape_character: None,
            record_delimiter: Some("\r\n".to_owned()),
        };
        let given = dto::InputSerialization {
            csv: Some(csv),
            compression_type: Some(dto::CompressionType::from_static("GZIP")),
            ..Default::default()
        };
        let asked = select(dto::SelectObjectContentRequest {
            input_serialization: given,
            scan_range: Some(dto::ScanRange { start: Some(5), end: None }),
            request_progress: Some(dto::RequestProgress { enabled: Some(true) }),
            ..request()
        })
        .expect("a query");
        let expected = CsvInput {
            header: Header::Use,
            field_delimiter: "\t".to_owned(),
            record_delimiter: "\r\n".to_owned(),
            quote: Some(b'\''),
            escape: Some(b'\''),
            comment: None,
            quoted_record_delimiter: true,
        };
        assert_eq!(asked.input, Input::Csv(expected));
        assert_eq!((asked.compression, asked.progress), (Compression::Gzip, true));
        assert_eq!(asked.scan, Some(Scan { start: Some(5), end: None }));
    }

    #[test]
    fn what_is_none_of_s3s_values_is_refused_under_its_code() {
        use S3ErrorCode as Code;
        let asked = |change: fn(&mut dto::SelectObjectContentRequest)| {
            let mut request = request();
            change(&mut request);
            code(request)
        };
        assert_eq!(
            asked(|r| r.expression_type = dto::ExpressionType::from_static("XPATH")),
            Code::InvalidExpressionType
        );
        assert_eq!(asked(|r| r.input_serialization.csv = None), Code::MissingRequiredParameter);
        assert_eq!(
            asked(|r| r.input_serialization.parquet = Some(dto::ParquetInput {})),
            Code::ObjectSerializationConflict
        );
        assert_eq!(asked(|r| r.output_serialization.json = None), Code::MissingRequiredParameter);
        assert_eq!(
            asked(|r| r.output_serialization.csv = Some(dto::CSVOutput::default())),
            Code::ObjectSerializationConflict
        );
        assert_eq!(
            asked(|r| r.input_serialization.compression_type = Some(dto::CompressionType::from_static("ZSTD"))),
            Code::InvalidCompressionFormat
        );
        assert_eq!(
            asked(|r| r.scan_range = Some(dto::ScanRange { start: Some(-1), end: None })),
            Code::InvalidScanRange
        );
        let csv = |change: fn(&mut dto::CSVInput)| {
            let mut request = request();
            change(request.input_serialization.csv.as_mut().expect("there"));
            code(request)
        };
        assert_eq!(csv(|csv| csv.file_header_info = Some("MAYBE".to_owned().into())), Code::InvalidFileHeaderInfo);
        assert_eq!(csv(|csv| csv.quote_character = Some("ab".to_owned())), Code::InvalidRequestParameter);
        let mut lines = request();
        lines.input_serialization =
            dto::InputSerialization { json: Some(dto::JSONInput::default()), ..Default::default() };
        assert_eq!(code(lines), Code::InvalidJsonType);
        let mut quotes = request();
        let csv = dto::CSVOutput { quote_fields: Some("SOME".to_owned().into()), ..Default::default() };
        quotes.output_serialization = dto::OutputSerialization { csv: Some(csv), json: None };
        assert_eq!(code(quotes), Code::InvalidQuoteFields);
    }
}
