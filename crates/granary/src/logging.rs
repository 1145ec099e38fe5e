//! Log lines on standard error, text or JSON. Standard output is for people and scripts: the start-up lines.

use tracing_subscriber::EnvFilter;

use crate::settings::{LogFormat, Settings};

/// Libraries that say at `info` what only their authors want to read; the filter setting can raise them again. (s3s logs
/// clients' mistakes as errors; what an operator must hear of, granary-s3 says itself: `granary_s3::LOG_DIRECTIVE`.)
const QUIET: &str = "s3s=off,hyper=warn,hyper_util=warn,h2=warn,rustls=warn,tokio=warn";

/// The filter was refused.
#[derive(Debug, thiserror::Error)]
#[error(
    "log.filter `{filter}`: {source}; write a level such as `info`, or directives such as `info,granary_drive=debug`"
)]
pub(crate) struct FilterError {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Starts logging.
///
/// # Errors
/// [`FilterError`] when `log.filter` is not a filter.
pub(crate) fn start(settings: &Settings) -> Result<(), FilterError> {
    let filter = filter(&settings.log.filter)?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true);
    match settings.log.format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

fn filter(text: &str) -> Result<EnvFilter, FilterError> {
    EnvFilter::builder()
        .parse(format!("{QUIET},{text}"))
        .map_err(|source| FilterError { filter: text.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters() {
        assert!(filter("info").is_ok());
        assert!(filter("info,granary_drive=debug,s3s=trace").is_ok());
        let error = filter("info,=-=").expect_err("not a filter").to_string();
        assert!(error.starts_with("log.filter `info,=-=`"), "{error}");
    }
}
