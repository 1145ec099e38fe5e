//! Bounds what an aws-chunked body can make s3s hold in memory.
//!
//! s3s gathers a whole chunk before it passes any of it on, and a chunk may announce up to 4 GiB; some SDKs do
//! send a whole object as one chunk. Without chunk signatures nothing is gained by waiting, so unsigned
//! chunks are cut anew at the frames they come in (no payload byte is copied). Signed chunks have to be whole
//! to be verified: they are let through as they are, up to [`SIGNED_CHUNK_BYTES_MAX`].
//!
//! A body that ends before its last chunk is an error here: s3s would take it for whole.
//!
//! Where a request was signed anew ([`crate::express`]), its chunks' signatures are verified here and made anew, too; or the payload
//! alone is passed on, with its chunks' signatures and its trailing checksum verified.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use granary_access::sigv4;
use granary_types::{Checksum, ChecksumAlgorithm, ChecksumHasher, hex};
use http_body::{Body, Frame, SizeHint};
use s3s::StdError;

use crate::express::Resign;

/// Largest chunk that may carry a signature. SDKs use 64 KiB to 1 MiB.
pub(crate) const SIGNED_CHUNK_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// A chunk's size line, at most.
const LINE_BYTES_MAX: usize = 1024;
/// Trailers that are signed anew, at most (s3s's limit).
const TRAILERS_BYTES_MAX: usize = 16 * 1024;

/// Why the framing was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum ChunkError {
    #[error("aws-chunked: a chunk's size line is malformed or too long")]
    Line,
    #[error("aws-chunked: a signed chunk of {0} bytes; at most {SIGNED_CHUNK_BYTES_MAX} are taken")]
    TooLarge(u64),
    #[error("aws-chunked: a chunk does not end in CRLF")]
    End,
    #[error("aws-chunked: the body ends before its last chunk")]
    Incomplete,
    #[error("aws-chunked: SignatureMismatch")]
    Signature,
    #[error("aws-chunked: ChecksumMismatch")]
    Checksum,
}

enum State {
    /// In a size line.
    Line(Vec<u8>),
    /// In a chunk's data, so many bytes before its end.
    Data(u64),
    /// After the data: CRLF, of which so many bytes are past.
    End(usize),
    /// After the zero chunk: trailers.
    Trailers,
    /// Nothing comes any more: the end, or a failure.
    Over,
}

pub(crate) struct Rechunk<B> {
    body: B,
    is_signed: bool,
    state: State,
    ready: VecDeque<Bytes>,
    resigned: Option<Box<Resigned>>,
    flat: Option<Box<Flat>>,
}

/// A payload that is passed on without its chunks.
struct Flat {
    /// The checksum that is announced to come behind it, with its name.
    sum: Option<(String, ChecksumHasher)>,
    trailers: Vec<u8>,
}

impl Flat {
    /// Compares the checksum that came behind the payload.
    fn check(self) -> Result<(), ChunkError> {
        let Some((name, hasher)) = self.sum else { return Ok(()) };
        let text = std::str::from_utf8(&self.trailers).map_err(|_| ChunkError::Line)?;
        let claimed = text.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.trim().eq_ignore_ascii_case(&name).then_some(value.trim())
        });
        let sum = hasher.finish();
        let is_right =
            claimed.and_then(|text| Checksum::from_base64(sum.algorithm, text)).is_some_and(|claimed| claimed == sum);
        if is_right { Ok(()) } else { Err(ChunkError::Checksum) }
    }
}

/// A chunk on its way from one signature to another.
struct Resigned {
    keys: Resign,
    /// The signature that the chunk came with.
    claimed: String,
    data: Vec<Bytes>,
    hasher: ChecksumHasher,
    trailers: Vec<u8>,
}

fn hasher() -> ChecksumHasher {
    ChecksumHasher::new(ChecksumAlgorithm::Sha256)
}

impl Resigned {
    /// The chunk, verified, with its new size line.
    fn chunk(&mut self) -> Result<(Bytes, Vec<Bytes>), ChunkError> {
        let hash = std::mem::replace(&mut self.hasher, hasher()).finish().value;
        let hash = hex::encode(hash);
        let keys = &mut self.keys;
        let want = keys.old.chunk(&keys.time, &keys.old_before, &hash);
        if !sigv4::equal(&want, &self.claimed) {
            return Err(ChunkError::Signature);
        }
        keys.new_before = keys.new.chunk(&keys.time, &keys.new_before, &hash);
        keys.old_before = want;
        let bytes: usize = self.data.iter().map(Bytes::len).sum();
        let line = Bytes::from(format!("{bytes:x};chunk-signature={}\r\n", keys.new_before));
        Ok((line, std::mem::take(&mut self.data)))
    }

    /// The trailers, verified, with their new signature.
    fn trailers(&mut self) -> Result<Bytes, ChunkError> {
        const SIGNATURE: &str = "x-amz-trailer-signature";
        let text = std::str::from_utf8(&self.trailers).map_err(|_| ChunkError::Line)?;
        let mut lines: Vec<(String, &str)> = Vec::new();
        let mut claimed = None;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once(':').ok_or(ChunkError::Line)?;
            match name.trim().to_ascii_lowercase() {
                name if name == SIGNATURE => claimed = Some(value.trim()),
                name => lines.push((name, value.trim())),
            }
        }
        if lines.is_empty() && claimed.is_none() {
            return Ok(Bytes::from_static(b"\r\n"));
        }
        lines.sort();
        let canonical: String = lines.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let keys = &self.keys;
        let want = keys.old.trailers(&keys.time, &keys.old_before, canonical.as_bytes());
        if !claimed.is_some_and(|claimed| sigv4::equal(&want, claimed)) {
            return Err(ChunkError::Signature);
        }
        let new = keys.new.trailers(&keys.time, &keys.new_before, canonical.as_bytes());
        let block: String = lines.iter().map(|(name, value)| format!("{name}:{value}\r\n")).collect();
        Ok(Bytes::from(format!("{block}{SIGNATURE}:{new}\r\n\r\n")))
    }
}

impl<B> Rechunk<B> {
    pub(crate) fn new(body: B, is_signed: bool, resign: Option<Resign>) -> Self {
        let resigned = resign.map(|keys| {
            let (claimed, data, trailers) = (String::new(), Vec::new(), Vec::new());
            Box::new(Resigned { keys, claimed, data, hasher: hasher(), trailers })
        });
        Self { body, is_signed, state: State::Line(Vec::new()), ready: VecDeque::new(), resigned, flat: None }
    }

    /// The payload alone. `sum`: the checksum that `x-amz-trailer` announces.
    pub(crate) fn flat(body: B, is_signed: bool, resign: Option<Resign>, sum: Option<ChecksumAlgorithm>) -> Self {
        let named = |sum: ChecksumAlgorithm| {
            (format!("x-amz-checksum-{}", sum.name().to_ascii_lowercase()), ChecksumHasher::new(sum))
        };
        let flat = Flat { sum: sum.map(named), trailers: Vec::new() };
        Self { flat: Some(Box::new(flat)), ..Self::new(body, is_signed, resign) }
    }

    /// Passes on what a chunk is made of, or its data alone.
    fn put(&mut self, framing: bool, bytes: Bytes) {
        match &mut self.flat {
            Some(_) if framing => {}
            Some(flat) => {
                if let Some((_, hasher)) = &mut flat.sum {
                    hasher.update(&bytes);
                }
                self.ready.push_back(bytes);
            }
            None => self.ready.push_back(bytes),
        }
    }

    /// Takes in a frame, and puts what goes on into `ready`.
    fn feed(&mut self, mut bytes: Bytes) -> Result<(), ChunkError> {
        if self.is_signed && self.resigned.is_none() {
            self.ready.push_back(bytes.clone());
        }
        while !bytes.is_empty() {
            match &mut self.state {
                State::Line(line) => {
                    let end = bytes.iter().position(|b| *b == b'\n').map(|at| at + 1);
                    let piece = bytes.split_to(end.unwrap_or(bytes.len()));
                    if line.len() + piece.len() > LINE_BYTES_MAX {
                        return Err(ChunkError::Line);
                    }
                    line.extend_from_slice(&piece);
                    if end.is_some() {
                        let size = chunk_size(line)?;
                        if self.is_signed && size > SIGNED_CHUNK_BYTES_MAX {
                            return Err(ChunkError::TooLarge(size));
                        }
                        if let Some(resigned) = &mut self.resigned {
                            resigned.claimed = chunk_signature(line)?;
                            if size == 0 {
                                let (line, _) = resigned.chunk()?;
                                self.put(true, line);
                            }
                        }
                        self.state = if size == 0 {
                            self.pass(Bytes::from_static(b"0\r\n"));
                            State::Trailers
                        } else {
                            State::Data(size)
                        };
                    }
                }
                State::Data(left) => {
                    let take = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let piece = bytes.split_to(take);
                    *left -= take as u64;
                    let is_last = *left == 0;
                    if is_last {
                        self.state = State::End(0);
                    }
                    if let Some(resigned) = &mut self.resigned {
                        resigned.hasher.update(&piece);
                        resigned.data.push(piece);
                        if is_last {
                            let (line, data) = resigned.chunk()?;
                            self.put(true, line);
                            data.into_iter().for_each(|piece| self.put(false, piece));
                            self.put(true, Bytes::from_static(b"\r\n"));
                        }
                    } else if !self.is_signed {
                        self.put(true, Bytes::from(format!("{take:x}\r\n")));
                        self.put(false, piece);
                        self.put(true, Bytes::from_static(b"\r\n"));
                    }
                }
                State::End(past) => {
                    if bytes.split_to(1)[0] != b"\r\n"[*past] {
                        return Err(ChunkError::End);
                    }
                    *past += 1;
                    if *past == 2 {
                        self.state = State::Line(Vec::new());
                    }
                }
                State::Trailers => {
                    let rest = std::mem::take(&mut bytes);
                    if let Some(flat) = &mut self.flat {
                        flat.trailers.extend_from_slice(&rest);
                        if flat.trailers.len() > TRAILERS_BYTES_MAX {
                            return Err(ChunkError::Line);
                        }
                    }
                    if let Some(resigned) = &mut self.resigned {
                        resigned.trailers.extend_from_slice(&rest);
                        if resigned.trailers.len() > TRAILERS_BYTES_MAX {
                            return Err(ChunkError::Line);
                        }
                    } else {
                        self.pass(rest);
                    }
                }
                State::Over => return Ok(()),
            }
        }
        Ok(())
    }

    fn pass(&mut self, bytes: Bytes) {
        if !self.is_signed {
            self.put(true, bytes);
        }
    }

    /// The end of the body, behind its trailers.
    fn end(&mut self) -> Result<(), ChunkError> {
        self.state = State::Over;
        if let Some(mut resigned) = self.resigned.take() {
            let block = resigned.trailers()?;
            self.put(true, block);
        }
        match self.flat.take() {
            Some(flat) => flat.check(),
            None => Ok(()),
        }
    }
}

/// What a size line claims behind the size.
fn chunk_signature(line: &[u8]) -> Result<String, ChunkError> {
    let text = std::str::from_utf8(line).map_err(|_| ChunkError::Line)?;
    let claimed = text.trim_end().split_once(";chunk-signature=").map(|(_, signature)| signature.to_owned());
    claimed.ok_or(ChunkError::Signature)
}

fn chunk_size(line: &[u8]) -> Result<u64, ChunkError> {
    let line = line.strip_suffix(b"\r\n").ok_or(ChunkError::Line)?;
    let digits = line.split(|b| *b == b';').next().unwrap_or_default();
    let text = std::str::from_utf8(digits).map_err(|_| ChunkError::Line)?;
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ChunkError::Line);
    }
    u64::from_str_radix(text, 16).map_err(|_| ChunkError::Line)
}

impl<B> Body for Rechunk<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if matches!(self.state, State::Over) {
                return Poll::Ready(None);
            }
            let fed = match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.feed(bytes),
                    Err(_) => continue,
                },
                Some(Err(error)) => {
                    self.state = State::Over;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None if matches!(self.state, State::Trailers) => self.end(),
                None => Err(ChunkError::Incomplete),
            };
            if let Err(error) = fed {
                self.state = State::Over;
                self.ready.clear();
                return Poll::Ready(Some(Err(Box::new(error))));
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};

    fn run(wire: &[u8], frame_bytes: usize, is_signed: bool) -> Result<Vec<Bytes>, String> {
        let frames: Vec<_> =
            wire.chunks(frame_bytes).map(|c| Ok::<_, std::io::Error>(Frame::data(Bytes::copy_from_slice(c)))).collect();
        let mut body = Rechunk::new(StreamBody::new(futures::stream::iter(frames)), is_signed, None);
        futures::executor::block_on(async {
            let mut out = Vec::new();
            while let Some(frame) = body.frame().await {
                out.push(frame.map_err(|e| e.to_string())?.into_data().unwrap());
            }
            Ok(out)
        })
    }

    const TRAILER: &str = "x-amz-checksum-crc32:AAAAAA==\r\n\r\n";

    /// What is inside an aws-chunked body, and its trailers.
    fn decode(mut wire: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut data = Vec::new();
        loop {
            let at = wire.windows(2).position(|w| w == b"\r\n").unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&wire[..at]).unwrap(), 16).unwrap();
            wire = &wire[at + 2..];
            if size == 0 {
                return (data, wire.to_vec());
            }
            data.extend_from_slice(&wire[..size]);
            assert_eq!(&wire[size..size + 2], b"\r\n");
            wire = &wire[size + 2..];
        }
    }

    #[test]
    fn unsigned_chunks_are_cut_at_the_frames() {
        let wire = format!("b\r\nhello world\r\n3\r\nfoo\r\n0\r\n{TRAILER}");
        for frame_bytes in 1..=wire.len() {
            let out = run(wire.as_bytes(), frame_bytes, false).unwrap();
            assert!(out.iter().all(|piece| piece.len() <= frame_bytes.max(4)), "{frame_bytes}");
            assert_eq!(decode(&out.concat()), (b"hello worldfoo".to_vec(), TRAILER.as_bytes().to_vec()));
        }
    }

    #[test]
    fn signed_chunks_pass_as_they_are() {
        let wire = b"5;chunk-signature=00\r\nhello\r\n0;chunk-signature=11\r\n\r\n";
        for frame_bytes in [1, 3, 7, 100] {
            assert_eq!(run(wire, frame_bytes, true).unwrap().concat(), wire);
        }
    }

    #[test]
    fn bad_framing_is_refused() {
        for (wire, signed) in [
            ("zz\r\n", false),
            ("\r\n", false),
            ("5\nhello\r\n0\r\n", false),
            ("5\r\nhelloXX", false),
            ("5\r\nhell", false),
            ("5\r\nhello\r\n", false),
            ("1000001;chunk-signature=00\r\nx", true),
            ("ffffffffffffffffff\r\n", false),
        ] {
            assert!(run(wire.as_bytes(), 4, signed).is_err(), "{wire}");
        }
        assert!(run(&[b'1'; 2000], 100, false).is_err());
    }
}
