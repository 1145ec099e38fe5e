//! Adding and replacing drives by admin request.

use std::path::PathBuf;

use granary_store::node::Node;
use http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Refusal};
use crate::drive_list::DriveList;

/// How a person names a drive: `d3` or `3`, its id, or its folder.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Selector<'a> {
    Number(u16),
    Name(&'a str),
}

impl<'a> Selector<'a> {
    pub(super) fn parse(text: &'a str) -> Self {
        let digits = text.strip_prefix('d').unwrap_or(text);
        digits.parse().map_or(Self::Name(text), Self::Number)
    }

    /// The drive's number.
    pub(super) fn number(&self, node: &Node) -> Result<u16, Refusal> {
        let drives = node.status().drives;
        let found = drives.iter().find(|drive| match self {
            Self::Number(number) => drive.number == *number,
            Self::Name(name) => drive.id == *name || drive.path.as_deref() == Some(*name),
        });
        found.map(|drive| drive.number).ok_or_else(|| {
            let known: Vec<String> = drives.iter().map(|drive| format!("d{}", drive.number)).collect();
            Refusal(StatusCode::NOT_FOUND, format!("no drive is called that; there are {}", known.join(", ")))
        })
    }
}

fn path(body: &Value) -> Result<PathBuf, Refusal> {
    let path = body["path"].as_str().map(PathBuf::from).ok_or_else(|| Refusal::bad("`path` is missing"))?;
    if path.is_absolute() { Ok(path) } else { Err(Refusal::bad("`path` must be absolute")) }
}

/// `POST /admin/v1/drives/add`: `{"path": ...}`.
pub(super) async fn add(node: &Node, body: &Value, list: Option<&DriveList>) -> Answer {
    let path = path(body)?;
    let drive = node.add_drive(&path).await.map_err(|error| Refusal(StatusCode::CONFLICT, error.to_string()))?;
    let note = remember(list, |list| list.add(&path), &path);
    Ok(json!({ "drive": drive, "note": note }))
}

/// `POST /admin/v1/drives/replace`: `{"drive": ..., "path": ...}`.
pub(super) async fn replace(node: &Node, body: &Value, list: Option<&DriveList>) -> Answer {
    let path = path(body)?;
    let name = body["drive"].as_str().ok_or_else(|| Refusal::bad("`drive` is missing"))?;
    let number = Selector::parse(name).number(node)?;
    let old = node.status().drives.into_iter().find(|drive| drive.number == number).and_then(|drive| drive.path);
    let drive =
        node.replace_drive(number, &path).await.map_err(|error| Refusal(StatusCode::CONFLICT, error.to_string()))?;
    let note = remember(list, |list| list.replace(old.as_deref(), &path), &path);
    Ok(json!({ "drive": drive, "note": note }))
}

/// The node must find the drive again after a restart: `granary dev` remembers it, a settings file is its owner's.
fn remember(
    list: Option<&DriveList>,
    change: impl FnOnce(&DriveList) -> std::io::Result<()>,
    path: &std::path::Path,
) -> String {
    match list.map(change) {
        Some(Ok(())) => String::new(),
        Some(Err(error)) => format!(
            "the drive is in use, but its folder could not be written down ({error}): name {} at the next start",
            path.display()
        ),
        None => format!("put {} into drives.paths of the settings file before the next start", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drives_by_number_or_name() {
        assert_eq!(Selector::parse("d3"), Selector::Number(3));
        assert_eq!(Selector::parse("12"), Selector::Number(12));
        assert_eq!(Selector::parse("/mnt/3"), Selector::Name("/mnt/3"));
        assert_eq!(Selector::parse("d3ad"), Selector::Name("d3ad"));
    }
}
