//! Headers as tar programs write them, and as they should not be.

use super::*;

fn block(name: &[u8], size: &[u8], kind: u8) -> Vec<u8> {
    let mut block = vec![0u8; 512];
    block[..name.len()].copy_from_slice(name);
    block[124..124 + size.len()].copy_from_slice(size);
    block[156] = kind;
    block[257..265].copy_from_slice(b"ustar\x0000");
    sum(&mut block);
    block
}

fn sum(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|b| u32::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn file(blocks: &[Vec<u8>]) -> Vec<u8> {
    let mut file = blocks.concat();
    file.resize(file.len().next_multiple_of(512) + 1024, 0);
    file
}

fn parse(file: &[u8]) -> Result<Vec<Member>, TarError> {
    let mut parser = Parser::new(file.len() as u64, 0);
    let mut members = Vec::new();
    loop {
        match parser.want()? {
            Want::End => return Ok(members),
            Want::Bytes { at, len } => members.extend(parser.feed(&file[at as usize..at as usize + len])?),
        }
    }
}

fn data(text: &[u8]) -> Vec<u8> {
    let mut data = text.to_vec();
    data.resize(data.len().next_multiple_of(512), 0);
    data
}

#[test]
fn members_and_where_they_are() {
    let tar = file(&[
        block(b"./", b"0000000", b'5'),
        block(b"./a/1.jpg", b"00000000003\0", b'0'),
        data(b"abc"),
        block(b"empty", b"00000000000\0", 0),
        block(b"link", b"00000000777\0", b'2'),
        block(b"b", b"1000 ", b'7'),
        data(&[7; 512]),
    ]);
    let found = parse(&tar).unwrap();
    let shown: Vec<_> = found.iter().map(|m| (m.name.as_str(), m.offset, m.size_bytes)).collect();
    assert_eq!(shown, [("a/1.jpg", 1024, 3), ("empty", 2048, 0), ("b", 3072, 512)]);
    assert_eq!(found[0].next_header(), 1536);
}

#[test]
fn long_names_and_large_sizes() {
    let long = "l".repeat(300);
    let pax = format!("310 path={long}\n16 size=0000005\n");
    let wide = {
        let mut wide = block(b"w", b"", b'0');
        wide[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4]);
        sum(&mut wide);
        wide
    };
    let prefixed = {
        let mut block = block(b"name", b"1", b'0');
        block[345..351].copy_from_slice(b"prefix");
        sum(&mut block);
        block
    };
    let tar = file(&[
        block(b"././@LongLink", b"455", b'L'),
        data(&[long.as_bytes(), b"\0"].concat()),
        block(b"short", b"2", b'0'),
        data(b"ab"),
        block(b"PaxHeader", format!("{:o}", pax.len()).as_bytes(), b'x'),
        data(pax.as_bytes()),
        block(b"short", b"1", b'0'),
        data(b"abcde"),
        wide,
        data(b"abcd"),
        prefixed,
        data(b"a"),
    ]);
    let found: Vec<_> = parse(&tar).unwrap().into_iter().map(|m| (m.name, m.size_bytes)).collect();
    assert_eq!(found, [(long.clone(), 2), (long, 5), ("w".into(), 4), ("prefix/name".into(), 1)]);
}

#[test]
fn what_is_wrong_is_said() {
    let good = file(&[block(b"a", b"3", b'0'), data(b"abc")]);
    assert!(matches!(
        parse(&good[..512]),
        Err(TarError::Truncated { what: "the end-of-archive marker", .. })
            | Err(TarError::Truncated { what: "a member", .. })
    ));
    assert!(matches!(parse(&good[..1024]), Err(TarError::Truncated { what: "the end-of-archive marker", .. })));
    assert!(matches!(parse(&good[..1100]), Err(TarError::Truncated { what: "a header", .. })));
    let mut flipped = good.clone();
    flipped[3] ^= 1;
    assert_eq!(parse(&flipped), Err(TarError::BadHeader { at: 0 }));
    assert_eq!(parse(&[b'x'; 2048]), Err(TarError::BadHeader { at: 0 }));
    for (name, why) in [
        (&b"/etc/passwd"[..], "absolute names are refused"),
        (b"../x", "names with `..` are refused"),
        (b"a/../../x", "names with `..` are refused"),
        (b"\xff", "names must be UTF-8"),
        (b"./", "it has no name"),
    ] {
        let kind = if name == b"./" { b'S' } else { b'0' };
        let found = parse(&file(&[block(name, b"0", kind)]));
        if kind == b'S' {
            assert_eq!(found, Ok(Vec::new()), "a folder by its slash");
        } else {
            assert!(matches!(found, Err(TarError::BadName { why: said, .. }) if said == why), "{why}");
        }
    }
    assert!(matches!(parse(&file(&[block(b"a", b"9z", b'0')])), Err(TarError::BadNumber { field: "size", .. })));
    assert!(matches!(parse(&file(&[block(b"a", b"777777777", b'0')])), Err(TarError::Truncated { .. })));
    assert!(matches!(parse(&file(&[block(b"a", b"0", b'S')])), Err(TarError::Sparse { .. })));
    for pax in ["7 a=b\n", "999 a=b\n", "x a=b\n", "6 path\n", "13 size=abcd\n", "99999999999999999999999 a=b\n"] {
        let tar = file(&[block(b"p", format!("{:o}", pax.len()).as_bytes(), b'x'), data(pax.as_bytes())]);
        assert!(matches!(parse(&tar), Err(TarError::BadExtension { .. })), "{pax}");
    }
    let huge = file(&[block(b"p", b"77777777", b'x')]);
    assert!(matches!(parse(&huge), Err(TarError::BadExtension { .. })));
}

#[test]
fn numbers() {
    assert_eq!(number(b"0000017\0"), Some(15));
    assert_eq!(number(b"     17 "), Some(15));
    assert_eq!(number(b"\0\0\0\0"), Some(0));
    assert_eq!(number(b"8"), None);
    assert_eq!(number(&[0xff; 12]), None);
    assert_eq!(number(&[0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), None);
}

#[test]
fn sample_keys_are_webdatasets() {
    assert_eq!(sample_key("a/0001.cls.txt"), ("a/0001", "cls.txt"));
    assert_eq!(sample_key("a.b/0001.jpg"), ("a.b/0001", "jpg"));
    assert_eq!(sample_key("noext"), ("noext", ""));
    assert_eq!(plain_name("././a"), "a");
}

proptest::proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..4096), fix in proptest::bool::ANY) {
        if fix && bytes.len() >= 512 {
            sum(&mut bytes[..512]);
        }
        let _ = parse(&bytes);
    }
}
