//! The engine: a request becomes a plan of DataFusion's over the object's records, and its answer events.

mod calls;
mod columns;
mod csv;
mod feed;
mod functions;
mod json;
mod lower;
mod open;
mod output;
mod parquet;
mod path;
mod plan;
mod sql;
mod table;
mod time;
mod value;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::future::FutureExt as _;
use futures::stream::{self, BoxStream, StreamExt as _};
use tokio::time::{Instant, timeout_at};

use self::feed::Meter;
use self::output::Writer;
use self::parquet::Source;
use crate::error::{Code, Error};
use crate::event::Event;
use crate::object::Object;
use crate::request::{Limits, Select};

tokio::task_local! {
    static IS_EVALUATING: bool;
}

/// Whether this thread is at work of a query's own, where a panic is caught and answered. (Reading the object is not.)
#[must_use]
pub fn is_evaluating() -> bool {
    IS_EVALUATING.try_with(|is| *is).unwrap_or(false)
}

/// Reads the object for a query: what goes wrong there is not contained.
async fn reading<F: Future>(work: F) -> F::Output {
    IS_EVALUATING.scope(false, work).await
}

/// Evaluates; a panic is an error.
async fn evaluating<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let caught = AssertUnwindSafe(IS_EVALUATING.scope(true, work)).catch_unwind().await;
    caught.unwrap_or_else(|_| Err(broken()))
}

/// An answer: events up to `End`, or an error as the last.
pub type Events = BoxStream<'static, Result<Event, Error>>;

/// Bytes of records from which on they are sent.
const CHUNK_BYTES: usize = 128 << 10;

/// How often a client hears that there is nothing to hear yet.
const TICK: Duration = Duration::from_secs(3);

/// Runs a query up to its first event.
///
/// What is wrong with the request, and most of what is wrong with the object, is an error here; the rest is the last item of
/// the events. Dropping the events ends all work.
///
/// # Errors
/// Under S3's codes.
pub async fn run(select: Select, object: Arc<dyn Object>, limits: Limits) -> Result<Events, Error> {
    select.check()?;
    let deadline = Instant::now() + limits.time;
    let begin = evaluating(begin(select, object, limits, deadline));
    let mut running = timeout_at(deadline, begin).await.map_err(|_| too_slow(limits.time))??;
    let first = evaluating(running.next()).await?;
    let first = stream::iter(first.map(Ok));
    Ok(first
        .chain(stream::unfold(Some(running), |running| async move {
            let mut running = running?;
            match evaluating(running.next()).await {
                Ok(Some(event)) => Some((Ok(event), Some(running))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        }))
        .boxed())
}

fn too_slow(time: Duration) -> Error {
    let message = format!("The query was given up after {} s, the longest that one may take here.", time.as_secs());
    Error::new(Code::Busy, message)
}

fn broken() -> Error {
    Error::new(Code::InternalError, "The query could not be evaluated.")
}

/// A query being answered.
struct Running {
    batches: SendableRecordBatchStream,
    /// Where errors of reading Parquet are left.
    source: Option<Source>,
    writer: Writer,
    /// The batch that is being written, and its next row.
    batch: Option<(RecordBatch, usize)>,
    out: Vec<u8>,
    meter: Arc<Meter>,
    wants_progress: bool,
    told: Instant,
    deadline: Instant,
    limits: Limits,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Records,
    Progress,
    Stats,
    End,
    Over,
}

async fn begin(select: Select, object: Arc<dyn Object>, limits: Limits, deadline: Instant) -> Result<Running, Error> {
    let meter = Arc::new(Meter::default());
    let opened = open::open(&select, object, &limits, Arc::clone(&meter)).await?;
    let source = opened.source();
    let wants_progress = select.progress;
    let planned = on_deep_stack(move || plan::plan(select, opened, &limits)).await??;
    let batches = planned.start().map_err(|error| of_datafusion(&error))?;
    let (batch, out, told) = (None, Vec::new(), Instant::now());
    let (writer, phase) = (planned.writer, Phase::Records);
    Ok(Running { batches, source, writer, batch, out, meter, wants_progress, told, deadline, limits, phase })
}

/// Parsing and planning recurse as deep as an expression is; a thread's stack of their own holds that.
async fn on_deep_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Error> {
    const STACK_BYTES: usize = 128 << 20;
    let work = move || {
        let thread = std::thread::Builder::new().name("select-plan".to_owned()).stack_size(STACK_BYTES);
        let thread = thread.spawn(move || IS_EVALUATING.sync_scope(true, work));
        thread
            .map_err(|error| Error::new(Code::Busy, format!("no thread to plan in: {error}")))?
            .join()
            .map_err(|_| broken())
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| Err(broken()))
}

impl Running {
    async fn next(&mut self) -> Result<Option<Event>, Error> {
        loop {
            let now = Instant::now();
            if now >= self.deadline {
                return Err(too_slow(self.limits.time));
            }
            if self.phase != Phase::Records {
                return Ok(self.ending());
            }
            if self.wants_progress && now >= self.told + TICK {
                self.told = now;
                return Ok(Some(Event::Progress(self.meter.counts())));
            }
            if let Some(records) = self.write()? {
                self.told = now;
                return Ok(Some(records));
            }
            match timeout_at(self.deadline.min(now + TICK), self.batches.next()).await {
                Ok(Some(batch)) => self.batch = Some((batch.map_err(|error| self.error(&error))?, 0)),
                Ok(None) => {
                    self.phase = if self.wants_progress { Phase::Progress } else { Phase::Stats };
                    if let Some(rest) = self.flush() {
                        return Ok(Some(rest));
                    }
                }
                // At the deadline the loop's head says so.
                Err(_) if Instant::now() < self.deadline && !self.wants_progress => return Ok(Some(Event::Cont)),
                Err(_) => {}
            }
        }
    }

    fn ending(&mut self) -> Option<Event> {
        let counts = self.meter.counts();
        let (event, next) = match self.phase {
            Phase::Progress => (Some(Event::Progress(counts)), Phase::Stats),
            Phase::Stats => (Some(Event::Stats(counts)), Phase::End),
            Phase::End => (Some(Event::End), Phase::Over),
            Phase::Records | Phase::Over => (None, Phase::Over),
        };
        self.phase = next;
        event
    }

    /// Writes rows until there is enough to send. `None`: the batch is at its end.
    fn write(&mut self) -> Result<Option<Event>, Error> {
        let Some((batch, row)) = &mut self.batch else { return Ok(None) };
        while *row < batch.num_rows() {
            self.writer.write(batch, *row, &mut self.out)?;
            *row += 1;
            if self.out.len() >= CHUNK_BYTES {
                return Ok(self.flush());
            }
        }
        self.batch = None;
        Ok(None)
    }

    fn flush(&mut self) -> Option<Event> {
        if self.out.is_empty() {
            return None;
        }
        self.meter.returned(self.out.len());
        Some(Event::Records(std::mem::take(&mut self.out).into()))
    }

    fn error(&self, error: &DataFusionError) -> Error {
        self.source.as_ref().and_then(Source::take_failure).unwrap_or_else(|| of_datafusion(error))
    }
}

/// DataFusion's error under a code of S3's.
fn of_datafusion(error: &DataFusionError) -> Error {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(at) = source {
        if let Some(ours) = at.downcast_ref::<Error>() {
            return ours.clone();
        }
        if let Some(DataFusionError::External(inner)) = at.downcast_ref::<DataFusionError>()
            && let Some(ours) = inner.downcast_ref::<Error>()
        {
            return ours.clone();
        }
        source = at.source();
    }
    match error.find_root() {
        DataFusionError::ArrowError(error, _) => match &**error {
            ArrowError::CastError(text) | ArrowError::ParseError(text) => Error::new(Code::CastFailed, text.clone()),
            ArrowError::DivideByZero => Error::new(Code::EvaluatorInvalidArguments, "Division by zero."),
            ArrowError::ArithmeticOverflow(text) => Error::new(Code::IntegerOverflow, text.clone()),
            ArrowError::ParquetError(text) => {
                Error::new(Code::ParquetParsingError, format!("The input cannot be read as Parquet: {text}"))
            }
            other => Error::new(Code::ExternalEvalException, other.to_string()),
        },
        DataFusionError::ParquetError(error) => parquet::of_parquet(error),
        DataFusionError::ResourcesExhausted(_) => {
            Error::new(Code::ExternalEvalException, "The query needs more memory than one may take here.")
        }
        other => Error::new(Code::ExternalEvalException, other.strip_backtrace()),
    }
}
