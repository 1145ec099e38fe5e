//! Reading: what [`super::write()`] makes, and what others make of that.

use super::thrift::{self, Value};
use super::{
    BOOLEAN, BYTE_ARRAY, Cell, INT32, INT64, MAGIC, PLAIN, PLAIN_DICTIONARY, ParquetError, RLE, RLE_DICTIONARY,
    ROWS_MAX, Result, SNAPPY, UNCOMPRESSED, bad,
};

/// Bytes of a page, unpacked, at most.
const PAGE_BYTES_MAX: usize = 1 << 28;

/// The named columns, all of the same length.
pub(crate) fn read(file: &[u8], names: &[&str]) -> Result<Vec<Vec<Cell>>> {
    let footer = footer(file)?;
    let schema = footer.list(2);
    let leaves = schema.get(1..).unwrap_or_default();
    if leaves.iter().any(|leaf| leaf.number(5).unwrap_or(0) > 0 || leaf.number(3) == Some(2)) {
        return bad("its columns are nested");
    }
    let rows = usize::try_from(footer.number(3).unwrap_or(-1)).or(bad("its number of rows"))?;
    if rows > ROWS_MAX {
        return bad("it has too many rows");
    }
    names
        .iter()
        .map(|name| {
            let at = leaves.iter().position(|leaf| leaf.text(4) == Some(name));
            let Some(at) = at else { return bad("a column is missing") };
            let leaf = &leaves[at];
            let is_optional = leaf.number(3) != Some(0);
            let mut cells = Vec::new();
            for group in footer.list(4) {
                let Some(meta) = group.list(1).get(at).and_then(|chunk| chunk.field(3)) else {
                    return bad("a column has no data");
                };
                chunk(file, meta, is_optional, &mut cells)?;
                if cells.len() > rows {
                    return bad("a column is longer than the table");
                }
            }
            match cells.len() == rows {
                true => Ok(cells),
                false => bad("a column is shorter than the table"),
            }
        })
        .collect()
}

fn footer(file: &[u8]) -> Result<Value> {
    let body = file.strip_prefix(MAGIC).and_then(|rest| rest.strip_suffix(MAGIC));
    let Some((body, length)) = body.and_then(|body| body.split_last_chunk::<4>()) else {
        return bad("its ends are not PAR1");
    };
    let length = u32::from_le_bytes(*length) as usize;
    let Some(start) = body.len().checked_sub(length) else { return bad("its footer is longer than it is") };
    Ok(thrift::read(&body[start..])?.0)
}

/// One column of one row group.
fn chunk(file: &[u8], meta: &Value, is_optional: bool, cells: &mut Vec<Cell>) -> Result<()> {
    let kind = meta.number(1).unwrap_or(-1);
    let codec = meta.number(4).unwrap_or(-1);
    let wanted = usize::try_from(meta.number(5).unwrap_or(-1)).or(bad("a number of values"))?;
    if wanted > ROWS_MAX {
        return bad("too many values");
    }
    let first = meta.number(11).into_iter().chain(meta.number(9)).filter(|at| *at > 0).min();
    let start = usize::try_from(first.unwrap_or(-1)).or(bad("a page's place"))?;
    let Some(mut rest) = file.get(start..) else { return bad("a page's place") };
    let mut dictionary: Option<Vec<Cell>> = None;
    let end = cells.len() + wanted;
    while cells.len() < end {
        let (header, after) = thrift::read(rest)?;
        let packed = usize::try_from(header.number(3).unwrap_or(-1)).or(bad("a page's length"))?;
        let unpacked = usize::try_from(header.number(2).unwrap_or(-1)).or(bad("a page's length"))?;
        let Some((page, next)) = after.split_at_checked(packed) else { return bad("a page ends early") };
        rest = next;
        match header.number(1) {
            Some(0) => {
                let page = unpack(page, unpacked, codec)?;
                let Some(head) = header.field(5) else { return bad("a page has no header") };
                data_page(&page, head, kind, is_optional, dictionary.as_deref(), end, cells)?;
            }
            Some(2) => {
                let page = unpack(page, unpacked, codec)?;
                let count = header.field(7).and_then(|head| head.number(1)).unwrap_or(-1);
                let count = usize::try_from(count).or(bad("a dictionary's length"))?;
                dictionary = Some(plain(&page, kind, count)?);
            }
            Some(3) => {
                let Some(head) = header.field(8) else { return bad("a page has no header") };
                data_page_v2(page, unpacked, head, (kind, codec), is_optional, dictionary.as_deref(), end, cells)?;
            }
            _ => return bad("a page of a kind that is not read here"),
        }
    }
    Ok(())
}

fn unpack(page: &[u8], unpacked: usize, codec: i64) -> Result<Vec<u8>> {
    if unpacked > PAGE_BYTES_MAX {
        return bad("a page is too long");
    }
    if codec == i64::from(UNCOMPRESSED) {
        return Ok(page.to_vec());
    }
    if codec != i64::from(SNAPPY) {
        return bad("it is compressed in a way that is not read here");
    }
    if !snap::raw::decompress_len(page).is_ok_and(|length| length == unpacked) {
        return bad("a page's length");
    }
    snap::raw::Decoder::new().decompress_vec(page).map_err(|_| ParquetError::Malformed("a page does not unpack"))
}

fn number_of(head: &Value, id: i16, what: &'static str) -> Result<usize> {
    usize::try_from(head.number(id).unwrap_or(-1)).or(bad(what))
}

fn data_page(
    page: &[u8],
    head: &Value,
    kind: i64,
    is_optional: bool,
    dictionary: Option<&[Cell]>,
    end: usize,
    cells: &mut Vec<Cell>,
) -> Result<()> {
    let count = number_of(head, 1, "a page's number of values")?;
    let encoding = head.number(2).unwrap_or(-1);
    let mut rest = page;
    let present = if is_optional {
        let Some((length, after)) = rest.split_first_chunk::<4>() else { return bad("a page ends early") };
        let Some((levels, after)) = after.split_at_checked(u32::from_le_bytes(*length) as usize) else {
            return bad("a page ends early");
        };
        rest = after;
        Some(levels)
    } else {
        None
    };
    place(rest, present, count, encoding, kind, dictionary, end, cells)
}

#[allow(clippy::too_many_arguments)]
fn data_page_v2(
    page: &[u8],
    unpacked: usize,
    head: &Value,
    (kind, codec): (i64, i64),
    is_optional: bool,
    dictionary: Option<&[Cell]>,
    end: usize,
    cells: &mut Vec<Cell>,
) -> Result<()> {
    let count = number_of(head, 1, "a page's number of values")?;
    let encoding = head.number(4).unwrap_or(-1);
    let (levels, repeats) = (number_of(head, 5, "a page's levels")?, number_of(head, 6, "a page's levels")?);
    if repeats != 0 {
        return bad("its columns are nested");
    }
    let Some((levels, values)) = page.split_at_checked(levels) else { return bad("a page ends early") };
    let is_packed = head.number(7).unwrap_or(1) != 0;
    let codec = if is_packed { codec } else { i64::from(UNCOMPRESSED) };
    let values = unpack(values, unpacked.saturating_sub(levels.len()), codec)?;
    place(&values, is_optional.then_some(levels), count, encoding, kind, dictionary, end, cells)
}

/// Puts a page's values, and nulls between them, behind `cells`.
#[allow(clippy::too_many_arguments)]
fn place(
    values: &[u8],
    levels: Option<&[u8]>,
    count: usize,
    encoding: i64,
    kind: i64,
    dictionary: Option<&[Cell]>,
    end: usize,
    cells: &mut Vec<Cell>,
) -> Result<()> {
    if count == 0 || count > end.saturating_sub(cells.len()) {
        return bad("a page has more values than the column");
    }
    let levels = levels.map(|levels| hybrid(levels, 1, count)).transpose()?;
    let present = levels.as_ref().map_or(count, |levels| levels.iter().filter(|level| **level == 1).count());
    let found = match i32::try_from(encoding).unwrap_or(-1) {
        PLAIN => plain(values, kind, present)?,
        PLAIN_DICTIONARY | RLE_DICTIONARY => {
            let Some(dictionary) = dictionary else { return bad("a dictionary is missing") };
            let Some((width, indices)) = values.split_first() else { return bad("a page ends early") };
            hybrid(indices, *width, present)?
                .into_iter()
                .map(|index| {
                    dictionary.get(index as usize).cloned().ok_or(ParquetError::Malformed("a dictionary's index"))
                })
                .collect::<Result<_>>()?
        }
        RLE if kind == i64::from(BOOLEAN) => {
            let Some((_length, bits)) = values.split_first_chunk::<4>() else { return bad("a page ends early") };
            hybrid(bits, 1, present)?.into_iter().map(|bit| Cell::Bool(bit == 1)).collect()
        }
        _ => return bad("it is encoded in a way that is not read here"),
    };
    let mut found = found.into_iter();
    match levels {
        None => cells.extend(found),
        Some(levels) => {
            for level in levels {
                cells.push(if level == 1 { found.next().unwrap_or(Cell::Null) } else { Cell::Null });
            }
        }
    }
    Ok(())
}

fn plain(mut bytes: &[u8], kind: i64, count: usize) -> Result<Vec<Cell>> {
    if count > ROWS_MAX {
        return bad("too many values");
    }
    let mut cells = Vec::with_capacity(count.min(bytes.len() * 8));
    for at in 0..count {
        let cell = match i32::try_from(kind).unwrap_or(-1) {
            BOOLEAN => match bytes.get(at / 8) {
                Some(byte) => Cell::Bool(byte >> (at % 8) & 1 == 1),
                None => return bad("a page ends early"),
            },
            INT32 => match bytes.split_first_chunk::<4>() {
                Some((value, rest)) => {
                    bytes = rest;
                    Cell::Int(i32::from_le_bytes(*value))
                }
                None => return bad("a page ends early"),
            },
            INT64 => match bytes.split_first_chunk::<8>() {
                Some((value, rest)) => {
                    bytes = rest;
                    Cell::Long(i64::from_le_bytes(*value))
                }
                None => return bad("a page ends early"),
            },
            BYTE_ARRAY => {
                let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return bad("a page ends early") };
                let Some((value, rest)) = rest.split_at_checked(u32::from_le_bytes(*length) as usize) else {
                    return bad("a value ends early");
                };
                bytes = rest;
                Cell::Bytes(value.to_vec())
            }
            _ => return bad("a column of a type that is not read here"),
        };
        cells.push(cell);
    }
    Ok(cells)
}

/// The hybrid of runs and bit-packed groups: `count` numbers of `width` bits.
fn hybrid(mut bytes: &[u8], width: u8, count: usize) -> Result<Vec<u32>> {
    if width > 32 || count > ROWS_MAX {
        return bad("levels or indices");
    }
    let mut out = Vec::new();
    let byte_width = usize::from(width).div_ceil(8);
    while out.len() < count {
        if width == 0 {
            out.resize(count, 0);
            break;
        }
        let mut head = 0u64;
        let mut shift = 0;
        loop {
            let Some((byte, rest)) = bytes.split_first() else { return bad("levels or indices end early") };
            bytes = rest;
            head |= u64::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
            if shift > 35 {
                return bad("a run is too long");
            }
        }
        let run = usize::try_from(head >> 1).or(bad("a run is too long"))?;
        if run == 0 {
            return bad("an empty run");
        }
        if head & 1 == 0 {
            let Some((value, rest)) = bytes.split_at_checked(byte_width) else { return bad("a run ends early") };
            bytes = rest;
            let value = value.iter().rev().fold(0u32, |value, byte| value << 8 | u32::from(*byte));
            out.resize(out.len() + run.min(count - out.len()), value);
        } else {
            let Some(length) = run.checked_mul(usize::from(width)) else { return bad("a run is too long") };
            // The last group may be cut off behind its last value.
            let (packed, rest) = bytes.split_at(length.min(bytes.len()));
            bytes = rest;
            let values = (packed.len() * 8 / usize::from(width)).min(run.saturating_mul(8)).min(count - out.len());
            if values == 0 {
                return bad("a run ends early");
            }
            for at in 0..values {
                let mut value = 0u32;
                for bit in 0..usize::from(width) {
                    let place = at * usize::from(width) + bit;
                    value |= u32::from(packed[place / 8] >> (place % 8) & 1) << bit;
                }
                out.push(value);
            }
        }
    }
    Ok(out)
}
