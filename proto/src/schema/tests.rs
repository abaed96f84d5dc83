use super::*;

fn spec() -> CollectionSpec {
    let vector = |distance| VectorSpec::new(3, distance, IndexKind::Hnsw(Hnsw::default()));
    CollectionSpec {
        name: "vms".into(),
        vectors: [("default".into(), vector(Distance::Cosine)), ("dot".into(), vector(Distance::Dot))].into(),
        fields: [
            ("cpu".into(), FieldType::Integer),
            ("hw.model".into(), FieldType::Keyword),
            ("made".into(), FieldType::Datetime),
            ("id".into(), FieldType::Uuid),
            ("site.at".into(), FieldType::Geo),
            ("about".into(), FieldType::TextIn(crate::fulltext::Language::German)),
        ]
        .into(),
        partitions: 4,
        strict: false,
        ..Default::default()
    }
}

fn refused(record: Record) -> String {
    spec().check_record("records[0]", &record).expect_err("refused").to_string()
}

#[test]
fn a_record_that_fits_is_admitted() {
    let record = Record::new("a")
        .vector("default", vec![1.0, 0.0, 0.0])
        .field("cpu", 4)
        .field("made", "2026-01-01T00:00:00Z")
        .field("anything", 1.5);
    assert!(spec().check_record("records[0]", &record).is_ok());
    assert!(spec().check().is_ok());
}

#[test]
fn bad_records_are_refused_by_field_limit_and_value() {
    let short = refused(Record::new("a").vector("default", vec![1.0]));
    assert!(short.contains("records[0].vectors[default]") && short.contains("expected 3 dimensions, got 1"));
    assert!(
        refused(Record::new("a").vector("default", vec![1.0, f32::NAN, 0.0])).contains("component 1 is NaN")
    );
    assert!(
        refused(Record::new("a").vector("dot", vec![f32::INFINITY, 0.0, 0.0])).contains("component 0 is inf")
    );
    assert!(refused(Record::new("a").vector("default", vec![0.0; 3])).contains("zero vector"));
    assert!(refused(Record::new("a").vector("x", vec![0.0; 3])).contains("no vector of this name"));
    assert!(
        refused(Record::new("a").field("cpu", "four"))
            .contains("declared as integer, the value is of type text")
    );
    assert!(refused(Record::new("a").field("made", "yesterday")).contains("declared as datetime"));
    assert!(refused(Record::new("a").field("f", f64::NAN)).contains("not a finite number"));
    assert!(refused(Record::new("")).contains("at least 1 byte"));
    assert!(refused(Record::new("k".repeat(1025))).contains("1025 bytes, the limit is 1024"));
    let mut deep = Value::Int(1);
    for _ in 0..40 {
        deep = Value::List(vec![deep]);
    }
    assert!(
        refused(Record::new("a").field("deep", 1).field_value("d", deep)).contains("levels, the limit is 32")
    );
    assert!(refused(Record::new("a").field("big", "x".repeat(1 << 20))).contains("the limit is 1048576"));
}

impl Record {
    fn field_value(mut self, name: &str, value: Value) -> Record {
        self.payload.insert(name.to_owned(), value);
        self
    }
}

#[test]
fn uuids_points_and_texts_of_a_language_are_checked() {
    let at = |value: Value| Value::Map(Payload::from([("at".to_owned(), value)]));
    let point = || Value::List(vec![13.4.into(), 52.5.into()]);
    let bad = Value::List(vec![52.5.into(), 113.4.into()]);
    let id = "0191D2A47B3C7DEF8ABC0123456789AB";
    for fits in [
        Record::new(1).field("id", id).field("about", "Häuser"),
        Record::new(1).field_value("id", Value::List(vec![id.into(), Value::Null])),
        Record::new(1).field_value("site", at(point())),
        Record::new(1).field_value("site", at(Value::List(vec![point(), Value::Null, point()]))),
        Record::new(1).field_value("site", Value::List(vec![at(point()), at(Value::Null), 7.into()])),
    ] {
        assert_eq!(spec().check_record("records[0]", &fits), Ok(()));
    }
    for (record, told) in [
        (
            Record::new(1).field("id", "0191d2a4"),
            "records[0].payload.id: declared as uuid, the value is of type text (32 hexadecimal digits as text",
        ),
        (
            Record::new(1).field("id", 7),
            "records[0].payload.id: declared as uuid, the value is of type integer",
        ),
        (
            Record::new(1).field("about", 7),
            "records[0].payload.about: declared as text:german, the value is of t",
        ),
        (
            Record::new(1).field_value("site", at(bad)),
            "records[0].payload.site.at: declared as geo: the latitude must be -90 to 90, got 113.4",
        ),
        (
            Record::new(1).field_value("site", at(Value::List(vec![point(), "x".into()]))),
            "records[0].payload.site.at: declared as geo: a value of type text is no point; a point is",
        ),
        (
            Record::new(1).field_value("site", at(Value::List(vec![1.into(), 2.into(), 3.into()]))),
            "records[0].payload.site.at: declared as geo: a value of type integer is no point",
        ),
    ] {
        let refused = refused(record);
        assert!(refused.starts_with(told), "{refused} is not {told}");
    }
}

#[test]
fn a_zero_vector_is_legal_where_direction_does_not_matter() {
    assert!(spec().check_record("r", &Record::new("a").vector("dot", vec![0.0; 3])).is_ok());
}

#[test]
fn bad_descriptions_are_refused() {
    let refused = |change: &dyn Fn(&mut CollectionSpec)| {
        let mut spec = spec();
        change(&mut spec);
        spec.check().expect_err("refused").to_string()
    };
    for name in ["", ".", "..", "A/b", "a/", "/b", "a/..", "a/b/c", "a\0", "ä", "%2e/"] {
        assert!(refused(&|s| s.name = name.into()).contains("spec.name"), "{name}");
    }
    assert!(refused(&|s| s.name = "x".repeat(256)).contains("256 bytes, the limit is 255"));
    assert!(refused(&|s| s.partitions = 0).contains("spec.partitions"));
    assert!(
        refused(&|s| {
            s.fields.insert("hw".into(), FieldType::Bool);
        })
        .contains("`hw.model`")
    );
    assert!(
        refused(&|s| {
            s.fields.insert("a..b".into(), FieldType::Bool);
        })
        .contains("step is empty")
    );
    let dims = |d| VectorSpec::new(d, Distance::Dot, IndexKind::Flat);
    assert!(
        refused(&|s| {
            s.vectors.insert("v".into(), dims(0));
        })
        .contains("dims")
    );
    assert!(
        refused(&|s| {
            s.vectors.insert("v".into(), dims(70_000));
        })
        .contains("1 to 65536, got 70000")
    );
}

#[test]
fn datetimes_compare_across_both_spellings() {
    let text = datetime_micros(&"2026-01-01T00:00:00Z".into());
    assert_eq!(text, datetime_micros(&Value::Int(1_767_225_600_000)));
    assert_eq!(text, datetime_micros(&"2026-01-01T01:00:00+01:00".into()));
    assert_eq!(datetime_micros(&"2026-13-01T00:00:00Z".into()), None);
    assert_eq!(datetime_micros(&Value::Int(i64::MAX)), None);
}

#[test]
fn the_farthest_distance_of_a_score_is_exact() {
    for distance in [Distance::Cosine, Distance::Dot, Distance::Euclidean] {
        for score in [-1e30, -7.25, -1.0, -0.3, -1e-9, -0.0, 0.0, 1e-9, 0.1, 0.7, 0.999_999_9, 1.0, 3.5, 1e30]
        {
            let Some(farthest) = distance.farthest(score) else {
                assert!(distance == Distance::Euclidean && score > 0.0, "{distance:?} {score}");
                continue;
            };
            assert!(distance.score(farthest) >= score, "{distance:?} {score}: {farthest}");
            let beyond = farthest.next_up();
            assert!(
                farthest == f32::INFINITY || distance.score(beyond) < score,
                "{distance:?} {score}: {beyond}"
            );
        }
        assert_eq!(distance.farthest(f32::NEG_INFINITY), Some(f32::INFINITY));
        assert_eq!(distance.farthest(f32::NAN), None);
    }
    assert_eq!(Distance::Cosine.farthest(1.0).map(|d| d > 0.0), Some(true), "what rounds to 1 scores 1");
}

#[test]
fn a_shard_key_is_hashed_and_a_prefix_knows_its_slots() {
    let strategy = Strategy::ShardKey { delimiter: b'/' };
    let slot = |key: &str| strategy.slot(&key.into());
    assert_eq!((slot("file-17"), slot("file-17/3"), slot("file-17/3/x")), (865, 865, 865));
    assert_eq!(strategy.slot(&Key::Number(1)), 325);
    assert_eq!(strategy.slots_of_prefix("file-17/"), 865..866);
    assert_eq!(strategy.slots_of_prefix("file-17/00/1"), 865..866);
    assert_eq!(strategy.slots_of_prefix("file-17"), 0..SLOTS);
    assert_eq!(Strategy::ConsistentHash.slots_of_prefix("file-17/"), 0..SLOTS);
    assert!(strategy.is_hashed() && strategy.slots() == SLOTS);

    let splits = vec![5.into(), "a".into(), "ab".into(), "abc".into(), "b".into()];
    let ranges = Strategy::Range { splits };
    for (prefix, slots) in
        [("a", 2..5), ("ab", 3..5), ("abb", 3..4), ("abcd", 4..5), ("b", 5..6), ("B", 1..2)]
    {
        assert_eq!(ranges.slots_of_prefix(prefix), slots, "{prefix}");
        for key in ["", "a", "bc", "z", "\u{10ffff}"].map(|rest| Key::Text(format!("{prefix}{rest}"))) {
            assert!(slots.contains(&ranges.slot(&key)), "{key} of {prefix}");
        }
    }
    let spec = |delimiter| CollectionSpec { strategy: Strategy::ShardKey { delimiter }, ..spec() };
    spec(b'/').check().unwrap();
    for wrong in [b'\0', b'\n', 0x7f, 0x80, 0xff] {
        assert!(spec(wrong).check().unwrap_err().to_string().starts_with("spec.shard_delimiter: must be"));
    }
}

#[test]
fn strategies_are_stored_as_they_always_were() {
    let encoded = |strategy: &Strategy| postcard::to_allocvec(strategy).unwrap();
    assert_eq!(encoded(&Strategy::ConsistentHash), [0]);
    assert_eq!(encoded(&Strategy::Range { splits: vec![] }), [1, 0]);
    assert_eq!(encoded(&Strategy::ShardKey { delimiter: b'/' }), [2, b'/']);
}

#[test]
fn a_key_prefix_is_not_empty_and_no_longer_than_keys() {
    check_key_prefix("key_prefix", "f").unwrap();
    check_key_prefix("key_prefix", &"f".repeat(KEY_BYTES_MAX)).unwrap();
    for wrong in [String::new(), "f".repeat(KEY_BYTES_MAX + 1)] {
        assert!(check_key_prefix("key_prefix", &wrong).unwrap_err().to_string().starts_with("key_prefix: "));
    }
}
