//! Tables for a terminal: aligned columns, over-long cells cut with an ellipsis.
//!
//! Width counts terminal columns: wide East Asian characters and emoji take two, combining marks none.

use std::fmt::Write as _;

/// How a column is aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a header.
#[derive(Debug)]
pub struct Table {
    columns: Vec<(String, Align, usize)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table of these columns: name, alignment, and the width at which cells are cut.
    pub fn new(columns: &[(&str, Align, usize)]) -> Table {
        let columns = columns.iter().map(|(name, align, most)| ((*name).to_owned(), *align, *most));
        Table { columns: columns.collect(), rows: Vec::new() }
    }

    /// Adds a row; missing cells are empty, superfluous ones are dropped.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().take(self.columns.len()).collect();
        cells.resize(self.columns.len(), String::new());
        for (cell, (_, _, most)) in cells.iter_mut().zip(&self.columns) {
            *cell = cut(cell, *most);
        }
        self.rows.push(cells);
    }

    /// The table as lines, each ending in a newline and starting with two spaces.
    pub fn render(&self) -> String {
        let widths: Vec<usize> = (0..self.columns.len()).map(|i| self.width_of(i)).collect();
        let header: Vec<&str> = self.columns.iter().map(|(name, _, _)| name.as_str()).collect();
        let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
        let mut text = String::new();
        self.line(&mut text, &widths, &header);
        self.line(&mut text, &widths, &rule);
        for row in &self.rows {
            self.line(&mut text, &widths, row);
        }
        text
    }

    fn width_of(&self, column: usize) -> usize {
        let cells = self.rows.iter().map(|row| width(&row[column]));
        cells.chain([width(&self.columns[column].0)]).max().unwrap_or(0)
    }

    fn line(&self, text: &mut String, widths: &[usize], cells: &[impl AsRef<str>]) {
        let mut line = String::new();
        for ((cell, width_of_column), (_, align, _)) in cells.iter().zip(widths).zip(&self.columns) {
            let cell = cell.as_ref();
            let gap = " ".repeat(width_of_column.saturating_sub(width(cell)));
            let _ = match align {
                Align::Left => write!(line, "  {cell}{gap}"),
                Align::Right => write!(line, "  {gap}{cell}"),
            };
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
}

/// `text` on one line, and cut to `most` terminal columns with an ellipsis as the last of them.
pub fn cut(text: &str, most: usize) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if width(&text) <= most {
        return text;
    }
    let mut kept = String::new();
    let mut used = 0;
    for c in text.chars() {
        used += width_of_char(c);
        if used + 1 > most {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

/// Terminal columns that `text` takes.
pub fn width(text: &str) -> usize {
    text.chars().map(width_of_char).sum()
}

fn width_of_char(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036f | 0x200b..=0x200f | 0x20d0..=0x20ff | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_lines_end_at_their_last_character() {
        let mut table = Table::new(&[("name", Align::Left, 8), ("cpu", Align::Right, 5)]);
        table.row(["web".to_owned(), "8".to_owned()]);
        table.row(["日本語サーバー".to_owned(), "128".to_owned(), "dropped".to_owned()]);
        table.row(["é\tx".to_owned()]);
        assert_eq!(table.render(), "  name     cpu\n  ───────  ───\n  web        8\n  日本語…  128\n  é x\n");
    }

    #[test]
    fn cutting_never_splits_a_character_or_exceeds_the_width() {
        for text in ["naïve café", "e\u{301}e\u{301}e\u{301}", "日本語", "👍👍👍", "", "plain"] {
            for most in 1..8 {
                let short = cut(text, most);
                assert!(width(&short) <= most, "{short:?} at {most}");
                assert!(width(text) > most || short == text);
            }
        }
    }
}
