//! The data set of a run: which objects there are and what is in them; made where it is not there.
//!
//! A small object beside it says what it is, and is written last: a data set that is half made is made anew, one that was made
//! otherwise is never taken for this one.

use super::profile::{Layout, Profile, Shape, TAR_BLOCK};
use crate::client::{Call, Client, ClientError, Outgoing};
use crate::endpoint::Endpoint;
use crate::payload::Payload;
use crate::sigv4::uri_encode;
use crate::target::BenchError;
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Objects that are written at once.
const WRITERS: usize = 8;

/// The objects that samples are in.
#[derive(Clone)]
pub(crate) struct Dataset {
    pub(crate) shape: Shape,
    pub(crate) profile: Profile,
    /// What the keys begin with.
    pub(crate) prefix: String,
    pub(crate) objects: u64,
    pub(crate) payload: Payload,
}

impl Dataset {
    /// As many objects as `data_bytes` take, at least one.
    pub(crate) fn new(profile: Profile, shape: Shape, prefix: &str, data_bytes: u64, seed: u64) -> Self {
        let mean = if shape.samples_per_object == 1 { shape.sample_bytes } else { shape.object_bytes(0) };
        let objects = data_bytes.div_ceil(mean.max(1)).max(1);
        let prefix = format!("{prefix}{}/", profile.name());
        Self { shape, profile, prefix, objects, payload: Payload::new(seed) }
    }

    pub(crate) const fn samples(&self) -> u64 {
        self.objects * self.shape.samples_per_object
    }

    pub(crate) fn bytes(&self) -> u64 {
        (0..self.objects).map(|object| self.shape.object_bytes(object)).sum()
    }

    pub(crate) fn key(&self, object: u64) -> String {
        let ending = if self.shape.layout == Layout::Tar { "tar" } else { "bin" };
        format!("{}{object:06}.{ending}", self.prefix)
    }

    /// A member's name in its shard.
    pub(crate) fn member(index: u64) -> String {
        format!("{index:06}.jpg")
    }

    /// Path of a key, as sent.
    pub(crate) fn path(bucket: &str, key: &str) -> String {
        format!("/{bucket}/{}", uri_encode(key, true))
    }

    /// Where in the object's content a sample's bytes come from. (Headers of tar files are no content.)
    pub(crate) const fn content_offset(&self, index: u64) -> u64 {
        index * self.shape.sample_bytes
    }

    fn marker(&self) -> String {
        format!("{}.json", self.prefix.trim_end_matches('/'))
    }

    /// What is told of it beside it: all that its bytes follow from.
    fn description(&self, seed: u64) -> Value {
        let shape = &self.shape;
        json!({
            "granary_bench_dataset": 1, "profile": self.profile.name(), "seed": seed, "objects": self.objects,
            "layout": shape.layout, "sample_bytes": shape.sample_bytes,
            "sample_bytes_deviation": shape.sample_bytes_deviation, "samples_per_object": shape.samples_per_object,
        })
    }

    fn body(&self, object: u64) -> Outgoing {
        let origin = self.payload.origin(&self.key(object));
        match self.shape.layout {
            Layout::Plain => Outgoing::Object {
                payload: self.payload.clone(),
                origin,
                offset: 0,
                left: self.shape.object_bytes(object),
            },
            Layout::Tar => {
                let mut tar = Vec::with_capacity(usize::try_from(self.shape.object_bytes(object)).unwrap_or(0));
                for index in 0..self.shape.samples_per_object {
                    tar.extend_from_slice(&tar_header(&Self::member(index), self.shape.sample_bytes));
                    for piece in self.payload.pieces(origin, self.content_offset(index), self.shape.sample_bytes) {
                        tar.extend_from_slice(&piece);
                    }
                    tar.resize(tar.len().next_multiple_of(TAR_BLOCK as usize), 0);
                }
                tar.resize(tar.len() + 2 * TAR_BLOCK as usize, 0);
                Outgoing::Full(Bytes::from(tar))
            }
        }
    }

    /// Makes the bucket and the data set where they are not there. Whether anything was made.
    ///
    /// # Errors
    /// [`BenchError::Usage`] if something else lies there, [`BenchError::Request`].
    pub(crate) async fn prepare(
        &self,
        endpoint: &Arc<Endpoint>,
        seed: u64,
        timeout: Duration,
    ) -> Result<bool, BenchError> {
        let mut client = Client::new(Arc::clone(endpoint), false);
        let bucket = format!("/{}", endpoint.bucket);
        let make = Call { method: Method::PUT, path: &bucket, query: "", range: None, body: Outgoing::Empty };
        let marker = self.marker();
        let place = Self::path(&endpoint.bucket, &marker);
        let look = Call { method: Method::GET, path: &place, query: "", range: None, body: Outgoing::Empty };
        match client.fetch(&look).await {
            Ok((_, _, found)) => {
                let found: Value = serde_json::from_slice(&found).unwrap_or(Value::Null);
                if found == self.description(seed) {
                    return Ok(false);
                }
                return Err(BenchError::Usage(format!(
                    "s3://{}/{} was made with other settings ({found}): use another --prefix, or delete it with {marker}",
                    endpoint.bucket, self.prefix
                )));
            }
            Err(ClientError::Status { status: 404, code }) if code == "NoSuchBucket" => {
                client.fetch(&make).await.map_err(|error| BenchError::request(format!("making {bucket}"), &error))?;
            }
            Err(ClientError::Status { status: 404, .. }) => {}
            Err(error) => return Err(BenchError::request(format!("reading {place}"), &error)),
        }
        eprintln!(
            "making {} objects, {} bytes, in s3://{}/{}",
            self.objects,
            self.bytes(),
            endpoint.bucket,
            self.prefix
        );
        let next = Arc::new(AtomicU64::new(0));
        let writers = (0..WRITERS.min(usize::try_from(self.objects).unwrap_or(WRITERS))).map(|_| {
            let (dataset, next, mut client) =
                (self.clone(), Arc::clone(&next), Client::new(Arc::clone(endpoint), false));
            tokio::spawn(async move {
                loop {
                    let object = next.fetch_add(1, Ordering::Relaxed);
                    if object >= dataset.objects {
                        return Ok::<(), BenchError>(());
                    }
                    let path = Self::path(&client.endpoint.bucket, &dataset.key(object));
                    let put =
                        Call { method: Method::PUT, path: &path, query: "", range: None, body: dataset.body(object) };
                    let put = tokio::time::timeout(timeout, client.fetch(&put)).await;
                    let put = put.unwrap_or(Err(ClientError::Timeout(timeout)));
                    put.map_err(|error| BenchError::request(format!("writing {path}"), &error))?;
                }
            })
        });
        for done in futures::future::join_all(writers).await {
            done.map_err(|error| BenchError::Usage(format!("a writer ended early: {error}")))??;
        }
        let text = Bytes::from(self.description(seed).to_string());
        let put = Call { method: Method::PUT, path: &place, query: "", range: None, body: Outgoing::Full(text) };
        client.fetch(&put).await.map_err(|error| BenchError::request(format!("writing {place}"), &error))?;
        Ok(true)
    }
}

/// A ustar header of a regular file.
fn tar_header(name: &str, size_bytes: u64) -> [u8; 512] {
    let mut header = [0; 512];
    let mut put = |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(124, &format!("{size_bytes:011o}\0"));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// What a header of a tar file says: the name, the bytes that follow, and whether it is a regular file.
pub(crate) fn read_tar_header(header: &[u8]) -> Option<(String, u64, bool)> {
    let text = |range: std::ops::Range<usize>| {
        let field = header.get(range)?;
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        std::str::from_utf8(&field[..end]).ok()
    };
    let (name, prefix) = (text(0..100)?, text(345..500)?);
    let size = u64::from_str_radix(text(124..136)?.trim(), 8).ok()?;
    let name = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
    Some((name, size, matches!(header.get(156), Some(b'0' | 0))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_as_they_are_written() {
        let header = tar_header("000012.jpg", 114_660);
        assert_eq!(read_tar_header(&header), Some(("000012.jpg".to_owned(), 114_660, true)));
        let sum: u32 =
            header.iter().enumerate().map(|(i, b)| if (148..156).contains(&i) { 32 } else { u32::from(*b) }).sum();
        assert_eq!(u32::from_str_radix(std::str::from_utf8(&header[148..154]).unwrap(), 8), Ok(sum));
        assert_eq!(read_tar_header(&[255; 512]), None);
    }

    #[test]
    fn shards_have_their_samples_where_they_are_said_to_be() {
        let shape = Shape { sample_bytes: 700, samples_per_object: 3, ..Profile::Webdataset.shape() };
        let dataset = Dataset::new(Profile::Webdataset, shape, "p/", 10_000, 1);
        let Outgoing::Full(tar) = dataset.body(2) else { panic!("shards are made whole") };
        assert_eq!(tar.len() as u64, dataset.shape.object_bytes(2));
        let origin = dataset.payload.origin(&dataset.key(2));
        for index in 0..3 {
            let at = usize::try_from(dataset.shape.sample_offset(index)).unwrap();
            let sample = &tar[at..at + 700];
            assert_eq!(dataset.payload.first_difference(origin, dataset.content_offset(index), sample), None);
            assert_eq!(read_tar_header(&tar[at - 512..at]).unwrap().0, Dataset::member(index));
        }
        assert_eq!(dataset.key(2), "p/webdataset/000002.tar");
        assert_eq!(dataset.marker(), "p/webdataset.json");
    }
}
