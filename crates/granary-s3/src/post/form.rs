//! `multipart/form-data` as S3 takes it: the fields, gathered within bounds, and then the file, which is streamed.
//!
//! Guarantees: not more than [`HEAD_BYTES_MAX`] are held, however large the form; the file's length is known before
//! its first byte is handed on (from the form's length, for the file is its last part), and a form that turns out
//! to be made otherwise is refused before its last byte is handed on, so that nothing half is stored.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use s3s::{S3Error, S3ErrorCode, StdError};

use crate::context::Trace;
use crate::error::invalid_argument;

/// Bytes of names and values of fields, at most (S3's limit).
const FIELDS_BYTES_MAX: usize = 20 * 1024;
/// Bytes before the file, at most, with everything around the fields.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Forms up to this size are read whole: their file need not be last.
const SMALL_BYTES_MAX: u64 = 64 * 1024;
/// Characters of a boundary, at most (RFC 2046).
const BOUNDARY_CHARS_MAX: usize = 70;

fn malformed(message: &'static str) -> S3Error {
    S3Error::with_message(S3ErrorCode::MalformedPOSTRequest, message)
}

fn cut_short() -> S3Error {
    S3Error::with_message(
        S3ErrorCode::IncompleteBody,
        "You did not provide the number of bytes specified by the Content-Length HTTP header, or the body ended early",
    )
}

/// The boundary that a content type names.
pub(crate) fn boundary(content_type: &str) -> Option<String> {
    let (_, value) = parameters(content_type).into_iter().find(|(name, _)| name == "boundary")?;
    (!value.is_empty() && value.len() <= BOUNDARY_CHARS_MAX).then_some(value)
}

/// The parameters behind a header's value: `; name=value; name="value"`. Names in lower case.
fn parameters(header: &str) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let mut rest = header.split_once(';').map_or("", |(_, rest)| rest);
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_start_matches(|c: char| c == ';' || c.is_whitespace()).trim_end().to_ascii_lowercase();
        let mut value = String::new();
        let after = after.trim_start();
        rest = if let Some(quoted) = after.strip_prefix('"') {
            let mut chars = quoted.char_indices();
            let mut end = quoted.len();
            while let Some((at, c)) = chars.next() {
                match c {
                    '"' => {
                        end = at + 1;
                        break;
                    }
                    // A browser sends a backslash of a Windows path as it is, so only quotes can be escaped.
                    '\\' if quoted[at + 1..].starts_with('"') => {
                        value.push('"');
                        chars.next();
                    }
                    c => value.push(c),
                }
            }
            &quoted[end..]
        } else {
            let end = after.find(';').unwrap_or(after.len());
            value.push_str(after[..end].trim());
            &after[end..]
        };
        out.push((name, value));
    }
    out
}

/// The fields of a form.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields {
    /// Names in lower case, in the order sent.
    pub(crate) pairs: Vec<(String, String)>,
    /// The name that the file has on the client's machine.
    pub(crate) filename: String,
}

impl Fields {
    /// A field's value; the name in lower case.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }
}

/// What the head of one part says.
struct PartHead {
    name: String,
    filename: Option<String>,
}

impl PartHead {
    fn parse(head: &[u8]) -> Result<Self, S3Error> {
        let head = std::str::from_utf8(head).map_err(|_| malformed("A part's header is not UTF-8"))?;
        let disposition = head.split("\r\n").find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
        });
        let disposition = disposition.ok_or_else(|| malformed("A part has no Content-Disposition"))?;
        let parameters = parameters(disposition);
        let find = |wanted: &str| parameters.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.clone());
        let name = find("name").ok_or_else(|| malformed("A part's Content-Disposition has no name"))?;
        Ok(Self { name: name.to_ascii_lowercase(), filename: find("filename") })
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}

/// Reads a form up to where its file begins.
struct Head<'a, B> {
    body: &'a mut B,
    /// What has come and was not used; begins with a line end that is not in the form, so that all boundaries look alike.
    buffer: BytesMut,
    /// Bytes that came.
    came: u64,
}

impl<B> Head<'_, B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    async fn more(&mut self) -> Result<(), S3Error> {
        loop {
            match self.body.frame().await {
                None | Some(Err(_)) => return Err(cut_short()),
                Some(Ok(frame)) => {
                    if let Some(bytes) = frame.data_ref() {
                        self.came += bytes.len() as u64;
                        self.buffer.extend_from_slice(bytes);
                        return Ok(());
                    }
                }
            }
        }
    }

    /// What is before `needle`, which is dropped; with what comes after it next.
    async fn until(&mut self, needle: &[u8], used: &mut usize) -> Result<BytesMut, S3Error> {
        let mut from = 0;
        loop {
            if let Some(at) = find(&self.buffer[from..], needle) {
                let found = self.buffer.split_to(from + at);
                let _ = self.buffer.split_to(needle.len());
                *used += found.len() + needle.len();
                if *used > HEAD_BYTES_MAX {
                    return Err(too_long());
                }
                return Ok(found);
            }
            if *used + self.buffer.len() > HEAD_BYTES_MAX {
                return Err(too_long());
            }
            from = self.buffer.len().saturating_sub(needle.len() - 1);
            self.more().await?;
        }
    }
}

fn too_long() -> S3Error {
    S3Error::with_message(
        S3ErrorCode::MaxPostPreDataLengthExceededError,
        "Your POST request fields preceding the upload file were too large.",
    )
}

/// The file of a form.
pub(crate) enum File<B> {
    /// Of a small form: at hand.
    Whole(Bytes),
    /// To be streamed.
    Stream(FileBody<B>),
}

impl<B> File<B> {
    /// Bytes of the file.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Whole(bytes) => bytes.len() as u64,
            Self::Stream(body) => body.size_bytes,
        }
    }
}

/// Reads the fields of a form that announces `form_bytes`, and finds its file.
///
/// # Errors
/// As S3 answers forms that are malformed, too large before the file, or without one.
pub(crate) async fn read<B>(
    mut body: B,
    boundary: &str,
    form_bytes: u64,
    trace: Arc<Trace>,
) -> Result<(Fields, File<B>), S3Error>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    let delimiter = format!("\r\n--{boundary}").into_bytes();
    let mut fields = Fields::default();
    let mut head = Head { body: &mut body, buffer: BytesMut::from(&b"\r\n"[..]), came: 0 };
    let (mut used, mut fields_bytes) = (0, 0);
    head.until(&delimiter, &mut used).await?;
    loop {
        // Behind a boundary: the end of the form, or of the line.
        while head.buffer.len() < 2 {
            head.more().await?;
        }
        if head.buffer.starts_with(b"--") {
            return Err(S3Error::with_message(
                S3ErrorCode::IncorrectNumberOfFilesInPostRequest,
                "POST requires exactly one file upload per request.",
            ));
        }
        head.until(b"\r\n", &mut used).await?;
        // A part without any header begins with the empty line at once; it has no name, so it is malformed anyway.
        let part = PartHead::parse(&head.until(b"\r\n\r\n", &mut used).await?)?;
        if part.name == "file" {
            fields.filename = part.filename.unwrap_or_default();
            break;
        }
        let value = head.until(&delimiter, &mut used).await?;
        fields_bytes += part.name.len() + value.len();
        if fields_bytes > FIELDS_BYTES_MAX {
            return Err(too_long());
        }
        let value = String::from_utf8(value.to_vec())
            .map_err(|_| invalid_argument(format!("The form field {} is not UTF-8", part.name)))?;
        if fields.get(&part.name).is_some() {
            return Err(invalid_argument(format!("The form field {} is given more than once", part.name)));
        }
        fields.pairs.push((part.name, value));
    }
    let (first, came) = (head.buffer.split().freeze(), head.came);
    let left = form_bytes.checked_sub(came).ok_or_else(cut_short)?;
    if left + (first.len() as u64) <= SMALL_BYTES_MAX {
        let bytes = whole(&mut body, first, &delimiter, left).await?;
        return Ok((fields, File::Whole(bytes)));
    }
    let tail = [&delimiter[..], b"--\r\n"].concat();
    let size_bytes = (left + first.len() as u64).checked_sub(tail.len() as u64).ok_or_else(cut_short)?;
    let file = FileBody { inner: body, first, delimiter, tail, size_bytes, state: State::new(size_bytes), trace };
    Ok((fields, File::Stream(file)))
}

/// The rest of a small form, up to where its file ends. What comes behind it means nothing.
async fn whole<B>(body: &mut B, first: Bytes, delimiter: &[u8], mut left: u64) -> Result<Bytes, S3Error>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    let mut buffer = BytesMut::from(first);
    while left > 0 {
        match body.frame().await {
            None | Some(Err(_)) => return Err(cut_short()),
            Some(Ok(frame)) => {
                if let Some(bytes) = frame.data_ref() {
                    left = left.checked_sub(bytes.len() as u64).ok_or_else(cut_short)?;
                    buffer.extend_from_slice(bytes);
                }
            }
        }
    }
    let end = find(&buffer, delimiter).ok_or_else(|| malformed("The form does not end with its boundary"))?;
    Ok(buffer.split_to(end).freeze())
}

#[derive(Debug)]
struct State {
    /// Bytes of the file yet to come.
    left: u64,
    /// The last bytes of the file so far, in which a boundary may have begun.
    window: Vec<u8>,
    /// What came behind the file.
    seen_tail: Vec<u8>,
    /// The last bytes of the file, kept back until the form has ended well.
    last: Option<Bytes>,
    is_over: bool,
}

impl State {
    const fn new(left: u64) -> Self {
        Self { left, window: Vec::new(), seen_tail: Vec::new(), last: None, is_over: false }
    }
}

/// The file of a large form on its way: exactly [`FileBody::size_bytes`], or an error.
pub(crate) struct FileBody<B> {
    inner: B,
    first: Bytes,
    delimiter: Vec<u8>,
    tail: Vec<u8>,
    size_bytes: u64,
    state: State,
    trace: Arc<Trace>,
}

impl<B> FileBody<B> {
    /// Takes bytes of the form; what of them can be handed on.
    fn take_in(&mut self, mut bytes: Bytes) -> Result<Option<Bytes>, S3Error> {
        let state = &mut self.state;
        let own = usize::try_from(state.left).unwrap_or(usize::MAX).min(bytes.len());
        let file = bytes.split_to(own);
        state.left -= file.len() as u64;
        if !file.is_empty() {
            let overlap = self.delimiter.len() - 1;
            let mut seam = std::mem::take(&mut state.window);
            seam.extend_from_slice(&file[..file.len().min(overlap)]);
            if find(&seam, &self.delimiter).is_some() || find(&file, &self.delimiter).is_some() {
                return Err(malformed("The file must be the last field of the form"));
            }
            state.window = if file.len() >= overlap {
                file[file.len() - overlap..].to_vec()
            } else {
                seam.split_off(seam.len().saturating_sub(overlap))
            };
        }
        if !bytes.is_empty() {
            if state.seen_tail.len() + bytes.len() > self.tail.len() {
                return Err(malformed("The form must end with its boundary, two hyphens and a line end"));
            }
            state.seen_tail.extend_from_slice(&bytes);
        }
        if state.left == 0 {
            if !file.is_empty() {
                state.last = Some(file);
            }
            return Ok(None);
        }
        Ok((!file.is_empty()).then_some(file))
    }

    fn end(&mut self) -> Result<Option<Bytes>, S3Error> {
        self.state.is_over = true;
        if self.state.left > 0 {
            return Err(cut_short());
        }
        if self.state.seen_tail != self.tail {
            return Err(malformed("The form must end with its boundary, two hyphens and a line end"));
        }
        Ok(self.state.last.take())
    }

    fn fail(&mut self, error: S3Error) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        self.state.is_over = true;
        let text = error.to_string();
        self.trace.set_verdict(error);
        Poll::Ready(Some(Err(text.into())))
    }
}

impl<B> Body for FileBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<StdError>,
{
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let this = &mut *self;
        loop {
            if this.state.is_over {
                return Poll::Ready(None);
            }
            let taken = if this.first.is_empty() {
                match std::task::ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                    None => {
                        return match this.end() {
                            Ok(last) => Poll::Ready(last.map(|bytes| Ok(Frame::data(bytes)))),
                            Err(error) => this.fail(error),
                        };
                    }
                    Some(Err(_)) => Err(cut_short()),
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(bytes) => this.take_in(bytes),
                        Err(_) => Ok(None),
                    },
                }
            } else {
                let first = std::mem::take(&mut this.first);
                this.take_in(first)
            };
            match taken {
                Ok(None) => {}
                Ok(Some(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
                Err(error) => return this.fail(error),
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        let handed = self.state.left + self.state.last.as_ref().map_or(0, |last| last.len() as u64);
        SizeHint::with_exact(if self.state.is_over { 0 } else { handed })
    }
}
