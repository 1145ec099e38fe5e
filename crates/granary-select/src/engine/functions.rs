//! The functions that DataFusion has not, or has otherwise: over values that are read one by one.

use std::sync::Arc;

use datafusion::arrow::array::AsArray as _;
use datafusion::arrow::array::{Array, ArrayRef, Float64Array, Int8Array, Int64Array, TimestampMicrosecondArray};
use datafusion::arrow::array::{BooleanBuilder, LargeStringBuilder, StringBuilder};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use datafusion::error::DataFusionError;
use datafusion::functions::utils::make_scalar_function;
use datafusion::logical_expr::{Expr, Volatility, create_udf};
use serde_json::value::RawValue;

use super::time::{self, Part};
use super::value::{JSON, Side, Val, fail};
use crate::error::Code;

type Answer = Result<ArrayRef, DataFusionError>;

/// The type of timestamps: microseconds, UTC.
pub(super) fn timestamp() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn call(
    name: &str,
    args: Vec<(Expr, DataType)>,
    returns: DataType,
    work: impl Fn(&[ArrayRef]) -> Answer + Send + Sync + 'static,
) -> Expr {
    let (args, types): (Vec<_>, Vec<_>) = args.into_iter().unzip();
    create_udf(name, types, returns, Volatility::Immutable, Arc::new(make_scalar_function(work, vec![]))).call(args)
}

/// -1, 0 or 1 as left is to right; 2 where they differ and have no order; NULL where either is.
pub(super) fn compare(left: (Expr, DataType), right: (Expr, DataType)) -> Expr {
    call("compare", vec![left, right], DataType::Int8, |args| {
        let (left, right) = (Side::of(&args[0])?, Side::of(&args[1])?);
        let order = |row| match (left.get(row), right.get(row)) {
            (Val::Null, _) | (_, Val::Null) => None,
            (left, right) => Some(left.order(&right).map_or(2, |order| order as i8)),
        };
        Ok(Arc::new((0..args[0].len()).map(order).collect::<Int8Array>()))
    })
}

/// JSON as text.
pub(super) fn text(json: Expr) -> Expr {
    call("text", vec![(json, JSON)], DataType::Utf8, |args| {
        let side = Side::of(&args[0])?;
        let mut texts = StringBuilder::new();
        for row in 0..args[0].len() {
            texts.append_option(side.get(row).into_text());
        }
        Ok(Arc::new(texts.finish()))
    })
}

/// JSON without its nulls.
pub(super) fn present(json: Expr) -> Expr {
    call("present", vec![(json, JSON)], JSON, |args| {
        let values = args[0].as_string::<i64>();
        let mut kept = LargeStringBuilder::new();
        for value in values {
            kept.append_option(value.filter(|raw| *raw != "null"));
        }
        Ok(Arc::new(kept.finish()))
    })
}

/// A value as JSON.
pub(super) fn json(value: (Expr, DataType)) -> Expr {
    call("json", vec![value], JSON, |args| {
        let side = Side::of(&args[0])?;
        let mut values = LargeStringBuilder::new();
        for row in 0..args[0].len() {
            values.append_option(match side.get(row) {
                Val::Text(text) => Some(serde_json::Value::from(&*text).to_string().into()),
                other => other.into_text(),
            });
        }
        Ok(Arc::new(values.finish()))
    })
}

/// What becomes of a value that is not what it is cast to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit {
    /// The query fails.
    Fails,
    /// It is NULL: what guards it may not have been looked at yet.
    IsNull,
}

impl Misfit {
    fn of<T>(self, fitting: Option<T>, value: &Val<'_>, what: &str) -> Result<Option<T>, DataFusionError> {
        if fitting.is_some() || self == Self::IsNull {
            return Ok(fitting);
        }
        let shown = value.clone().into_text().unwrap_or_default();
        let shown: String = shown.chars().take(64).collect();
        Err(fail(Code::CastFailed, format!("The value `{shown}` cannot be read as {what}.")))
    }
}

/// A value as a floating-point number, for arithmetic and sums that nobody wrote a cast for. Empty texts are NULL.
pub(super) fn float(value: (Expr, DataType), misfit: Misfit) -> Expr {
    call("float", vec![value], DataType::Float64, move |args| {
        let side = Side::of(&args[0])?;
        let number = |row| match side.get(row) {
            Val::Null => Ok(None),
            Val::Text(text) if text.trim().is_empty() => Ok(None),
            value => misfit.of(value.as_f64(), &value, "a number"),
        };
        Ok(Arc::new((0..args[0].len()).map(number).collect::<Result<Float64Array, _>>()?))
    })
}

/// CAST(... AS FLOAT).
pub(super) fn cast_float(value: (Expr, DataType), misfit: Misfit) -> Expr {
    call("cast_float", vec![value], DataType::Float64, move |args| {
        let side = Side::of(&args[0])?;
        let number = |row| match side.get(row) {
            Val::Null => Ok(None),
            value => misfit.of(value.as_f64(), &value, "FLOAT"),
        };
        Ok(Arc::new((0..args[0].len()).map(number).collect::<Result<Float64Array, _>>()?))
    })
}

/// CAST(... AS INT): what stands behind a point is cut off.
pub(super) fn cast_int(value: (Expr, DataType), misfit: Misfit) -> Expr {
    call("cast_int", vec![value], DataType::Int64, move |args| {
        let side = Side::of(&args[0])?;
        let number = |row| {
            let value = side.get(row);
            let fitting = match &value {
                Val::Null => return Ok(None),
                Val::Bool(truth) => Some(i64::from(*truth)),
                value => value.as_number().and_then(whole),
            };
            misfit.of(fitting, &value, "INT")
        };
        Ok(Arc::new((0..args[0].len()).map(number).collect::<Result<Int64Array, _>>()?))
    })
}

fn whole(number: Val<'static>) -> Option<i64> {
    match number {
        Val::Int(number) => Some(number),
        // 2^63 itself is out of range, and so is whatever rounds to it.
        #[allow(clippy::cast_possible_truncation)]
        Val::Float(number) if number.abs() < 9_223_372_036_854_775_808.0 => Some(number.trunc() as i64),
        _ => None,
    }
}

/// CAST(... AS BOOL), and a value that stands where truth is wanted.
pub(super) fn truth(value: (Expr, DataType), misfit: Misfit) -> Expr {
    call("truth", vec![value], DataType::Boolean, move |args| {
        let side = Side::of(&args[0])?;
        let mut truths = BooleanBuilder::new();
        for row in 0..args[0].len() {
            let value = side.get(row);
            let fitting = match &value {
                Val::Null => None,
                value => {
                    let number = value.as_number().and_then(|number| number.as_f64());
                    misfit.of(value.as_bool().or(number.map(|number| number != 0.0)), value, "BOOL")?
                }
            };
            truths.append_option(fitting);
        }
        Ok(Arc::new(truths.finish()))
    })
}

/// TO_TIMESTAMP and CAST(... AS TIMESTAMP), of text.
pub(super) fn cast_time(text: Expr, misfit: Misfit) -> Expr {
    call("cast_timestamp", vec![(text, DataType::Utf8)], timestamp(), move |args| {
        let texts = args[0].as_string::<i32>();
        let moment = |text: Option<&str>| match text {
            None => Ok(None),
            Some(text) => {
                misfit.of(time::parse(text), &Val::Text(text.into()), "a timestamp such as 2007-04-05T14:30Z")
            }
        };
        let moments = texts.iter().map(moment).collect::<Result<TimestampMicrosecondArray, _>>()?;
        Ok(Arc::new(moments.with_timezone("UTC")))
    })
}

fn times(array: &ArrayRef) -> &TimestampMicrosecondArray {
    array.as_primitive::<TimestampMicrosecondType>()
}

/// DATE_ADD.
pub(super) fn date_add(part: Part, count: Expr, moment: Expr) -> Expr {
    call("date_add", vec![(count, DataType::Int64), (moment, timestamp())], timestamp(), move |args| {
        let counts = args[0].as_primitive::<Int64Type>();
        let sum = |(count, moment): (Option<i64>, Option<i64>)| match (count, moment) {
            (Some(count), Some(moment)) => {
                let sum = time::add(part, count, moment);
                sum.map(Some)
                    .ok_or_else(|| fail(Code::EvaluatorInvalidArguments, "DATE_ADD leaves the years 1 to 9999."))
            }
            _ => Ok(None),
        };
        let sums = counts.iter().zip(times(&args[1])).map(sum).collect::<Result<TimestampMicrosecondArray, _>>()?;
        Ok(Arc::new(sums.with_timezone("UTC")))
    })
}

/// DATE_DIFF.
pub(super) fn date_diff(part: Part, from: Expr, to: Expr) -> Expr {
    call("date_diff", vec![(from, timestamp()), (to, timestamp())], DataType::Int64, move |args| {
        let between = |(from, to): (Option<i64>, Option<i64>)| time::between(part, from?, to?);
        Ok(Arc::new(times(&args[0]).iter().zip(times(&args[1])).map(between).collect::<Int64Array>()))
    })
}

/// EXTRACT.
pub(super) fn extract(part: Part, moment: Expr) -> Expr {
    call("extract", vec![(moment, timestamp())], DataType::Int64, move |args| {
        Ok(Arc::new(times(&args[0]).iter().map(|moment| time::extract(part, moment?)).collect::<Int64Array>()))
    })
}

/// TO_STRING.
pub(super) fn to_string(moment: Expr, pattern: time::Pattern) -> Expr {
    call("to_string", vec![(moment, timestamp())], DataType::Utf8, move |args| {
        let mut texts = StringBuilder::new();
        for moment in times(&args[0]) {
            texts.append_option(moment.and_then(|moment| pattern.write(moment)));
        }
        Ok(Arc::new(texts.finish()))
    })
}

/// SIZE of a JSON list or object.
pub(super) fn size(json: Expr) -> Expr {
    call("size", vec![(json, JSON)], DataType::Int64, |args| {
        let count = |raw: Option<&str>| {
            let elements = |raw: &str| serde_json::from_str::<Vec<&RawValue>>(raw).map(|list| list.len());
            match raw.map(|raw| (raw, raw.as_bytes().first())) {
                Some((raw, Some(b'['))) => Ok(elements(raw).ok().and_then(|count| i64::try_from(count).ok())),
                None | Some((_, Some(b'n'))) => Ok(None),
                Some(_) => Err(fail(Code::IncorrectSqlFunctionArgumentType, "SIZE takes a list.")),
            }
        };
        Ok(Arc::new(args[0].as_string::<i64>().iter().map(count).collect::<Result<Int64Array, _>>()?))
    })
}

/// `+`, `-`, `*`, `/` and `%` of whole numbers; what leaves their range fails.
pub(super) fn whole_arithmetic(op: char, left: Expr, right: Expr) -> Expr {
    let work = move |left: i64, right: i64| match op {
        '+' => left.checked_add(right),
        '-' => left.checked_sub(right),
        '*' => left.checked_mul(right),
        '/' => left.checked_div(right),
        _ => left.checked_rem(right),
    };
    call("arithmetic", vec![(left, DataType::Int64), (right, DataType::Int64)], DataType::Int64, move |args| {
        let (left, right) = (args[0].as_primitive::<Int64Type>(), args[1].as_primitive::<Int64Type>());
        let result = |(left, right): (Option<i64>, Option<i64>)| {
            let (Some(left), Some(right)) = (left, right) else { return Ok(None) };
            if right == 0 && matches!(op, '/' | '%') {
                return Err(fail(Code::EvaluatorInvalidArguments, "Division by zero."));
            }
            let message = || format!("{left} {op} {right} is out of the range of integers.");
            work(left, right).map(Some).ok_or_else(|| fail(Code::IntegerOverflow, message()))
        };
        Ok(Arc::new(left.iter().zip(right).map(result).collect::<Result<Int64Array, _>>()?))
    })
}
