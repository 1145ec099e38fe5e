//! Bytes of the object on their way to records: read, decompressed, counted, and never more of them than a record needs.

use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Buf as _, Bytes, BytesMut};
use bzip2::{Decompress, Status};
use flate2::write::MultiGzDecoder;
use futures::StreamExt as _;

use crate::error::{Code, Error};
use crate::event::Counts;
use crate::object::{Object, Reading};
use crate::request::Compression;

/// Compressed bytes given to gzip's decoder at once; they become a thousand times as many at most.
const GZIP_BYTES: usize = 4 << 10;

/// Bytes taken from bzip2's decoder at once.
const BZIP2_OUT_BYTES: usize = 256 << 10;

/// What has been done so far; read while it is being done.
#[derive(Debug, Default)]
pub(super) struct Meter {
    scanned_bytes: AtomicU64,
    processed_bytes: AtomicU64,
    returned_bytes: AtomicU64,
}

impl Meter {
    pub(super) fn scanned(&self, bytes: usize) {
        self.scanned_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn processed(&self, bytes: usize) {
        self.processed_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn returned(&self, bytes: usize) {
        self.returned_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> Counts {
        Counts {
            scanned_bytes: self.scanned_bytes.load(Ordering::Relaxed),
            processed_bytes: self.processed_bytes.load(Ordering::Relaxed),
            returned_bytes: self.returned_bytes.load(Ordering::Relaxed),
        }
    }
}

enum Decoder {
    None,
    Gzip(Box<MultiGzDecoder<Vec<u8>>>),
    Bzip2(Bunzip),
}

/// bzip2, streams one after another included.
struct Bunzip {
    stream: Decompress,
    /// In the middle of a stream.
    is_within: bool,
    /// The last step filled its buffer: there may be more without more input.
    has_more: bool,
}

impl Bunzip {
    fn new() -> Self {
        Self { stream: Decompress::new(false), is_within: false, has_more: false }
    }

    fn step(&mut self, packed: &mut Bytes, window: &mut BytesMut) -> Result<(), ()> {
        let before = self.stream.total_in();
        let mut out = Vec::with_capacity(BZIP2_OUT_BYTES);
        let status = self.stream.decompress_vec(packed, &mut out).map_err(|_| ())?;
        let taken = usize::try_from(self.stream.total_in() - before).map_err(|_| ())?.min(packed.len());
        packed.advance(taken);
        window.extend_from_slice(&out);
        if status == Status::StreamEnd {
            *self = Self::new();
        } else if taken == 0 && out.is_empty() && !packed.is_empty() {
            return Err(());
        } else {
            self.is_within = true;
            self.has_more = out.len() == out.capacity();
        }
        Ok(())
    }
}

/// A window on the plain bytes: what has been read and not yet taken.
pub(super) struct Feed {
    source: Reading,
    decoder: Decoder,
    /// Compressed bytes that the decoder has not had yet.
    packed: Bytes,
    pub(super) window: BytesMut,
    /// Nothing follows the window.
    pub(super) is_at_end: bool,
    pub(super) meter: Arc<Meter>,
}

impl Feed {
    pub(super) fn new(object: &dyn Object, range: Range<u64>, compression: Compression, meter: Arc<Meter>) -> Self {
        let decoder = match compression {
            Compression::None => Decoder::None,
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(Vec::new()))),
            Compression::Bzip2 => Decoder::Bzip2(Bunzip::new()),
        };
        let source = if range.is_empty() { futures::stream::empty().boxed() } else { object.read(range) };
        Self { source, decoder, packed: Bytes::new(), window: BytesMut::new(), is_at_end: false, meter }
    }

    /// Adds to the window; `is_at_end` is set where there is nothing to add.
    pub(super) async fn fill(&mut self) -> Result<(), Error> {
        let before = self.window.len();
        while self.window.len() == before && !self.is_at_end {
            let has_more = matches!(&self.decoder, Decoder::Bzip2(bunzip) if bunzip.has_more);
            if self.packed.is_empty() && !has_more {
                match super::reading(self.source.next()).await {
                    Some(frame) => {
                        let frame = frame.map_err(|error| Error::new(Code::InternalError, error.0))?;
                        self.meter.scanned(frame.len());
                        self.packed = frame;
                    }
                    None => {
                        self.end()?;
                        self.is_at_end = true;
                        break;
                    }
                }
            }
            self.decode()?;
        }
        self.meter.processed(self.window.len() - before);
        Ok(())
    }

    /// Bytes of the mark of UTF-8 that text may begin with.
    pub(super) async fn mark_bytes(&mut self) -> Result<usize, Error> {
        while self.window.len() < 3 && !self.is_at_end {
            self.fill().await?;
        }
        Ok(if self.window.starts_with(b"\xef\xbb\xbf") { 3 } else { 0 })
    }

    /// Passes over bytes of the window.
    pub(super) fn take(&mut self, bytes: usize) {
        self.window.advance(bytes);
    }

    fn decode(&mut self) -> Result<(), Error> {
        let bad =
            || Error::new(Code::InvalidCompressionFormat, "The object is not compressed as CompressionType says.");
        match &mut self.decoder {
            Decoder::None => self.window.extend_from_slice(&std::mem::take(&mut self.packed)),
            Decoder::Gzip(decoder) => {
                let some = self.packed.split_to(self.packed.len().min(GZIP_BYTES));
                decoder.write_all(&some).map_err(|_| bad())?;
                let plain = decoder.get_mut();
                self.window.extend_from_slice(plain);
                plain.clear();
                plain.shrink_to(1 << 20);
            }
            Decoder::Bzip2(bunzip) => bunzip.step(&mut self.packed, &mut self.window).map_err(|()| bad())?,
        }
        Ok(())
    }

    /// What the decoder still holds; an end in the middle of its format is told.
    fn end(&mut self) -> Result<(), Error> {
        let cut = || Error::new(Code::TruncatedInput, "The object ends in the middle of its compressed data.");
        // An object of no bytes is no gzip, and holds no records either.
        let is_empty = self.meter.counts().scanned_bytes == 0;
        match std::mem::replace(&mut self.decoder, Decoder::None) {
            Decoder::Gzip(decoder) if !is_empty => {
                let plain = decoder.finish().map_err(|_| cut())?;
                self.window.extend_from_slice(&plain);
            }
            Decoder::Bzip2(bunzip) if bunzip.is_within => return Err(cut()),
            _ => {}
        }
        Ok(())
    }
}
