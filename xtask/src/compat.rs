//! `docs/s3-compatibility.md`: every operation that s3s knows, whether the front door has it, and which tests call it.
//!
//! Made from what is there, so that it cannot lie: the operations are those of s3s's trait, the state is the list in
//! `crates/granary-s3/src/front.rs` (what is not in it answers 501 by s3s's default), and the tests are found by the
//! calls they make. An operation without a test is a problem, and so is one that no test sees refused.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Where the table lies.
const PATH: &str = "docs/s3-compatibility.md";
/// Where the front door says what it has.
const FRONT: &str = "crates/granary-s3/src/front.rs";
/// Tests that make S3 calls.
const TESTS: [&str; 2] = ["tests", "crates/granary-s3/tests"];

/// The test that has every operation refused.
const REFUSALS: &str = "tests/clients/test_conform_refusals.py";
/// Operations that are served before s3s sees the request: method, where, and how tests call them.
const OUTSIDE: &[(&str, &str, &[&str])] = &[("post_object", "post", &["generate_presigned_post", "post_form"])];

/// What the table has to say beside the state.
const NOTES: &[(&str, &str)] = &[
    ("get_object_torrent", "AWS has withdrawn it: there is none of any object"),
    ("delete_bucket_website", "there is never one"),
    ("get_bucket_website", "there is never one"),
    ("delete_bucket_replication", "there is never one"),
    ("get_bucket_replication", "there is never one"),
    ("list_bucket_analytics_configurations", "there are never any"),
    ("get_bucket_analytics_configuration", "there are never any"),
    ("delete_bucket_analytics_configuration", "there are never any"),
    ("list_bucket_inventory_configurations", "there are never any"),
    ("get_bucket_inventory_configuration", "there are never any"),
    ("delete_bucket_inventory_configuration", "there are never any"),
    ("list_bucket_metrics_configurations", "there are never any"),
    ("get_bucket_metrics_configuration", "there are never any"),
    ("delete_bucket_metrics_configuration", "there are never any"),
    ("list_bucket_intelligent_tiering_configurations", "there are never any"),
    ("get_bucket_intelligent_tiering_configuration", "there are never any"),
    ("delete_bucket_intelligent_tiering_configuration", "there are never any"),
    ("create_bucket_metadata_configuration", "S3 Metadata tables are a service of AWS"),
    ("create_bucket_metadata_table_configuration", "S3 Metadata tables are a service of AWS"),
    ("select_object_content", "in builds with the feature `select`, which `make release` has; others answer 501"),
    ("restore_object", "no storage class here needs a restore"),
    ("write_get_object_response", "Object Lambda is a service of AWS"),
    ("put_bucket_accelerate_configuration", "Transfer Acceleration is a service of AWS"),
];

/// Compares the page with what the code says, or writes it.
pub(crate) fn run(write: bool) -> Result<Vec<String>, String> {
    let known = operations()?;
    let present = present()?;
    let callers = callers(&known)?;
    let mut problems: Vec<String> = present
        .keys()
        .filter(|method| !known.contains_key(*method))
        .map(|method| format!("{FRONT} names {method}, which s3s does not know"))
        .collect();
    for method in present.keys() {
        if !callers.contains_key(method) {
            problems.push(format!("no test calls {method}: add one under tests/"));
        }
        let is_outside = OUTSIDE.iter().any(|(outside, ..)| outside == method);
        if !is_outside && !callers.get(method).is_some_and(|files| files.contains(REFUSALS)) {
            problems.push(format!("no test sees {method} refused: add it to {REFUSALS}"));
        }
    }
    let page = page(&known, &present, &callers);
    let path = crate::root().join(PATH);
    if write {
        fs::write(&path, page).map_err(|error| format!("{PATH}: {error}"))?;
    } else if fs::read_to_string(&path).unwrap_or_default() != page {
        problems.push(format!("{PATH} is not what the code says: run `make fix`"));
    }
    Ok(problems)
}

/// Method → S3's name of every operation in s3s's trait.
fn operations() -> Result<BTreeMap<String, String>, String> {
    let metadata = crate::metadata(true)?;
    let manifest = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "s3s")
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata does not know s3s")?;
    let path = Path::new(manifest).with_file_name("src").join("s3_trait.rs");
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let found: BTreeMap<_, _> = text
        .split("async fn ")
        .skip(1)
        .filter_map(|rest| {
            let method = rest.split('(').next()?;
            let input = rest.split("S3Request<").nth(1)?.split("Input>").next()?;
            Some((method.to_owned(), input.to_owned()))
        })
        .collect();
    if found.len() < 90 {
        return Err(format!("{}: only {} operations found: has its form changed?", path.display(), found.len()));
    }
    Ok(found)
}

/// Method → module of the operations that the front door has.
fn present() -> Result<BTreeMap<String, String>, String> {
    let text = fs::read_to_string(crate::root().join(FRONT)).map_err(|error| format!("{FRONT}: {error}"))?;
    let list = text.split("\noperations! {").nth(1).and_then(|rest| rest.split("\n}").next());
    let list = list.ok_or_else(|| format!("{FRONT}: no `operations!` list"))?;
    let entries = list.split(';').map(str::trim).filter(|entry| entry.contains("=>"));
    let outside = OUTSIDE.iter().map(|(method, module, _)| Ok(((*method).to_owned(), (*module).to_owned())));
    outside
        .chain(entries.map(|entry| {
            // Comments may stand in front.
            let entry = entry.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join(" ");
            let (method, rest) = entry.trim().split_once(':').ok_or_else(|| format!("{FRONT}: `{entry}`"))?;
            let module = rest.split(',').next().unwrap_or_default().trim();
            Ok((method.trim().to_owned(), module.to_owned()))
        }))
        .collect()
}

/// Method → files of tests that call it, by its boto3 name or its S3 name.
fn callers(known: &BTreeMap<String, String>) -> Result<BTreeMap<String, BTreeSet<String>>, String> {
    let mut files = Vec::new();
    for folder in TESTS {
        gather(&crate::root().join(folder), &mut files)?;
    }
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files {
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let shown = file.strip_prefix(crate::root()).unwrap_or(&file).display().to_string();
        let words: BTreeSet<&str> = text.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
        for (method, name) in known {
            let others = OUTSIDE.iter().find(|(outside, ..)| outside == method).map_or(&[][..], |(_, _, names)| *names);
            if words.contains(method.as_str())
                || words.contains(name.as_str())
                || others.iter().any(|other| words.contains(other))
            {
                found.entry(method.clone()).or_default().insert(shown.clone());
            }
        }
    }
    Ok(found)
}

fn gather(folder: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    for entry in entries.flatten() {
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if path.is_dir() {
            if name != "__pycache__" && name != "harness" {
                gather(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "py" || extension == "rs") && name != "twin.rs"
        {
            files.push(path);
        }
    }
    Ok(())
}

fn page(
    known: &BTreeMap<String, String>,
    present: &BTreeMap<String, String>,
    callers: &BTreeMap<String, BTreeSet<String>>,
) -> String {
    let mut page = String::from(
        "# S3 operations\n\n\
         Generated by `cargo run -p xtask -- compat --write` from the front door's list of operations, s3s's trait and the\n\
         tests; `make verify` compares. What a client may rely on in detail is in [SEMANTICS.md](SEMANTICS.md). An operation\n\
         that is *not implemented* answers `501 NotImplemented` and names itself. Tests are those that call the operation;\n\
         the Rust front-door tests send most of them as plain HTTP besides.\n\n",
    );
    let _ = writeln!(page, "`{REFUSALS}` has every one of them refused besides.\n");
    let implemented = known.keys().filter(|method| present.contains_key(*method)).count();
    let _ = writeln!(page, "{implemented} of {} operations are implemented.\n", known.len());
    page.push_str("| operation | state | tests |\n|---|---|---|\n");
    for (method, name) in known {
        let note = NOTES.iter().find(|(noted, _)| noted == method).map(|(_, note)| format!(" ({note})"));
        let state = if present.contains_key(method) { "implemented" } else { "not implemented" };
        let files: Vec<_> = callers
            .get(method)
            .into_iter()
            .flatten()
            .map(|file| file.rsplit('/').next().unwrap_or_default().trim_end_matches(".py").trim_start_matches("test_"))
            .collect();
        let _ = writeln!(page, "| {name} | {state}{} | {} |", note.unwrap_or_default(), files.join(", "));
    }
    page
}
