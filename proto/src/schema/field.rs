//! Types of declared fields.
//!
//! | type | holds | the same value, in other words |
//! |---|---|---|
//! | `datetime` | RFC 3339 text, or integer milliseconds since 1970 | a point in time ([`datetime_micros`]) |
//! | `uuid` | text: 32 hexadecimal digits, plain or with hyphens as in 8-4-4-4-12, in braces or behind `urn:uuid:`, in any case | 16 bytes ([`uuid_of`]); where text is needed, the hyphenated form in lower case ([`uuid_text`]), which sorts as the bytes do |
//! | `geo` | `{"lat": .., "lon": ..}` or `[lon, lat]` | a point ([`crate::geo`]) |

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::fulltext::Language;
use crate::record::Value;

/// What a declared field holds. A field holds one value of the type, or a list of them, or null.
///
/// Stored by the place of each among the others: a new one goes to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FieldType {
    /// Exact text.
    Keyword,
    /// A 64-bit signed integer.
    Integer,
    /// A finite float; integers are accepted.
    Float,
    /// A truth value.
    Bool,
    /// RFC 3339 text or integer milliseconds since the Unix epoch.
    Datetime,
    /// Full text, its words as they are written.
    Text,
    /// A UUID, however it is spelt.
    Uuid,
    /// A point on the earth.
    Geo,
    /// Full text of a language, its words by their stems.
    TextIn(Language),
}

impl FieldType {
    /// All of them.
    pub fn all() -> impl Iterator<Item = FieldType> {
        use FieldType::{Bool, Datetime, Float, Geo, Integer, Keyword, Text, Uuid};
        let plain = [Keyword, Integer, Float, Bool, Datetime, Text, Uuid, Geo];
        plain.into_iter().chain(Language::ALL.map(FieldType::TextIn))
    }

    /// The type's word in messages and files.
    pub fn name(self) -> &'static str {
        match self {
            FieldType::Keyword => "keyword",
            FieldType::Integer => "integer",
            FieldType::Float => "float",
            FieldType::Bool => "bool",
            FieldType::Datetime => "datetime",
            FieldType::Text => "text",
            FieldType::Uuid => "uuid",
            FieldType::Geo => "geo",
            FieldType::TextIn(language) => language.declared(),
        }
    }

    /// The type of this name.
    pub fn named(name: &str) -> Option<FieldType> {
        FieldType::all().find(|kind| kind.name() == name)
    }

    /// Whether programs that know no other types know it.
    pub fn is_of_old(self) -> bool {
        match self {
            FieldType::Uuid | FieldType::Geo | FieldType::TextIn(_) => false,
            FieldType::Keyword
            | FieldType::Integer
            | FieldType::Float
            | FieldType::Bool
            | FieldType::Datetime
            | FieldType::Text => true,
        }
    }

    /// Whether its words are searched.
    pub fn is_text(self) -> bool {
        matches!(self, FieldType::Text | FieldType::TextIn(_))
    }

    /// Whose stems its words count by, if by any.
    pub fn language(self) -> Option<Language> {
        if let FieldType::TextIn(language) = self { Some(language) } else { None }
    }

    /// Whether it takes a value that the field's path reaches. Of points, [`crate::geo`] says so.
    pub(super) fn admits(self, value: &Value) -> bool {
        match (self, value) {
            (_, Value::Null) => true,
            (FieldType::Keyword | FieldType::Text | FieldType::TextIn(_), Value::Text(_)) => true,
            (FieldType::Integer, Value::Int(_)) => true,
            (FieldType::Float, Value::Int(_) | Value::Float(_)) => true,
            (FieldType::Bool, Value::Bool(_)) => true,
            (FieldType::Datetime, value) => datetime_micros(value).is_some(),
            (FieldType::Uuid, value) => uuid_of(value).is_some(),
            _ => false,
        }
    }

    /// What its values look like, where its name does not tell: to stand behind a refusal.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            FieldType::Datetime => " (RFC 3339 text or integer milliseconds)",
            FieldType::Uuid => {
                " (32 hexadecimal digits as text: plain, hyphenated, in braces or behind urn:uuid:)"
            }
            _ => "",
        }
    }
}

/// Microseconds since 1970-01-01T00:00:00Z of a datetime value: RFC 3339 text, or integer milliseconds. `None` if it
/// is neither, or lies outside what 64 bits of microseconds can tell.
pub fn datetime_micros(value: &Value) -> Option<i64> {
    match value {
        Value::Int(millis) => millis.checked_mul(1_000),
        Value::Text(text) => {
            let when =
                time::OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339).ok()?;
            i64::try_from(when.unix_timestamp_nanos().div_euclid(1_000)).ok()
        }
        _ => None,
    }
}

/// The UUID that a value spells, in whichever form.
pub fn uuid_of(value: &Value) -> Option<Uuid> {
    const URN: &str = "urn:uuid:";
    let Value::Text(text) = value else { return None };
    let is_urn = text.get(..URN.len()).is_some_and(|head| head.eq_ignore_ascii_case(URN));
    let bare = match is_urn {
        true => text.get(URN.len()..)?,
        false => text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or(text),
    };
    // No braces within braces, nor behind the name of the form.
    matches!(bare.len(), 32 | 36).then(|| Uuid::try_parse(bare).ok())?
}

/// The one form of a UUID that stands for all of them: hyphenated, in lower case. It sorts as the 16 bytes do.
pub fn uuid_text(id: Uuid) -> String {
    id.hyphenated().to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(text: &str) -> Option<String> {
        uuid_of(&text.into()).map(uuid_text)
    }

    #[test]
    fn a_uuid_is_read_in_every_usual_form() {
        let canonical = "0191d2a4-7b3c-7def-8abc-0123456789ab";
        for spelt in [
            canonical,
            "0191D2A4-7B3C-7DEF-8ABC-0123456789AB",
            "0191d2a47b3c7def8abc0123456789ab",
            "0191D2A47b3c7def8abc0123456789AB",
            "{0191d2a4-7b3c-7def-8abc-0123456789ab}",
            "{0191D2A47B3C7DEF8ABC0123456789AB}",
            "urn:uuid:0191d2a4-7b3c-7def-8abc-0123456789ab",
            "URN:UUID:0191D2A4-7B3C-7DEF-8ABC-0123456789AB",
        ] {
            assert_eq!(of(spelt).as_deref(), Some(canonical), "{spelt}");
        }
        for none in [
            "",
            "0191d2a4",
            "{}",
            "urn:uuid:",
            "0191d2a4-7b3c-7def-8abc-0123456789a",
            "0191d2a4-7b3c-7def-8abc-0123456789abc",
            "0191d2a4-7b3c-7def-8abc-0123456789ag",
            "0191d2a47b3c-7def-8abc-0123456789ab-",
            "01-91d2a4-7b3c-7def-8abc-0123456789ab",
            " 0191d2a4-7b3c-7def-8abc-0123456789ab",
            "{0191d2a4-7b3c-7def-8abc-0123456789ab",
            "{{0191d2a4-7b3c-7def-8abc-0123456789ab}}",
            "urn:uuid:{0191d2a4-7b3c-7def-8abc-0123456789ab}",
            "urn:uuid:urn:uuid:0191d2a4-7b3c-7def-8abc-0123456789ab",
            "ä191d2a47b3c7def8abc0123456789a",
            "日本日本日本日本日本日本",
        ] {
            assert_eq!(of(none), None, "{none}");
        }
        for value in [Value::Null, 7.into(), true.into(), Value::List(vec![canonical.into()])] {
            assert_eq!(uuid_of(&value), None);
        }
    }

    proptest! {
        #[test]
        fn the_text_of_uuids_sorts_as_their_bytes(a in any::<u128>(), b in any::<u128>()) {
            let (a, b) = (Uuid::from_u128(a), Uuid::from_u128(b));
            prop_assert_eq!(uuid_text(a).cmp(&uuid_text(b)), a.as_bytes().cmp(b.as_bytes()));
            prop_assert_eq!(uuid_of(&uuid_text(a).into()), Some(a));
        }

        #[test]
        fn any_text_is_a_uuid_or_none(text in any::<String>()) {
            let _ = uuid_of(&text.into());
        }
    }

    #[test]
    fn types_keep_their_place_and_their_name() {
        let stored: Vec<Vec<u8>> = FieldType::all().map(|kind| postcard::to_stdvec(&kind).unwrap()).collect();
        let plain: Vec<Vec<u8>> = (0..8).map(|place| vec![place]).collect();
        let texts: Vec<Vec<u8>> = (0..Language::ALL.len() as u8).map(|place| vec![8, place]).collect();
        assert_eq!(stored, [plain, texts].concat());
        for kind in FieldType::all() {
            assert_eq!(FieldType::named(kind.name()), Some(kind));
        }
        assert_eq!(FieldType::named("text:english"), Some(FieldType::TextIn(Language::English)));
        assert_eq!(FieldType::named("english"), None);
    }
}
