//! How often a read missed a write: one small chart a level, all on one scale.

use super::{Anchor, Canvas, Plot, both};
use crate::lab::report::words;
use crate::lab::results::StaleReads;

const CHART: f64 = 70.0;
const HEAD: f64 = 46.0;
const FOOT: f64 = 22.0;

/// Draws every level of every contestant (by number and name).
pub fn draw(runs: &[(usize, String, &StaleReads)]) -> Plot {
    let caption = "Reads that missed a write which had been acknowledged on another node: the share \
                   of all reads, by the time between the acknowledgement and the read.";
    both(caption, |canvas| draw_on(canvas, runs))
}

fn draw_on(canvas: &mut Canvas, runs: &[(usize, String, &StaleReads)]) {
    let shares = runs.iter().flat_map(|(_, _, run)| &run.points).filter_map(|point| point.share());
    // An axis that ends at one in a hundred keeps chance finds from looking like floods.
    let top = super::round_up(shares.fold(0.01, f64::max)).min(1.0);
    let columns = if canvas.is_narrow() { 1 } else { 2 };
    let width = canvas.width / columns as f64;
    let (mut column, mut y) = (0, 0.0);
    for (number, name, run) in runs {
        for level in run.levels() {
            let origin = (column as f64 * width, y);
            chart(canvas, Chart { number: *number, name, run, level, top }, origin, width - 24.0);
            column += 1;
            if column == columns {
                (column, y) = (0, y + HEAD + CHART + FOOT);
            }
        }
        // Each contestant begins on a line of its own.
        if column > 0 {
            (column, y) = (0, y + HEAD + CHART + FOOT);
        }
    }
    canvas.set_height(y + 2.0);
}

struct Chart<'a> {
    number: usize,
    name: &'a str,
    run: &'a StaleReads,
    level: &'a str,
    top: f64,
}

fn chart(canvas: &mut Canvas, chart: Chart<'_>, (left, top): (f64, f64), width: f64) {
    let points: Vec<_> = chart.run.points.iter().filter(|p| p.level == chart.level).collect();
    let promise = if points.iter().any(|point| point.promised) {
        "promised never to miss"
    } else {
        "may miss"
    };
    let title = format!("{} · {} ({promise})", chart.name, chart.level);
    canvas.text(left, top + 14.0, Anchor::Start, "", &title);
    let bottom = top + HEAD + CHART;
    canvas.line((left, bottom), (left + width, bottom), "axis");
    let step = width / points.len().max(1) as f64;
    for (place, point) in points.iter().enumerate() {
        let middle = left + step * (place as f64 + 0.5);
        let share = point.share();
        let height = CHART * share.unwrap_or(0.0) / chart.top;
        let thick = (step * 0.5).min(46.0);
        canvas.bar(chart.number, (middle - thick / 2.0, bottom - height), (thick, height));
        let label = share.map_or("no reads".to_owned(), words::percent);
        canvas.text(middle, bottom - height - 5.0, Anchor::Middle, "", &label);
        let unit = if place == 0 { " ms after" } else { " ms" };
        let label = format!("{}{unit}", point.delay_ms);
        canvas.text(middle, bottom + 15.0, Anchor::Middle, "soft", &label);
    }
}
