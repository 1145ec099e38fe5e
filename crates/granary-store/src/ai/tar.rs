//! Reading the headers of a tar file: V7, ustar, pax and GNU long names.
//!
//! No I/O here: the parser says which bytes it wants next and is fed them, so that the bytes of large members
//! are never read. Formats: POSIX.1-2017 `pax` (ustar and extended headers), and GNU tar's manual, "Basic Tar Format".
//! Whatever is read is checked: header sums, numbers, lengths against the object's size, names. Sparse members are
//! refused, since their bytes in the file are not the member's.

/// The unit of a tar file.
pub const BLOCK_BYTES: u64 = 512;
/// Bytes of one extended header, at most.
const EXTENSION_BYTES_MAX: u64 = 1 << 20;
/// Bytes of a member's name, at most.
pub const NAME_BYTES_MAX: usize = 4096;

/// Why an object is not a tar file that members can be served from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// No header at all: not a tar file.
    #[error("the block at byte {at} is no tar header: its checksum is wrong")]
    BadHeader {
        /// Where the block begins.
        at: u64,
    },
    /// A number that is none.
    #[error("the {field} in the header at byte {at} is not a number")]
    BadNumber {
        /// Where the header begins.
        at: u64,
        /// Which field.
        field: &'static str,
    },
    /// The object ends inside of a header or member, or without the end-of-archive blocks.
    #[error("the file is truncated: {what} needs bytes up to {need_bytes}, the object has {size_bytes}")]
    Truncated {
        /// What is cut.
        what: &'static str,
        /// Bytes that there should be.
        need_bytes: u64,
        /// Bytes that there are.
        size_bytes: u64,
    },
    /// An extended header that cannot be read.
    #[error("the extended header at byte {at} is malformed: {why}")]
    BadExtension {
        /// Where.
        at: u64,
        /// What is wrong.
        why: &'static str,
    },
    /// A name that no reader should be handed.
    #[error("the member at byte {at} is named `{name}`: {why}")]
    BadName {
        /// Where its header begins.
        at: u64,
        /// The name, shortened.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A sparse member.
    #[error("the member `{name}` at byte {at} is stored sparse, which is not supported: write it with tar --no-sparse")]
    Sparse {
        /// Where its header begins.
        at: u64,
        /// Its name.
        name: String,
    },
}

/// A regular file in a tar file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name, without a leading `./`.
    pub name: String,
    /// Where its bytes begin in the tar file.
    pub offset: u64,
    /// How many there are.
    pub size_bytes: u64,
}

impl Member {
    /// Where the next header begins.
    #[must_use]
    pub const fn next_header(&self) -> u64 {
        padded(self.offset.saturating_add(self.size_bytes))
    }
}

const fn padded(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}

/// What the parser wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// Bytes of the object.
    Bytes {
        /// From where.
        at: u64,
        /// How many; at most 1 MiB.
        len: usize,
    },
    /// Nothing: the archive is at its end.
    End,
}

/// What extended headers say about the member to come.
#[derive(Debug, Clone, Default)]
struct Extended {
    path: Option<Vec<u8>>,
    size_bytes: Option<u64>,
    is_sparse: bool,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Header,
    /// Data of an extended header (`x`, `g`, `L`, `K`).
    Extension {
        kind: u8,
        bytes: u64,
        header_at: u64,
    },
    End,
}

/// Parses headers, one after the other.
#[derive(Debug)]
pub struct Parser {
    size_bytes: u64,
    at: u64,
    state: State,
    local: Extended,
    global: Extended,
}

impl Parser {
    /// A parser for a tar file of `size_bytes`, beginning at the header at `at` (0: the whole file).
    #[must_use]
    pub fn new(size_bytes: u64, at: u64) -> Self {
        Self { size_bytes, at, state: State::Header, local: Extended::default(), global: Extended::default() }
    }

    /// What to feed next.
    ///
    /// # Errors
    /// [`TarError::Truncated`] if it lies behind the object's end.
    pub fn want(&self) -> Result<Want, TarError> {
        let (what, bytes) = match self.state {
            State::End => return Ok(Want::End),
            State::Header if self.at >= self.size_bytes => ("the end-of-archive marker", BLOCK_BYTES),
            State::Header => ("a header", BLOCK_BYTES),
            State::Extension { bytes, .. } => ("an extended header", bytes),
        };
        let need_bytes = self.at.saturating_add(bytes);
        if need_bytes > self.size_bytes {
            return Err(TarError::Truncated { what, need_bytes, size_bytes: self.size_bytes });
        }
        Ok(Want::Bytes { at: self.at, len: bytes as usize })
    }

    /// Takes the bytes that [`Parser::want`] named; a member, if they end the header of one.
    ///
    /// # Errors
    /// [`TarError`]; the file is of no use then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Option<Member>, TarError> {
        match self.state {
            State::End => Ok(None),
            State::Header => match bytes.try_into() {
                Ok(block) => self.header(block),
                Err(_) => Err(TarError::BadHeader { at: self.at }),
            },
            State::Extension { kind, bytes: len, header_at } => {
                self.extension(kind, header_at, bytes)?;
                self.at = padded(self.at + len);
                self.state = State::Header;
                Ok(None)
            }
        }
    }

    fn header(&mut self, block: &[u8; BLOCK_BYTES as usize]) -> Result<Option<Member>, TarError> {
        let at = self.at;
        if block.iter().all(|byte| *byte == 0) {
            self.state = State::End;
            return Ok(None);
        }
        if !sum_is_right(block) {
            return Err(TarError::BadHeader { at });
        }
        let stated = number(&block[124..136]).ok_or(TarError::BadNumber { at, field: "size" })?;
        self.at = at + BLOCK_BYTES;
        let kind = block[156];
        if matches!(kind, b'x' | b'g' | b'L' | b'K' | b'X') {
            if stated > EXTENSION_BYTES_MAX {
                return Err(TarError::BadExtension { at, why: "it is larger than 1 MiB" });
            }
            self.state =
                if stated == 0 { State::Header } else { State::Extension { kind, bytes: stated, header_at: at } };
            return Ok(None);
        }
        let local = std::mem::take(&mut self.local);
        let size_bytes = local.size_bytes.or(self.global.size_bytes).unwrap_or(stated);
        // Links, devices, folders and fifos have no bytes, whatever their size field says.
        let data_bytes = if matches!(kind, b'1'..=b'6') { 0 } else { size_bytes };
        let data_at = self.at;
        let end = data_at.saturating_add(data_bytes);
        if end > self.size_bytes {
            return Err(TarError::Truncated { what: "a member", need_bytes: end, size_bytes: self.size_bytes });
        }
        self.at = padded(end);
        let raw = local.path.or_else(|| self.global.path.clone()).unwrap_or_else(|| header_name(block));
        let is_sparse = local.is_sparse || kind == b'S';
        // An old tar writes a folder as an empty file whose name ends in a slash.
        let is_file = matches!(kind, b'0' | 0 | b'7' | b'S') && !raw.ends_with(b"/");
        if !is_file {
            return Ok(None);
        }
        let name = member_name(&raw, at)?;
        if is_sparse {
            return Err(TarError::Sparse { at, name });
        }
        Ok(Some(Member { name, offset: data_at, size_bytes }))
    }

    fn extension(&mut self, kind: u8, at: u64, bytes: &[u8]) -> Result<(), TarError> {
        match kind {
            b'L' => self.local.path = Some(until_nul(bytes).to_vec()),
            b'x' | b'X' => pax(bytes, at, &mut self.local)?,
            b'g' => pax(bytes, at, &mut self.global)?,
            // `K`: a long link name, of no interest.
            _ => {}
        }
        Ok(())
    }
}

/// Records of a pax header: `<length> <keyword>=<value>\n`, the length counting the whole record.
fn pax(mut bytes: &[u8], at: u64, into: &mut Extended) -> Result<(), TarError> {
    let bad = |why| TarError::BadExtension { at, why };
    // Some writers pad with zeros instead of stating the exact length.
    while bytes.first().is_some_and(|byte| *byte != 0) {
        let space =
            bytes.iter().take(21).position(|byte| *byte == b' ').ok_or_else(|| bad("a record has no length"))?;
        let length = std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse::<usize>().ok());
        let length =
            length.filter(|n| *n > space + 1 && *n <= bytes.len()).ok_or_else(|| bad("a record's length is wrong"))?;
        let (record, rest) = bytes.split_at(length);
        let record =
            record[space + 1..].strip_suffix(b"\n").ok_or_else(|| bad("a record does not end in a newline"))?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or_else(|| bad("a record has no ="))?;
        let (keyword, value) = (&record[..equals], &record[equals + 1..]);
        match keyword {
            b"path" if value.is_empty() => into.path = None,
            b"path" => into.path = Some(value.to_vec()),
            b"size" if value.is_empty() => into.size_bytes = None,
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                into.size_bytes = Some(size.ok_or_else(|| bad("the size is not a number"))?);
            }
            keyword if keyword.starts_with(b"GNU.sparse") => into.is_sparse = true,
            _ => {}
        }
        bytes = rest;
    }
    Ok(())
}

/// The header's own sum, over its bytes with the sum's field as spaces. Old tars summed signed characters.
fn sum_is_right(block: &[u8; BLOCK_BYTES as usize]) -> bool {
    let Some(stated) = number(&block[148..156]) else { return false };
    let (mut unsigned, mut signed) = (0u64, 0i64);
    for (i, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&i) { b' ' } else { *byte };
        unsigned += u64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    stated == unsigned || u64::try_from(signed).is_ok_and(|signed| signed == stated)
}

/// A number field: octal text, or GNU's base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field.first()? & 0x80 != 0 {
        // The rest of the first byte, then the others; a set sign bit means a negative number.
        let mut value = u64::from(field[0] & 0x7f);
        for byte in &field[1..] {
            value = value.checked_mul(256)?.checked_add(u64::from(*byte))?;
        }
        return (field[0] & 0x40 == 0 && value <= i64::MAX.cast_unsigned()).then_some(value);
    }
    let text = until_nul(field);
    let text = std::str::from_utf8(text).ok()?.trim_matches(' ');
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len())]
}

/// The name in the header itself: with POSIX's prefix where the magic is POSIX's (GNU uses the field for other things).
fn header_name(block: &[u8; BLOCK_BYTES as usize]) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix = until_nul(&block[345..500]);
    if &block[257..263] != b"ustar\0" || prefix.is_empty() {
        return name.to_vec();
    }
    [prefix, b"/", name].concat()
}

/// The name as members are asked for. Names that would leave the folder they are unpacked in are refused.
fn member_name(raw: &[u8], at: u64) -> Result<String, TarError> {
    let shown = || String::from_utf8_lossy(&raw[..raw.len().min(80)]).into_owned();
    let bad = |why| TarError::BadName { at, name: shown(), why };
    if raw.len() > NAME_BYTES_MAX {
        return Err(bad("names have at most 4096 bytes"));
    }
    let text = std::str::from_utf8(raw).map_err(|_| bad("names must be UTF-8"))?;
    if text.contains('\0') {
        return Err(bad("names must not contain NUL"));
    }
    if text.starts_with('/') {
        return Err(bad("absolute names are refused"));
    }
    if text.split('/').any(|part| part == "..") {
        return Err(bad("names with `..` are refused"));
    }
    let name = plain_name(text);
    if name.is_empty() {
        return Err(bad("it has no name"));
    }
    Ok(name.to_owned())
}

/// A name without the `./` that `tar cf x.tar .` puts in front.
#[must_use]
pub fn plain_name(mut text: &str) -> &str {
    while let Some(rest) = text.strip_prefix("./") {
        text = rest.trim_start_matches('/');
    }
    text
}

/// How WebDataset groups members into samples: all that agree up to the first dot of the file name are one sample;
/// what follows the dot says which field. `a/0001.cls.txt` is field `cls.txt` of sample `a/0001`.
#[must_use]
pub fn sample_key(name: &str) -> (&str, &str) {
    let base = name.rfind('/').map_or(0, |at| at + 1);
    // A file name that begins with a dot has no key: WebDataset skips it.
    match name[base..].find('.') {
        Some(dot) => (&name[..base + dot], &name[base + dot + 1..]),
        None => (name, ""),
    }
}

#[cfg(test)]
mod tests;
