//! The token that a scraper of `/metrics` has to show, where one is asked for.
//!
//! Metrics name buckets and training runs. Guarantees: the token is read from a file that others may not read, held only in memory that is
//! cleared, compared in constant time, and in no message. Leaves to others: who can reach the port at all.

use std::fmt;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use http::HeaderValue;
use zeroize::Zeroizing;

/// Shortest token: 128 bits as hexadecimal digits.
const TOKEN_BYTES_MIN: usize = 32;
const TOKEN_BYTES_MAX: usize = 512;

/// Why a token is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScraperError {
    /// The file.
    #[error("admin.metrics_token_file: {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Others may read it.
    #[error("admin.metrics_token_file: {}: others may read it (mode {mode:o}): chmod 600", path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Its content.
    #[error(
        "admin.metrics_token_file: {}: a token has {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} visible ASCII characters; make one with \
         `openssl rand -hex 32`",
        path.display()
    )]
    Content {
        /// Which.
        path: PathBuf,
    },
}

/// What a scraper sends as `Authorization: Bearer TOKEN`.
pub(crate) struct ScraperToken(Zeroizing<Vec<u8>>);

impl fmt::Debug for ScraperToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScraperToken(..)")
    }
}

impl ScraperToken {
    /// The token in a file; white space around it does not count.
    ///
    /// # Errors
    /// [`ScraperError`].
    pub(crate) fn read(path: &Path) -> Result<Self, ScraperError> {
        let failed = |source| ScraperError::File { path: path.to_owned(), source };
        let file = std::fs::File::open(path).map_err(failed)?;
        let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(ScraperError::Open { path: path.to_owned(), mode });
        }
        let most = TOKEN_BYTES_MAX + 2;
        let mut bytes = Zeroizing::new(Vec::with_capacity(most));
        file.take(most as u64).read_to_end(&mut bytes).map_err(failed)?;
        let token = Zeroizing::new(bytes.trim_ascii().to_vec());
        match (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic) {
            true => Ok(Self(token)),
            false => Err(ScraperError::Content { path: path.to_owned() }),
        }
    }

    /// Whether a request carries it.
    pub(crate) fn is_shown(&self, authorization: Option<&HeaderValue>) -> bool {
        let given = authorization.and_then(|value| {
            let (scheme, token) = value.as_bytes().split_at_checked("Bearer ".len())?;
            scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
        });
        given.is_some_and(|given| aws_lc_rs::constant_time::verify_slices_are_equal(&self.0, given).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(folder: &Path, content: &str, mode: u32) -> PathBuf {
        let path = folder.join(format!("token-{mode:o}-{}", content.len()));
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn only_the_token_is_let_in() {
        let folder = tempfile::tempdir().unwrap();
        let text = "0123456789abcdef0123456789abcdef";
        let token = ScraperToken::read(&file(folder.path(), &format!("{text}\n"), 0o600)).unwrap();
        let shown = |value: &str| token.is_shown(Some(&HeaderValue::from_str(value).unwrap()));
        assert!(shown(&format!("Bearer {text}")) && shown(&format!("bearer  {text} ")));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            text,
            &format!("Basic {text}"),
            &format!("Bearer {text}0"),
            &format!("Bearer {}", &text[1..]),
        ] {
            assert!(!shown(wrong), "{wrong}");
        }
        assert!(!token.is_shown(None));
        assert!(!format!("{token:?}").contains(text));
    }

    #[test]
    fn bad_files_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let text = "0123456789abcdef0123456789abcdef";
        let refused = |path: &Path| ScraperToken::read(path).unwrap_err().to_string();
        assert!(refused(&file(folder.path(), text, 0o640)).contains("chmod 600"));
        assert!(refused(&folder.path().join("none")).contains("No such file"));
        for content in ["", "short", &"x".repeat(513), &format!("{text} {text}")] {
            let why = refused(&file(folder.path(), content, 0o600));
            assert!(why.contains("32 to 512") && (content.is_empty() || !why.contains(content)), "{why}");
        }
    }
}
