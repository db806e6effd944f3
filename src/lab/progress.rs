//! Progress of long work: a bar on a terminal, plain lines elsewhere.

use std::io::IsTerminal as _;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// How often the bar is drawn again while nothing is reported.
const REDRAW_EVERY: Duration = Duration::from_millis(200);

/// Reports what is being done. Goes to standard error, so that results can be piped.
pub struct Progress {
    bar: Option<ProgressBar>,
    quiet: bool,
}

impl Progress {
    /// Progress through `steps` steps.
    pub fn new(steps: u64) -> Progress {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(steps);
            let template = "{elapsed_precise} [{bar:30}] {pos}/{len} {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.enable_steady_tick(REDRAW_EVERY);
            bar
        });
        Progress { bar, quiet: false }
    }

    /// Says nothing.
    #[cfg(test)]
    pub fn quiet() -> Progress {
        Progress { bar: None, quiet: true }
    }

    /// Begins a step.
    pub fn step(&self, what: &str) {
        match &self.bar {
            Some(bar) => {
                bar.inc(1);
                bar.set_message(what.to_owned());
            }
            None if self.quiet => {}
            None => eprintln!("{what} ..."),
        }
    }

    /// Ends the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
