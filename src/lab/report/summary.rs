//! The first screen: what it costs, what it gives, a sentence a row.

use super::document::{Block, Table};
use super::words::{bytes, count, number, percent, rate, ratio, time_ms, time_us, whole};
use crate::history::Action;
use crate::lab::results::{Contestant, KilledNode, Load, Results, Section, StaleReads};
use crate::types::Mode;

/// The most connections that were used: the load that shows what a cluster can take.
pub fn most_connections(results: &Results) -> usize {
    let loads = results.contestants.iter().filter_map(|c| c.throughput.figures());
    loads.flat_map(|figures| &figures.loads).map(|load| load.connections).max().unwrap_or(1)
}

/// The name of a contestant with the level of its plain requests.
pub fn heading(contestant: &Contestant) -> String {
    let level = contestant.served_level.as_ref().unwrap_or(&contestant.default_level);
    format!("{} ({level})", contestant.name)
}

/// The table, and what must be read with it.
pub fn blocks(results: &Results) -> Vec<Block> {
    let many = most_connections(results);
    let mut head = vec![String::new()];
    head.extend(results.contestants.iter().map(heading));
    let row = |name: String, cell: &dyn Fn(&Contestant) -> String| {
        let mut cells = vec![name];
        cells.extend(results.contestants.iter().map(cell));
        cells
    };
    let load = |action, connections| {
        move |c: &Contestant| with(&c.throughput, |t| t.load(action, connections).map(speed))
    };
    let cost =
        |action| move |c: &Contestant| with(&c.throughput, |t| t.load(action, many).map(costs));
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
    blocks.push(Block::Paragraph(
        "The columns do not promise the same: linearizable is the stronger guarantee, and quorum \
         is not linearizable. A figure says what its own guarantee costs."
            .to_owned(),
    ));
    blocks
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

fn promise(contestant: &Contestant) -> String {
    match contestant.mode {
        Mode::Leader => "The newest acknowledged write, whichever node is asked: reads and writes \
                         behave as if there were one copy (linearizable). Conditional writes work."
            .to_owned(),
        Mode::Leaderless => "Every write acknowledged before the read began, or a newer version, \
                             by the nodes' clocks. Not linearizable: a write through a node whose \
                             clock is behind can lose to an older one, and conditional writes are \
                             not offered."
            .to_owned(),
    }
}

fn outage(run: &KilledNode) -> String {
    let whom = if run.was_leader { "The leader" } else { "One node" };
    let (failed, unknown) =
        (run.writes.failed + run.reads.failed, run.writes.unknown + run.reads.unknown);
    let first = match run.first_write_ms {
        Some(first_ms) => {
            format!("the first new write was done {} after the kill", time_ms(first_ms))
        }
        None => "no new write was ever done after the kill".to_owned(),
    };
    format!(
        "{whom} (node {}) was killed: {first}, and the longest time without a done write was {} \
         ({} before the kill). {} failed definitely, {} ended unknown.",
        run.node,
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

fn kept(contestant: &Contestant) -> String {
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
    match (contestant.mode, superseded) {
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

/// The two or three differences that matter most, in one paragraph.
fn in_short(results: &Results, many: usize) -> String {
    let [first, second, ..] = results.contestants.as_slice() else { return String::new() };
    let mut sentences = Vec::new();
    let gaps = (first.killed_node.figures(), second.killed_node.figures());
    if let (Some(one), Some(other)) = gaps {
        sentences.push(format!(
            "When a node died, writes paused for {} in {} mode and {} in {} mode.",
            time_ms(one.longest_write_gap_ms),
            first.name,
            time_ms(other.longest_write_gap_ms),
            second.name
        ));
    }
    let compared = |action: Action, what: &str| {
        let per_second = |contestant: &Contestant| {
            let load = contestant.throughput.figures()?.load(action, many)?;
            (load.per_second > 0.0).then_some(load.per_second)
        };
        let (one, other) = (per_second(first)?, per_second(second)?);
        let ratio = ratio(one, other)?;
        Some(format!(
            "With {} {what} at a time, {} mode did {ratio} as many as {} mode.",
            many, second.name, first.name
        ))
    };
    sentences.extend(compared(Action::Put, "writes"));
    sentences.extend(compared(Action::Get, "plain reads"));
    if sentences.is_empty() { String::new() } else { format!("In short: {}", sentences.join(" ")) }
}
