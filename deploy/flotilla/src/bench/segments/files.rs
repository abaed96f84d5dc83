//! Files and their segments, made up from a seed.
//!
//! A file depends on the seed and its number alone, so that a larger set begins with the smaller one (whose last file is cut
//! off), and the same arguments give the same records on every machine. Rows are numbered file by file, segment by segment,
//! which is the order of their keys too. Besides making records, it knows what questions about them have to be answered.

use flotilla_proto::record::{Key, Payload, Record, Value};

use crate::demo::inventory::Draw;

/// Segments of a file, at most.
pub(super) const SEGMENTS_MAX: u64 = 200;
/// Files whose names have all but this many digits in common are [`Files::neighbours`].
const NEIGHBOURS: u64 = 100;
/// Words of a subject, besides the numbers of segment and file.
const WORDS: usize = 9;
const VOCABULARY: u64 = 2_000;
const GROUPS: u64 = 50;
const CONSONANTS: [char; 20] =
    ['b', 'c', 'd', 'f', 'g', 'h', 'j', 'k', 'l', 'm', 'n', 'p', 'q', 'r', 's', 't', 'v', 'w', 'x', 'z'];
const VOWELS: [char; 5] = ['a', 'e', 'i', 'o', 'u'];
/// Time of the first upload, in milliseconds since 1970, and how long each takes.
const BEGAN_MS: u64 = 1_700_000_000_000;
const EACH_MS: u64 = 25;

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Files {
    seed: u64,
    /// The first row of each file, and the number of rows.
    starts: Vec<u64>,
    /// By number of a word: the files whose subject has it, ascending.
    by_word: Vec<Vec<u64>>,
}

impl Files {
    /// As many files as have so many segments; there is one at least.
    pub(super) fn new(seed: u64, rows: u64) -> Files {
        let mut files = Files {
            seed,
            starts: vec![0],
            by_word: vec![Vec::new(); usize::try_from(VOCABULARY).unwrap_or(0)],
        };
        let (mut file, mut end) = (0, 0);
        while end < rows {
            end = rows.min(end + size(&mut files.draw(file, 0)));
            files.starts.push(end);
            for word in files.words(file) {
                let known = &mut files.by_word[word];
                if known.last() != Some(&file) {
                    known.push(file);
                }
            }
            file += 1;
        }
        files
    }

    /// How many rows there are.
    pub(super) fn rows(&self) -> u64 {
        self.starts.last().copied().unwrap_or(0)
    }

    /// How many files there are.
    pub(super) fn len(&self) -> u64 {
        self.starts.len() as u64 - 1
    }

    /// The rows of a file.
    pub(super) fn rows_of(&self, file: u64) -> std::ops::Range<u64> {
        self.starts[file as usize]..self.starts[file as usize + 1]
    }

    /// The beginning of the keys of files whose names differ in their last digits only, of which this is one; and all rows
    /// of theirs.
    pub(super) fn neighbours(&self, file: u64) -> (String, std::ops::Range<u64>) {
        let first = file / NEIGHBOURS * NEIGHBOURS;
        let last = self.len().min(first + NEIGHBOURS);
        let prefix = format!("f{:05}", first / NEIGHBOURS);
        (prefix, self.starts[first as usize]..self.starts[last as usize])
    }

    /// The file of a row, and which of its segments it is.
    pub(super) fn place(&self, row: u64) -> (u64, u64) {
        let file = self.starts.partition_point(|start| *start <= row) - 1;
        (file as u64, row - self.starts[file])
    }

    /// The row of a key, if it is one's.
    pub(super) fn row(&self, key: &Key) -> Option<u64> {
        let Key::Text(text) = key else { return None };
        let (file, index) = text.strip_prefix('f')?.split_once('/')?;
        let (file, index) = (file.parse::<u64>().ok()?, index.parse::<u64>().ok()?);
        let rows = (file < self.len()).then(|| self.rows_of(file))?;
        let row = rows.start.checked_add(index).filter(|row| rows.contains(row))?;
        (self.key(row) == *key).then_some(row)
    }

    /// Its key.
    pub(super) fn key(&self, row: u64) -> Key {
        let (file, index) = self.place(row);
        Key::Text(composed(&file_id(file), index))
    }

    /// The record of a row.
    pub(super) fn record(&self, row: u64) -> Record {
        Record { payload: self.payload(row), ..Record::new(self.key(row)) }
    }

    /// What is in it.
    pub(super) fn payload(&self, row: u64) -> Payload {
        let (file, index) = self.place(row);
        let mut draw = self.draw(file, 1 + index);
        let words: Vec<String> = self.words(file).map(|word| self.word(word)).into();
        // Of the file that was cut off too.
        let segments = size(&mut self.draw(file, 0));
        let state = match draw.below(100) {
            0..97 => "stored",
            97..99 => "missing",
            _ => "damaged",
        };
        let int = |value: u64| Value::Int(i64::try_from(value).unwrap_or(i64::MAX));
        Payload::from([
            ("file_id".to_owned(), file_id(file).into()),
            ("segment_index".to_owned(), int(index)),
            ("message_id".to_owned(), self.message_id(row).into()),
            ("subject".to_owned(), format!("{} ({}/{segments})", words.join(" "), index + 1).into()),
            ("group".to_owned(), format!("group-{:02}", self.draw(file, u64::MAX).below(GROUPS)).into()),
            ("bytes".to_owned(), int(700_000 + draw.below(50_000))),
            ("crc".to_owned(), int(draw.below(1 << 32))),
            ("uploaded_at".to_owned(), int(BEGAN_MS + row * EACH_MS)),
            ("state".to_owned(), state.into()),
        ])
    }

    /// What no other record has.
    pub(super) fn message_id(&self, row: u64) -> String {
        let (file, index) = self.place(row);
        format!("{:016x}.{row}@segments.example", self.draw(file, index ^ (1 << 32)).next())
    }

    /// The words of a file's subject, by their numbers; the smaller a number, the more files have it.
    pub(super) fn words(&self, file: u64) -> [usize; WORDS] {
        let mut draw = self.draw(file, u64::MAX - 1);
        std::array::from_fn(|_| (draw.below(VOCABULARY) * draw.below(VOCABULARY) / VOCABULARY) as usize)
    }

    /// The word of a number: three syllables, and another one for each.
    pub(super) fn word(&self, number: usize) -> String {
        // Coprime to the number of words that there could be, so that no two are the same.
        let mut rest = (number as u64 * 7_919 + self.seed % 1_000_000) % 1_000_000;
        let mut word = String::with_capacity(6);
        for _ in 0..3 {
            let syllable = (rest % 100) as usize;
            word.extend([CONSONANTS[syllable / VOWELS.len()], VOWELS[syllable % VOWELS.len()]]);
            rest /= 100;
        }
        word
    }

    /// Segments of all files whose subject has both words.
    pub(super) fn with_words(&self, one: usize, other: usize) -> u64 {
        let other = &self.by_word[other];
        let both = self.by_word[one].iter().filter(|file| other.binary_search(file).is_ok());
        both.map(|file| self.rows_of(*file)).map(|rows| rows.end - rows.start).sum()
    }

    fn draw(&self, file: u64, what: u64) -> Draw {
        let mut mixed = Draw(self.seed ^ file.wrapping_mul(0xd134_2543_de82_ef95));
        Draw(mixed.next() ^ what.wrapping_mul(0x9fb2_1c65_1e98_df25))
    }
}

/// Segments of a file: more of the small ones.
fn size(draw: &mut Draw) -> u64 {
    1 + draw.below(SEGMENTS_MAX) * draw.below(SEGMENTS_MAX) / SEGMENTS_MAX
}

/// The name of a file. Names sort as their numbers do, up to ten millions.
pub(super) fn file_id(file: u64) -> String {
    format!("f{file:07}")
}

/// The key of a segment of a file.
pub(super) fn composed(file_id: &str, index: u64) -> String {
    format!("{file_id}/{index:06}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn rows_are_in_the_order_of_their_keys_and_found_by_them() {
        let files = Files::new(7, 5_000);
        assert_eq!(files.rows(), 5_000);
        let keys: Vec<Key> = (0..files.rows()).map(|row| files.key(row)).collect();
        assert!(keys.is_sorted_by(|a, b| a < b));
        for (row, key) in (0..).zip(&keys) {
            assert_eq!(files.row(key), Some(row));
            assert_eq!(files.record(row).key, *key);
        }
        let sizes: Vec<u64> =
            (0..files.len()).map(|file| files.rows_of(file)).map(|rows| rows.end - rows.start).collect();
        assert_eq!(sizes.iter().sum::<u64>(), 5_000);
        assert!(sizes.iter().all(|size| (1..=SEGMENTS_MAX).contains(size)), "{sizes:?}");
        assert!(sizes.iter().any(|size| *size < 10) && sizes.iter().any(|size| *size > 90), "{sizes:?}");
        for strange in ["f0000000/0", "f9999999/000000", "f0000000/000200", "g0000000/000000", "f0000000"] {
            assert_eq!(files.row(&strange.into()), None, "{strange}");
        }
        assert_eq!(files.row(&Key::Number(0)), None);
    }

    #[test]
    fn a_larger_set_begins_with_the_smaller_one() {
        let (small, large) = (Files::new(7, 700), Files::new(7, 5_000));
        for row in 0..700 {
            assert_eq!(small.record(row), large.record(row));
        }
        assert_ne!(small.payload(0), Files::new(8, 700).payload(0));
    }

    #[test]
    fn words_and_message_ids_are_their_own() {
        let files = Files::new(7, 5_000);
        let ids: BTreeSet<String> = (0..5_000).map(|row| files.message_id(row)).collect();
        assert_eq!(ids.len(), 5_000);
        let words: BTreeSet<String> = (0..VOCABULARY as usize).map(|number| files.word(number)).collect();
        assert_eq!(words.len(), VOCABULARY as usize);
        assert!(words.iter().all(|word| word.len() == 6));
    }

    #[test]
    fn what_has_two_words_is_counted() {
        let files = Files::new(7, 5_000);
        for file in 0..files.len() {
            let [one, other, ..] = files.words(file);
            let has = |row: &u64| {
                let Some(Value::Text(subject)) = files.payload(*row).get("subject").cloned() else {
                    return false;
                };
                let words: Vec<&str> = subject.split(' ').collect();
                [one, other].iter().all(|word| words.contains(&files.word(*word).as_str()))
            };
            assert_eq!(files.with_words(one, other), (0..5_000).filter(has).count() as u64);
        }
    }

    #[test]
    fn neighbours_are_the_files_whose_names_begin_alike() {
        let files = Files::new(7, 20_000);
        assert!(files.len() > 2 * NEIGHBOURS);
        let last = files.len() - 1;
        for file in [0, NEIGHBOURS - 1, NEIGHBOURS, last] {
            let (prefix, rows) = files.neighbours(file);
            let begins = |row: &u64| files.key(*row).to_string().starts_with(&prefix);
            let wanted: Vec<u64> = (0..files.rows()).filter(begins).collect();
            assert_eq!(rows.collect::<Vec<u64>>(), wanted, "{prefix}");
        }
    }
}
