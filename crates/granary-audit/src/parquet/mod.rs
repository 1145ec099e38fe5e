//! Parquet, as far as one flat table needs it. <https://parquet.apache.org/docs/file-format/>
//!
//! What is written: one row group, one PLAIN page per column, nothing compressed. What is read: that, and what the usual tools
//! make of it when they write the table again (several groups and pages, dictionaries, Snappy), so that a
//! tampered copy can still be told from the original event by event. Every length is checked before it is used.

mod read;
mod thrift;
mod write;

pub(crate) use read::read;
pub(crate) use write::write;

/// Rows of a table, at most.
pub(crate) const ROWS_MAX: usize = 1 << 20;

/// Why bytes are no table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParquetError {
    /// Neither ours nor what others make of it.
    #[error("this is no Parquet file that can be read here: {0}")]
    Malformed(&'static str),
}

type Result<T> = std::result::Result<T, ParquetError>;

pub(crate) const fn bad<T>(what: &'static str) -> Result<T> {
    Err(ParquetError::Malformed(what))
}

/// Type of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bool,
    Int,
    Long,
    /// Microseconds since the epoch, UTC.
    Time,
    /// UTF-8.
    Text,
    Bytes,
}

/// A column: its name, its type, whether it may be null.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) optional: bool,
}

/// One value. The wider types hold the narrower ones' tables too: what is compared is the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cell {
    Null,
    Bool(bool),
    Int(i32),
    Long(i64),
    Bytes(Vec<u8>),
}

/// Magic at both ends.
pub(crate) const MAGIC: &[u8; 4] = b"PAR1";

// Physical types.
pub(crate) const BOOLEAN: i32 = 0;
pub(crate) const INT32: i32 = 1;
pub(crate) const INT64: i32 = 2;
pub(crate) const BYTE_ARRAY: i32 = 6;
// Encodings.
pub(crate) const PLAIN: i32 = 0;
pub(crate) const PLAIN_DICTIONARY: i32 = 2;
pub(crate) const RLE: i32 = 3;
pub(crate) const RLE_DICTIONARY: i32 = 8;
// Codecs.
pub(crate) const UNCOMPRESSED: i32 = 0;
pub(crate) const SNAPPY: i32 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COLUMNS: [Column; 6] = [
        Column { name: "b", kind: Kind::Bool, optional: true },
        Column { name: "i", kind: Kind::Int, optional: true },
        Column { name: "l", kind: Kind::Long, optional: false },
        Column { name: "t", kind: Kind::Time, optional: true },
        Column { name: "s", kind: Kind::Text, optional: true },
        Column { name: "r", kind: Kind::Bytes, optional: false },
    ];

    fn rows() -> impl Strategy<Value = Vec<Vec<Cell>>> {
        let or_null = |cell: BoxedStrategy<Cell>| prop_oneof![Just(Cell::Null), cell].boxed();
        let row = (
            or_null(any::<bool>().prop_map(Cell::Bool).boxed()),
            or_null(any::<i32>().prop_map(Cell::Int).boxed()),
            any::<i64>().prop_map(Cell::Long),
            or_null(any::<i64>().prop_map(Cell::Long).boxed()),
            or_null("\\PC{0,20}".prop_map(|text| Cell::Bytes(text.into_bytes())).boxed()),
            any::<Vec<u8>>().prop_map(Cell::Bytes),
        );
        proptest::collection::vec(row.prop_map(|(b, i, l, t, s, r)| vec![b, i, l, t, s, r]), 1..40)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(rows in rows()) {
            let file = write(&COLUMNS, &rows).unwrap();
            let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
            let columns = read(&file, &names).unwrap();
            for (at, column) in columns.iter().enumerate() {
                let wanted: Vec<&Cell> = rows.iter().map(|row| &row[at]).collect();
                prop_assert_eq!(column.iter().collect::<Vec<_>>(), wanted);
            }
        }

        #[test]
        fn hostile_bytes_are_read_without_panic(rows in rows(), at: usize, byte: u8, cut: usize) {
            let mut file = write(&COLUMNS, &rows).unwrap();
            let at = at % file.len();
            file[at] = byte;
            let _ = read(&file, &["s", "r"]);
            let _ = read(&file[..cut % file.len()], &["r"]);
        }
    }
}
