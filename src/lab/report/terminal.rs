//! The table that a comparison ends with.

use std::fmt::Write as _;
use std::path::Path;

use super::summary::{heading, most_connections, promises_differ, waited_for_the_node};
use super::words::{bytes, number, percent, time_ms, time_us, whole};
use crate::history::Action;
use crate::lab::results::{ContestantResults, KilledNode, Load, Results, Verdict};

/// How a figure is found; `None` where there is none.
type Figure = Box<dyn Fn(&ContestantResults) -> Option<f64>>;

/// What a figure is, how it is found, and how it is written.
struct Row {
    name: String,
    figure: Figure,
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
    text.push('\n');
    if promises_differ(results) {
        text += "The columns do not promise the same: quorum is not linearizable.\n";
    }
    for contestant in &results.contestants {
        let waited = contestant.killed_node.figures().and_then(waited_for_the_node);
        if let Some(waited) = waited {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}, killed-node: {waited}.", contestant.name);
        }
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

fn missing(contestant: &ContestantResults) -> Vec<(&'static str, String)> {
    let sections = [
        ("throughput", contestant.throughput.missing()),
        ("killed-node", contestant.killed_node.missing()),
        ("stale-reads", contestant.stale_reads.missing()),
    ];
    sections.into_iter().filter_map(|(what, why)| Some((what, why?))).collect()
}

fn rows(many: usize) -> Vec<Row> {
    let mut rows = load_rows(Action::Put, "put", many);
    rows.extend(load_rows(Action::Get, "get", many));
    let requests: fn(f64) -> String = |count| whole(count as u64);
    let killed = |name: &str, figure: fn(&KilledNode) -> f64, words, ratio| Row {
        name: name.to_owned(),
        figure: Box::new(move |c| c.killed_node.figures().map(figure)),
        words,
        ratio,
    };
    rows.extend([
        killed(
            "a node killed: longest time without a write",
            |run| run.longest_write_gap_ms,
            time_ms,
            true,
        ),
        killed(
            "  requests definitely failed",
            |run| (run.writes.failed + run.reads.failed) as f64,
            requests,
            false,
        ),
        killed("  writes ended unknown", |run| run.writes.unknown as f64, requests, false),
    ]);
    for (what, default) in [("default level", true), ("local, sent at once", false)] {
        rows.push(Row {
            name: format!("reads that missed a write, {what}"),
            figure: Box::new(move |contestant| missed(contestant, default)),
            words: percent,
            ratio: false,
        });
    }
    rows
}

fn load_rows(action: Action, what: &str, many: usize) -> Vec<Row> {
    let row = |name: String, connections, figure: fn(&Load) -> Option<f64>, words| Row {
        name,
        figure: Box::new(move |contestant: &ContestantResults| {
            contestant.throughput.figures()?.load(action, connections).and_then(figure)
        }),
        words,
        ratio: true,
    };
    let median = |load: &Load| load.latency.map(|latency| latency.p50_us as f64);
    let slow = |load: &Load| load.latency.map(|latency| latency.p99_us as f64);
    vec![
        row(format!("{what}, 1 at a time: p50"), 1, median, time_us as fn(f64) -> String),
        row(format!("{what}, {many} at a time: a second"), many, |l| Some(l.per_second), number),
        row(format!("{what}, {many} at a time: p99"), many, slow, time_us),
        row(format!("  CPU for each {what}"), many, |l| l.cpu_us_per_op, time_us),
        row(format!("  disk syncs for each {what}"), many, |l| l.syncs_per_op, number),
        row(format!("  messages for each {what}"), many, |l| l.messages_per_op, number),
        row(format!("  sent between nodes for each {what}"), many, |l| l.peer_bytes_per_op, bytes),
    ]
}

/// The share of reads that missed the write: of all at the default level, or of those sent at once
/// at `local`.
fn missed(contestant: &ContestantResults, default: bool) -> Option<f64> {
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

fn cells(row: &Row, contestants: &[ContestantResults]) -> Vec<String> {
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
pub(in crate::lab) fn table(head: &[String], rows: &[Vec<String>]) -> String {
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
