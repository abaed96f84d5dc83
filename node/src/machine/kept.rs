//! What a partition's machine keeps in the manifest besides the records: a function of the log up to its mark.
//!
//! Layout: mark and deduplication window (postcard), then a version byte and what was added since (postcard). A state of
//! before there were additions ends after the window; it is read as one without them. A newer version than ours is read as
//! far as ours reaches.

use serde::{Deserialize, Serialize};

use crate::machine::dedup::Window;
use crate::storage::Digest;

const VERSION: u8 = 1;

/// See the module.
#[derive(Debug, Default)]
pub struct Kept {
    /// Where the state stands: Raft's, opaque here.
    pub mark: Vec<u8>,
    /// Requests that were answered.
    pub window: Window,
    /// The rolling digest of the records; `None`: written before there was one.
    pub digest: Option<Digest>,
}

#[derive(Default, Serialize, Deserialize)]
struct Added {
    digest: Option<Digest>,
}

impl Kept {
    /// As the manifest holds it.
    pub fn encode(&self) -> Result<Vec<u8>, postcard::Error> {
        let mut bytes = postcard::to_stdvec(&(&self.mark, &self.window))?;
        bytes.push(VERSION);
        postcard::to_extend(&Added { digest: self.digest }, bytes)
    }

    /// What such bytes say.
    pub fn decode(bytes: &[u8]) -> Result<Kept, postcard::Error> {
        let ((mark, window), rest) = postcard::take_from_bytes(bytes)?;
        let added: Added = match rest.split_first() {
            None => Added::default(),
            Some((&version, added)) if version >= VERSION => postcard::from_bytes(added)?,
            Some(_) => return Err(postcard::Error::SerdeDeCustom),
        };
        Ok(Kept { mark, window, digest: added.digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Reply;
    use crate::machine::command::RequestId;

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
        let seen = kept.window.seen(RequestId { client: 3, serial: 4 });
        assert_eq!(seen, Some(Reply::Written { affected: 2, log_index: 9 }));
        assert_eq!(kept.mark, b"mark");
    }

    #[test]
    fn it_comes_back_as_it_was() {
        let digest = Some(Digest::default());
        let bytes = Kept { mark: b"mark".to_vec(), window: window(), digest }.encode().unwrap();
        let kept = Kept::decode(&bytes).unwrap();
        check(&kept);
        assert_eq!(kept.digest, digest);
        for cut in 0..bytes.len() {
            assert!(Kept::decode(&bytes[..cut]).map_or(true, |kept| kept.digest.is_none()), "cut at {cut}");
        }
    }

    #[test]
    fn a_state_of_before_the_digest_is_read() {
        let former = Former { mark: b"mark".to_vec(), window: window() };
        let kept = Kept::decode(&postcard::to_stdvec(&former).unwrap()).unwrap();
        check(&kept);
        assert_eq!(kept.digest, None);
    }
}
