//! Records from CSV: the first row names the columns, each row after it is a record.
//!
//! A column's name is the path of a field: `owner.team` becomes the field `team` of the map `owner`. A cell that is empty is
//! absent, but for a quoted one (`""`) in a column of text, which is empty text. Quotes say nothing else about a type.
//!
//! **Types belong to columns.** A field that the collection declares has the declared type. Any other column is what all of its
//! cells are: whole numbers, numbers, `true` and `false` (in any case), else text; points in time are text, as everywhere in
//! payloads. Numbers with leading zeros or a plus sign, and whole numbers beyond 64 bits, are text: they are numbers of
//! parts, houses and phones, which would not come back as they were. A cell that does not fit its column is a bad row.

use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context as _, bail, ensure};
use flotilla_proto::record::{Payload, Value};
use flotilla_proto::schema::{FieldType, check_path};

use super::records::{BadRow, Row};
use super::source::Input;
use crate::csv::{BadCells, Cell, Reader};
use crate::table::cut;

/// Bytes of rows kept to tell the types of standard input, at most.
const SAMPLE_BYTES: usize = 32 << 20;
/// Characters of a wrong cell that a message shows.
const SHOWN: usize = 64;

/// What the cells of a column are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Integer,
    Float,
    Bool,
    Text,
    /// Text, or whole milliseconds; only where it is declared.
    Datetime,
    /// JSON; only where it is declared.
    Point,
}

/// The types of columns: those declared by name, and those that the cells showed, in the header's order.
#[derive(Clone, Debug, Default)]
pub struct Kinds {
    declared: BTreeMap<String, Kind>,
    seen: Vec<Kind>,
}

/// What the cells of a column could be.
#[derive(Clone, Copy, Debug, Default)]
struct Guess {
    cells: u64,
    integers: u64,
    floats: u64,
    bools: u64,
}

/// A column: its name as a path, and its type.
#[derive(Debug)]
struct Column {
    name: String,
    steps: Vec<String>,
    kind: Kind,
}

/// A file being read from front to back.
pub struct Csv {
    rows: Reader<Input>,
    columns: Vec<Column>,
    /// Rows read ahead for their types, each with its line.
    ahead: VecDeque<(u64, Result<Vec<Cell>, BadRow>)>,
    line: u64,
}

impl Kinds {
    /// The types that a collection declares.
    pub fn declared(fields: &BTreeMap<String, FieldType>) -> Kinds {
        let kind = |kind: &FieldType| match kind {
            FieldType::Integer => Kind::Integer,
            FieldType::Float => Kind::Float,
            FieldType::Bool => Kind::Bool,
            FieldType::Datetime => Kind::Datetime,
            FieldType::Geo => Kind::Point,
            FieldType::Keyword | FieldType::Text | FieldType::TextIn(_) | FieldType::Uuid => Kind::Text,
        };
        let declared = fields.iter().map(|(path, of)| (path.clone(), kind(of)));
        Kinds { declared: declared.collect(), seen: Vec::new() }
    }

    /// Looks at every row and remembers what the columns are; returns how many rows there are, bad ones too.
    pub fn look(&mut self, input: Input, delimiter: u8) -> anyhow::Result<u64> {
        let mut reader = Reader::new(input, delimiter);
        let mut guesses = vec![Guess::default(); header(&mut reader)?.len()];
        let mut rows = 0;
        while let Some(row) = reader.next_row()? {
            rows += 1;
            if let Ok(cells) = row {
                guess(&mut guesses, &cells);
            }
        }
        self.seen = guesses.iter().map(Guess::kind).collect();
        Ok(rows)
    }
}

fn guess(guesses: &mut [Guess], cells: &[Cell]) {
    guesses.iter_mut().zip(cells).for_each(|(guess, cell)| guess.add(&cell.text));
}

impl Guess {
    fn add(&mut self, text: &str) {
        if text.is_empty() {
            return;
        }
        self.cells += 1;
        if is_whole(text) {
            self.integers += 1;
        } else if is_float(text) {
            self.floats += 1;
        } else if truth(text).is_some() {
            self.bools += 1;
        }
    }

    fn kind(&self) -> Kind {
        match self.cells {
            0 => Kind::Text,
            n if n == self.integers => Kind::Integer,
            n if n == self.integers + self.floats => Kind::Float,
            n if n == self.bools => Kind::Bool,
            _ => Kind::Text,
        }
    }
}

/// Whether it is a whole number of 64 bits that is written as this text and no other.
fn is_whole(text: &str) -> bool {
    text.parse::<i64>().is_ok_and(|number| number.to_string() == text)
}

/// Whether it is a number with a fraction or an exponent, written as programs write one.
fn is_float(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leads = digits.starts_with('0') && digits.chars().nth(1).is_some_and(|c| c.is_ascii_digit());
    let legal = |c: char| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-');
    digits.starts_with(|c: char| c.is_ascii_digit())
        && !leads
        && digits.contains(['.', 'e', 'E'])
        && digits.chars().all(legal)
        && text.parse::<f64>().is_ok_and(f64::is_finite)
}

/// Points as JSON; whether they lie on the earth is the collection's to say.
fn point(text: &str) -> Option<Value> {
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    (json.is_object() || json.is_array()).then(|| crate::json::value_from(json))
}

fn truth(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// The names of the columns, each a path that no other one leads through.
fn header(reader: &mut Reader<Input>) -> anyhow::Result<Vec<String>> {
    let row = reader.next_row()?.context("is empty: its first row names the columns")?;
    let line = reader.line();
    let cells = row.map_err(|BadCells(why)| anyhow::anyhow!("line {line}, the header: {why}"))?;
    let names: Vec<String> = cells.into_iter().map(|cell| cell.text.trim().to_owned()).collect();
    let mut known: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, name) in names.iter().enumerate() {
        let column = at + 1;
        check_path("name", name).map_err(|why| {
            anyhow::anyhow!("line {line}, column {column} of the header: {}", why.description)
        })?;
        if let Some(other) = known.insert(name, column) {
            bail!("line {line}: columns {other} and {column} of the header are both called `{name}`");
        }
    }
    for name in &names {
        let above =
            name.match_indices('.').map(|(dot, _)| &name[..dot]).find(|above| known.contains_key(above));
        if let Some(above) = above {
            bail!("line {line}: column `{above}` cannot hold values and the field of column `{name}`");
        }
    }
    Ok(names)
}

impl Csv {
    /// Opens an input at its first row. Types that `kinds` does not know are those of the first `sample` rows.
    ///
    /// # Errors
    /// The input's, and a header that does not name columns.
    pub fn open(input: Input, delimiter: u8, kinds: Kinds, sample: usize) -> anyhow::Result<Csv> {
        let mut rows = Reader::new(input, delimiter);
        let names = header(&mut rows)?;
        let mut csv = Csv { rows, columns: Vec::new(), ahead: VecDeque::new(), line: 0 };
        let seen = if sample > 0 { csv.sample(names.len(), sample)? } else { kinds.seen };
        ensure!(seen.len() == names.len(), "the header has changed since the file was looked through");
        let column = |(name, seen): (String, Kind)| Column {
            steps: name.split('.').map(str::to_owned).collect(),
            kind: kinds.declared.get(&name).copied().unwrap_or(seen),
            name,
        };
        csv.columns = names.into_iter().zip(seen).map(column).collect();
        Ok(csv)
    }

    fn sample(&mut self, columns: usize, rows: usize) -> anyhow::Result<Vec<Kind>> {
        let (mut guesses, mut bytes) = (vec![Guess::default(); columns], 0);
        while self.ahead.len() < rows && bytes < SAMPLE_BYTES {
            let Some(row) = self.read()? else { break };
            if let Ok(cells) = &row {
                guess(&mut guesses, cells);
                bytes += cells.iter().map(|cell| cell.text.len() + size_of::<Cell>()).sum::<usize>();
            }
            self.ahead.push_back((self.rows.line(), row));
        }
        Ok(guesses.iter().map(Guess::kind).collect())
    }

    fn read(&mut self) -> anyhow::Result<Option<Result<Vec<Cell>, BadRow>>> {
        let Some(row) = self.rows.next_row()? else { return Ok(None) };
        Ok(Some(row.map_err(|BadCells(why)| BadRow::new(why, self.rows.raw()))))
    }

    /// The line in which the last row began.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The next row; `None` at the end.
    pub fn next_row(&mut self) -> anyhow::Result<Option<Row>> {
        let row = match self.ahead.pop_front() {
            Some((line, row)) => {
                self.line = line;
                row
            }
            None => {
                let Some(row) = self.read()? else { return Ok(None) };
                self.line = self.rows.line();
                row
            }
        };
        Ok(Some(row.and_then(|cells| self.payload(cells))))
    }

    fn payload(&self, cells: Vec<Cell>) -> Row {
        if cells.len() != self.columns.len() {
            let why = format!("{} cells, the header names {}", cells.len(), self.columns.len());
            return Err(bad(why, &cells));
        }
        let mut payload = Payload::new();
        for (column, cell) in self.columns.iter().zip(&cells) {
            match column.kind.value(cell) {
                Ok(Some(value)) => put(&mut payload, &column.steps, value),
                Ok(None) => {}
                Err(what) => {
                    let (name, shown) = (&column.name, cut(&cell.text, SHOWN));
                    return Err(bad(format!("column `{name}`: {shown:?} is not {what}"), &cells));
                }
            }
        }
        Ok(payload)
    }
}

/// A row of these cells that is no record, told as the row would be written.
fn bad(why: String, cells: &[Cell]) -> BadRow {
    let mut row = String::new();
    let cells =
        cells.iter().map(|cell| (cell.is_quoted || !cell.text.is_empty()).then_some(cell.text.as_str()));
    crate::csv::write_row(&mut row, ',', cells);
    BadRow::new(why, row.as_bytes())
}

impl Kind {
    /// The value of a cell, nothing if it is absent, or what it should have been.
    fn value(self, cell: &Cell) -> Result<Option<Value>, &'static str> {
        let text = cell.text.as_str();
        if text.is_empty() && !(self == Kind::Text && cell.is_quoted) {
            return Ok(None);
        }
        let whole = || text.parse().ok().map(Value::Int);
        let float = || text.parse().ok().filter(|x: &f64| x.is_finite()).map(Value::Float);
        let value = match self {
            Kind::Integer => whole().ok_or("a whole number of 64 bits")?,
            Kind::Float => whole().or_else(float).ok_or("a finite number")?,
            Kind::Bool => truth(text).map(Value::Bool).ok_or("true or false")?,
            Kind::Datetime => whole().unwrap_or_else(|| Value::Text(text.to_owned())),
            Kind::Point => {
                point(text).ok_or("a point, {\"lat\": .., \"lon\": ..} or [lon, lat], or a list of them")?
            }
            Kind::Text => Value::Text(text.to_owned()),
        };
        Ok(Some(value))
    }
}

/// Puts a value at the end of a path; the header has no path that leads through a value.
fn put(payload: &mut Payload, steps: &[String], value: Value) {
    match steps {
        [] => {}
        [last] => {
            payload.insert(last.clone(), value);
        }
        [first, rest @ ..] => {
            let inner = payload.entry(first.clone()).or_insert_with(|| Value::Map(Payload::new()));
            if let Value::Map(fields) = inner {
                put(fields, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Cursor};

    use super::*;

    fn input(text: &str) -> Input {
        BufReader::new(Box::new(Cursor::new(text.as_bytes().to_vec())))
    }

    fn open(text: &str, declared: &[(&str, FieldType)]) -> Csv {
        let declared = declared.iter().map(|(path, kind)| ((*path).to_owned(), *kind)).collect();
        let mut kinds = Kinds::declared(&declared);
        kinds.look(input(text), b',').unwrap();
        Csv::open(input(text), b',', kinds, 0).unwrap()
    }

    fn rows(mut csv: Csv) -> Vec<Result<String, String>> {
        let next = || csv.next_row().unwrap();
        let shown = |row: Row| row.map(|p| crate::json::payload_to(&p).to_string()).map_err(|bad| bad.reason);
        std::iter::from_fn(next).map(shown).collect()
    }

    #[test]
    fn columns_have_the_type_that_all_cells_agree_on() {
        let text = "id,f,b,t,zip,big,owner.team,when,none\n\
                    1,2,TRUE,x,01234,1,core,2026-01-02T03:04:05Z,\n\
                    -5,2.50,false,\"\",10115,12345678901234567890,,2026-01-02T03:04:05Z,\n";
        let expected = [
            r#"{"b":true,"big":"1","f":2,"id":1,"owner":{"team":"core"},"t":"x","when":"2026-01-02T03:04:05Z","zip":"01234"}"#,
            r#"{"b":false,"big":"12345678901234567890","f":2.5,"id":-5,"t":"","when":"2026-01-02T03:04:05Z","zip":"10115"}"#,
        ];
        assert_eq!(rows(open(text, &[])), expected.map(|row| Ok(row.to_owned())));
        let sampled = Csv::open(input(text), b',', Kinds::default(), 5).unwrap();
        assert_eq!(rows(sampled), expected.map(|row| Ok(row.to_owned())));
    }

    #[test]
    fn declared_types_go_before_what_cells_show() {
        let declared = [("zip", FieldType::Keyword), ("n", FieldType::Integer), ("at", FieldType::Datetime)];
        let got = rows(open("zip,n,at\n10115,007,1000\n1,many,2026-01-02T03:04:05Z\n", &declared));
        assert_eq!(got[0], Ok(r#"{"at":1000,"n":7,"zip":"10115"}"#.to_owned()));
        assert_eq!(got[1], Err("column `n`: \"many\" is not a whole number of 64 bits".to_owned()));
    }

    #[test]
    fn points_are_json_or_columns_of_their_own() {
        let text = "at;office.lat;office.lon\n[13.5, 52];52.5;13\n\"{\"\"lat\"\": 1, \"\"lon\"\": 2}\";;\n13.5,52;;\n";
        let declared = [("at".to_owned(), FieldType::Geo), ("office".to_owned(), FieldType::Geo)].into();
        let mut kinds = Kinds::declared(&declared);
        kinds.look(input(text), b';').unwrap();
        let got = rows(Csv::open(input(text), b';', kinds, 0).unwrap());
        assert_eq!(got[0], Ok(r#"{"at":[13.5,52],"office":{"lat":52.5,"lon":13}}"#.to_owned()));
        assert_eq!(got[1], Ok(r#"{"at":{"lat":1,"lon":2}}"#.to_owned()));
        let why = got[2].as_ref().unwrap_err();
        assert!(why.starts_with("column `at`: \"13.5,52\" is not a point"), "{why}");
    }

    #[test]
    fn what_comes_after_the_sample_and_does_not_fit_is_a_bad_row() {
        let csv = Csv::open(input("a\n1\n2\nx\n3\n"), b',', Kinds::default(), 2).unwrap();
        let got = rows(csv);
        assert_eq!(got[2], Err("column `a`: \"x\" is not a whole number of 64 bits".to_owned()));
        assert_eq!(got[3], Ok(r#"{"a":3}"#.to_owned()));
    }

    #[test]
    fn rows_are_as_wide_as_the_header_and_tell_their_line() {
        let mut csv = open("a,b\n1,2\n\n1\n1,2,3\n\"x\ny\",4\n", &[]);
        let mut told = Vec::new();
        while let Some(row) = csv.next_row().unwrap() {
            told.push((csv.line(), row.map_err(|bad| (bad.reason, bad.text))));
        }
        let lines: Vec<u64> = told.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [2, 4, 5, 6]);
        assert_eq!(told[1].1, Err(("1 cells, the header names 2".to_owned(), "1".to_owned())));
        assert_eq!(told[2].1, Err(("3 cells, the header names 2".to_owned(), "1,2,3".to_owned())));
        assert!(told[3].1.is_ok());
    }

    #[test]
    fn a_header_names_paths_and_each_once() {
        for (text, expected) in [
            ("", "is empty: its first row names the columns"),
            ("a,,b\n", "line 1, column 2 of the header: `` is not a dotted path: a step is empty"),
            ("a,b,a\n", "line 1: columns 1 and 3 of the header are both called `a`"),
            (
                "\nowner,x,owner.team\n",
                "line 2: column `owner` cannot hold values and the field of column `owner.team`",
            ),
            ("a,\"b\n", "line 1, the header: cell 2 begins with a quote that is never closed"),
        ] {
            let why = Kinds::default().look(input(text), b',').unwrap_err().to_string();
            assert_eq!(why, expected, "{text:?}");
        }
    }
}
