//! The plan: conditions, what is selected, and the table under it.

use std::sync::Arc;

use datafusion::common::tree_node::TreeNode as _;
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::{Expr, Operator, ident};
use datafusion::object_store::memory::InMemory;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use datafusion::prelude::{SessionConfig, SessionContext};
use sqlparser::ast::{BinaryOperator, Expr as Ast, Ident};

use super::columns::{Columns, RECORD};
use super::json::JsonReader;
use super::lower::{Lowering, balanced, links};
use super::of_datafusion;
use super::open::Opened;
use super::output::{Record, Writer};
use super::parquet::{ParquetTable, STORE};
use super::path::{self, Step};
use super::sql::{self, Parsed};
use super::table::{Reader, table};
use crate::error::{Code, Error};
use crate::request::{Limits, Select};

/// Rows that are evaluated at once.
const BATCH_ROWS: usize = 2048;

/// No limit, and yet one: what stands above is not moved below it.
const ALL_ROWS: usize = 1 << 60;

/// A query ready to run.
pub(super) struct Planned {
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    pub(super) writer: Writer,
}

impl Planned {
    pub(super) fn start(&self) -> Result<SendableRecordBatchStream, DataFusionError> {
        execute_stream(Arc::clone(&self.plan), Arc::clone(&self.context))
    }
}

/// What a query's expressions became.
struct Lowered {
    /// Conditions, each looked at only for what fulfils those before it.
    filters: Vec<Expr>,
    aggregates: Vec<Expr>,
    /// What is selected; `None`: every column there is.
    items: Option<Vec<Expr>>,
    names: Vec<String>,
    /// All of every record.
    is_whole: bool,
}

pub(super) fn plan(select: Select, opened: Opened, limits: &Limits) -> Result<Planned, Error> {
    let query = sql::parse(&select.expression)?;
    let mut columns = match &opened {
        Opened::Csv { header, names, .. } => Columns::Csv { header: *header, names: names.clone(), used: Vec::new() },
        Opened::Json { .. } => Columns::Json { used: Vec::new() },
        Opened::Parquet { schema, .. } => Columns::Parquet { schema: Arc::clone(schema) },
    };
    if !query.path.is_empty() && !matches!(columns, Columns::Json { .. }) {
        let message = "A path in FROM is for JSON only: CSV and Parquet are read by FROM S3Object.";
        return Err(Error::new(Code::InvalidKeyPath, message));
    }
    let lowered = lower(&query, &mut columns)?;
    let (context, frame, record) =
        build(opened, columns, query.path, &lowered, limits).map_err(|error| of_datafusion(&error))?;
    let frame = shape(frame, lowered, query.limit).map_err(|error| of_datafusion(&error))?;
    let task = Arc::new(frame.task_ctx());
    // Nothing is waited for: the tables here know all that they are asked.
    let plan = futures::executor::block_on(frame.create_physical_plan()).map_err(|error| of_datafusion(&error))?;
    drop(context);
    Ok(Planned { plan, context: task, writer: Writer::new(record, select.output) })
}

fn lower(query: &Parsed, columns: &mut Columns) -> Result<Lowered, Error> {
    let alias = query.alias.as_ref();
    let mut lowering = Lowering::new(columns, alias);
    let mut filters: Vec<Expr> = Vec::new();
    for term in query.filter.iter().flat_map(|filter| links(bare(filter), &BinaryOperator::And)) {
        let term = lowering.condition(term)?;
        // What cannot fail may be looked at together, and by the scan too.
        match filters.last_mut() {
            Some(last) if !can_fail(&term) => *last = balanced(vec![last.clone(), term], Operator::And),
            _ => filters.push(term),
        }
    }
    let (mut aggregates, mut exprs, mut names) = (Vec::new(), Vec::new(), Vec::new());
    let Some(items) = &query.items else {
        let items = match lowering.columns {
            Columns::Json { .. } => Some(vec![lowering.columns.column(Vec::new(), alias)?.0]),
            Columns::Csv { .. } => Some(vec![ident(RECORD)]),
            Columns::Parquet { .. } => None,
        };
        return Ok(Lowered { filters, aggregates, items, names, is_whole: true });
    };
    lowering.aggregates = Some(Vec::new());
    lowering.names_record = false;
    for (at, (item, known)) in items.iter().enumerate() {
        let typed = lowering.expr(item)?;
        exprs.push(typed.expr.alias(format!("o{at}")));
        names.push(name_of(item, known.as_ref(), at)?);
    }
    aggregates.append(lowering.aggregates.get_or_insert_default());
    if !aggregates.is_empty() && lowering.names_record {
        let message = "A select list with aggregates can hold nothing else of the records: S3 Select has no GROUP BY.";
        return Err(Error::new(Code::UnsupportedSqlStructure, message));
    }
    Ok(Lowered { filters, aggregates, items: Some(exprs), names, is_whole: false })
}

fn bare(mut ast: &Ast) -> &Ast {
    while let Ast::Nested(inner) = ast {
        ast = inner;
    }
    ast
}

/// Whether an expression may end the query: it casts, or reckons.
fn can_fail(expr: &Expr) -> bool {
    let fails = |expr: &Expr| {
        Ok(match expr {
            Expr::Cast(_) => true,
            Expr::ScalarFunction(function) => {
                let name = function.name();
                name.starts_with("cast_") || matches!(name, "float" | "truth" | "arithmetic" | "date_add" | "size")
            }
            _ => false,
        })
    };
    expr.exists(fails).unwrap_or(true)
}

/// A result's name: the alias, the last name of a path, or its place.
fn name_of(item: &Ast, alias: Option<&Ident>, at: usize) -> Result<String, Error> {
    if let Some(alias) = alias {
        return Ok(alias.value.clone());
    }
    let last = path::steps(item)?.and_then(|steps| steps.last().and_then(Step::key).map(|name| name.text.clone()));
    Ok(last.unwrap_or_else(|| format!("_{}", at + 1)))
}

/// The table, and a frame over it.
fn build(
    opened: Opened,
    columns: Columns,
    path: Vec<Step>,
    lowered: &Lowered,
    limits: &Limits,
) -> Result<(SessionContext, DataFrame, Record), DataFusionError> {
    let context = context(limits)?;
    let is_whole = lowered.is_whole;
    let schema = columns.schema(is_whole);
    let names = lowered.names.clone();
    let (table, record) = match (opened, columns) {
        (Opened::Csv { reader, .. }, Columns::Csv { names: header, used, .. }) => {
            let record =
                if is_whole { Record::Csv { names: header } } else { Record::Columns { names, is_json: false } };
            (table(schema, Reader::Csv { reader, used, is_whole })?, record)
        }
        (Opened::Json { feed, begins, value_bytes_max, left_bytes }, Columns::Json { used }) => {
            let record = if is_whole { Record::Json } else { Record::Columns { names, is_json: true } };
            let reader = JsonReader::new(feed, path, value_bytes_max, left_bytes, begins);
            (table(schema, Reader::Json { reader, used })?, record)
        }
        (Opened::Parquet { source, schema }, _) => {
            let all = || schema.fields().iter().map(|field| field.name().clone()).collect();
            let names = if is_whole { all() } else { names };
            let table = ParquetTable { source, schema: Arc::clone(&schema) };
            (Arc::new(table) as _, Record::Columns { names, is_json: false })
        }
        _ => return Err(DataFusionError::Internal("the columns are of another input".to_owned())),
    };
    let frame = context.read_table(table)?;
    Ok((context, frame, record))
}

fn context(limits: &Limits) -> Result<SessionContext, DataFusionError> {
    let config = SessionConfig::new()
        .with_target_partitions(1)
        .with_batch_size(BATCH_ROWS)
        .with_collect_statistics(false)
        .with_create_default_catalog_and_schema(false);
    let no_disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_pool(Arc::new(GreedyMemoryPool::new(limits.memory_bytes)))
        .with_disk_manager_builder(no_disk)
        .build_arc()?;
    runtime.register_object_store(ObjectStoreUrl::parse(STORE)?.as_ref(), Arc::new(InMemory::new()));
    Ok(SessionContext::new_with_state(SessionStateBuilder::new().with_config(config).with_runtime_env(runtime).build()))
}

/// The frame with what is asked of it.
fn shape(mut frame: DataFrame, lowered: Lowered, limit: Option<usize>) -> Result<DataFrame, DataFusionError> {
    for (at, filter) in lowered.filters.into_iter().enumerate() {
        if at > 0 {
            // A guard before a cast is a guard only if it is looked at first.
            frame = frame.limit(0, Some(ALL_ROWS))?;
        }
        frame = frame.filter(filter)?;
    }
    if !lowered.aggregates.is_empty() {
        frame = frame.aggregate(Vec::new(), lowered.aggregates)?;
    }
    if let Some(items) = lowered.items {
        frame = frame.select(items)?;
    }
    match limit {
        Some(limit) => frame.limit(0, Some(limit)),
        None => Ok(frame),
    }
}
