//! Filters as short text: `power_state = "on" and cpu >= 8 and name ~ "web*"`.
//!
//! [`parse`] reads a [`Filter`] or tells the column where it stops to be one; [`print()`] writes one. The text says what the
//! filter says and nothing else: what a condition means stands in [`crate::filter`], and whether a filter fits a collection
//! (the types of declared fields, a strict collection) is not asked here but where it is compiled.
//!
//! ```text
//! filter    = all { "or" all }
//! all       = term { "and" term }
//! term      = "not" term | "(" filter ")" | condition
//! condition = path ( "=" | "!=" | "<>" ) value
//!           | path order value
//!           | path ( "~" | "!~" ) text
//!           | path [ "not" ] "match" [ "all" | "any" ] text
//!           | path [ "not" ] "phrase" text
//!           | path [ "not" ] "in" "(" [ value { "," value } ] ")"
//!           | path [ "not" ] "between" value "and" value
//!           | path "is" [ "not" ] "null"
//!           | "exists" path
//!           | value order path [ order value ]
//!           | "within" "(" path "," number "," number "," number ")"
//!           | "within_box" "(" path "," number "," number "," number "," number ")"
//!           | "key" ( "=" | "!=" | "<>" ) key
//!           | "key" [ "not" ] "in" "(" [ key { "," key } ] ")"
//!           | "true" | "false"
//! order     = "<" | "<=" | ">" | ">="
//! number    = integer | float
//! value     = text | integer | float | "true" | "false"
//! key       = text | integer
//! path      = name { "." name }
//! name      = ( letter | "_" ) { letter | digit | "_" | "-" }
//!           | "`" { any character but "." and "`", or "``" for one "`" } "`"
//! text      = '"' { any character, or an escape } '"' | "'" { the same } "'"
//! escape    = "\n" | "\r" | "\t" | "\\" | "\"" | "\'" | "\u{" 1 to 6 hexadecimal digits "}"
//! integer   = [ "-" ] digit { digit }
//! float     = integer "." digit { digit } [ exponent ] | integer exponent
//! exponent  = ( "e" | "E" ) [ "+" | "-" ] digit { digit }
//! ```
//!
//! - **Words** (`and`, `between`, `exists`, `false`, `in`, `is`, `key`, `not`, `null`, `or`, `true`) are read in any case. A field
//!   of such a name, or of one with other characters, is written in backquotes: `` `key` = 7 ``. Behind a dot a name may begin
//!   with a digit and may be a word: `disks.0`, `a.key`. `match`, `phrase`, `all` and `any` are words only where the grammar has
//!   them, behind a field, `within` and `within_box` before a bracket, and names elsewhere.
//! - **`a != b` is `not a = b`**, so it also holds for a record without `a`; and so `!~`, `not in`, `not between`, `not match`
//!   and `not phrase`.
//!   `a is not null` is `exists a`.
//! - **`between` holds its bounds.** A range with one bound left out of it is a chain: `8 <= cpu < 64`. On a field of several
//!   values a chain asks for one value between both bounds; `cpu >= 8 and cpu < 64` also holds where two values
//!   satisfy one half each. A chain goes one way.
//! - **`~`** compares the whole text with a pattern ([`super::Glob`]); there `\*` and `\?` are escapes too and mean the
//!   characters. A pattern of plain characters and a last `*` is a [`Filter::Prefix`].
//! - **Points** ([`crate::geo`]): `within(f, lat, lon, radius_m)` asks for one no farther from there than so many metres,
//!   `within_box(f, top, left, bottom, right)` for one between the parallels and, eastwards, the meridians.
//! - **Keys** are numbers from 0 to 2^64 - 1, or text. `key` alone is the record's key, never a field.
//! - **Null** equals nothing: `a = null` is refused, with the way to say it.
//! - White space, also a new line, may stand between any two of these; there are no comments.
//!
//! What is read is bounded before it is built: bytes of the text, levels, conditions, values of a list, bytes of a path, of a
//! key and of a pattern ([`crate::limits`]), and brackets and `not`s inside each other, so that no text can exhaust the stack.

mod lexer;
mod literal;
mod parser;
mod printer;

use std::fmt;

pub use printer::print;

use super::Filter;
use crate::limits::FILTER_TEXT_BYTES_MAX;
use crate::schema::at_most;

/// Characters of the line that a picture shows on each side of the column.
const PICTURE_CHARS: usize = 48;

/// Reads a filter.
pub fn parse(text: &str) -> Result<Filter, SyntaxError> {
    let sized = at_most("the text", "bytes", FILTER_TEXT_BYTES_MAX, text.len());
    let read = sized
        .map_err(|violation| Wrong::at(0, format!("the text has {}", violation.description)))
        .and_then(|()| parser::filter(text));
    read.map_err(|wrong| SyntaxError::new(text, wrong))
}

/// What is wrong with a text, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyntaxError {
    /// Line, from 1.
    pub line: usize,
    /// Column in that line, in characters, from 1; one beyond the last character if something is missing at the end.
    pub column: usize,
    /// What is wrong, and what would be right where that can be told.
    pub what: String,
}

impl SyntaxError {
    fn new(text: &str, wrong: Wrong) -> SyntaxError {
        let (line, column) = place(text, wrong.at);
        SyntaxError { line, column, what: in_one_line(wrong.what.chars()) }
    }

    /// Two lines: that of `text` where the error is, and a caret below the column. A long line is cut to what stands around
    /// the column. Carets stand askew below characters that are wider than one column of the screen.
    pub fn picture(&self, text: &str) -> String {
        let line = text.split('\n').nth(self.line - 1).unwrap_or_default();
        let first = self.column.saturating_sub(PICTURE_CHARS + 1);
        let is_cut = line.chars().nth(self.column + PICTURE_CHARS).is_some();
        let shown = line.chars().take(self.column + PICTURE_CHARS).skip(first);
        let mut picture = String::from(if first > 0 { "…" } else { "" });
        let caret = picture.chars().count() + self.column - 1 - first;
        picture.push_str(&in_one_line(shown));
        picture.push_str(if is_cut { "…" } else { "" });
        format!("{picture}\n{}^", " ".repeat(caret))
    }
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 1 {
            write!(f, "line {}, ", self.line)?;
        }
        write!(f, "column {}: {}", self.column, self.what)
    }
}

impl std::error::Error for SyntaxError {}

/// What is wrong, and the byte where.
struct Wrong {
    at: usize,
    what: String,
}

impl Wrong {
    fn at(at: usize, what: impl Into<String>) -> Wrong {
        Wrong { at, what: what.into() }
    }
}

/// Characters that move the cursor become blanks.
fn in_one_line(chars: impl Iterator<Item = char>) -> String {
    chars.map(|char| if char.is_control() { ' ' } else { char }).collect()
}

/// Line and column of the byte `at`, from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, column)
}

#[cfg(test)]
mod tests;
