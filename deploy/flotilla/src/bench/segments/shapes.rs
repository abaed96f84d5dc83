//! The questions of a file-segment index, and what their answers have to be.
//!
//! Every answer is held against what [`Files`] knows: its keys always, and the whole of its records in the pass that is not
//! timed. What is timed is the call alone, not the look at its answer.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use flotilla_client::{Client, Get, Record, Scan, Search, TextQuery, Value, With, WriteMode, filter};
use flotilla_node::env::clock;

use super::files::{Files, composed, file_id};
use crate::demo::inventory::Draw;
use crate::import::send::upsert;

/// Segments of a file, and more: they come in one page.
const PAGE: u32 = 1_000;
/// Segments of an upload, at most.
const UPLOAD_MAX: u64 = 12;
/// Hits of a search for words.
const TOP: u32 = 10;

/// A question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// A record by its key.
    Get,
    /// Whether a segment is there and how it stands, by file and index: a get of the composed key, of some fields.
    Lookup,
    /// All segments of a file, by the beginning of their keys.
    File,
    /// The record of a message, by a condition on the declared field.
    Message,
    /// The ten best by two words of their subject.
    Words,
    /// An upload that confirms segment by segment, is given up and gone on with.
    Progress,
    /// The first so many records of a hundred files.
    List(u32),
}

/// All of them.
pub(super) const SHAPES: [Shape; 9] = [
    Shape::Get,
    Shape::Lookup,
    Shape::File,
    Shape::Message,
    Shape::Words,
    Shape::Progress,
    Shape::List(10),
    Shape::List(100),
    Shape::List(1_000),
];

/// What is asked about, by whom.
pub(super) struct Work {
    /// The collection of segments.
    pub(super) collection: String,
    /// The collection of uploads.
    pub(super) uploads: String,
    /// What is in it.
    pub(super) files: Files,
    /// What uploads of this run begin with.
    pub(super) run: String,
    /// How many passes over questions there were.
    pub(super) passes: AtomicU64,
    /// Goes on where another client stopped.
    pub(super) heir: Client,
}

/// Which question it is, of how many, and how closely its answer is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// What is asked for depends on this.
    pub(super) number: u64,
    /// Whether the whole of the records is compared.
    pub(super) is_whole: bool,
}

impl Shape {
    /// As the results name it.
    pub(super) fn name(self) -> String {
        match self {
            Shape::Get => "get".to_owned(),
            Shape::Lookup => "lookup".to_owned(),
            Shape::File => "segments_of_a_file".to_owned(),
            Shape::Message => "message_id".to_owned(),
            Shape::Words => format!("words_top_{TOP}"),
            Shape::Progress => "progress".to_owned(),
            Shape::List(records) => format!("list_{records}"),
        }
    }

    /// How many of it are asked: fewer of those that are many calls, or large.
    pub(super) fn share(self, queries: u64) -> u64 {
        match self {
            Shape::Progress | Shape::List(1_000..) => queries.div_ceil(4),
            _ => queries,
        }
    }

    /// Asks once, with the times of the calls.
    ///
    /// # Errors
    /// The server's, and an answer that is wrong.
    pub(super) async fn ask(
        self,
        work: &Work,
        client: &Client,
        turn: Turn,
        times: &mut Vec<Duration>,
    ) -> Result<()> {
        let mut draw = Draw(turn.number.wrapping_mul(0xa076_1d64_78bd_642f));
        let row = draw.below(work.files.rows());
        let (file, index) = work.files.place(row);
        let asked = match self {
            Shape::Get => work.get(client, row, turn, times).await,
            Shape::Lookup => work.lookup(client, (file, index), times).await,
            Shape::File => work.file(client, file, turn, times).await,
            Shape::Message => work.message(client, row, turn, times).await,
            Shape::Words => work.words(client, file, &mut draw, times).await,
            Shape::Progress => work.progress(client, turn.number, &mut draw, times).await,
            Shape::List(records) => work.list(client, file, records, turn, times).await,
        };
        asked.with_context(|| format!("{}, of segment {index} of {}", self.name(), file_id(file)))
    }
}

/// Awaits a call and notes how long it took.
async fn timed<T>(
    times: &mut Vec<Duration>,
    call: impl Future<Output = flotilla_client::Result<T>>,
) -> Result<T> {
    let started = clock::now();
    let answer = call.await?;
    times.push(started.elapsed());
    Ok(answer)
}

impl Work {
    /// Refuses records that are not just those of the rows, in their order.
    fn check(&self, records: &[Record], rows: std::ops::Range<u64>, turn: Turn) -> Result<()> {
        let wanted = rows.end - rows.start;
        ensure!(records.len() as u64 == wanted, "{} records came, {wanted} are there", records.len());
        for (row, record) in rows.zip(records) {
            let key = self.files.key(row);
            ensure!(record.key == key, "`{}` came for `{key}`", record.key);
            if turn.is_whole {
                self.check_payload(record, row)?;
            }
        }
        Ok(())
    }

    fn check_payload(&self, record: &Record, row: u64) -> Result<()> {
        let wanted = self.files.payload(row);
        ensure!(
            record.payload == wanted,
            "`{}` holds {:?} and should hold {wanted:?}",
            record.key,
            record.payload
        );
        Ok(())
    }

    async fn get(&self, client: &Client, row: u64, turn: Turn, times: &mut Vec<Duration>) -> Result<()> {
        let get = Get::new([self.files.key(row)]).with(With::PAYLOAD);
        let got = timed(times, client.get(&self.collection, get)).await?;
        self.check(&got.records, row..row + 1, turn)
    }

    async fn lookup(
        &self,
        client: &Client,
        (file, index): (u64, u64),
        times: &mut Vec<Duration>,
    ) -> Result<()> {
        let fields = ["segment_index", "state"];
        let get = Get::new([composed(&file_id(file), index)]).fields(fields);
        let got = timed(times, client.get(&self.collection, get)).await?;
        let mut wanted = self.files.payload(self.files.rows_of(file).start + index);
        wanted.retain(|field, _| fields.contains(&field.as_str()));
        match got.records.as_slice() {
            [record] if record.payload == wanted => Ok(()),
            other => bail!("{other:?} came, and the fields are {wanted:?}"),
        }
    }

    async fn file(&self, client: &Client, file: u64, turn: Turn, times: &mut Vec<Duration>) -> Result<()> {
        let scan = Scan::new().key_prefix(format!("{}/", file_id(file))).limit(PAGE).with(With::PAYLOAD);
        let page = timed(times, client.scan(&self.collection, scan)).await?;
        let asked = page.coverage.partitions_asked;
        ensure!(asked == 1, "{asked} partitions were asked for the segments of one file");
        ensure!(page.next.is_none(), "there are more");
        self.check(&page.records, self.files.rows_of(file), turn)
    }

    async fn message(&self, client: &Client, row: u64, turn: Turn, times: &mut Vec<Duration>) -> Result<()> {
        let condition = filter::eq("message_id", self.files.message_id(row));
        let scan = Scan::new().filter(condition).limit(10).with(With::PAYLOAD);
        let page = timed(times, client.scan(&self.collection, scan)).await?;
        self.check(&page.records, row..row + 1, turn)
    }

    async fn words(
        &self,
        client: &Client,
        file: u64,
        draw: &mut Draw,
        times: &mut Vec<Duration>,
    ) -> Result<()> {
        let words = self.files.words(file);
        let (one, other) = (draw.of(&words), draw.of(&words));
        let query = format!("{} {}", self.files.word(one), self.files.word(other));
        let text = TextQuery::new("subject", &query).all();
        let found =
            timed(times, client.search(&self.collection, Search::text(text).limit(TOP).with_payload()));
        let hits = found.await?.hits;
        let wanted = self.files.with_words(one, other).min(u64::from(TOP));
        ensure!(hits.len() as u64 == wanted, "`{query}`: {} hits came, of {wanted}", hits.len());
        ensure!(hits.is_sorted_by(|a, b| a.score >= b.score), "`{query}`: the best is not first");
        let mut seen = BTreeSet::new();
        for hit in &hits {
            let key = &hit.record.key;
            let row = self.files.row(key).with_context(|| format!("`{key}` is no segment"))?;
            ensure!(seen.insert(row), "`{query}`: `{key}` came twice");
            let has = self.files.words(self.files.place(row).0);
            ensure!(has.contains(&one) && has.contains(&other), "`{query}`: `{key}` has other words");
            self.check_payload(&hit.record, row)?;
        }
        Ok(())
    }

    async fn list(
        &self,
        client: &Client,
        file: u64,
        records: u32,
        turn: Turn,
        times: &mut Vec<Duration>,
    ) -> Result<()> {
        let (prefix, rows) = self.files.neighbours(file);
        let scan = Scan::new().key_prefix(prefix).limit(records).with(With::PAYLOAD);
        let page = timed(times, client.scan(&self.collection, scan)).await?;
        let end = rows.end.min(rows.start + u64::from(records));
        let answered = page.coverage.partitions_answered;
        ensure!(page.coverage.partitions_asked == answered, "{answered} partitions answered alone");
        ensure!(end == rows.end || page.next.is_some(), "it is said to be the last page, and is not");
        self.check(&page.records, rows.start..end, turn)
    }

    /// An upload of some segments: one client confirms them one by one and dies on the way, with a write in its hands; another
    /// one reads how far it is and goes on. What the dead one sends late changes nothing.
    async fn progress(
        &self,
        client: &Client,
        number: u64,
        draw: &mut Draw,
        times: &mut Vec<Duration>,
    ) -> Result<()> {
        let segments = 2 + draw.below(UPLOAD_MAX - 1);
        let upload = Upload { collection: &self.uploads, id: format!("{}-{number}", self.run), segments };
        let dies_after = draw.below(segments);
        for confirmed in 1..=dies_after {
            let reached = upload.step(client, "one", times).await?;
            ensure!(reached == confirmed, "segment {reached} was confirmed, not {confirmed}");
        }
        let (late, _) = upload.next(client, "one").await?;
        for confirmed in dies_after + 1..=segments {
            let reached = upload.step(&self.heir, "another", times).await?;
            ensure!(reached == confirmed, "went on with segment {reached}, not {confirmed}");
        }
        let done = upsert(client, &self.uploads, &[late], (WriteMode::IfVersion, Duration::ZERO)).await?;
        let Some(conflict) = done.conflicts.first().filter(|_| done.upserted == 0) else {
            bail!("a write with the version of before was taken");
        };
        let (version, confirmed, by) = upload.read(client).await?;
        ensure!(
            conflict.version == version,
            "the conflict names version {}, not {version}",
            conflict.version
        );
        ensure!(confirmed == segments && by == "another", "{confirmed} of {segments} are confirmed, by {by}");
        Ok(())
    }
}

/// An upload under way, as its record tells.
struct Upload<'a> {
    collection: &'a str,
    id: String,
    segments: u64,
}

impl Upload<'_> {
    /// The record's version, how many segments are confirmed, and by whom; 0 if there is none yet.
    async fn read(&self, client: &Client) -> Result<(u64, u64, String)> {
        let get = Get::new([self.id.as_str()]).with(With::PAYLOAD);
        let Some(record) = client.get(self.collection, get).await?.records.pop() else {
            return Ok((0, 0, String::new()));
        };
        match (record.payload.get("confirmed"), record.payload.get("by")) {
            (Some(Value::Int(confirmed)), Some(Value::Text(by))) => {
                Ok((record.version, u64::try_from(*confirmed)?, by.clone()))
            }
            _ => bail!("the record of upload `{}` is {record:?}", self.id),
        }
    }

    /// The record after one segment more, and how many are confirmed then.
    async fn next(&self, client: &Client, by: &str) -> Result<(Record, u64)> {
        let (version, confirmed, _) = self.read(client).await?;
        let confirmed = confirmed + 1;
        let state = if confirmed == self.segments { "done" } else { "uploading" };
        let record = Record::new(self.id.as_str())
            .field("segments", i64::try_from(self.segments)?)
            .field("confirmed", i64::try_from(confirmed)?)
            .field("state", state)
            .field("by", by);
        Ok((Record { version, ..record }, confirmed))
    }

    /// Confirms a segment: reads how far it is, and writes the next record if nobody else has.
    async fn step(&self, client: &Client, by: &str, times: &mut Vec<Duration>) -> Result<u64> {
        let started = clock::now();
        let (record, confirmed) = self.next(client, by).await?;
        let done = upsert(client, self.collection, &[record], (WriteMode::IfVersion, Duration::ZERO)).await?;
        times.push(started.elapsed());
        ensure!(done.conflicts.is_empty() && done.upserted == 1, "{:?} is in the way", done.conflicts);
        Ok(confirmed)
    }
}
