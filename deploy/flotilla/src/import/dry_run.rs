//! An import that writes nothing: the collection that would be made, and the rows that would be refused.

use std::collections::BTreeMap;
use std::io::Write as _;

use flotilla_proto::schema::{CollectionSpec, FieldType};
use serde_json::json;

use super::batches::{Batches, Reject};
use super::send::fitting;
use crate::progress::Progress;
use crate::table::{Align, Table};

/// Refused rows that are shown.
const SHOWN_MAX: usize = 10;

/// The declared fields of a collection and their types.
pub fn fields_table(fields: &BTreeMap<String, FieldType>) -> String {
    let mut table = Table::new(&[("field", Align::Left, 60), ("type", Align::Left, 12)]);
    fields.iter().for_each(|(path, kind)| table.row([path.clone(), kind.name().to_owned()]));
    table.render()
}

/// What a dry run found.
#[derive(Debug, Default)]
struct Found {
    rows: u64,
    refused: u64,
    first: Vec<Reject>,
}

/// Reads all batches as an import does, holds each record against the collection, and prints what would be done.
pub fn run(
    mut batches: Batches,
    spec: &CollectionSpec,
    is_new: bool,
    total: Option<u64>,
) -> anyhow::Result<()> {
    let progress = Progress::new("dry run", total);
    let mut found = Found::default();
    while let Some(batch) = batches.next_batch()? {
        progress.advance(batch.rows.end - batch.rows.start);
        found.add(fitting(spec, batch));
    }
    progress.finish();
    let mut out = std::io::stdout().lock();
    Ok(out.write_all(found.told(spec, is_new).as_bytes())?)
}

impl Found {
    fn add(&mut self, batch: super::batches::Batch) {
        self.rows += batch.rows.end - batch.rows.start;
        self.refused += batch.rejects.len() as u64;
        let room = SHOWN_MAX.saturating_sub(self.first.len());
        let mut rejects = batch.rejects;
        rejects.sort_by_key(|reject| reject.place);
        self.first.extend(rejects.into_iter().take(room));
    }

    fn told(&self, spec: &CollectionSpec, is_new: bool) -> String {
        let verb = if is_new { "would be created" } else { "is there" };
        let mut text = format!("collection `{}` {verb}: {} declared fields\n", spec.name, spec.fields.len());
        if !spec.fields.is_empty() {
            text.push_str(&fields_table(&spec.fields));
        }
        for (name, vector) in &spec.vectors {
            let (form, distance) = (vector.form, vector.distance);
            text.push_str(&format!("vector `{name}`: {} dimensions, {form:?}, {distance:?}\n", vector.dims));
        }
        for reject in &self.first {
            text.push_str(&format!("would be refused, {}: {}\n", reject.place, reject.reason));
        }
        let line = json!({"dry_run": true, "records": self.rows - self.refused, "rejected": self.refused});
        text.push_str(&format!("{line}\n"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::super::records::Records;
    use super::*;

    #[test]
    fn what_would_be_done_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.csv");
        std::fs::write(&path, "id,cpu\n1,2\n2\n3,4\n").unwrap();
        let mut batches = Batches::new(Records::open(&path).unwrap(), None, Some("id".into()), 10);
        let fields = [("cpu".to_owned(), FieldType::Integer)].into();
        let spec = CollectionSpec { name: "vms".into(), fields, ..CollectionSpec::default() };
        let mut found = Found::default();
        while let Some(batch) = batches.next_batch().unwrap() {
            found.add(fitting(&spec, batch));
        }
        let expected = "collection `vms` would be created: 1 declared fields\n  field  type\n  ─────  ───────\n  \
                        cpu    integer\nwould be refused, line 3: 1 cells, the header names 2\n\
                        {\"dry_run\":true,\"records\":2,\"rejected\":1}\n";
        assert_eq!(found.told(&spec, true), expected);
    }
}
