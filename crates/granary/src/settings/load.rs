//! Reading settings: a TOML file, then the environment over it. Every problem is reported at once, each with the
//! place it stands in and what would be right.

use std::fmt;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::Settings;

/// Why there are no settings.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Not TOML.
    #[error("{place}: {message}")]
    Syntax {
        /// The file.
        place: String,
        /// What the parser says, with the line.
        message: String,
    },
    /// One or more settings are wrong.
    #[error("{0}")]
    Wrong(Problems),
}

/// What is wrong, one line each.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problems(pub(crate) Vec<String>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

/// Names in the environment that begin like a section's but are not settings.
const NOT_SETTINGS: [&str; 2] = ["GRANARY_ADMIN", "GRANARY_DATA"];

impl Settings {
    /// Settings from a file.
    ///
    /// # Errors
    /// [`SettingsError`]: the file cannot be read, is not TOML, or names what there is not.
    pub(crate) fn read(path: &Path) -> Result<Self, SettingsError> {
        let text =
            std::fs::read_to_string(path).map_err(|source| SettingsError::Read { path: path.to_owned(), source })?;
        Self::parse(&path.display().to_string(), &text)
    }

    /// Settings from TOML text; `place` names it in messages.
    pub(super) fn parse(place: &str, text: &str) -> Result<Self, SettingsError> {
        let table = DeTable::parse(text).map_err(|error| SettingsError::Syntax {
            place: place.to_owned(),
            message: error.to_string().trim_end().to_owned(),
        })?;
        let line = |at: usize| text[..at.min(text.len())].matches('\n').count() + 1;
        let mut settings = Self::default();
        let mut problems = Vec::new();
        for (section, value) in table.get_ref() {
            let at = format!("{place}, line {}", line(section.span().start));
            let section = section.get_ref();
            if !Self::SECTIONS.iter().any(|(name, _)| name == section) {
                problems.push(format!("{at}: {}", unknown(section, Self::SECTIONS.iter().map(|(name, _)| *name))));
                continue;
            }
            let Some(fields) = value.get_ref().as_table() else {
                problems.push(format!("{at}: `{section}` is a section: write [{section}] and its settings below it"));
                continue;
            };
            for (name, value) in fields {
                let at = format!("{place}, line {}", line(name.span().start));
                match settings.set_toml(section, name.get_ref(), value.get_ref()) {
                    Some(Ok(())) => {}
                    Some(Err(expects)) => {
                        let given = text.get(value.span()).unwrap_or("this");
                        problems.push(format!("{at}: {section}.{} = {given}: expected {expects}", name.get_ref()));
                    }
                    None => problems.push(format!("{at}: {}", unknown_field(section, name.get_ref()))),
                }
            }
        }
        if problems.is_empty() { Ok(settings) } else { Err(SettingsError::Wrong(Problems(problems))) }
    }

    /// Puts the environment's `GRANARY_<SECTION>_<NAME>` over these settings.
    ///
    /// # Errors
    /// [`SettingsError::Wrong`]: a variable that begins with `GRANARY_<SECTION>_` and is no setting, or a value of the wrong kind.
    pub(crate) fn overlay(
        mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, SettingsError> {
        let mut problems = Vec::new();
        for (variable, text) in variables {
            let Some(rest) = variable.strip_prefix("GRANARY_") else { continue };
            let lower = rest.to_ascii_lowercase();
            let Some((section, name)) = lower.split_once('_') else { continue };
            if NOT_SETTINGS.contains(&variable.as_str()) || !Self::SECTIONS.iter().any(|(known, _)| *known == section) {
                continue;
            }
            match self.set_text(section, name, &text) {
                Some(Ok(())) => {}
                Some(Err(expects)) => {
                    problems.push(format!("environment, {variable}={text}: expected {expects}"));
                }
                None => problems.push(format!("environment, {variable}: {}", unknown_field(section, name))),
            }
        }
        if problems.is_empty() { Ok(self) } else { Err(SettingsError::Wrong(Problems(problems))) }
    }
}

fn unknown_field(section: &str, name: &str) -> String {
    let known = Settings::FIELDS.iter().filter(|field| field.section == section).map(|field| field.name);
    let nearest_here = nearest(name, known);
    // A name that another section has, written in the wrong one, is likelier than a slip of the pen.
    let elsewhere = Settings::FIELDS.iter().find(|field| field.name == name);
    match (elsewhere, nearest_here) {
        (Some(field), _) => format!("no setting `{section}.{name}`; did you mean `{}.{name}`?", field.section),
        (None, Some(near)) => format!("no setting `{section}.{name}`; did you mean `{section}.{near}`?"),
        (None, None) => format!("no setting `{section}.{name}`; see `granary config` for all there are"),
    }
}

fn unknown<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    if let Some(field) = Settings::FIELDS.iter().find(|field| field.name == name) {
        return format!("no section `{name}`; did you mean `{}.{name}`?", field.section);
    }
    match nearest(name, known.clone()) {
        Some(near) => format!("no section `{name}`; did you mean `{near}`?"),
        None => format!("no section `{name}`; there are {}", known.collect::<Vec<_>>().join(", ")),
    }
}

/// The known name that is most like `name`, if one is.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        Settings::parse("g.toml", text).expect_err("is wrong").to_string()
    }

    #[test]
    fn unknown_names_are_errors_that_name_the_nearest() {
        assert_eq!(
            wrong("\n[s3]\nlisen = \"x\"\n"),
            "g.toml, line 3: no setting `s3.lisen`; did you mean `s3.listen`?"
        );
        assert_eq!(wrong("[drive]\n"), "g.toml, line 1: no section `drive`; did you mean `drives`?");
        assert_eq!(
            wrong("erasure = \"4+2\"\n"),
            "g.toml, line 1: no section `erasure`; did you mean `drives.erasure`?"
        );
        assert_eq!(
            wrong("[node]\nerasure = \"4+2\"\n"),
            "g.toml, line 2: no setting `node.erasure`; did you mean `drives.erasure`?"
        );
        assert!(wrong("[s3]\nqqqq = 1\n").contains("see `granary config`"));
    }

    #[test]
    fn wrong_values_say_what_would_be_right_and_all_are_told_at_once() {
        let text =
            wrong("[s3]\nlisten = 9000\n[drives]\nerasure = \"40+2\"\npaths = \"/a\"\n[node]\nworker_threads = -1\n");
        assert!(text.contains("g.toml, line 2: s3.listen = 9000: expected an IP address and port"), "{text}");
        assert!(text.contains("line 4: drives.erasure = \"40+2\": expected an erasure scheme"), "{text}");
        assert!(text.contains("line 5: drives.paths = \"/a\": expected a list"), "{text}");
        assert!(text.contains("line 7: node.worker_threads = -1: expected a whole number"), "{text}");
        assert_eq!(text.lines().count(), 4);
    }

    #[test]
    fn what_is_not_toml_says_where() {
        let text = wrong("[s3]\nlisten = \n");
        assert!(text.starts_with("g.toml: ") && text.contains("line 2"), "{text}");
    }

    fn overlaid(pairs: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::default().overlay(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let settings = overlaid(&[
            ("GRANARY_S3_LISTEN", "[::1]:7000"),
            ("GRANARY_DRIVES_PATHS", "/a, /b"),
            ("GRANARY_S3_CONNECTIONS_MAX", "7"),
            ("GRANARY_S3_PLAINTEXT", "true"),
            ("GRANARY_ROOT_SECRET_KEY", "not a setting"),
            ("GRANARY_BIN", "not a setting"),
            ("HOME", "/root"),
        ])
        .unwrap();
        assert_eq!(settings.s3.listen.to_string(), "[::1]:7000");
        assert_eq!(settings.drives.paths, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert_eq!(settings.s3.connections_max, 7);
        assert!(settings.s3.plaintext);
    }

    #[test]
    fn wrong_variables_are_errors() {
        let text =
            overlaid(&[("GRANARY_S3_LISTENS", "x"), ("GRANARY_LOG_FORMAT", "xml")]).expect_err("wrong").to_string();
        assert!(text.contains("GRANARY_S3_LISTENS: no setting `s3.listens`; did you mean `s3.listen`?"), "{text}");
        assert!(text.contains("GRANARY_LOG_FORMAT=xml: expected `text` or `json`"), "{text}");
    }
}
