//! The report as one HTML file: no scripts, nothing fetched, light or dark as the reader's system is.

use super::document::{Block, Table, escape};

const STYLE: &str = include_str!("style.css");

/// Renders a report.
pub fn render(title: &str, blocks: &[Block]) -> String {
    let body: String = blocks.iter().map(render_block).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n<title>{title}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n\
         </body>\n</html>\n",
        title = escape(title)
    )
}

fn render_block(block: &Block) -> String {
    match block {
        Block::Heading(heading) => format!("<h2>{}</h2>\n", escape(heading)),
        Block::Paragraph(paragraph) => format!("<p>{}</p>\n", escape(paragraph)),
        Block::Banner { bad, lines } => {
            let class = if *bad { "banner bad" } else { "banner good" };
            let lines: String =
                lines.iter().map(|line| format!("<p>{}</p>", escape(line))).collect();
            format!("<div class=\"{class}\">{lines}</div>\n")
        }
        Block::List(items) => {
            let items: String =
                items.iter().map(|item| format!("<li>{}</li>\n", escape(item))).collect();
            format!("<ul>\n{items}</ul>\n")
        }
        Block::Table(table) => render_table(table),
        Block::Plot(plot) => format!(
            "<figure>\n<div class=\"wide\">{}</div>\n<div class=\"narrow\">{}</div>\n\
             <figcaption>{}</figcaption>\n</figure>\n",
            plot.wide_svg,
            plot.narrow_svg,
            escape(&plot.caption)
        ),
        Block::Code(code) => format!("<pre>{}</pre>\n", escape(code)),
    }
}

/// On a phone every row becomes a card, so each cell carries the name of its column.
fn render_table(table: &Table) -> String {
    let head: String =
        table.head.iter().map(|cell| format!("<th scope=\"col\">{}</th>", escape(cell))).collect();
    let row = |cells: &Vec<String>| {
        let cells: String = cells
            .iter()
            .zip(&table.head)
            .enumerate()
            .map(|(column, (cell, head))| match column {
                0 => format!("<th scope=\"row\">{}</th>", escape(cell)),
                _ => format!("<td data-label=\"{}\">{}</td>", escape(head), escape(cell)),
            })
            .collect();
        format!("<tr>{cells}</tr>\n")
    };
    let rows: String = table.rows.iter().map(row).collect();
    let class = if table.prose { "prose" } else { "figures" };
    format!(
        "<table class=\"{class}\">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n\
         </table>\n"
    )
}
