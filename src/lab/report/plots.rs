//! Drawings, as SVG inside the page.
//!
//! Colours come from the page's style sheet, so that light and dark both work; shape, pattern or a
//! label always carries the same meaning, so that no drawing needs its colours. Each is drawn twice:
//! letters keep their size on a phone.

use std::fmt::Write as _;

use super::document::{Plot, escape};

pub mod bars;
pub mod freshness;
pub mod latency;
pub mod timeline;

/// The widths of the two forms of a drawing, in CSS pixels.
const WIDE: f64 = 900.0;
const NARROW: f64 = 358.0;
/// The size of letters.
const LETTERS: f64 = 12.5;

/// Draws in both widths.
fn both(caption: &str, draw: impl Fn(&mut Canvas)) -> Plot {
    let svg = |width: f64| {
        let mut canvas = Canvas::new(width);
        draw(&mut canvas);
        canvas.finish(caption)
    };
    Plot { wide_svg: svg(WIDE), narrow_svg: svg(NARROW), caption: caption.to_owned() }
}

/// A drawing under way.
pub struct Canvas {
    width: f64,
    height: f64,
    body: String,
}

/// How a text stands to its point.
#[derive(Clone, Copy)]
enum Anchor {
    Start,
    Middle,
    End,
}

impl Canvas {
    fn new(width: f64) -> Canvas {
        Canvas { width, height: 0.0, body: String::new() }
    }

    fn is_narrow(&self) -> bool {
        self.width < WIDE
    }

    /// Sets the height, which a drawing knows once it has laid itself out.
    fn set_height(&mut self, height: f64) {
        self.height = height;
    }

    // Writing to a string cannot fail, so the results below are dropped.

    fn text(&mut self, x: f64, y: f64, anchor: Anchor, class: &str, text: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{LETTERS}\" \
             class=\"{class}\">{}</text>",
            escape(text)
        );
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), class: &str) {
        let _ = writeln!(
            self.body,
            "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" class=\"{class}\"/>",
            from.0, from.1, to.0, to.1
        );
    }

    fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str) {
        if width > 0.0 && height > 0.0 {
            let _ = writeln!(
                self.body,
                "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" \
                 class=\"{class}\"/>"
            );
        }
    }

    /// A rectangle filled with one of the patterns `failed`, `unknown`, `c1` and `c2`, with an
    /// edge.
    fn patterned(&mut self, at: (f64, f64), size: (f64, f64), pattern: &str) {
        if size.0 > 0.0 && size.1 > 0.0 {
            let fill = format!("url(#{pattern}-{})", self.width as u32);
            let _ = writeln!(
                self.body,
                "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{fill}\"/>",
                at.0, at.1, size.0, size.1
            );
            self.rect(at, size, &format!("{pattern}-edge"));
        }
    }

    /// A bar of the contestant `number`: the first solid, the second striped, the third crossed.
    fn bar(&mut self, number: usize, at: (f64, f64), size: (f64, f64)) {
        match class(number) {
            solid @ "c0" => self.rect(at, size, solid),
            pattern => self.patterned(at, size, pattern),
        }
    }

    /// A mark of the contestant `number`: the first round, the second square, the third pointed.
    fn dot(&mut self, number: usize, (x, y): (f64, f64)) {
        let class = class(number);
        match number {
            0 => {
                let _ = writeln!(
                    self.body,
                    "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\" class=\"{class}\"/>"
                );
            }
            1 => self.rect((x - 4.5, y - 4.5), (9.0, 9.0), class),
            _ => {
                let (left, right, top, bottom) = (x - 5.5, x + 5.5, y - 5.5, y + 4.5);
                let _ = writeln!(
                    self.body,
                    "<polygon points=\"{left:.1},{bottom:.1} {right:.1},{bottom:.1} {x:.1},{top:.1}\" \
                     class=\"{class}\"/>"
                );
            }
        }
    }

    fn finish(self, caption: &str) -> String {
        let id = self.width as u32;
        // Elements are found by id across a whole page, so the patterns of all drawings of one
        // width are the same and may stand for each other.
        let patterns = format!(
            "<defs>\
             <pattern id=\"failed-{id}\" width=\"5\" height=\"5\" patternUnits=\"userSpaceOnUse\" \
             patternTransform=\"rotate(45)\">\
             <line x1=\"0\" y1=\"0\" x2=\"0\" y2=\"5\" class=\"failed-line\"/></pattern>\
             <pattern id=\"unknown-{id}\" width=\"4\" height=\"4\" patternUnits=\"userSpaceOnUse\">\
             <circle cx=\"2\" cy=\"2\" r=\"1.4\" class=\"unknown-dot\"/></pattern>\
             <pattern id=\"c1-{id}\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\" \
             patternTransform=\"rotate(45)\">\
             <line x1=\"0\" y1=\"0\" x2=\"0\" y2=\"6\" class=\"c1-line\"/></pattern>\
             <pattern id=\"c2-{id}\" width=\"6\" height=\"6\" patternUnits=\"userSpaceOnUse\">\
             <path d=\"M0 3H6M3 0V6\" class=\"c2-line\"/></pattern>\
             </defs>"
        );
        format!(
            "<svg viewBox=\"0 0 {:.0} {:.0}\" role=\"img\" aria-label=\"{}\">\n{patterns}\n{}</svg>",
            self.width,
            self.height,
            escape(caption),
            self.body
        )
    }
}

/// The style of what belongs to the contestant `number`. There are as many as contestants.
fn class(number: usize) -> &'static str {
    match number {
        0 => "c0",
        1 => "c1",
        _ => "c2",
    }
}

/// A round number at or above `value`, so that an axis ends somewhere readable.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 5.0, 7.5, 10.0];
    steps.into_iter().map(|step| step * power).find(|top| *top >= value).unwrap_or(10.0 * power)
}
