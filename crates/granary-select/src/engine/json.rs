//! JSON into records: values one after another, the path of FROM into each, and of each record what the query names.
//!
//! Nothing is parsed into a tree: what is wanted of a record is found and carried on as the text that it is written as.

use std::fmt;
use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, LargeStringBuilder, RecordBatch};
use datafusion::arrow::datatypes::SchemaRef;
use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::csv::{BATCH_BYTES, BATCH_ROWS, batch, not_utf8, over_max};
use super::feed::Feed;
use super::path::Step;
use crate::error::{Code, Error};
use crate::request::RECORD_BYTES_MAX;

fn broken(error: &serde_json::Error) -> Error {
    Error::new(Code::JSONParsingError, format!("The input is not JSON: {error}."))
}

/// Finds where a value ends, a window at a time.
#[derive(Debug, Default)]
struct Scanner {
    /// Bytes looked at of the window.
    at: usize,
    start: Option<usize>,
    depth: usize,
    in_text: bool,
    is_escaped: bool,
}

impl Scanner {
    /// The next value's place in the window; `None`: more is needed.
    fn next(&mut self, window: &[u8], is_at_end: bool) -> Option<(usize, usize)> {
        while let Some(&byte) = window.get(self.at) {
            let here = self.at;
            self.at += 1;
            if self.in_text {
                match byte {
                    _ if self.is_escaped => self.is_escaped = false,
                    b'\\' => self.is_escaped = true,
                    b'"' => {
                        self.in_text = false;
                        if self.depth == 0 {
                            return self.found(here + 1);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                // A scalar ends where the next thing begins.
                b' ' | b'\n' | b'\r' | b'\t' | b'{' | b'[' | b'"' if self.depth == 0 && self.start.is_some() => {
                    self.at = here;
                    return self.found(here);
                }
                b' ' | b'\n' | b'\r' | b'\t' if self.start.is_none() => continue,
                b'"' => self.in_text = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        self.start.get_or_insert(here);
                        return self.found(here + 1);
                    }
                }
                _ => {}
            }
            self.start.get_or_insert(here);
        }
        // What is cut off is passed on too, for the parser to say what is wrong with it.
        if is_at_end && self.start.is_some() { self.found(window.len()) } else { None }
    }

    fn found(&mut self, end: usize) -> Option<(usize, usize)> {
        let start = self.start.take()?;
        *self = Self { at: end, ..Self::default() };
        Some((start, end))
    }

    /// The window's first bytes are gone.
    fn shift(&mut self, bytes: usize) {
        self.at = self.at.saturating_sub(bytes);
        self.start = self.start.map(|start| start.saturating_sub(bytes));
    }
}

/// What is wanted of a record: a path's columns, and where it goes on.
#[derive(Debug, Default)]
struct Wanted {
    columns: Vec<usize>,
    next: Vec<(Step, Wanted)>,
}

impl Wanted {
    fn of(paths: &[Vec<Step>]) -> Self {
        let mut root = Self::default();
        for (column, path) in paths.iter().enumerate() {
            let mut at = &mut root;
            for step in path {
                let known = at.next.iter().position(|(other, _)| other == step).unwrap_or_else(|| {
                    at.next.push((step.clone(), Self::default()));
                    at.next.len() - 1
                });
                at = &mut at.next[known].1;
            }
            at.columns.push(column);
        }
        root
    }

    /// Finds in `raw` what is wanted.
    fn collect<'a>(&self, raw: &'a str, found: &mut [Option<&'a str>]) -> Result<(), serde_json::Error> {
        for &column in &self.columns {
            found[column] = Some(raw);
        }
        if self.next.is_empty() {
            return Ok(());
        }
        match raw.as_bytes().first() {
            Some(b'{') => {
                let mut deserializer = serde_json::Deserializer::from_str(raw);
                let members = deserializer.deserialize_map(Members { wanted: self })?;
                deserializer.end()?;
                for (at, value) in members.into_iter().enumerate() {
                    if let Some(value) = value {
                        self.next[at].1.collect(value, found)?;
                    }
                }
                Ok(())
            }
            Some(b'[') if self.next.iter().any(|(step, _)| matches!(step, Step::Index(_))) => {
                let elements = elements(raw)?;
                for (step, wanted) in &self.next {
                    if let Step::Index(at) = step
                        && let Some(value) = elements.get(*at)
                    {
                        wanted.collect(value, found)?;
                    }
                }
                Ok(())
            }
            // A record is JSON even where nothing of it is wanted.
            _ => serde_json::from_str::<IgnoredAny>(raw).map(|_| ()),
        }
    }
}

/// The values of an object's wanted members, by their place among what is wanted.
struct Members<'w> {
    wanted: &'w Wanted,
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = Vec<Option<&'de str>>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let count = self.wanted.next.len();
        let (mut values, mut is_same) = (vec![None; count], vec![false; count]);
        while let Some(fitting) = map.next_key_seed(Fitting { wanted: self.wanted })? {
            if fitting.is_empty() {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let value = map.next_value::<&'de RawValue>()?.get();
            for (at, same) in fitting {
                // A name spelt the same goes before one that differs in capitals; then the first.
                if values[at].is_none() || (same && !is_same[at]) {
                    values[at] = Some(value);
                    is_same[at] = same;
                }
            }
        }
        Ok(values)
    }
}

/// Which of the wanted members a key is, and whether it is spelt the same.
struct Fitting<'w> {
    wanted: &'w Wanted,
}

impl<'de> DeserializeSeed<'de> for Fitting<'_> {
    type Value = Vec<(usize, bool)>;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Fitting<'_> {
    type Value = Vec<(usize, bool)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a member's name")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        let fits = |(at, (step, _)): (usize, &(Step, Wanted))| match step {
            Step::Key(name) if name.text == key => Some((at, true)),
            Step::Key(name) if name.fits(key) => Some((at, false)),
            _ => None,
        };
        Ok(self.wanted.next.iter().enumerate().filter_map(fits).collect())
    }
}

struct All;

impl<'de> Visitor<'de> for All {
    type Value = Vec<&'de str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a list or an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some((_, value)) = map.next_entry::<IgnoredAny, &'de RawValue>()? {
            values.push(value.get());
        }
        Ok(values)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut values = Vec::new();
        while let Some(value) = list.next_element::<&'de RawValue>()? {
            values.push(value.get());
        }
        Ok(values)
    }
}

pub(super) fn elements(raw: &str) -> Result<Vec<&str>, serde_json::Error> {
    serde_json::Deserializer::from_str(raw).deserialize_seq(All)
}

pub(super) fn values(raw: &str) -> Result<Vec<&str>, serde_json::Error> {
    serde_json::Deserializer::from_str(raw).deserialize_map(All)
}

/// Follows the path of FROM; what is not there is a record of nothing.
fn follow<'a>(raw: &'a str, path: &[Step], records: &mut Vec<Option<&'a str>>) -> Result<(), serde_json::Error> {
    let first = raw.as_bytes().first();
    let next = match (path.first(), first) {
        (None, _) => {
            records.push(Some(raw));
            return Ok(());
        }
        (Some(Step::Each), Some(b'[')) => elements(raw)?,
        (Some(Step::EachMember), Some(b'{')) => values(raw)?,
        (Some(step @ (Step::Key(_) | Step::Index(_))), _) => {
            let wanted = Wanted::of(std::slice::from_ref(&vec![step.clone()]));
            let mut found = [None];
            wanted.collect(raw, &mut found)?;
            found.into_iter().flatten().collect()
        }
        _ => {
            serde_json::from_str::<IgnoredAny>(raw)?;
            Vec::new()
        }
    };
    let is_list = matches!(path.first(), Some(Step::Each)) && first == Some(&b'[');
    if next.is_empty() && !is_list {
        records.push(None);
    }
    next.into_iter().try_for_each(|value| follow(value, &path[1..], records))
}

/// Where a feed begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    WithObject,
    /// Anywhere: what follows the next line's end is a record.
    InLine,
}

/// Records of a feed, in batches.
pub(super) struct JsonReader {
    feed: Feed,
    scanner: Scanner,
    path: Vec<Step>,
    /// Longest value at the root: a record, or a document that holds them.
    value_bytes_max: usize,
    left_bytes: u64,
    /// Nothing has been read yet: the feed begins within a line, or with the object.
    begins: Option<Begins>,
    /// Records of a value that did not all fit into a batch, each with where it is in `value`.
    value: String,
    waiting: std::vec::IntoIter<Option<(usize, usize)>>,
}

impl JsonReader {
    pub(super) fn new(feed: Feed, path: Vec<Step>, value_bytes_max: usize, left_bytes: u64, begins: Begins) -> Self {
        let (scanner, value, waiting) = (Scanner::default(), String::new(), Vec::new().into_iter());
        Self { feed, scanner, path, value_bytes_max, left_bytes, begins: Some(begins), value, waiting }
    }

    async fn begin(&mut self) -> Result<(), Error> {
        match self.begins.take() {
            None => Ok(()),
            Some(Begins::InLine) => self.skip_begun().await,
            Some(Begins::WithObject) => {
                let bytes = self.feed.mark_bytes().await?;
                self.pass(bytes);
                Ok(())
            }
        }
    }

    /// Passes over the line that began before the scan range.
    async fn skip_begun(&mut self) -> Result<(), Error> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.feed.window) {
                self.pass(end + 1);
                return Ok(());
            }
            if self.feed.is_at_end {
                self.left_bytes = 0;
                return Ok(());
            }
            if self.feed.window.len() > RECORD_BYTES_MAX {
                return Err(over_max());
            }
            self.feed.fill().await?;
        }
    }

    fn pass(&mut self, bytes: usize) {
        self.feed.take(bytes);
        self.left_bytes = self.left_bytes.saturating_sub(bytes as u64);
    }

    /// The next value at the root, into `value`. False: there is none.
    async fn advance(&mut self) -> Result<bool, Error> {
        loop {
            if let Some((start, end)) = self.scanner.next(&self.feed.window, self.feed.is_at_end) {
                if start as u64 >= self.left_bytes {
                    return Ok(false);
                }
                let raw = std::str::from_utf8(&self.feed.window[start..end]).map_err(|_| not_utf8())?;
                if raw.len() > self.value_bytes_max {
                    return Err(self.too_long());
                }
                raw.clone_into(&mut self.value);
                self.pass(end);
                self.scanner.shift(end);
                return Ok(true);
            }
            if self.feed.is_at_end {
                return Ok(false);
            }
            // Blanks between values are not kept.
            let blank = self.scanner.start.unwrap_or(self.scanner.at);
            self.pass(blank);
            self.scanner.shift(blank);
            if self.left_bytes == 0 {
                return Ok(false);
            }
            if self.feed.window.len() > self.value_bytes_max {
                return Err(self.too_long());
            }
            self.feed.fill().await?;
        }
    }

    fn too_long(&self) -> Error {
        if self.value_bytes_max <= RECORD_BYTES_MAX {
            return over_max();
        }
        let message = format!(
            "A JSON document is longer than {} bytes, the most that is held at once here.",
            self.value_bytes_max
        );
        Error::new(Code::OverMaxRecordSize, message)
    }

    /// The next batch of the columns asked for.
    pub(super) async fn batch(&mut self, schema: &SchemaRef, used: &[Vec<Step>]) -> Result<Option<RecordBatch>, Error> {
        self.begin().await?;
        let wanted = Wanted::of(used);
        let mut columns: Vec<LargeStringBuilder> = used.iter().map(|_| LargeStringBuilder::new()).collect();
        let (mut rows, mut bytes) = (0, 0);
        while rows < BATCH_ROWS && bytes < BATCH_BYTES {
            let Some(record) = self.waiting.next() else {
                if !self.advance().await? {
                    break;
                }
                self.split()?;
                continue;
            };
            let raw = record.map(|(start, end)| &self.value[start..end]);
            if raw.is_some_and(|raw| raw.len() > RECORD_BYTES_MAX) {
                return Err(over_max());
            }
            let mut found = vec![None; used.len()];
            if let Some(raw) = raw {
                wanted.collect(raw, &mut found).map_err(|error| broken(&error))?;
                if wanted.next.is_empty() && self.path.is_empty() {
                    // Nothing has looked into it yet.
                    serde_json::from_str::<IgnoredAny>(raw).map_err(|error| broken(&error))?;
                }
                bytes += raw.len();
            }
            for (builder, value) in columns.iter_mut().zip(found) {
                builder.append_option(value);
            }
            rows += 1;
        }
        if rows == 0 {
            return Ok(None);
        }
        let arrays = columns.iter_mut().map(|column| Arc::new(column.finish()) as ArrayRef).collect();
        batch(schema, arrays, rows).map(Some)
    }

    /// The records of the value that was just read.
    fn split(&mut self) -> Result<(), Error> {
        let mut records = Vec::new();
        follow(&self.value, &self.path, &mut records).map_err(|error| broken(&error))?;
        let base = self.value.as_ptr() as usize;
        let place = |raw: &str| {
            let start = raw.as_ptr() as usize - base;
            (start, start + raw.len())
        };
        let places: Vec<_> = records.into_iter().map(|record| record.map(place)).collect();
        self.waiting = places.into_iter();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::path::Name;

    fn key(text: &str) -> Step {
        Step::Key(Name { text: text.into(), is_exact: false })
    }

    #[test]
    fn values_end_where_they_end_in_whatever_pieces_they_come() {
        let text = " {\"a\": \"}\\\"\"}\n[1, [2]]12 \"x y\"true\n-1.5e3{}";
        let expected = ["{\"a\": \"}\\\"\"}", "[1, [2]]", "12", "\"x y\"", "true", "-1.5e3", "{}"];
        for step in [1, 2, 3, text.len()] {
            let (mut scanner, mut found, mut len) = (Scanner::default(), Vec::new(), 0);
            let bytes = text.as_bytes();
            while len < bytes.len() {
                len = (len + step).min(bytes.len());
                while let Some((start, end)) = scanner.next(&bytes[..len], len == bytes.len()) {
                    found.push(&text[start..end]);
                }
            }
            assert_eq!(found, expected, "in pieces of {step}");
        }
    }

    #[test]
    fn what_is_wanted_is_found_as_it_is_written() {
        let raw = r#"{"A": {"b": [1, {"c": 2.50}]}, "a": {"x": "ä"}, "d": null, "e": {}}"#;
        let paths = [
            vec![key("a"), key("x")],
            vec![Step::Key(Name { text: "A".into(), is_exact: true }), key("B"), Step::Index(1), key("c")],
            vec![key("d")],
            vec![key("f")],
            vec![key("e"), key("f")],
            vec![],
        ];
        let mut found = vec![None; paths.len()];
        Wanted::of(&paths).collect(raw, &mut found).expect("JSON");
        assert_eq!(found, [Some("\"ä\""), Some("2.50"), Some("null"), None, None, Some(raw)]);
    }

    #[test]
    fn froms_path_finds_records_and_what_is_not_there_is_one() {
        let follow_all = |raw: &'static str, path: &[Step]| {
            let mut records = Vec::new();
            follow(raw, path, &mut records).map(|()| records)
        };
        let rules = [key("rules"), Step::Each];
        assert_eq!(follow_all(r#"{"Rules": [{"id": 1}, 2]}"#, &rules).expect("JSON"), [Some("{\"id\": 1}"), Some("2")]);
        assert_eq!(follow_all("{}", &rules).expect("JSON"), [None]);
        assert_eq!(follow_all(r#"{"Rules": []}"#, &rules).expect("JSON"), []);
        assert_eq!(follow_all(r#"{"a": 1, "b": [2]}"#, &[Step::EachMember]).expect("JSON"), [Some("1"), Some("[2]")]);
        assert!(follow_all("[1, 2", &[Step::Each]).is_err());
        assert!(follow_all("{\"a\" 1}", &[key("a")]).is_err());
    }
}
