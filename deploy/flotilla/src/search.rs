//! `flotilla search`: the records nearest to a vector, those with the words of a query, or both.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use flotilla_client::{
    Client, Found, Fusion, Get, Group, Highlight, Hit, Recommend, Search, TextQuery, With,
};
use flotilla_node::env::clock;
use flotilla_proto::filter::Filter;
use flotilla_proto::record::{Key, Vector};
use serde_json::json;

use crate::output::{self, Output};
use crate::reading::ReadArgs;
use crate::target::{self, Target};
use crate::{filter_arg, json, npy};

/// Arguments of `flotilla search`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla search --collection vms --key vm-000042 --with-payload
  flotilla search --collection vms --key vm-000042 --filter 'power_state = \"on\" and cpu >= 8 and name ~ \"web*\"'
  flotilla search --collection docs --vector '[0.1, 0.2, 0.3]' --limit 5 --output json
  flotilla search --collection docs --vector-name words --vector '{\"indices\": [7, 40], \"values\": [0.5, 1.5]}'
  flotilla search --collection docs --vector-file queries.npy --row 7 --ef 200 --explain
  flotilla search --collection docs --key 42 --score-threshold 0.8
  flotilla search --collection docs --positive 42 --positive 57 --negative 99
  flotilla search --collection docs --key 42 --group-by author --group-size 2 --limit 5
  flotilla search --collection docs --text 'disk full' --text-field subject
  flotilla search --collection docs --text 'upload fail' --text-field subject --prefix --fuzzy 1 --text-operator all
  flotilla search --collection docs --key 42 --text 'disk full' --text-field subject --fusion weighted

Filters are text: and, or, not and brackets around = != < <= > >= ~ (a pattern with * and ?), in (..), between .. and ..,
is null, exists FIELD, match \"words\", match any \"words\", phrase \"words\", and key = .. for the record's key; a field of such a name is written in backquotes:
  owner is null or 8 <= cpu < 64 and tags in (\"prod\", \"dmz\") and key != 7
Or JSON: an object's entries must all hold; \"and\", \"or\", \"not\", \"exists\" and \"keys\" are operators, any other name is a
field, tested by a plain value or by eq, in, gt, gte, lt, lte, prefix, glob, match, match_any, phrase:
  {\"or\":[{\"name\":{\"prefix\":\"web\"}},{\"not\":{\"exists\":\"owner\"}}]}

The score is larger for nearer records: the cosine similarity, the dot product, or minus the euclidean, manhattan or
hamming distance. For --text it is BM25 over the whole collection, with a vector beside it what --fusion makes of both. So
--score-threshold 0.8 asks for a similarity of at least 0.8, --score-threshold=-2 for a distance of
at most 2. Of several vectors it is the sum over those of the query of the score of the record's best.")]
pub struct SearchArgs {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    read: ReadArgs,
    /// Collection to search
    #[arg(long, value_name = "NAME")]
    collection: String,
    #[command(flatten)]
    query: QueryArgs,
    #[command(flatten)]
    words: WordsArgs,
    /// Vector to search by, where the collection has several
    #[arg(long, value_name = "NAME", default_value = "")]
    vector_name: String,
    /// Hits, at most; groups, with --group-by
    #[arg(long, value_name = "N", default_value_t = 10)]
    limit: u32,
    /// Condition on the hits, as text or JSON
    #[arg(long, value_name = "FILTER", value_parser = filter_arg::parse)]
    filter: Option<Filter>,
    /// Candidates kept while searching: more is slower and finds more [default: the collection's]
    #[arg(long, value_name = "N", default_value_t = 0)]
    ef: u32,
    /// Share of the nearest records to find, above 0 to 1, with as much effort as that takes
    #[arg(long, value_name = "SHARE", conflicts_with_all = ["ef", "exact"])]
    target_recall: Option<f32>,
    /// Compare so many times the limit, 1 to 100, by whole vectors in the end [default: as many as the codes need]
    #[arg(long, value_name = "TIMES", conflicts_with_all = ["target_recall", "exact"])]
    oversampling: Option<f32>,
    /// Look at every vector instead of the graph
    #[arg(long)]
    exact: bool,
    /// Leave out hits that score below
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    score_threshold: Option<f32>,
    /// Hits in groups of one value of this field each
    #[arg(long, value_name = "FIELD")]
    group_by: Option<String>,
    /// Hits of a group, at most: 1 to 100
    #[arg(long, value_name = "N", default_value_t = 3, requires = "group_by", value_parser = clap::value_parser!(u32).range(1..=100))]
    group_size: u32,
    /// Show the fields of the hits
    #[arg(long)]
    with_payload: bool,
    /// Tell how each partition went about it
    #[arg(long)]
    explain: bool,
    /// Form of the answer
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// What to look for: a vector from one of three places, examples, or words.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
struct QueryArgs {
    /// The vector, as a JSON list of numbers; several as a list of such lists; a sparse one as
    /// {"indices": [...], "values": [...]}
    #[arg(long, value_name = "JSON", conflicts_with_all = ["vector_file", "key", "positive"])]
    vector: Option<String>,
    /// A numpy array that holds the vector as a row
    #[arg(long, value_name = "FILE.npy", requires = "row", conflicts_with_all = ["key", "positive"])]
    vector_file: Option<PathBuf>,
    /// The row of --vector-file, from 0
    #[arg(long, value_name = "N", requires = "vector_file")]
    row: Option<u64>,
    /// The vector of this record: digits are a number, anything else, or text:..., is text
    #[arg(long, value_name = "KEY", conflicts_with = "positive")]
    key: Option<String>,
    /// Something like this record: repeat it for several. The hits are nearest to the mean of all, moved away from
    /// that of --negative
    #[arg(long, value_name = "KEY")]
    positive: Vec<String>,
    /// And unlike this one
    #[arg(long, value_name = "KEY", requires = "positive")]
    negative: Vec<String>,
    /// The records that score best for these words in --text-field; beside a vector, the hits of both become one list
    #[arg(long, value_name = "WORDS", requires = "text_field")]
    text: Option<String>,
}

/// What words to look for, instead of a vector or beside one.
#[derive(Args, Debug)]
struct WordsArgs {
    /// Field declared as text in which to look for them
    #[arg(long, value_name = "FIELD", requires = "text")]
    text_field: Option<String>,
    /// Records with at least one of the words, or only those with all
    #[arg(long, value_enum, default_value = "any", requires = "text", conflicts_with = "phrase")]
    text_operator: Operator,
    /// Only records with the words in a row
    #[arg(long, requires = "text")]
    phrase: bool,
    /// The last word stands for all that begin with it
    #[arg(long, requires = "text")]
    prefix: bool,
    /// A word stands for those that are so many edits away too: 0 to 2
    #[arg(long, value_name = "N", default_value_t = 0, requires = "text", conflicts_with = "phrase", value_parser = clap::value_parser!(u32).range(0..=2))]
    fuzzy: u32,
    /// How hits by vector and hits by words become one list
    #[arg(long, value_enum, default_value = "rrf", requires = "text")]
    fusion: FusionKind,
    /// Weight of the vector, with --fusion weighted
    #[arg(long, value_name = "WEIGHT", default_value_t = 1.0, requires = "fusion")]
    vector_weight: f32,
    /// Weight of the words, with --fusion weighted
    #[arg(long, value_name = "WEIGHT", default_value_t = 1.0, requires = "fusion")]
    text_weight: f32,
    /// Passages of a hit that show the words found; 0: none
    #[arg(long, value_name = "N", default_value_t = 1, requires = "text", value_parser = clap::value_parser!(u32).range(0..=100))]
    highlights: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Operator {
    Any,
    All,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FusionKind {
    /// By rank
    Rrf,
    /// By score
    Weighted,
}

impl WordsArgs {
    fn query(&self, text: &str) -> anyhow::Result<TextQuery> {
        let field = self.text_field.as_deref().context("--text: name the field too, --text-field")?;
        let query = TextQuery::new(field, text).fuzzy_edits(self.fuzzy);
        let query = if self.text_operator == Operator::All { query.all() } else { query };
        let query = if self.phrase { query.phrase() } else { query };
        Ok(if self.prefix { query.prefix_last() } else { query })
    }

    fn fusion(&self) -> Fusion {
        match self.fusion {
            FusionKind::Rrf => Fusion::rrf(),
            FusionKind::Weighted => Fusion::weighted(self.vector_weight, self.text_weight),
        }
    }
}

impl SearchArgs {
    /// Searches and prints.
    pub fn run(self) -> anyhow::Result<()> {
        target::run(0, self.search())
    }

    async fn search(self) -> anyhow::Result<()> {
        let client = self.read.client(&self.target).await?;
        let query = self.what(&client).await?;
        let request = self.request(query);
        let started = clock::now();
        let hits = client.search(&self.collection, request).await?;
        let millis = started.elapsed().as_secs_f64() * 1e3;
        let mut out = std::io::stdout().lock();
        match self.output {
            Output::Table => out.write_all(self.table(&hits, millis).as_bytes())?,
            Output::Json => writeln!(out, "{}", self.document(&hits, millis))?,
        }
        Ok(())
    }

    /// Keys and scores that these arguments find: for golden scripts.
    #[cfg(test)]
    pub(crate) async fn lines(client: &Client, arguments: &[String]) -> anyhow::Result<Vec<String>> {
        let args: SearchArgs = crate::cli::tests::parsed(arguments)?;
        let query = args.what(client).await?;
        let found = client.search(&args.collection, args.request(query)).await?;
        let line = |hit: &Hit| {
            let shown = hit.highlights.iter().map(|passage| format!(" | {passage}"));
            format!("{} | {:.4}{}", json::key_to(&hit.record.key), hit.score, shown.collect::<String>())
        };
        Ok(found.hits.iter().map(line).collect())
    }

    /// By vector, for words, or both.
    async fn what(&self, client: &Client) -> anyhow::Result<Search> {
        let by_vector = self.query.search(client, &self.collection, &self.vector_name);
        let Some(text) = &self.query.text else { return by_vector.await };
        let text = self.words.query(text)?;
        let search = if self.query.names_vector() {
            by_vector.await?.with_text(text, self.words.fusion())
        } else {
            Search::text(text)
        };
        let shown = Highlight::new().fragments(self.words.highlights).marks("[", "]");
        Ok(if self.words.highlights > 0 { search.highlight(shown) } else { search })
    }

    fn request(&self, query: Search) -> Search {
        let request = query.vector_name(&self.vector_name).limit(self.limit).ef(self.ef);
        let request = match &self.filter {
            Some(filter) => request.filter(filter.clone()),
            None => request,
        };
        let request = match self.score_threshold {
            Some(score) => request.score_threshold(score),
            None => request,
        };
        let request = match &self.group_by {
            Some(field) => request.group_by(field, self.group_size),
            None => request,
        };
        let request = match self.target_recall {
            Some(share) => request.target_recall(share),
            None => request,
        };
        let request = match self.oversampling {
            Some(times) => request.oversampling(times),
            None => request,
        };
        let request = if self.exact { request.exact() } else { request };
        let request = if self.with_payload { request.with_payload() } else { request };
        if self.explain { request.explain() } else { request }
    }

    fn table(&self, found: &Found, millis: f64) -> String {
        let coverage = output::coverage_words(&found.coverage);
        let table = |hits: &[Hit]| {
            let rows = hits.iter().map(|hit| (&hit.record, Some(hit.score)));
            format!("{}{}", output::records_table(rows, &[]), passages(hits))
        };
        let mut text = match &self.group_by {
            None => {
                format!("{}\n{} hits in {millis:.1} ms, {coverage}\n", table(&found.hits), found.hits.len())
            }
            Some(field) => {
                let group = |group: &Group| {
                    format!("{field} = {}\n{}\n", json::value_to(&group.value), table(&group.hits))
                };
                let groups: String = found.groups.iter().map(group).collect();
                format!("{groups}{} groups in {millis:.1} ms, {coverage}\n", found.groups.len())
            }
        };
        if found.groups_cut {
            text.push_str("a partition gave up looking: there may be more groups, or more in them\n");
        }
        if self.explain {
            text.push_str(&format!("\n{}", output::plans_table(&found.plans)));
            if let Some(plan) = &found.text_plan {
                text.push_str(&format!("\n{}", output::words_table(plan)));
            }
        }
        text
    }

    fn document(&self, found: &Found, millis: f64) -> serde_json::Value {
        let hit = |hit: &Hit| {
            let mut json = json!({"key": json::key_to(&hit.record.key), "score": hit.score});
            if self.with_payload {
                json["payload"] = json::payload_to(&hit.record.payload);
            }
            if !hit.highlights.is_empty() {
                json["highlights"] = hit.highlights.clone().into();
            }
            json
        };
        let mut document = json!({
            "coverage": output::coverage_json(&found.coverage),
            "ms": (millis * 1e3).round() / 1e3,
        });
        if self.group_by.is_some() {
            let group = |group: &Group| {
                let hits: Vec<_> = group.hits.iter().map(hit).collect();
                json!({"value": json::value_to(&group.value), "hits": hits})
            };
            document["groups"] = found.groups.iter().map(group).collect();
            document["groups_cut"] = found.groups_cut.into();
        } else {
            document["hits"] = found.hits.iter().map(hit).collect();
        }
        if self.explain {
            document["plans"] = output::plans_json(&found.plans);
            if let Some(plan) = &found.text_plan {
                document["words"] = output::words_json(plan);
            }
        }
        document
    }
}

/// The passages of each hit that has some, below its key.
fn passages(hits: &[Hit]) -> String {
    let shown = hits.iter().filter(|hit| !hit.highlights.is_empty());
    let lines = shown.map(|hit| {
        let passages: Vec<String> = hit.highlights.iter().map(|text| output::one_line(text)).collect();
        format!("  {}: {}\n", hit.record.key, passages.join(" … "))
    });
    let lines: String = lines.collect();
    if lines.is_empty() { lines } else { format!("\n{lines}") }
}

impl QueryArgs {
    fn names_vector(&self) -> bool {
        self.vector.is_some() || self.vector_file.is_some() || self.key.is_some() || !self.positive.is_empty()
    }

    async fn search(&self, client: &Client, collection: &str, name: &str) -> anyhow::Result<Search> {
        if self.positive.is_empty() {
            return Ok(Search::new(self.vector(client, collection, name).await?));
        }
        let key = |word: &String| json::key_from_word(word);
        let like = self.positive.iter().map(key).fold(Recommend::new(), Recommend::positive);
        Ok(Search::recommend(self.negative.iter().map(key).fold(like, Recommend::negative)))
    }

    async fn vector(&self, client: &Client, collection: &str, name: &str) -> anyhow::Result<Vector> {
        match (&self.vector, &self.vector_file, &self.key) {
            (Some(text), _, _) => {
                let json = serde_json::from_str(text).context("--vector: not JSON")?;
                json::vector_from(&json).map_err(|why| anyhow::anyhow!("--vector: {why}"))
            }
            (_, Some(path), _) => row_of(path, self.row.unwrap_or(0)).map(Vector::Dense),
            (_, _, Some(key)) => vector_of(client, collection, name, json::key_from_word(key)).await,
            _ => bail!("name one of --vector, --vector-file, --key, --positive or --text"),
        }
    }
}

fn row_of(path: &std::path::Path, row: u64) -> anyhow::Result<Vec<f32>> {
    let mut file = npy::open(path)?;
    ensure!(row < file.rows(), "--row {row}: {} has {} rows", path.display(), file.rows());
    let mut vector = Vec::new();
    for _ in 0..=row {
        file.next_f32(&mut vector)?;
    }
    Ok(vector)
}

async fn vector_of(client: &Client, collection: &str, name: &str, key: Key) -> anyhow::Result<Vector> {
    let found =
        client.get(collection, Get::new([key.clone()]).with(With { payload: false, vectors: true })).await?;
    let mut record =
        found.records.into_iter().next().with_context(|| format!("there is no record `{key}`"))?;
    let held: Vec<String> = record.vectors.keys().cloned().collect();
    let wanted = match (name, held.as_slice()) {
        ("", [only]) => only,
        ("", _) => "default",
        (name, _) => name,
    };
    let none = || format!("record `{key}` has no vector `{wanted}`; it has [{}]", held.join(", "));
    record.vectors.remove(wanted).with_context(none)
}

#[cfg(test)]
mod tests;
