//! Rules on the text of source files and documents.

use std::fs;
use std::path::Path;

/// Lines of a Rust file, at most.
const RUST_LINES_MAX: usize = 800;
/// Lines of `docs/ARCHITECTURE.md`, below which it must stay.
const ARCHITECTURE_LINES_MAX: usize = 300;
/// Where `unsafe` is allowed, each with its SAFETY comment.
const UNSAFE_UNDER: [&str; 1] = ["crates/granary-drive/"];

/// What is wrong in the tree's tracked and new files; empty when nothing is.
pub(crate) fn check() -> Result<Vec<String>, String> {
    let root = crate::root();
    let mut problems = Vec::new();
    for path in files()? {
        let full = root.join(&path);
        let rust = path.ends_with(".rs");
        if !(rust || path.ends_with(".md")) || !full.is_file() {
            continue;
        }
        let text = fs::read_to_string(&full).map_err(|error| format!("{path}: {error}"))?;
        let found = if rust { rust_problems(&path, &text) } else { document_problems(&root, &path, &text) };
        problems.extend(found.into_iter().map(|problem| format!("{path}{problem}")));
    }
    problems.extend(architecture_problems(&root)?);
    Ok(problems)
}

/// Tracked files and untracked ones that git does not ignore.
fn files() -> Result<Vec<String>, String> {
    let listed = crate::output("git", &["ls-files", "--cached", "--others", "--exclude-standard", "-z"]);
    match listed {
        Ok(text) => Ok(text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect()),
        // A source archive is no git checkout: walk it.
        Err(_) => {
            let mut found = Vec::new();
            walk(&crate::root(), "", &mut found)?;
            Ok(found)
        }
    }
}

fn walk(folder: &Path, prefix: &str, found: &mut Vec<String>) -> Result<(), String> {
    for entry in fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))? {
        let entry = entry.map_err(|error| error.to_string())?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || name == "target" {
            continue;
        }
        let path = format!("{prefix}{name}");
        if entry.path().is_dir() { walk(&entry.path(), &format!("{path}/"), found)? } else { found.push(path) }
    }
    Ok(())
}

/// Problems of one Rust file, each beginning with `:line: ` or `: `.
fn rust_problems(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = text.lines().count();
    if lines > RUST_LINES_MAX {
        problems.push(format!(": {lines} lines, over {RUST_LINES_MAX}: split it by role"));
    }
    if !text.starts_with("//!") {
        problems.push(": does not open with `//!` (what it is, guarantees, leaves to others)".to_owned());
    }
    // The words are put together here so that this file does not find itself.
    let unfinished = [["to", "do!("].concat(), ["unimple", "mented!("].concat(), ["dbg", "!("].concat()];
    let marks = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["X", "XX"].concat()];
    let mut in_tests = path.contains("/tests/") || path.ends_with("/tests.rs");
    for (number, line) in text.lines().enumerate() {
        let mut say = |what: String| problems.push(format!(":{}: {what}", number + 1));
        let (code, comment) = line.split_once("//").unwrap_or((line, ""));
        in_tests |= code.trim_start().starts_with("#[cfg(test)]") || code.trim() == "mod tests {";
        let glob = code.trim_start();
        let is_use = glob.starts_with("use ") || glob.starts_with("pub use ");
        // A test may take in what it tests, and its suite's own helpers.
        let allowed =
            ["use super::*;", "use proptest::prelude::*;", "use crate::support::*;"].contains(&glob.trim_end());
        if is_use && glob.contains("::*") && !(in_tests && allowed) {
            say("glob import".to_owned());
        }
        if let Some(word) = unfinished.iter().find(|word| code.contains(word.as_str())) {
            say(format!("`{word}..)`"));
        }
        if let Some(mark) = marks.iter().find(|mark| has_word(comment, mark)) {
            say(format!("{mark} left in a comment: do it, or open an issue"));
        }
        if code.trim() == "#[ignore]" {
            say("`#[ignore]` without a reason".to_owned());
        }
        let is_unsafe = has_word(code, "unsafe") || code.contains("allow(unsafe_code)");
        if is_unsafe && !code.contains('"') && !UNSAFE_UNDER.iter().any(|folder| path.starts_with(folder)) {
            say(format!("`unsafe` outside {}", UNSAFE_UNDER.join(", ")));
        }
    }
    problems
}

/// Whether `word` stands in `text` with no letter, digit or `_` on either side.
fn has_word(text: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        !text[..at].chars().next_back().is_some_and(part) && !text[at + word.len()..].chars().next().is_some_and(part)
    })
}

/// Relative links of a document that lead nowhere.
fn document_problems(root: &Path, path: &str, text: &str) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut problems = Vec::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        if fenced {
            continue;
        }
        for target in line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next()) {
            let file = target.split('#').next().unwrap_or_default();
            if file.is_empty() || file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            if !root.join(folder).join(file).exists() {
                problems.push(format!(":{}: link to `{target}`, which is not there", number + 1));
            }
        }
    }
    problems
}

/// The architecture page stays short and names every crate.
fn architecture_problems(root: &Path) -> Result<Vec<String>, String> {
    let page = "docs/ARCHITECTURE.md";
    let Ok(text) = fs::read_to_string(root.join(page)) else { return Ok(vec![format!("{page} is missing")]) };
    let mut problems = Vec::new();
    let lines = text.lines().count();
    if lines >= ARCHITECTURE_LINES_MAX {
        problems.push(format!("{page}: {lines} lines, must stay under {ARCHITECTURE_LINES_MAX}"));
    }
    let crates = fs::read_dir(root.join("crates")).map_err(|error| format!("crates: {error}"))?;
    for name in crates.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        if !has_word(&text.replace('-', "_"), &name.replace('-', "_")) {
            problems.push(format!("{page} does not name crate {name}"));
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_tidy() {
        assert_eq!(check().expect("files can be read"), Vec::<String>::new());
    }

    fn of(path: &str, text: &str) -> String {
        rust_problems(path, text).join("\n")
    }

    #[test]
    fn each_rule_finds_its_offence() {
        assert!(of("a.rs", "fn a() {}\n").contains("open with"));
        assert!(of("a.rs", &format!("//! A.\n{}", "\n".repeat(800))).contains("over 800"));
        assert!(of("a.rs", "//! A.\nuse std::io::*;\n").contains(":2: glob import"));
        assert!(of("a.rs", &["//! A.\nfn a() { to", "do!() }\n"].concat()).contains(":2:"));
        assert!(of("a.rs", &["//! A.\n// FIX", "ME later\n"].concat()).contains("left in a comment"));
        assert!(of("crates/granary-store/src/a.rs", "//! A.\nfn a() { unsafe { b() } }\n").contains("outside"));
        assert!(of("a.rs", "//! A.\n#[test]\n#[ignore]\nfn a() {}\n").contains("without a reason"));
    }

    #[test]
    fn what_is_allowed_is_not_found() {
        assert_eq!(of("a.rs", "//! A.\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n"), "");
        assert_eq!(of("crates/granary-drive/src/a.rs", "//! A.\nfn a() { unsafe { b() } }\n"), "");
        assert_eq!(of("a.rs", "//! A. No unsafe here.\n#![deny(unsafe_code)]\n"), "");
    }

    #[test]
    fn a_dead_link_is_found_and_a_live_one_is_not() {
        let root = crate::root();
        assert_eq!(document_problems(&root, "docs/a.md", "see [b](../Cargo.toml#x) and [c](https://c.org)").len(), 0);
        assert_eq!(document_problems(&root, "docs/a.md", "see [b](nothing-here.md)").len(), 1);
        assert_eq!(document_problems(&root, "docs/a.md", "```\n[b](nothing-here.md)\n```").len(), 0);
    }
}
