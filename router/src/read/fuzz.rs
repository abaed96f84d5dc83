//! The door for fuzzing of the token between two pages of a scan.

use flotilla_proto::ids::CollectionId;
use flotilla_proto::record::Key;

use super::token;

const BY_KEY: token::Question<'_> =
    token::Question { filter: None, order_by: "", is_descending: false, key_prefix: None };
const COLLECTION: CollectionId = CollectionId::from_u128(7);

/// After a `t` comes a token as a stranger might send it, after anything else the text of a key.
///
/// **Promise.** Whatever the token: a violation or a key, no panic, and a key only of the one token that stands for it. The
/// token of a key gives that key back, and says nothing to a scan of another collection.
pub fn scan_token(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let text = String::from_utf8_lossy(rest);
    if *kind == b't' {
        if let Ok(behind) = token::decode(&text, COLLECTION, BY_KEY) {
            let again = token::encode(COLLECTION, BY_KEY, &behind);
            assert_eq!(token::decode(&again, COLLECTION, BY_KEY), Ok(behind));
        }
        return;
    }
    // A longer key is no record's, and its token is refused for its length.
    let end = text.floor_char_boundary(flotilla_proto::limits::KEY_BYTES_MAX);
    let key = Key::Text(text[..end].to_owned());
    let behind = token::Behind { last: key.to_bytes(), ..Default::default() };
    let token = token::encode(COLLECTION, BY_KEY, &behind);
    assert_eq!(token::decode(&token, COLLECTION, BY_KEY), Ok(behind));
    assert!(token::decode(&token, CollectionId::from_u128(8), BY_KEY).is_err());
}

/// The token of a key, for the corpus.
#[cfg(test)]
pub fn sample(key: &str) -> String {
    let last = Key::Text(key.to_owned()).to_bytes();
    token::encode(COLLECTION, BY_KEY, &token::Behind { last, ..Default::default() })
}
