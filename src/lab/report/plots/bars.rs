//! Costs side by side: one group of bars a cost, each group on a scale of its own.

use super::{Anchor, Canvas, Plot, both};

const ROW: f64 = 20.0;
const HEAD: f64 = 24.0;
const LABELS: f64 = 90.0;
const FIGURES: f64 = 90.0;

/// One cost of each contestant (by number), with the figure in words.
pub struct Group {
    pub title: String,
    pub rows: Vec<(usize, String, f64, String)>,
}

/// Draws the groups, in one column on a phone and in two otherwise.
pub fn draw(caption: &str, groups: &[Group]) -> Plot {
    both(caption, |canvas| {
        let columns = if canvas.is_narrow() { 1 } else { 2 };
        let column_width = canvas.width / columns as f64;
        let mut height = 0f64;
        let mut y = 0.0;
        for line in groups.chunks(columns) {
            let mut tallest = 0f64;
            for (column, group) in line.iter().enumerate() {
                let origin = (column as f64 * column_width, y);
                draw_group(canvas, group, origin, column_width - 24.0);
                tallest = tallest.max(HEAD + ROW * group.rows.len() as f64 + 8.0);
            }
            y += tallest;
            height = y;
        }
        canvas.set_height(height);
    })
}

fn draw_group(canvas: &mut Canvas, group: &Group, (left, top): (f64, f64), width: f64) {
    canvas.text(left, top + 16.0, Anchor::Start, "", &group.title);
    let most = group.rows.iter().map(|(_, _, value, _)| *value).fold(0.0, f64::max);
    let room = width - LABELS - FIGURES;
    for (place, (number, name, value, words)) in group.rows.iter().enumerate() {
        let y = top + HEAD + ROW * place as f64;
        let length = if most > 0.0 { room * value / most } else { 0.0 };
        canvas.text(left + LABELS - 8.0, y + 12.0, Anchor::End, "soft", name);
        canvas.bar(*number, (left + LABELS, y + 2.0), (length, ROW - 8.0));
        canvas.text(left + LABELS + length + 6.0, y + 12.0, Anchor::Start, "", words);
    }
}
