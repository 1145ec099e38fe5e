//! Settings as a documented TOML file.

use super::Settings;

const HEAD: &str = "\
# Granary: every setting, with its default. Generated from crates/granary/src/settings (`make fix`); do not edit
# here. Copy it, change what you need, delete the rest, and start: granary serve --config FILE
#
# Each setting can also be given in the environment, which wins over the file: GRANARY_<SECTION>_<NAME>, for
# example GRANARY_S3_LISTEN=0.0.0.0:9000; lists are separated by commas. The root access keys come only from
# GRANARY_ROOT_ACCESS_KEY and GRANARY_ROOT_SECRET_KEY, or are generated once.
";

/// The documented default: `config/granary.toml`.
pub(crate) fn rendered_default() -> String {
    render(&Settings::default())
}

fn render(settings: &Settings) -> String {
    let mut out = HEAD.to_owned();
    for (section, docs) in Settings::SECTIONS {
        out.push('\n');
        docs.iter().for_each(|line| comment(&mut out, line));
        out.push_str(&format!("[{section}]\n"));
        for field in Settings::FIELDS.iter().filter(|field| field.section == *section) {
            out.push('\n');
            field.docs.iter().for_each(|line| comment(&mut out, line));
            match settings.to_toml(field) {
                Some(value) => out.push_str(&format!("{} = {value}\n", field.name)),
                None => out.push_str(&format!("# {} = \"\"  (not set)\n", field.name)),
            }
        }
    }
    out
}

fn comment(out: &mut String, line: &str) {
    out.push('#');
    out.push_str(line);
    out.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_in_the_tree_is_what_the_settings_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../config/granary.toml");
        let file = std::fs::read_to_string(path).unwrap_or_default();
        assert!(file == rendered_default(), "config/granary.toml is stale: run `make fix`");
    }

    #[test]
    fn what_is_rendered_reads_back_the_same() {
        let mut settings = Settings::default();
        settings.s3.domains = vec!["s3.example.org".into(), "quo\"ted\\ \u{7}".into()];
        settings.s3.plaintext = true;
        settings.keys.root_key_file = Some("/etc/granary/root key".into());
        settings.node.drain_timeout_ms = 12;
        let back = Settings::parse("test.toml", &render(&settings)).unwrap();
        assert_eq!(back, settings);
        assert_eq!(Settings::parse("test.toml", &rendered_default()).unwrap(), Settings::default());
    }

    #[test]
    fn every_setting_is_documented() {
        for field in Settings::FIELDS {
            assert!(!field.docs.is_empty(), "{}.{} has no doc comment", field.section, field.name);
        }
    }
}
