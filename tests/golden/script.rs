//! The language of golden scripts.
//!
//! A script is a list of statements with blank lines between them; lines that begin with `#` are for the reader. A statement is
//! a line of a verb and its words, then what it takes, then `----` and what is expected:
//!
//! ```text
//! create {"fields": {"cpu": "integer"}, "strict": false}
//!
//! upsert
//! 1 {"cpu": 8, "name": "web"}
//! "vm-2" {"cpu": 16}
//!
//! query cpu, name where cpu >= 8
//! ----
//! 1 | 8 | "web"
//! "vm-2" | 16 | -
//!
//! count where cpu = 16
//! ----
//! 1
//!
//! delete where cpu < 10
//! ----
//! 1
//! ```
//!
//! `aggregate` and `search` take the arguments of the commands of these names, all but the collection, and give the table without
//! its last line, and keys with their scores and passages.
//!
//! `create` makes the script's one collection anew. A line of `upsert` is a key and a payload, both JSON. `query` names fields
//! by path, or none, and its rows come by key: JSON, and a dash for what is missing. A refusal is `error:` and its words.

use std::path::{Path, PathBuf};

use flotilla_client::{CollectionSpec, FieldType, Filter, Record};
use serde_json::Value as Json;

/// What a statement does.
pub enum Verb {
    Create(CollectionSpec),
    Upsert(Vec<Record>),
    Delete(Result<Filter, String>),
    Count(Result<Filter, String>),
    Query(Vec<String>, Result<Filter, String>),
    /// As `flotilla aggregate` has it.
    Aggregate(Vec<String>),
    /// As `flotilla search` has it.
    Search(Vec<String>),
}

/// A statement of a script.
pub struct Statement {
    /// Its first line, from 1.
    pub line: usize,
    pub verb: Verb,
    /// What is to be answered, line by line.
    pub expected: Vec<String>,
    /// Its lines up to what is expected.
    head: Vec<String>,
}

/// A file of statements.
pub struct Script {
    pub path: PathBuf,
    parts: Vec<Part>,
}

/// A run of lines between blank ones.
enum Part {
    Remark(Vec<String>),
    Statement(Box<Statement>),
}

impl Script {
    /// Reads a script; panics at a line that is none, which is named.
    pub fn read(path: &Path) -> Script {
        let text = std::fs::read_to_string(path).unwrap();
        let mut parts = Vec::new();
        let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line.trim_end())).peekable();
        while lines.peek().is_some() {
            let block: Vec<(usize, &str)> = lines.by_ref().take_while(|(_, line)| !line.is_empty()).collect();
            if !block.is_empty() {
                parts.extend(part(path, &block));
            }
        }
        Script { path: path.to_owned(), parts }
    }

    /// The name of its collection.
    pub fn name(&self) -> String {
        self.path.file_stem().unwrap().to_string_lossy().into_owned()
    }

    pub fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.parts.iter().filter_map(|part| match part {
            Part::Statement(statement) => Some(&**statement),
            Part::Remark(_) => None,
        })
    }

    /// Writes the script with these answers, one for each statement.
    pub fn write(&self, answers: &[Vec<String>]) {
        let mut answers = answers.iter();
        let mut blocks = Vec::new();
        for part in &self.parts {
            let lines = match part {
                Part::Remark(lines) => lines.clone(),
                Part::Statement(statement) => {
                    let mut lines = statement.head.clone();
                    let answer = answers.next().unwrap();
                    let is_told =
                        !answer.is_empty() || !matches!(statement.verb, Verb::Create(_) | Verb::Upsert(_));
                    if is_told {
                        lines.push("----".to_owned());
                        lines.extend(answer.iter().cloned());
                    }
                    lines
                }
            };
            blocks.push(lines.join("\n"));
        }
        std::fs::write(&self.path, blocks.join("\n\n") + "\n").unwrap();
    }
}

/// The parts of a block: what is said before a statement, and the statement.
fn part(path: &Path, block: &[(usize, &str)]) -> Vec<Part> {
    let remarks = block.iter().take_while(|(_, line)| line.starts_with('#')).count();
    let (remarks, block) = block.split_at(remarks);
    let mut parts = Vec::new();
    let owned =
        |lines: &[(usize, &str)]| lines.iter().map(|(_, line)| (*line).to_owned()).collect::<Vec<String>>();
    let Some((line, first)) = block.first() else { return vec![Part::Remark(owned(remarks))] };
    let rule = block.iter().position(|(_, line)| *line == "----");
    let (head, expected) = block.split_at(rule.unwrap_or(block.len()));
    let at = format!("{}:{line}", path.display());
    let verb = verb(&at, first, &head[1..]);
    let head = [owned(remarks), owned(head)].concat();
    let expected = owned(expected.get(1..).unwrap_or_default());
    parts.push(Part::Statement(Box::new(Statement { line: *line, verb, expected, head })));
    parts
}

fn verb(at: &str, first: &str, body: &[(usize, &str)]) -> Verb {
    let (word, rest) = first.split_once(' ').unwrap_or((first, ""));
    let filter = |rest: &str| {
        let text = rest.strip_prefix("where ").unwrap_or_else(|| panic!("{at}: `{word}` wants `where`"));
        // The picture below an error's first line shows the place: the column says it.
        crate::filter_arg::parse(text).map_err(|why| why.to_string().lines().next().unwrap_or("").to_owned())
    };
    match word {
        "create" => Verb::Create(spec(at, rest)),
        "upsert" => {
            Verb::Upsert(body.iter().map(|(line, text)| record(&format!("{at}+{line}"), text)).collect())
        }
        "delete" => Verb::Delete(filter(rest)),
        "count" => Verb::Count(filter(rest)),
        "query" => {
            let (fields, rest) = rest.split_at(rest.find("where ").unwrap_or(0));
            let fields = fields.split(',').map(str::trim).filter(|field| !field.is_empty());
            Verb::Query(fields.map(str::to_owned).collect(), filter(rest))
        }
        "aggregate" => Verb::Aggregate(words(rest)),
        "search" => Verb::Search(words(rest)),
        other => panic!("{at}: `{other}` is no statement"),
    }
}

/// The words of a command line: apart by spaces, together within single quotes.
fn words(text: &str) -> Vec<String> {
    let (mut words, mut is_quoted) = (vec![String::new()], false);
    for char in text.chars() {
        match char {
            '\'' => is_quoted = !is_quoted,
            ' ' if !is_quoted => words.push(String::new()),
            char => words.last_mut().unwrap().push(char),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn spec(at: &str, text: &str) -> CollectionSpec {
    let json: Json = serde_json::from_str(text).unwrap_or_else(|why| panic!("{at}: {why}"));
    let kind = |word: &Json| {
        let named = word.as_str().and_then(FieldType::named);
        named.unwrap_or_else(|| panic!("{at}: {word} is no type"))
    };
    let fields = json["fields"].as_object().into_iter().flatten();
    CollectionSpec {
        fields: fields.map(|(path, word)| (path.clone(), kind(word))).collect(),
        strict: json["strict"] == true,
        ..CollectionSpec::default()
    }
}

fn record(at: &str, text: &str) -> Record {
    let mut parts = serde_json::Deserializer::from_str(text).into_iter::<Json>();
    let mut next = || {
        parts
            .next()
            .unwrap_or_else(|| panic!("{at}: a key and a payload"))
            .unwrap_or_else(|why| panic!("{at}: {why}"))
    };
    let fields = [("key".to_owned(), next()), ("payload".to_owned(), next())];
    crate::json::record_from(fields.into_iter().collect()).unwrap_or_else(|why| panic!("{at}: {why}"))
}
