//! The corpora of the binary's doors, replayed with changes; and, ignored, the test that writes their seeds anew.

use std::sync::Arc;

use flotilla_tests::replay::{keep, replay};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;

use super::*;

#[test]
fn the_corpus_of_filter_json_holds() {
    replay("filter_json", 4_000, filter_json);
}

#[test]
fn the_corpus_of_config_holds() {
    replay("config", 1_000, config);
}

#[test]
fn the_corpus_of_import_jsonl_holds() {
    replay("import_jsonl", 3_000, import_jsonl);
}

#[test]
fn the_corpus_of_import_csv_holds() {
    replay("import_csv", 3_000, import_csv);
}

#[test]
fn the_corpus_of_import_npy_holds() {
    replay("import_npy", 3_000, import_npy);
}

/// Some of the damage makes the library panic, which is caught and told: the test's output shows it.
#[test]
fn the_corpus_of_import_parquet_holds() {
    replay("import_parquet", 2_000, import_parquet);
}

#[test]
#[ignore = "writes the corpora anew"]
fn seeds() {
    for (n, text) in [
        r#"{"power_state": "on", "cpu": {"gte": 8, "lt": 64}, "tags": {"in": ["prod", "dmz"]}}"#,
        r#"{"or": [{"name": {"prefix": "web"}}, {"not": {"exists": "owner"}}]}"#,
        r#"{"and": [{"a": {"eq": true, "gt": -1.5e3}}, {}], "keys": [1, "a"]}"#,
        r#"{"a": ["x"]}"#,
        r#"{"a": {"glob": "we?*b"}}"#,
        r#"{"a": {"within": {"lat": 52.5, "lon": -13, "radius_m": 1e3}}, "b": {"within_box": {"top": 10, "left": 170, "bottom": -10, "right": -170}}}"#,
    ]
    .iter()
    .enumerate()
    {
        keep("filter_json", &format!("seed-{n}"), text.as_bytes());
    }
    let whole = "server:\n  bind: \"::1\"\n  port: 16000\nstorage:\n  data_dir: /var/lib/flotilla\n  sync: false\n\
                 index:\n  type: flat\n  hnsw:\n    m: 32\n";
    keep("config", "seed-whole", whole.as_bytes());
    keep("config", "seed-braces", b"{storage: {data_dir: 'a b', seal_rows: 16}, log: {lanes: 1}}");
    keep("config", "seed-wrong", b"server:\n  prot: 1\nmemory:\n  budget: 1\nstorage: [1]\n");
    keep("config", "seed-alias", b"server: &a\n  port: 1\nlog: *a\n");
    keep(
        "import_jsonl",
        "seed-rows",
        b"{\"a\": 1, \"b\": {\"c\": [1.5, null]}}\n\n  \r\n{}\r\n{\"last\": true}",
    );
    keep("import_jsonl", "seed-bad", b"{\"a\": 1}\n[1]\n{\"a\": }\n{\"d\": \"2026-01-02T03:04:05Z\"}\n");
    keep(
        "import_csv",
        "seed-types",
        b"id,f,b,owner.team,zip\n1,2.5,TRUE,\"a, \"\"b\"\"\",01\n-2,1e3,false,,\"\"\r\n",
    );
    keep("import_csv", "seed-bad", b"\xef\xbb\xbfa,b\n1\n\"x\ny\",2\na\"b,3\n\"c\"d,4\n\xff,5\n\"open,6\n");
    for (kind, shape, body) in
        [("<f4", "(2, 2)", 16), ("<f2", "(3,)", 6), ("<i8", "(1, 2)", 16), ("<u8", "(9,)", 72)]
    {
        let header = format!("{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let start = [&b"\x93NUMPY\x01\x00"[..], &(header.len() as u16).to_le_bytes()].concat();
        let body: Vec<u8> = (0..body).collect();
        keep("import_npy", &format!("seed-{}", &kind[1..]), &[start, header.into_bytes(), body].concat());
    }
    for (name, compression) in [
        ("plain", Compression::UNCOMPRESSED),
        ("snappy", Compression::SNAPPY),
        ("zstd", Compression::ZSTD(Default::default())),
    ] {
        keep("import_parquet", &format!("seed-{name}"), &parquet(compression));
    }
}

/// A small file with a list, nulls and a dictionary.
fn parquet(compression: Compression) -> Vec<u8> {
    let schema = "message m { required binary name (UTF8); optional int64 rank; optional double share;
        optional group tags (LIST) { repeated group list { optional binary element (UTF8); } } }";
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut writer = SerializedFileWriter::new(Vec::new(), schema, properties).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let texts = ["a", "b", "a"].map(ByteArray::from);
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<ByteArrayType>().write_batch(&texts, None, None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<Int64Type>().write_batch(&[7, 8], Some(&[1, 0, 1]), None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    column.typed::<DoubleType>().write_batch(&[0.5, -1.0], Some(&[1, 1, 0]), None).unwrap();
    column.close().unwrap();
    let mut column = group.next_column().unwrap().unwrap();
    let levels: (&[i16], &[i16]) = (&[3, 3, 0, 3], &[0, 1, 0, 0]);
    column.typed::<ByteArrayType>().write_batch(&texts, Some(levels.0), Some(levels.1)).unwrap();
    column.close().unwrap();
    group.close().unwrap();
    writer.into_inner().unwrap()
}
