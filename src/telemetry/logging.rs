//! Logs: lines on standard error, filtered by the setting `log`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Checks a log filter, and gives it back where it makes sense.
pub fn check_filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("expected a log filter such as info or quorate=debug: {error}")),
    }
}

/// Starts logging for the whole process. A second call changes nothing.
pub fn start(filter: &str) {
    // The consensus library logs every state change at info; its warnings are what operators need.
    let filter = EnvFilter::try_new(format!("openraft=warn,sled=warn,{filter}"))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init();
}
