//! What can be wrong with a query or with what it reads, under the codes that S3 documents for SelectObjectContent
//! (<https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html#SelectObjectContentErrorCodeList>).

use std::borrow::Cow;

/// Longest message, in bytes: it must fit into a header of an event (65,535), and quotes what a client wrote.
const MESSAGE_BYTES_MAX: usize = 1024;

macro_rules! codes {
    ($($name:ident $status:literal $text:literal,)*) => {
        /// An S3 error code.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $text] $name,)*
        }

        impl Code {
            /// As it is written.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// HTTP status, where the answer has not begun.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }
        }
    };
}

codes! {
    AmbiguousFieldName 400 "A name fits several columns.",
    Busy 503 "The query was given up: it took too long, or there are too many.",
    CSVParsingError 400 "The input is not CSV as it was described.",
    CastFailed 400 "A value is not of the type it was cast to.",
    EvaluatorInvalidArguments 400 "A function was given what it cannot take.",
    EvaluatorInvalidTimestampFormatPattern 400 "A timestamp's pattern is not one.",
    EvaluatorLikePatternInvalidEscapeSequence 400 "LIKE's escape stands before what needs none.",
    EvaluatorNegativeLimit 400 "LIMIT is not a number of records.",
    ExpressionTooLong 400 "The expression is longer than it may be.",
    ExternalEvalException 400 "The query cannot be evaluated.",
    IllegalSqlFunctionArgument 400 "A function's argument is not one it has.",
    IncorrectSqlFunctionArgumentType 400 "A function's argument is of another type.",
    IntegerOverflow 400 "A number left the range of integers.",
    InternalError 500 "The server is at fault.",
    InvalidCast 400 "There is no such cast.",
    InvalidColumnIndex 400 "There is no column of that number.",
    InvalidCompressionFormat 400 "The input is not compressed as it was said to be.",
    InvalidDataSource 400 "The input is not what it was said to be.",
    InvalidDataType 400 "A value's type does not fit where it stands.",
    InvalidExpressionType 400 "The expression's type is not SQL.",
    InvalidFileHeaderInfo 400 "FileHeaderInfo is not one of its values.",
    InvalidJsonType 400 "JSON's type is neither DOCUMENT nor LINES.",
    InvalidKeyPath 400 "A path cannot be followed.",
    InvalidQuoteFields 400 "QuoteFields is not one of its values.",
    InvalidRequestParameter 400 "A parameter has a value it cannot have.",
    InvalidScanRange 400 "The scan range is none.",
    InvalidTableAlias 400 "A name stands before a column that is not the object's.",
    InvalidTextEncoding 400 "The input is not UTF-8.",
    JSONParsingError 400 "The input is not JSON.",
    LexerInvalidChar 400 "The expression holds what is not SQL.",
    LexerInvalidLiteral 400 "A literal cannot be read.",
    LikeInvalidInputs 400 "LIKE was given no text.",
    MaxOperatorsExceeded 400 "The expression is too large.",
    MissingHeaders 400 "The input has no column of that name.",
    MissingRequiredParameter 400 "A parameter is missing.",
    ObjectSerializationConflict 400 "More than one serialisation is given, or none.",
    OverMaxColumn 400 "A record has too many columns.",
    OverMaxParquetBlockSize 400 "A row group is larger than may be read at once.",
    OverMaxRecordSize 400 "A record is longer than it may be.",
    ParquetParsingError 400 "The input is not Parquet.",
    ParquetUnsupportedCompressionCodec 400 "The input's codec is not read here.",
    ParseAsteriskIsNotAloneInSelectList 400 "`*` stands beside something else.",
    ParseCastArity 400 "CAST takes a value and a type.",
    ParseEmptySelect 400 "The expression is empty.",
    ParseExpectedDatePart 400 "A part of a date is expected.",
    ParseExpectedTypeName 400 "The name of a type is expected.",
    ParseInvalidPathComponent 400 "A path has a step that is none.",
    ParseMalformedJoin 400 "There is one object, and no joins.",
    ParseNonUnaryAgregateFunctionCall 400 "Aggregates take one argument.",
    ParseSelectMissingFrom 400 "There is no FROM.",
    ParseUnexpectedToken 400 "The expression is not SQL.",
    ParseUnsupportedCallWithStar 400 "Only COUNT takes `*`.",
    ParseUnsupportedSelect 400 "The expression is not one SELECT.",
    ParseUnsupportedSyntax 400 "The syntax is not S3's.",
    TruncatedInput 400 "The input ends too early.",
    UnsupportedFunction 400 "There is no such function.",
    UnsupportedScanRangeInput 400 "Input of this kind cannot be read from its middle.",
    UnsupportedSqlOperation 400 "There is no such operation.",
    UnsupportedSqlStructure 400 "The query's structure is not supported.",
    ValueParseFailure 400 "A timestamp cannot be read.",
}

/// Why a query has no answer, or no more of it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Error {
    /// S3's code.
    pub code: Code,
    /// What is wrong and what would be right; at most a kilobyte.
    pub message: Cow<'static, str>,
}

impl Error {
    /// An error, its message cut to what may be sent.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            let end = (0..=MESSAGE_BYTES_MAX - 3).rev().find(|&at| message.is_char_boundary(at)).unwrap_or(0);
            message = format!("{}...", &message[..end]).into();
        }
        Self { code, message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_between_characters() {
        let error = Error::new(Code::CastFailed, "ä".repeat(4000));
        assert!(error.message.len() <= MESSAGE_BYTES_MAX && error.message.ends_with("ä..."), "{}", error.message.len());
        assert_eq!(Error::new(Code::Busy, "short").to_string(), "Busy: short");
        assert_eq!(Code::Busy.status(), 503);
    }
}
