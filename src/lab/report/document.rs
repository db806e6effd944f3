//! A report as blocks, written once and rendered as HTML and as Markdown.

/// A part of a report.
#[derive(Clone, Debug)]
pub enum Block {
    Heading(String),
    Paragraph(String),
    /// Something that must not be overlooked, and whether it is bad news.
    Banner {
        bad: bool,
        lines: Vec<String>,
    },
    List(Vec<String>),
    Table(Table),
    Plot(Plot),
    /// Text to be copied as it stands.
    Code(String),
}

/// A table whose first column names its rows.
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
    /// Whether cells are sentences rather than figures.
    pub prose: bool,
}

/// A drawing in two widths, so that letters are readable on a phone and on a desk.
#[derive(Clone, Debug)]
pub struct Plot {
    pub wide_svg: String,
    pub narrow_svg: String,
    pub caption: String,
}

/// Escapes text for HTML, attributes included.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
