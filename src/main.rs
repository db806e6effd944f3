//! The `quorate` binary: everything it does is in [`quorate::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate::cli::run()
}
