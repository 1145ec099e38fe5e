//! What of the records a query names: each of it becomes a column of the table that DataFusion is given.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::functions::core::expr_fn::get_field;
use datafusion::logical_expr::{Expr, cast, ident};
use sqlparser::ast::Ident;

use super::path::{Name, Step};
use super::sql::is_object;
use super::value::{JSON, plain};
use crate::error::{Code, Error};
use crate::request::Header;

/// Columns of a CSV record at most.
pub(super) const COLUMNS_MAX: usize = 16_384;

/// The kind of records, and what has been named of them so far.
#[derive(Debug)]
pub(super) enum Columns {
    /// Fields by position; names, where there are some.
    Csv { header: Header, names: Vec<String>, used: Vec<usize> },
    /// Paths into each record.
    Json { used: Vec<Vec<Step>> },
    /// Columns of their own types.
    Parquet { schema: SchemaRef },
}

/// The column of whole CSV records.
pub(super) const RECORD: &str = "record";

impl Columns {
    /// The table's schema. `is_whole`: all of every record is asked for.
    pub(super) fn schema(&self, is_whole: bool) -> SchemaRef {
        let named = |count: usize, data_type: &DataType| -> Vec<Field> {
            (0..count).map(|at| Field::new(format!("c{at}"), data_type.clone(), true)).collect()
        };
        Arc::new(Schema::new(match self {
            Self::Parquet { schema } => return Arc::clone(schema),
            Self::Csv { used, .. } => {
                let mut fields = named(used.len(), &DataType::Utf8);
                if is_whole {
                    let item = Field::new_list_field(DataType::Utf8, true);
                    fields.push(Field::new(RECORD, DataType::List(Arc::new(item)), true));
                }
                fields
            }
            Self::Json { used } => named(used.len(), &JSON),
        }))
    }

    /// The column that a path means.
    pub(super) fn column(&mut self, mut path: Vec<Step>, alias: Option<&Ident>) -> Result<(Expr, DataType), Error> {
        let names_object = path.first().and_then(Step::key).is_some_and(|name| {
            let quote_style = name.is_exact.then_some('"');
            is_object(
                &Ident { value: name.text.clone(), quote_style, span: sqlparser::tokenizer::Span::empty() },
                alias,
            )
        });
        let is_alone = path.len() == 1;
        if names_object && !is_alone {
            path.remove(0);
        }
        match self {
            Self::Json { used } => {
                let path = if names_object && is_alone && alias.is_some_and(|alias| names(&path, alias)) {
                    Vec::new()
                } else {
                    path
                };
                let at = position(used, path);
                Ok((ident(format!("c{at}")), JSON))
            }
            Self::Csv { header, names, used } => {
                let name = only_name(&path)?;
                let at = match header {
                    Header::Use => match name.find(names.iter().map(String::as_str))? {
                        Some(at) => at,
                        None => name.position().ok_or_else(|| missing(name, names.iter().map(String::as_str)))?,
                    },
                    Header::None | Header::Ignore => name.position().ok_or_else(|| {
                        let message = format!(
                            "The column `{}` cannot be found: columns are named by the first record only with FileHeaderInfo USE, else they are `_1`, `_2` and so on.",
                            name.text
                        );
                        Error::new(Code::MissingHeaders, message)
                    })?,
                };
                if at >= COLUMNS_MAX {
                    let message =
                        format!("`{}` is beyond the {COLUMNS_MAX} columns that a record may have.", name.text);
                    return Err(Error::new(Code::InvalidColumnIndex, message));
                }
                let at = position(used, at);
                Ok((ident(format!("c{at}")), DataType::Utf8))
            }
            Self::Parquet { schema } => parquet(schema, &path),
        }
    }
}

fn names(path: &[Step], alias: &Ident) -> bool {
    path.first().and_then(Step::key).is_some_and(|name| name.fits(&alias.value))
}

fn position<T: PartialEq>(used: &mut Vec<T>, wanted: T) -> usize {
    used.iter().position(|known| *known == wanted).unwrap_or_else(|| {
        used.push(wanted);
        used.len() - 1
    })
}

fn only_name(path: &[Step]) -> Result<&Name, Error> {
    match path {
        [Step::Key(name)] => Ok(name),
        [Step::Key(first), Step::Key(_)] => {
            let message = format!("`{}` is not the object's alias.", first.text);
            Err(Error::new(Code::InvalidTableAlias, message))
        }
        _ => Err(Error::new(Code::InvalidKeyPath, "A CSV record has columns only, and no paths into them.")),
    }
}

fn missing<'a>(name: &Name, columns: impl Iterator<Item = &'a str>) -> Error {
    let known: Vec<_> = columns.take(20).collect();
    let message = format!("There is no column `{}`. There are: {}.", name.text, known.join(", "));
    Error::new(Code::MissingHeaders, message)
}

/// A Parquet column, or a member of a struct in one; texts and whole numbers as the one type that they are reckoned with.
fn parquet(schema: &SchemaRef, path: &[Step]) -> Result<(Expr, DataType), Error> {
    let columns = || schema.fields().iter().map(|field| field.name().as_str());
    let bad = |what: &str| {
        Error::new(Code::InvalidKeyPath, format!("The path leads into {what}: only structs have members."))
    };
    let Some((Step::Key(name), rest)) = path.split_first() else { return Err(bad("no column")) };
    let at = match name.find(columns())? {
        Some(at) => at,
        None => name.position().filter(|at| *at < schema.fields().len()).ok_or_else(|| missing(name, columns()))?,
    };
    let mut field = Arc::clone(&schema.fields()[at]);
    let mut expr = ident(field.name());
    for step in rest {
        let (Step::Key(name), DataType::Struct(members)) = (step, field.data_type()) else {
            return Err(bad(field.name()));
        };
        let members = members.clone();
        let names = || members.iter().map(|member| member.name().as_str());
        let at = name.find(names())?.ok_or_else(|| missing(name, names()))?;
        field = Arc::clone(&members[at]);
        expr = get_field(expr, field.name().as_str());
    }
    let data_type = field.data_type();
    let simple = match data_type {
        DataType::Dictionary(..) | DataType::LargeUtf8 | DataType::Utf8View => plain(data_type),
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => Some(super::functions::timestamp()),
        _ => None,
    };
    Ok(match simple {
        Some(simple) if simple != *data_type => (cast(expr, simple.clone()), simple),
        _ => (expr, data_type.clone()),
    })
}
