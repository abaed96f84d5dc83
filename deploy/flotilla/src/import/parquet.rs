//! Records from Parquet, row by row.
//!
//! Columns become fields of the same name: text, whole numbers, floats, truth values, lists, structs and maps as they
//! are; dates and timestamps as RFC 3339 text; NaN, nulls and empty cells as null. Binary columns that are not UTF-8,
//! times of day and decimals are refused by name when the file is opened.

use std::collections::BTreeSet;
use std::io::{BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use flotilla_node::env::fs;
use flotilla_proto::record::{Payload, Value};
use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type as Physical};
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::reader::{ChunkReader, FileReader as _, Length};
use parquet::file::serialized_reader::SerializedFileReader;
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row as Fields};
use parquet::schema::types::ColumnDescriptor;

use super::records::{BadRow, Row};
use crate::datetime::rfc3339;

const DAY_MICROS: i64 = 86_400_000_000;

/// A file being read from front to back.
pub struct Parquet {
    rows: RowIter<'static>,
    count: u64,
    /// Columns of nanoseconds since 1970, which the row reader hands out as plain numbers.
    nanos: BTreeSet<String>,
}

impl Parquet {
    /// Opens the file at its first row; refuses columns that have no counterpart in a record.
    pub fn open(path: &Path) -> anyhow::Result<Parquet> {
        let file = fs::open(path)?;
        let len = file.len()?;
        let reader = guarded(|| SerializedFileReader::new(Source { file: Arc::new(file), len }))?;
        let metadata = reader.metadata().file_metadata();
        let count = u64::try_from(metadata.num_rows())?;
        let columns = metadata.schema_descr().columns();
        columns.iter().try_for_each(|column| check(column))?;
        let nanos = columns.iter().filter(|column| is_nanos(column)).map(|column| column.path().string());
        Ok(Parquet {
            nanos: nanos.collect(),
            count,
            rows: guarded(|| Ok(RowIter::from_file_into(Box::new(reader))))?,
        })
    }

    /// Rows of the file.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The next row; `None` at the end.
    pub fn next_row(&mut self) -> anyhow::Result<Option<Row>> {
        let Some(row) = guarded(|| self.rows.next().transpose())? else { return Ok(None) };
        Ok(Some(self.fields(&row).map_err(|why| BadRow::new(why, b""))))
    }

    fn fields(&self, row: &Fields) -> Result<Payload, String> {
        let field = |(name, field): (&String, &Field)| {
            let value = match field {
                Field::Long(nanos) if self.nanos.contains(name) => instant(Some(nanos.div_euclid(1_000))),
                field => value(field),
            };
            Ok((name.clone(), value.map_err(|why| format!("column `{name}`: {why}"))?))
        };
        row.get_column_iter().map(field).collect()
    }
}

/// The library asserts on some damage instead of returning an error: that is damage like any other, and ends the reading.
fn guarded<T>(work: impl FnOnce() -> ParquetResult<T>) -> anyhow::Result<T> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(done) => Ok(done?),
        Err(_) => anyhow::bail!("the file is damaged: its reader gave up"),
    }
}

fn check(column: &ColumnDescriptor) -> anyhow::Result<()> {
    let name = column.path().string();
    let refused = match (column.physical_type(), column.converted_type()) {
        (_, ConvertedType::DECIMAL) => "a decimal",
        (_, ConvertedType::TIME_MILLIS | ConvertedType::TIME_MICROS) => "a time of day",
        (_, ConvertedType::INTERVAL) => "an interval",
        (Physical::FIXED_LEN_BYTE_ARRAY, _)
            if !matches!(column.logical_type_ref(), Some(LogicalType::Float16)) =>
        {
            "binary"
        }
        _ => return Ok(()),
    };
    anyhow::bail!(
        "column `{name}` holds {refused}, which a record cannot; leave it out or convert it to text"
    )
}

fn is_nanos(column: &ColumnDescriptor) -> bool {
    matches!(column.logical_type_ref(), Some(LogicalType::Timestamp { unit: TimeUnit::NANOS, .. }))
}

fn value(field: &Field) -> Result<Value, String> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(truth) => Value::Bool(*truth),
        Field::Byte(n) => Value::Int(i64::from(*n)),
        Field::Short(n) => Value::Int(i64::from(*n)),
        Field::Int(n) => Value::Int(i64::from(*n)),
        Field::Long(n) => Value::Int(*n),
        Field::UByte(n) => Value::Int(i64::from(*n)),
        Field::UShort(n) => Value::Int(i64::from(*n)),
        Field::UInt(n) => Value::Int(i64::from(*n)),
        Field::ULong(n) => i64::try_from(*n).map_or(Value::Float(*n as f64), Value::Int),
        Field::Float16(x) => float(f64::from(x.to_f32())),
        Field::Float(x) => float(f64::from(*x)),
        Field::Double(x) => float(*x),
        Field::Str(text) => Value::Text(text.clone()),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::Text(text.to_owned()),
            Err(_) => return Err("bytes that are not UTF-8 text".to_owned()),
        },
        Field::Date(days) => instant(i64::from(*days).checked_mul(DAY_MICROS))?,
        Field::TimestampMillis(millis) => instant(millis.checked_mul(1_000))?,
        Field::TimestampMicros(micros) => instant(Some(*micros))?,
        Field::Group(row) => {
            let fields = row.get_column_iter().map(|(name, field)| Ok((name.clone(), value(field)?)));
            Value::Map(fields.collect::<Result<_, String>>()?)
        }
        Field::ListInternal(list) => {
            Value::List(list.elements().iter().map(value).collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let fields = map.entries().iter().map(|(name, field)| Ok((text_of(name)?, value(field)?)));
            Value::Map(fields.collect::<Result<_, String>>()?)
        }
        Field::Decimal(_) | Field::TimeMillis(_) | Field::TimeMicros(_) => {
            return Err("a type that a record cannot hold".to_owned());
        }
    })
}

fn float(x: f64) -> Value {
    if x.is_nan() { Value::Null } else { Value::Float(x) }
}

fn instant(micros: Option<i64>) -> Result<Value, String> {
    let text = micros.and_then(rfc3339).ok_or("a point in time outside the years 0 to 9999")?;
    Ok(Value::Text(text))
}

fn text_of(field: &Field) -> Result<String, String> {
    match value(field)? {
        Value::Text(text) => Ok(text),
        Value::Int(n) => Ok(n.to_string()),
        other => Err(format!("a map whose keys are of type {}", other.type_name())),
    }
}

/// The file as the Parquet reader wants it: any range at any time.
struct Source {
    file: Arc<fs::File>,
    len: u64,
}

impl Length for Source {
    fn len(&self) -> u64 {
        self.len
    }
}

impl ChunkReader for Source {
    type T = BufReader<Tail>;

    fn get_read(&self, start: u64) -> ParquetResult<Self::T> {
        Ok(BufReader::new(Tail { file: Arc::clone(&self.file), at: start }))
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<Bytes> {
        let end = start.checked_add(length as u64).filter(|end| *end <= self.len);
        if end.is_none() {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} of a file of {}", self.len)));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, start)?;
        Ok(bytes.into())
    }
}

struct Tail {
    file: Arc<fs::File>,
    at: u64,
}

impl Read for Tail {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read_at(bytes, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests;
