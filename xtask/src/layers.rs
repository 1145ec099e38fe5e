//! The rows of crates: an edge goes only to a lower row, and some packages have one user only.

use std::collections::{BTreeMap, BTreeSet};

/// Crate and row. Row 6 is tools that nothing depends on.
const ROWS: [(&str, u8); 15] = [
    ("granary-types", 0),
    ("granary-drive", 1),
    ("granary-crypto", 1),
    ("granary-audit", 1),
    ("granary-stripe", 2),
    ("granary-meta", 2),
    ("granary-store", 3),
    ("granary-access", 3),
    ("granary-cluster", 3),
    ("granary-select", 3),
    ("granary-s3", 4),
    ("granary-bench", 4),
    ("granary", 5),
    ("granary-fuzz", 6),
    ("xtask", 6),
];

/// The packages that the project is built on; each must be used by some crate of it.
const CARD: [&str; 9] =
    ["hyper", "tokio", "s3s", "rocksdb", "io-uring", "aes-gcm", "rustls", "reed-solomon-erasure", "prometheus"];

/// Packages that only these crates may use outside their tests. (Tools of row 6 are free.)
const ONLY: [(&str, &[&str]); 10] = [
    ("datafusion", &["granary-select"]),
    ("sqlparser", &["granary-select"]),
    ("s3s", &["granary-s3"]),
    ("openraft", &["granary-cluster"]),
    ("rocksdb", &["granary-meta", "granary-drive"]),
    ("io-uring", &["granary-drive"]),
    ("reed-solomon-erasure", &["granary-stripe"]),
    ("hyper", &["granary-s3", "granary-cluster", "granary-bench", "granary"]),
    ("http", &["granary-s3", "granary-cluster", "granary-bench", "granary"]),
    ("prometheus", &["granary"]),
];

/// A dependency of a workspace crate.
#[derive(Debug)]
struct Edge {
    from: String,
    to: String,
    dev: bool,
}

/// What is wrong with the workspace's edges; empty when nothing is.
pub(crate) fn check() -> Result<Vec<String>, String> {
    let metadata = crate::metadata(false)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata has no packages")?;
    let mut names = BTreeSet::new();
    let mut edges = Vec::new();
    for package in packages {
        let from = package["name"].as_str().ok_or("a package without a name")?;
        names.insert(from.to_owned());
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let to = dependency["name"].as_str().ok_or("a dependency without a name")?.to_owned();
            edges.push(Edge { from: from.to_owned(), to, dev: dependency["kind"] == "dev" });
        }
    }
    Ok(problems(&names, &edges))
}

fn problems(names: &BTreeSet<String>, edges: &[Edge]) -> Vec<String> {
    let rows = BTreeMap::from(ROWS);
    let mut problems: Vec<String> = names
        .iter()
        .filter(|name| !rows.contains_key(name.as_str()))
        .map(|name| {
            format!("crate {name} stands in no row: give it one in xtask/src/layers.rs and docs/ARCHITECTURE.md")
        })
        .collect();
    for Edge { from, to, dev } in edges {
        let Some(&from_row) = rows.get(from.as_str()) else { continue };
        if let Some(&to_row) = rows.get(to.as_str()) {
            // Tests may look sideways (one row's crates against each other), never up.
            let allowed = if *dev { to_row <= from_row } else { to_row < from_row };
            if !allowed {
                problems.push(format!(
                    "{from} (row {from_row}) depends on {to} (row {to_row}): edges go to lower rows only"
                ));
            }
        }
        let users = ONLY.iter().find(|(package, _)| package == to).map(|(_, users)| *users);
        if let Some(users) = users
            && !dev
            && from_row < 6
            && !users.contains(&from.as_str())
        {
            problems.push(format!("{from} uses {to}, which only {} may", users.join(", ")));
        }
    }
    for package in CARD {
        if !edges.iter().any(|edge| edge.to == package && !edge.dev && edge.from != "granary-bench") {
            problems.push(format!("no crate uses {package}, which the project is to be built on"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_keeps_its_rows() {
        assert_eq!(check().expect("cargo metadata runs"), Vec::<String>::new());
    }

    fn found(from: &str, to: &str, dev: bool) -> String {
        let edge = Edge { from: from.into(), to: to.into(), dev };
        problems(&BTreeSet::from([from.to_owned()]), &[edge]).join("\n")
    }

    #[test]
    fn an_edge_up_or_sideways_is_found() {
        assert!(found("granary-drive", "granary-store", false).contains("lower rows only"));
        assert!(found("granary-meta", "granary-stripe", false).contains("lower rows only"));
        assert!(found("granary-drive", "granary-store", true).contains("lower rows only"));
        assert!(!found("granary-meta", "granary-stripe", true).contains("lower rows only"));
        assert!(!found("granary-meta", "granary-types", false).contains("lower rows only"));
    }

    #[test]
    fn a_second_user_an_unknown_crate_and_a_missing_package_are_found() {
        assert!(
            found("granary-store", "hyper", false)
                .contains("only granary-s3, granary-cluster, granary-bench, granary may")
        );
        assert!(!found("granary-store", "hyper", true).contains("only granary-s3"));
        assert!(found("granary-commons", "bytes", false).contains("stands in no row"));
        assert!(found("granary", "bytes", false).contains("no crate uses rocksdb"));
    }
}
