//! One section an experiment: what was done, the drawing, the figures.

use super::document::{Block, Table};
use super::plots::{bars, freshness, latency, timeline};
use super::summary::{most_connections, waited_for_the_node};
use super::words::{bytes, number, percent, time_ms, time_us, whole};
use crate::history::Action;
use crate::lab::results::{
    ContestantResults, KilledNode, Load, Results, Section, StaleReads, Throughput, WritesReturned,
};
use crate::types::Mode;

/// What stands in a table where there is no figure.
const ABSENT: &str = "not measured";

/// All sections.
pub fn blocks(results: &Results) -> Vec<Block> {
    let mut blocks = killed_node(results);
    blocks.extend(speed(results));
    blocks.extend(costs(results));
    blocks.extend(stale_reads(results));
    blocks.extend(checks(results));
    blocks
}

/// The figures of one experiment of all contestants, with their number and name, and a line for
/// each that has none.
fn figures_of<'a, T>(
    results: &'a Results,
    section: impl Fn(&'a ContestantResults) -> &'a Section<T>,
) -> (Vec<(usize, String, &'a T)>, Vec<Block>) {
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for (number, contestant) in results.contestants.iter().enumerate() {
        let section = section(contestant);
        if let Some(figures) = section.figures() {
            there.push((number, contestant.name.clone(), figures));
        } else if let Some(reason) = section.missing() {
            let lines = vec![format!("{}: no figures, {reason}.", contestant.name)];
            missing.push(Block::Banner { bad: true, lines });
        }
    }
    (there, missing)
}

fn heading(text: &str) -> Block {
    Block::Heading(text.to_owned())
}

fn text(text: String) -> Block {
    Block::Paragraph(text)
}

/// The name of a row, and its figure for each contestant.
type Row<'a, T> = (&'a str, &'a dyn Fn(&T) -> String);

/// A table whose columns are the contestants.
fn side_by_side<T>(runs: &[(usize, String, &T)], rows: &[Row<'_, T>]) -> Block {
    let mut head = vec![String::new()];
    head.extend(runs.iter().map(|(_, name, _)| name.clone()));
    let row = |(name, cell): &Row<'_, T>| {
        let mut cells = vec![(*name).to_owned()];
        cells.extend(runs.iter().map(|(_, _, run)| cell(run)));
        cells
    };
    Block::Table(Table { head, rows: rows.iter().map(row).collect(), prose: false })
}

fn killed_node(results: &Results) -> Vec<Block> {
    let (runs, missing) = figures_of(results, |contestant| &contestant.killed_node);
    let mut blocks = vec![heading("A node is killed while clients keep asking")];
    blocks.extend(missing);
    let Some((_, _, first)) = runs.first() else { return blocks };
    blocks.push(text(format!(
        "{} clients together sent {} requests a second, half writes and half reads, and kept to \
         that whatever happened. Then one process was killed without warning ({}) and later started again over its old data. A client gives up on a request \
         after {} and turns to the next node when its connection fails. Definitely failed means \
         that nothing happened and nothing will; unknown means that the write may or may not have \
         been done, which is the answer that costs an application most.",
        first.clients,
        number(first.rate_per_second),
        whom(results),
        time_ms(first.timeout_ms as f64)
    )));
    let named: Vec<(String, &KilledNode)> =
        runs.iter().map(|(_, name, run)| (name.clone(), *run)).collect();
    blocks.push(Block::Plot(timeline::draw(&named)));
    let waited = runs
        .iter()
        .filter_map(|(_, name, run)| Some(format!("{name}: {}.", waited_for_the_node(run)?)));
    let waited: Vec<String> = waited.collect();
    if !waited.is_empty() {
        blocks.push(Block::List(waited));
    }
    let ended = |counts: crate::lab::results::Counts| {
        format!(
            "{} done, {} failed, {} unknown",
            whole(counts.done),
            whole(counts.failed),
            whole(counts.unknown)
        )
    };
    blocks.push(side_by_side(
        &runs,
        &[
            ("First new write done, after the kill", &|run: &KilledNode| {
                run.first_write_ms.map_or("none".to_owned(), time_ms)
            }),
            ("Writes came back", &|run| {
                let came = match run.writes_returned() {
                    WritesReturned::WithoutTheNode => "without the node",
                    WritesReturned::WithTheNode => "only with the node",
                    WritesReturned::Never => "never",
                };
                came.to_owned()
            }),
            ("Longest time without a done write", &|run| time_ms(run.longest_write_gap_ms)),
            ("Longest time without a done read", &|run| time_ms(run.longest_read_gap_ms)),
            ("Longest time without a write before the kill", &|run| {
                time_ms(run.usual_write_gap_ms)
            }),
            ("Writes", &|run| ended(run.writes)),
            ("Reads", &|run| ended(run.reads)),
            ("Not sent, the last one still under way", &|run| whole(run.skipped)),
            ("Ready again, after its restart", &|run| {
                time_ms(run.ready_again_ms - run.restarted_ms)
            }),
        ],
    ));
    blocks
}

/// Which process is killed.
fn whom(results: &Results) -> &'static str {
    match &results.contestants[..] {
        [alone] if alone.contestant.mode == Mode::Leader => "the leader",
        [_] => "of any node, since none leads",
        _ => "the leader where there is one",
    }
}

fn speed(results: &Results) -> Vec<Block> {
    let (runs, missing) = figures_of(results, |contestant| &contestant.throughput);
    let mut blocks = vec![heading("How fast")];
    blocks.extend(missing);
    let Some((_, _, first)) = runs.first() else { return blocks };
    blocks.push(text(format!(
        "Values of {} B under {} keys, requests spread over all nodes, at {} default level. Every connection sends its next request once the last is answered: with one \
         connection the times are those of an unhurried cluster, with many those of a busy one. \
         The program that asks runs on the same {} cores as the nodes.",
        first.value_bytes,
        whole(first.keys as u64),
        if results.contestants.len() == 1 { "the mode's" } else { "each mode's" },
        results.machine.cores
    )));
    let groups = loads(&runs).into_iter().map(|(action, connections)| latency::Group {
        title: title(action, connections),
        rows: runs
            .iter()
            .filter_map(|(number, name, run)| {
                let latency = run.load(action, connections)?.latency?;
                Some((*number, name.clone(), latency))
            })
            .collect(),
    });
    blocks.push(Block::Plot(latency::draw(&groups.collect::<Vec<_>>())));
    let mut rows = Vec::new();
    for (action, connections) in loads(&runs) {
        for (_, name, run) in &runs {
            let Some(load) = run.load(action, connections) else { continue };
            rows.push(speed_row(&format!("{}, {name}", title(action, connections)), load));
        }
    }
    let head = ["", "a second", "p50", "p90", "p99", "p99.9", "slowest", "not done"];
    blocks.push(Block::Table(Table { head: head.map(str::to_owned).to_vec(), rows, prose: false }));
    blocks
}

fn speed_row(name: &str, load: &Load) -> Vec<String> {
    let mut row = vec![name.to_owned(), number(load.per_second)];
    match load.latency {
        Some(latency) => {
            let times =
                [latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us];
            row.extend(times.map(|time| time_us(time as f64)));
        }
        None => row.extend(std::iter::repeat_n(ABSENT.to_owned(), 5)),
    }
    row.push(whole(load.counts.failed + load.counts.unknown));
    row
}

/// Every load that any contestant ran, in order.
fn loads(runs: &[(usize, String, &Throughput)]) -> Vec<(Action, usize)> {
    let mut loads = Vec::new();
    for load in runs.iter().flat_map(|(_, _, run)| &run.loads) {
        let shape = (load.action, load.connections);
        if !loads.contains(&shape) {
            loads.push(shape);
        }
    }
    loads
}

fn title(action: Action, connections: usize) -> String {
    let what = if action == Action::Get { "Reads" } else { "Writes" };
    format!("{what}, {connections} at a time")
}

fn costs(results: &Results) -> Vec<Block> {
    let (runs, _) = figures_of(results, |contestant| &contestant.throughput);
    if runs.is_empty() {
        return Vec::new();
    }
    let many = most_connections(results);
    let mut blocks = vec![
        heading("What an operation costs"),
        text(format!(
            "All nodes together, for each operation done. These figures carry over to other \
             machines better than speeds do. CPU time comes from the kernel, in steps of {}. A \
             message is one request or answer between two nodes. Under load many operations share \
             a disk sync or a message, which is why there can be less than one of either for each.",
            time_us(results.machine.cpu_tick_us as f64)
        )),
    ];
    for action in [Action::Put, Action::Get] {
        let what = if action == Action::Get { "read" } else { "write" };
        let caption = format!("The cost of one {what}, with {many} at a time. Shorter is cheaper.");
        blocks.push(Block::Plot(bars::draw(&caption, &cost_groups(&runs, action, many))));
    }
    let mut rows = Vec::new();
    for (action, connections) in loads(&runs) {
        for (_, name, run) in &runs {
            let Some(load) = run.load(action, connections) else { continue };
            rows.push(cost_row(&format!("{}, {name}", title(action, connections)), load));
        }
    }
    let head = ["for each operation", "CPU", "disk syncs", "messages", "between nodes", "memory"];
    blocks.push(Block::Table(Table { head: head.map(str::to_owned).to_vec(), rows, prose: false }));
    blocks.push(idle(&runs));
    blocks
}

type Cost = (&'static str, fn(&Load) -> Option<f64>, fn(f64) -> String);

const COSTS: [Cost; 4] = [
    ("CPU", |load| load.cpu_us_per_op, time_us),
    ("disk syncs", |load| load.syncs_per_op, number),
    ("messages", |load| load.messages_per_op, number),
    ("bytes between nodes", |load| load.peer_bytes_per_op, bytes),
];

fn cost_groups(
    runs: &[(usize, String, &Throughput)],
    action: Action,
    connections: usize,
) -> Vec<bars::Group> {
    let group = |(title, cost, words): &Cost| {
        let rows = runs.iter().filter_map(|(place, name, run)| {
            let value = cost(run.load(action, connections)?)?;
            Some((*place, name.clone(), value, words(value)))
        });
        bars::Group { title: (*title).to_owned(), rows: rows.collect() }
    };
    COSTS.iter().map(group).filter(|group| !group.rows.is_empty()).collect()
}

fn cost_row(name: &str, load: &Load) -> Vec<String> {
    let mut row = vec![name.to_owned()];
    row.extend(COSTS.iter().map(|(_, cost, words)| cost(load).map_or(ABSENT.to_owned(), words)));
    row.push(load.resident_bytes.map_or(ABSENT.to_owned(), |resident| bytes(resident as f64)));
    row
}

fn idle(runs: &[(usize, String, &Throughput)]) -> Block {
    let figure = |cost: fn(&crate::lab::results::Idle) -> Option<f64>, words: fn(f64) -> String| {
        move |run: &Throughput| run.idle.as_ref().and_then(cost).map_or(ABSENT.to_owned(), words)
    };
    side_by_side(
        runs,
        &[
            ("CPU, a second of doing nothing", &figure(|idle| idle.cpu_us_per_second, time_us)),
            (
                "Messages, a second of doing nothing",
                &figure(|idle| idle.messages_per_second, number),
            ),
            (
                "Disk syncs, a second of doing nothing",
                &figure(|idle| idle.syncs_per_second, number),
            ),
            (
                "Between nodes, a second of doing nothing",
                &figure(|idle| idle.peer_bytes_per_second, bytes),
            ),
        ],
    )
}

fn stale_reads(results: &Results) -> Vec<Block> {
    let (runs, missing) = figures_of(results, |contestant| &contestant.stale_reads);
    let mut blocks = vec![heading("Does a read see what was just written?")];
    blocks.extend(missing);
    let Some((_, _, first)) = runs.first() else { return blocks };
    blocks.push(text(format!(
        "{} clients each wrote a key of their own through one node and, some time after the write \
         was acknowledged, read it through another. A read that shows less has missed the write. \
         Levels that are cheaper may miss; levels that promise not to must not, not even once.",
        first.readers
    )));
    blocks.push(Block::Plot(freshness::draw(&runs)));
    let rows = runs.iter().flat_map(|(_, name, run)| stale_rows(name, run)).collect();
    let head = ["", "promise", "waited", "reads", "missed", "share", "no verdict"];
    blocks.push(Block::Table(Table { head: head.map(str::to_owned).to_vec(), rows, prose: false }));
    blocks
}

fn stale_rows(name: &str, run: &StaleReads) -> Vec<Vec<String>> {
    let row = |point: &crate::lab::results::StalePoint| {
        vec![
            format!("{name}, {}, after {} ms", point.level, point.delay_ms),
            if point.promised { "never misses" } else { "may miss" }.to_owned(),
            point.real_delay_ms.map_or(ABSENT.to_owned(), time_ms),
            whole(point.reads),
            whole(point.missed),
            point.share().map_or(ABSENT.to_owned(), percent),
            whole(point.no_verdict),
        ]
    };
    run.points.iter().map(row).collect()
}

fn checks(results: &Results) -> Vec<Block> {
    let mut blocks = vec![
        heading("What was checked"),
        text(
            "Every answer of every experiment was recorded, and these were looked for in the whole \
             record. Promised means that finding one is a fault of the store; counted means that \
             the level allows it, and here is how often it happened."
                .to_owned(),
        ),
    ];
    let mut rows = Vec::new();
    for contestant in &results.contestants {
        for finding in sums(contestant) {
            let verdict = match (finding.promised, finding.found, finding.unverified) {
                (true, 0, 0) => "kept".to_owned(),
                (true, 0, unverified) => format!("{} could not be checked", whole(unverified)),
                (true, found, _) => format!("BROKEN: {}", whole(found)),
                (false, found, _) => format!("{} seen", whole(found)),
            };
            rows.push(vec![
                finding.looks_for.clone(),
                contestant.name.clone(),
                finding.level.clone(),
                if finding.promised { "promised never" } else { "counted" }.to_owned(),
                whole(finding.examined),
                verdict,
            ]);
        }
    }
    let head = ["looked for", "contestant", "level", "", "looked at", "found"];
    blocks.push(Block::Table(Table { head: head.map(str::to_owned).to_vec(), rows, prose: false }));
    blocks
}

/// The findings of all histories of a contestant, summed up by check and level.
fn sums(contestant: &ContestantResults) -> Vec<crate::check::Finding> {
    let mut sums: Vec<crate::check::Finding> = Vec::new();
    for finding in contestant.checked.iter().flat_map(|history| &history.findings) {
        match sums.iter_mut().find(|sum| sum.is_alike(finding)) {
            Some(sum) => sum.add(finding),
            None => sums.push(finding.clone()),
        }
    }
    sums
}
