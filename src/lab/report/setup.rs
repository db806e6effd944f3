//! How it was measured, on what, and what that does not show.

use std::collections::BTreeSet;

use super::document::{Block, Table};
use super::words::{bytes, number, time_us, when, whole};
use crate::lab::results::Results;
use crate::types::Mode;

/// The section on the setup, and the one on its limits.
pub fn blocks(results: &Results) -> Vec<Block> {
    let machine = &results.machine;
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let busy = machine.load_before.map_or("unknown".to_owned(), number);
    let alone = results.contestants.len() == 1;
    let for_each = if alone { "" } else { ", for each contestant" };
    let rows = vec![
        row("Quorate", results.quorate_version.clone()),
        row("Nodes", format!("{} processes on one machine{for_each}", results.nodes)),
        row("Table engine", format!("{}, of every node", results.engine)),
        row("Sync rule", sync_rule(results)),
        row("Data lay on", machine.data_filesystem.clone()),
        row("Processor", format!("{}, {} cores", machine.cpu, machine.cores)),
        row("Memory", bytes(machine.memory_bytes as f64)),
        row("Kernel", machine.kernel.clone()),
        row("Tasks that wanted a core in the minute before", busy),
        row("CPU time is counted in steps of", time_us(machine.cpu_tick_us as f64)),
        row("Seed", results.seed.to_string()),
        row("Form", if results.quick { "quick" } else { "full" }.to_owned()),
        row("Started", when(results.started_wall_ms)),
        row("Took", format!("{:.0} s", results.duration_s)),
    ];
    let head = vec![String::new(), "this run".to_owned()];
    let mut blocks = vec![
        Block::Heading("How this was measured".to_owned()),
        Block::Table(Table { head, rows, prose: true }),
        Block::Paragraph(match alone {
            true => "How the first node was started:".to_owned(),
            false => "How the first node of each contestant was started:".to_owned(),
        }),
    ];
    for contestant in &results.contestants {
        let command = contestant.command.clone();
        let command = command.unwrap_or_else(|| format!("{}: never started", contestant.name));
        blocks.push(Block::Code(command));
    }
    blocks.push(Block::Heading("What this does not show".to_owned()));
    blocks.push(Block::List(limits(results)));
    blocks.push(Block::Heading("The raw data".to_owned()));
    blocks.push(Block::List(files(results)));
    blocks
}

/// When the contestants acknowledge a write.
fn sync_rule(results: &Results) -> String {
    let of_each: BTreeSet<&str> = results
        .contestants
        .iter()
        .map(|c| match (c.contestant.mode, c.contestant.fixed_leader) {
            (Mode::Leader, None) => "of a majority (leader)",
            (Mode::Leader, Some(_)) => "of a majority, the leader's own first (fixed leader)",
            (Mode::Leaderless, _) => "of W replicas (leaderless)",
        })
        .collect();
    let of_each: Vec<&str> = of_each.into_iter().collect();
    format!(
        "a write is acknowledged once its record is synced to the commit logs {}",
        of_each.join(", or ")
    )
}

fn limits(results: &Results) -> Vec<String> {
    let order: Vec<&str> = results.contestants.iter().map(|c| c.name.as_str()).collect();
    let once = match &order[..] {
        [_] => "Each experiment ran once. There are no repeats, so small differences from another \
                run mean nothing."
            .to_owned(),
        _ => format!(
            "Each experiment ran once for each contestant, {}. There are no repeats, so small differences \
             mean nothing.",
            order.join(" first, then ")
        ),
    };
    let clocks = match results.contestants.iter().any(|c| c.contestant.mode == Mode::Leaderless) {
        true => {
            "All nodes read one machine's clock. Leaderless mode orders writes by clocks, and \
                 clocks that differ are where it loses writes."
        }
        false => "All nodes read one machine's clock.",
    };
    vec![
        once,
        "All nodes share one machine, its cores and its disk, with the program that asks. Messages \
         between nodes cost next to no time here; over a real network every round trip does."
            .to_owned(),
        format!(
            "Times are those of a machine that may have had other work: {} tasks wanted one of its \
             {} cores just before.",
            results.machine.load_before.map_or("an unknown number of".to_owned(), number),
            results.machine.cores
        ),
        "A killed process is not a lost power supply: what it had handed to the kernel stays."
            .to_owned(),
        clocks.to_owned(),
        "The checks find stale, lost and invented values; they do not prove linearizability."
            .to_owned(),
    ]
}

fn files(results: &Results) -> Vec<String> {
    let mut files = vec!["results.json: every figure of this page".to_owned()];
    for history in results.contestants.iter().flat_map(|contestant| &contestant.checked) {
        files.push(format!("{}: {} operations", history.file, whole(history.operations)));
    }
    files
}
