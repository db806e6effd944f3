//! A history as a picture: an SVG that stands alone, for a person who has to see why.
//!
//! One lane a client, time to the right, a bar from question to answer. The columns keep the order
//! of the instants and not their distances, so that a microsecond is as readable as a second; the
//! axis says when it was. What is told apart is told apart by shape and words: colours only help.
//! Light and dark follow the viewer's setting.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::sights::{PRECONDITION_FAILED, Seen, Sight};
use super::{Action, Ended, History, Op, Version};

const LANE_HEIGHT: usize = 54;
const BAR_HEIGHT: usize = 16;
const TOP: usize = 58;
const LEFT: usize = 96;
const RIGHT: usize = 56;
/// The least distance of two instants.
const STEP: usize = 22;
/// Between a label and what follows it.
const GAP: usize = 16;
/// A letter of the labels, in tenths of a pixel: the font is monospaced.
const LETTER_TENTHS: usize = 73;
/// Between two times on the axis.
const TIME_DISTANCE: usize = 84;
const LINE_HEIGHT: usize = 18;
const MIN_WIDTH: usize = 640;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1d2329;--soft:#66717c;--line:#d6dce2;--paper:#fff;--write:#1f5fae;--read:#1c7a4b;--gone:#a3341f}\
@media(prefers-color-scheme:dark){:root{--ink:#e6eaee;--soft:#98a3ae;--line:#38424c;--paper:#14181c;--write:#79b0f2;--read:#68cf9a;--gone:#f08f78}}\
.paper{fill:var(--paper)}text{font:12px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:var(--ink)}\
.head{font-weight:600;font-size:14px}.soft{fill:var(--soft)}.lane{stroke:var(--line)}\
.write{fill:var(--write);stroke:var(--write)}.delete{fill:var(--gone);stroke:var(--gone)}\
.read{fill:none;stroke:var(--read);stroke-width:2}.refused{fill:none;stroke:var(--soft);stroke-width:2}\
.open{fill:url(#hatch);stroke-dasharray:5 3;stroke-width:1.5}.tail{stroke-dasharray:5 4;stroke-width:2;fill:none}\
.cross{stroke:var(--soft);stroke-width:1.5}.tick{stroke:var(--line);stroke-dasharray:1 4}";

/// Draws `history` under `heading`.
pub fn draw(history: &History, heading: &str) -> String {
    let picture = Picture::of(history);
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = picture.write(&mut svg, heading);
    svg
}

struct Picture<'a> {
    ops: &'a [Op],
    lanes: BTreeMap<u32, usize>,
    /// Where each instant is drawn.
    columns: BTreeMap<u64, usize>,
    /// Short names of versions, in their order.
    names: BTreeMap<Version, String>,
    several_keys: bool,
    width: usize,
}

impl<'a> Picture<'a> {
    fn of(history: &'a History) -> Picture<'a> {
        let ops = &history.ops;
        let clients: BTreeSet<u32> = ops.iter().map(|op| op.client).collect();
        let keys: BTreeSet<_> =
            ops.iter().filter(|op| op.action != Action::List).map(|op| &op.key).collect();
        let shown = ops.iter().flat_map(|op| op.items.iter().flatten()).map(|item| item.version);
        let told = ops.iter().flat_map(|op| [op.version, op.if_match, op.superseded]).flatten();
        let versions: BTreeSet<Version> = told.chain(shown).collect();
        let mut picture = Picture {
            ops,
            lanes: clients.into_iter().zip(0..).collect(),
            columns: BTreeMap::new(),
            names: versions.into_iter().zip(1..).map(|(v, n)| (v, format!("v{n}"))).collect(),
            several_keys: keys.len() > 1,
            width: MIN_WIDTH,
        };
        picture.place();
        picture
    }

    /// Gives every instant a column, far enough right for the labels before it in every lane.
    fn place(&mut self) {
        let instants: BTreeSet<u64> =
            self.ops.iter().flat_map(|op| [op.invoked_us, op.answered_us]).collect();
        let mut free_from: BTreeMap<u32, usize> = BTreeMap::new();
        let mut x = LEFT + GAP;
        for instant in instants {
            let beginning: Vec<&Op> =
                self.ops.iter().filter(|op| op.invoked_us == instant).collect();
            for op in &beginning {
                x = x.max(free_from.get(&op.client).copied().unwrap_or(0));
            }
            for op in beginning {
                let end = x + text_width(&self.label(op)) + GAP;
                free_from.insert(op.client, end);
                self.width = self.width.max(end + RIGHT);
            }
            self.columns.insert(instant, x);
            x += STEP;
        }
        self.width = self.width.max(x + RIGHT);
    }

    fn x(&self, instant: u64) -> usize {
        self.columns.get(&instant).copied().unwrap_or(LEFT)
    }

    fn version(&self, version: Option<Version>) -> String {
        let name = version.and_then(|version| self.names.get(&version));
        name.map_or(String::new(), |name| format!(" @{name}"))
    }

    fn label(&self, op: &Op) -> String {
        let key = if self.several_keys || op.action == Action::List {
            format!(" {}", op.key)
        } else {
            String::new()
        };
        let value = op.value.as_ref().map_or(String::new(), |value| format!(" {value}"));
        let mut condition = String::new();
        if op.if_match.is_some() {
            condition = format!(" if{}", self.version(op.if_match));
        }
        if op.if_absent {
            condition.push_str(" if absent");
        }
        let at = self.version(op.version);
        let ended = match (op.action.is_write(), op.ended) {
            (true, Ended::Ok) => format!("{condition} ok{at}"),
            (true, Ended::Unknown) => format!("{condition} unknown"),
            (true, Ended::Failed) if op.status == PRECONDITION_FAILED => {
                let stands = if op.version.is_some() { at } else { " (412)".to_owned() };
                format!("{condition} refused{stands}")
            }
            (true, Ended::Failed) => format!("{condition} not applied"),
            (false, Ended::Ok) => return format!("{}{key} → {}", op.action, self.shown(op)),
            (false, _) => " not answered".to_owned(),
        };
        format!("{}{key}{value}{ended}", op.action)
    }

    fn shown(&self, op: &Op) -> String {
        if op.action == Action::List {
            let items = op.items.iter().flatten().map(|item| {
                let name = item.value.as_ref().map_or(item.key.to_string(), ToString::to_string);
                format!("{name}{}", self.version(Some(item.version)))
            });
            let items: Vec<String> = items.collect();
            return if items.is_empty() { "nothing".to_owned() } else { items.join(", ") };
        }
        match Sight::of(op, &op.key).map(|sight| sight.seen) {
            Some(Seen::Held { value: Some(value), version }) => {
                format!("{value}{}", self.version(version))
            }
            _ => "nothing".to_owned(),
        }
    }

    fn write(&self, svg: &mut String, heading: &str) -> std::fmt::Result {
        let lines = wrapped(heading, (self.width - 2 * GAP) * 10 / (LETTER_TENTHS + 12));
        let top = TOP + (lines.len().max(1) - 1) * LINE_HEIGHT;
        let lanes_end = top + self.lanes.len() * LANE_HEIGHT;
        let height = lanes_end + 84 + self.names.len().div_ceil(3) * LINE_HEIGHT;
        let width = self.width;
        write!(
            svg,
            r#"<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">"#
        )?;
        write!(svg, "<title>{}</title><style>{STYLE}</style>", escaped(heading))?;
        svg.push_str(
            r#"<defs><pattern id="hatch" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><path d="M0 0V6" stroke="var(--soft)" stroke-width="3"/></pattern></defs>"#,
        );
        write!(svg, r#"<rect class="paper" width="{width}" height="{height}"/>"#)?;
        for (at, line) in lines.iter().enumerate() {
            let y = 26 + at * LINE_HEIGHT;
            write!(svg, r#"<text class="head" x="{GAP}" y="{y}">{}</text>"#, escaped(line))?;
        }
        self.write_axis(svg, top, lanes_end)?;
        for (client, lane) in &self.lanes {
            let y = top + lane * LANE_HEIGHT + LANE_HEIGHT / 2;
            let text_y = y + 4;
            write!(svg, r#"<text x="{GAP}" y="{text_y}">client {client}</text>"#)?;
            let end = width - GAP;
            write!(svg, r#"<path class="lane" d="M{LEFT} {y}H{end}"/>"#)?;
        }
        for op in self.ops {
            self.write_op(svg, op, top)?;
        }
        self.write_legend(svg, lanes_end + 50)?;
        svg.push_str("</svg>\n");
        Ok(())
    }

    fn write_axis(&self, svg: &mut String, top: usize, bottom: usize) -> std::fmt::Result {
        let start = self.columns.keys().next().copied().unwrap_or(0);
        let mut last = None;
        for (instant, x) in &self.columns {
            if last.is_some_and(|last| x - last < TIME_DISTANCE) {
                continue;
            }
            last = Some(*x);
            let (text_y, after) = (bottom + 18, instant - start);
            write!(svg, r#"<path class="tick" d="M{x} {top}V{bottom}"/>"#)?;
            write!(svg, r#"<text class="soft" x="{x}" y="{text_y}">+{after} µs</text>"#)?;
        }
        Ok(())
    }

    fn write_op(&self, svg: &mut String, op: &Op, top: usize) -> std::fmt::Result {
        let lane = self.lanes.get(&op.client).copied().unwrap_or(0);
        let y = top + lane * LANE_HEIGHT + LANE_HEIGHT / 2 - BAR_HEIGHT / 2;
        let x = self.x(op.invoked_us);
        let width = (self.x(op.answered_us) - x).max(6);
        let open = op.ended == Ended::Unknown && op.action.is_write();
        let class = match (op.action, op.ended) {
            (Action::Put | Action::Delete, Ended::Failed) => "refused",
            (Action::Put, _) => "write",
            (Action::Delete, _) => "delete",
            (Action::Get | Action::List, _) => "read",
        };
        write!(svg, "<g><title>{}</title>", escaped(&self.in_full(op)))?;
        let also = if open { " open" } else { "" };
        write!(
            svg,
            r#"<rect class="{class}{also}" x="{x}" y="{y}" width="{width}" height="{BAR_HEIGHT}" rx="3"/>"#
        )?;
        let (end, middle) = (x + width, y + BAR_HEIGHT / 2);
        if open {
            let until = self.next_in_lane(op).map_or(self.width - GAP, |next| next - 6);
            let until = until.max(end);
            write!(svg, r#"<path class="{class} tail" d="M{end} {middle}H{until}"/>"#)?;
        }
        if class == "refused" {
            let bottom = y + BAR_HEIGHT;
            write!(
                svg,
                r#"<path class="cross" d="M{x} {y}L{end} {bottom}M{x} {bottom}L{end} {y}"/>"#
            )?;
        }
        let text_y = y - 5;
        write!(svg, r#"<text x="{x}" y="{text_y}">{}</text></g>"#, escaped(&self.label(op)))
    }

    fn next_in_lane(&self, op: &Op) -> Option<usize> {
        let later = self.ops.iter().filter(|next| {
            next.client == op.client && next.invoked_us >= op.answered_us && *next != op
        });
        later.map(|next| self.x(next.invoked_us)).min()
    }

    fn in_full(&self, op: &Op) -> String {
        let version = op.version.map_or(String::new(), |version| format!(", version {version}"));
        format!(
            "client {}: {} of {} through node {} at {}{version}, status {}, {} to {} µs",
            op.client,
            self.label(op),
            op.key,
            op.node,
            op.asked(),
            op.status,
            op.invoked_us,
            op.answered_us
        )
    }

    fn write_legend(&self, svg: &mut String, y: usize) -> std::fmt::Result {
        let entries = [
            ("write", "put"),
            ("delete", "delete"),
            ("read", "read"),
            ("write open", "unknown: then, later or never"),
            ("refused", "not applied"),
        ];
        let mut x = GAP;
        for (class, words) in entries {
            let bar_y = y - 10;
            write!(
                svg,
                r#"<rect class="{class}" x="{x}" y="{bar_y}" width="22" height="12" rx="3"/>"#
            )?;
            if class == "refused" {
                let (end, low) = (x + 22, bar_y + 12);
                write!(
                    svg,
                    r#"<path class="cross" d="M{x} {bar_y}L{end} {low}M{x} {low}L{end} {bar_y}"/>"#
                )?;
            }
            let text_x = x + 28;
            write!(svg, r#"<text class="soft" x="{text_x}" y="{y}">{words}</text>"#)?;
            x = text_x + text_width(words) + GAP;
        }
        for (at, (version, name)) in self.names.iter().enumerate() {
            let (x, y) = (GAP + at % 3 * 210, y + (1 + at / 3) * LINE_HEIGHT + 4);
            write!(svg, r#"<text class="soft" x="{x}" y="{y}">{name} = {version}</text>"#)?;
        }
        Ok(())
    }
}

fn text_width(text: &str) -> usize {
    text.chars().count() * LETTER_TENTHS / 10
}

/// Lines of at most `length` characters, broken at spaces.
fn wrapped(text: &str, length: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + word.chars().count() < length => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// Text as XML holds it; what XML cannot hold is left out.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '"' => safe.push_str("&quot;"),
            control if control.is_control() => safe.push('\u{fffd}'),
            '\u{fffe}' | '\u{ffff}' => safe.push('\u{fffd}'),
            other => safe.push(other),
        }
    }
    safe
}
