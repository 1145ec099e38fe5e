//! The workers that read for an accelerator, each a batch at a time over one connection, as the workers of a PyTorch
//! DataLoader do.
//!
//! Guarantees: every sample's length is checked, the content of every n-th; whatever is wrong ends the measurement.

use super::dataset::{Dataset, read_tar_header};
use super::profile::{By, Layout, TAR_BLOCK};
use crate::client::{Call, Client, ClientError, Outgoing};
use crate::payload::{SplitMix, mix};
use crate::sigv4::uri_encode;
use bytes::{Buf as _, Bytes};
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use std::fmt::Write as _;
use std::sync::Arc;

/// What all readers of a run share.
pub(crate) struct Reading {
    pub(crate) dataset: Dataset,
    /// Accelerators of the run.
    pub(crate) accelerators: u64,
    /// Objects in the order that streams take them, samples in the order that the others do.
    pub(crate) order: Vec<u32>,
    /// Compare the content of every n-th sample; 0: of none.
    pub(crate) verify_every: u64,
    pub(crate) seed: u64,
}

impl Reading {
    /// `accelerators` that read `dataset`.
    pub(crate) fn new(dataset: Dataset, accelerators: u64, verify_every: u64, seed: u64) -> Self {
        let count = if dataset.shape.by == By::Stream { dataset.objects } else { dataset.samples() };
        let mut order: Vec<u32> = (0..u32::try_from(count).unwrap_or(u32::MAX)).collect();
        let mut random = SplitMix::new(mix(seed ^ 0x0DE5));
        for i in (1..order.len()).rev() {
            order.swap(i, random.below(i as u64 + 1) as usize);
        }
        Self { dataset, accelerators, order, verify_every, seed }
    }

    /// Object and index of the `n`th sample that is read.
    fn sample(&self, n: u64) -> (u64, u64) {
        let sample = u64::from(self.order[(n % self.order.len() as u64) as usize]);
        (sample / self.dataset.shape.samples_per_object, sample % self.dataset.shape.samples_per_object)
    }
}

/// A body, read in pieces.
struct Stream {
    body: Incoming,
    frame: Bytes,
}

impl Stream {
    /// The next bytes, at most `most`; empty at the end.
    async fn next(&mut self, most: u64) -> Result<Bytes, ClientError> {
        while self.frame.is_empty() {
            match self.body.frame().await {
                None => return Ok(Bytes::new()),
                Some(frame) => self.frame = frame?.into_data().unwrap_or_default(),
            }
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX).min(self.frame.len());
        Ok(self.frame.split_to(most))
    }

    async fn skip(&mut self, mut bytes: u64) -> Result<(), ClientError> {
        while bytes > 0 {
            let piece = self.next(bytes).await?;
            if piece.is_empty() {
                return Err(ClientError::Answer("ended short"));
            }
            bytes -= piece.len() as u64;
        }
        Ok(())
    }

    /// The next block of a tar file.
    async fn block(&mut self) -> Result<[u8; TAR_BLOCK as usize], ClientError> {
        let mut block = [0; TAR_BLOCK as usize];
        let mut filled = 0;
        while filled < block.len() {
            let mut piece = self.next((block.len() - filled) as u64).await?;
            if piece.is_empty() {
                return Err(ClientError::Answer("ended short"));
            }
            let n = piece.len();
            piece.copy_to_slice(&mut block[filled..filled + n]);
            filled += n;
        }
        Ok(block)
    }

    /// Reads to the end, so that the connection can be used again.
    async fn end(mut self) -> Result<(), ClientError> {
        while !self.next(u64::MAX).await?.is_empty() {}
        Ok(())
    }
}

/// One worker.
pub(crate) struct Reader {
    client: Client,
    reading: Arc<Reading>,
    accelerator: u64,
    worker: u64,
    since_verified: u64,
    /// The object that is being streamed: which, the next sample in it, its body.
    open: Option<(u64, u64, Stream)>,
    /// Streams opened so far.
    opened: u64,
}

impl Reader {
    pub(crate) const fn new(client: Client, reading: Arc<Reading>, accelerator: u64, worker: u64) -> Self {
        // Not all verify their first sample at once.
        Self { client, reading, accelerator, worker, since_verified: worker, open: None, opened: 0 }
    }

    /// Reads batch `number` of this accelerator; the answer is its bytes.
    pub(crate) async fn batch(&mut self, number: u64) -> Result<u64, ClientError> {
        match self.reading.dataset.shape.by {
            By::Object | By::Range | By::Member => self.one_by_one(number).await,
            By::Stream => self.streamed().await,
            By::Batch => self.batched(number).await,
            By::Epoch => self.of_epoch(number).await,
        }
    }

    /// Which sample comes `i`th in this accelerator's batch `number`.
    fn sample(&self, number: u64, i: u64) -> (u64, u64) {
        let reading = &self.reading;
        let place = number * reading.accelerators + self.accelerator;
        reading.sample(place * reading.dataset.shape.batch + i)
    }

    fn verify_now(&mut self) -> bool {
        self.since_verified += 1;
        let every = self.reading.verify_every;
        let now = every > 0 && self.since_verified >= every;
        if now {
            self.since_verified = 0;
        }
        now
    }

    async fn open(&mut self, call: &Call<'_>) -> Result<(http::HeaderMap, Stream), ClientError> {
        let response = self.client.send(call).await?;
        if !response.status().is_success() {
            return Err(self.client.refusal(response).await);
        }
        let (head, body) = response.into_parts();
        Ok((head.headers, Stream { body, frame: Bytes::new() }))
    }

    /// Takes a sample's bytes from a stream, and looks at them if it is their turn.
    async fn take(&mut self, stream: &mut Stream, object: u64, index: u64) -> Result<u64, ClientError> {
        let reading = Arc::clone(&self.reading);
        let dataset = &reading.dataset;
        let bytes = dataset.shape.sample_bytes_of(object);
        let verify = self.verify_now();
        let origin = if verify { dataset.payload.origin(&dataset.key(object)) } else { 0 };
        let mut got = 0;
        while got < bytes {
            let piece = stream.next(bytes - got).await?;
            if piece.is_empty() {
                return Err(ClientError::Length { key: dataset.key(object), want: bytes, got });
            }
            if verify {
                let offset = dataset.content_offset(index) + got;
                if let Some(offset) = dataset.payload.first_difference(origin, offset, &piece) {
                    return Err(ClientError::Mismatch { key: dataset.key(object), offset });
                }
            }
            got += piece.len() as u64;
        }
        Ok(bytes)
    }

    async fn one_by_one(&mut self, number: u64) -> Result<u64, ClientError> {
        let mut sum = 0;
        for i in 0..self.reading.dataset.shape.batch {
            let (object, index) = self.sample(number, i);
            let shape = &self.reading.dataset.shape;
            let offset = shape.sample_offset(index);
            let range = (shape.by == By::Range).then(|| (offset, offset + shape.sample_bytes_of(object) - 1));
            let path = Dataset::path(&self.client.endpoint.bucket, &self.reading.dataset.key(object));
            let query = match shape.by {
                By::Member => format!("granary-member={}", Dataset::member(index)),
                _ => String::new(),
            };
            let call = Call { method: Method::GET, path: &path, query: &query, range, body: Outgoing::Empty };
            let (_, mut stream) = self.open(&call).await?;
            sum += self.take(&mut stream, object, index).await?;
            stream.end().await?;
        }
        Ok(sum)
    }

    async fn streamed(&mut self) -> Result<u64, ClientError> {
        let mut sum = 0;
        for _ in 0..self.reading.dataset.shape.batch {
            let (object, index, mut stream) = match self.open.take() {
                Some(open) => open,
                None => {
                    let reading = Arc::clone(&self.reading);
                    // Workers take objects in turn, so that each is read once in a round over all of them.
                    let workers = reading.accelerators * reading.dataset.shape.readers as u64;
                    let mine = self.accelerator * reading.dataset.shape.readers as u64 + self.worker;
                    let place = (self.opened * workers + mine) % reading.order.len() as u64;
                    self.opened += 1;
                    let object = u64::from(reading.order[place as usize]);
                    let path = Dataset::path(&self.client.endpoint.bucket, &reading.dataset.key(object));
                    let call = Call { method: Method::GET, path: &path, query: "", range: None, body: Outgoing::Empty };
                    (object, 0, self.open(&call).await?.1)
                }
            };
            let shape = self.reading.dataset.shape.clone();
            if shape.layout == Layout::Tar {
                let header = stream.block().await?;
                if read_tar_header(&header)
                    .is_none_or(|(name, size, _)| name != Dataset::member(index) || size != shape.sample_bytes)
                {
                    return Err(ClientError::Answer("not the member that was due"));
                }
            }
            sum += self.take(&mut stream, object, index).await?;
            if shape.layout == Layout::Tar {
                stream.skip(shape.sample_bytes.next_multiple_of(TAR_BLOCK) - shape.sample_bytes).await?;
            }
            if index + 1 < shape.samples_per_object {
                self.open = Some((object, index + 1, stream));
            } else {
                stream.end().await?;
            }
        }
        Ok(sum)
    }

    async fn batched(&mut self, number: u64) -> Result<u64, ClientError> {
        let reading = Arc::clone(&self.reading);
        let dataset = &reading.dataset;
        let mut list = String::from("{\"items\":[");
        let mut wanted = Vec::new();
        for i in 0..dataset.shape.batch {
            let (object, index) = self.sample(number, i);
            let comma = if i == 0 { "" } else { "," };
            let key = dataset.key(object);
            let what = match dataset.shape.layout {
                Layout::Tar => format!("\"member\":\"{}\"", Dataset::member(index)),
                Layout::Plain => {
                    let offset = dataset.shape.sample_offset(index);
                    format!("\"range\":\"bytes={offset}-{}\"", offset + dataset.shape.sample_bytes_of(object) - 1)
                }
            };
            // Keys are of a prefix that was checked and digits: nothing to escape.
            write!(list, "{comma}{{\"key\":\"{key}\",{what},\"as\":\"{i}\"}}")
                .map_err(|_| ClientError::Answer("no list"))?;
            wanted.push((object, index));
        }
        list.push_str("]}");
        let path = format!("/{}", self.client.endpoint.bucket);
        let body = Outgoing::Full(Bytes::from(list));
        let call = Call { method: Method::POST, path: &path, query: "granary-batch=", range: None, body };
        let (_, stream) = self.open(&call).await?;
        let mut wanted = wanted.into_iter().enumerate();
        self.entries(stream, |name| wanted.next().filter(|(i, _)| *name == i.to_string()).map(|(_, place)| place)).await
    }

    async fn of_epoch(&mut self, number: u64) -> Result<u64, ClientError> {
        let reading = Arc::clone(&self.reading);
        let dataset = &reading.dataset;
        let per_rank = (dataset.samples() / reading.accelerators / dataset.shape.batch).max(1);
        let (epoch, batch) = (number / per_rank, number % per_rank);
        let path = Dataset::path(&self.client.endpoint.bucket, &dataset.prefix);
        let query = format!(
            "batch={batch}&batch-size={}&granary-epoch={epoch}&rank={}&seed={}&world-size={}",
            dataset.shape.batch, self.accelerator, reading.seed, reading.accelerators
        );
        let call = Call { method: Method::GET, path: &path, query: &query, range: None, body: Outgoing::Empty };
        let (_, stream) = self.open(&call).await?;
        // `SHARD/MEMBER`
        let place = |name: &str| {
            let (shard, member) = name.split_once('/')?;
            Some((shard.parse().ok()?, member.split_once('.')?.0.parse().ok()?))
        };
        self.entries(stream, place).await
    }

    /// Reads a tar file of whole samples; `place` tells from an entry's name which it must be.
    async fn entries(
        &mut self,
        mut stream: Stream,
        mut place: impl FnMut(&str) -> Option<(u64, u64)>,
    ) -> Result<u64, ClientError> {
        let mut sum = 0;
        let mut samples = 0;
        loop {
            let header = stream.block().await?;
            if header.iter().all(|byte| *byte == 0) {
                break;
            }
            let (name, size, is_file) = read_tar_header(&header).ok_or(ClientError::Answer("not a tar file"))?;
            if !is_file {
                return Err(ClientError::Answer("an item of the batch is marked as missing"));
            }
            let (object, index) = place(&name).ok_or(ClientError::Answer("not the item that was due"))?;
            if object >= self.reading.dataset.objects || index >= self.reading.dataset.shape.samples_per_object {
                return Err(ClientError::Answer("not an item of the data set"));
            }
            if size != self.reading.dataset.shape.sample_bytes_of(object) {
                return Err(ClientError::Length {
                    key: name,
                    want: self.reading.dataset.shape.sample_bytes,
                    got: size,
                });
            }
            sum += self.take(&mut stream, object, index).await?;
            stream.skip(size.next_multiple_of(TAR_BLOCK) - size).await?;
            samples += 1;
        }
        stream.end().await?;
        if samples != self.reading.dataset.shape.batch {
            return Err(ClientError::Answer("the batch has too few samples"));
        }
        Ok(sum)
    }
}

/// Whether a prefix can stand in a list without being escaped.
pub(crate) fn is_plain(prefix: &str) -> bool {
    uri_encode(prefix, true) == prefix
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::profile::Profile;

    #[test]
    fn each_sample_is_read_once_a_round() {
        let shape = Profile::Llm.shape();
        let dataset = Dataset::new(Profile::Llm, shape, "p/", 1, 1);
        let reading = Reading::new(dataset, 2, 0, 1);
        let mut seen: Vec<(u64, u64)> = (0..reading.dataset.samples()).map(|n| reading.sample(n)).collect();
        assert_ne!(seen[..8], (0..8).map(|i| (0, i)).collect::<Vec<_>>()[..], "shuffled");
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len() as u64, reading.dataset.samples());
    }
}
