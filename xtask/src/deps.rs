//! Third-party packages: allowed licences, crates.io only, none that `deny.toml` bans, and a line in
//! `docs/dependencies.md` for each that the workspace names. Known-vulnerability advisories are left to cargo-deny.

use std::collections::BTreeSet;
use std::fs;

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

/// What is wrong with the dependencies; empty when nothing is.
pub(crate) fn check() -> Result<Vec<String>, String> {
    let root = crate::root();
    let read = |path: &str| fs::read_to_string(root.join(path)).map_err(|error| format!("{path}: {error}"));
    let parse = |path: &str| read(path)?.parse::<toml::Table>().map_err(|error| format!("{path}: {error}"));

    let deny = parse("deny.toml")?;
    let texts = |value: Option<&toml::Value>| -> Vec<String> {
        let items = value.and_then(toml::Value::as_array).into_iter().flatten();
        items.filter_map(|item| Some(item.as_str().or_else(|| item.get("name")?.as_str())?.to_owned())).collect()
    };
    let allowed = texts(deny.get("licenses").and_then(|section| section.get("allow")));
    let banned = texts(deny.get("bans").and_then(|section| section.get("deny")));

    let metadata = crate::metadata(true)?;
    let mut problems = Vec::new();
    // Only what is built here: `packages` also lists what other platforms would need.
    let used: BTreeSet<&str> = metadata["resolve"]["nodes"]
        .as_array()
        .ok_or("cargo metadata has no resolve")?
        .iter()
        .filter_map(|node| node["id"].as_str())
        .collect();
    for package in metadata["packages"].as_array().ok_or("cargo metadata has no packages")? {
        let Some(source) = package["source"].as_str() else { continue };
        if !package["id"].as_str().is_some_and(|id| used.contains(id)) {
            continue;
        }
        let name = package["name"].as_str().unwrap_or("?");
        let licence = package["license"].as_str().unwrap_or("");
        if source != CRATES_IO {
            problems.push(format!("{name} comes from {source}, not from crates.io"));
        }
        if !crate::licence::satisfied(licence, &allowed) {
            problems.push(format!("{name} has licence `{licence}`, which deny.toml does not allow"));
        }
        if banned.iter().any(|ban| ban == name) {
            problems.push(format!("{name} is banned by deny.toml"));
        }
    }

    let manifest = parse("Cargo.toml")?;
    let page = read("docs/dependencies.md")?;
    let named: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix('|')?.split('|').next())
        .flat_map(|cell| cell.split(',').map(|name| name.trim().trim_matches('`')))
        .collect();
    let dependencies =
        manifest["workspace"]["dependencies"].as_table().ok_or("Cargo.toml has no [workspace.dependencies]")?;
    for name in dependencies.keys().filter(|name| !name.starts_with("granary-") && !named.contains(name.as_str())) {
        problems.push(format!("docs/dependencies.md has no line for {name}"));
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dependencies_are_allowed_and_justified() {
        assert_eq!(check().expect("cargo metadata runs"), Vec::<String>::new());
    }
}
