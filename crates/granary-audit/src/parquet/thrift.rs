//! Thrift's compact protocol, as Parquet's headers and footers use it.
//! <https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md>

use std::collections::BTreeMap;

use super::{Result, bad};

/// Depth of nesting, fields and list entries that are looked at.
const DEPTH_MAX: u32 = 16;
const ITEMS_MAX: usize = 1 << 16;

/// Writes structs field by field, in ascending order of ids.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) out: Vec<u8>,
    last: Vec<i16>,
}

impl Writer {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.out.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.out.push(value as u8);
    }

    fn zigzag(&mut self, value: i64) {
        self.varint(((value << 1) ^ (value >> 63)) as u64);
    }

    fn field(&mut self, id: i16, kind: u8) {
        let last = self.last.last_mut();
        let delta = last.as_ref().map_or(0, |last| id - **last);
        if let Some(last) = last {
            *last = id;
        }
        // Ids are small and ascending here: the short form always does.
        self.out.push(((delta as u8) << 4) | kind);
    }

    pub(super) fn begin(&mut self) {
        self.last.push(0);
    }

    pub(super) fn end(&mut self) {
        self.out.push(0);
        self.last.pop();
    }

    pub(super) fn bool(&mut self, id: i16, value: bool) {
        self.field(id, if value { 1 } else { 2 });
    }

    pub(super) fn i32(&mut self, id: i16, value: i32) {
        self.field(id, 5);
        self.zigzag(i64::from(value));
    }

    pub(super) fn i64(&mut self, id: i16, value: i64) {
        self.field(id, 6);
        self.zigzag(value);
    }

    pub(super) fn text(&mut self, id: i16, value: &str) {
        self.field(id, 8);
        self.raw_text(value);
    }

    /// An element of a list of text.
    pub(super) fn raw_text(&mut self, value: &str) {
        self.varint(value.len() as u64);
        self.out.extend_from_slice(value.as_bytes());
    }

    /// An element of a list of numbers.
    pub(super) fn raw_i32(&mut self, value: i32) {
        self.zigzag(i64::from(value));
    }

    pub(super) fn structure(&mut self, id: i16) {
        self.field(id, 12);
        self.begin();
    }

    /// Elements follow: each of a list of structs between `begin` and `end`.
    pub(super) fn list(&mut self, id: i16, kind: u8, count: usize) {
        self.field(id, 9);
        if count < 15 {
            self.out.push(((count as u8) << 4) | kind);
        } else {
            self.out.push(0xf0 | kind);
            self.varint(count as u64);
        }
    }
}

/// A value that was read.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Number(i64),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Struct(BTreeMap<i16, Value>),
    Other,
}

impl Value {
    pub(super) fn field(&self, id: i16) -> Option<&Self> {
        match self {
            Self::Struct(fields) => fields.get(&id),
            _ => None,
        }
    }

    pub(super) fn number(&self, id: i16) -> Option<i64> {
        match self.field(id)? {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(super) fn list(&self, id: i16) -> &[Self] {
        match self.field(id) {
            Some(Self::List(items)) => items,
            _ => &[],
        }
    }

    pub(super) fn text(&self, id: i16) -> Option<&str> {
        match self.field(id)? {
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }
}

/// Reads one struct from the front of `bytes`; what is left comes back.
pub(super) fn read(bytes: &[u8]) -> Result<(Value, &[u8])> {
    let mut reader = Reader { rest: bytes, items: 0 };
    let value = reader.structure(0)?;
    Ok((value, reader.rest))
}

struct Reader<'a> {
    rest: &'a [u8],
    items: usize,
}

impl Reader<'_> {
    fn byte(&mut self) -> Result<u8> {
        let Some((first, rest)) = self.rest.split_first() else { return bad("a header ends early") };
        self.rest = rest;
        Ok(*first)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        bad("a number is too long")
    }

    fn zigzag(&mut self) -> Result<i64> {
        let value = self.varint()?;
        Ok((value >> 1) as i64 ^ -((value & 1) as i64))
    }

    fn count(&mut self) -> Result<usize> {
        self.items += 1;
        match self.items > ITEMS_MAX * 16 {
            true => bad("a header is too long"),
            false => Ok(self.items),
        }
    }

    fn structure(&mut self, depth: u32) -> Result<Value> {
        if depth > DEPTH_MAX {
            return bad("a header is nested too deep");
        }
        let mut fields = BTreeMap::new();
        let mut last = 0i16;
        loop {
            self.count()?;
            let head = self.byte()?;
            if head == 0 {
                return Ok(Value::Struct(fields));
            }
            let id = match head >> 4 {
                0 => i16::try_from(self.zigzag()?).or(bad("a field's id"))?,
                delta => last.checked_add(i16::from(delta)).ok_or(super::ParquetError::Malformed("a field's id"))?,
            };
            last = id;
            let value = match head & 0x0f {
                1 => Value::Number(1),
                2 => Value::Number(0),
                kind => self.value(kind, depth)?,
            };
            fields.insert(id, value);
        }
    }

    fn value(&mut self, kind: u8, depth: u32) -> Result<Value> {
        self.count()?;
        Ok(match kind {
            1..=3 => Value::Number(i64::from(self.byte()?)),
            4..=6 => Value::Number(self.zigzag()?),
            7 => {
                for _ in 0..8 {
                    self.byte()?;
                }
                Value::Other
            }
            8 => {
                let length = usize::try_from(self.varint()?).or(bad("a length"))?;
                let Some((bytes, rest)) = self.rest.split_at_checked(length) else { return bad("text ends early") };
                self.rest = rest;
                Value::Bytes(bytes.to_vec())
            }
            9 | 10 => {
                let head = self.byte()?;
                let count = match head >> 4 {
                    15 => usize::try_from(self.varint()?).or(bad("a length"))?,
                    short => usize::from(short),
                };
                if count > ITEMS_MAX || count > self.rest.len() {
                    return bad("a list is too long");
                }
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(self.value(head & 0x0f, depth + 1)?);
                }
                Value::List(items)
            }
            12 => self.structure(depth + 1)?,
            _ => return bad("a header has a type that Parquet does not use"),
        })
    }
}
