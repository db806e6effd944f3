//! What clients were told while a node was killed and came back, contestants one above the other.

use super::{Anchor, Canvas, Plot, both, round_up};
use crate::lab::report::words;
use crate::lab::results::{Bucket, KilledNode};

const PANEL: f64 = 110.0;
const HEAD: f64 = 44.0;
const GAP: f64 = 20.0;
const LEFT: f64 = 40.0;
/// Room for half of the last label of the time axis.
const RIGHT: f64 = 12.0;
const KEY: f64 = 26.0;

/// Draws the timelines of `runs`, by contestant name, on one time axis.
pub fn draw(runs: &[(String, &KilledNode)]) -> Plot {
    let caption = "What clients were told, in slices of a tenth of a second: done, definitely \
                   failed, or unknown. The shaded part is the time without the killed node.";
    both(caption, |canvas| draw_on(canvas, runs))
}

fn draw_on(canvas: &mut Canvas, runs: &[(String, &KilledNode)]) {
    let span_ms = runs.iter().map(|(_, run)| run.buckets.len() as f64 * run.bucket_ms as f64);
    let span_ms = span_ms.fold(1.0, f64::max);
    let tallest = runs.iter().flat_map(|(_, run)| &run.buckets).map(total).max().unwrap_or(1);
    let scale =
        Scale { width: canvas.width - LEFT - RIGHT, span_ms, top: round_up(tallest as f64) };
    key(canvas);
    let mut y = KEY;
    for (name, run) in runs {
        panel(canvas, name, run, &scale, y + HEAD);
        y += HEAD + PANEL + GAP;
    }
    time_axis(canvas, &scale, y - GAP + 4.0);
    canvas.set_height(y + 14.0);
}

struct Scale {
    width: f64,
    span_ms: f64,
    top: f64,
}

impl Scale {
    fn x(&self, at_ms: f64) -> f64 {
        LEFT + self.width * (at_ms / self.span_ms).min(1.0)
    }

    fn height(&self, requests: u64) -> f64 {
        PANEL * requests as f64 / self.top
    }
}

fn total(bucket: &Bucket) -> u64 {
    bucket.done + bucket.failed + bucket.unknown
}

fn key(canvas: &mut Canvas) {
    let step = if canvas.is_narrow() { 90.0 } else { 150.0 };
    canvas.rect((0.0, 4.0), (14.0, 12.0), "done");
    canvas.text(20.0, 15.0, Anchor::Start, "", "done");
    canvas.patterned((step, 4.0), (14.0, 12.0), "failed");
    canvas.text(step + 20.0, 15.0, Anchor::Start, "", "failed");
    canvas.patterned((2.0 * step, 4.0), (14.0, 12.0), "unknown");
    canvas.text(2.0 * step + 20.0, 15.0, Anchor::Start, "", "unknown");
}

fn panel(canvas: &mut Canvas, name: &str, run: &KilledNode, scale: &Scale, top: f64) {
    let bottom = top + PANEL;
    let title = format!(
        "{name}: longest time without a write {}",
        words::time_ms(run.longest_write_gap_ms)
    );
    canvas.text(0.0, top - 26.0, Anchor::Start, "", &title);
    let (killed, back) = (scale.x(run.killed_ms), scale.x(run.ready_again_ms));
    canvas.rect((killed, top), (back - killed, PANEL), "down");
    canvas.line((LEFT, bottom), (LEFT + scale.width, bottom), "axis");
    canvas.line((LEFT, top), (LEFT + scale.width, top), "axis");
    canvas.text(LEFT - 5.0, top + 5.0, Anchor::End, "soft", &words::number(scale.top));
    canvas.text(LEFT - 5.0, bottom + 4.0, Anchor::End, "soft", "0");
    let slice = scale.width * run.bucket_ms as f64 / scale.span_ms;
    for (number, bucket) in run.buckets.iter().enumerate() {
        let x = scale.x(number as f64 * run.bucket_ms as f64);
        let mut y = bottom;
        let size = |requests: u64| ((slice - 0.6).max(0.8), scale.height(requests));
        y -= scale.height(bucket.done);
        canvas.rect((x, y), size(bucket.done), "done");
        y -= scale.height(bucket.failed);
        canvas.patterned((x, y), size(bucket.failed), "failed");
        y -= scale.height(bucket.unknown);
        canvas.patterned((x, y), size(bucket.unknown), "unknown");
    }
    let whom = if run.was_leader { "leader killed" } else { "node killed" };
    for (at, label) in [(killed, whom), (scale.x(run.restarted_ms), "restarted")] {
        canvas.line((at, top - 6.0), (at, bottom), "mark");
        canvas.text(at, top - 9.0, Anchor::Middle, "", label);
    }
}

fn time_axis(canvas: &mut Canvas, scale: &Scale, y: f64) {
    let seconds = scale.span_ms / 1e3;
    let every = if canvas.is_narrow() { (seconds / 5.0).ceil() } else { (seconds / 14.0).ceil() };
    let mut at = 0.0;
    while at <= seconds {
        let label = if at == 0.0 { "0 s".to_owned() } else { format!("{at:.0}") };
        canvas.text(scale.x(at * 1e3), y + 12.0, Anchor::Middle, "soft", &label);
        at += every.max(1.0);
    }
}
