//! `run.json` in the data folder: where the node that runs there listens, so that commands find it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const NAME: &str = "run.json";

/// What a running node writes down. Removed when it ends in good order; a stale one leads to a clear
/// "no node answers", never to a wrong node being changed, since requests are signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RunFile {
    /// Process.
    pub(crate) pid: u32,
    /// S3 endpoint.
    pub(crate) endpoint: String,
    /// Admin address.
    pub(crate) admin: SocketAddr,
    /// The admin port speaks TLS: what to trust.
    #[serde(default)]
    pub(crate) admin_ca: Option<PathBuf>,
}

impl RunFile {
    /// What the node in `data_dir` wrote, if anything legible.
    pub(crate) fn read(data_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(data_dir.join(NAME)).ok()?).ok()
    }

    /// Writes it.
    ///
    /// # Errors
    /// What the system answers.
    pub(crate) fn write(&self, data_dir: &Path) -> std::io::Result<()> {
        let text = serde_json::to_vec(self).map_err(std::io::Error::from)?;
        std::fs::write(data_dir.join(NAME), text)
    }

    /// Removes it; it may be gone already.
    pub(crate) fn remove(data_dir: &Path) {
        if let Err(error) = std::fs::remove_file(data_dir.join(NAME)) {
            tracing::debug!(%error, "run.json could not be removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_read_and_removed() {
        let folder = tempfile::tempdir().unwrap();
        let run = RunFile {
            pid: 7,
            endpoint: "http://127.0.0.1:9000".into(),
            admin: "[::1]:9001".parse().unwrap(),
            admin_ca: None,
        };
        assert_eq!(RunFile::read(folder.path()), None);
        run.write(folder.path()).unwrap();
        assert_eq!(RunFile::read(folder.path()), Some(run));
        RunFile::remove(folder.path());
        assert_eq!(RunFile::read(folder.path()), None);
    }
}
