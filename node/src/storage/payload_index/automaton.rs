//! Walking a dictionary for the kin of a word, leaving each branch as soon as nothing below it is near enough.

use flotilla_proto::fulltext::{Distances, Kin};
use tantivy_fst::Automaton;

/// Accepts the words that are few enough edits away.
pub(super) struct Near<'a>(pub(super) &'a Kin);

/// What was read: whole characters, and the bytes of one that is not whole yet.
#[derive(Clone)]
pub(super) struct Read {
    /// `None`: too far, whatever comes.
    distances: Option<Distances>,
    part: [u8; 4],
    len: usize,
}

impl Automaton for Near<'_> {
    type State = Read;

    fn start(&self) -> Read {
        Read { distances: Some(self.0.start()), part: [0; 4], len: 0 }
    }

    fn is_match(&self, read: &Read) -> bool {
        let edits = read.distances.as_ref().and_then(|distances| self.0.reached(distances));
        read.len == 0 && edits.is_some()
    }

    fn can_match(&self, read: &Read) -> bool {
        read.distances.is_some()
    }

    fn accept(&self, read: &Read, byte: u8) -> Read {
        let mut next = read.clone();
        let Some(distances) = &read.distances else { return next };
        let Some(place) = next.part.get_mut(next.len) else {
            // Five bytes make no character.
            next.distances = None;
            return next;
        };
        *place = byte;
        next.len += 1;
        let whole = next.part.get(..next.len).and_then(|part| std::str::from_utf8(part).ok());
        if let Some(char) = whole.and_then(|text| text.chars().next()) {
            next.len = 0;
            next.distances = Some(self.0.step(distances, char)).filter(|row| self.0.may_become(row));
        }
        next
    }
}
