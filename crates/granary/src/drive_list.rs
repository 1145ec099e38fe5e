//! `drives.txt` in a developer's data folder: which folders are its drives, one path per line, relative where they
//! lie in the data folder (which may be moved). Written at the first start and when drives are added or replaced, so that
//! later starts find them all. `granary serve` has the settings file instead.

use std::io;
use std::path::{Path, PathBuf};

const NAME: &str = "drives.txt";

/// The list.
#[derive(Debug, Clone)]
pub(crate) struct DriveList {
    data_dir: PathBuf,
    file: PathBuf,
}

/// Why the drives of a data folder are not clear.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DriveListError {
    /// The file or the folders.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// `--drives` says another number than there are.
    #[error(
        "{file} has {have} drives and --drives says {asked}: leave --drives out, and use `granary drive add` to add some"
    )]
    Count {
        /// The list.
        file: PathBuf,
        /// Drives in it.
        have: usize,
        /// Drives asked for.
        asked: usize,
    },
}

impl DriveList {
    /// The list of a data folder.
    ///
    /// # Errors
    /// What the system answers where the current folder is gone.
    pub(crate) fn new(data_dir: &Path) -> io::Result<Self> {
        let data_dir = std::path::absolute(data_dir)?;
        Ok(Self { file: data_dir.join(NAME), data_dir })
    }

    /// The drives of the data folder; the first time, `count` new folders are made.
    ///
    /// # Errors
    /// [`DriveListError`].
    pub(crate) fn obtain(&self, asked: Option<usize>, default: usize) -> Result<Vec<PathBuf>, DriveListError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| DriveListError::Io { path, source }
        };
        match self.read() {
            Ok(paths) => match asked {
                Some(asked) if asked != paths.len() => {
                    Err(DriveListError::Count { file: self.file.clone(), have: paths.len(), asked })
                }
                _ => Ok(paths),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let base = self.data_dir.join("drives");
                let paths: Vec<PathBuf> =
                    (1..=asked.unwrap_or(default)).map(|n| base.join(format!("{n:02}"))).collect();
                for path in &paths {
                    std::fs::create_dir_all(path).map_err(failed(path))?;
                }
                self.write(&paths).map_err(failed(&self.file))?;
                Ok(paths)
            }
            Err(error) => Err(failed(&self.file)(error)),
        }
    }

    /// One more drive.
    ///
    /// # Errors
    /// What the system answers.
    pub(crate) fn add(&self, path: &Path) -> io::Result<()> {
        self.replace(None, path)
    }

    /// A drive in the place of another.
    ///
    /// # Errors
    /// What the system answers.
    pub(crate) fn replace(&self, old: Option<&str>, new: &Path) -> io::Result<()> {
        let mut paths = self.read()?;
        paths.retain(|path| old.is_none_or(|old| path != Path::new(old)));
        if !paths.iter().any(|path| path == new) {
            paths.push(new.to_owned());
        }
        self.write(&paths)
    }

    fn read(&self) -> io::Result<Vec<PathBuf>> {
        let text = std::fs::read_to_string(&self.file)?;
        Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| self.data_dir.join(line)).collect())
    }

    fn write(&self, paths: &[PathBuf]) -> io::Result<()> {
        let short = |path: &'_ PathBuf| path.strip_prefix(&self.data_dir).unwrap_or(path).to_owned();
        let text: String = paths.iter().map(|path| format!("{}\n", short(path).display())).collect();
        let new = self.file.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::File::open(&new)?.sync_all()?;
        std::fs::rename(&new, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_once_then_kept_and_changed() {
        let data = tempfile::tempdir().unwrap();
        let list = DriveList::new(data.path()).unwrap();
        let first = list.obtain(None, 3).unwrap();
        assert_eq!(first.len(), 3);
        assert!(first.iter().all(|path| path.is_absolute() && path.is_dir()));
        assert_eq!(list.obtain(None, 6).unwrap(), first);
        assert_eq!(list.obtain(Some(3), 6).unwrap(), first);
        assert!(matches!(list.obtain(Some(4), 6), Err(DriveListError::Count { have: 3, asked: 4, .. })));

        list.add(Path::new("/mnt/new")).unwrap();
        list.replace(first[0].to_str(), Path::new("/mnt/newer")).unwrap();
        let now = list.obtain(None, 6).unwrap();
        assert_eq!(now[..2], first[1..]);
        assert_eq!(now[2..], [PathBuf::from("/mnt/new"), PathBuf::from("/mnt/newer")]);
    }

    #[test]
    fn a_missing_folder_is_not_made_again() {
        let data = tempfile::tempdir().unwrap();
        let list = DriveList::new(data.path()).unwrap();
        let first = list.obtain(Some(2), 6).unwrap();
        std::fs::remove_dir(&first[1]).unwrap();
        assert_eq!(list.obtain(None, 6).unwrap(), first);
        assert!(!first[1].exists(), "a lost drive must not come back blank");
    }
}
