//! The report as Markdown: the same words and figures; drawings are in the HTML.

use super::document::{Block, Table};

/// Renders a report.
pub fn render(title: &str, blocks: &[Block]) -> String {
    let mut text = format!("# {title}\n");
    for block in blocks {
        text.push('\n');
        text.push_str(&render_block(block));
    }
    text
}

fn render_block(block: &Block) -> String {
    match block {
        Block::Heading(heading) => format!("## {heading}\n"),
        Block::Paragraph(paragraph) => format!("{}\n", plain(paragraph)),
        Block::Banner { lines, .. } => {
            let lines: Vec<String> =
                lines.iter().map(|line| format!("> **{}**\n", plain(line))).collect();
            lines.join(">\n")
        }
        Block::List(items) => {
            items.iter().map(|item| format!("- {}\n", plain(item))).collect::<String>()
        }
        Block::Table(table) => render_table(table),
        Block::Plot(plot) => format!("*{} (drawn in report.html)*\n", plain(&plot.caption)),
        Block::Code(code) => format!("```\n{code}\n```\n"),
    }
}

fn render_table(table: &Table) -> String {
    let line = |cells: &[String]| {
        let cells: Vec<String> = cells.iter().map(|cell| plain(cell).replace('|', "\\|")).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let rule = table.head.iter().map(|_| "---").collect::<Vec<_>>().join(" | ");
    let rows: String = table.rows.iter().map(|row| line(row)).collect();
    format!("{}| {rule} |\n{rows}", line(&table.head))
}

/// Text that Markdown shows as it is, on one line.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\n' => plain.push(' '),
            '*' | '_' | '`' | '<' | '\\' => plain.extend(['\\', letter]),
            other => plain.push(other),
        }
    }
    plain
}
