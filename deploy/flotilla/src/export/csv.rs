//! Exports as CSV: a column for the key, one for each field, one for each vector.
//!
//! Which fields there are is found in a first pass over the records ([`Seen`]), or named by the user. A field that appears
//! only in the second pass ends the export: to leave it out silently would be a lie. Fields that were named are what is
//! wanted, and no others are looked for. Empty maps and nulls are left out; a field whose name has a dot cannot be told from
//! a path and is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;

use anyhow::{bail, ensure};
use flotilla_proto::record::Record;
use flotilla_proto::schema::check_path;

use super::out::Out;
use crate::cells::{cell, leaves, reached};
use crate::csv::{CELLS_MAX, write_row};
use crate::json;

/// The paths that records hold, in a first pass.
#[derive(Debug, Default)]
pub struct Seen(BTreeSet<String>);

impl Seen {
    /// With those that are declared.
    pub fn new<'a>(declared: impl Iterator<Item = &'a String>) -> Seen {
        Seen(declared.cloned().collect())
    }

    /// Looks at one more record.
    ///
    /// # Errors
    /// A name that has a dot, and more paths than a row has cells.
    pub fn add(&mut self, record: &Record) -> anyhow::Result<()> {
        let paths = &mut self.0;
        let each = &mut |path: &str, _: &_| {
            if !paths.contains(path) && paths.len() <= CELLS_MAX {
                paths.insert(path.to_owned());
            }
        };
        if let Err(at) = leaves(&record.payload, each) {
            bail!(
                "record `{}`: the field name at `{at}` is no step of a path; export jsonl, or name the --fields",
                record.key
            );
        }
        ensure!(
            paths.len() <= CELLS_MAX,
            "the records have more than {CELLS_MAX} fields, the limit of columns: name the --fields"
        );
        Ok(())
    }
}

/// The columns of a file.
#[derive(Debug)]
pub struct Columns {
    key: String,
    /// Paths of fields, in order.
    fields: Vec<String>,
    /// Whether any other field is an error.
    is_all: bool,
    vectors: Vec<String>,
}

impl Columns {
    /// Of fields that the user named.
    pub fn named(key: &str, fields: &[String], vectors: &[&String]) -> anyhow::Result<Columns> {
        for path in fields {
            check_path("--fields", path).map_err(|why| anyhow::anyhow!("--fields: {}", why.description))?;
        }
        Columns { key: key.to_owned(), fields: fields.to_vec(), is_all: false, vectors: owned(vectors) }
            .checked()
    }

    /// Of all fields that were seen.
    pub fn seen(key: &str, seen: Seen, vectors: &[&String]) -> anyhow::Result<Columns> {
        let fields = seen.0.into_iter().collect();
        Columns { key: key.to_owned(), fields, is_all: true, vectors: owned(vectors) }.checked()
    }

    fn names(&self) -> impl Iterator<Item = String> {
        let vectors = self.vectors.iter().map(|name| format!("vector:{name}"));
        [self.key.clone()].into_iter().chain(self.fields.iter().cloned()).chain(vectors)
    }

    fn checked(self) -> anyhow::Result<Columns> {
        let mut known = BTreeMap::new();
        for (at, name) in self.names().enumerate() {
            if let Some(other) = known.insert(name.clone(), at) {
                let what = if other == 0 { "the key and a field" } else { "two columns" };
                bail!("{what} would both be in column `{name}`; --key-column names that of the keys");
            }
        }
        ensure!(known.len() <= CELLS_MAX, "{} columns, the limit is {CELLS_MAX}", known.len());
        Ok(self)
    }
}

fn owned(names: &[&String]) -> Vec<String> {
    names.iter().map(|name| (*name).clone()).collect()
}

/// A file being written.
pub struct Csv {
    out: Out,
    columns: Columns,
    row: String,
}

impl Csv {
    /// Writes the header.
    pub fn begin(mut out: Out, columns: Columns) -> anyhow::Result<Csv> {
        let (mut row, names) = (String::new(), columns.names().collect::<Vec<String>>());
        write_row(&mut row, ',', names.iter().map(|name| Some(name.as_str())));
        out.write_all(row.as_bytes())?;
        Ok(Csv { out, columns, row })
    }

    /// Writes a record.
    pub fn write(&mut self, record: &Record) -> anyhow::Result<()> {
        let fields = if self.columns.is_all { self.all(record)? } else { self.named(record) };
        let vector =
            |name: &String| record.vectors.get(name).map(|vector| json::vector_to(vector).to_string());
        let vectors = self.columns.vectors.iter().map(vector);
        let cells: Vec<Option<String>> =
            [Some(record.key.to_string())].into_iter().chain(fields).chain(vectors).collect();
        self.row.clear();
        write_row(&mut self.row, ',', cells.iter().map(Option::as_deref));
        Ok(self.out.write_all(self.row.as_bytes())?)
    }

    fn named(&self, record: &Record) -> Vec<Option<String>> {
        let paths = self.columns.fields.iter();
        paths.map(|path| reached(&record.payload, path).as_ref().and_then(cell)).collect()
    }

    fn all(&self, record: &Record) -> anyhow::Result<Vec<Option<String>>> {
        let paths = &self.columns.fields;
        let (mut cells, mut stranger) = (vec![None; paths.len()], None);
        let each = &mut |path: &str, value: &_| match paths.binary_search_by(|known| known.as_str().cmp(path))
        {
            Ok(at) => cells[at] = cell(value),
            Err(_) => stranger = Some(path.to_owned()),
        };
        if let Some(path) = leaves(&record.payload, each).err().or(stranger) {
            bail!(
                "record `{}` has the field `{path}`, which came while the records were read: export again, or \
                 name the --fields",
                record.key
            );
        }
        Ok(cells)
    }

    /// Ends the file; returns its bytes.
    pub fn finish(self) -> anyhow::Result<u64> {
        self.out.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(records: &[Record], columns: Columns) -> anyhow::Result<String> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("f.csv");
        let mut csv = Csv::begin(Out::begin(&path)?, columns)?;
        records.iter().try_for_each(|record| csv.write(record))?;
        csv.finish()?;
        Ok(std::fs::read_to_string(path)?)
    }

    fn seen(records: &[Record]) -> Seen {
        let mut seen = Seen::new([String::from("declared")].iter());
        records.iter().for_each(|record| seen.add(record).unwrap());
        seen
    }

    fn records() -> Vec<Record> {
        let owner = [("team".to_owned(), "core, \"one\"".into())].into();
        let mut first = Record::new(7).field("cpu", 8).field("tag", "").vector("v", vec![0.5, 1.0]);
        first.payload.insert("owner".to_owned(), flotilla_proto::record::Value::Map(owner));
        vec![first, Record::new("k").field("cpu", 1.0).field("on", true)]
    }

    #[test]
    fn fields_that_were_seen_are_columns() {
        let records = records();
        let columns = Columns::seen("key", seen(&records), &[&"v".to_owned()]).unwrap();
        let expected = "key,cpu,declared,on,owner.team,tag,vector:v\n\
                        7,8,,,\"core, \"\"one\"\"\",\"\",\"[0.5,1.0]\"\nk,1.0,,true,,,\n";
        assert_eq!(file(&records, columns).unwrap(), expected);
    }

    #[test]
    fn fields_that_are_named_are_columns_in_that_order() {
        let named = Columns::named("id", &["owner.team".into(), "cpu".into(), "no".into()], &[]).unwrap();
        let expected = "id,owner.team,cpu,no\n7,\"core, \"\"one\"\"\",8,\nk,,1.0,\n";
        assert_eq!(file(&records(), named).unwrap(), expected);
    }

    #[test]
    fn what_a_column_cannot_hold_is_refused() {
        let late = Columns::seen("key", seen(&records()[1..]), &[]).unwrap();
        let why = file(&records(), late).unwrap_err().to_string();
        assert!(why.starts_with("record `7` has the field `tag`, which came while"), "{why}");
        let dotted = Record::new(1).field("a.b", 1);
        let why = Seen::default().add(&dotted).unwrap_err().to_string();
        assert!(why.starts_with("record `1`: the field name at `a.b` is no step of a path"), "{why}");
        let twice = Columns::named("cpu", &["cpu".into()], &[]).unwrap_err().to_string();
        assert!(twice.starts_with("the key and a field would both be in column `cpu`"), "{twice}");
        Columns::named("key", &["a..b".into()], &[]).unwrap_err();
    }
}
