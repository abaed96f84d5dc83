//! Exports as Parquet: typed columns for what is declared, JSON for the rest.
//!
//! The columns are the key as text, each declared field by its dotted path, `payload`, and `vector:NAME` for each vector. A
//! value stands in its field's column if that can tell it: integers, floats (of whole numbers those that a float holds
//! exactly), truth values, text, points in time as microseconds in UTC, and points on the earth as JSON, in whichever form the
//! record has them. Lists, and what else a column cannot tell, stay in
//! `payload`, which is what is left of the record as JSON: a record is its columns and that, and nothing is in both.
//!
//! Rows are gathered into row groups of at most [`GROUP_ROWS`] and about [`GROUP_BYTES`], and written column by column.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::ensure;
use flotilla_proto::record::{Payload, Record, Value, Vector};
use flotilla_proto::schema::{FieldType, Form, VectorSpec, datetime_micros};
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FloatType, Int64Type};
use parquet::errors::Result as ParquetResult;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};

use super::out::Out;
use crate::datetime::rfc3339;
use crate::import::batches::weight;
use crate::json;

/// Records of a row group, at most.
const GROUP_ROWS: usize = 50_000;
/// Estimated bytes after which a row group is full.
const GROUP_BYTES: usize = 64 << 20;
/// The column of what has no other one.
const REST: &str = "payload";
/// Whole numbers up to here are floats exactly.
const EXACT_MAX: u64 = 1 << 53;

/// A file being written.
pub struct Parquet {
    file: SerializedFileWriter<Out>,
    fields: Vec<(Vec<String>, FieldType)>,
    /// Vectors by name, and whether each is a list of floats; others are JSON.
    vectors: Vec<(String, bool)>,
    rows: Vec<Record>,
    bytes: usize,
}

impl Parquet {
    /// Begins a file of these declared fields and vectors.
    pub fn begin(
        out: Out,
        key: &str,
        fields: &BTreeMap<String, FieldType>,
        vectors: Option<&BTreeMap<String, VectorSpec>>,
    ) -> anyhow::Result<Parquet> {
        let is_dense = |spec: &VectorSpec| matches!(spec.form, Form::Dense(_));
        let vectors: Vec<(String, bool)> =
            vectors.into_iter().flatten().map(|(name, spec)| (name.clone(), is_dense(spec))).collect();
        let schema = schema(key, fields, &vectors)?;
        let compression = Compression::ZSTD(ZstdLevel::default());
        let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let file = SerializedFileWriter::new(out, schema, properties)?;
        let steps = |path: &String| path.split('.').map(str::to_owned).collect();
        let fields = fields.iter().map(|(path, kind)| (steps(path), *kind)).collect();
        Ok(Parquet { file, fields, vectors, rows: Vec::new(), bytes: 0 })
    }

    /// Takes records; writes a row group when there are enough.
    pub fn write(&mut self, records: Vec<Record>) -> anyhow::Result<()> {
        for record in records {
            self.bytes += weight(&record);
            self.rows.push(record);
            if self.rows.len() >= GROUP_ROWS || self.bytes >= GROUP_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Ends the file; returns its bytes.
    pub fn finish(mut self) -> anyhow::Result<u64> {
        self.flush()?;
        self.file.into_inner()?.finish()
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        if self.rows.is_empty() {
            return Ok(());
        }
        let mut rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let mut group = self.file.next_row_group()?;
        let keys: Vec<ByteArray> = rows.iter().map(|row| bytes(row.key.to_string())).collect();
        column::<ByteArrayType>(&mut group, &keys, None, None)?;
        for (steps, kind) in &self.fields {
            let payloads = rows.iter_mut().map(|row| &mut row.payload);
            field(&mut group, payloads, steps, *kind)?;
        }
        let rest =
            |row: &Record| (!row.payload.is_empty()).then(|| json::payload_to(&row.payload).to_string());
        optional::<ByteArrayType>(&mut group, rows.iter().map(|row| rest(row).map(bytes)))?;
        for (name, is_dense) in &self.vectors {
            let held = rows.iter().map(|row| row.vectors.get(name));
            if *is_dense {
                floats(&mut group, held.map(|vector| vector.and_then(Vector::dense)))?;
            } else {
                let text = |vector| bytes(json::vector_to(vector).to_string());
                optional::<ByteArrayType>(&mut group, held.map(|vector| vector.map(text)))?;
            }
        }
        group.close()?;
        Ok(())
    }
}

fn bytes(text: String) -> ByteArray {
    ByteArray::from(text.into_bytes())
}

/// The columns of a file; each name once.
fn schema(
    key: &str,
    fields: &BTreeMap<String, FieldType>,
    vectors: &[(String, bool)],
) -> anyhow::Result<TypePtr> {
    let text = Some(LogicalType::String);
    let mut columns = vec![primitive(key, Repetition::REQUIRED, Physical::BYTE_ARRAY, text)?];
    for (path, kind) in fields {
        let (physical, logical) = match kind {
            FieldType::Integer => (Physical::INT64, None),
            FieldType::Float => (Physical::DOUBLE, None),
            FieldType::Bool => (Physical::BOOLEAN, None),
            FieldType::Keyword | FieldType::Text | FieldType::TextIn(_) | FieldType::Uuid => {
                (Physical::BYTE_ARRAY, Some(LogicalType::String))
            }
            // In whichever form the record has it.
            FieldType::Geo => (Physical::BYTE_ARRAY, Some(LogicalType::Json)),
            FieldType::Datetime => {
                let unit = TimeUnit::MICROS;
                (Physical::INT64, Some(LogicalType::Timestamp { is_adjusted_to_u_t_c: true, unit }))
            }
        };
        columns.push(primitive(path, Repetition::OPTIONAL, physical, logical)?);
    }
    let json =
        |name: &str| primitive(name, Repetition::OPTIONAL, Physical::BYTE_ARRAY, Some(LogicalType::Json));
    columns.push(json(REST)?);
    for (name, is_dense) in vectors {
        let name = format!("vector:{name}");
        columns.push(if *is_dense { list(&name)? } else { json(&name)? });
    }
    let mut known = BTreeSet::new();
    for column in &columns {
        let name = column.name();
        ensure!(
            known.insert(name),
            "two columns would be called `{name}`; --key-column names that of the keys, `{REST}` is that of what \
             is not declared"
        );
    }
    Ok(Arc::new(Type::group_type_builder("records").with_fields(columns).build()?))
}

fn primitive(
    name: &str,
    repetition: Repetition,
    physical: Physical,
    logical: Option<LogicalType>,
) -> ParquetResult<TypePtr> {
    let builder = Type::primitive_type_builder(name, physical).with_repetition(repetition);
    Ok(Arc::new(builder.with_logical_type(logical).build()?))
}

/// A list of floats, in the three levels that Parquet asks for.
fn list(name: &str) -> ParquetResult<TypePtr> {
    let element = primitive("element", Repetition::REQUIRED, Physical::FLOAT, None)?;
    let group = |name: &str, repetition, logical, inner| {
        let builder = Type::group_type_builder(name).with_repetition(repetition);
        Ok(Arc::new(builder.with_logical_type(logical).with_fields(vec![inner]).build()?))
    };
    let repeated = group("list", Repetition::REPEATED, None, element)?;
    group(name, Repetition::OPTIONAL, Some(LogicalType::List), repeated)
}

type Group<'a> = SerializedRowGroupWriter<'a, Out>;

fn column<T: DataType>(
    group: &mut Group<'_>,
    values: &[T::T],
    defined: Option<&[i16]>,
    repeated: Option<&[i16]>,
) -> anyhow::Result<()> {
    let mut writer = group
        .next_column()?
        .ok_or_else(|| anyhow::anyhow!("the schema has fewer columns than are written"))?;
    writer.typed::<T>().write_batch(values, defined, repeated)?;
    Ok(writer.close()?)
}

fn optional<T: DataType>(
    group: &mut Group<'_>,
    cells: impl Iterator<Item = Option<T::T>>,
) -> anyhow::Result<()> {
    let (mut values, mut defined) = (Vec::new(), Vec::new());
    for cell in cells {
        defined.push(i16::from(cell.is_some()));
        values.extend(cell);
    }
    column::<T>(group, &values, Some(&defined), None)
}

/// Vectors as lists: level 0 is none at all, 1 an empty one, 2 a component, of which all but the first repeat.
fn floats<'a>(group: &mut Group<'_>, vectors: impl Iterator<Item = Option<&'a [f32]>>) -> anyhow::Result<()> {
    let (mut values, mut defined, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
    for vector in vectors {
        match vector {
            None => defined.push(0),
            Some([]) => defined.push(1),
            Some(components) => {
                values.extend_from_slice(components);
                defined.extend(std::iter::repeat_n(2, components.len()));
                repeated.push(0);
                repeated.extend(std::iter::repeat_n(1, components.len() - 1));
                continue;
            }
        }
        repeated.push(0);
    }
    column::<FloatType>(group, &values, Some(&defined), Some(&repeated))
}

/// The column of a declared field, whose values leave the payloads.
fn field<'a>(
    group: &mut Group<'_>,
    payloads: impl Iterator<Item = &'a mut Payload>,
    steps: &[String],
    kind: FieldType,
) -> anyhow::Result<()> {
    match kind {
        FieldType::Integer => optional::<Int64Type>(group, payloads.map(|p| take(p, steps, &whole))),
        FieldType::Float => optional::<DoubleType>(group, payloads.map(|p| take(p, steps, &float))),
        FieldType::Bool => optional::<BoolType>(group, payloads.map(|p| take(p, steps, &truth))),
        FieldType::Datetime => optional::<Int64Type>(group, payloads.map(|p| take(p, steps, &instant))),
        FieldType::Geo => optional::<ByteArrayType>(group, payloads.map(|p| take(p, steps, &point))),
        FieldType::Keyword | FieldType::Text | FieldType::TextIn(_) | FieldType::Uuid => {
            optional::<ByteArrayType>(group, payloads.map(|p| take(p, steps, &text)))
        }
    }
}

fn whole(value: &Value) -> Option<i64> {
    if let Value::Int(number) = value { Some(*number) } else { None }
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::Float(float) => Some(*float),
        Value::Int(number) if number.unsigned_abs() <= EXACT_MAX => Some(*number as f64),
        _ => None,
    }
}

fn truth(value: &Value) -> Option<bool> {
    if let Value::Bool(truth) = value { Some(*truth) } else { None }
}

fn text(value: &Value) -> Option<ByteArray> {
    if let Value::Text(text) = value { Some(ByteArray::from(text.as_bytes().to_vec())) } else { None }
}

/// A point, or several, as JSON.
fn point(value: &Value) -> Option<ByteArray> {
    (*value != Value::Null).then(|| bytes(json::value_to(value).to_string()))
}

/// Microseconds, of points in time that have a name in RFC 3339.
fn instant(value: &Value) -> Option<i64> {
    datetime_micros(value).filter(|micros| rfc3339(*micros).is_some())
}

/// Takes the value at a path out of a payload if a column can tell it; a map that is empty then goes too.
fn take<T>(payload: &mut Payload, steps: &[String], tell: &impl Fn(&Value) -> Option<T>) -> Option<T> {
    let (first, rest) = steps.split_first()?;
    let value = payload.get_mut(first)?;
    let (told, is_empty) = match (value, rest) {
        (value, []) => (tell(value)?, true),
        (Value::Map(fields), rest) => (take(fields, rest, tell)?, fields.is_empty()),
        _ => return None,
    };
    if is_empty {
        payload.remove(first);
    }
    Some(told)
}

#[cfg(test)]
mod tests {
    use flotilla_proto::schema::{Datatype, Distance, IndexKind};

    use super::*;
    use crate::import::records::Records;

    fn rows(path: &std::path::Path) -> Vec<String> {
        let mut records = Records::open(path).unwrap();
        let next = || records.next_row().unwrap();
        std::iter::from_fn(next).map(|row| json::payload_to(&row.unwrap()).to_string()).collect()
    }

    #[test]
    fn declared_fields_are_columns_and_the_rest_is_json() {
        use FieldType::{Bool, Datetime, Float, Geo, Integer, Keyword, Uuid};
        let fields = [
            ("at", Datetime),
            ("cpu", Integer),
            ("load", Float),
            ("on", Bool),
            ("owner.id", Uuid),
            ("owner.team", Keyword),
            ("site", Geo),
        ];
        let fields = fields.map(|(path, kind)| (path.to_owned(), kind)).into();
        let dense = VectorSpec::new(2, Distance::Cosine, IndexKind::default());
        let sparse = VectorSpec { dims: 0, form: Form::Sparse, ..dense };
        assert!(matches!(dense.form, Form::Dense(Datatype::F32)));
        let vectors = [("v".to_owned(), dense), ("words".to_owned(), sparse)].into();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.parquet");
        let mut file = Parquet::begin(Out::begin(&path).unwrap(), "id", &fields, Some(&vectors)).unwrap();
        let mut full = Record::new(u64::MAX).field("at", "2026-01-02T03:04:05+01:00").field("cpu", i64::MIN);
        full = full.field("load", 3).field("on", true).field("free", "ä").vector("v", vec![0.5, 1.0]);
        let id = "{0191D2A4-7B3C-7DEF-8ABC-0123456789AB}";
        let owner = [("team".to_owned(), "core".into()), ("id".to_owned(), id.into())].into();
        full.payload.insert("owner".to_owned(), Value::Map(owner));
        let mut lists = Record::new("k").field("load", i64::MAX).vector("words", vec![(3, 0.5)]);
        full.payload.insert("site".to_owned(), Value::List(vec![13.5.into(), 52.into()]));
        lists.payload.insert("cpu".to_owned(), Value::List(vec![1.into(), 2.into()]));
        file.write(vec![full, lists, Record::new(3)]).unwrap();
        file.finish().unwrap();
        let expected = [
            r#"{"at":"2026-01-02T02:04:05Z","cpu":-9223372036854775808,"id":"18446744073709551615","load":3.0,"on":true,"owner.id":"{0191D2A4-7B3C-7DEF-8ABC-0123456789AB}","owner.team":"core","payload":"{\"free\":\"ä\"}","site":"[13.5,52]","vector:v":[0.5,1.0],"vector:words":null}"#,
            r#"{"at":null,"cpu":null,"id":"k","load":null,"on":null,"owner.id":null,"owner.team":null,"payload":"{\"cpu\":[1,2],\"load\":9223372036854775807}","site":null,"vector:v":null,"vector:words":"{\"indices\":[3],\"values\":[0.5]}"}"#,
            r#"{"at":null,"cpu":null,"id":"3","load":null,"on":null,"owner.id":null,"owner.team":null,"payload":null,"site":null,"vector:v":null,"vector:words":null}"#,
        ];
        assert_eq!(rows(&path), expected);
    }

    #[test]
    fn two_columns_of_one_name_are_refused() {
        let fields = [("payload".to_owned(), FieldType::Keyword)].into();
        let dir = tempfile::tempdir().unwrap();
        let out = || Out::begin(&dir.path().join("f.parquet")).unwrap();
        let why = Parquet::begin(out(), "id", &fields, None).err().unwrap().to_string();
        assert!(why.starts_with("two columns would be called `payload`"), "{why}");
        assert!(Parquet::begin(out(), "payload", &BTreeMap::new(), None).is_err());
    }
}
