//! Values as S3's SQL sees them: numbers, texts, truth and JSON, compared across types where that means something.
//!
//! CSV holds texts, JSON holds what each record has there; neither says so before it is read. JSON travels as `LargeUtf8`
//! of its own text (null: MISSING), so that what is only passed on is passed on exactly.

use std::borrow::Cow;
use std::cmp::Ordering;

use datafusion::arrow::array::AsArray as _;
use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::datatypes::{Float64Type, Int64Type};
use datafusion::error::DataFusionError;

use crate::error::{Code, Error};

/// How JSON is told from text in the engine.
pub(super) const JSON: DataType = DataType::LargeUtf8;

/// A value of one record.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Val<'a> {
    /// NULL and MISSING.
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Cow<'a, str>),
    /// A list or an object, as it is written.
    Nested(&'a str),
}

impl<'a> Val<'a> {
    /// Of JSON's own text, which has been checked.
    pub(super) fn of_json(raw: &'a str) -> Self {
        match raw.as_bytes().first() {
            None | Some(b'n') => Self::Null,
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'{' | b'[') => Self::Nested(raw),
            Some(b'"') => Self::Text(unquote(raw)),
            Some(_) => number(raw).unwrap_or(Self::Null),
        }
    }

    /// As text: a string without its quotes, all else as JSON writes it.
    pub(super) fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            Self::Null => None,
            Self::Bool(truth) => Some(if truth { "true" } else { "false" }.into()),
            Self::Int(number) => Some(number.to_string().into()),
            Self::Float(number) => Some(float(number).into()),
            Self::Text(text) => Some(text),
            Self::Nested(raw) => Some(raw.into()),
        }
    }

    /// As a number: a text that is one too.
    pub(super) fn as_number(&self) -> Option<Val<'static>> {
        match self {
            Self::Int(number) => Some(Val::Int(*number)),
            Self::Float(number) => Some(Val::Float(*number)),
            Self::Text(text) => number(text),
            _ => None,
        }
    }

    pub(super) fn as_f64(&self) -> Option<f64> {
        match self.as_number()? {
            #[allow(clippy::cast_precision_loss)]
            Val::Int(number) => Some(number as f64),
            Val::Float(number) => Some(number),
            _ => None,
        }
    }

    pub(super) fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(truth) => Some(*truth),
            Self::Text(text) if text.eq_ignore_ascii_case("true") => Some(true),
            Self::Text(text) if text.eq_ignore_ascii_case("false") => Some(false),
            _ => None,
        }
    }

    /// The order of two values. `None`: there is none between them, and they differ.
    pub(super) fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Text(left), Self::Text(right)) => Some(left.cmp(right)),
            (Self::Nested(left), Self::Nested(right)) => (left == right).then_some(Ordering::Equal),
            (Self::Bool(_), _) | (_, Self::Bool(_)) => Some(self.as_bool()?.cmp(&other.as_bool()?)),
            _ => match (self.as_number()?, other.as_number()?) {
                (Val::Int(left), Val::Int(right)) => Some(left.cmp(&right)),
                (left, right) => left.as_f64()?.partial_cmp(&right.as_f64()?),
            },
        }
    }
}

/// A JSON string's text.
pub(super) fn unquote(raw: &str) -> Cow<'_, str> {
    let inner = raw.strip_prefix('"').and_then(|raw| raw.strip_suffix('"')).unwrap_or(raw);
    if inner.contains('\\') {
        serde_json::from_str::<String>(raw).map_or(Cow::Borrowed(inner), Cow::Owned)
    } else {
        Cow::Borrowed(inner)
    }
}

/// A number as SQL, JSON and CSV write it, blanks around it passed over.
pub(super) fn number(text: &str) -> Option<Val<'static>> {
    let text = text.trim();
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !digits.starts_with(|first: char| first.is_ascii_digit() || first == '.') {
        return None; // `inf`, `nan`: not numbers here
    }
    if let Ok(number) = text.parse() {
        return Some(Val::Int(number));
    }
    text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Val::Float)
}

/// A floating-point number as JSON may hold it: whole ones without a point, no exponent where it reads well.
pub(super) fn float(number: f64) -> String {
    let size = number.abs();
    if !number.is_finite() {
        "null".to_owned()
    } else if size != 0.0 && !(1e-7..1e17).contains(&size) {
        format!("{number:e}")
    } else {
        number.to_string()
    }
}

/// A column whose values are read one by one.
pub(super) enum Side<'a> {
    Json(&'a datafusion::arrow::array::LargeStringArray),
    Text(&'a datafusion::arrow::array::StringArray),
    Int(&'a datafusion::arrow::array::Int64Array),
    Float(&'a datafusion::arrow::array::Float64Array),
    Bool(&'a datafusion::arrow::array::BooleanArray),
}

impl<'a> Side<'a> {
    /// Of one of the types that [`plain`] tells.
    pub(super) fn of(array: &'a ArrayRef) -> Result<Self, DataFusionError> {
        match array.data_type() {
            DataType::LargeUtf8 => Ok(Self::Json(array.as_string())),
            DataType::Utf8 => Ok(Self::Text(array.as_string())),
            DataType::Int64 => Ok(Self::Int(array.as_primitive::<Int64Type>())),
            DataType::Float64 => Ok(Self::Float(array.as_primitive::<Float64Type>())),
            DataType::Boolean => Ok(Self::Bool(array.as_boolean())),
            other => Err(DataFusionError::Internal(format!("a value of type {other} was not made plain"))),
        }
    }

    pub(super) fn get(&self, row: usize) -> Val<'a> {
        match self {
            Self::Json(array) if array.is_valid(row) => Val::of_json(array.value(row)),
            Self::Text(array) if array.is_valid(row) => Val::Text(array.value(row).into()),
            Self::Int(array) if array.is_valid(row) => Val::Int(array.value(row)),
            Self::Float(array) if array.is_valid(row) => Val::Float(array.value(row)),
            Self::Bool(array) if array.is_valid(row) => Val::Bool(array.value(row)),
            _ => Val::Null,
        }
    }
}

/// The type that values of a type are read one by one as; `None` where they are not.
pub(super) fn plain(data_type: &DataType) -> Option<DataType> {
    use DataType as T;
    match data_type {
        T::Utf8 | T::LargeUtf8 | T::Utf8View => Some(T::Utf8),
        T::Int8 | T::Int16 | T::Int32 | T::Int64 | T::UInt8 | T::UInt16 | T::UInt32 => Some(T::Int64),
        T::Float16 | T::Float32 | T::Float64 | T::UInt64 => Some(T::Float64),
        T::Decimal32(..) | T::Decimal64(..) | T::Decimal128(..) | T::Decimal256(..) => Some(T::Float64),
        T::Boolean => Some(T::Boolean),
        T::Dictionary(_, values) => plain(values),
        _ => None,
    }
}

/// An error of ours on its way through DataFusion.
pub(super) fn fail(code: Code, message: impl Into<Cow<'static, str>>) -> DataFusionError {
    DataFusionError::External(Box::new(Error::new(code, message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_read_as_it_is_written() {
        assert_eq!(Val::of_json("null"), Val::Null);
        assert_eq!(Val::of_json("12"), Val::Int(12));
        assert_eq!(Val::of_json("-1.5e3"), Val::Float(-1500.0));
        assert_eq!(Val::of_json("\"a\\\"b\\u00e4\""), Val::Text("a\"bä".into()));
        assert_eq!(Val::of_json("[1, 2]").into_text().as_deref(), Some("[1, 2]"));
    }

    #[test]
    fn values_compare_across_types_where_it_means_something() {
        let text = |text: &'static str| Val::Text(text.into());
        assert_eq!(text("10").order(&Val::Int(9)), Some(Ordering::Greater), "a number in a text, not its letters");
        assert_eq!(text("10").order(&text("9")), Some(Ordering::Less), "texts by their letters");
        assert_eq!(text("abc").order(&Val::Int(1)), None);
        assert_eq!(Val::Int(i64::MAX).order(&Val::Int(i64::MAX - 1)), Some(Ordering::Greater), "no digits are lost");
        assert_eq!(text("TRUE").order(&Val::Bool(true)), Some(Ordering::Equal));
        assert_eq!(Val::Int(1).order(&Val::Bool(true)), None);
        assert_eq!(Val::Int(2).order(&Val::Float(1.5)), Some(Ordering::Greater));
    }

    #[test]
    fn numbers_are_numbers_only() {
        for text in ["inf", "NaN", "", "x1", "1x", "0x10", "-"] {
            assert_eq!(number(text), None, "{text}");
        }
        assert_eq!(number(" 7 "), Some(Val::Int(7)));
        assert_eq!(number("99999999999999999999"), Some(Val::Float(1e20)));
        assert_eq!(float(6.0), "6");
        assert_eq!(float(0.1), "0.1");
        assert_eq!(float(1e300), "1e300");
        assert_eq!(float(f64::NAN), "null");
    }
}
