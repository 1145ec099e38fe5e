//! The functions of S3's SQL: casts, texts, dates, aggregates.

use datafusion::arrow::datatypes::DataType;
use datafusion::functions::core::expr_fn::coalesce;
use datafusion::functions::expr_fn::{btrim, character_length, lower, ltrim, rtrim, substr, substring, upper};
use datafusion::functions_aggregate::expr_fn::{avg, count, max, min, sum};
use datafusion::logical_expr::{Case, Expr, Operator, cast, ident, lit, try_cast};
use datafusion::scalar::ScalarValue;
use sqlparser::ast::{
    CastKind, DataType as SqlType, DuplicateTreatment, ExactNumberInfo, Expr as Ast, Function, FunctionArg,
    FunctionArgExpr, FunctionArguments, TrimWhereField, Value,
};

use super::functions::{self, Misfit, timestamp};
use super::lower::{Class, Lowering, Typed, as_text, compare, moment, unify};
use super::time::{self, Part};
use crate::error::{Code, Error};

fn bad_argument(message: impl Into<String>) -> Error {
    Error::new(Code::IllegalSqlFunctionArgument, message.into())
}

impl Lowering<'_> {
    /// An expression that calls something.
    pub(super) fn call(&mut self, ast: &Ast) -> Result<Typed, Error> {
        match ast {
            Ast::Cast { kind: CastKind::Cast, expr, data_type, format: None, .. } => {
                let typed = self.expr(expr)?;
                self.cast(typed, data_type)
            }
            Ast::Extract { field, expr, .. } => {
                let part = Part::of(&field.to_string())?;
                let at = self.time(expr, "EXTRACT")?;
                Ok(Typed::new(functions::extract(part, at), DataType::Int64))
            }
            Ast::Substring { expr, substring_from, substring_for, .. } => {
                let text = self.text(expr, "SUBSTRING's text")?;
                let mut whole = |ast: &Ast| -> Result<Expr, Error> {
                    let typed = self.expr(ast)?;
                    self.whole(typed, "SUBSTRING's positions")
                };
                let from = substring_from.as_deref().map(&mut whole).transpose()?.unwrap_or_else(|| lit(1_i64));
                let length = substring_for.as_deref().map(&mut whole).transpose()?;
                let part = match length {
                    Some(length) => substring(text, from, length),
                    None => substr(text, from),
                };
                Ok(Typed::new(part, DataType::Utf8))
            }
            Ast::Trim { trim_where, trim_what, expr, trim_characters: None } => {
                let text = self.text(expr, "TRIM's text")?;
                let what = trim_what.as_deref().map(|what| self.text(what, "What TRIM cuts off")).transpose()?;
                let args = std::iter::once(text).chain(what).collect();
                let trimmed = match trim_where {
                    Some(TrimWhereField::Leading) => ltrim(args),
                    Some(TrimWhereField::Trailing) => rtrim(args),
                    _ => btrim(args),
                };
                Ok(Typed::new(trimmed, DataType::Utf8))
            }
            Ast::Function(function) => self.function(function),
            other => {
                let text: String = other.to_string().chars().take(200).collect();
                Err(Error::new(Code::UnsupportedSqlOperation, format!("`{text}` is not supported by S3 Select.")))
            }
        }
    }

    fn time(&mut self, ast: &Ast, role: &str) -> Result<Expr, Error> {
        let typed = self.expr(ast)?;
        match typed.class() {
            Class::Time => Ok(typed.expr),
            Class::Text | Class::Json => Ok(functions::cast_time(as_text(typed, role)?, self.misfit)),
            _ => Err(Error::new(
                Code::IncorrectSqlFunctionArgumentType,
                format!("{role} takes a timestamp: use TO_TIMESTAMP."),
            )),
        }
    }

    fn whole(&mut self, typed: Typed, role: &str) -> Result<Expr, Error> {
        Ok(functions::cast_int(typed.plain(role)?, self.misfit))
    }

    fn cast(&mut self, typed: Typed, wanted: &SqlType) -> Result<Typed, Error> {
        let role = "What is cast";
        if typed.class() == Class::Other {
            return Err(Error::new(Code::InvalidCast, format!("A value of type {} cannot be cast.", typed.data_type)));
        }
        let no_cast = |what: &str| {
            Err(Error::new(Code::InvalidCast, format!("A value of type {} cannot be cast to {what}.", typed.data_type)))
        };
        let is_time = typed.class() == Class::Time;
        match wanted {
            SqlType::Int(_) | SqlType::Integer(_) | SqlType::BigInt(_) | SqlType::SmallInt(_) | SqlType::TinyInt(_) => {
                if is_time {
                    return no_cast("INT");
                }
                Ok(Typed::new(functions::cast_int(typed.plain(role)?, self.misfit), DataType::Int64))
            }
            SqlType::Float(_) | SqlType::Real | SqlType::Double(_) | SqlType::DoublePrecision => {
                if is_time {
                    return no_cast("FLOAT");
                }
                Ok(Typed::new(functions::cast_float(typed.plain(role)?, self.misfit), DataType::Float64))
            }
            SqlType::Bool | SqlType::Boolean => {
                if is_time {
                    return no_cast("BOOL");
                }
                Ok(Typed::new(functions::truth(typed.plain(role)?, self.misfit), DataType::Boolean))
            }
            SqlType::Decimal(info) | SqlType::Numeric(info) | SqlType::Dec(info) => {
                if is_time {
                    return no_cast("DECIMAL");
                }
                self.cast_decimal(typed, info)
            }
            SqlType::String(_)
            | SqlType::Varchar(_)
            | SqlType::Char(_)
            | SqlType::Text
            | SqlType::CharacterVarying(_) => {
                let (expr, data_type) = typed.plain(role)?;
                Ok(Typed::new(string(expr, data_type), DataType::Utf8))
            }
            SqlType::Timestamp(..) => match typed.class() {
                Class::Time => Ok(typed),
                _ => Ok(Typed::new(functions::cast_time(as_text(typed, role)?, self.misfit), timestamp())),
            },
            other => Err(Error::new(
                Code::ParseExpectedTypeName,
                format!("`{other}` is not a type of S3 Select: use BOOL, INT, FLOAT, DECIMAL, STRING or TIMESTAMP."),
            )),
        }
    }

    fn cast_decimal(&mut self, typed: Typed, info: &ExactNumberInfo) -> Result<Typed, Error> {
        let (precision, scale) = match *info {
            ExactNumberInfo::None => (38, 10),
            ExactNumberInfo::Precision(precision) => (precision, 0),
            ExactNumberInfo::PrecisionAndScale(precision, scale) => (precision, scale),
        };
        let data_type = match (u8::try_from(precision), i8::try_from(scale)) {
            (Ok(precision @ 1..=38), Ok(scale @ 0..)) if scale.unsigned_abs() <= precision => {
                DataType::Decimal128(precision, scale)
            }
            _ => {
                let message =
                    format!("DECIMAL({precision}, {scale}) is not possible: at most 38 digits, the scale within them.");
                return Err(Error::new(Code::InvalidCast, message));
            }
        };
        let value = match typed.class() {
            Class::Int | Class::Number => typed.expr,
            _ => {
                let (expr, data_type) = typed.plain("What is cast")?;
                btrim(vec![string(expr, data_type)])
            }
        };
        let expr = match self.misfit {
            Misfit::Fails => cast(value, data_type.clone()),
            Misfit::IsNull => try_cast(value, data_type.clone()),
        };
        Ok(Typed::new(expr, data_type))
    }

    fn function(&mut self, function: &Function) -> Result<Typed, Error> {
        let name = function.name.to_string().to_ascii_uppercase();
        let unsupported = |what: &str| Error::new(Code::UnsupportedFunction, format!("{name} {what}"));
        let FunctionArguments::List(list) = &function.args else {
            return Err(unsupported("is not a function of S3 Select."));
        };
        let has_extras = function.over.is_some()
            || function.filter.is_some()
            || !function.within_group.is_empty()
            || function.null_treatment.is_some()
            || !list.clauses.is_empty()
            || matches!(list.duplicate_treatment, Some(DuplicateTreatment::Distinct))
            || !matches!(function.parameters, FunctionArguments::None);
        if has_extras {
            return Err(unsupported("takes plain arguments only in S3 Select: no DISTINCT, FILTER or OVER."));
        }
        let mut args = Vec::with_capacity(list.args.len());
        let mut has_star = false;
        for arg in &list.args {
            match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => args.push(expr),
                FunctionArg::Unnamed(FunctionArgExpr::Wildcard) => has_star = true,
                _ => return Err(unsupported("takes plain arguments only.")),
            }
        }
        if has_star && name != "COUNT" {
            return Err(Error::new(
                Code::ParseUnsupportedCallWithStar,
                format!("{name}(*) is not possible: only COUNT takes `*`."),
            ));
        }
        match name.as_str() {
            "COUNT" | "SUM" | "AVG" | "MIN" | "MAX" => self.aggregate(&name, &args, has_star),
            "COALESCE" => {
                if args.is_empty() {
                    return Err(bad_argument("COALESCE takes at least one argument."));
                }
                let args = args.iter().map(|arg| self.expr(arg)).collect::<Result<Vec<_>, _>>()?;
                // JSON's null is passed over like what is missing.
                let present = |typed: Typed| match typed.class() {
                    Class::Json => Typed::new(functions::present(typed.expr), typed.data_type),
                    _ => typed,
                };
                let (args, data_type) = unify(args.into_iter().map(present).collect())?;
                Ok(Typed::new(coalesce(args), data_type))
            }
            "NULLIF" => {
                let [first, second] = arity(&name, args)?;
                let (first, second) = (self.expr(first)?, self.expr(second)?);
                let same = compare(first.clone(), Operator::Eq, second)?;
                let null = ScalarValue::try_from(&first.data_type).unwrap_or(ScalarValue::Null);
                let pairs = vec![(Box::new(same), Box::new(lit(null)))];
                Ok(Typed::new(Expr::Case(Case::new(None, pairs, Some(Box::new(first.expr)))), first.data_type))
            }
            "CHAR_LENGTH" | "CHARACTER_LENGTH" => {
                let [text] = arity(&name, args)?;
                let length = character_length(self.text(text, "CHAR_LENGTH's argument")?);
                Ok(Typed::new(cast(length, DataType::Int64), DataType::Int64))
            }
            "LOWER" | "UPPER" => {
                let [text] = arity(&name, args)?;
                let text = self.text(text, "What is put in capitals or small letters")?;
                Ok(Typed::new(if name == "LOWER" { lower(text) } else { upper(text) }, DataType::Utf8))
            }
            "SIZE" => {
                let [list] = arity(&name, args)?;
                let list = self.expr(list)?;
                if list.class() != Class::Json {
                    return Err(Error::new(
                        Code::IncorrectSqlFunctionArgumentType,
                        "SIZE takes a list of a JSON record.",
                    ));
                }
                Ok(Typed::new(functions::size(list.expr), DataType::Int64))
            }
            "UTCNOW" => {
                let [] = arity(&name, args)?;
                let now = ::time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1000;
                Ok(moment(i64::try_from(now).unwrap_or(i64::MAX)))
            }
            "TO_TIMESTAMP" => {
                if args.len() == 2 {
                    return Err(unsupported("takes no pattern here: write timestamps as 2007-04-05T14:30:00Z."));
                }
                let [text] = arity(&name, args)?;
                Ok(Typed::new(self.time(text, "TO_TIMESTAMP")?, timestamp()))
            }
            "TO_STRING" => {
                let [at, pattern] = arity(&name, args)?;
                let at = self.time(at, "TO_STRING")?;
                let Some(pattern) = text_of(pattern) else {
                    return Err(bad_argument("TO_STRING's pattern must be a text in single quotes."));
                };
                Ok(Typed::new(functions::to_string(at, time::Pattern::parse(pattern)?), DataType::Utf8))
            }
            "DATE_ADD" => {
                let [part, count, at] = arity(&name, args)?;
                let (part, count) = (part_of(part)?, self.expr(count)?);
                let count = self.whole(count, "DATE_ADD's number")?;
                Ok(Typed::new(functions::date_add(part, count, self.time(at, "DATE_ADD")?), timestamp()))
            }
            "DATE_DIFF" => {
                let [part, from, to] = arity(&name, args)?;
                let (part, from, to) = (part_of(part)?, self.time(from, "DATE_DIFF")?, self.time(to, "DATE_DIFF")?);
                Ok(Typed::new(functions::date_diff(part, from, to), DataType::Int64))
            }
            _ => Err(unsupported("is not a function of S3 Select.")),
        }
    }

    fn aggregate(&mut self, name: &str, args: &[&Ast], has_star: bool) -> Result<Typed, Error> {
        if args.len() + usize::from(has_star) != 1 {
            return Err(Error::new(Code::ParseNonUnaryAgregateFunctionCall, format!("{name} takes one argument.")));
        }
        let Some(mut found) = self.aggregates.take() else {
            let message = format!("{name} may stand in the select list only, and not within another aggregate.");
            return Err(Error::new(Code::UnsupportedSqlStructure, message));
        };
        // Within an aggregate, records may be named and other aggregates may not.
        let named = self.names_record;
        let made = if has_star { Ok((count(lit(1_i64)), DataType::Int64)) } else { self.aggregate_of(name, args[0]) };
        self.names_record = named;
        let (expr, data_type) = match made {
            Ok(made) => made,
            Err(error) => {
                self.aggregates = Some(found);
                return Err(error);
            }
        };
        let column = format!("a{}", found.len());
        found.push(expr.alias(&column));
        self.aggregates = Some(found);
        Ok(Typed::new(ident(column), data_type))
    }

    fn aggregate_of(&mut self, name: &str, arg: &Ast) -> Result<(Expr, DataType), Error> {
        let typed = self.expr(arg)?;
        if name == "COUNT" {
            let value = if typed.class() == Class::Json { functions::present(typed.expr) } else { typed.expr };
            return Ok((count(value), DataType::Int64));
        }
        if matches!(name, "MIN" | "MAX") {
            let typed = match typed.class() {
                // What JSON holds is not known; numbers are what is meant.
                Class::Json => self.number(typed, name)?,
                Class::Other => return Err(super::lower::wrong_type(name, &typed.data_type)),
                _ => typed,
            };
            let expr = if name == "MIN" { min(typed.expr) } else { max(typed.expr) };
            return Ok((expr, typed.data_type));
        }
        let is_whole = typed.class() == Class::Int;
        let typed = self.number(typed, name)?;
        let is_decimal = matches!(typed.data_type, DataType::Decimal128(..));
        // Whole numbers are summed up in 38 digits, which cannot overflow.
        let wide = match (name, is_whole) {
            ("SUM", true) => DataType::Decimal128(38, 0),
            ("SUM", _) => match typed.data_type {
                DataType::Decimal128(_, scale) => DataType::Decimal128(38, scale),
                _ => DataType::Float64,
            },
            _ if is_decimal => typed.data_type.clone(),
            _ => DataType::Float64,
        };
        let value = cast(typed.expr, wide.clone());
        if name == "SUM" {
            return Ok((sum(value), wide));
        }
        let data_type = match wide {
            DataType::Decimal128(precision, scale) => {
                DataType::Decimal128((precision + 4).min(38), (scale + 4).min(38))
            }
            other => other,
        };
        Ok((avg(value), data_type))
    }
}

/// A plain value as text.
fn string(expr: Expr, data_type: DataType) -> Expr {
    match data_type {
        DataType::Utf8 => expr,
        // JSON.
        DataType::LargeUtf8 => functions::text(expr),
        // Numbers as they are shown, which is as JSON writes them.
        other => functions::text(functions::json((expr, other))),
    }
}

fn arity<'b, const N: usize>(name: &str, args: Vec<&'b Ast>) -> Result<[&'b Ast; N], Error> {
    let count = args.len();
    args.try_into()
        .map_err(|_| bad_argument(format!("{name} takes {N} argument{}, not {count}.", if N == 1 { "" } else { "s" })))
}

fn text_of(ast: &Ast) -> Option<&str> {
    match ast {
        Ast::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

fn part_of(ast: &Ast) -> Result<Part, Error> {
    match ast {
        Ast::Identifier(ident) => Part::of(&ident.value),
        other => Part::of(text_of(other).unwrap_or_default()),
    }
}
