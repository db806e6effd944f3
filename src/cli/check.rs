//! `quorate check`: recorded histories held against what each level promises.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::client::Output;
use super::{Exit, complain};
use crate::check::linearizability::Budget;
use crate::check::{self, Finding};
use crate::history::History;

#[derive(Args)]
pub(super) struct CheckArgs {
    /// Histories: JSON lines, as `compare` and `sim` write them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// text or json
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Draw the shortest history of the first finding into this file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// How many steps the search for an order may take for one key
    #[arg(long, value_name = "STEPS", default_value_t = Budget::DEFAULT.steps_per_key,
          value_parser = clap::value_parser!(u64).range(1..))]
    budget: u64,
}

/// A history and what was found in it.
struct Checked {
    file: PathBuf,
    history: History,
    findings: Vec<Finding>,
    /// For each broken promise, the shortest history that shows it.
    shortest: Vec<(Finding, History)>,
}

pub(super) fn run(args: &CheckArgs) -> Exit {
    let mut checked = Vec::new();
    let mut exit = Exit::Done;
    for file in &args.files {
        match read(file) {
            Ok(history) => checked.push(Checked::new(file, history, args.budget)),
            Err(problem) => {
                complain(format!("{}: {problem}", file.display()));
                exit = Exit::Usage;
            }
        }
    }
    let printed = match args.output {
        Output::Text => checked.iter().try_for_each(|one| one.print(&mut io::stdout().lock())),
        Output::Json => print_json(&checked, &mut io::stdout().lock()),
    };
    if let Err(error) = printed {
        // Whoever reads may have had enough: `quorate check … | head`.
        if error.kind() != io::ErrorKind::BrokenPipe {
            complain(format!("cannot write the result: {error}"));
            return Exit::Failed;
        }
    }
    if let Some(svg) = &args.svg
        && let Err(problem) = draw(&checked, svg)
    {
        complain(problem);
        return Exit::Failed;
    }
    checked.iter().map(Checked::exit).fold(exit, worse)
}

fn read(path: &Path) -> Result<History, String> {
    let file = File::open(path).map_err(|error| format!("cannot be opened: {error}"))?;
    History::read(BufReader::new(file)).map_err(|error| error.to_string())
}

/// What counts more: that a file was no history, then broken, then unverified.
fn worse(one: Exit, other: Exit) -> Exit {
    let weight = |exit: Exit| match exit {
        Exit::Usage => 3,
        Exit::Failed => 2,
        Exit::Unknown => 1,
        Exit::Done | Exit::PreconditionFailed | Exit::NotFound => 0,
    };
    if weight(other) > weight(one) { other } else { one }
}

impl Checked {
    fn new(file: &Path, history: History, budget: u64) -> Checked {
        let findings = check::check_within(&history, Budget::per_key(budget));
        let broken = findings.iter().filter(|finding| finding.is_broken());
        let shortest =
            broken.map(|finding| (finding.clone(), check::shortest(&history, finding))).collect();
        Checked { file: file.to_owned(), history, findings, shortest }
    }

    fn exit(&self) -> Exit {
        if !self.shortest.is_empty() {
            Exit::Failed
        } else if self.findings.iter().any(Finding::is_unverified) {
            Exit::Unknown
        } else {
            Exit::Done
        }
    }

    fn verdict(&self) -> &'static str {
        match self.exit() {
            Exit::Failed => "broken",
            Exit::Unknown => "unverified",
            _ => "kept",
        }
    }

    fn print(&self, to: &mut impl Write) -> io::Result<()> {
        let header = &self.history.header;
        writeln!(
            to,
            "{}: {} mode, {}, seed {}, {} nodes, {} operations",
            self.file.display(),
            header.mode,
            header.experiment,
            header.seed,
            header.nodes,
            self.history.ops.len()
        )?;
        writeln!(to)?;
        print_table(&self.findings, to)?;
        for finding in self.findings.iter().filter(|finding| finding.found > 0) {
            let word = if finding.promised { "BROKEN" } else { "counted" };
            let age = age(finding);
            writeln!(to, "\n{word}: {} at {}{age}", finding.check, finding.level)?;
            for example in &finding.examples {
                writeln!(to, "  {example}")?;
            }
        }
        for (finding, shortest) in &self.shortest {
            writeln!(to, "\nThe shortest history found that shows {}:", finding.check)?;
            shortest.write(&mut *to).map_err(io::Error::other)?;
        }
        let verdict = match self.exit() {
            Exit::Failed => format!("{} promises are BROKEN.", self.shortest.len()),
            Exit::Unknown => "No promise was seen broken, but not all could be checked.".to_owned(),
            _ => "Every promise that was checked held.".to_owned(),
        };
        writeln!(to, "\n{verdict}")
    }

    fn json(&self) -> serde_json::Value {
        let shortest = self.shortest.iter().map(|(finding, shortest)| {
            json!({
                "check": finding.check,
                "level": finding.level,
                "header": shortest.header,
                "operations": shortest.ops,
            })
        });
        json!({
            "file": self.file.display().to_string(),
            "mode": self.history.header.mode,
            "operations": self.history.ops.len(),
            "verdict": self.verdict(),
            "findings": self.findings,
            "shortest": shortest.collect::<Vec<_>>(),
        })
    }
}

fn print_json(checked: &[Checked], to: &mut impl Write) -> io::Result<()> {
    let files: Vec<_> = checked.iter().map(Checked::json).collect();
    serde_json::to_writer_pretty(&mut *to, &json!({ "files": files }))?;
    writeln!(to)
}

fn print_table(findings: &[Finding], to: &mut impl Write) -> io::Result<()> {
    let head = ["check", "level", "", "looked at", "found", "not decided"].map(str::to_owned);
    let rows = findings.iter().map(|finding| {
        let promise = if finding.promised { "promised never" } else { "counted" };
        [
            finding.check.clone(),
            finding.level.clone(),
            promise.to_owned(),
            finding.examined.to_string(),
            finding.found.to_string(),
            finding.unverified.to_string(),
        ]
    });
    let rows: Vec<[String; 6]> = std::iter::once(head).chain(rows).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..6).map(|column| width(column).unwrap_or(0)).collect();
    for row in &rows {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            // Words to the left, numbers to the right.
            if column < 3 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        writeln!(to, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// How old what was found is, where that can be said.
fn age(finding: &Finding) -> String {
    let ms = |us: u64| us as f64 / 1_000.0;
    finding.age.map_or(String::new(), |age| {
        let (median, most) = (ms(age.median_us), ms(age.max_us));
        format!(", out of date by {most:.3} ms at most, median {median:.3} ms")
    })
}

/// Draws the first broken promise, or else the first thing that was counted.
fn draw(checked: &[Checked], svg: &Path) -> Result<(), String> {
    let broken = checked.iter().flat_map(|one| &one.shortest).next().cloned();
    let counted = || {
        let all = checked.iter().flat_map(|one| one.findings.iter().map(move |f| (one, f)));
        let mut found = all.filter(|(_, finding)| finding.found > 0);
        found.next().map(|(one, f)| (f.clone(), check::shortest(&one.history, f)))
    };
    let Some((finding, history)) = broken.or_else(counted) else {
        complain(format!("nothing was found, so {} was not drawn", svg.display()));
        return Ok(());
    };
    let heading = format!("{} at {}: {}", finding.check, finding.level, finding.looks_for);
    std::fs::write(svg, check::draw(&history, &heading))
        .map_err(|error| format!("cannot write {}: {error}", svg.display()))
}
