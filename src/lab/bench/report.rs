//! A bench in words: tables for the terminal, and the same as Markdown.

use std::path::Path;

use anyhow::Context as _;

use super::results::{
    Absent, BenchResults, Growth, Kills, Moved, Part, ReadBack, Restart, Restarts, Row, Snapshot,
    p99_us,
};
use crate::lab::report::document::{Block, Table};
use crate::lab::report::words::{bytes, count, number, time_ms, time_us, when, whole};
use crate::lab::report::{markdown, terminal as plain};
use crate::lab::stats::{Percentiles, nearest_rank};

/// What stands where there is no figure.
const ABSENT: &str = "-";
/// How many moments of a watched row are shown; all are in `bench.json`.
const MOST_SAMPLES: usize = 13;

/// The results for a terminal.
pub fn terminal(results: &BenchResults) -> String {
    let block = |block: Block| match block {
        Block::Table(table) => plain::table(&table.head, &table.rows) + "\n",
        Block::List(lines) => lines.iter().map(|line| format!("{line}\n")).collect(),
        Block::Heading(text) | Block::Paragraph(text) | Block::Code(text) => text + "\n",
        Block::Banner { lines, .. } => lines.iter().map(|line| format!("{line}\n")).collect(),
        Block::Plot(_) => String::new(),
    };
    blocks(results).into_iter().map(block).collect()
}

/// Writes `bench.json` and `bench.md`.
pub fn write(results: &BenchResults, out: &Path) -> anyhow::Result<()> {
    let write = |name: &str, text: String| {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("bench.json", serde_json::to_string_pretty(results)? + "\n")?;
    let mut page = Vec::new();
    if let Some(why) = &results.ended_early {
        let lines = vec![format!("Not all of it was measured: {why}")];
        page.push(Block::Banner { bad: true, lines });
    }
    page.extend(blocks(results));
    write("bench.md", markdown::render("Quorate: a bench", &page))
}

fn blocks(results: &BenchResults) -> Vec<Block> {
    let mut blocks = Vec::new();
    if !results.rows.is_empty() {
        let rows: Vec<&Row> = results.rows.iter().collect();
        blocks.extend(tables_of(&rows));
        blocks.extend(rows.iter().filter_map(|row| watched(row)));
    }
    for kills in &results.kills {
        blocks.extend(of_kills(kills));
    }
    for restarts in &results.restarts {
        blocks.extend(of_restarts(restarts));
    }
    for snapshot in &results.snapshots {
        blocks.extend(of_snapshot(snapshot));
    }
    for absent in &results.absences {
        blocks.extend(of_absence(absent));
    }
    for growth in &results.growths {
        blocks.extend(of_growth(growth));
    }
    blocks.push(Block::List(notes(results)));
    blocks
}

fn table(head: &[&str], rows: Vec<Vec<String>>) -> Block {
    let head = head.iter().map(|cell| (*cell).to_owned()).collect();
    Block::Table(Table { head, rows, prose: false })
}

fn tables_of(rows: &[&Row]) -> [Block; 2] {
    [
        table(
            &["", "a second", "p50", "p90", "p99", "p99.9", "max", "errors", "missed"],
            rows.iter().flat_map(|row| speeds(row)).collect(),
        ),
        table(
            &[
                "for each operation",
                "CPU",
                "syncs",
                "messages",
                "between nodes",
                "log",
                "client CPU",
                "peak memory",
            ],
            rows.iter().map(|row| costs(row)).collect(),
        ),
    ]
}

/// What a row measured, in words.
fn name(row: &Row) -> String {
    let Row { mode, mix, connections, .. } = row;
    let size = bytes(row.value_bytes as f64);
    // The mix of one level says so itself.
    let level = row.level.as_ref().filter(|level| !mix.starts_with(level.as_str()));
    let level = level.map_or(String::new(), |level| format!(" ({level})"));
    let pace = match row.rate_per_second {
        Some(rate) => format!("{} a second over {connections}", whole(rate)),
        None => format!("{connections} at a time"),
    };
    format!("{mode}, {mix}{level}, {size}, {pace}")
}

fn speeds(row: &Row) -> Vec<Vec<String>> {
    let undone = row.operations.failed + row.operations.unknown;
    let missed = if row.offered.is_some() { whole(row.missed) } else { ABSENT.to_owned() };
    let mut line = vec![name(row), number(row.per_second)];
    line.extend(latencies(row.latency));
    line.extend([whole(undone), missed]);
    let part = |(what, latency): (&str, Option<Percentiles>)| {
        let found = latency?;
        let mut line = vec![format!("  {what}"), number(found.count as f64 / row.seconds)];
        line.extend(latencies(Some(found)));
        line.extend([String::new(), String::new()]);
        Some(line)
    };
    let parts = [("writes", row.put_latency), ("reads", row.get_latency)];
    std::iter::once(line).chain(parts.into_iter().filter_map(part)).collect()
}

fn latencies(latency: Option<Percentiles>) -> [String; 5] {
    let cell = |time_us: fn(&Percentiles) -> u64| {
        latency.as_ref().map_or(ABSENT.to_owned(), |found| self::time_us(time_us(found) as f64))
    };
    [
        cell(|found| found.p50_us),
        cell(|found| found.p90_us),
        cell(|found| found.p99_us),
        cell(|found| found.p999_us),
        cell(|found| found.max_us),
    ]
}

fn costs(row: &Row) -> Vec<String> {
    let cell =
        |figure: Option<f64>, words: fn(f64) -> String| figure.map_or(ABSENT.to_owned(), words);
    vec![
        name(row),
        cell(row.costs.cpu_us, time_us),
        cell(row.costs.syncs, number),
        cell(row.costs.messages, number),
        cell(row.costs.peer_bytes, bytes),
        cell(row.costs.log_bytes, bytes),
        cell(row.client_cpu_us, time_us),
        cell(row.peak_resident_bytes.map(|peak| peak as f64), bytes),
    ]
}

/// Memory and disk use while a row was measured: some of the samples, evenly chosen, with both ends.
fn watched(row: &Row) -> Option<Block> {
    let last = row.samples.len().checked_sub(1)?;
    let shown = last.min(MOST_SAMPLES - 1);
    let line = |number: usize| {
        let sample = row.samples.get(number * last / shown.max(1))?;
        let figures = [sample.resident_bytes, sample.log_bytes, sample.table_bytes];
        let at = time_ms(sample.at_s * 1e3);
        Some(std::iter::once(at).chain(figures.map(|figure| bytes(figure as f64))).collect())
    };
    let name = name(row);
    Some(table(
        &[&name, "memory", "log on disk", "rest on disk"],
        (0..=shown).filter_map(line).collect(),
    ))
}

fn of_kills(kills: &Kills) -> Vec<Block> {
    let load = &kills.load;
    let line = |kill: &super::results::Kill| {
        vec![
            format!("{} {} {}", kills.victims, kill.node, kills.ended),
            kill.first_write_ms.map_or(ABSENT.to_owned(), time_ms),
            time_ms(kill.longest_gap_ms),
            time_ms(kill.ready_ms),
            whole(kill.failed),
            whole(kill.unknown),
        ]
    };
    let head =
        [kills.mode.as_str(), "first write", "longest gap", "ready again", "failed", "unknown"];
    let gap = kills.gap.map_or("no write was served again".to_owned(), |gap| {
        format!(
            "{}: p50 {}, p99 {}, max {} ({})",
            match kills.ended.as_str() {
                "stopped" => "longest time without a write once the node was asked to stop",
                "paused" => "until the first write after the node was paused",
                _ => "until the first write after the node was killed",
            },
            time_ms(gap.p50_ms),
            time_ms(gap.p99_ms),
            time_ms(gap.max_ms),
            count(gap.count as u64, "time")
        )
    });
    let mut lines = vec![gap];
    lines.extend(of_read_back(&kills.kept));
    let [speeds, _] = tables_of(&[load]);
    let rows = kills.kills.iter().map(line).collect();
    vec![table(&head, rows), Block::List(lines), speeds]
}

fn of_restarts(restarts: &Restarts) -> Vec<Block> {
    let line = |restart: &Restart| {
        let role = if restart.was_leader { "leader" } else { "node" };
        vec![
            format!("{role} {} {}", restart.node, restart.ended),
            time_ms(restart.ready_ms),
            time_ms(restart.first_read_ms),
        ]
    };
    let mut rows: Vec<Vec<String>> = restarts.restarts.iter().map(line).collect();
    rows.extend([("p50", 0.5), ("max", 1.0)].map(|(name, share)| {
        let at = |figure: fn(&Restart) -> f64| {
            let all: Vec<u64> =
                restarts.restarts.iter().map(|one| (figure(one) * 1e3) as u64).collect();
            let found = nearest_rank(&all, share);
            found.map_or(ABSENT.to_owned(), |found| time_us(found as f64))
        };
        vec![name.to_owned(), at(|one| one.ready_ms), at(|one| one.first_read_ms)]
    }));
    let first_read = format!("first {} read", restarts.level);
    let title = format!(
        "{}, {} keys of {}",
        restarts.mode,
        whole(restarts.keys as u64),
        bytes(restarts.value_bytes as f64)
    );
    vec![table(&[&title, "ready", &first_read], rows)]
}

fn of_snapshot(snapshot: &Snapshot) -> Vec<Block> {
    let what = format!(
        "node {} was sent a snapshot of {} keys of {}: installed {} after its start",
        snapshot.node,
        whole(snapshot.keys as u64),
        bytes(snapshot.value_bytes as f64),
        time_ms(snapshot.installed_ms)
    );
    of_parts(&snapshot.parts, what, snapshot.missed)
}

fn of_absence(absent: &Absent) -> Vec<Block> {
    let what = format!(
        "node {} was away while {} keys of {} were written: equal {} after its start",
        absent.node,
        whole(absent.writes as u64),
        bytes(absent.value_bytes as f64),
        time_ms(absent.equal_ms)
    );
    of_parts(&absent.parts, what, absent.missed)
}

fn of_growth(growth: &Growth) -> Vec<Block> {
    let parts =
        of_parts(&growth.parts, "two nodes joined, and left again".to_owned(), growth.missed);
    let line = |moved: &Moved| {
        let nodes: Vec<String> = moved.nodes.iter().map(ToString::to_string).collect();
        vec![
            format!("to nodes {}", nodes.join(", ")),
            format!("{} s", number(moved.seconds)),
            whole(moved.records),
            whole(moved.least_records),
            format!("{:.2} ×", moved.records as f64 / moved.least_records.max(1) as f64),
        ]
    };
    let title = format!(
        "{}, {} keys of {}",
        growth.mode,
        whole(growth.keys as u64),
        bytes(growth.value_bytes as f64)
    );
    let head = [&title, "took", "records sent", "the least", "ratio"];
    let moved = table(&head, growth.changes.iter().map(line).collect());
    [moved, Block::List(of_read_back(&growth.kept))].into_iter().chain(parts).collect()
}

/// What became of the acknowledged writes, and an empty line.
fn of_read_back(kept: &ReadBack) -> Vec<String> {
    let mut lines = vec![format!(
        "acknowledged writes: {}; of those lost: {}; keys that could not be read back: {}",
        whole(kept.acknowledged_writes),
        whole(kept.lost_writes),
        whole(kept.unread_keys)
    )];
    lines.extend(kept.examples.iter().map(|example| format!("  LOST: {example}")));
    lines.extend(kept.evidence.iter().map(|path| format!("  the nodes' data is kept in {path}")));
    lines.push(String::new());
    lines
}

/// The parts of a load while a node came back, and what it came back to.
fn of_parts(parts: &[Part], what: String, missed: u64) -> Vec<Block> {
    let line = |part: &Part| {
        let row = &part.row;
        let mut line = vec![part.name.clone(), format!("{} s", number(row.seconds))];
        line.push(number(row.per_second));
        line.extend(latencies(row.latency));
        line.push(whole(row.operations.failed + row.operations.unknown));
        line
    };
    let load = parts.first().map(|part| name(&part.row)).unwrap_or_default();
    let head = [&load, "length", "a second", "p50", "p90", "p99", "p99.9", "max", "errors"];
    let missed = format!("arrivals for which there was no room: {}", whole(missed));
    let mut lines = vec![what, missed];
    if let (Some(before), Some(during)) = (p99_us(parts, "before"), p99_us(parts, "while")) {
        let times = during as f64 / before.max(1) as f64;
        lines.push(format!("p99 while it got what it missed: {times:.1} times that before"));
    }
    lines.push(String::new());
    vec![table(&head, parts.iter().map(line).collect()), Block::List(lines)]
}

/// What a reader must know beside the figures.
fn notes(results: &BenchResults) -> Vec<String> {
    let (setup, machine) = (&results.setup, &results.machine);
    let mut notes = Vec::new();
    for row in results.rows.iter().chain(results.kills.iter().map(|kills| &kills.load)) {
        notes.extend(notes_of(row));
    }
    let late = results.rows.iter().chain(results.kills.iter().map(|kills| &kills.load));
    if let Some(late) = late.filter_map(|row| row.start_delay).map(|late| late.p99_us).max() {
        notes.push(format!(
            "Latency counts from when a request was to start; p99 of how late this program itself \
             started them: {}.",
            time_us(late as f64)
        ));
    }
    let loaded = if setup.loaded { ", all written first" } else { "" };
    let keys = format!("{} keys{loaded}", whole(setup.keys as u64));
    let whose = match &setup.engine {
        Some(engine) => format!("{}, {engine} engine", count(setup.nodes as u64, "node")),
        None => format!("nodes at {}", setup.targets.join(", ")),
    };
    let length = match results.rows.is_empty() {
        true => String::new(),
        false => {
            format!(", {} s a row after {} s", number(setup.duration_s), number(setup.warm_up_s))
        }
    };
    let settings = match setup.settings.is_empty() {
        true => String::new(),
        false => format!(", {}", setup.settings.join(", ")),
    };
    notes.push(format!("{whose}{settings}, {keys}{length}, seed {}.", results.seed));
    let busy = machine.load_before.map_or("unknown".to_owned(), number);
    let data = match setup.engine {
        Some(_) => format!("; data on {}", machine.data_filesystem),
        None => String::new(),
    };
    notes.push(format!(
        "Quorate {} on {} cores ({}){data}; load before {busy}; {}.",
        results.quorate_version,
        machine.cores,
        machine.cpu,
        when(results.started_wall_ms)
    ));
    if setup.engine.is_some() && machine.data_filesystem == "tmpfs" {
        notes.push("The data lay in memory: syncs cost nothing there. See --data-dir.".to_owned());
    }
    notes
}

fn notes_of(row: &Row) -> Vec<String> {
    let mut notes = Vec::new();
    let name = name(row);
    if !row.errors.is_empty() {
        let errors = row.errors.iter().map(|(code, count)| format!("{} {code}", whole(*count)));
        notes.push(format!("{name}: errors: {}", errors.collect::<Vec<_>>().join(", ")));
    }
    if row.not_found > 0 {
        let found_nothing = whole(row.not_found);
        notes.push(format!(
            "{name}: {found_nothing} reads found nothing; --load writes the keys first"
        ));
    }
    if let Some(elections) = row.elections.filter(|won| *won > 0) {
        let elections = count(elections, "election");
        notes.push(format!(
            "{name}: {elections} meanwhile: heartbeats came too late, or somebody asked for it"
        ));
    }
    if row.superseded > 0 {
        let superseded = whole(row.superseded);
        notes.push(format!("{name}: {superseded} acknowledged writes had lost to a newer version"));
    }
    notes
}

#[cfg(test)]
mod tests;
