//! Opening the object: its header or footer, and where in it the records begin.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;

use super::csv::CsvReader;
use super::feed::{Feed, Meter};
use super::json::Begins;
use super::parquet::Source;
use crate::error::{Code, Error};
use crate::object::Object;
use crate::request::{CsvInput, Header, Input, JsonKind, Limits, RECORD_BYTES_MAX, Scan, Select};

/// An object of which as much has been read as planning needs.
pub(super) enum Opened {
    Csv { reader: CsvReader, header: Header, names: Vec<String> },
    Json { feed: Feed, begins: Begins, value_bytes_max: usize, left_bytes: u64 },
    Parquet { source: Source, schema: SchemaRef },
}

impl Opened {
    pub(super) fn source(&self) -> Option<Source> {
        match self {
            Self::Parquet { source, .. } => Some(source.clone()),
            _ => None,
        }
    }
}

/// Where reading begins, and where records no longer do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    start: u64,
    end: u64,
}

fn place(scan: Option<Scan>, size_bytes: u64) -> Result<Place, Error> {
    let whole = Place { start: 0, end: size_bytes };
    let place = match scan {
        None => return Ok(whole),
        Some(Scan { start: None, end }) => {
            Place { start: size_bytes.saturating_sub(end.unwrap_or(size_bytes)), end: size_bytes }
        }
        Some(Scan { start: Some(start), end }) => {
            let end = end.map_or(size_bytes, |end| end.saturating_add(1).min(size_bytes));
            Place { start, end }
        }
    };
    if place.start >= size_bytes && size_bytes > 0 {
        let message = format!("ScanRange begins at {}, but the object has {size_bytes} bytes.", place.start);
        return Err(Error::new(Code::InvalidScanRange, message));
    }
    Ok(place)
}

pub(super) async fn open(
    select: &Select,
    object: Arc<dyn Object>,
    limits: &Limits,
    meter: Arc<Meter>,
) -> Result<Opened, Error> {
    let size_bytes = object.size_bytes();
    let place = place(select.scan, size_bytes)?;
    let feed = |start: u64| Feed::new(&*object, start..size_bytes, select.compression, Arc::clone(&meter));
    // Of what is compressed, the length is not known.
    let left = |start: u64| if select.scan.is_some() { place.end.saturating_sub(start) } else { u64::MAX };
    match &select.input {
        Input::Csv(csv) => open_csv(csv, place, feed, left).await,
        Input::Json(kind) => {
            let value_bytes_max = match kind {
                JsonKind::Lines => RECORD_BYTES_MAX,
                JsonKind::Document => (limits.memory_bytes / 4).max(RECORD_BYTES_MAX),
            };
            // From one byte before: a line that begins with the range is known by it.
            let start = place.start.saturating_sub(1);
            let begins = if place.start > 0 { Begins::InLine } else { Begins::WithObject };
            Ok(Opened::Json { feed: feed(start), begins, value_bytes_max, left_bytes: left(start) })
        }
        Input::Parquet => {
            let (source, schema) = Source::open(Arc::clone(&object), meter, limits.memory_bytes).await?;
            Ok(Opened::Parquet { source, schema })
        }
    }
}

async fn open_csv(
    csv: &CsvInput,
    place: Place,
    feed: impl Fn(u64) -> Feed,
    left: impl Fn(u64) -> u64,
) -> Result<Opened, Error> {
    let mut reader = CsvReader::new(feed(0), csv, u64::MAX);
    let (mut names, mut header_bytes) = (Vec::new(), 0);
    if place.start == 0 || csv.header == Header::Use {
        reader.skip_mark().await?;
        names = reader.header(csv.header).await?;
        header_bytes = u64::MAX - reader.left_bytes();
    }
    if place.start > header_bytes {
        let start = place.start.saturating_sub(csv.record_delimiter.len() as u64);
        reader = CsvReader::new(feed(start), csv, left(start));
        reader.skip_begun().await?;
    } else if left(0) != u64::MAX {
        reader.set_left_bytes(left(header_bytes));
    }
    Ok(Opened::Csv { reader, header: csv.header, names })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scan_ranges_are_places_in_the_object() {
        let of = |start, end| place(Some(Scan { start, end }), 100);
        assert_eq!(place(None, 100).expect("whole"), Place { start: 0, end: 100 });
        assert_eq!(of(Some(5), Some(9)).expect("inclusive"), Place { start: 5, end: 10 });
        assert_eq!(of(Some(5), None).expect("to the end"), Place { start: 5, end: 100 });
        assert_eq!(of(None, Some(30)).expect("the last"), Place { start: 70, end: 100 });
        assert_eq!(of(None, Some(300)).expect("all"), Place { start: 0, end: 100 });
        assert_eq!(of(Some(0), Some(u64::MAX)).expect("cut"), Place { start: 0, end: 100 });
        assert_eq!(of(Some(100), None).expect_err("beyond").code, Code::InvalidScanRange);
    }
}
