//! What the tests of the front door share: a server over a store in memory, and a client that signs by hand.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use granary_access::{Iam, Owner, Secret};
use granary_s3::{Ended, FrontConfig, RequestObserver, S3Service, service};
use granary_types::ClusterId;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;

use crate::client::Client;
use crate::twin::Twin;

pub const ACCESS_KEY: &str = "GRANTESTACCESS";
pub const SECRET_KEY: &str = "test/secret+key0123456789";

/// What the observer was told: operation, status, bytes in, bytes out.
pub type Seen = Arc<Mutex<Vec<(&'static str, u16, u64, u64)>>>;

struct Recorder(Seen);

impl RequestObserver for Recorder {
    fn done(&self, ended: &Ended<'_>) {
        self.0.lock().unwrap().push((ended.op, ended.status, ended.bytes_in, ended.bytes_out));
    }
}

/// A front door on a free port of the loopback interface. Stops when dropped.
pub struct Server {
    pub address: SocketAddr,
    pub store: Arc<Twin>,
    pub service: S3Service,
    pub seen: Seen,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(FrontConfig::default())
    }

    pub fn with(config: FrontConfig) -> Self {
        Self::listen("127.0.0.1:0", ACCESS_KEY, SECRET_KEY, config)
    }

    pub fn listen(address: &str, access_key: &str, secret_key: &str, config: FrontConfig) -> Self {
        let store = Arc::new(Twin::default());
        let secret = Secret::new(secret_key.to_owned()).unwrap();
        let owner = Owner::root(ClusterId([0xab; 16]));
        let credentials = Arc::new(Iam::with_root(access_key, secret, owner).unwrap());
        let seen = Seen::default();
        let observer: Arc<dyn RequestObserver> = Arc::new(Recorder(Arc::clone(&seen)));
        let service = service(store.clone(), credentials, config, Some(observer)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = service.clone();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let service = accepted.clone();
                tokio::spawn(async move {
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, store, service, seen, runtime: Some(runtime) }
    }

    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// A server with one bucket, and its client.
    pub fn with_bucket(name: &str) -> (Self, Client) {
        let server = Self::start();
        let client = server.client();
        client.put(&format!("/{name}")).send().expect(200);
        (server, client)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The text inside the first `<name>` of a document.
pub fn element<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

/// The texts inside every `<name>`.
pub fn elements<'a>(document: &'a str, name: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    document.split(&open).skip(1).filter_map(|rest| rest.split_once(&close).map(|(text, _)| text)).collect()
}

/// Sorts names into keys and common prefixes, and cuts the page: the names to show, and where to go on.
pub fn roll<'a>(
    names: impl Iterator<Item = &'a str>,
    prefix: &str,
    delimiter: Option<&str>,
    after: Option<&str>,
    limit: usize,
) -> (Vec<(String, bool)>, Option<String>) {
    let group = |name: &str| -> Option<String> {
        let delimiter = delimiter?;
        let at = name[prefix.len()..].find(delimiter)?;
        Some(name[..prefix.len() + at + delimiter.len()].to_owned())
    };
    let mut out: Vec<(String, bool)> = Vec::new();
    for name in names.filter(|name| name.starts_with(prefix)) {
        if after.is_some_and(|after| name <= after) {
            continue;
        }
        let entry = match group(name) {
            Some(group) => {
                let is_past =
                    after.is_some_and(|after| after == group) || out.last().is_some_and(|(l, g)| *g && *l == group);
                if is_past {
                    continue;
                }
                (group, true)
            }
            None => (name.to_owned(), false),
        };
        if out.len() == limit {
            let next = out.last().map(|(name, _)| name.clone());
            return (out, next);
        }
        out.push(entry);
    }
    (out, None)
}
