//! The door for fuzzing of what a partition's machine keeps in the manifest.

// What was read is written again, or nothing can be said of it.
#![allow(clippy::expect_used)]

use super::kept::{self, Kept};

/// What may be a machine's state.
///
/// **Promise.** It reads or is refused, without a panic. What was read and is written again reads the same.
pub fn machine_state(bytes: &[u8]) {
    let Ok(read) = Kept::decode(bytes) else { return };
    let Kept { mark, dedup, digest, moves, touched, replaces } = read;
    let digest = digest.unwrap_or_default();
    let written =
        kept::encode(&mark, &dedup, digest, &moves, &touched, &replaces).expect("what was read encodes");
    let again = Kept::decode(&written).expect("what was written reads");
    assert_eq!((again.mark, again.dedup, again.digest), (mark, dedup, Some(digest)));
    assert_eq!((again.moves, again.touched), (moves, touched));
}

/// A state with something in each part, for the corpus.
#[cfg(test)]
pub fn sample() -> Vec<u8> {
    use super::{command::RequestId, dedup::Dedup, moves::Moves, moves::Touched};
    let mut dedup = Dedup::default();
    dedup.own.record(RequestId { client: 3, serial: 4 }, 9, 2);
    let moves = Moves { layout: 7, ..Moves::default() };
    let touched = Touched::from([(vec![1, 2], 5)]);
    kept::encode(&b"mark".to_vec(), &dedup, Default::default(), &moves, &touched, &Default::default())
        .unwrap()
}
