//! From SQL to DataFusion: expressions, with S3's rules of what is compared and reckoned with as what.
//!
//! Only what is named here exists: no other function, operator or type of DataFusion can be reached from a query.

use datafusion::arrow::datatypes::DataType;
use datafusion::logical_expr::binary::BinaryTypeCoercer;
use datafusion::logical_expr::{BinaryExpr, Case, Expr, Like, Operator, cast, lit};
use datafusion::scalar::ScalarValue;
use sqlparser::ast::{BinaryOperator, Expr as Ast, Ident, UnaryOperator, Value};

use super::columns::Columns;
use super::functions::{self, Misfit, timestamp};
use super::path;
use super::sql::too_large;
use super::time;
use super::value::{JSON, Val, number, plain};
use crate::error::{Code, Error};

/// Operators in one another at most, chains of AND and OR not counted.
const DEPTH_MAX: usize = 64;

/// What values of a type can take part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    Null,
    Json,
    Text,
    Int,
    Number,
    Bool,
    Time,
    Other,
}

/// An expression and the type of its values.
#[derive(Debug, Clone)]
pub(super) struct Typed {
    pub(super) expr: Expr,
    pub(super) data_type: DataType,
}

impl Typed {
    pub(super) fn new(expr: Expr, data_type: DataType) -> Self {
        Self { expr, data_type }
    }

    fn bool(expr: Expr) -> Self {
        Self::new(expr, DataType::Boolean)
    }

    pub(super) fn class(&self) -> Class {
        if self.data_type == JSON {
            return Class::Json;
        }
        match (&self.data_type, plain(&self.data_type)) {
            (DataType::Null, _) => Class::Null,
            (DataType::Timestamp(..), _) => Class::Time,
            (_, Some(DataType::Utf8)) => Class::Text,
            (_, Some(DataType::Int64)) => Class::Int,
            (_, Some(DataType::Float64)) => Class::Number,
            (_, Some(DataType::Boolean)) => Class::Bool,
            _ => Class::Other,
        }
    }

    pub(super) fn is_number(&self) -> bool {
        matches!(self.class(), Class::Int | Class::Number)
    }

    fn cast_to(self, data_type: DataType) -> Self {
        let expr = if self.data_type == data_type { self.expr } else { cast(self.expr, data_type.clone()) };
        Self { expr, data_type }
    }

    /// As one of the types whose values are read one by one.
    pub(super) fn plain(self, role: &str) -> Result<(Expr, DataType), Error> {
        let wanted = match self.class() {
            Class::Json => JSON,
            Class::Null => DataType::Utf8,
            Class::Time => return Ok((functions::to_string(self.expr, time::Pattern::iso()), DataType::Utf8)),
            _ => plain(&self.data_type).ok_or_else(|| wrong_type(role, &self.data_type))?,
        };
        let typed = self.cast_to(wanted);
        Ok((typed.expr, typed.data_type))
    }
}

pub(super) fn wrong_type(role: &str, data_type: &DataType) -> Error {
    let message = format!("{role} cannot be a value of type {data_type}.");
    Error::new(Code::InvalidDataType, message)
}

/// One query's way from SQL to DataFusion.
pub(super) struct Lowering<'a> {
    pub(super) columns: &'a mut Columns,
    pub(super) alias: Option<&'a Ident>,
    /// Aggregates found so far, where they may stand (`None` elsewhere).
    pub(super) aggregates: Option<Vec<Expr>>,
    /// A path outside an aggregate was met.
    pub(super) names_record: bool,
    pub(super) misfit: Misfit,
    pub(super) depth: usize,
}

impl<'a> Lowering<'a> {
    pub(super) fn new(columns: &'a mut Columns, alias: Option<&'a Ident>) -> Self {
        Self { columns, alias, aggregates: None, names_record: false, misfit: Misfit::Fails, depth: 0 }
    }

    /// Any expression.
    pub(super) fn expr(&mut self, ast: &Ast) -> Result<Typed, Error> {
        if self.depth >= DEPTH_MAX {
            return Err(too_large());
        }
        self.depth += 1;
        let typed = self.any(ast);
        self.depth -= 1;
        typed
    }

    fn any(&mut self, ast: &Ast) -> Result<Typed, Error> {
        if let Some(path) = path::steps(ast)? {
            self.names_record = true;
            let (expr, data_type) = self.columns.column(path, self.alias)?;
            return Ok(Typed::new(expr, data_type));
        }
        match ast {
            Ast::Identifier(ion) => ion_literal(&ion.value),
            Ast::Value(value) => literal(&value.value),
            Ast::TypedString(typed) => match (&typed.data_type, &typed.value.value) {
                (sqlparser::ast::DataType::Timestamp(..), Value::SingleQuotedString(text)) => ion_literal(text),
                _ => Err(unsupported(ast)),
            },
            Ast::Nested(inner) => self.expr(inner),
            Ast::UnaryOp { op, expr } => self.unary(*op, expr, ast),
            Ast::BinaryOp { left, op, right } => self.binary(left, op, right, ast),
            Ast::IsNull(inner) => self.is_null(inner),
            Ast::IsNotNull(inner) => Ok(Typed::bool(self.is_null(inner)?.expr.is_false())),
            // IS MISSING, see sql.rs. Only JSON tells a value that is not there from one that is null.
            Ast::IsUnknown(inner) => Ok(Typed::bool(self.expr(inner)?.expr.is_null())),
            Ast::IsNotUnknown(inner) => Ok(Typed::bool(self.expr(inner)?.expr.is_not_null())),
            Ast::IsTrue(inner) => Ok(Typed::bool(self.condition(inner)?.is_true())),
            Ast::IsNotTrue(inner) => Ok(Typed::bool(self.condition(inner)?.is_not_true())),
            Ast::IsFalse(inner) => Ok(Typed::bool(self.condition(inner)?.is_false())),
            Ast::IsNotFalse(inner) => Ok(Typed::bool(self.condition(inner)?.is_not_false())),
            Ast::InList { expr, list, negated } => self.in_list(expr, list, *negated),
            Ast::Between { expr, negated, low, high } => {
                let (value, low, high) = (self.expr(expr)?, self.expr(low)?, self.expr(high)?);
                let inside = compare(value.clone(), Operator::GtEq, low)?.and(compare(value, Operator::LtEq, high)?);
                Ok(Typed::bool(if *negated { !inside } else { inside }))
            }
            Ast::Like { negated, any: false, expr, pattern, escape_char } => {
                let text = self.text(expr, "LIKE's left side")?;
                like(text, *negated, pattern, escape_char.as_ref().map(|value| &value.value))
            }
            Ast::Case { operand, conditions, else_result, .. } => {
                self.case(operand.as_deref(), conditions, else_result.as_deref())
            }
            Ast::InSubquery { .. } | Ast::Subquery(_) | Ast::Exists { .. } => {
                let message = "A query within a query is not supported: S3 Select reads one object once.";
                Err(Error::new(Code::UnsupportedSqlStructure, message))
            }
            _ => self.call(ast),
        }
    }

    /// An expression that says yes or no.
    pub(super) fn condition(&mut self, ast: &Ast) -> Result<Expr, Error> {
        let typed = self.expr(ast)?;
        match typed.class() {
            Class::Bool => Ok(typed.expr),
            Class::Null => Ok(lit(ScalarValue::Boolean(None))),
            Class::Json | Class::Text => Ok(functions::truth(typed.plain("A condition")?, self.misfit)),
            _ => Err(wrong_type("A condition", &typed.data_type)),
        }
    }

    /// An expression as text; numbers and the like are not.
    pub(super) fn text(&mut self, ast: &Ast, role: &str) -> Result<Expr, Error> {
        let typed = self.expr(ast)?;
        as_text(typed, role)
    }

    /// An expression as a number.
    pub(super) fn number(&mut self, typed: Typed, role: &str) -> Result<Typed, Error> {
        match typed.class() {
            Class::Int | Class::Number => Ok(typed),
            Class::Json | Class::Text | Class::Null => {
                Ok(Typed::new(functions::float(typed.plain(role)?, self.misfit), DataType::Float64))
            }
            _ => Err(Error::new(
                Code::IncorrectSqlFunctionArgumentType,
                format!("{role} cannot be of type {}.", typed.data_type),
            )),
        }
    }

    fn is_null(&mut self, inner: &Ast) -> Result<Typed, Error> {
        let typed = self.expr(inner)?;
        let value = if typed.class() == Class::Json { functions::present(typed.expr) } else { typed.expr };
        Ok(Typed::bool(value.is_null()))
    }

    fn unary(&mut self, op: UnaryOperator, inner: &Ast, ast: &Ast) -> Result<Typed, Error> {
        match op {
            UnaryOperator::Not => Ok(Typed::bool(!self.condition(inner)?)),
            UnaryOperator::Minus => {
                if let Ast::Value(value) = inner
                    && let Value::Number(digits, false) = &value.value
                {
                    return numeral(&format!("-{digits}"));
                }
                let typed = self.expr(inner)?;
                let typed = self.number(typed, "What is negated")?;
                arithmetic(Typed::new(lit(0_i64), DataType::Int64), '-', typed)
            }
            UnaryOperator::Plus => {
                let typed = self.expr(inner)?;
                self.number(typed, "What follows `+`")
            }
            _ => Err(unsupported(ast)),
        }
    }

    fn binary(&mut self, left: &Ast, op: &BinaryOperator, right: &Ast, ast: &Ast) -> Result<Typed, Error> {
        let comparison = match op {
            BinaryOperator::And | BinaryOperator::Or => return self.chain(ast, op),
            BinaryOperator::Eq => Operator::Eq,
            BinaryOperator::NotEq => Operator::NotEq,
            BinaryOperator::Lt => Operator::Lt,
            BinaryOperator::LtEq => Operator::LtEq,
            BinaryOperator::Gt => Operator::Gt,
            BinaryOperator::GtEq => Operator::GtEq,
            BinaryOperator::StringConcat => {
                let (left, right) = (self.text(left, "What `||` joins")?, self.text(right, "What `||` joins")?);
                let joined = Expr::BinaryExpr(BinaryExpr::new(Box::new(left), Operator::StringConcat, Box::new(right)));
                return Ok(Typed::new(joined, DataType::Utf8));
            }
            other => {
                let op = match other {
                    BinaryOperator::Plus => '+',
                    BinaryOperator::Minus => '-',
                    BinaryOperator::Multiply => '*',
                    BinaryOperator::Divide => '/',
                    BinaryOperator::Modulo => '%',
                    _ => return Err(unsupported(ast)),
                };
                let (left, right) = (self.expr(left)?, self.expr(right)?);
                let role = format!("What `{op}` reckons with");
                let (left, right) = (self.number(left, &role)?, self.number(right, &role)?);
                return arithmetic(left, op, right);
            }
        };
        let (left, right) = (self.expr(left)?, self.expr(right)?);
        Ok(Typed::bool(compare(left, comparison, right)?))
    }

    /// `a AND b AND c`, as flat as it was written: the parser nests it as deep as it is long. What stands in it may guard what
    /// else does, and all of it is looked at: a value that does not fit its cast is NULL here.
    fn chain(&mut self, ast: &Ast, op: &BinaryOperator) -> Result<Typed, Error> {
        let before = std::mem::replace(&mut self.misfit, Misfit::IsNull);
        let terms: Result<Vec<Expr>, Error> = links(ast, op).into_iter().map(|link| self.condition(link)).collect();
        self.misfit = before;
        let op = if *op == BinaryOperator::And { Operator::And } else { Operator::Or };
        Ok(Typed::bool(balanced(terms?, op)))
    }

    fn in_list(&mut self, value: &Ast, list: &[Ast], negated: bool) -> Result<Typed, Error> {
        let value = self.expr(value)?;
        let list: Vec<Typed> = list.iter().map(|item| self.expr(item)).collect::<Result<_, _>>()?;
        let is_plain = |class| value.class() == class && list.iter().all(|item| item.class() == class);
        if is_plain(Class::Text) || is_plain(Class::Int) {
            let list = list.into_iter().map(|item| item.cast_to(value.data_type.clone()).expr).collect();
            return Ok(Typed::bool(value.expr.in_list(list, negated)));
        }
        let terms: Result<Vec<Expr>, Error> =
            list.into_iter().map(|item| compare(value.clone(), Operator::Eq, item)).collect();
        let any = balanced(terms?, Operator::Or);
        Ok(Typed::bool(if negated { !any } else { any }))
    }

    fn case(
        &mut self,
        operand: Option<&Ast>,
        conditions: &[sqlparser::ast::CaseWhen],
        otherwise: Option<&Ast>,
    ) -> Result<Typed, Error> {
        let operand = operand.map(|operand| self.expr(operand)).transpose()?;
        let mut whens = Vec::with_capacity(conditions.len());
        let mut thens = Vec::with_capacity(conditions.len() + 1);
        for when in conditions {
            whens.push(match &operand {
                Some(operand) => {
                    let value = self.expr(&when.condition)?;
                    compare(operand.clone(), Operator::Eq, value)?
                }
                None => self.condition(&when.condition)?,
            });
            thens.push(self.expr(&when.result)?);
        }
        thens.extend(otherwise.map(|otherwise| self.expr(otherwise)).transpose()?);
        let (mut thens, data_type) = unify(thens)?;
        let otherwise = (thens.len() > whens.len()).then(|| thens.pop()).flatten().map(Box::new);
        let pairs = whens.into_iter().zip(thens).map(|(when, then)| (Box::new(when), Box::new(then))).collect();
        Ok(Typed::new(Expr::Case(Case::new(None, pairs, otherwise)), data_type))
    }
}

/// The terms of a chain, left to right.
pub(super) fn links<'b>(ast: &'b Ast, op: &BinaryOperator) -> Vec<&'b Ast> {
    let (mut at, mut links) = (ast, Vec::new());
    loop {
        match at {
            Ast::BinaryOp { left, op: this, right } if this == op => {
                links.push(&**right);
                at = left;
            }
            _ => {
                links.push(at);
                links.reverse();
                return links;
            }
        }
    }
}

/// Terms joined so that the tree is as shallow as it can be.
pub(super) fn balanced(mut terms: Vec<Expr>, op: Operator) -> Expr {
    while terms.len() > 1 {
        let mut joined = Vec::with_capacity(terms.len().div_ceil(2));
        let mut left = terms.into_iter();
        while let Some(first) = left.next() {
            joined.push(match left.next() {
                Some(second) => Expr::BinaryExpr(BinaryExpr::new(Box::new(first), op, Box::new(second))),
                None => first,
            });
        }
        terms = joined;
    }
    terms.pop().unwrap_or_else(|| lit(op == Operator::And))
}

pub(super) fn as_text(typed: Typed, role: &str) -> Result<Expr, Error> {
    match typed.class() {
        Class::Json => Ok(functions::text(typed.expr)),
        Class::Text | Class::Null => Ok(typed.cast_to(DataType::Utf8).expr),
        _ => Err(Error::new(
            Code::IncorrectSqlFunctionArgumentType,
            format!("{role} must be text, not of type {}: CAST it AS STRING.", typed.data_type),
        )),
    }
}

/// Compares natively where both sides are of a kind, and value by value where one may be anything.
pub(super) fn compare(left: Typed, op: Operator, right: Typed) -> Result<Expr, Error> {
    let native = |left: Expr, right: Expr| Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)));
    let (a, b) = (left.class(), right.class());
    if a == Class::Null || b == Class::Null {
        return Ok(lit(ScalarValue::Boolean(None)));
    }
    if a == Class::Time || b == Class::Time {
        let time = |typed: Typed| match typed.class() {
            Class::Time => Ok(typed.expr),
            Class::Json | Class::Text => Ok(functions::cast_time(as_text(typed, "A timestamp")?, Misfit::IsNull)),
            _ => Err(wrong_type("What is compared with a timestamp", &typed.data_type)),
        };
        return Ok(native(time(left)?, time(right)?));
    }
    let is_number = |class| matches!(class, Class::Int | Class::Number);
    if a != Class::Json
        && (a == b || (is_number(a) && is_number(b)))
        && (a != Class::Other || left.data_type == right.data_type)
    {
        return Ok(native(left.expr, right.expr));
    }
    let order = functions::compare(left.plain("What is compared")?, right.plain("What is compared")?);
    let is = |codes: &[i8]| order.clone().in_list(codes.iter().map(|code| lit(*code)).collect(), false);
    Ok(match op {
        Operator::Eq => is(&[0]),
        Operator::NotEq => is(&[-1, 1, 2]),
        Operator::Lt => is(&[-1]),
        Operator::LtEq => is(&[-1, 0]),
        Operator::Gt => is(&[1]),
        _ => is(&[0, 1]),
    })
}

fn arithmetic(left: Typed, op: char, right: Typed) -> Result<Typed, Error> {
    if left.class() == Class::Int && right.class() == Class::Int {
        let (left, right) = (left.cast_to(DataType::Int64).expr, right.cast_to(DataType::Int64).expr);
        return Ok(Typed::new(functions::whole_arithmetic(op, left, right), DataType::Int64));
    }
    let operator = match op {
        '+' => Operator::Plus,
        '-' => Operator::Minus,
        '*' => Operator::Multiply,
        '/' => Operator::Divide,
        _ => Operator::Modulo,
    };
    let data_type = BinaryTypeCoercer::new(&left.data_type, &operator, &right.data_type)
        .get_result_type()
        .map_err(|error| Error::new(Code::InvalidDataType, error.strip_backtrace()))?;
    Ok(Typed::new(Expr::BinaryExpr(BinaryExpr::new(Box::new(left.expr), operator, Box::new(right.expr))), data_type))
}

/// Expressions as ones of the same type, and that type.
pub(super) fn unify(all: Vec<Typed>) -> Result<(Vec<Expr>, DataType), Error> {
    let mut classes = all.iter().map(Typed::class).filter(|class| *class != Class::Null);
    let first = classes.next().unwrap_or(Class::Null);
    let common = classes.try_fold(first, |common, class| match (common, class) {
        (a, b) if a == b => Some(a),
        (Class::Json, _) | (_, Class::Json) => Some(Class::Json),
        (Class::Int | Class::Number, Class::Int | Class::Number) => Some(Class::Number),
        (Class::Other, _) | (_, Class::Other) => None,
        _ => Some(Class::Text),
    });
    let types = || all.iter().filter(|typed| typed.class() != Class::Null).map(|typed| &typed.data_type);
    let same = types().next().filter(|first| types().all(|other| other == *first)).cloned();
    let data_type = match (common, same) {
        (Some(Class::Null), _) => DataType::Utf8,
        (Some(_), Some(same)) => same,
        (Some(Class::Json), None) => JSON,
        (Some(Class::Int), None) => DataType::Int64,
        (Some(Class::Number), None) => DataType::Float64,
        (Some(Class::Time), None) => timestamp(),
        (Some(Class::Text), None) => DataType::Utf8,
        _ => {
            let message = "The results of CASE, COALESCE and NULLIF must be of types that fit each other.";
            return Err(Error::new(Code::InvalidDataType, message));
        }
    };
    let as_common = |typed: Typed| match typed.class() {
        Class::Null => Ok(lit(ScalarValue::try_from(&data_type).unwrap_or(ScalarValue::Null))),
        _ if typed.data_type == data_type => Ok(typed.expr),
        _ if data_type == JSON => Ok(functions::json(typed.plain("A value beside JSON")?)),
        Class::Json => Ok(functions::text(typed.expr)),
        _ => Ok(typed.cast_to(data_type.clone()).expr),
    };
    Ok((all.into_iter().map(as_common).collect::<Result<_, Error>>()?, data_type))
}

fn unsupported(ast: &Ast) -> Error {
    let text: String = ast.to_string().chars().take(200).collect();
    Error::new(Code::UnsupportedSqlOperation, format!("`{text}` is not supported by S3 Select."))
}

fn literal(value: &Value) -> Result<Typed, Error> {
    match value {
        Value::Number(text, false) => numeral(text),
        Value::SingleQuotedString(text) => Ok(Typed::new(lit(text.as_str()), DataType::Utf8)),
        Value::Boolean(truth) => Ok(Typed::bool(lit(*truth))),
        Value::Null => Ok(Typed::new(lit(ScalarValue::Null), DataType::Null)),
        other => Err(Error::new(Code::LexerInvalidLiteral, format!("`{other}` is not a literal of S3 Select."))),
    }
}

fn numeral(text: &str) -> Result<Typed, Error> {
    match number(text) {
        Some(Val::Int(number)) => Ok(Typed::new(lit(number), DataType::Int64)),
        Some(Val::Float(number)) => Ok(Typed::new(lit(number), DataType::Float64)),
        _ => Err(Error::new(Code::LexerInvalidLiteral, format!("`{text}` is out of the range of numbers."))),
    }
}

/// A timestamp in back-quotes.
fn ion_literal(text: &str) -> Result<Typed, Error> {
    let micros = time::parse(text).ok_or_else(|| {
        Error::new(
            Code::LexerInvalidLiteral,
            format!("`{text}` is not a timestamp such as `2007-04-05T14:30Z`; other Ion literals are not supported."),
        )
    })?;
    Ok(moment(micros))
}

pub(super) fn moment(micros: i64) -> Typed {
    Typed::new(lit(ScalarValue::TimestampMicrosecond(Some(micros), Some("UTC".into()))), timestamp())
}

/// LIKE, its pattern as DataFusion writes it: escaped by a backslash.
fn like(text: Expr, negated: bool, pattern: &Ast, escape: Option<&Value>) -> Result<Typed, Error> {
    let bad = |message: &'static str| Error::new(Code::LikeInvalidInputs, message);
    let Ast::Value(value) = pattern else { return Err(bad("LIKE's pattern must be a text in single quotes.")) };
    let Value::SingleQuotedString(pattern) = &value.value else {
        return Err(bad("LIKE's pattern must be a text in single quotes."));
    };
    let escape = match escape {
        None => None,
        Some(Value::SingleQuotedString(text)) => {
            let mut chars = text.chars();
            match (chars.next(), chars.next()) {
                (Some(escape), None) => Some(escape),
                _ => return Err(bad("LIKE's ESCAPE must be one character.")),
            }
        }
        Some(_) => return Err(bad("LIKE's ESCAPE must be one character in single quotes.")),
    };
    let pattern = like_pattern(pattern, escape)?;
    Ok(Typed::bool(Expr::Like(Like::new(negated, Box::new(text), Box::new(lit(pattern)), None, false))))
}

fn like_pattern(pattern: &str, escape: Option<char>) -> Result<String, Error> {
    let mut written = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(next) = chars.next() {
        if Some(next) == escape {
            match chars.next() {
                Some(meant) if meant == '%' || meant == '_' || Some(meant) == escape => {
                    if matches!(meant, '%' | '_' | '\\') {
                        written.push('\\');
                    }
                    written.push(meant);
                }
                _ => {
                    let message = "In LIKE's pattern the escape character must stand before `%`, `_` or itself.";
                    return Err(Error::new(Code::EvaluatorLikePatternInvalidEscapeSequence, message));
                }
            }
        } else if next == '\\' {
            written.push_str("\\\\");
        } else {
            written.push(next);
        }
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn likes_patterns_escape_by_backslash() {
        assert_eq!(like_pattern("a%b_", None).expect("plain"), "a%b_");
        assert_eq!(like_pattern("a!%b!!c", Some('!')).expect("escaped"), "a\\%b!c");
        assert_eq!(like_pattern("a\\b", None).expect("a backslash"), "a\\\\b");
        assert_eq!(like_pattern("a\\%b", Some('\\')).expect("its own"), "a\\%b");
        assert!(like_pattern("a!b", Some('!')).is_err() && like_pattern("a!", Some('!')).is_err());
    }

    #[test]
    fn chains_become_shallow_trees() {
        fn depth(expr: &Expr) -> usize {
            match expr {
                Expr::BinaryExpr(both) => 1 + depth(&both.left).max(depth(&both.right)),
                _ => 0,
            }
        }
        let terms: Vec<Expr> = (0..1000_i64).map(lit).collect();
        assert_eq!(depth(&balanced(terms, Operator::Or)), 10);
    }
}
