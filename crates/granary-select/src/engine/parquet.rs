//! Parquet: DataFusion's own scan over ranges of the object. Only the chunks of the columns that a query names are read, of the
//! row groups that its condition does not rule out.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::{Session, TableProvider};
use datafusion::datasource::TableType;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::ParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::DataFusionError;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown};
use datafusion::parquet::arrow::arrow_reader::ArrowReaderOptions;
use datafusion::parquet::arrow::async_reader::AsyncFileReader;
use datafusion::parquet::arrow::parquet_to_arrow_schema;
use datafusion::parquet::errors::ParquetError;
use datafusion::parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};

use super::feed::Meter;
use crate::error::{Code, Error};
use crate::object::Object;

/// What the scan asks a store of objects for; never looked up.
pub(super) const STORE: &str = "select://object";

/// Read with the footer's length, in the hope that the footer is in it.
const FOOTER_BYTES: usize = 64 << 10;

/// An object as DataFusion reads it.
#[derive(Clone)]
pub(super) struct Source {
    object: Arc<dyn Object>,
    meter: Arc<Meter>,
    memory_bytes: usize,
    metadata: Option<Arc<ParquetMetaData>>,
    /// What went wrong of ours: the scan carries texts only.
    failed: Arc<Mutex<Option<Error>>>,
}

impl fmt::Debug for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Source")
    }
}

impl Source {
    /// Reads the footer.
    pub(super) async fn open(
        object: Arc<dyn Object>,
        meter: Arc<Meter>,
        memory_bytes: usize,
    ) -> Result<(Self, SchemaRef), Error> {
        let size_bytes = object.size_bytes();
        let mut source = Self { object, meter, memory_bytes, metadata: None, failed: Arc::default() };
        let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(FOOTER_BYTES));
        let metadata = reader.load_and_finish(&mut source, size_bytes).await.map_err(|error| source.error(&error))?;
        let file = metadata.file_metadata();
        let schema = parquet_to_arrow_schema(file.schema_descr(), file.key_value_metadata())
            .map_err(|error| source.error(&error))?;
        // Fields only: what a writer noted beside them is of no use here.
        let schema = Arc::new(Schema::new(schema.fields().clone()));
        source.metadata = Some(Arc::new(metadata));
        Ok((source, schema))
    }

    fn error(&self, error: &ParquetError) -> Error {
        self.take_failure().unwrap_or_else(|| of_parquet(error))
    }

    /// What went wrong in reading, if that is why the scan ended.
    pub(super) fn take_failure(&self) -> Option<Error> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn fail(&self, error: Error) -> ParquetError {
        let text = error.to_string();
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        ParquetError::General(text)
    }

    async fn read(&self, range: Range<u64>) -> Result<Bytes, ParquetError> {
        let size_bytes = self.object.size_bytes();
        if range.start >= range.end || range.end > size_bytes {
            let message =
                format!("The input is not Parquet: it refers to bytes {}..{} of {size_bytes}.", range.start, range.end);
            return Err(self.fail(Error::new(Code::ParquetParsingError, message)));
        }
        let len = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        self.check_memory(len)?;
        let mut reading = self.object.read(range);
        let mut bytes = BytesMut::with_capacity(len);
        while let Some(frame) = super::reading(reading.next()).await {
            let frame = frame.map_err(|error| self.fail(Error::new(Code::InternalError, error.0)))?;
            self.meter.scanned(frame.len());
            self.meter.processed(frame.len());
            bytes.extend_from_slice(&frame);
        }
        if bytes.len() == len {
            Ok(bytes.freeze())
        } else {
            Err(self.fail(Error::new(Code::InternalError, "a range of the object ended early")))
        }
    }

    fn check_memory(&self, len: usize) -> Result<(), ParquetError> {
        if len <= self.memory_bytes {
            return Ok(());
        }
        let message = format!(
            "The columns that the query names take {len} bytes in one row group, more than the {} that a query may hold here.",
            self.memory_bytes
        );
        Err(self.fail(Error::new(Code::OverMaxParquetBlockSize, message)))
    }
}

/// A Parquet error in S3's words.
pub(super) fn of_parquet(error: &ParquetError) -> Error {
    let text = error.to_string();
    let is_codec = text.contains("codec") || text.contains("compression feature") || text.contains("Disabled feature");
    let code = if is_codec { Code::ParquetUnsupportedCompressionCodec } else { Code::ParquetParsingError };
    Error::new(code, format!("The input cannot be read as Parquet: {text}"))
}

impl AsyncFileReader for Source {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        self.read(range).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        async move {
            // All of them are held at once.
            let len = ranges.iter().fold(0_u64, |sum, range| sum.saturating_add(range.end.saturating_sub(range.start)));
            self.check_memory(usize::try_from(len).unwrap_or(usize::MAX))?;
            let mut read = Vec::with_capacity(ranges.len());
            for range in ranges {
                read.push(self.read(range).await?);
            }
            Ok(read)
        }
        .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        let known = self.metadata.clone().ok_or_else(|| ParquetError::General("the footer was not read".to_owned()));
        std::future::ready(known).boxed()
    }
}

impl ParquetFileReaderFactory for Source {
    fn create_reader(
        &self,
        _: usize,
        _: PartitionedFile,
        _: Option<usize>,
        _: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>, DataFusionError> {
        Ok(Box::new(self.clone()))
    }
}

/// The object as a table.
#[derive(Debug)]
pub(super) struct ParquetTable {
    pub(super) source: Source,
    pub(super) schema: SchemaRef,
}

#[async_trait]
impl TableProvider for ParquetTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    /// The scan uses conditions to pass over row groups; the filter above it decides.
    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>, DataFusionError> {
        Ok(vec![TableProviderFilterPushDown::Unsupported; filters.len()])
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        let parquet = ParquetSource::new(Arc::clone(&self.schema))
            .with_parquet_file_reader_factory(Arc::new(self.source.clone()))
            .with_enable_page_index(false)
            .with_bloom_filter_on_read(false);
        let file = PartitionedFile::new("object", self.source.object.size_bytes());
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::parse(STORE)?, Arc::new(parquet))
            .with_file(file)
            .with_limit(limit)
            .with_projection_indices(projection.cloned())?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}
