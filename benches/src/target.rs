//! The endpoint that `granary bench` works against, from its command line and the environment that AWS's tools read.

use crate::endpoint::{Endpoint, EndpointError, Trust};
use crate::sigv4::Credentials;
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use std::sync::Arc;

/// Where to work. The key pair comes from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.
#[derive(Clone, Debug, Args, Serialize)]
pub struct TargetArgs {
    /// http://HOST:PORT or https://HOST:PORT
    #[arg(long, env = "AWS_ENDPOINT_URL")]
    pub endpoint: String,
    /// Bucket to work in; made if it is not there.
    #[arg(long, default_value = "granary-bench")]
    pub bucket: String,
    /// Region to sign for.
    #[arg(long, env = "AWS_REGION", default_value = "us-east-1")]
    pub region: String,
    /// Certificate authority of an https endpoint (PEM).
    #[arg(long, env = "AWS_CA_BUNDLE")]
    pub ca_file: Option<PathBuf>,
    /// Accept any certificate (loopback only).
    #[arg(long)]
    pub insecure: bool,
    /// Process of the server on this machine, for its CPU time.
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Threads of this program.
    #[arg(long, default_value_t = 2)]
    pub threads: usize,
    /// Seconds to wait for one request.
    #[arg(long, default_value_t = 120)]
    pub timeout: u64,
    /// Write the figures to this file as JSON; `-`: to standard output, instead of the table.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// The endpoint cannot be used.
    #[error("{0}")]
    Endpoint(String),
    /// A request failed, and with it the measurement.
    #[error("{what}: {why}")]
    Request {
        /// What was being done.
        what: String,
        /// What went wrong.
        why: String,
    },
    /// Threads, files, standard output.
    #[error("{what}: {source}")]
    System {
        /// What was being done.
        what: String,
        /// What went wrong.
        source: std::io::Error,
    },
}

impl From<EndpointError> for BenchError {
    fn from(error: EndpointError) -> Self {
        Self::Endpoint(error.to_string())
    }
}

impl BenchError {
    pub(crate) fn request(what: impl Into<String>, error: &crate::client::ClientError) -> Self {
        Self::Request { what: what.into(), why: error.to_string() }
    }

    pub(crate) fn system(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::System { what, source }
    }
}

impl TargetArgs {
    /// The endpoint, resolved.
    ///
    /// # Errors
    /// [`BenchError::Usage`] without a key pair, [`BenchError::Endpoint`].
    pub(crate) fn endpoint(&self) -> Result<Arc<Endpoint>, BenchError> {
        let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let (Some(access_key), Some(secret_key)) = (env("AWS_ACCESS_KEY_ID"), env("AWS_SECRET_ACCESS_KEY")) else {
            return Err(BenchError::Usage("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned()));
        };
        let trust = Trust { ca_file: self.ca_file.as_deref(), insecure: self.insecure };
        let keys = Credentials { access_key, secret_key };
        Ok(Arc::new(Endpoint::new(&self.endpoint, trust, &self.bucket, &self.region, keys, self.server_pid)?))
    }

    /// The runtime that everything runs on.
    ///
    /// # Errors
    /// [`BenchError::System`].
    pub(crate) fn runtime(&self) -> Result<tokio::runtime::Runtime, BenchError> {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(self.threads.max(1))
            .thread_name("bench")
            .enable_all()
            .build()
            .map_err(BenchError::system("starting threads"))
    }

    /// Writes the figures where they were asked for; `table` to standard output unless they go there.
    ///
    /// # Errors
    /// [`BenchError::System`].
    pub(crate) fn report(&self, table: &str, figures: &serde_json::Value) -> Result<(), BenchError> {
        let text = format!("{figures:#}\n");
        match &self.json {
            Some(path) if path.as_os_str() == "-" => {
                print!("{text}");
                return Ok(());
            }
            Some(path) => {
                std::fs::write(path, text).map_err(BenchError::system(format!("writing {}", path.display())))?;
            }
            None => {}
        }
        print!("{table}");
        Ok(())
    }
}
