//! Declared fields as tantivy fields, and payload values as what those hold.
//!
//! | declared | in the index | answers |
//! |---|---|---|
//! | keyword | raw terms | equality, in, prefix, range |
//! | integer, datetime (microseconds) | column of i64 | equality, in, range |
//! | float | column of f64, -0 stored as 0 | equality, in, range |
//! | bool | column of bool | equality |
//! | text | tokens with positions | nothing here: full-text search reads them |
//!
//! Two more fields hold the ordinals of declared fields as terms: `exists` for the rows in which the field reaches any
//! value, `odd` for the rows in which it reaches a value that the table above cannot hold. `payload` is stored only.
//!
//! tantivy's field names carry the ordinal (to be unique and legal) and a hash of the path (so that a segment opened
//! with other fields than it was written for is noticed).

use std::collections::BTreeMap;

use flotilla_proto::record::Value;
use flotilla_proto::schema::{FieldType, datetime_micros};
use tantivy::schema::{
    BytesOptions, Field, IndexRecordOption, NumericOptions, Schema, TextFieldIndexing, TextOptions,
};

/// Bytes of the longest keyword that becomes a term; rows with longer ones are odd. tantivy's own limit is 65,530.
pub(super) const TERM_BYTES_MAX: usize = 32 << 10;

/// The fields of one segment.
pub(super) struct Layout {
    /// As tantivy knows them.
    pub(super) schema: Schema,
    /// Holds the payload.
    pub(super) payload: Field,
    /// Holds the ordinals of the fields that reach a value.
    pub(super) exists: Field,
    /// Holds the ordinals of the fields that reach a value the index cannot hold.
    pub(super) odd: Field,
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
    /// Itself in tantivy.
    pub(super) field: Field,
}

impl Layout {
    /// The layout for these declared fields; the same for the same fields.
    pub(super) fn new(fields: &BTreeMap<String, FieldType>) -> Layout {
        let mut schema = Schema::builder();
        let payload = schema.add_bytes_field("payload", BytesOptions::default().set_stored());
        let exists = schema.add_u64_field("exists", NumericOptions::default().set_indexed());
        let odd = schema.add_u64_field("odd", NumericOptions::default().set_indexed());
        let column = || NumericOptions::default().set_fast();
        let mut declared = BTreeMap::new();
        for (ordinal, (path, kind)) in (0..).zip(fields) {
            let name = format!("f{ordinal}_{:016x}", xxhash_rust::xxh3::xxh3_64(path.as_bytes()));
            let field = match kind {
                FieldType::Keyword => schema.add_text_field(&name, terms("raw", IndexRecordOption::Basic)),
                FieldType::Integer | FieldType::Datetime => schema.add_i64_field(&name, column()),
                FieldType::Float => schema.add_f64_field(&name, column()),
                FieldType::Bool => schema.add_bool_field(&name, column()),
                FieldType::Text => {
                    schema.add_text_field(&name, terms("default", IndexRecordOption::WithFreqsAndPositions))
                }
            };
            let steps = path.split('.').map(str::to_owned).collect();
            declared.insert(path.clone(), Declared { path: steps, kind: *kind, ordinal, name, field });
        }
        Layout { schema: schema.build(), payload, exists, odd, declared }
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

/// A value as its field's index holds it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Cell<'a> {
    /// A term, or text to be tokenized.
    Text(&'a str),
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
    /// The cell of `value` in a field of `kind`.
    pub(super) fn of(kind: FieldType, value: &Value) -> Cell<'_> {
        match (kind, value) {
            (FieldType::Keyword, Value::Text(text)) if text.len() <= TERM_BYTES_MAX => Cell::Text(text),
            (FieldType::Text, Value::Text(text)) => Cell::Text(text),
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
