//! Bounds what an aws-chunked body can make s3s hold in memory.
//!
//! s3s gathers a whole chunk before it passes any of it on, and a chunk may announce up to 4 GiB; some SDKs do
//! send a whole object as one chunk. Without chunk signatures nothing is gained by waiting, so unsigned
//! chunks are cut anew at the frames they come in (no payload byte is copied). Signed chunks have to be whole
//! to be verified: they are let through as they are, up to [`SIGNED_CHUNK_BYTES_MAX`].
//!
//! A body that ends before its last chunk is an error here: s3s would take it for whole.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use s3s::StdError;

/// Largest chunk that may carry a signature. SDKs use 64 KiB to 1 MiB.
pub(crate) const SIGNED_CHUNK_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// A chunk's size line, at most.
const LINE_BYTES_MAX: usize = 1024;

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
    Failed,
}

pub(crate) struct Rechunk<B> {
    body: B,
    is_signed: bool,
    state: State,
    ready: VecDeque<Bytes>,
}

impl<B> Rechunk<B> {
    pub(crate) fn new(body: B, is_signed: bool) -> Self {
        Self { body, is_signed, state: State::Line(Vec::new()), ready: VecDeque::new() }
    }

    /// Takes in a frame, and puts what goes on into `ready`.
    fn feed(&mut self, mut bytes: Bytes) -> Result<(), ChunkError> {
        if self.is_signed {
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
                    if *left == 0 {
                        self.state = State::End(0);
                    }
                    if !self.is_signed {
                        self.ready.push_back(Bytes::from(format!("{take:x}\r\n")));
                        self.ready.push_back(piece);
                        self.ready.push_back(Bytes::from_static(b"\r\n"));
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
                    self.pass(rest);
                }
                State::Failed => return Ok(()),
            }
        }
        Ok(())
    }

    fn pass(&mut self, bytes: Bytes) {
        if !self.is_signed {
            self.ready.push_back(bytes);
        }
    }
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
            if matches!(self.state, State::Failed) {
                return Poll::Ready(None);
            }
            let fed = match std::task::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) => self.feed(bytes),
                    Err(_) => continue,
                },
                Some(Err(error)) => {
                    self.state = State::Failed;
                    return Poll::Ready(Some(Err(error.into())));
                }
                None if matches!(self.state, State::Trailers) => return Poll::Ready(None),
                None => Err(ChunkError::Incomplete),
            };
            if let Err(error) = fed {
                self.state = State::Failed;
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
        let mut body = Rechunk::new(StreamBody::new(futures::stream::iter(frames)), is_signed);
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
