//! The first screen: what it costs, what it gives, a sentence a row.

use super::document::{Block, Table};
use super::words::{bytes, count, number, percent, rate, ratio, time_ms, time_us, whole};
use crate::history::Action;
use crate::lab::results::{
    ContestantResults, KilledNode, Load, Results, Section, StaleReads, WritesReturned,
};
use crate::types::Mode;

/// The most connections that were used: the load that shows what a cluster can take.
pub fn most_connections(results: &Results) -> usize {
    let loads = results.contestants.iter().filter_map(|c| c.throughput.figures());
    loads.flat_map(|figures| &figures.loads).map(|load| load.connections).max().unwrap_or(1)
}

/// The name of a contestant with the level of its plain requests.
pub fn heading(contestant: &ContestantResults) -> String {
    let level = contestant.served_level.as_ref().unwrap_or(&contestant.default_level);
    format!("{} ({level})", contestant.name)
}

/// The table, and what must be read with it.
pub fn blocks(results: &Results) -> Vec<Block> {
    let many = most_connections(results);
    let mut head = vec![String::new()];
    head.extend(results.contestants.iter().map(heading));
    let row = |name: String, cell: &dyn Fn(&ContestantResults) -> String| {
        let mut cells = vec![name];
        cells.extend(results.contestants.iter().map(cell));
        cells
    };
    let load = |action, connections| {
        move |c: &ContestantResults| with(&c.throughput, |t| t.load(action, connections).map(speed))
    };
    let cost = |action| {
        move |c: &ContestantResults| with(&c.throughput, |t| t.load(action, many).map(costs))
    };
    let mut rows = vec![
        row("What a plain read promises".to_owned(), &promise),
        row("A node is killed".to_owned(), &|c| with(&c.killed_node, |k| Some(outage(k)))),
        row("A read elsewhere, right after a write".to_owned(), &|c| {
            with(&c.stale_reads, |s| Some(freshness(s)))
        }),
        row("Acknowledged writes kept".to_owned(), &kept),
        row("Writes, one at a time".to_owned(), &load(Action::Put, 1)),
        row("Reads, one at a time".to_owned(), &load(Action::Get, 1)),
    ];
    if many > 1 {
        rows.push(row(format!("Writes, {many} at a time"), &load(Action::Put, many)));
        rows.push(row(format!("Reads, {many} at a time"), &load(Action::Get, many)));
    }
    rows.extend([
        row("What a write costs all nodes".to_owned(), &cost(Action::Put)),
        row("What a read costs all nodes".to_owned(), &cost(Action::Get)),
        row("What doing nothing costs".to_owned(), &|c| {
            with(&c.throughput, |t| t.idle.as_ref().map(idle))
        }),
    ]);
    let mut blocks = Vec::new();
    let short = in_short(results, many);
    if !short.is_empty() {
        blocks.push(Block::Paragraph(short));
    }
    blocks.push(Block::Table(Table { head, rows, prose: true }));
    if promises_differ(results) {
        blocks.push(Block::Paragraph(
            "The columns do not promise the same: linearizable is the stronger guarantee, and \
             quorum is not linearizable. A figure says what its own guarantee costs."
                .to_owned(),
        ));
    }
    blocks
}

/// Whether both modes are among the contestants.
pub fn promises_differ(results: &Results) -> bool {
    let mut modes = results.contestants.iter().map(|c| c.contestant.mode);
    let first = modes.next();
    modes.any(|mode| Some(mode) != first)
}

fn with<T>(section: &Section<T>, cell: impl Fn(&T) -> Option<String>) -> String {
    match section.missing() {
        Some(reason) => format!("Not measured: {reason}."),
        None => section
            .figures()
            .and_then(cell)
            .unwrap_or_else(|| "Not measured: the experiment left no such figure.".to_owned()),
    }
}

fn promise(contestant: &ContestantResults) -> String {
    let promise = match contestant.contestant.mode {
        Mode::Leader => {
            "The newest acknowledged write, whichever node is asked: reads and writes behave as if \
             there were one copy (linearizable). Conditional writes work."
        }
        Mode::Leaderless => {
            "Every write acknowledged before the read began, or a newer version, by the nodes' \
             clocks. Not linearizable: a write through a node whose clock is behind can lose to an \
             older one, and conditional writes are not offered."
        }
    };
    match contestant.contestant.fixed_leader {
        Some(id) => format!(
            "{promise} While node {id} is down, which alone may lead, there are no such reads, and no \
                          writes."
        ),
        None => promise.to_owned(),
    }
}

/// What the report says where a cluster could not write without the node that was killed.
pub fn waited_for_the_node(run: &KilledNode) -> Option<String> {
    match run.writes_returned() {
        WritesReturned::WithoutTheNode => None,
        WritesReturned::Never => {
            Some("writes did not come back, not even once the node was back".to_owned())
        }
        WritesReturned::WithTheNode => {
            let first_ms = run.killed_ms + run.first_write_ms? - run.restarted_ms;
            Some(format!(
                "writes did not come back until the node did: of those asked for after the kill none was \
                 done in the {} until it was started again, and the first {} after that",
                time_ms(run.restarted_ms - run.killed_ms),
                time_ms(first_ms)
            ))
        }
    }
}

fn outage(run: &KilledNode) -> String {
    let whom = if run.was_leader { "The leader" } else { "One node" };
    let (failed, unknown) =
        (run.writes.failed + run.reads.failed, run.writes.unknown + run.reads.unknown);
    let first = waited_for_the_node(run).unwrap_or_else(|| {
        let first = run.first_write_ms.map_or("never".to_owned(), time_ms);
        format!("the first new write was done {first} after the kill")
    });
    format!(
        "{whom} (node {}) was killed. {}; the longest time without a done write was {} ({} before \
         the kill). {} failed definitely, {} ended unknown.",
        run.node,
        capital(&first),
        time_ms(run.longest_write_gap_ms),
        time_ms(run.usual_write_gap_ms),
        capital(&count(failed, "request")),
        count(unknown, "write"),
    )
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

fn freshness(run: &StaleReads) -> String {
    let sentences = run.levels().into_iter().map(|level| {
        let points = || run.points.iter().filter(move |point| point.level == level);
        let missed: u64 = points().map(|point| point.missed).sum();
        let reads: u64 = points().map(|point| point.reads).sum();
        if missed == 0 {
            return format!("At {level}, none of {} missed it.", count(reads, "read"));
        }
        let soonest = points().min_by_key(|point| point.delay_ms);
        let at_once = soonest.and_then(|point| point.share()).unwrap_or(0.0);
        let latest = points().filter(|point| point.missed > 0).map(|point| point.delay_ms).max();
        let later = match latest {
            Some(latest_ms) if latest_ms > 0 => {
                format!("; the last to miss it came {latest_ms} ms after the write")
            }
            _ => "; none of those sent later".to_owned(),
        };
        format!(
            "At {level}, {} of {} missed it ({} of those sent at once{later}).",
            whole(missed),
            count(reads, "read"),
            percent(at_once),
        )
    });
    sentences.collect::<Vec<_>>().join(" ")
}

fn kept(contestant: &ContestantResults) -> String {
    if contestant.checked.is_empty() {
        return "Not measured: no experiment came to its end.".to_owned();
    }
    let histories = || contestant.checked.iter();
    let writes: u64 = histories().map(|history| history.acknowledged_writes).sum();
    let superseded: u64 = histories().map(|history| history.superseded_writes).sum();
    let lost =
        || histories().flat_map(|history| &history.findings).filter(|f| f.check == "lost-write");
    let found: u64 = lost().map(|finding| finding.found).sum();
    let unverified: u64 = lost().map(|finding| finding.unverified).sum();
    let mut text = match found {
        0 => format!("Of {} acknowledged writes no key had lost its newest.", whole(writes)),
        found => format!(
            "BROKEN: {} at the end showed less than an acknowledged write.",
            count(found, "read")
        ),
    };
    if unverified > 0 {
        text += &format!(" {} could not be read back.", capital(&count(unverified, "key")));
    }
    match (contestant.contestant.mode, superseded) {
        (Mode::Leader, _) => {}
        (Mode::Leaderless, 0) => text += " None had lost to a newer write when acknowledged.",
        (Mode::Leaderless, superseded) => {
            text += &format!(
                " {} had already lost to a newer write of the same key when acknowledged, and the \
                 client was told so.",
                count(superseded, "write")
            );
        }
    }
    text
}

fn speed(load: &Load) -> String {
    let Some(latency) = load.latency else {
        return "Nothing was done.".to_owned();
    };
    let bad = load.counts.failed + load.counts.unknown;
    let bad = if bad > 0 { format!(" {} not done.", count(bad, "request")) } else { String::new() };
    format!(
        "{}; half were done within {}, 99 of 100 within {}.{bad}",
        capital(&rate(load.per_second)),
        time_us(latency.p50_us as f64),
        time_us(latency.p99_us as f64)
    )
}

fn costs(load: &Load) -> String {
    let part = |figure: Option<f64>, words: &dyn Fn(f64) -> String| figure.map(words);
    let parts = [
        part(load.cpu_us_per_op, &|cpu| format!("{} of CPU", time_us(cpu))),
        part(load.syncs_per_op, &|syncs| format!("{} disk syncs", number(syncs))),
        part(load.messages_per_op, &|messages| format!("{} messages", number(messages))),
        part(load.peer_bytes_per_op, &|sent| format!("{} between nodes", bytes(sent))),
    ];
    let known: Vec<String> = parts.into_iter().flatten().collect();
    if known.is_empty() { "Not measured.".to_owned() } else { format!("{}.", known.join(", ")) }
}

fn idle(idle: &crate::lab::results::Idle) -> String {
    let parts = [
        idle.cpu_us_per_second.map(|cpu| format!("{} of CPU", time_us(cpu))),
        idle.messages_per_second.map(|messages| format!("{} messages", number(messages))),
        idle.syncs_per_second.map(|syncs| format!("{} disk syncs", number(syncs))),
    ];
    let known: Vec<String> = parts.into_iter().flatten().collect();
    format!("{} a second, all nodes together.", known.join(", "))
}

/// The two or three differences that matter most, each contestant beside the first, in one
/// paragraph.
fn in_short(results: &Results, many: usize) -> String {
    let Some((first, others)) = results.contestants.split_first() else { return String::new() };
    let mut sentences = Vec::new();
    if !others.is_empty() {
        sentences.extend(pauses(&results.contestants));
    }
    for (action, what) in [(Action::Put, "writes"), (Action::Get, "plain reads")] {
        sentences
            .extend(others.iter().filter_map(|other| compared(first, other, action, many, what)));
    }
    if sentences.is_empty() { String::new() } else { format!("In short: {}", sentences.join(" ")) }
}

/// How long writes paused in each contestant; nothing where that is not known of all.
fn pauses(contestants: &[ContestantResults]) -> Option<String> {
    let pause = |contestant: &ContestantResults| {
        let run = contestant.killed_node.figures()?;
        let paused = time_ms(run.longest_write_gap_ms);
        let waited = match run.writes_returned() {
            WritesReturned::WithoutTheNode => "",
            WritesReturned::WithTheNode => ", until that node was back",
            WritesReturned::Never => ", and did not come back",
        };
        Some(format!("for {paused} in {}{waited}", contestant.contestant.in_words()))
    };
    let all = contestants.iter().map(pause).collect::<Option<Vec<_>>>()?;
    Some(format!("When a node died, writes paused {}.", all.join("; ")))
}

fn compared(
    first: &ContestantResults,
    other: &ContestantResults,
    action: Action,
    many: usize,
    what: &str,
) -> Option<String> {
    let per_second = |contestant: &ContestantResults| {
        let load = contestant.throughput.figures()?.load(action, many)?;
        (load.per_second > 0.0).then_some(load.per_second)
    };
    let ratio = ratio(per_second(first)?, per_second(other)?)?;
    let (first, other) = (first.contestant.in_words(), other.contestant.in_words());
    Some(format!("With {many} {what} at a time, {other} did {ratio} as many as {first}."))
}
