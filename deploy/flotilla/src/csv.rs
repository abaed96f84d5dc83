//! Comma-separated values as RFC 4180 has them: a reader for imports and the writer of exports and answers.
//!
//! A row is a line of cells; a cell that begins with a quote ends with one, may hold delimiters and line ends, and writes a
//! quote twice. The reader takes LF and CRLF, any ASCII delimiter, a byte order mark, and a last line without an end; lines
//! that are blank are no rows. It is strict, since a quote in the wrong place would shift every cell behind it: what breaks
//! the form is one bad row, told by line and column, and reading goes on behind the line in which that was seen. A row
//! beyond [`ROW_BYTES_MAX`] ends the reading: most likely a quote was never closed.
//!
//! A cell tells whether it was quoted, so that an empty text (`""`) and nothing at all differ.
//!
//! It does not know types, nor that the first row is a header: `import::csv` does.

use std::io::{BufRead, Read as _};

use anyhow::bail;

/// Bytes of a row, at most.
pub const ROW_BYTES_MAX: usize = 16 << 20;
/// Cells of a row, at most.
pub const CELLS_MAX: usize = 4_096;

const QUOTE: u8 = b'"';

/// One value of a row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    /// What it holds, without its quotes.
    pub text: String,
    /// Whether it stood in quotes.
    pub is_quoted: bool,
}

/// What is wrong with a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCells(pub String);

/// Rows being read from front to back.
pub struct Reader<R> {
    source: R,
    delimiter: u8,
    bytes: Vec<u8>,
    /// Lines read so far.
    lines: u64,
    /// The line in which the last row began.
    began: u64,
}

/// A delimiter as a user writes it: one ASCII character, or `tab`.
///
/// # Errors
/// Anything else, and what a cell's own form needs: quotes and line ends.
pub fn delimiter(word: &str) -> Result<u8, String> {
    match word.as_bytes() {
        b"tab" | b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n' | 0) => Ok(*byte),
        _ => Err(format!("a delimiter is one ASCII character other than a quote, or `tab`; got {word:?}")),
    }
}

impl<R: BufRead> Reader<R> {
    /// Stands before the first row.
    pub fn new(source: R, delimiter: u8) -> Reader<R> {
        Reader { source, delimiter, bytes: Vec::new(), lines: 0, began: 0 }
    }

    /// The line, from 1, in which the last row began.
    pub fn line(&self) -> u64 {
        self.began
    }

    /// The bytes of the last row, as far as it was read.
    pub fn raw(&self) -> &[u8] {
        &self.bytes
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// The source's, and a row that is too long. A [`BadCells`] does not end the reading.
    pub fn next_row(&mut self) -> anyhow::Result<Option<Result<Vec<Cell>, BadCells>>> {
        loop {
            self.bytes.clear();
            self.began = self.lines + 1;
            if !self.line_more()? {
                return Ok(None);
            }
            if self.lines == 1 && self.bytes.starts_with(b"\xef\xbb\xbf") {
                self.bytes.drain(..3);
            }
            if !self.is_end(0) {
                return Ok(Some(self.cells()?));
            }
        }
    }

    /// Adds the next line to the bytes; false at the end of the source.
    fn line_more(&mut self) -> anyhow::Result<bool> {
        let room = (ROW_BYTES_MAX + 1).saturating_sub(self.bytes.len());
        let read = (&mut self.source).take(room as u64).read_until(b'\n', &mut self.bytes)?;
        if self.bytes.len() > ROW_BYTES_MAX {
            bail!(
                "the row that begins in line {} is longer than {ROW_BYTES_MAX} bytes: is a quote not closed?",
                self.began
            );
        }
        self.lines += u64::from(read > 0);
        Ok(read > 0)
    }

    fn cells(&mut self) -> anyhow::Result<Result<Vec<Cell>, BadCells>> {
        let (mut cells, mut at) = (Vec::new(), 0);
        loop {
            let column = cells.len() + 1;
            if column > CELLS_MAX {
                return Ok(Err(BadCells(format!("more than {CELLS_MAX} cells"))));
            }
            let is_quoted = self.bytes.get(at) == Some(&QUOTE);
            let text = if is_quoted { self.quoted(&mut at)? } else { self.plain(&mut at) };
            match text.and_then(|bytes| String::from_utf8(bytes).map_err(|_| "is not UTF-8 text".to_owned()))
            {
                Ok(text) => cells.push(Cell { text, is_quoted }),
                Err(why) => return Ok(Err(BadCells(format!("cell {column} {why}")))),
            }
            if self.bytes.get(at) != Some(&self.delimiter) {
                return Ok(Ok(cells));
            }
            at += 1;
        }
    }

    /// A cell up to the next delimiter or the line's end.
    fn plain(&self, at: &mut usize) -> Result<Vec<u8>, String> {
        let rest = &self.bytes[*at..];
        let ends = |i: usize| rest[i] == self.delimiter || self.is_end(*at + i);
        let len = (0..rest.len()).find(|i| ends(*i)).unwrap_or(rest.len());
        *at += len;
        if rest[..len].contains(&QUOTE) {
            return Err("has a quote inside and does not begin with one".to_owned());
        }
        Ok(rest[..len].to_vec())
    }

    /// A cell in quotes, over as many lines as it takes.
    fn quoted(&mut self, at: &mut usize) -> anyhow::Result<Result<Vec<u8>, String>> {
        let (mut cell, mut from) = (Vec::new(), *at + 1);
        loop {
            let Some(len) = self.bytes[from..].iter().position(|byte| *byte == QUOTE) else {
                cell.extend_from_slice(&self.bytes[from..]);
                from = self.bytes.len();
                if !self.line_more()? {
                    return Ok(Err("begins with a quote that is never closed".to_owned()));
                }
                continue;
            };
            cell.extend_from_slice(&self.bytes[from..from + len]);
            from += len + 1;
            if self.bytes.get(from) != Some(&QUOTE) {
                break;
            }
            cell.push(QUOTE);
            from += 1;
        }
        *at = from;
        let is_whole = self.is_end(from) || self.bytes.get(from) == Some(&self.delimiter);
        Ok(if is_whole { Ok(cell) } else { Err("has text behind its closing quote".to_owned()) })
    }

    /// Whether nothing but a line's end stands from here on.
    fn is_end(&self, at: usize) -> bool {
        matches!(&self.bytes[at.min(self.bytes.len())..], b"" | b"\n" | b"\r\n")
    }
}

/// Appends a row. A cell of `None` is left empty; text that is empty, or could be read otherwise, is quoted.
pub fn write_row<'a>(out: &mut String, delimiter: char, cells: impl IntoIterator<Item = Option<&'a str>>) {
    let begin = out.len();
    for (i, cell) in cells.into_iter().enumerate() {
        if i > 0 {
            out.push(delimiter);
        }
        match cell {
            None => {}
            Some(text) if needs_quotes(text, delimiter) => {
                out.push('"');
                out.push_str(&text.replace('"', "\"\""));
                out.push('"');
            }
            Some(text) => out.push_str(text),
        }
    }
    // A row of one cell that is empty would be a blank line.
    if out.len() == begin {
        out.push_str("\"\"");
    }
    out.push('\n');
}

fn needs_quotes(text: &str, delimiter: char) -> bool {
    let is_edge = |c: Option<char>| c.is_some_and(char::is_whitespace);
    text.is_empty()
        || text.contains(['"', '\n', '\r', delimiter])
        || text.starts_with('\u{feff}')
        || is_edge(text.chars().next())
        || is_edge(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;

    fn rows(text: &[u8]) -> Vec<Result<Vec<String>, String>> {
        let mut reader = Reader::new(text, b',');
        let next = || reader.next_row().unwrap();
        let shown = |row: Result<Vec<Cell>, BadCells>| {
            let cell = |cell: Cell| if cell.is_quoted { format!("<{}>", cell.text) } else { cell.text };
            row.map(|cells| cells.into_iter().map(cell).collect()).map_err(|bad| bad.0)
        };
        std::iter::from_fn(next).map(shown).collect()
    }

    #[test]
    fn cells_are_those_of_the_rfc() {
        let text = b"\xef\xbb\xbfa,b,c\r\n1,,\"\"\n\n\"x,\"\"y\"\"\",\"two\r\nlines\", z \nlast,\xc3\xa4,";
        let expected: [&[&str]; 4] =
            [&["a", "b", "c"], &["1", "", "<>"], &["<x,\"y\">", "<two\r\nlines>", " z "], &["last", "ä", ""]];
        assert_eq!(rows(text).into_iter().map(Result::unwrap).collect::<Vec<_>>(), expected);
        assert!(rows(b"").is_empty() && rows(b"\n\r\n").is_empty());
    }

    #[test]
    fn a_bad_row_is_told_and_the_next_line_is_read() {
        let text = b"a,b\"\n\"a\"b,c\nok\n\xff\n\"open,\nto the end";
        let told = [
            Err("cell 2 has a quote inside and does not begin with one".to_owned()),
            Err("cell 1 has text behind its closing quote".to_owned()),
            Ok(vec!["ok".to_owned()]),
            Err("cell 1 is not UTF-8 text".to_owned()),
            Err("cell 1 begins with a quote that is never closed".to_owned()),
        ];
        assert_eq!(rows(text), told);
        let wide = ",".repeat(CELLS_MAX);
        assert!(rows(wide.as_bytes())[0].as_ref().unwrap_err().starts_with("more than 4096"));
    }

    #[test]
    fn a_row_without_end_is_refused_without_being_read_whole() {
        let mut reader = Reader::new(std::io::BufReader::new(std::io::repeat(b'"').take(1 << 30)), b',');
        let why = reader.next_row().unwrap_err().to_string();
        assert!(why.starts_with("the row that begins in line 1 is longer than 16777216"), "{why}");
    }

    #[test]
    fn lines_are_those_of_the_file() {
        let mut reader = Reader::new(&b"h\n\n\"a\nb\"\nc\n"[..], b',');
        let mut lines = Vec::new();
        while reader.next_row().unwrap().is_some() {
            lines.push(reader.line());
        }
        assert_eq!(lines, [1, 3, 5]);
    }

    #[test]
    fn what_is_written_is_read() {
        let mut random = StdRng::seed_from_u64(7);
        let letters = ['a', ',', '"', '\n', '\r', ';', ' ', 'é', '\u{feff}', '0'];
        for _ in 0..2_000 {
            let delimiter = [',', ';', '\t'][random.random_range(0..3)];
            let cell = |random: &mut StdRng| -> Option<String> {
                let len = random.random_range(0..5);
                let text = (0..len).map(|_| letters[random.random_range(0..letters.len())]).collect();
                random.random_bool(0.8).then_some(text)
            };
            let row: Vec<Option<String>> =
                (0..random.random_range(1..5)).map(|_| cell(&mut random)).collect();
            let mut text = String::new();
            write_row(&mut text, delimiter, row.iter().map(Option::as_deref));
            let mut reader = Reader::new(text.as_bytes(), delimiter as u8);
            let read = reader.next_row().unwrap().unwrap().unwrap();
            let read = read.into_iter().map(|c| (c.is_quoted || !c.text.is_empty()).then_some(c.text));
            let expected = if row == [None] { vec![Some(String::new())] } else { row };
            assert_eq!(read.collect::<Vec<_>>(), expected, "{text:?}");
            assert_eq!(reader.next_row().unwrap(), None);
        }
    }

    #[test]
    fn a_delimiter_is_one_character() {
        assert_eq!((delimiter(";"), delimiter("tab")), (Ok(b';'), Ok(b'\t')));
        for wrong in ["", "ab", "\"", "\n", "ä"] {
            delimiter(wrong).unwrap_err();
        }
    }
}
