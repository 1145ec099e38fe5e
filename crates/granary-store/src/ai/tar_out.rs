//! Writing tar entries: ustar headers, with a pax header in front where one has more to say.

use granary_types::Timestamp;

use crate::ai::tar::BLOCK_BYTES;

const BLOCK: usize = BLOCK_BYTES as usize;
/// The largest size that eleven octal digits hold.
const USTAR_SIZE_MAX: u64 = 0o77_777_777_777;

/// One entry's header.
pub struct Entry<'a> {
    /// Name.
    pub name: &'a str,
    /// Bytes that follow.
    pub size_bytes: u64,
    /// Time of change.
    pub mtime: Timestamp,
    /// Records of a pax header: keyword and value.
    pub records: &'a [(&'a str, &'a str)],
}

/// Appends the entry's header blocks to `out`.
pub fn header(out: &mut Vec<u8>, entry: &Entry<'_>) {
    let mut records = Vec::new();
    let split = split(entry.name);
    if split.is_none() {
        record(&mut records, "path", entry.name);
    }
    if entry.size_bytes > USTAR_SIZE_MAX {
        record(&mut records, "size", &entry.size_bytes.to_string());
    }
    for (keyword, value) in entry.records {
        record(&mut records, keyword, value);
    }
    if !records.is_empty() {
        block(out, "", "././@PaxHeader", records.len() as u64, entry.mtime, b'x');
        out.extend_from_slice(&records);
        pad(out, records.len() as u64);
    }
    let (prefix, name) = split.unwrap_or_else(|| ("", cut(entry.name)));
    block(out, prefix, name, entry.size_bytes.min(USTAR_SIZE_MAX), entry.mtime, b'0');
}

/// Appends the zeros that bring `size_bytes` of data to a whole block.
pub fn pad(out: &mut Vec<u8>, size_bytes: u64) {
    let over = (size_bytes % BLOCK_BYTES) as usize;
    if over > 0 {
        out.resize(out.len() + BLOCK - over, 0);
    }
}

/// Appends the two zero blocks that end an archive.
pub fn end(out: &mut Vec<u8>) {
    out.resize(out.len() + 2 * BLOCK, 0);
}

/// Where a name fits into ustar's prefix and name; `None` if it does not, or is not ASCII.
fn split(name: &str) -> Option<(&str, &str)> {
    if !name.is_ascii() {
        return None;
    }
    if name.len() <= 100 {
        return Some(("", name));
    }
    // The earliest slash that leaves at most 100 bytes behind it.
    let from = name.len().checked_sub(101)?;
    let at = from + name.get(from..)?.find('/')?;
    (at > 0 && at <= 155 && at + 1 < name.len()).then(|| (&name[..at], &name[at + 1..]))
}

/// What a reader without pax shows: as much of the name as fits, cut between characters.
fn cut(name: &str) -> &str {
    let mut end = name.len().min(100);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name[..end]
}

/// `<length> <keyword>=<value>\n`, the length counting its own digits.
fn record(out: &mut Vec<u8>, keyword: &str, value: &str) {
    let rest = keyword.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {keyword}={value}\n").as_bytes());
}

fn block(out: &mut Vec<u8>, prefix: &str, name: &str, size_bytes: u64, mtime: Timestamp, kind: u8) {
    let mut block = [0u8; BLOCK];
    let mut put = |at: usize, text: &[u8]| block[at..at + text.len()].copy_from_slice(text);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size_bytes:011o}\0").as_bytes());
    put(136, format!("{:011o}\0", mtime.as_secs().min(USTAR_SIZE_MAX)).as_bytes());
    put(148, b"        ");
    put(156, &[kind]);
    put(257, b"ustar\x0000");
    put(345, prefix.as_bytes());
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(&block);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ai::tar::{Parser, Want};

    fn read(file: &[u8]) -> Vec<(String, u64)> {
        let mut parser = Parser::new(file.len() as u64, 0);
        let mut members = Vec::new();
        while let Want::Bytes { at, len } = parser.want().unwrap() {
            members.extend(parser.feed(&file[at as usize..at as usize + len]).unwrap().map(|m| (m.name, m.size_bytes)));
        }
        members
    }

    #[test]
    fn names_of_every_length_come_back() {
        for len in [1, 99, 100, 101, 155, 156, 200, 256, 257, 300, 4096] {
            for name in [
                "n".repeat(len),
                format!("{}/b", "d".repeat(len.saturating_sub(2).max(1))),
                "d/".repeat(len / 2) + "x",
                "\u{fc}".repeat(len.div_ceil(2).min(2048)),
            ] {
                if name.len() > 4096 {
                    continue;
                }
                let mut file = Vec::new();
                let entry = Entry { name: &name, size_bytes: 5, mtime: Timestamp::from_secs(7), records: &[] };
                header(&mut file, &entry);
                file.extend_from_slice(b"hello");
                pad(&mut file, 5);
                end(&mut file);
                assert_eq!(file.len() % BLOCK, 0);
                assert_eq!(read(&file), [(name, 5)]);
            }
        }
    }

    #[test]
    fn record_lengths_count_themselves() {
        for len in 1..300 {
            let mut out = Vec::new();
            record(&mut out, "k", &"v".repeat(len));
            let text = String::from_utf8(out.clone()).unwrap();
            let (stated, _) = text.split_once(' ').unwrap();
            assert_eq!(stated.parse::<usize>().unwrap(), out.len());
        }
    }
}
