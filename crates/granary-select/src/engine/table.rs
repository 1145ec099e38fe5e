//! Records as a table that DataFusion scans: read batch by batch as they are asked for, once.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::stream;

use super::csv::CsvReader;
use super::json::JsonReader;
use super::path::Step;
use crate::error::Error;

/// Where records come from, and what of them is wanted.
pub(super) enum Reader {
    Csv { reader: CsvReader, used: Vec<usize>, is_whole: bool },
    Json { reader: JsonReader, used: Vec<Vec<Step>> },
}

impl Reader {
    async fn batch(&mut self, schema: &SchemaRef) -> Result<Option<RecordBatch>, Error> {
        match self {
            Self::Csv { reader, used, is_whole } => reader.batch(schema, used, *is_whole).await,
            Self::Json { reader, used } => reader.batch(schema, used).await,
        }
    }
}

struct Records {
    schema: SchemaRef,
    reader: Mutex<Option<Reader>>,
}

impl fmt::Debug for Records {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Records")
    }
}

impl PartitionStream for Records {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner).take();
        let schema = Arc::clone(&self.schema);
        let batches = stream::try_unfold(reader, move |reader| {
            let schema = Arc::clone(&schema);
            async move {
                let Some(mut reader) = reader else {
                    return Err(DataFusionError::Internal("the object is read once".to_owned()));
                };
                let batch = reader.batch(&schema).await.map_err(|error| DataFusionError::External(Box::new(error)))?;
                // Each batch is some milliseconds of work: others on this thread have their turn.
                tokio::task::yield_now().await;
                Ok(batch.map(|batch| (batch, Some(reader))))
            }
        });
        Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&self.schema), batches))
    }
}

/// The table.
pub(super) fn table(schema: SchemaRef, reader: Reader) -> Result<Arc<dyn TableProvider>, DataFusionError> {
    let records = Records { schema: Arc::clone(&schema), reader: Mutex::new(Some(reader)) };
    Ok(Arc::new(StreamingTable::try_new(schema, vec![Arc::new(records)])?))
}
