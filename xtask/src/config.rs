//! `config/granary.toml`: the documented default, rendered by the binary from its settings.

use std::fs;

/// Where it lies.
const PATH: &str = "config/granary.toml";

/// Compares the file with what the binary renders, or writes it.
pub(crate) fn run(write: bool) -> Result<Vec<String>, String> {
    // The workspace's build, as the tests have it: with `-p granary` other features would be built, RocksDB's among them.
    crate::output("cargo", &["build", "--quiet", "--locked", "--workspace", "--bins"])?;
    let own = std::env::current_exe().map_err(|error| format!("where xtask lies: {error}"))?;
    let rendered = crate::output(&own.with_file_name("granary").to_string_lossy(), &["config"])?;
    let path = crate::root().join(PATH);
    if write {
        fs::write(&path, rendered).map_err(|error| format!("{PATH}: {error}"))?;
        return Ok(Vec::new());
    }
    let present = fs::read_to_string(&path).unwrap_or_default();
    let same = present == rendered;
    Ok(if same { Vec::new() } else { vec![format!("{PATH} is not what the settings say: run `make fix`")] })
}
