//! Writing: one row group, one PLAIN page per column, nothing compressed.

use super::thrift::Writer;
use super::{
    BOOLEAN, BYTE_ARRAY, Cell, Column, INT32, INT64, Kind, MAGIC, PLAIN, ParquetError, RLE, ROWS_MAX, Result,
    UNCOMPRESSED, bad,
};

/// Where a column's page lies.
struct Chunk {
    offset: usize,
    bytes: usize,
}

/// Writes rows (each with a cell per column) as a file.
pub(crate) fn write(columns: &[Column], rows: &[Vec<Cell>]) -> Result<Vec<u8>> {
    if rows.is_empty() || rows.len() > ROWS_MAX {
        return bad("a table has 1 to 1048576 rows");
    }
    let mut file = MAGIC.to_vec();
    let mut chunks = Vec::new();
    for (at, column) in columns.iter().enumerate() {
        let page = page(column, rows.iter().map(|row| row.get(at)))?;
        let offset = file.len();
        let size = i32::try_from(page.len()).or(bad("a column is too long"))?;
        let mut header = Writer::default();
        header.begin();
        header.i32(1, 0); // DATA_PAGE
        header.i32(2, size);
        header.i32(3, size);
        header.structure(5);
        header.i32(1, i32::try_from(rows.len()).or(bad("too many rows"))?);
        header.i32(2, PLAIN);
        header.i32(3, RLE);
        header.i32(4, RLE);
        header.end();
        header.end();
        file.extend_from_slice(&header.out);
        file.extend_from_slice(&page);
        chunks.push(Chunk { offset, bytes: file.len() - offset });
    }
    let footer = footer(columns, rows.len(), &chunks)?;
    let length = u32::try_from(footer.len()).or(bad("the footer is too long"))?;
    file.extend_from_slice(&footer);
    file.extend_from_slice(&length.to_le_bytes());
    file.extend_from_slice(MAGIC);
    Ok(file)
}

fn page<'a>(column: &Column, cells: impl Iterator<Item = Option<&'a Cell>> + Clone) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    if column.optional {
        let present: Vec<bool> = cells.clone().map(|cell| !matches!(cell, None | Some(Cell::Null))).collect();
        let levels = bit_packed(&present);
        out.extend_from_slice(&u32::try_from(levels.len()).or(bad("a column is too long"))?.to_le_bytes());
        out.extend_from_slice(&levels);
    }
    let mut bits = Vec::new();
    for cell in cells {
        match (column.kind, cell) {
            (_, None | Some(Cell::Null)) if column.optional => {}
            (Kind::Bool, Some(Cell::Bool(value))) => bits.push(*value),
            (Kind::Int, Some(Cell::Int(value))) => out.extend_from_slice(&value.to_le_bytes()),
            (Kind::Long | Kind::Time, Some(Cell::Long(value))) => out.extend_from_slice(&value.to_le_bytes()),
            (Kind::Text | Kind::Bytes, Some(Cell::Bytes(value))) => {
                out.extend_from_slice(&u32::try_from(value.len()).or(bad("a value is too long"))?.to_le_bytes());
                out.extend_from_slice(value);
            }
            _ => return bad("a value is not of its column's type"),
        }
    }
    out.extend_from_slice(&packed(&bits));
    Ok(out)
}

/// One bit each, the least significant first.
fn packed(bits: &[bool]) -> Vec<u8> {
    bits.chunks(8)
        .map(|eight| eight.iter().enumerate().fold(0, |byte, (at, bit)| byte | (u8::from(*bit) << at)))
        .collect()
}

/// The hybrid encoding, as one bit-packed run.
fn bit_packed(bits: &[bool]) -> Vec<u8> {
    let mut head = ((bits.len().div_ceil(8) as u64) << 1) | 1;
    let mut out = Vec::new();
    while head >= 0x80 {
        out.push((head & 0x7f) as u8 | 0x80);
        head >>= 7;
    }
    out.push(head as u8);
    out.extend_from_slice(&packed(bits));
    out
}

const fn physical(kind: Kind) -> i32 {
    match kind {
        Kind::Bool => BOOLEAN,
        Kind::Int => INT32,
        Kind::Long | Kind::Time => INT64,
        Kind::Text | Kind::Bytes => BYTE_ARRAY,
    }
}

/// `FileMetaData`.
fn footer(columns: &[Column], rows: usize, chunks: &[Chunk]) -> Result<Vec<u8>> {
    let long = |value: usize| i64::try_from(value).map_err(|_| ParquetError::Malformed("the file is too long"));
    let mut out = Writer::default();
    out.begin();
    out.i32(1, 1);
    out.list(2, 12, columns.len() + 1);
    out.begin();
    out.text(4, "granary_audit");
    out.i32(5, i32::try_from(columns.len()).or(bad("too many columns"))?);
    out.end();
    for column in columns {
        out.begin();
        out.i32(1, physical(column.kind));
        out.i32(3, i32::from(column.optional));
        out.text(4, column.name);
        match column.kind {
            Kind::Text => {
                out.i32(6, 0); // UTF8
                out.structure(10);
                out.structure(1);
                out.end();
                out.end();
            }
            Kind::Time => {
                out.i32(6, 10); // TIMESTAMP_MICROS
                out.structure(10);
                out.structure(8);
                out.bool(1, true);
                out.structure(2);
                out.structure(2);
                out.end();
                out.end();
                out.end();
                out.end();
            }
            _ => {}
        }
        out.end();
    }
    out.i64(3, long(rows)?);
    out.list(4, 12, 1);
    out.begin();
    out.list(1, 12, columns.len());
    let mut total = 0;
    for (column, chunk) in columns.iter().zip(chunks) {
        total += chunk.bytes;
        out.begin();
        out.i64(2, long(chunk.offset)?);
        out.structure(3);
        out.i32(1, physical(column.kind));
        out.list(2, 5, 2);
        out.raw_i32(PLAIN);
        out.raw_i32(RLE);
        out.list(3, 8, 1);
        out.raw_text(column.name);
        out.i32(4, UNCOMPRESSED);
        out.i64(5, long(rows)?);
        out.i64(6, long(chunk.bytes)?);
        out.i64(7, long(chunk.bytes)?);
        out.i64(9, long(chunk.offset)?);
        out.end();
        out.end();
    }
    out.i64(2, long(total)?);
    out.i64(3, long(rows)?);
    out.end();
    out.text(6, "granary audit v1");
    out.end();
    Ok(out.out)
}
