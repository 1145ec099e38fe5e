//! Bringing a new mirror up to date: copying the log's closed files to its folder.

use super::folder::LogFolder;
use crate::error::{MetaError, Result};
use crate::options::MirrorFolder;

/// Copies `files` from whichever of `sources` has each to `to`, durably.
///
/// # Errors
/// The system's, if no source can be read or the target cannot be written.
pub(crate) fn copy_files(sources: &[MirrorFolder], files: &[u64], to: &MirrorFolder) -> Result<()> {
    let target = LogFolder::new(&to.path);
    target.create()?;
    for file in files {
        let mut failed = MetaError::Unavailable("no log mirror is left".to_owned());
        let mut content = None;
        for source in sources {
            match LogFolder::new(&source.path).read(*file) {
                Ok(bytes) => {
                    content = Some(bytes);
                    break;
                }
                Err(error) => failed = error,
            }
        }
        target.write(*file, &content.ok_or(failed)?)?;
    }
    Ok(())
}
