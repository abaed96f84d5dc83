//! The words that a word of a query stands for: itself, those that begin with it, and those that are a few edits away.
//!
//! An **edit** inserts, drops or replaces one character (Levenshtein 1966). The distance is built up character by character
//! of the other word ([`Kin::step`]), so that whoever walks a dictionary can leave a branch as soon as nothing below it is near
//! enough ([`Kin::may_become`]).

/// A word of a query and how far its kin may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kin {
    word: String,
    chars: Vec<char>,
    is_prefix: bool,
    edits: u8,
}

/// How far the characters read so far are from each beginning of the word, cut where it is too far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Distances(Box<[u8]>);

impl Kin {
    /// The words at most `edits` edits from `word`, and, with `is_prefix`, those that begin with it.
    pub fn new(word: &str, is_prefix: bool, edits: u8) -> Kin {
        Kin { word: word.to_owned(), chars: word.chars().collect(), is_prefix, edits }
    }

    /// The word itself.
    pub fn word(&self) -> &str {
        &self.word
    }

    /// Whether words that begin with it are kin.
    pub fn is_prefix(&self) -> bool {
        self.is_prefix
    }

    /// Edits, at most.
    pub fn edits(&self) -> u8 {
        self.edits
    }

    /// How many edits `other` counts as being away; 0 for one that begins with the word, where that is kin. `None` if it is not
    /// kin.
    pub fn edits_to(&self, other: &str) -> Option<u8> {
        if self.is_prefix && other.starts_with(&self.word) || other == self.word {
            return Some(0);
        }
        if self.edits == 0 {
            return None;
        }
        let mut row = self.start();
        for char in other.chars() {
            row = self.step(&row, char);
            if !self.may_become(&row) {
                return None;
            }
        }
        self.reached(&row)
    }

    /// Nothing read.
    pub fn start(&self) -> Distances {
        Distances((0..=self.chars.len()).map(|read| self.cut(read)).collect())
    }

    /// One more character read.
    pub fn step(&self, row: &Distances, char: char) -> Distances {
        let first = row.0.first().map_or(self.too_far(), |first| self.cut(usize::from(*first) + 1));
        let mut next = Vec::with_capacity(row.0.len());
        next.push(first);
        let mut left = first;
        for (pair, own) in row.0.windows(2).zip(&self.chars) {
            let (diagonal, above) = (pair[0], pair[1]);
            let replaced = diagonal + u8::from(*own != char);
            left = replaced.min(above + 1).min(left + 1).min(self.too_far());
            next.push(left);
        }
        Distances(next.into())
    }

    /// The edits of what was read, if it is near enough.
    pub fn reached(&self, row: &Distances) -> Option<u8> {
        row.0.last().copied().filter(|edits| *edits <= self.edits)
    }

    /// Whether more characters may make a word that is near enough.
    pub fn may_become(&self, row: &Distances) -> bool {
        row.0.iter().any(|edits| *edits <= self.edits)
    }

    fn too_far(&self) -> u8 {
        self.edits.saturating_add(1).min(u8::MAX - 1)
    }

    fn cut(&self, edits: usize) -> u8 {
        u8::try_from(edits).unwrap_or(u8::MAX).min(self.too_far())
    }
}
