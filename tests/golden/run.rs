//! Running the scripts: the same statements over every way that a database may hold the records.

use std::path::{Path, PathBuf};

use flotilla_client::{Client, CollectionSpec, Error, Filter, Kind, Scan, With};
use futures::TryStreamExt as _;

use super::script::{Script, Statement, Verb};
use super::{open, sealed};
use crate::cells::reached;
use crate::json;

/// The environment variable that has answers written down.
const VARIABLE: &str = "FLOTILLA_GOLDEN";
/// More rows than a script has.
const NEVER: usize = 1 << 20;

/// A way to hold the records.
#[derive(Clone, Copy, Debug)]
struct Way {
    partitions: u32,
    is_sealed: bool,
}

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/scripts");
    let entries = std::fs::read_dir(folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "test"));
    paths.sort();
    paths
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_script_is_answered_as_written_down_however_the_records_are_held() {
    let paths = scripts();
    assert!(paths.len() >= 12, "{} scripts", paths.len());
    let mut is_first = std::env::var(VARIABLE).is_ok_and(|word| word == "write");
    let mut wrong = Vec::new();
    for is_sealed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let running = open(dir.path(), if is_sealed { 1 } else { NEVER }).await;
        let client = running.client();
        for partitions in [1, 4] {
            let way = Way { partitions, is_sealed };
            for path in &paths {
                let script = Script::read(path);
                let answers = answers(&client, &script, way).await;
                if is_first {
                    script.write(&answers);
                } else {
                    wrong.extend(differences(&script, &answers, way));
                }
            }
            is_first = false;
        }
        drop(client);
        running.stop().await.unwrap();
    }
    assert!(
        wrong.is_empty(),
        "{} answers differ ({VARIABLE}=write writes them down)\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn differences(script: &Script, answers: &[Vec<String>], way: Way) -> Vec<String> {
    let name = script.path.file_name().unwrap().to_string_lossy().into_owned();
    let pairs = script.statements().zip(answers).filter(|(statement, got)| statement.expected != **got);
    let told = |(statement, got): (&Statement, &Vec<String>)| {
        let lines = |lines: &[String]| lines.iter().map(|line| format!("\n    {line}")).collect::<String>();
        let (line, expected) = (statement.line, lines(&statement.expected));
        format!("{name}:{line}: {way:?}\n  got{}\n  expected{expected}", lines(got))
    };
    pairs.map(told).collect()
}

/// What each statement answers, line by line.
async fn answers(client: &Client, script: &Script, way: Way) -> Vec<Vec<String>> {
    let name = format!("{}-{}", script.name(), way.partitions);
    let mut answers = Vec::new();
    for statement in script.statements() {
        let answer = answer(client, &name, &statement.verb, way).await;
        // The collection has a name for each way; what is written down has none.
        answers.push(answer.unwrap_or_else(|why| vec![format!("error: {}", why.replace(&name, "c"))]));
    }
    answers
}

async fn answer(client: &Client, name: &str, verb: &Verb, way: Way) -> Result<Vec<String>, String> {
    let told = |error: Error| error.to_string();
    let lines = match verb {
        Verb::Create(spec) => {
            match client.delete_collection(name).await {
                Err(error) if error.kind() != &Kind::NotFound => return Err(told(error)),
                _ => {}
            }
            let spec = CollectionSpec { name: name.to_owned(), partitions: way.partitions, ..spec.clone() };
            client.create_collection(&spec).await.map_err(told)?;
            Vec::new()
        }
        Verb::Upsert(records) => {
            client.upsert(name, records.clone()).await.map_err(told)?;
            if way.is_sealed {
                sealed(client, name).await;
            }
            Vec::new()
        }
        Verb::Delete(filter) => {
            vec![client.delete_filter(name, filter.as_ref()?).await.map_err(told)?.deleted.to_string()]
        }
        Verb::Count(filter) => {
            vec![client.count(name, Some(filter.as_ref()?)).await.map_err(told)?.count.to_string()]
        }
        Verb::Aggregate(arguments) => {
            let asked = crate::aggregate::AggregateArgs::lines(client, &of(name, arguments)).await;
            asked.map_err(|why| why.to_string())?
        }
        Verb::Search(arguments) => {
            let asked = crate::search::SearchArgs::lines(client, &of(name, arguments)).await;
            asked.map_err(|why| why.to_string())?
        }
        Verb::Query(fields, filter) => rows(client, name, fields, filter.as_ref()?).await.map_err(told)?,
    };
    Ok(lines)
}

/// The arguments, about this collection.
fn of(name: &str, arguments: &[String]) -> Vec<String> {
    ["--collection", name].into_iter().map(str::to_owned).chain(arguments.iter().cloned()).collect()
}

async fn rows(client: &Client, name: &str, fields: &[String], filter: &Filter) -> Result<Vec<String>, Error> {
    let scan = Scan::new().filter(filter.clone()).with(With::PAYLOAD);
    let records: Vec<_> = client.scan_all(name, scan).await?.try_collect().await?;
    let counted = client.count(name, Some(filter)).await?.count;
    assert_eq!(counted, records.len() as u64, "a count and a scan differ: {name} {filter:?}");
    let cell = |value: Option<flotilla_client::Value>| {
        value.map_or("-".to_owned(), |v| json::value_to(&v).to_string())
    };
    let row = |record: &flotilla_client::Record| {
        let cells = fields.iter().map(|path| cell(reached(&record.payload, path)));
        let key = [json::key_to(&record.key).to_string()];
        key.into_iter().chain(cells).collect::<Vec<String>>().join(" | ")
    };
    Ok(records.iter().map(row).collect())
}
