//! The four questions of the demo, their answers as tables, and what it means for two sets of answers to be the same.
//!
//! A graph is approximate: rebuilt, it may find another ninth neighbour. So each vector question is asked twice, of the graph
//! (shown, and timed) and exactly (compared). Exact answers are the same if they hold the same records, up to records whose
//! scores tie with the last one to within rounding.

use anyhow::{Context as _, ensure};
use flotilla_client::{Client, Counted, Found, Page, Scan, Search, With};
use flotilla_node::env::clock;
use flotilla_proto::filter::{Bounds, Filter};
use flotilla_proto::record::{Key, Record};
use flotilla_proto::v1::Coverage;

use super::COLLECTION;
use super::text_vector::text_vector;
use crate::output;

const TEXT: &str = "web server in production with high memory";
const LIMIT: u32 = 10;
const SHOWN: usize = 5;
const FIELDS: [&str; 6] = ["name", "power_state", "cpu", "memory_mb", "owner", "datacenter"];
/// Scores nearer than this are one score: the order of a sum differs between a scan of rows and a scan of a segment.
const ROUNDING: f32 = 1e-5;

/// Something answered, and the milliseconds it took as the caller sees it.
struct Timed<T> {
    answer: T,
    millis: f64,
}

async fn timed<T, E>(asked: impl Future<Output = Result<T, E>>) -> Result<Timed<T>, E> {
    let started = clock::now();
    let answer = asked.await?;
    Ok(Timed { answer, millis: started.elapsed().as_secs_f64() * 1e3 })
}

/// The answers to all questions.
pub struct Answers {
    near: Timed<Found>,
    near_and_large: Timed<Found>,
    page: Timed<Page>,
    count: Timed<Counted>,
    exact: [Found; 2],
}

impl Answers {
    /// Asks.
    pub async fn ask(client: &Client) -> anyhow::Result<Answers> {
        let search = |filter, exact| client.search(COLLECTION, question(filter, exact));
        let scan = Scan::new().filter(owned_and_huge()).limit(LIMIT).with(With::PAYLOAD);
        Ok(Answers {
            near: timed(search(None, false)).await?,
            near_and_large: timed(search(Some(on_and_large()), false)).await?,
            page: timed(client.scan(COLLECTION, scan)).await?,
            count: timed(client.count(COLLECTION, Some(&on_and_large()))).await?,
            exact: [search(None, true).await?, search(Some(on_and_large()), true).await?],
        })
    }

    /// Questions and answers, for people.
    pub fn tables(&self) -> String {
        let (near, large) = (&self.near, &self.near_and_large);
        let scored = |hits: &Found| {
            let rows = hits.hits.iter().take(SHOWN).map(|hit| (&hit.record, Some(hit.score)));
            output::records_table(rows, &FIELDS)
        };
        let page = self.page.answer.records.iter().take(SHOWN).map(|record| (record, None));
        [
            title(&format!("nearest to \"{TEXT}\""), near.millis, Some(&near.answer.coverage)),
            scored(&near.answer),
            title(
                "the same, where power_state is on and cpu >= 8",
                large.millis,
                Some(&large.answer.coverage),
            ),
            scored(&large.answer),
            title("a page: owner is platform and memory_mb >= 262144", self.page.millis, None),
            output::records_table(page, &FIELDS),
            title("count: power_state is on and cpu >= 8", self.count.millis, None),
            format!("  {}\n", self.count.answer.count),
        ]
        .concat()
    }

    /// How long each took, in one line.
    pub fn times(&self) -> String {
        format!(
            "search {:.1} ms, filtered search {:.1} ms, page {:.1} ms, count {:.1} ms",
            self.near.millis, self.near_and_large.millis, self.page.millis, self.count.millis
        )
    }

    /// Refuses answers that are not the same.
    pub fn compare(&self, after: &Answers) -> anyhow::Result<()> {
        let (before_count, after_count) = (self.count.answer.count, after.count.answer.count);
        ensure!(before_count == after_count, "the count was {before_count} and is {after_count}");
        ensure!(
            unversioned(&self.page.answer.records) == unversioned(&after.page.answer.records),
            "the page holds other records"
        );
        for (name, (before, after)) in
            ["search", "filtered search"].iter().zip(self.exact.iter().zip(&after.exact))
        {
            same_hits(&scores(before), &scores(after)).with_context(|| format!("the {name}"))?;
        }
        for hits in [&after.near.answer, &after.near_and_large.answer] {
            ensure!(hits.hits.len() == LIMIT as usize, "a search found {} of {LIMIT}", hits.hits.len());
        }
        Ok(())
    }
}

fn unversioned(items: &[Record]) -> Vec<(&Key, &flotilla_proto::record::Payload)> {
    items.iter().map(|record| (&record.key, &record.payload)).collect()
}

fn scores(hits: &Found) -> Vec<(Key, f32)> {
    hits.hits.iter().map(|hit| (hit.record.key.clone(), hit.score)).collect()
}

/// Both hold the same records with the same scores; one that is missing from the other ties with the last.
fn same_hits(before: &[(Key, f32)], after: &[(Key, f32)]) -> anyhow::Result<()> {
    ensure!(before.len() == after.len(), "found {} before and {} after", before.len(), after.len());
    let last = before.last().map_or(0.0, |(_, score)| *score);
    for (these, those) in [(before, after), (after, before)] {
        for (key, score) in these {
            let other = those.iter().find(|(other, _)| other == key).map_or(last, |(_, score)| *score);
            let near = (score - other).abs() <= ROUNDING;
            ensure!(near, "record {key} scores {score} in one answer and not in the other");
        }
    }
    Ok(())
}

fn title(question: &str, millis: f64, coverage: Option<&Coverage>) -> String {
    let coverage =
        coverage.map_or(String::new(), |coverage| format!(", {}", output::coverage_words(coverage)));
    format!("\n{question} ({millis:.1} ms{coverage})\n")
}

fn question(filter: Option<Filter>, exact: bool) -> Search {
    let search = Search::new(text_vector(TEXT)).limit(LIMIT);
    let search = match filter {
        Some(filter) => search.filter(filter),
        None => search,
    };
    if exact { search.exact() } else { search.with_payload() }
}

fn on_and_large() -> Filter {
    let on = Filter::Equal("power_state".to_owned(), "on".into());
    Filter::All(vec![on, at_least("cpu", 8)])
}

fn owned_and_huge() -> Filter {
    let owned = Filter::Equal("owner".to_owned(), "platform".into());
    Filter::All(vec![owned, at_least("memory_mb", 262_144)])
}

fn at_least(field: &str, bound: i64) -> Filter {
    Filter::Range(field.to_owned(), Bounds { gte: Some(bound.into()), ..Bounds::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(pairs: &[(u64, f32)]) -> Vec<(Key, f32)> {
        pairs.iter().map(|(key, score)| (Key::Number(*key), *score)).collect()
    }

    #[test]
    fn ties_at_the_end_may_swap_and_nothing_else() {
        let before = hits(&[(1, 0.9), (2, 0.5), (3, 0.5)]);
        same_hits(&before, &hits(&[(1, 0.900_001), (3, 0.5), (2, 0.5)])).unwrap();
        same_hits(&before, &hits(&[(1, 0.9), (2, 0.5), (4, 0.500_001)])).unwrap();
        same_hits(&before, &hits(&[(1, 0.9), (2, 0.5)])).unwrap_err();
        same_hits(&before, &hits(&[(9, 0.9), (2, 0.5), (3, 0.5)])).unwrap_err();
        same_hits(&before, &hits(&[(1, 0.8), (2, 0.5), (3, 0.5)])).unwrap_err();
    }

    #[test]
    fn the_questions_fit_the_collection() {
        let spec = super::super::collection(COLLECTION);
        for filter in [on_and_large(), owned_and_huge()] {
            flotilla_proto::filter::Compiled::new(&filter, &spec).unwrap();
        }
    }
}
