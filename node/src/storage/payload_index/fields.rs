//! Declared fields as tantivy fields, and payload values as what those hold.
//!
//! | declared | in the index | answers |
//! |---|---|---|
//! | keyword | raw terms; column of terms | equality, in, prefix, range; the column: groups |
//! | integer, datetime (microseconds) | column of i64 | equality, in, range |
//! | float | column of f64, -0 stored as 0 | equality, in, range |
//! | bool | column of bool | equality |
//! | text | words with their places | match, phrase; which rows a prefix or a pattern may pass |
//! | text of a language | stems of words with their places | match, phrase |
//! | uuid | canonical text, as a keyword's | as of keywords |
//! | geo | columns of f64: latitudes, longitudes | within, where a row has one point; which rows it may pass elsewhere |
//!
//! Two more fields hold the ordinals of declared fields as terms: `exists` for the rows in which the field reaches any
//! value, `odd` for the rows in which it reaches a value that the table above cannot hold. What is no point is not odd: no
//! region holds it.
//!
//! A third, `long`, holds those of text fields with a run of letters and digits that is too long to be a word: what looks for a part of
//! a word cannot find it among the words. A fourth, `several`, holds those of text fields that reach more than one text: in all
//! other rows, words that are all there are all in one text.
//!
//! Segments of earlier layouts lack the column of terms and `long`, or `several` ([`Version`]): payloads tell then. They have the payloads
//! in a field `payload`, stored only; they stand in a file of their own since ([`rows`](super::rows)).
//!
//! tantivy's field names carry the ordinal (to be unique and legal) and a hash of the path (so that a segment opened
//! with other fields than it was written for is noticed).

use std::collections::BTreeMap;

use flotilla_proto::limits::TEXT_WORD_BYTES_MAX;
use flotilla_proto::record::Value;
use flotilla_proto::schema::{FieldType, datetime_micros, uuid_of, uuid_text};
use tantivy::schema::{
    BytesOptions, Field, IndexRecordOption, NumericOptions, Schema, TextFieldIndexing, TextOptions,
};

/// Bytes of the longest keyword that becomes a term; rows with longer ones are odd. tantivy's own limit is 65,530.
pub(super) const TERM_BYTES_MAX: usize = 32 << 10;

/// What a segment has for its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Version {
    /// Keywords have terms alone.
    First,
    /// Keywords have columns too, and rows with long runs are known.
    Columns,
    /// Rows with several texts in a field are known too.
    Several,
    /// Payloads stand in a file of their own.
    Rows,
}

impl Version {
    /// All, the newest first.
    pub(super) const ALL: [Version; 4] = [Version::Rows, Version::Several, Version::Columns, Version::First];
}

/// The fields of one segment.
pub(super) struct Layout {
    /// Which one it is.
    pub(super) version: Version,
    /// As tantivy knows them.
    pub(super) schema: Schema,
    /// Holds the payload, where that has no file of its own.
    pub(super) payload: Option<Field>,
    /// Holds the ordinals of the fields that reach a value.
    pub(super) exists: Field,
    /// Holds the ordinals of the fields that reach a value the index cannot hold.
    pub(super) odd: Field,
    /// Holds the ordinals of the text fields with a run that is no word for its length.
    pub(super) long: Option<Field>,
    /// Holds the ordinals of the text fields that reach more than one text.
    pub(super) several: Option<Field>,
    /// The declared fields by dotted path.
    pub(super) declared: BTreeMap<String, Declared>,
}

/// A declared field.
pub(super) struct Declared {
    /// Its path, split.
    pub(super) path: Vec<String>,
    /// Its type.
    pub(super) kind: FieldType,
    /// Its place among the declared fields.
    pub(super) ordinal: u64,
    /// Its name in tantivy.
    pub(super) name: String,
    /// Itself in tantivy; of points, the latitudes.
    pub(super) field: Field,
    /// Of points: the longitudes, with their name.
    pub(super) lon: Option<(String, Field)>,
}

impl Layout {
    /// The layout that is written for these declared fields; the same for the same fields.
    pub(super) fn new(fields: &BTreeMap<String, FieldType>) -> Layout {
        Layout::of(fields, Version::Rows)
    }

    /// The layout of a version for these declared fields.
    pub(super) fn of(fields: &BTreeMap<String, FieldType>, version: Version) -> Layout {
        let mut schema = Schema::builder();
        let payload = (version < Version::Rows)
            .then(|| schema.add_bytes_field("payload", BytesOptions::default().set_stored()));
        let exists = schema.add_u64_field("exists", NumericOptions::default().set_indexed());
        let odd = schema.add_u64_field("odd", NumericOptions::default().set_indexed());
        let mut mark = |name: &str, since: Version| {
            (version >= since).then(|| schema.add_u64_field(name, NumericOptions::default().set_indexed()))
        };
        let (long, several) = (mark("long", Version::Columns), mark("several", Version::Several));
        let column = || NumericOptions::default().set_fast();
        let mut declared = BTreeMap::new();
        for (ordinal, (path, kind)) in (0..).zip(fields) {
            let name = format!("f{ordinal}_{:016x}", xxhash_rust::xxh3::xxh3_64(path.as_bytes()));
            let field = match kind {
                FieldType::Keyword => {
                    let terms = terms("raw", IndexRecordOption::Basic);
                    let is_columned = version >= Version::Columns;
                    schema.add_text_field(&name, if is_columned { terms.set_fast("raw") } else { terms })
                }
                FieldType::Integer | FieldType::Datetime => schema.add_i64_field(&name, column()),
                // There were no UUIDs before there were columns of terms.
                FieldType::Uuid => {
                    schema.add_text_field(&name, terms("raw", IndexRecordOption::Basic).set_fast("raw"))
                }
                FieldType::Float | FieldType::Geo => schema.add_f64_field(&name, column()),
                FieldType::Bool => schema.add_bool_field(&name, column()),
                FieldType::Text => {
                    schema.add_text_field(&name, terms("default", IndexRecordOption::WithFreqsAndPositions))
                }
                FieldType::TextIn(language) => {
                    let stems = terms(language.name(), IndexRecordOption::WithFreqsAndPositions);
                    schema.add_text_field(&name, stems)
                }
            };
            let lon = (*kind == FieldType::Geo).then(|| {
                let name = format!("{name}_lon");
                let field = schema.add_f64_field(&name, column());
                (name, field)
            });
            let steps = path.split('.').map(str::to_owned).collect();
            declared.insert(path.clone(), Declared { path: steps, kind: *kind, ordinal, name, field, lon });
        }
        Layout { version, schema: schema.build(), payload, exists, odd, long, several, declared }
    }
}

fn terms(tokenizer: &str, option: IndexRecordOption) -> TextOptions {
    let is_scored = option != IndexRecordOption::Basic;
    TextOptions::default().set_indexing_options(
        TextFieldIndexing::default()
            .set_tokenizer(tokenizer)
            .set_index_option(option)
            .set_fieldnorms(is_scored),
    )
}

/// Whether the text has a run of letters and digits that may be too long to be a word.
pub(super) fn has_long_run(text: &str) -> bool {
    text.len() >= TEXT_WORD_BYTES_MAX
        && text.split(|char: char| !char.is_alphanumeric()).any(|run| run.len() >= TEXT_WORD_BYTES_MAX)
}

/// A value as its field's index holds it.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    /// A term, or text to be tokenized.
    Text(&'a str),
    /// A term that is another form of the value.
    Term(String),
    /// A whole number, or microseconds.
    Whole(i64),
    /// A float that is not -0.
    Float(f64),
    /// A truth value.
    Truth(bool),
    /// The index cannot hold it.
    Odd,
}

impl Cell<'_> {
    /// The cell of `value` in a field of `kind`; points have cells of their own.
    pub(super) fn of(kind: FieldType, value: &Value) -> Cell<'_> {
        match (kind, value) {
            (FieldType::Keyword, Value::Text(text)) if text.len() <= TERM_BYTES_MAX => Cell::Text(text),
            (FieldType::Text | FieldType::TextIn(_), Value::Text(text)) => Cell::Text(text),
            (FieldType::Uuid, value) => uuid_of(value).map_or(Cell::Odd, |id| Cell::Term(uuid_text(id))),
            (FieldType::Integer, Value::Int(whole)) => Cell::Whole(*whole),
            (FieldType::Float, Value::Float(float)) if float.is_finite() => Cell::Float(float + 0.0),
            (FieldType::Float, Value::Int(whole)) => exact_float(*whole).map_or(Cell::Odd, Cell::Float),
            (FieldType::Bool, Value::Bool(truth)) => Cell::Truth(*truth),
            (FieldType::Datetime, value) => datetime_micros(value).map_or(Cell::Odd, Cell::Whole),
            _ => Cell::Odd,
        }
    }
}

/// The float that equals `whole`, if there is one.
pub(super) fn exact_float(whole: i64) -> Option<f64> {
    let float = whole as f64;
    (float as i128 == i128::from(whole)).then_some(float)
}
