//! Large objects in parts: the checkpoint of a training run, several parts in flight, timed from the first request to
//! the answer of CompleteMultipartUpload.
//!
//! Guarantees: the object's length is checked after completing and as many of its parts read back as asked for.
//! Leaves to others: what is made of the figures.

use crate::client::{Call, Client, ClientError, Drained, Expect, Outgoing, between};
use crate::endpoint::Endpoint;
use crate::payload::Payload;
use crate::procstat;
use crate::runner::RunError;
use crate::sigv4::uri_encode;
use crate::stats::{Recorder, Slice};
use bytes::Bytes;
use futures::future::join_all;
use http::Method;
use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Instant;

/// What to upload.
#[derive(Clone)]
pub(crate) struct Checkpoint {
    pub(crate) object_bytes: u64,
    pub(crate) part_bytes: u64,
    pub(crate) parts_in_flight: usize,
    /// Read back every n-th part after completing; 0 reads none.
    pub(crate) verify_every: u64,
    pub(crate) payload: Payload,
    pub(crate) prefix: String,
    /// Delete the object once it is measured and verified.
    pub(crate) cleanup: bool,
}

impl Checkpoint {
    fn parts(&self) -> u64 {
        self.object_bytes.div_ceil(self.part_bytes).max(1)
    }

    fn part_range(&self, number: u64) -> (u64, u64) {
        let offset = number * self.part_bytes;
        (offset, self.part_bytes.min(self.object_bytes - offset))
    }
}

/// Uploads one object and verifies it; the slice covers the upload alone. Latencies are those of parts.
pub(crate) fn upload(
    endpoint: &Arc<Endpoint>,
    checkpoint: &Checkpoint,
    number: u64,
    sign_payload: bool,
) -> Result<Slice, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let mut clients: Vec<Client> =
            (0..checkpoint.parts_in_flight.max(1)).map(|_| Client::new(endpoint.clone(), sign_payload)).collect();
        let key = format!("{}checkpoint-{number:04}", checkpoint.prefix);
        let recorder = RefCell::new(Recorder::new());
        let server = endpoint.server_pid.and_then(procstat::usage);
        let client = procstat::own_usage();
        let start = Instant::now();
        let result = write(&mut clients, checkpoint, &key, &recorder).await;
        let elapsed_s = start.elapsed().as_secs_f64();
        let after = (endpoint.server_pid.and_then(procstat::usage), procstat::own_usage());
        if let Err(error) = result {
            eprintln!("granary-bench: {key}: {error}");
            recorder.borrow_mut().failed(error.kind());
        } else if let Err(error) = read_back(&mut clients, checkpoint, &key, &recorder).await {
            eprintln!("granary-bench: {key}: {error}");
            recorder.borrow_mut().failed(error.kind());
        }
        if checkpoint.cleanup {
            let path = path(&clients[0], &key);
            let call = Call { method: Method::DELETE, path: &path, query: "", range: None, body: Outgoing::Empty };
            if let Err(error) = clients[0].fetch(&call).await {
                eprintln!("granary-bench: delete {key}: {error}");
            }
        }
        Slice::new(recorder.into_inner(), elapsed_s, (server, after.0), (client, after.1))
    }))
}

fn path(client: &Client, key: &str) -> String {
    format!("/{}/{}", client.endpoint.bucket, uri_encode(key, true))
}

/// Uploads an object in parts, as many at once as there are clients.
pub(crate) async fn write(
    clients: &mut [Client],
    checkpoint: &Checkpoint,
    key: &str,
    recorder: &RefCell<Recorder>,
) -> Result<(), ClientError> {
    let path = path(&clients[0], key);
    let create = Call { method: Method::POST, path: &path, query: "uploads=", range: None, body: Outgoing::Empty };
    let (_, _, body) = clients[0].fetch(&create).await?;
    let text = String::from_utf8_lossy(&body);
    let id = between(&text, "<UploadId>", "</UploadId>").ok_or(ClientError::Answer("no UploadId"))?.to_owned();
    let id = uri_encode(&id, false);

    let parts = checkpoint.parts();
    let next = Cell::new(0u64);
    let etags = RefCell::new(vec![String::new(); usize::try_from(parts).unwrap_or(0)]);
    let origin = checkpoint.payload.origin(key);
    let uploads = clients.iter_mut().map(async |client| {
        while next.get() < parts {
            let number = next.replace(next.get() + 1);
            let (offset, length) = checkpoint.part_range(number);
            let query = format!("partNumber={}&uploadId={id}", number + 1);
            let body = Outgoing::Object { payload: checkpoint.payload.clone(), origin, offset, left: length };
            let call = Call { method: Method::PUT, path: &path, query: &query, range: None, body };
            let start = Instant::now();
            let (_, headers, _) = client.fetch(&call).await?;
            let took_us = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
            let etag = headers
                .get("etag")
                .and_then(|value| value.to_str().ok())
                .ok_or(ClientError::Answer("part without ETag"))?;
            etags.borrow_mut()[number as usize] = etag.to_owned();
            recorder.borrow_mut().done(took_us, length);
        }
        Ok::<(), ClientError>(())
    });
    for result in join_all(uploads).await {
        result?;
    }

    let mut xml = String::from("<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for (i, etag) in etags.borrow().iter().enumerate() {
        let number = i + 1;
        write!(xml, "<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
            .expect("writing to a String cannot fail");
    }
    xml.push_str("</CompleteMultipartUpload>");
    let query = format!("uploadId={id}");
    let complete =
        Call { method: Method::POST, path: &path, query: &query, range: None, body: Outgoing::Full(Bytes::from(xml)) };
    let (_, _, body) = clients[0].fetch(&complete).await?;
    // S3 may answer 200 and still report a failure in the body.
    let text = String::from_utf8_lossy(&body);
    if text.contains("<Error>") || !text.contains("<ETag>") {
        return Err(ClientError::Answer("complete failed"));
    }
    Ok(())
}

/// Reads every part of an object, as many at once as there are clients: lengths are checked, the content of every n-th part.
pub(crate) async fn read(clients: &mut [Client], checkpoint: &Checkpoint, key: &str) -> Result<(), ClientError> {
    let path = path(&clients[0], key);
    let next = Cell::new(0u64);
    let origin = checkpoint.payload.origin(key);
    let reads = clients.iter_mut().map(async |client| {
        while next.get() < checkpoint.parts() {
            let number = next.replace(next.get() + 1);
            let (offset, length) = checkpoint.part_range(number);
            let verify = checkpoint.verify_every > 0 && number.is_multiple_of(checkpoint.verify_every);
            part(client, checkpoint, key, &path, (offset, length), verify.then_some(origin)).await?;
        }
        Ok::<(), ClientError>(())
    });
    join_all(reads).await.into_iter().collect()
}

/// Reads one part, and compares it where the object's origin is given.
async fn part(
    client: &mut Client,
    checkpoint: &Checkpoint,
    key: &str,
    path: &str,
    (offset, length): (u64, u64),
    origin: Option<u64>,
) -> Result<u64, ClientError> {
    let range = Some((offset, offset + length - 1));
    let call = Call { method: Method::GET, path, query: "", range, body: Outgoing::Empty };
    let response = client.send(&call).await?;
    let expect = origin.map(|origin| Expect { payload: &checkpoint.payload, origin, offset });
    let Drained { bytes, first_difference } = client.drain(response, expect).await?;
    if let Some(offset) = first_difference {
        return Err(ClientError::Mismatch { key: key.into(), offset });
    }
    if bytes != length {
        return Err(ClientError::Length { key: key.into(), want: length, got: bytes });
    }
    Ok(bytes)
}

async fn read_back(
    clients: &mut [Client],
    checkpoint: &Checkpoint,
    key: &str,
    recorder: &RefCell<Recorder>,
) -> Result<(), ClientError> {
    let path = path(&clients[0], key);
    let head = Call { method: Method::HEAD, path: &path, query: "", range: None, body: Outgoing::Empty };
    let (_, headers, _) = clients[0].fetch(&head).await?;
    let got = headers.get("content-length").and_then(|value| value.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
    if got != checkpoint.object_bytes {
        return Err(ClientError::Length { key: key.into(), want: checkpoint.object_bytes, got });
    }
    if checkpoint.verify_every == 0 {
        return Ok(());
    }
    let origin = checkpoint.payload.origin(key);
    for number in (0..checkpoint.parts()).step_by(checkpoint.verify_every as usize) {
        let range = checkpoint.part_range(number);
        let bytes = part(&mut clients[0], checkpoint, key, &path, range, Some(origin)).await?;
        let mut recorder = recorder.borrow_mut();
        recorder.verified += 1;
        recorder.verified_bytes += bytes;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_object() {
        let mut checkpoint = Checkpoint {
            object_bytes: 100,
            part_bytes: 30,
            parts_in_flight: 2,
            verify_every: 1,
            payload: Payload::new(0),
            prefix: String::new(),
            cleanup: false,
        };
        assert_eq!(checkpoint.parts(), 4);
        assert_eq!(checkpoint.part_range(3), (90, 10));
        checkpoint.object_bytes = 90;
        assert_eq!(checkpoint.parts(), 3);
        assert_eq!(checkpoint.part_range(2), (60, 30));
    }
}
