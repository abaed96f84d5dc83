//! From YAML text to values by dotted key, each with the line it stands on.

use serde_yaml_ng::Value;

use super::keys::{self, Key};
use super::member::{Shard, distinct};
use super::{Problem, Setting, setting_from_text};

/// What a file sets, in its order, and what is wrong in it.
#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) settings: Vec<(&'static Key, Setting, String)>,
    pub(super) problems: Vec<Problem>,
}

/// Reads `text`; `name` is the file's name in messages.
pub(super) fn parse(name: &str, text: &str) -> Parsed {
    let mut parsed = Parsed::default();
    match serde_yaml_ng::from_str::<Value>(text) {
        Ok(Value::Null) => {}
        Ok(root) => walk(&Source { name, text }, "", &root, &mut parsed),
        Err(error) => {
            let line = error.location().map_or(String::new(), |at| format!(":{}", at.line()));
            parsed.problems.push(Problem::new(format!("{name}{line}"), format!("not YAML: {error}")));
        }
    }
    parsed
}

struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

impl Source<'_> {
    fn place(&self, path: &str) -> String {
        match line_of(self.text, path) {
            Some(line) => format!("{}:{line}", self.name),
            None => self.name.to_owned(),
        }
    }
}

fn walk(source: &Source, path: &str, value: &Value, parsed: &mut Parsed) {
    let Value::Mapping(fields) = value else {
        if !value.is_null() {
            let what = if path.is_empty() { "the file" } else { path };
            parsed.problem(source, path, format!("{what}: expected keys nested in it, got {}", shown(value)));
        }
        return;
    };
    for (name, value) in fields {
        let Some(name) = name.as_str() else {
            parsed.problem(source, path, format!("a key must be text, got {}", shown(name)));
            continue;
        };
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        enter(source, &path, value, parsed);
    }
}

fn enter(source: &Source, path: &str, value: &Value, parsed: &mut Parsed) {
    if let Some(key) = keys::find(path) {
        match setting(key, value) {
            Ok(Some(setting)) => parsed.settings.push((key, setting, source.place(path))),
            Ok(None) => {}
            Err(why) => parsed.problem(source, path, format!("{path}: {why}")),
        }
    } else if keys::is_section(path) {
        walk(source, path, value, parsed);
    } else {
        let leaf = first_leaf(path, value);
        let hint = keys::nearest(&leaf).map_or(String::new(), |known| format!("; did you mean `{known}`?"));
        parsed.problem(source, path, format!("unknown key `{leaf}`{hint}"));
    }
}

impl Parsed {
    fn problem(&mut self, source: &Source, path: &str, what: String) {
        self.problems.push(Problem::new(source.place(path), what));
    }
}

/// The value of `key`; `None` for an empty one, which leaves the default.
fn setting(key: &Key, value: &Value) -> Result<Option<Setting>, String> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::Sequence(list) if key.kind == keys::Kind::Shards => return shards(list).map(Some),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) if !matches!(key.kind, keys::Kind::Number { .. }) => text.clone(),
        other => return Err(format!("expected {}, got {}", key.kind.legal(), shown(other))),
    };
    setting_from_text(key, &text).map(Some)
}

/// The entries of `cluster.shards`.
fn shards(list: &[Value]) -> Result<Setting, String> {
    let shard = |(at, entry): (usize, &Value)| {
        let fields = entry.as_mapping().ok_or_else(|| format!("{at}: expected {{id, address, weight}}"))?;
        let known = ["id", "address", "weight"];
        if let Some((other, _)) = fields.iter().find(|(name, _)| !known.iter().any(|known| *name == known)) {
            return Err(format!("{at}: unknown {}; must be id, address or weight", named(other)));
        }
        let id = fields.get("id").ok_or_else(|| format!("{at}: id is missing"))?;
        let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let number = number.ok_or_else(|| format!("{at}: id must be a whole number, got {}", shown(id)))?;
        let address = fields.get("address").and_then(Value::as_str);
        let address = address.ok_or_else(|| format!("{at}: address is missing"))?;
        let weight = match fields.get("weight") {
            Some(weight) => weight.as_f64().ok_or_else(|| format!("{at}: weight must be a number"))?,
            None => 1.0,
        };
        Shard::new(number, address, weight).map_err(|why| format!("{at}: {why}"))
    };
    let shards = list.iter().enumerate().map(shard).collect::<Result<Vec<_>, _>>()?;
    distinct(&shards).map(|()| Setting::Shards(shards))
}

fn named(value: &Value) -> String {
    value.as_str().map_or_else(|| shown(value), |text| format!("`{text}`"))
}

fn shown(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => format!("the text \"{text}\""),
        Value::Sequence(_) => "a list".to_owned(),
        Value::Mapping(_) => "nested keys".to_owned(),
        Value::Tagged(_) => "a tagged value".to_owned(),
    }
}

fn first_leaf(path: &str, value: &Value) -> String {
    match value.as_mapping().and_then(|fields| fields.iter().next()) {
        Some((Value::String(name), inner)) => first_leaf(&format!("{path}.{name}"), inner),
        _ => path.to_owned(),
    }
}

/// The line, from 1, on which the dotted `path` stands in block-style YAML. `None` for keys in braces.
fn line_of(text: &str, path: &str) -> Option<usize> {
    let mut open: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let content = line.trim_start();
        let Some((name, _)) = content.split_once(':').filter(|_| !content.starts_with('#')) else { continue };
        let indent = line.len() - content.len();
        open.retain(|(outer, _)| *outer < indent);
        open.push((indent, name.trim().trim_matches(['"', '\'']).to_owned()));
        if open.iter().map(|(_, name)| name.as_str()).eq(path.split('.')) {
            return Some(number + 1);
        }
    }
    None
}
