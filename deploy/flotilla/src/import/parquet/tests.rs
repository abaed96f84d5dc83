use std::sync::Arc;

use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int32Type, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::*;

/// One column of a row group: values, and the definition and repetition levels where it needs them.
fn column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, std::fs::File>,
    values: &[T::T],
    levels: Option<(&[i16], Option<&[i16]>)>,
) {
    let mut writer = group.next_column().unwrap().unwrap();
    let (defined, repeated) = levels.map_or((None, None), |(d, r)| (Some(d), r));
    writer.typed::<T>().write_batch(values, defined, repeated).unwrap();
    writer.close().unwrap();
}

fn text(text: &str) -> ByteArray {
    ByteArray::from(text)
}

#[test]
fn every_column_type_becomes_its_value() {
    let schema = "message m {
        required binary name (UTF8); optional int64 rank; optional double share; required boolean on;
        required int64 at (TIMESTAMP(MILLIS,true)); required int64 fine (TIMESTAMP(NANOS,true));
        required int32 day (DATE);
        optional group tags (LIST) { repeated group list { optional binary element (UTF8); } } }";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.parquet");
    let file = std::fs::File::create(&path).unwrap();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::default())).unwrap();
    let mut group = writer.next_row_group().unwrap();
    column::<ByteArrayType>(&mut group, &[text("ä"), text("b")], None);
    column::<Int64Type>(&mut group, &[7], Some((&[1, 0], None)));
    column::<DoubleType>(&mut group, &[0.5, f64::NAN], Some((&[1, 1], None)));
    column::<BoolType>(&mut group, &[true, false], None);
    column::<Int64Type>(&mut group, &[1_500, 0], None);
    column::<Int64Type>(&mut group, &[1_000_000_500, 0], None);
    column::<Int32Type>(&mut group, &[1, -1], None);
    column::<ByteArrayType>(&mut group, &[text("x"), text("y")], Some((&[3, 3, 0], Some(&[0, 1, 0]))));
    group.close().unwrap();
    writer.close().unwrap();

    let mut file = Parquet::open(&path).unwrap();
    assert_eq!(file.count(), 2);
    let first = file.next_row().unwrap().unwrap().unwrap();
    assert_eq!(
        crate::json::payload_to(&first).to_string(),
        concat!(
            r#"{"at":"1970-01-01T00:00:01.500Z","day":"1970-01-02T00:00:00Z","fine":"1970-01-01T00:00:01Z","#,
            r#""name":"ä","on":true,"rank":7,"share":0.5,"tags":["x","y"]}"#
        )
    );
    let second = file.next_row().unwrap().unwrap().unwrap();
    for null in ["rank", "share", "tags"] {
        assert_eq!(second[null], Value::Null, "{null}");
    }
    assert_eq!(second["day"], Value::Text("1969-12-31T00:00:00Z".into()));
    assert!(file.next_row().unwrap().is_none());
}

#[test]
fn a_column_that_no_record_can_hold_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.parquet");
    let file = std::fs::File::create(&path).unwrap();
    let schema = Arc::new(parse_message_type("message m { required int32 price (DECIMAL(9,2)); }").unwrap());
    let writer = SerializedFileWriter::new(file, schema, Arc::new(WriterProperties::default())).unwrap();
    writer.close().unwrap();
    let error = Parquet::open(&path).err().unwrap().to_string();
    assert!(error.starts_with("column `price` holds a decimal"), "{error}");
}

#[test]
fn a_file_that_is_no_parquet_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.parquet");
    for bytes in [&b""[..], b"PAR1", b"not a parquet file, but longer than a footer"] {
        std::fs::write(&path, bytes).unwrap();
        assert!(Parquet::open(&path).is_err());
    }
}
