//! The words of a text field, with how often and where they stand.
//!
//! Words are cut by tantivy's analyzer `default` when the segment is written, and replaced by their stems in a text of a language
//! ([`super::stems`]); what a filter or a query asks for is cut by [`flotilla_proto::fulltext`], and a test holds both against each
//! other.
//!
//! **Several values.** The index does not tell the values of a row apart, but for phrases: between the last place of a value and
//! the first of the next one lies a place that no word has. So a condition that asks for several words in one value is answered
//! with the rows that have all of them, and the payload decides.
//!
//! **Searching** reads the postings of all terms side by side, a window of rows at a time, so that what is held does not grow with
//! the segment. How long a row's texts are stands in one byte for each row; tantivy's rounding of it is what a length is
//! ([`bm25::rounded_length`]).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use flotilla_proto::filter::Test;
use flotilla_proto::fulltext::{Kin, Need, bm25, phrases};
use tantivy::error::DataCorruption;
use tantivy::fieldnorm::{FieldNormReader, FieldNormReaders};
use tantivy::index::InvertedIndexReader;
use tantivy::postings::{Postings as _, SegmentPostings, TermInfo};
use tantivy::schema::{Field, IndexRecordOption};
use tantivy::{DocSet as _, SegmentReader, TERMINATED, TantivyError, Term};

use super::automaton::Near;
use super::leaf::{Postings, add_term};
use crate::index::Bitset;
use crate::storage::Fault;
use crate::storage::text::{Listed, Sought, Tally, Weighed};

/// Rows that are tallied at a time.
const WINDOW: u32 = 4_096;

/// Bytes of all words of a segment's field that are kept spelt out.
const SPELT_BYTES_MAX: usize = 8 << 20;

/// The words of one field in one segment.
pub(in crate::storage) struct Tokens {
    dir: PathBuf,
    rows: u32,
    field: Field,
    terms: Arc<InvertedIndexReader>,
    spelt: OnceLock<Option<Spelt>>,
    norms: FieldNormReaders,
    /// Of all rows: see [`Tokens::totals`].
    totals: OnceLock<(u64, u64)>,
}

/// What the index knows of a condition on words.
pub(super) struct Words {
    /// Rows that pass, or that may.
    pub(super) rows: Bitset,
    /// Whether all of them do.
    pub(super) is_sure: bool,
}

/// Words, each with a line end that none has in it.
#[derive(Default)]
struct Spelt {
    text: Vec<u8>,
    /// Behind each word's line end.
    ends: Vec<u32>,
}

impl Spelt {
    /// The words that have it in them.
    fn with<'a>(&'a self, finder: &'a memchr::memmem::Finder<'_>) -> impl Iterator<Item = &'a [u8]> + 'a {
        let mut from = 0;
        std::iter::from_fn(move || {
            let at = from + finder.find(self.text.get(from..)?)?;
            let ordinal = self.ends.partition_point(|end| *end as usize <= at);
            let begin = ordinal
                .checked_sub(1)
                .and_then(|before| self.ends.get(before))
                .map_or(0, |end| *end as usize);
            from = *self.ends.get(ordinal)? as usize;
            self.text.get(begin..from.saturating_sub(1))
        })
    }
}

impl Tokens {
    /// Those of `field` in the segment that lies in `dir`.
    pub(super) fn open(
        dir: &Path,
        reader: &SegmentReader,
        field: Field,
        rows: u32,
    ) -> tantivy::Result<Tokens> {
        let (terms, norms) = (reader.inverted_index(field)?, reader.fieldnorms_readers().clone());
        let (spelt, totals) = (OnceLock::new(), OnceLock::new());
        Ok(Tokens { dir: dir.to_owned(), rows, field, terms, spelt, norms, totals })
    }

    /// The rows with a value that is text and passes; `None` if words cannot tell.
    pub(super) fn matching(&self, test: &Test) -> tantivy::Result<Option<Words>> {
        Ok(match test {
            Test::Match { words, any: true } => Some(Words { rows: self.with_any(words)?, is_sure: true }),
            Test::Match { words, any: false } => {
                Some(Words { rows: self.with_all(words)?, is_sure: words.len() == 1 })
            }
            Test::Phrase(words) => Some(Words { rows: self.with_phrase(words)?, is_sure: true }),
            _ => None,
        })
    }

    /// The rows that a prefix or a pattern may pass, `long` among them: what a text has in it, one of its words has in it, unless
    /// that is too long to be a word. None where the condition says too little.
    pub(super) fn maybe_matching(&self, test: &Test, mut long: Bitset) -> tantivy::Result<Option<Words>> {
        let run = match test {
            Test::Glob(glob) => glob.longest_run(),
            Test::Prefix(prefix) => longest_run(prefix),
            _ => return Ok(None),
        };
        // As the words of the index are spelt: character by character.
        let run: String = run.chars().flat_map(char::to_lowercase).collect();
        if run.is_empty() {
            return Ok(None);
        }
        let finder = memchr::memmem::Finder::new(run.as_bytes());
        let mut postings = Postings::new(&self.terms);
        match self.spelt()? {
            Some(spelt) => {
                for word in spelt.with(&finder) {
                    if let Some(info) = self.terms.terms().get(word)? {
                        postings.add(&info, &mut long)?;
                    }
                }
            }
            None => {
                let mut stream = self.terms.terms().stream()?;
                while let Some((term, info)) = stream.next() {
                    if finder.find(term).is_some() {
                        postings.add(info, &mut long)?;
                    }
                }
            }
        }
        Ok(Some(Words { rows: long, is_sure: false }))
    }

    /// All words, one after the other, once somebody looks for parts of them; none if they are too many.
    fn spelt(&self) -> tantivy::Result<Option<&Spelt>> {
        if let Some(spelt) = self.spelt.get() {
            return Ok(spelt.as_ref());
        }
        let mut spelt = Spelt::default();
        let mut stream = self.terms.terms().stream()?;
        while spelt.text.len() <= SPELT_BYTES_MAX && stream.advance() {
            spelt.text.extend_from_slice(stream.key());
            spelt.text.push(b'\n');
            spelt.ends.push(spelt.text.len() as u32);
        }
        let is_whole = spelt.text.len() <= SPELT_BYTES_MAX;
        Ok(self.spelt.get_or_init(|| is_whole.then_some(spelt)).as_ref())
    }

    fn term(&self, word: &str) -> Term {
        Term::from_field_text(self.field, word)
    }

    fn with_any(&self, words: &[String]) -> tantivy::Result<Bitset> {
        let mut found = Bitset::new(self.rows as usize);
        for word in words {
            add_term(&self.terms, &self.term(word), &mut found)?;
        }
        Ok(found)
    }

    fn with_all(&self, words: &[String]) -> tantivy::Result<Bitset> {
        let mut infos = Vec::with_capacity(words.len());
        for word in words {
            match self.terms.get_term_info(&self.term(word))? {
                Some(info) => infos.push(info),
                None => return Ok(Bitset::new(self.rows as usize)),
            }
        }
        // The rarest first: what is left gets small soon.
        infos.sort_by_key(|info| info.doc_freq);
        let mut all: Option<Bitset> = None;
        for info in &infos {
            let mut rows = Bitset::new(self.rows as usize);
            Postings::new(&self.terms).add(info, &mut rows)?;
            match &mut all {
                Some(all) => all.and(&rows),
                None => all = Some(rows),
            }
        }
        Ok(all.unwrap_or_else(|| Bitset::new(self.rows as usize)))
    }

    fn with_phrase(&self, words: &[String]) -> tantivy::Result<Bitset> {
        let mut found = self.with_all(words)?;
        if words.len() == 1 {
            return Ok(found);
        }
        let mut bits: BTreeMap<&str, u64> = BTreeMap::new();
        for (place, word) in words.iter().enumerate() {
            *bits.entry(word).or_default() |= 1 << place;
        }
        let mut places = self.places(bits)?;
        let candidates: Vec<u32> = found.iter().collect();
        found = Bitset::new(self.rows as usize);
        for row in candidates {
            if phrases(places.of(row), words.len()) > 0 {
                found.insert(row);
            }
        }
        Ok(found)
    }

    /// Where these words stand, each with the bits that tell it.
    pub(super) fn places<'a>(
        &self,
        words: impl IntoIterator<Item = (&'a str, u64)>,
    ) -> tantivy::Result<Places> {
        let mut cursors = Vec::new();
        for (word, bits) in words {
            let option = IndexRecordOption::WithFreqsAndPositions;
            cursors.extend(self.terms.read_postings(&self.term(word), option)?.map(|cursor| (cursor, bits)));
        }
        Ok(Places { cursors, found: Vec::new(), scratch: Vec::new() })
    }
}

/// The longest run of letters and digits in the text.
fn longest_run(text: &str) -> String {
    let runs = text.split(|char: char| !char.is_alphanumeric());
    runs.max_by_key(|run| run.len()).unwrap_or_default().to_owned()
}

/// Where words stand in rows that are asked for in ascending order.
pub(super) struct Places {
    cursors: Vec<(SegmentPostings, u64)>,
    found: Vec<(u32, u64)>,
    scratch: Vec<u32>,
}

impl Places {
    /// The places in `row`, ascending, each with the bits of the word there.
    pub(super) fn of(&mut self, row: u32) -> &[(u32, u64)] {
        self.found.clear();
        for (cursor, bits) in &mut self.cursors {
            if cursor.doc() < row {
                cursor.seek(row);
            }
            if cursor.doc() == row {
                cursor.positions(&mut self.scratch);
                self.found.extend(self.scratch.iter().map(|place| (*place, *bits)));
            }
        }
        self.found.sort_unstable();
        &self.found
    }
}

/// Which rows count.
pub(in crate::storage) struct Accepted<'a> {
    /// Whether a row does.
    pub(in crate::storage) is_accepted: &'a dyn Fn(u32) -> bool,
    /// Whether every row does.
    pub(in crate::storage) is_all: bool,
}

impl Tokens {
    /// The rounded length of each row's texts.
    fn lengths(&self) -> tantivy::Result<Lengths> {
        let norms = self.norms.get_field(self.field)?;
        match norms {
            Some(norms) if norms.num_docs() == self.rows => Ok(Lengths(norms)),
            _ => Err(TantivyError::DataCorruption(DataCorruption::comment_only(
                "the lengths of a text field are not those of its rows",
            ))),
        }
    }

    /// Rows with a word, and the sum of their rounded lengths. Those of all rows never change and are added up once.
    fn totals(&self, rows: &Accepted<'_>) -> tantivy::Result<(u64, u64)> {
        if let Some(totals) = self.totals.get().filter(|_| rows.is_all) {
            return Ok(*totals);
        }
        let lengths = self.lengths()?;
        let accepted = (0..self.rows).filter(|row| rows.is_all || (rows.is_accepted)(*row));
        let totals = accepted.map(|row| lengths.of(row)).fold((0, 0), |(records, words), length| {
            (records + u64::from(length > 0), words + u64::from(length))
        });
        Ok(if rows.is_all { *self.totals.get_or_init(|| totals) } else { totals })
    }

    /// See [`SegmentView::weigh`](crate::storage::SegmentView::weigh).
    pub(in crate::storage) fn weigh(&self, sought: &Sought, rows: &Accepted<'_>) -> tantivy::Result<Weighed> {
        let mut weighed = Weighed::none(sought.len());
        (weighed.records, weighed.words) = self.totals(rows)?;
        for (terms, count) in sought.clauses().iter().zip(&mut weighed.containing) {
            *count = match terms.as_slice() {
                [(word, _)] if rows.is_all => self.terms.doc_freq(&self.term(word))?.into(),
                terms => {
                    let mut found = Bitset::new(self.rows as usize);
                    for (word, _) in terms {
                        add_term(&self.terms, &self.term(word), &mut found)?;
                    }
                    found.iter().filter(|row| (rows.is_accepted)(*row)).count() as u64
                }
            };
        }
        Ok(weighed)
    }

    /// See [`SegmentView::list_kin`](crate::storage::SegmentView::list_kin).
    pub(in crate::storage) fn list_kin(
        &self,
        kin: &Kin,
        rows: &Accepted<'_>,
        listed: &mut Listed,
    ) -> tantivy::Result<()> {
        let mut count = |term: &[u8], info: &TermInfo| -> tantivy::Result<()> {
            // What was indexed as text is text.
            let Ok(word) = std::str::from_utf8(term) else { return Ok(()) };
            let count = if rows.is_all { info.doc_freq.into() } else { self.count(info, rows)? };
            listed.add(word, count);
            Ok(())
        };
        let head = kin.word();
        if kin.is_prefix() {
            let mut stream = self.terms.terms().range().ge(head).into_stream()?;
            while let Some((term, info)) = stream.next() {
                if !term.starts_with(head.as_bytes()) {
                    break;
                }
                count(term, info)?;
            }
        }
        if kin.edits() > 0 {
            let mut stream = self.terms.terms().search(Near(kin)).into_stream()?;
            while let Some((term, info)) = stream.next() {
                if !(kin.is_prefix() && term.starts_with(head.as_bytes())) {
                    count(term, info)?;
                }
            }
        }
        Ok(())
    }

    fn count(&self, info: &TermInfo, rows: &Accepted<'_>) -> tantivy::Result<u64> {
        let mut blocks = self.terms.read_block_postings_from_terminfo(info, IndexRecordOption::Basic)?;
        let mut count = 0;
        while !blocks.docs().is_empty() {
            count += blocks.docs().iter().filter(|row| (rows.is_accepted)(**row)).count() as u64;
            blocks.advance();
        }
        Ok(count)
    }

    /// See [`SegmentView::occurrences`](crate::storage::SegmentView::occurrences). All postings are read, a window of rows
    /// at a time.
    pub(in crate::storage) fn occurrences(
        &self,
        (sought, need): (&Sought, Need),
        rows: &Accepted<'_>,
        each: &mut dyn FnMut(u32, &Tally<'_>) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let tantivy = |error| super::fault(&self.dir, error);
        let lengths = self.lengths().map_err(tantivy)?;
        let cursors = self.cursors(sought).map_err(tantivy)?;
        let mut places = match need {
            Need::Phrase => Some(self.places(sought.words()).map_err(tantivy)?),
            Need::Any | Need::All => None,
        };
        // What is told of a row at once comes before what takes a look at it.
        let first = if need == Need::Any { Need::Any } else { Need::All };
        let mut see = |row: u32, shares: &[u32]| {
            let mut tally = Tally { length: 0, shares, phrases: 0 };
            if !tally.is_enough(first) || !(rows.is_all || (rows.is_accepted)(row)) {
                return Ok(());
            }
            tally.length = lengths.of(row);
            if let Some(places) = places.as_mut() {
                tally.phrases = phrases(places.of(row), sought.len());
            }
            if tally.is_enough(need) { each(row, &tally) } else { Ok(()) }
        };
        if first == Need::All && sought.clauses().iter().all(|terms| terms.len() == 1) {
            return meet(cursors, sought.len(), &mut see);
        }
        let mut window = Window::new(cursors, sought.len());
        while window.fill() {
            for (row, shares) in window.rows() {
                see(row, shares)?;
            }
        }
        Ok(())
    }

    fn cursors(&self, sought: &Sought) -> tantivy::Result<Vec<Cursor>> {
        let mut cursors = Vec::new();
        for (clause, terms) in sought.clauses().iter().enumerate() {
            for (word, edits) in terms {
                let postings = self.terms.read_postings(&self.term(word), IndexRecordOption::WithFreqs)?;
                let share = bm25::share(*edits);
                cursors.extend(postings.map(|postings| Cursor { postings, clause, share }));
            }
        }
        Ok(cursors)
    }
}

/// Rounded lengths, by row.
struct Lengths(FieldNormReader);

impl Lengths {
    fn of(&self, row: u32) -> u32 {
        if row < self.0.num_docs() { self.0.fieldnorm(row) } else { 0 }
    }
}

/// A term's rows, from the next one on.
struct Cursor {
    postings: SegmentPostings,
    clause: usize,
    share: u32,
}

/// Shows the rows that have all of so many words, ascending, each with its shares by clause: the rarest word leads, and the others
/// leap to where it stands.
fn meet(
    mut cursors: Vec<Cursor>,
    clauses: usize,
    see: &mut impl FnMut(u32, &[u32]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    if cursors.len() < clauses {
        // A word that no row has.
        return Ok(());
    }
    cursors.sort_by_key(|cursor| cursor.postings.size_hint());
    let mut shares = vec![0; clauses];
    let Some((lead, others)) = cursors.split_first_mut() else { return Ok(()) };
    let mut row = lead.postings.doc();
    'rows: while row != TERMINATED {
        for other in others.iter_mut() {
            let at = other.postings.doc();
            let at = if at < row { other.postings.seek(row) } else { at };
            if at > row {
                row = lead.postings.seek(at);
                continue 'rows;
            }
        }
        for cursor in std::iter::once(&mut *lead).chain(others.iter_mut()) {
            if let Some(share) = shares.get_mut(cursor.clause) {
                *share = cursor.share.saturating_mul(cursor.postings.term_freq());
            }
        }
        see(row, &shares)?;
        row = lead.postings.advance();
    }
    Ok(())
}

/// The tallies of some rows, filled term by term.
struct Window {
    cursors: Vec<Cursor>,
    clauses: usize,
    base: u32,
    /// By row of the window, then by clause.
    shares: Vec<u32>,
    /// A bit for each row that has a term.
    touched: Bitset,
}

impl Window {
    fn new(cursors: Vec<Cursor>, clauses: usize) -> Window {
        let rows = WINDOW as usize;
        Window { cursors, clauses, base: 0, shares: vec![0; rows * clauses], touched: Bitset::new(rows) }
    }

    /// Goes on to the next rows with a term; false if there are no more.
    fn fill(&mut self) -> bool {
        self.cursors.retain(|cursor| cursor.postings.doc() != TERMINATED);
        let Some(base) = self.cursors.iter().map(|cursor| cursor.postings.doc()).min() else { return false };
        self.base = base;
        for row in self.touched.iter() {
            let start = row as usize * self.clauses;
            self.shares.get_mut(start..start + self.clauses).unwrap_or_default().fill(0);
        }
        self.touched = Bitset::new(WINDOW as usize);
        let end = base.saturating_add(WINDOW).min(TERMINATED);
        for Cursor { postings, clause, share } in &mut self.cursors {
            while postings.doc() < end {
                let row = postings.doc() - base;
                if let Some(sum) = self.shares.get_mut(row as usize * self.clauses + *clause) {
                    *sum = sum.saturating_add(share.saturating_mul(postings.term_freq()));
                }
                self.touched.insert(row);
                postings.advance();
            }
        }
        true
    }

    /// The rows with a term, ascending, each with its shares by clause.
    fn rows(&self) -> impl Iterator<Item = (u32, &[u32])> {
        self.touched.iter().map(|row| {
            let start = row as usize * self.clauses;
            (self.base + row, self.shares.get(start..start + self.clauses).unwrap_or_default())
        })
    }
}
