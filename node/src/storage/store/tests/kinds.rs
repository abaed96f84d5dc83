//! Vectors of every form and distance: growing, sealed, merged and reopened segments against a plain evaluation of what
//! is stored.

use flotilla_proto::schema::{Datatype, Distance, FieldType, Form, Hnsw, IndexKind, VectorSpec};

use super::*;
use crate::storage::vectors;

/// A collection with a vector for each way of storing and comparing.
fn spec() -> Arc<CollectionSpec> {
    let hnsw = IndexKind::Hnsw(Hnsw { m: 8, ef_construction: 60, ef_search: 60 });
    let dense = |dims, datatype, distance, index| VectorSpec {
        form: Form::Dense(datatype),
        ..VectorSpec::new(dims, distance, index)
    };
    let several = |dims, datatype, distance| VectorSpec {
        form: Form::Multi(datatype),
        ..VectorSpec::new(dims, distance, IndexKind::Flat)
    };
    let vectors = [
        ("bit", dense(37, Datatype::Bit, Distance::Hamming, hnsw)),
        ("byte-angle", dense(6, Datatype::I8, Distance::Cosine, hnsw)),
        ("byte-l1", dense(9, Datatype::I8, Distance::Manhattan, IndexKind::Flat)),
        ("half-angle", dense(5, Datatype::F16, Distance::Cosine, hnsw)),
        ("half-dot", dense(8, Datatype::F16, Distance::Dot, IndexKind::Flat)),
        ("half-l2", dense(7, Datatype::F16, Distance::Euclidean, hnsw)),
        ("late", several(4, Datatype::F32, Distance::Cosine)),
        ("late-bits", several(40, Datatype::Bit, Distance::Hamming)),
        ("late-half", several(3, Datatype::F16, Distance::Dot)),
        ("sparse", VectorSpec { form: Form::Sparse, ..VectorSpec::new(0, Distance::Dot, IndexKind::Flat) }),
        ("l1", dense(3, Datatype::F32, Distance::Manhattan, hnsw)),
    ];
    let vectors = vectors.map(|(name, vector)| (name.to_owned(), vector)).into();
    let fields = [("n".to_owned(), FieldType::Integer)].into();
    Arc::new(CollectionSpec { name: "c".into(), vectors, fields, partitions: 1, ..Default::default() })
}

/// With a graph over several vectors too, which the kept folder does not have.
fn wide_spec() -> Arc<CollectionSpec> {
    let hnsw = IndexKind::Hnsw(Hnsw { m: 8, ef_construction: 60, ef_search: 60 });
    let late = VectorSpec { form: Form::Multi(Datatype::F32), ..VectorSpec::new(4, Distance::Dot, hnsw) };
    let mut spec = (*spec()).clone();
    spec.vectors.insert("late-graph".to_owned(), late);
    Arc::new(spec)
}

/// A vector that fits; components are few, so that there are ties.
fn vector(dice: &mut Dice, spec: &VectorSpec) -> Vector {
    let dims = spec.dims as usize;
    let component = |dice: &mut Dice| match spec.form.datatype() {
        Datatype::Bit => dice.below(2) as f32,
        Datatype::I8 => dice.below(256) as f32 - 128.0,
        Datatype::F16 | Datatype::F32 if dice.one_in(3) => dice.below(4) as f32,
        Datatype::F16 | Datatype::F32 => dice.floats(1)[0],
    };
    let dense = |dice: &mut Dice| {
        let mut values: Vec<f32> = (0..dims).map(|_| component(dice)).collect();
        // A direction, whatever the rest is.
        values[0] = values[0].abs().clamp(1.0, 100.0);
        values
    };
    match spec.form {
        Form::Dense(_) => Vector::Dense(dense(dice)),
        Form::Sparse => {
            let indices: std::collections::BTreeSet<u32> = (0..1 + dice.below(6))
                .map(|_| if dice.one_in(9) { u32::MAX - dice.below(3) as u32 } else { dice.below(12) as u32 })
                .collect();
            Vector::Sparse(indices.into_iter().map(|index| (index, dice.below(9) as f32 - 3.0)).collect())
        }
        Form::Multi(_) => {
            let count = 1 + dice.below(6);
            Vector::Multi((0..count).map(|_| dense(dice)).collect())
        }
    }
}

fn record(dice: &mut Dice, key: Key, spec: &CollectionSpec) -> Record {
    let mut record = Record::new(key).field("n", dice.below(10) as i64);
    for (name, shape) in &spec.vectors {
        if !dice.one_in(5) {
            record = record.vector(name, vector(dice, shape));
        }
    }
    record
}

/// What is stored of a vector.
fn rounded(spec: &VectorSpec, vector: &Vector) -> Vector {
    let (words, norm) = vectors::pack(spec, vector);
    vectors::unpack(spec, &words, norm)
}

/// How far two dense vectors are, term by term.
fn between(distance: Distance, a: &[f32], b: &[f32]) -> f64 {
    let sum = |term: &dyn Fn(f64, f64) -> f64| -> f64 {
        a.iter().zip(b).map(|(x, y)| term(f64::from(*x), f64::from(*y))).sum()
    };
    match distance {
        Distance::Cosine => 1.0 - sum(&|x, y| x * y) / (sum(&|x, _| x * x) * sum(&|_, y| y * y)).sqrt(),
        Distance::Dot => -sum(&|x, y| x * y),
        Distance::Euclidean => sum(&|x, y| (x - y) * (x - y)),
        Distance::Manhattan | Distance::Hamming => sum(&|x, y| (x - y).abs()),
    }
}

fn naive(spec: &VectorSpec, query: &Vector, vector: &Vector) -> f64 {
    match (query, vector) {
        (Vector::Dense(a), Vector::Dense(b)) => between(spec.distance, a, b),
        (Vector::Sparse(a), Vector::Sparse(b)) => {
            let other = |index: u32| b.iter().find(|(other, _)| *other == index).map(|(_, value)| *value);
            let products = a.iter().filter_map(|(index, value)| Some((f64::from(*value), other(*index)?)));
            -products.map(|(a, b)| a * f64::from(b)).sum::<f64>()
        }
        (Vector::Multi(query), Vector::Multi(record)) => {
            let similarity = |a: &Vec<f32>, b: &Vec<f32>| match between(spec.distance, a, b) {
                distance if spec.distance == Distance::Cosine => 1.0 - distance,
                distance => -distance,
            };
            let best = |a: &Vec<f32>| record.iter().map(|b| similarity(a, b)).fold(f64::MIN, f64::max);
            -query.iter().map(best).sum::<f64>()
        }
        _ => panic!("two forms"),
    }
}

fn check(view: &View, oracle: &Oracle, spec: &CollectionSpec, dice: &mut Dice) {
    assert_eq!(view.live(), oracle.0.len() as u64);
    for (key, record) in &oracle.0 {
        let (segment, row) = view.find(key).unwrap().unwrap();
        let segment = view.segment(segment).unwrap();
        let stored = segment.stored(row).unwrap();
        let written = StoredRow::from_domain(record, spec).unwrap();
        assert_eq!(stored, written, "{key}: to the bit");
        for (name, shape) in &spec.vectors {
            let want = record.vectors.get(name).map(|vector| rounded(shape, vector));
            assert_eq!(segment.vector(name, row).unwrap(), want, "{name} of {key}");
        }
    }
    let filter = flotilla_proto::filter::Filter::Equal("n".into(), (dice.below(10) as i64).into());
    let filter = Compiled::new(&filter, spec).unwrap();
    for (name, shape) in &spec.vectors {
        for filter in [None, Some(&filter)] {
            check_nearest(view, oracle, name, shape, filter, dice);
        }
    }
}

fn check_nearest(
    view: &View,
    oracle: &Oracle,
    name: &str,
    shape: &VectorSpec,
    filter: Option<&Compiled>,
    dice: &mut Dice,
) {
    let query = vector(dice, shape);
    let passes = |record: &&Record| filter.is_none_or(|filter| filter.matches(&record.key, &record.payload));
    let mut wanted: Vec<(f64, &Key)> = oracle
        .0
        .values()
        .filter(passes)
        .filter_map(|record| Some((record.vectors.get(name)?, &record.key)))
        .map(|(vector, key)| (naive(shape, &rounded(shape, &query), &rounded(shape, vector)), key))
        .collect();
    wanted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
    let (words, _) = vectors::pack(shape, &query);
    let limit = 1 + dice.below(30);
    let far = |key: &Key| wanted.iter().find(|(_, known)| *known == key).map(|(distance, _)| *distance);
    let rows = filter.map(|filter| matching(view, filter));
    for method in [Method::Exact, Method::Graph { ef: 500 }] {
        let mut got: Vec<(f32, Key)> = Vec::new();
        for (ordinal, segment) in view.segments().enumerate() {
            let rows = rows.as_ref().map(|rows| &rows[ordinal]);
            let ask = Nearest { vector: name, query: &words, limit, method, rescored: None, rows };
            let found = segment.nearest(&ask, &mut Stats::default()).unwrap();
            assert!(found.is_sorted() && found.len() <= limit, "{name} {method:?}");
            assert!(found.iter().all(|n| segment.is_live(n.row)));
            got.extend(found.iter().map(|n| (n.distance, segment.key(n.row).unwrap())));
        }
        got.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        got.truncate(limit);
        assert_eq!(got.len(), wanted.len().min(limit), "{name} {method:?} {filter:?}");
        for ((distance, key), (want, _)) in got.iter().zip(&wanted) {
            let slack = 1e-5 * (1.0 + want.abs());
            let own = far(key).expect("a record that passes and has the vector");
            assert!(
                (f64::from(*distance) - own).abs() <= slack,
                "{name} {method:?}: {distance}, naive {own}"
            );
            assert!((own - want).abs() <= slack, "{name} {method:?}: {own} where {want} is due");
        }
    }
}

#[test]
fn every_kind_reads_as_a_plain_evaluation_does() {
    let spec = wide_spec();
    spec.check().unwrap();
    let (mut indexed, mut merged) = (0, 0);
    for seed in 0..6 {
        let dir = tempfile::tempdir().unwrap();
        let open = || Store::open(dir.path(), Arc::clone(&spec), options()).unwrap().0;
        let (mut store, mut oracle, mut dice) = (open(), Oracle::default(), Dice::new(seed));
        let progress = Progress::new();
        let mut durable = 0;
        for index in 1..=40 {
            let command = if dice.one_in(3) {
                delete(&mut dice, 8)
            } else {
                let rows = 1 + dice.below(14);
                let keys: Vec<Key> = (0..rows).map(|_| sample::key(&mut dice, KEYS)).collect();
                Command::Upsert(keys.into_iter().map(|key| record(&mut dice, key, &spec)).collect())
            };
            let reply = match &command {
                Command::Upsert(records) => {
                    records.iter().for_each(|record| spec.check_record("r", record).unwrap());
                    let row = |record: &Record| StoredRow::from_domain(record, &spec).unwrap();
                    store.upsert(index, records.iter().map(row).collect())
                }
                Command::Delete(keys) => store.delete(index, keys),
            };
            assert_eq!(reply.unwrap(), oracle.apply(index, &command));
            store.publish(index);
            match dice.below(8) {
                0 => {
                    assert!(store.freeze(index, Vec::new()));
                    store.seal().unwrap();
                    durable = index;
                }
                1..=2 => merged += usize::from(store.compact(&progress).unwrap()),
                3..=4 => indexed += usize::from(store.build_graph(&progress).unwrap()),
                _ => {}
            }
            check(&store.view(), &oracle, &spec, &mut dice);
            if durable == index {
                drop(store);
                store = open();
                check(&store.view(), &oracle, &spec, &mut dice);
            }
        }
        store.verify().unwrap();
    }
    assert!(indexed > 2 && merged > 2, "too tame: {indexed} {merged}");
}

/// The commands that the kept folder holds.
fn history(store: Option<&Store>) -> Oracle {
    let (mut dice, mut oracle, spec) = (Dice::new(2_027), Oracle::default(), spec());
    for index in 1..=6 {
        let rows = (0..20).map(|_| {
            let key = sample::key(&mut dice, KEYS);
            record(&mut dice, key, &spec)
        });
        let command = Command::Upsert(rows.collect());
        oracle.apply(index, &command);
        let (Some(store), Command::Upsert(records)) = (store, &command) else { continue };
        let row = |record: &Record| StoredRow::from_domain(record, &spec).unwrap();
        store.upsert(index, records.iter().map(row).collect()).unwrap();
        store.publish(index);
        if index % 3 == 0 {
            assert!(store.freeze(index, b"machine".to_vec()));
            store.seal().unwrap();
            store.build_graph(&Progress::new()).unwrap();
        }
    }
    oracle
}

fn fixture() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/compat/kinds-v2")
}

#[test]
fn a_kept_folder_of_format_2_opens() {
    let dir = tempfile::tempdir().unwrap();
    compat::copy(&fixture(), dir.path());
    let (store, restored) = Store::open(dir.path(), spec(), options()).unwrap();
    assert_eq!(restored, Restored { applied: 6, machine: b"machine".to_vec() });
    store.verify().unwrap();
    check(&store.view(), &history(None), &spec(), &mut Dice::new(2));
}

#[test]
#[ignore = "writes the fixture of a new format"]
fn write_a_fixture_of_kinds() {
    let home = fixture();
    assert!(!home.exists(), "{} is written once and kept", home.display());
    let (store, _) = Store::open(&home, spec(), options()).unwrap();
    history(Some(&store));
}

#[test]
fn damage_of_lists_is_named_and_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(dir.path(), spec(), options()).unwrap();
    history(Some(&store));
    drop(store);
    let folders = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let folders = folders.filter(|path| path.is_dir());
    let files =
        folders.flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let is_of_lists = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        ["ends.", "inverted.", "vectors."].iter().any(|kind| name.starts_with(kind))
    };
    let (mut dice, spec) = (Dice::new(5), spec());
    for path in files.filter(is_of_lists) {
        let whole = std::fs::read(&path).unwrap();
        for _ in 0..12 {
            let mut bad = whole.clone();
            let at = dice.below(bad.len());
            match dice.below(3) {
                0 => bad[at] ^= 1 << dice.below(8),
                1 => bad.truncate(at),
                _ => bad[at..].fill(0xff),
            }
            if bad == whole {
                continue;
            }
            std::fs::write(&path, &bad).unwrap();
            let Ok((store, _)) = Store::open(dir.path(), Arc::clone(&spec), options()) else { continue };
            assert!(store.verify().is_err(), "{}", path.display());
            for (name, shape) in &spec.vectors {
                let (words, _) = vectors::pack(shape, &vector(&mut dice, shape));
                for segment in store.view().segments() {
                    let ask = Nearest {
                        vector: name,
                        query: &words,
                        limit: 9,
                        method: Method::Exact,
                        rescored: None,
                        rows: None,
                    };
                    let _ = segment.nearest(&ask, &mut Stats::default());
                    (0..segment.rows())
                        .for_each(|row| drop((segment.stored(row), segment.vector(name, row))));
                }
            }
        }
        std::fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn narrow_components_take_less_of_the_disk() {
    let bytes = |datatype, distance| {
        let form = Form::Dense(datatype);
        let shape = VectorSpec { form, ..VectorSpec::new(256, distance, IndexKind::Flat) };
        let vectors = [("v".to_owned(), shape)].into();
        let spec = CollectionSpec { name: "c".into(), vectors, partitions: 1, ..Default::default() };
        let dir = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(dir.path(), Arc::new(spec.clone()), options()).unwrap();
        let record = |n: u64| Record::new(n).vector("v", vec![1.0; 256]);
        let rows = (0..100).map(|n| StoredRow::from_domain(&record(n), &spec).unwrap()).collect();
        store.upsert(1, rows).unwrap();
        store.publish(1);
        assert!(store.freeze(1, Vec::new()));
        store.seal().unwrap();
        let name = format!("vectors.0.{}", datatype.name());
        let folders = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let files = folders.map(|folder| folder.join(&name)).filter(|file| file.exists());
        files.map(|file| file.metadata().unwrap().len()).sum::<u64>()
    };
    assert_eq!(bytes(Datatype::F32, Distance::Cosine), 100 * 256 * 4);
    assert_eq!(bytes(Datatype::F16, Distance::Cosine), 100 * 256 * 2);
    assert_eq!(bytes(Datatype::I8, Distance::Dot), 100 * 256);
    assert_eq!(bytes(Datatype::Bit, Distance::Hamming), 100 * 256 / 8);
}
