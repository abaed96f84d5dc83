//! The words of a field, as a search for them reads a segment: how often each occurs in a row, and how long the row's texts are.
//!
//! **One meaning.** A row's texts are the text values that the field's path reaches, and its length is the number of their
//! words, rounded ([`bm25::rounded_length`]). A sealed segment answers from its index; any other reads text by text, with
//! the functions here ([`weigh`], [`list_kin`], [`occurrences`]), and so does a sealed one whose index does not have the
//! field. A test compares both with the obvious way.
//!
//! What it does not do: score (the query does), or know of other partitions.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use flotilla_proto::fulltext::{Clause, Kin, Language, Need, PlacesOf, bm25, words};
use flotilla_proto::record::{Payload, Value, reach};

use super::{Fault, Matching, SegmentView};

/// A field of texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextField {
    /// Its dotted path.
    pub name: String,
    /// Whose stems its words count by, if anybody's.
    pub language: Option<Language>,
    path: Vec<String>,
}

impl TextField {
    /// The field of this path, with texts of a language, or of none.
    pub fn new(name: &str, language: Option<Language>) -> TextField {
        TextField { name: name.to_owned(), language, path: name.split('.').map(str::to_owned).collect() }
    }

    /// The first step of its path.
    pub(super) fn root(&self) -> &str {
        self.path.first().map_or("", String::as_str)
    }

    /// Hands each text of a payload to `each`, in order.
    pub fn texts(&self, payload: &Payload, each: &mut dyn FnMut(&str)) {
        reach(payload, &self.path, &mut |value| {
            if let Value::Text(text) = value {
                each(text);
            }
            false
        });
    }
}

/// Clauses to look for: at most 64, as the wire's bounds say.
#[derive(Clone, Debug, Default)]
pub struct Sought {
    clauses: Vec<Vec<(String, u32)>>,
    /// By word: the clauses that it belongs to, and the shares that it counts in each.
    of: HashMap<String, Vec<(usize, u32)>>,
}

impl Sought {
    /// The terms of these clauses.
    pub fn new(clauses: &[Clause]) -> Sought {
        let mut sought = Sought::default();
        for (number, clause) in clauses.iter().enumerate() {
            for (word, edits) in &clause.terms {
                sought.of.entry(word.clone()).or_default().push((number, bm25::share(*edits)));
            }
            sought.clauses.push(clause.terms.clone());
        }
        sought
    }

    /// How many clauses there are.
    pub fn len(&self) -> usize {
        self.clauses.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.clauses.is_empty()
    }

    /// The terms of each clause, with their edits.
    pub(super) fn clauses(&self) -> &[Vec<(String, u32)>] {
        &self.clauses
    }

    /// The clauses of a word, with its shares in each.
    fn of(&self, word: &str) -> &[(usize, u32)] {
        self.of.get(word).map_or(&[], Vec::as_slice)
    }

    /// A bit for each clause of a word.
    fn bits(&self, word: &str) -> u64 {
        bits(self.of(word))
    }

    /// Each word once, with a bit for each of its clauses.
    pub(super) fn words(&self) -> impl Iterator<Item = (&str, u64)> {
        self.of.iter().map(|(word, of)| (word.as_str(), bits(of)))
    }
}

fn bits(of: &[(usize, u32)]) -> u64 {
    of.iter().fold(0, |bits, (clause, _)| bits | 1_u64.checked_shl(*clause as u32).unwrap_or(0))
}

/// What there is of words in some rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Weighed {
    /// Rows with a word in the field.
    pub records: u64,
    /// The sum of their rounded lengths.
    pub words: u64,
    /// Of each clause, rows with one of its terms.
    pub containing: Vec<u64>,
}

impl Weighed {
    /// Nothing, of so many clauses.
    pub fn none(clauses: usize) -> Weighed {
        Weighed { containing: vec![0; clauses], ..Weighed::default() }
    }

    /// Adds what another segment has.
    pub fn add(&mut self, other: &Weighed) {
        self.records = self.records.saturating_add(other.records);
        self.words = self.words.saturating_add(other.words);
        for (sum, more) in self.containing.iter_mut().zip(&other.containing) {
            *sum = sum.saturating_add(*more);
        }
    }
}

/// What a row has of the clauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tally<'a> {
    /// Its rounded length.
    pub length: u32,
    /// Of each clause, the shares of its occurrences: see [`bm25::share`].
    pub shares: &'a [u32],
    /// How often the clauses stand in a row; 0 unless that is what is needed.
    pub phrases: u32,
}

impl Tally<'_> {
    /// Whether it has what is needed.
    pub(super) fn is_enough(&self, need: Need) -> bool {
        match need {
            Need::Any => self.shares.iter().any(|shares| *shares > 0),
            Need::All => self.shares.iter().all(|shares| *shares > 0),
            Need::Phrase => self.phrases > 0,
        }
    }
}

/// Words with how many rows have each, gathered over segments; of more than are wanted those of most rows are kept.
#[derive(Clone, Debug)]
pub struct Listed {
    most: usize,
    words: BTreeMap<String, u64>,
    is_cut: bool,
}

impl Listed {
    /// Nothing yet, and at most so many.
    pub fn new(most: usize) -> Listed {
        Listed { most, words: BTreeMap::new(), is_cut: false }
    }

    /// Adds rows that have the word.
    pub fn add(&mut self, word: &str, rows: u64) {
        if rows == 0 {
            return;
        }
        match self.words.get_mut(word) {
            Some(sum) => *sum = sum.saturating_add(rows),
            None => {
                self.words.insert(word.to_owned(), rows);
            }
        }
        if self.words.len() > self.most.saturating_mul(2) {
            self.cut();
        }
    }

    /// The words by word, and whether there are more of them.
    pub fn finish(mut self) -> (Vec<(String, u64)>, bool) {
        self.cut();
        (self.words.into_iter().collect(), self.is_cut)
    }

    /// Keeps those of most rows; ties by word.
    fn cut(&mut self) {
        if self.words.len() <= self.most {
            return;
        }
        let mut ranked: Vec<(String, u64)> = std::mem::take(&mut self.words).into_iter().collect();
        ranked.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        ranked.truncate(self.most);
        self.words = ranked.into_iter().collect();
        self.is_cut = true;
    }
}

/// The rows to read.
fn accepted<S: SegmentView + ?Sized>(segment: &S, rows: Option<&Matching>) -> Vec<u32> {
    match rows {
        Some(rows) => rows.iter().collect(),
        None => (0..segment.rows()).filter(|row| segment.is_live(*row)).collect(),
    }
}

/// [`SegmentView::weigh`] by reading the texts.
pub(super) fn weigh<S: SegmentView + ?Sized>(
    segment: &S,
    field: &TextField,
    sought: &Sought,
    rows: Option<&Matching>,
) -> Result<Weighed, Fault> {
    let mut weighed = Weighed::none(sought.len());
    let mut word = String::new();
    for row in accepted(segment, rows) {
        let (mut length, mut found) = (0_u32, 0_u64);
        segment.texts(row, field, &mut |text| {
            for written in words(text) {
                written.term_into(field.language, &mut word);
                length = length.saturating_add(1);
                found |= sought.bits(&word);
            }
        })?;
        weighed.records += u64::from(length > 0);
        weighed.words += u64::from(bm25::rounded_length(length));
        for (clause, count) in weighed.containing.iter_mut().enumerate() {
            *count += found >> clause & 1;
        }
    }
    Ok(weighed)
}

/// [`SegmentView::list_kin`] by reading the texts.
pub(super) fn list_kin<S: SegmentView + ?Sized>(
    segment: &S,
    field: &TextField,
    kin: &Kin,
    rows: Option<&Matching>,
    listed: &mut Listed,
) -> Result<(), Fault> {
    let mut word = String::new();
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for row in accepted(segment, rows) {
        let mut found = BTreeSet::new();
        segment.texts(row, field, &mut |text| {
            for written in words(text) {
                written.term_into(field.language, &mut word);
                if !found.contains(word.as_str()) && kin.edits_to(&word).is_some() {
                    found.insert(word.clone());
                }
            }
        })?;
        found.into_iter().for_each(|word| *counts.entry(word).or_default() += 1);
    }
    counts.into_iter().for_each(|(word, rows)| listed.add(&word, rows));
    Ok(())
}

/// [`SegmentView::occurrences`] by reading the texts.
pub(super) fn occurrences<S: SegmentView + ?Sized>(
    segment: &S,
    field: &TextField,
    (sought, need): (&Sought, Need),
    rows: Option<&Matching>,
    each: &mut dyn FnMut(u32, &Tally<'_>) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut shares = vec![0_u32; sought.len()];
    let mut places = PlacesOf::default();
    for row in accepted(segment, rows) {
        shares.fill(0);
        places.clear();
        let mut length = 0_u32;
        segment.texts(row, field, &mut |text| {
            places.add(text, field.language, |word| {
                length = length.saturating_add(1);
                let of = sought.of(word);
                for (clause, share) in of {
                    if let Some(sum) = shares.get_mut(*clause) {
                        *sum = sum.saturating_add(*share);
                    }
                }
                bits(of)
            });
        })?;
        let phrases = if need == Need::Phrase { places.phrases(sought.len()) } else { 0 };
        let tally = Tally { length: bm25::rounded_length(length), shares: &shares, phrases };
        if tally.is_enough(need) {
            each(row, &tally)?;
        }
    }
    Ok(())
}
