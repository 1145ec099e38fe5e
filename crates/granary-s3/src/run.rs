//! Which training run a request belongs to: `x-granary-run`, a word of the user agent, or a rule over keys.
//!
//! A run id is a label for people and metrics. It is nobody's proof of anything, changes nothing that a request may do, and is
//! made harmless rather than refused: characters beyond a few become `_`, and what is too long is cut.

use http::HeaderMap;
use http::header::USER_AGENT;

/// Bytes of a run id, at most.
pub const RUN_BYTES_MAX: usize = 64;
const HEADER: &str = "x-granary-run";
/// Words of a user agent that name a run: ours, and what AWS's SDKs make of `AWS_SDK_UA_APP_ID` and `sdk_ua_app_id`.
const AGENT_WORDS: [&[u8]; 2] = [b"granary-run/", b"app/"];

/// A run's id: 1 to 64 of `A-Z a-z 0-9 . _ - = + @ :`. Kept in place, so that telling runs apart allocates nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct RunId {
    len: u8,
    text: [u8; RUN_BYTES_MAX],
}

impl std::fmt::Debug for RunId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RunId({})", self.as_str())
    }
}

impl RunId {
    /// `None` for nothing.
    fn new(bytes: impl Iterator<Item = u8>) -> Option<Self> {
        let mut id = Self { len: 0, text: [0; RUN_BYTES_MAX] };
        for (place, byte) in id.text.iter_mut().zip(bytes) {
            let fine = byte.is_ascii_alphanumeric() || b"._-=+@:".contains(&byte);
            *place = if fine { byte } else { b'_' };
            id.len += 1;
        }
        (id.len > 0).then_some(id)
    }

    pub(crate) fn as_str(&self) -> &str {
        // It is ASCII by construction.
        std::str::from_utf8(&self.text[..usize::from(self.len)]).unwrap_or_default()
    }

    /// What the request says, else what a rule makes of its key. `path`: of the request, still encoded; `bucket`: from the host, where
    /// it is there.
    pub(crate) fn of(headers: &HeaderMap, path: &str, host_bucket: Option<&str>, rules: &[RunRule]) -> Option<Self> {
        if let Some(value) = headers.get(HEADER) {
            return Self::new(value.as_bytes().trim_ascii().iter().copied());
        }
        let agent = headers.get(USER_AGENT).map(http::HeaderValue::as_bytes).unwrap_or_default();
        AGENT_WORDS.iter().find_map(|word| Self::new(after_word(agent, word)?.iter().copied())).or_else(|| {
            let path = path.strip_prefix('/').unwrap_or(path);
            let (bucket, key) = match host_bucket {
                Some(bucket) => (bucket, path),
                None => path.split_once('/')?,
            };
            rules.iter().find_map(|rule| rule.run(bucket, key))
        })
    }
}

/// What follows `word` where a word of the user agent begins with it, up to the next space or parenthesis.
fn after_word<'a>(agent: &'a [u8], word: &[u8]) -> Option<&'a [u8]> {
    let at = memchr::memmem::find_iter(agent, word).find(|at| *at == 0 || b" (".contains(&agent[at - 1]))?;
    let rest = &agent[at + word.len()..];
    let end = rest.iter().position(|byte| b" ();".contains(byte)).unwrap_or(rest.len());
    Some(&rest[..end])
}

/// Keys whose next folder is a run: `BUCKET/PREFIX`, where one `*` in BUCKET stands for anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRule {
    /// What the bucket begins and ends with, or all of it.
    bucket: (String, Option<String>),
    prefix: String,
}

impl RunRule {
    /// A rule as written: `artefacts/`, `*-artefacts/`, `models/runs/`. `None`: it is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (bucket, prefix) = text.split_once('/')?;
        let fine = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-*".contains(c);
        let is_folder = prefix.is_empty() || prefix.ends_with('/');
        if bucket.is_empty() || !bucket.chars().all(fine) || bucket.matches('*').count() > 1 || !is_folder {
            return None;
        }
        let bucket = match bucket.split_once('*') {
            Some((start, end)) => (start.to_owned(), Some(end.to_owned())),
            None => (bucket.to_owned(), None),
        };
        Some(Self { bucket, prefix: prefix.to_owned() })
    }

    fn run(&self, bucket: &str, key: &str) -> Option<RunId> {
        let is_meant = match &self.bucket {
            (whole, None) => bucket == whole,
            (start, Some(end)) => {
                bucket.len() >= start.len() + end.len() && bucket.starts_with(start.as_str()) && bucket.ends_with(end)
            }
        };
        if !is_meant {
            return None;
        }
        let (folder, _) = key.strip_prefix(self.prefix.as_str())?.split_once('/')?;
        RunId::new(decoded(folder.as_bytes()))
    }
}

/// `%XX` as the byte it stands for; what is no such thing as it is.
fn decoded(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let byte = *bytes.get(at)?;
        let digit = |place: usize| bytes.get(place).and_then(|byte| char::from(*byte).to_digit(16));
        if byte == b'%'
            && let (Some(high), Some(low)) = (digit(at + 1), digit(at + 2))
        {
            at += 3;
            return u8::try_from(high * 16 + low).ok();
        }
        at += 1;
        Some(byte)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &str)], path: &str, host_bucket: Option<&str>) -> Option<String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        let rules = ["artefacts/", "*-artefacts/", "models/runs/"].map(|rule| RunRule::parse(rule).unwrap());
        RunId::of(&map, path, host_bucket, &rules).map(|id| id.as_str().to_owned())
    }

    #[test]
    fn the_header_wins_then_the_user_agent_then_the_key() {
        let agent = ("user-agent", "Boto3/1.43 md/Botocore#1.43 granary-run/a-7 app/b");
        assert_eq!(of(&[("x-granary-run", " h 1\u{9}"), agent], "/artefacts/r/k", None).as_deref(), Some("h_1"));
        assert_eq!(of(&[agent], "/artefacts/r/k", None).as_deref(), Some("a-7"));
        assert_eq!(of(&[("user-agent", "aws-cli/2 app/exp.1")], "/b/k", None).as_deref(), Some("exp.1"));
        assert_eq!(of(&[("user-agent", "x/1 myapp/1 (app/q; y)")], "/b/k", None).as_deref(), Some("q"));
        assert_eq!(of(&[("user-agent", "snapp/1")], "/b/k", None), None);
        assert_eq!(of(&[("x-granary-run", "")], "/artefacts/r/k", None), None, "no run, by its own word");
    }

    #[test]
    fn keys_name_runs_where_a_rule_says_so() {
        for (path, expected) in [
            ("/artefacts/run-7/step_1/x", Some("run-7")),
            ("/team-a-artefacts/run%207/x", Some("run_7")),
            ("/models/runs/r%zz/", Some("r_zz")),
            ("/models/other/r/x", None),
            ("/artefacts/file", None),
            ("/artefacts", None),
            ("/artefacts//x", None),
            ("/data/a/b", None),
        ] {
            assert_eq!(of(&[], path, None).as_deref(), expected, "{path}");
        }
        assert_eq!(of(&[], "/run-1/x", Some("artefacts")).as_deref(), Some("run-1"));
        assert_eq!(
            of(&[("x-granary-run", "x".repeat(100).as_str())], "/", None).map(|id| id.len()),
            Some(RUN_BYTES_MAX)
        );
    }

    #[test]
    fn rules_are_buckets_and_folders() {
        for bad in ["", "artefacts", "/x/", "a*b*/", "b/prefix", "B/"] {
            assert_eq!(RunRule::parse(bad), None, "{bad}");
        }
    }
}
