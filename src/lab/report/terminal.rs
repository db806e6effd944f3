//! The table that a comparison ends with.

use std::fmt::Write as _;
use std::path::Path;

use super::summary::{heading, most_connections};
use super::words::{bytes, number, percent, time_ms, time_us, whole};
use crate::lab::history::Action;
use crate::lab::results::{Contestant, Load, Results, Section, Verdict};

/// What a figure is, how it is found, and how it is written.
struct Row {
    name: String,
    figure: Box<dyn Fn(&Contestant) -> Option<f64>>,
    words: fn(f64) -> String,
    /// Whether how many times one is of the other means something.
    ratio: bool,
}

/// Renders the summary of `results`, whose report lies in `out`.
pub fn render(results: &Results, out: &Path) -> String {
    let mut text = String::new();
    let names: Vec<String> = results.contestants.iter().map(heading).collect();
    let rows: Vec<Vec<String>> = rows(most_connections(results))
        .iter()
        .map(|row| cells(row, &results.contestants))
        .collect();
    let mut head = vec![String::new()];
    head.extend(names);
    if results.contestants.len() == 2 {
        head.push(format!("{} / {}", results.contestants[1].name, results.contestants[0].name));
    }
    text += &table(&head, &rows);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "\nThe columns do not promise the same: quorum is not linearizable.");
    for contestant in &results.contestants {
        for (what, why) in missing(contestant) {
            let _ = writeln!(text, "{}, {what}: no figures, {why}.", contestant.name);
        }
    }
    let _ = writeln!(
        text,
        "{} nodes, {} engine, seed {}, {:.0} s. Report: {}",
        results.nodes,
        results.engine,
        results.seed,
        results.duration_s,
        out.join("report.html").display()
    );
    text + &verdict(results)
}

fn verdict(results: &Results) -> String {
    let list = |title: &str, reasons: Vec<String>| {
        let lines: String = reasons.iter().map(|reason| format!("  {reason}\n")).collect();
        format!("{title}\n{lines}")
    };
    match results.verdict() {
        Verdict::Kept => "Every promise that was checked held.\n".to_owned(),
        Verdict::Broken(reasons) => list("PROMISES WERE BROKEN:", reasons),
        Verdict::Unknown(reasons) => {
            list("No promise was seen broken, but not everything could be checked:", reasons)
        }
    }
}

fn missing(contestant: &Contestant) -> Vec<(&'static str, String)> {
    let sections = [
        ("throughput", contestant.throughput.missing()),
        ("killed-node", contestant.killed_node.missing()),
        ("stale-reads", contestant.stale_reads.missing()),
    ];
    sections.into_iter().filter_map(|(what, why)| Some((what, why?))).collect()
}

fn rows(many: usize) -> Vec<Row> {
    let row = |name: String,
               figure: Box<dyn Fn(&Contestant) -> Option<f64>>,
               words: fn(f64) -> String,
               ratio: bool| Row { name, figure, words, ratio };
    let mut rows = Vec::new();
    for (action, what) in [(Action::Put, "put"), (Action::Get, "get")] {
        let median = |load: &Load| load.latency.map(|latency| latency.p50_us as f64);
        let slow = |load: &Load| load.latency.map(|latency| latency.p99_us as f64);
        let of =
            |connections, figure: fn(&Load) -> Option<f64>| loaded(action, connections, figure);
        rows.push(row(format!("{what}, 1 at a time: p50"), of(1, median), time_us, true));
        let each_second = |load: &Load| Some(load.per_second);
        rows.push(row(
            format!("{what}, {many} at a time: a second"),
            of(many, each_second),
            number,
            true,
        ));
        rows.push(row(format!("{what}, {many} at a time: p99"), of(many, slow), time_us, true));
        rows.push(row(
            format!("  CPU for each {what}"),
            of(many, |l| l.cpu_us_per_op),
            time_us,
            true,
        ));
        rows.push(row(
            format!("  disk syncs for each {what}"),
            of(many, |l| l.syncs_per_op),
            number,
            true,
        ));
        rows.push(row(
            format!("  messages for each {what}"),
            of(many, |l| l.messages_per_op),
            number,
            true,
        ));
        rows.push(row(
            format!("  sent between nodes for each {what}"),
            of(many, |l| l.peer_bytes_per_op),
            bytes,
            true,
        ));
    }
    rows.push(row(
        "a node killed: longest time without a write".to_owned(),
        section(|c| &c.killed_node, |k| Some(k.longest_write_gap_ms)),
        time_ms,
        true,
    ));
    rows.push(row(
        "  requests definitely failed".to_owned(),
        section(|c| &c.killed_node, |k| Some((k.writes.failed + k.reads.failed) as f64)),
        |count| whole(count as u64),
        false,
    ));
    rows.push(row(
        "  writes ended unknown".to_owned(),
        section(|c| &c.killed_node, |k| Some(k.writes.unknown as f64)),
        |count| whole(count as u64),
        false,
    ));
    for (what, promised) in [("default level", true), ("local", false)] {
        rows.push(row(
            format!("reads that missed a write, {what}"),
            Box::new(move |contestant| missed(contestant, promised)),
            percent,
            false,
        ));
    }
    rows
}

fn loaded(
    action: Action,
    connections: usize,
    figure: fn(&Load) -> Option<f64>,
) -> Box<dyn Fn(&Contestant) -> Option<f64>> {
    section(|c| &c.throughput, move |t| t.load(action, connections).and_then(figure))
}

fn section<T: 'static>(
    which: fn(&Contestant) -> &Section<T>,
    figure: impl Fn(&T) -> Option<f64> + 'static,
) -> Box<dyn Fn(&Contestant) -> Option<f64>> {
    Box::new(move |contestant| which(contestant).figures().and_then(&figure))
}

/// The share of reads without any wait that missed the write: at the default level, or at `local`.
fn missed(contestant: &Contestant, default: bool) -> Option<f64> {
    let run = contestant.stale_reads.figures()?;
    let level = if default { contestant.default_level.as_str() } else { "local" };
    let points = || run.points.iter().filter(|point| point.level == level);
    if default {
        let (missed, reads) =
            points().fold((0, 0), |sum, point| (sum.0 + point.missed, sum.1 + point.reads));
        return (reads > 0).then(|| missed as f64 / reads as f64);
    }
    points().min_by_key(|point| point.delay_ms)?.share()
}

fn cells(row: &Row, contestants: &[Contestant]) -> Vec<String> {
    let figures: Vec<Option<f64>> = contestants.iter().map(&row.figure).collect();
    let mut cells = vec![row.name.clone()];
    cells.extend(figures.iter().map(|figure| figure.map_or("-".to_owned(), row.words)));
    if let [first, second] = figures.as_slice() {
        let both = first.zip(*second).filter(|_| row.ratio);
        let ratio = both.and_then(|(first, second)| super::words::ratio(first, second));
        cells.push(ratio.unwrap_or_default());
    }
    cells
}

/// A table of plain text; the first column is flush left, the others flush right.
fn table(head: &[String], rows: &[Vec<String>]) -> String {
    let all = || std::iter::once(head).chain(rows.iter().map(Vec::as_slice));
    let width = |column: usize| {
        all().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for (number, row) in all().enumerate() {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
        });
        text += cells.collect::<Vec<_>>().join("  ").trim_end();
        text.push('\n');
        if number == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text += &rules.join("  ");
            text.push('\n');
        }
    }
    text
}
