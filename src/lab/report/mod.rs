//! The report: what was found, for someone who never read a paper on consensus.
//!
//! One document is built from the results and rendered as `report.html` and `report.md`;
//! `results.json` holds the figures themselves, and the terminal gets a short table. Every number
//! comes from the results. What could not be measured is said, with its reason.

pub(in crate::lab) mod document;
mod html;
pub(in crate::lab) mod markdown;
mod plots;
mod sections;
mod setup;
mod summary;
pub mod terminal;
#[cfg(test)]
mod tests;
pub(in crate::lab) mod words;

use std::path::Path;

use anyhow::Context as _;

use super::results::{ContestantResults, Results, Verdict};
use document::Block;

/// Writes `report.html`, `report.md` and `results.json` into `out`.
pub fn write(results: &Results, out: &Path) -> anyhow::Result<()> {
    let (title, blocks) = (title(results), document(results));
    let write = |name: &str, text: String| {
        let path = out.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("report.html", html::render(&title, &blocks))?;
    write("report.md", markdown::render(&title, &blocks))?;
    write("results.json", serde_json::to_string_pretty(results)? + "\n")
}

fn title(results: &Results) -> String {
    let names: Vec<&str> = results.contestants.iter().map(|c| c.name.as_str()).collect();
    format!("Quorate, measured and checked: {}", names.join(", "))
}

fn document(results: &Results) -> Vec<Block> {
    let mut blocks = vec![Block::Paragraph(introduction(results))];
    blocks.push(banner(results));
    blocks.extend(summary::blocks(results));
    blocks.extend(sections::blocks(results));
    blocks.extend(setup::blocks(results));
    blocks
}

fn introduction(results: &Results) -> String {
    if let [alone] = &results.contestants[..] {
        return format!(
            "The store, run {} ({}), under loads and with a fault: what it costs, and what it gives.",
            alone.contestant.introduction(),
            alone.name
        );
    }
    let once = |c: &ContestantResults| format!("once {} ({})", c.contestant.introduction(), c.name);
    let each: Vec<String> = results.contestants.iter().map(once).collect();
    format!(
        "The same store, {}. Same program, same disk, same loads, same fault, same seed. What each \
         costs, and what each gives:",
        each.join("; ")
    )
}

fn banner(results: &Results) -> Block {
    match results.verdict() {
        Verdict::Kept => {
            let checked: u64 =
                results.contestants.iter().flat_map(|c| &c.checked).map(|h| h.operations).sum();
            let lines = vec![format!(
                "No promise was broken: {} operations were recorded and checked.",
                words::whole(checked)
            )];
            Block::Banner { bad: false, lines }
        }
        Verdict::Broken(reasons) => {
            let mut lines = vec!["Promises were broken:".to_owned()];
            lines.extend(reasons);
            Block::Banner { bad: true, lines }
        }
        Verdict::Unknown(reasons) => {
            let mut lines =
                vec!["No promise was seen broken, but not everything could be checked:".to_owned()];
            lines.extend(reasons);
            Block::Banner { bad: true, lines }
        }
    }
}
