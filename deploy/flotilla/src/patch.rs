//! `flotilla patch`: changes fields of records that are there.

use std::io::Write as _;

use anyhow::bail;
use clap::{ArgGroup, Args};
use flotilla_client::{Edit, Patch};
use flotilla_proto::filter::Filter;
use flotilla_proto::record::Value;
use serde_json::json;

use crate::target::{self, Target};
use crate::{filter_arg, json};

/// Arguments of `flotilla patch`.
#[derive(Args, Debug)]
#[command(
    group(ArgGroup::new("records").required(true).args(["key", "filter"])),
    group(ArgGroup::new("change").required(true).multiple(true).args(["set", "unset"])),
    after_help = "Examples:
  flotilla patch --collection vms --key vm-1 --set 'state=\"on\"' --set cpu=8 --unset power.since
  flotilla patch --collection vms --key vm-1 --key vm-2 --set 'tags=[\"pci\"]'
  flotilla patch --collection vms --key vm-1 --if-version 41 --set cpu=8
  flotilla patch --collection vms --filter 'owner = \"platform\" and cpu >= 16' --set size.class='\"large\"'

A path is dotted and steps through maps, which are made where they are missing. A value is JSON: text stands in quotes. By
filter, at most 10,000 records of each partition are changed. Prints one JSON line; records that were not changed stand in
it with the reason:
  {\"patched\": 1, \"conflicted\": 1, \"conflicts\": [{\"key\": \"vm-2\", \"version\": 0, \"reason\": \"there is no record of this key\"}]}"
)]
pub struct PatchArgs {
    #[command(flatten)]
    target: Target,
    /// Collection to change
    #[arg(long, value_name = "NAME")]
    collection: String,
    /// Key of a record: digits are a number, anything else (or text:...) is text; may be repeated
    #[arg(long, value_name = "KEY")]
    key: Vec<String>,
    /// Condition on the records, as text or JSON
    #[arg(long, value_name = "FILTER", value_parser = filter_arg::parse)]
    filter: Option<Filter>,
    /// What a path is set to; may be repeated
    #[arg(long, value_name = "PATH=JSON", value_parser = assignment)]
    set: Vec<(String, Value)>,
    /// Path that goes, with what lies below it; may be repeated
    #[arg(long, value_name = "PATH")]
    unset: Vec<String>,
    /// Only records of this version
    #[arg(long, value_name = "N", requires = "key")]
    if_version: Option<u64>,
}

/// `path=json`.
fn assignment(word: &str) -> Result<(String, Value), String> {
    let (path, value) = word.split_once('=').ok_or("must be PATH=JSON")?;
    let value: serde_json::Value = serde_json::from_str(value).map_err(|why| {
        format!("the value of `{path}` is not JSON ({why}); text stands in quotes: '\"on\"'")
    })?;
    Ok((path.trim().to_owned(), json::value_from(value)))
}

impl PatchArgs {
    /// Changes and prints.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(0, self.patch())
    }

    /// What is to become of the records.
    fn edit(&self) -> anyhow::Result<Edit> {
        let mut edit = Edit { unset: self.unset.clone(), ..Edit::default() };
        for (path, value) in &self.set {
            if edit.set.insert(path.clone(), value.clone()).is_some() {
                bail!("--set names `{path}` twice");
            }
        }
        Ok(edit)
    }

    async fn patch(self) -> anyhow::Result<()> {
        let edit = self.edit()?;
        let client = self.target.client().await?;
        let done = match &self.filter {
            Some(filter) => client.patch_filter(&self.collection, filter, edit).await?,
            None => {
                let of = |word: &String| {
                    let patch = Patch { edit: edit.clone(), ..Patch::new(json::key_from_word(word)) };
                    Patch { if_version: self.if_version, ..patch }
                };
                client.patch(&self.collection, self.key.iter().map(of).collect()).await?
            }
        };
        let conflicts = done.conflicts.iter().map(|conflict| {
            json!({"key": json::key_to(&conflict.key), "version": conflict.version, "reason": conflict.reason})
        });
        let conflicts: Vec<serde_json::Value> = conflicts.collect();
        let line = json!({"patched": done.patched, "conflicted": done.conflicted, "conflicts": conflicts});
        Ok(writeln!(std::io::stdout().lock(), "{line}")?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_assignment_is_a_path_and_json() {
        assert_eq!(assignment("a.b=\"x=y\""), Ok(("a.b".to_owned(), "x=y".into())));
        assert_eq!(assignment("cpu = 8"), Ok(("cpu".to_owned(), 8.into())));
        assert_eq!(assignment("gone=null"), Ok(("gone".to_owned(), Value::Null)));
        assert!(assignment("state=on").unwrap_err().contains("text stands in quotes"));
        assert!(assignment("state").unwrap_err().contains("PATH=JSON"));
    }
}
