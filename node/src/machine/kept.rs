//! What a partition's machine keeps in the manifest besides the records: a function of the log up to its mark.
//!
//! Layout: mark and deduplication window (postcard), then a version byte and what was added since (postcard), each version
//! behind the one before it. A state of before there were additions ends after the window; what a state does not have is
//! read as if there were none. A newer version than ours is read as far as ours reaches.

use flotilla_proto::ids::LogIndex;

use crate::machine::dedup::{Dedup, Piece, Told, Window};
use crate::machine::moves::{Moves, Touched};
use crate::machine::replaces::Replaces;
use crate::storage::Digest;

/// 1: the digest. 2: slots that move. 3: what was refused. 4: replacements. 5: since when pieces are here.
const VERSION: u8 = 5;

/// See the module.
#[derive(Debug, Default)]
pub struct Kept {
    /// Where the state stands: Raft's, opaque here.
    pub mark: Vec<u8>,
    /// Requests that were answered.
    pub dedup: Dedup,
    /// The rolling digest of the records; `None`: written before there was one.
    pub digest: Option<Digest>,
    /// Slots that come, go, came and went.
    pub moves: Moves,
    /// Keys written since a move began.
    pub touched: Touched,
    /// What is held back for replacements, and what became of them.
    pub replaces: Replaces,
}

/// As the manifest holds it.
pub fn encode(
    mark: &Vec<u8>,
    dedup: &Dedup,
    digest: Digest,
    moves: &Moves,
    touched: &Touched,
    replaces: &Replaces,
) -> Result<Vec<u8>, postcard::Error> {
    let mut bytes = postcard::to_stdvec(&(mark, &dedup.own))?;
    bytes.push(VERSION);
    let bytes = postcard::to_extend(&(Some(digest), moves, &dedup.pieces, touched), bytes)?;
    let pieces: Vec<Vec<Told>> = dedup.pieces.iter().map(Piece::told).collect();
    let bytes = postcard::to_extend(&(dedup.own.told(), pieces), bytes)?;
    let came: Vec<LogIndex> = dedup.pieces.iter().map(Piece::came).collect();
    postcard::to_extend(&(replaces, came), bytes)
}

impl Kept {
    /// What such bytes say.
    pub fn decode(bytes: &[u8]) -> Result<Kept, postcard::Error> {
        let ((mark, own), rest): ((Vec<u8>, Window), _) = postcard::take_from_bytes(bytes)?;
        let mut kept = Kept { mark, dedup: Dedup { own, pieces: Vec::new() }, ..Kept::default() };
        let Some((&version, added)) = rest.split_first() else { return Ok(kept) };
        if version == 0 {
            return Err(postcard::Error::SerdeDeCustom);
        }
        let (digest, added): (Option<Digest>, _) = postcard::take_from_bytes(added)?;
        kept.digest = digest;
        if version > 1 {
            let ((moves, pieces, touched), added): ((Moves, Vec<Piece>, Touched), _) =
                postcard::take_from_bytes(added)?;
            (kept.moves, kept.dedup.pieces, kept.touched) = (moves, pieces, touched);
            if version > 2 {
                let ((own, pieces), added): ((Vec<Told>, Vec<Vec<Told>>), _) =
                    postcard::take_from_bytes(added)?;
                kept.dedup.read_told(own, pieces)?;
                if version > 3 {
                    let (replaces, added) = postcard::take_from_bytes(added)?;
                    kept.replaces = replaces;
                    if version > 4 {
                        kept.dedup.read_came(postcard::from_bytes(added)?)?;
                    }
                }
            }
        }
        Ok(kept)
    }
}

#[cfg(test)]
mod tests {
    use serde::Serialize;

    use super::*;
    use crate::machine::command::RequestId;
    use crate::machine::dedup::Refusals;
    use crate::machine::{Refused, Reply};

    /// The shape of before the digest.
    #[derive(Serialize)]
    struct Former {
        mark: Vec<u8>,
        window: Window,
    }

    fn window() -> Window {
        let mut window = Window::default();
        window.record(RequestId { client: 3, serial: 4 }, 9, 2);
        window
    }

    fn check(kept: &Kept) {
        let seen = kept.dedup.own.seen(RequestId { client: 3, serial: 4 });
        assert_eq!(seen, Some(Reply::Written { affected: 2, log_index: 9 }));
        assert_eq!(kept.mark, b"mark");
    }

    #[test]
    fn it_comes_back_as_it_was() {
        let dedup = Dedup { own: window(), pieces: Vec::new() };
        let moves = Moves { layout: 7, ..Moves::default() };
        let touched = Touched::from([(vec![1, 2], 5)]);
        let replaces = Replaces { generation: 5, ..Replaces::default() };
        let mark = b"mark".to_vec();
        let bytes = encode(&mark, &dedup, Digest::default(), &moves, &touched, &replaces).unwrap();
        let kept = Kept::decode(&bytes).unwrap();
        check(&kept);
        assert_eq!(kept.digest, Some(Digest::default()));
        assert_eq!((kept.moves, kept.touched, kept.replaces), (moves.clone(), touched, replaces));
        for cut in 0..bytes.len() {
            let read = Kept::decode(&bytes[..cut]);
            assert!(read.map_or(true, |kept| kept.replaces.generation != 5), "cut at {cut}");
        }
    }

    #[test]
    fn what_was_refused_is_kept_and_a_state_of_before_that_is_read() {
        let id = RequestId { client: 3, serial: 4 };
        let refused = Refused { key: vec![1], ..Refused::default() };
        let refusals = Refusals { named: vec![refused], unnamed: 2 };
        let mut dedup = Dedup { own: window(), pieces: Vec::new() };
        dedup.refuse(None, id, 9, refusals.clone());
        let of = |dedup: &Dedup| {
            let (moves, touched, replaces) = (Moves::default(), Touched::new(), Replaces::default());
            encode(&b"mark".to_vec(), dedup, Digest::default(), &moves, &touched, &replaces)
        };
        let bytes = of(&dedup).unwrap();
        let kept = Kept::decode(&bytes).unwrap();
        assert_eq!(kept.dedup, dedup);
        assert_eq!(kept.dedup.refused(None, id), Some(&refusals));
        // As it was written then: the same without what was refused.
        let plain = Dedup { own: window(), pieces: Vec::new() };
        let mut former = of(&plain).unwrap();
        let none = (Replaces::default(), Vec::<LogIndex>::new());
        former.truncate(former.len() - 2 - postcard::to_stdvec(&none).unwrap().len());
        let version = former.iter().rposition(|byte| *byte == VERSION).unwrap();
        former[version] = 2;
        assert_eq!(Kept::decode(&former).unwrap().dedup, plain);
    }

    #[test]
    fn a_state_of_before_pieces_said_since_when_is_read() {
        let dedup = Dedup { own: window(), pieces: vec![Piece::default()] };
        let (mark, moves, touched) = (b"mark".to_vec(), Moves::default(), Touched::new());
        let replaces = Replaces { generation: 5, ..Replaces::default() };
        let mut bytes = encode(&mark, &dedup, Digest::default(), &moves, &touched, &replaces).unwrap();
        assert_eq!(Kept::decode(&bytes).unwrap().dedup, dedup);
        bytes.truncate(bytes.len() - postcard::to_stdvec(&vec![0_u64]).unwrap().len());
        assert!(Kept::decode(&bytes).is_err(), "of another number of pieces");
        let version = bytes.iter().position(|byte| *byte == VERSION).unwrap();
        assert_eq!(version, postcard::to_stdvec(&(&mark, &dedup.own)).unwrap().len());
        bytes[version] = 4;
        let kept = Kept::decode(&bytes).unwrap();
        assert_eq!((kept.dedup, kept.replaces), (dedup, replaces));
    }

    #[test]
    fn a_state_of_before_the_digest_is_read_and_one_of_before_the_moves() {
        let former = Former { mark: b"mark".to_vec(), window: window() };
        let mut bytes = postcard::to_stdvec(&former).unwrap();
        let kept = Kept::decode(&bytes).unwrap();
        check(&kept);
        assert_eq!(kept.digest, None);
        bytes.push(1);
        let bytes = postcard::to_extend(&Some(Digest::default()), bytes).unwrap();
        let kept = Kept::decode(&bytes).unwrap();
        check(&kept);
        assert_eq!((kept.digest, kept.moves), (Some(Digest::default()), Moves::default()));
    }
}
