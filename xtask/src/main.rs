//! Checks of the house that cargo does not make, and the files that are generated.
//!
//! `cargo run -p xtask -- layers tidy deps config compat` prints what is wrong and fails; nothing is written
//! except by `config --write` and `compat --write`. The same checks (but `config`, which needs the binary and is diffed by a test
//! of its own in `crates/granary`) run as tests of this crate.

mod compat;
mod config;
mod deps;
mod layers;
mod licence;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// The workspace root.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the workspace root").to_owned()
}

/// Runs a command in the root and returns what it printed, or why it failed.
fn output(program: &str, arguments: &[&str]) -> Result<String, String> {
    let said = format!("`{program} {}`", arguments.join(" "));
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root())
        .output()
        .map_err(|error| format!("{said} could not be started: {error}"))?;
    if !output.status.success() {
        return Err(format!("{said} failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{said} printed something that is not UTF-8"))
}

/// `cargo metadata`, with or without everything the workspace depends on.
fn metadata(with_dependencies: bool) -> Result<serde_json::Value, String> {
    let mut arguments = vec!["metadata", "--format-version", "1", "--locked"];
    if with_dependencies {
        arguments.extend(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    } else {
        arguments.push("--no-deps");
    }
    serde_json::from_str(&output("cargo", &arguments)?).map_err(|error| format!("cargo metadata: {error}"))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let write = arguments.iter().any(|a| a == "--write");
    let verbs: Vec<&str> = arguments.iter().map(String::as_str).filter(|a| !a.starts_with("--")).collect();
    let unknown_flag = arguments.iter().find(|a| a.starts_with("--") && !matches!(a.as_str(), "--write" | "--check"));
    if verbs.is_empty() || unknown_flag.is_some() {
        eprintln!("usage: xtask [layers] [tidy] [deps] [config [--check | --write]] [compat [--check | --write]]");
        return ExitCode::from(2);
    }
    let mut failed = false;
    for verb in verbs {
        let problems = match verb {
            "layers" => layers::check(),
            "tidy" => tidy::check(),
            "deps" => deps::check(),
            "config" => config::run(write),
            "compat" => compat::run(write),
            _ => Err(format!("no such task: {verb}")),
        };
        let problems = problems.unwrap_or_else(|error| vec![error]);
        problems.iter().for_each(|problem| eprintln!("{verb}: {problem}"));
        failed |= !problems.is_empty();
        println!(
            "{verb}: {}",
            if problems.is_empty() { "ok".to_owned() } else { format!("{} problems", problems.len()) }
        );
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
