//! Latencies on a logarithmic scale: the middle request, and the slowest of a hundred.

use super::{Anchor, Canvas, Plot, both, class};
use crate::lab::report::words;
use crate::lab::stats::Percentiles;

const ROW: f64 = 24.0;
const HEAD: f64 = 26.0;
const FOOT: f64 = 24.0;

/// What was measured of each contestant (by number) under one load.
pub struct Group {
    pub title: String,
    pub rows: Vec<(usize, String, Percentiles)>,
}

/// Draws one line a contestant for each load.
pub fn draw(groups: &[Group]) -> Plot {
    let caption = "How long requests took, on a scale where each step is ten times the last: the \
                   line runs from the middle request (p50, the mark) to the slowest of a hundred \
                   (p99, the bar at the end). Further left is faster.";
    both(caption, |canvas| draw_on(canvas, groups))
}

fn draw_on(canvas: &mut Canvas, groups: &[Group]) {
    let all = || groups.iter().flat_map(|group| &group.rows).map(|(_, _, latency)| latency);
    let low = all().map(|latency| latency.p50_us.max(1)).min().unwrap_or(1) as f64;
    let high = all().map(|latency| latency.p99_us).max().unwrap_or(10).max(10) as f64;
    let (from, to) = (low.log10().floor(), high.log10().ceil().max(low.log10().floor() + 1.0));
    let left = if canvas.is_narrow() { 6.0 } else { 110.0 };
    let right = if canvas.is_narrow() { 6.0 } else { 170.0 };
    let width = canvas.width - left - right;
    let x = |time_us: f64| left + width * (time_us.max(1.0).log10() - from) / (to - from);
    let row = if canvas.is_narrow() { ROW * 1.6 } else { ROW };
    let rows = |group: &Group| group.rows.len() as f64;
    let bottom: f64 = groups.iter().map(|group| HEAD + row * rows(group)).sum();
    let mut power = from;
    while power <= to {
        let at = x(10f64.powf(power));
        canvas.line((at, 4.0), (at, bottom + 4.0), "axis");
        let anchor = match power {
            first if first == from => Anchor::Start,
            last if last == to => Anchor::End,
            _ => Anchor::Middle,
        };
        let label = words::time_us(10f64.powf(power));
        canvas.text(at, bottom + 18.0, anchor, "soft", &label);
        power += 1.0;
    }
    let mut y = 0.0;
    for group in groups {
        canvas.text(0.0, y + 18.0, Anchor::Start, "", &group.title);
        y += HEAD;
        for (number, name, latency) in &group.rows {
            let (p50, p99) = (x(latency.p50_us as f64), x(latency.p99_us as f64));
            let label = format!(
                "{} · {}",
                words::time_us(latency.p50_us as f64),
                words::time_us(latency.p99_us as f64)
            );
            let mut middle = y + row / 2.0;
            if canvas.is_narrow() {
                canvas.text(left, y + 14.0, Anchor::Start, "soft", &format!("{name}: {label}"));
                middle = y + row - 10.0;
            } else {
                canvas.text(left - 8.0, middle + 4.0, Anchor::End, "soft", name);
                canvas.text(canvas.width, middle + 4.0, Anchor::End, "", &label);
            }
            canvas.rect((p50, middle - 1.5), (p99 - p50, 3.0), class(*number));
            canvas.rect((p99 - 1.5, middle - 7.0), (3.0, 14.0), class(*number));
            canvas.dot(*number, (p50, middle));
            y += row;
        }
    }
    canvas.set_height(bottom + FOOT);
}
