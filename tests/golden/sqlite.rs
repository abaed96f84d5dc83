//! Filters drawn at random, compared with SQLite.
//!
//! Rows have single values, so that SQL can say what a filter means: a condition on a value that is null or missing does not
//! hold, and its negation does, so each condition is written as `coalesce(.., 0)` and `not` turns two truths around, not three.
//! Values compare within their class, so each comparison asks for the class of the value first; columns have no affinity,
//! which would change values. Points in time are microseconds there.
//!
//! Between the questions rows are written, and deleted by filter, on both sides. A failure names the seed and its question.

use flotilla_client::{Client, CollectionSpec, FieldType, Filter, Key, Record, Scan, Value};
use flotilla_proto::filter::{Bounds, Scalar};
use flotilla_tests::seed;
use futures::TryStreamExt as _;
use rand::Rng as _;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rusqlite::{Connection, params_from_iter, types::Value as Sql};

use super::open;

const KEYS: u64 = 400;
const ROUNDS: usize = 12;
const QUESTIONS: usize = 60;
const DEPTH_MAX: u32 = 4;
const COLLECTION: &str = "random";

/// What the values of a column are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Integer,
    Float,
    Text,
    Bool,
    Time,
    /// Integers, floats and text, undeclared.
    Any,
}

const COLUMNS: [(&str, Class); 7] = [
    ("i", Class::Integer),
    ("f", Class::Float),
    ("t", Class::Text),
    ("b", Class::Bool),
    ("d", Class::Time),
    ("u", Class::Any),
    ("v", Class::Text),
];

const INTEGERS: [i64; 11] =
    [i64::MIN, i64::MIN + 1, -(1 << 53) - 1, -7, -1, 0, 1, 8, (1 << 53) + 1, i64::MAX - 1, i64::MAX];
const FLOATS: [f64; 14] = [
    -f64::MAX,
    -9_223_372_036_854_775_808.0,
    -1.5,
    -0.0,
    0.0,
    f64::MIN_POSITIVE,
    5e-324,
    0.1,
    1.0,
    8.0,
    9_007_199_254_740_992.0,
    9_223_372_036_854_775_808.0,
    1e300,
    f64::MAX,
];
const TEXTS: [&str; 14] =
    ["", " ", "a", "A", "ab", "abc", "a*b", "a?c", "a[b]c", "ä", "a\u{308}", "ß", "中文", "\u{1f600}x"];
const TIMES: [&str; 7] = [
    "0000-01-01T00:00:00Z",
    "1969-12-31T23:59:59.999999Z",
    "1970-01-01T00:00:00Z",
    "2026-02-28T23:30:00-01:00",
    "2026-03-01T00:30:00Z",
    "2026-03-01T00:30:00.000001Z",
    "9999-12-31T23:59:59Z",
];
const PATTERNS: [&str; 12] =
    ["*", "?", "a*", "*b", "a?c", "a\\*b", "a\\?c", "a[b]c", "*[*", "??", "ä*", "*\u{1f600}*"];

fn value(random: &mut SmallRng, class: Class) -> Value {
    match class {
        Class::Integer if random.random_bool(0.2) => Value::Int(random.random()),
        Class::Integer => Value::Int(*INTEGERS.choose(random).unwrap()),
        Class::Float if random.random_bool(0.3) => Value::Int(*INTEGERS.choose(random).unwrap()),
        Class::Float => Value::Float(*FLOATS.choose(random).unwrap()),
        Class::Text => Value::Text((*TEXTS.choose(random).unwrap()).to_owned()),
        Class::Bool => Value::Bool(random.random()),
        Class::Time if random.random_bool(0.2) => Value::Int(random.random_range(-5_000..5_000)),
        Class::Time => Value::Text((*TIMES.choose(random).unwrap()).to_owned()),
        Class::Any => {
            let class = *[Class::Integer, Class::Float, Class::Text].choose(random).unwrap();
            value(random, class)
        }
    }
}

fn kind(class: Class) -> Option<FieldType> {
    match class {
        Class::Integer => Some(FieldType::Integer),
        Class::Float => Some(FieldType::Float),
        Class::Text => Some(FieldType::Keyword),
        Class::Bool => Some(FieldType::Bool),
        Class::Time => Some(FieldType::Datetime),
        Class::Any => None,
    }
}

/// What SQL holds for a value of a column.
fn sql(value: &Value, class: Class) -> Sql {
    match Scalar::of(value, kind(class)) {
        Some(Scalar::Bool(truth)) => Sql::Integer(truth.into()),
        Some(Scalar::Int(number) | Scalar::Time(number)) => Sql::Integer(number),
        Some(Scalar::Float(float)) => Sql::Real(float),
        Some(Scalar::Text(text)) => Sql::Text(text),
        None => Sql::Null,
    }
}

fn record(random: &mut SmallRng) -> Record {
    let mut record = Record::new(random.random_range(0..KEYS));
    for (name, class) in COLUMNS {
        match random.random_range(0..10) {
            0 => {}
            1 => record = record.field(name, Value::Null),
            _ => record = record.field(name, value(random, class)),
        }
    }
    record
}

fn filter(random: &mut SmallRng, depth: u32) -> Filter {
    let parts =
        |random: &mut SmallRng| (0..random.random_range(0..4)).map(|_| filter(random, depth - 1)).collect();
    match random.random_range(0..if depth == 0 { 7 } else { 11 }) {
        7 | 8 => Filter::All(parts(random)),
        9 => Filter::Any(parts(random)),
        10 => Filter::Not(Box::new(filter(random, depth - 1))),
        0 => Filter::Keys(
            (0..random.random_range(0..9)).map(|_| Key::Number(random.random_range(0..KEYS))).collect(),
        ),
        leaf => {
            let (name, class) = *COLUMNS.choose(random).unwrap();
            let (name, is_text) = (name.to_owned(), matches!(class, Class::Text | Class::Any));
            match leaf {
                1 => Filter::Equal(name, value(random, class)),
                2 => Filter::In(name, (0..random.random_range(1..5)).map(|_| value(random, class)).collect()),
                3 => Filter::Exists(name),
                4 if is_text => Filter::Prefix(name, (*TEXTS.choose(random).unwrap()).to_owned()),
                5 if is_text => Filter::Glob(name, (*PATTERNS.choose(random).unwrap()).to_owned()),
                _ if class == Class::Bool => Filter::Exists(name),
                _ => Filter::Range(name, bounds(random, class)),
            }
        }
    }
}

fn bounds(random: &mut SmallRng, class: Class) -> Bounds {
    // Both bounds of one range are of one class.
    let class =
        if class == Class::Any { *[Class::Float, Class::Text].choose(random).unwrap() } else { class };
    let mut bounds = Bounds::default();
    let (low, high) = *[(0, 2), (0, 0), (1, 1), (2, 0), (2, 1), (0, 1), (1, 0)].choose(random).unwrap();
    match low {
        0 => bounds.gt = Some(value(random, class)),
        1 => bounds.gte = Some(value(random, class)),
        _ => {}
    }
    match high {
        0 => bounds.lt = Some(value(random, class)),
        1 => bounds.lte = Some(value(random, class)),
        _ => {}
    }
    bounds
}

/// A condition in SQL, and the values of its question marks.
struct Condition {
    text: String,
    values: Vec<Sql>,
}

impl Condition {
    fn of(filter: &Filter) -> Condition {
        let mut condition = Condition { text: String::new(), values: Vec::new() };
        condition.add(filter);
        condition
    }

    fn add(&mut self, filter: &Filter) {
        match filter {
            Filter::Match { .. } | Filter::Phrase(..) => panic!("no words are drawn: {filter:?}"),
            Filter::Within { .. } | Filter::WithinBox { .. } => panic!("no points are drawn: {filter:?}"),
            Filter::All(parts) => self.join(parts, " and ", "1"),
            Filter::Any(parts) => self.join(parts, " or ", "0"),
            Filter::Not(part) => {
                self.text.push_str("(not ");
                self.add(part);
                self.text.push(')');
            }
            Filter::Keys(keys) => {
                let number = |key: &Key| match key {
                    Key::Number(number) => Sql::Integer(*number as i64),
                    Key::Text(text) => panic!("{text} is no key here"),
                };
                self.values.extend(keys.iter().map(number));
                self.text.push_str(&format!("key in ({})", vec!["?"; keys.len()].join(", ")));
            }
            Filter::Exists(name) => self.text.push_str(&format!("{name} is not null")),
            Filter::Equal(name, value) => self.compare(name, &[("=", value)]),
            Filter::In(name, values) => {
                let parts: Vec<Filter> =
                    values.iter().map(|value| Filter::Equal(name.clone(), value.clone())).collect();
                self.join(&parts, " or ", "0");
            }
            Filter::Range(name, bounds) => {
                let sign = |word| match word {
                    "gt" => ">",
                    "gte" => ">=",
                    "lt" => "<",
                    _ => "<=",
                };
                let tests: Vec<(&str, &Value)> =
                    bounds.set().map(|(word, value)| (sign(word), value)).collect();
                self.compare(name, &tests);
            }
            // SQLite makes null of no bytes.
            Filter::Prefix(name, prefix) if prefix.is_empty() => {
                self.text.push_str(&format!("typeof({name}) = 'text'"));
            }
            Filter::Prefix(name, prefix) => {
                // By bytes, as text compares.
                self.text.push_str(&format!(
                    "coalesce(typeof({name}) = 'text' and substr(cast({name} as blob), 1, {}) = cast(? as blob), 0)",
                    prefix.len()
                ));
                self.values.push(Sql::Text(prefix.clone()));
            }
            Filter::Glob(name, pattern) => {
                self.text.push_str(&format!("coalesce(typeof({name}) = 'text' and {name} glob ?, 0)"));
                self.values.push(Sql::Text(glob(pattern)));
            }
        }
    }

    fn join(&mut self, parts: &[Filter], word: &str, empty: &str) {
        if parts.is_empty() {
            return self.text.push_str(empty);
        }
        self.text.push('(');
        for (at, part) in parts.iter().enumerate() {
            self.text.push_str(if at > 0 { word } else { "" });
            self.add(part);
        }
        self.text.push(')');
    }

    fn compare(&mut self, name: &str, tests: &[(&str, &Value)]) {
        let class = COLUMNS.iter().find(|(known, _)| *known == name).unwrap().1;
        let parts = tests.iter().map(|(sign, value)| {
            let value = sql(value, class);
            let classes = if matches!(value, Sql::Text(_)) { "'text'" } else { "'integer', 'real'" };
            self.values.push(value);
            format!("typeof({name}) in ({classes}) and {name} {sign} ?")
        });
        let parts: Vec<String> = parts.collect();
        self.text.push_str(&format!("coalesce({}, 0)", parts.join(" and ")));
    }
}

/// A pattern as SQLite has it: what is escaped, and brackets, stand in brackets.
fn glob(pattern: &str) -> String {
    let (mut text, mut chars) = (String::new(), pattern.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => text.extend(["[", &chars.next().unwrap().to_string(), "]"]),
            '[' => text.push_str("[[]"),
            c => text.push(c),
        }
    }
    text
}

/// The same records on both sides.
struct Pair {
    client: Client,
    sqlite: Connection,
}

impl Pair {
    async fn new(client: Client, partitions: u32) -> Pair {
        let declared = COLUMNS.iter().filter(|(name, _)| *name != "v");
        let fields = declared.filter_map(|(name, class)| Some(((*name).to_owned(), kind(*class)?)));
        let fields = fields.collect();
        let spec =
            CollectionSpec { name: COLLECTION.into(), fields, partitions, ..CollectionSpec::default() };
        client.create_collection(&spec).await.unwrap();
        let sqlite = Connection::open_in_memory().unwrap();
        let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
        sqlite
            .execute(&format!("create table r (key integer primary key, {})", names.join(", ")), [])
            .unwrap();
        Pair { client, sqlite }
    }

    async fn upsert(&self, records: Vec<Record>) {
        for record in &records {
            let Key::Number(key) = record.key else { panic!("keys are numbers") };
            let held = |(name, class): &(&str, Class)| {
                record.payload.get(*name).map_or(Sql::Null, |value| sql(value, *class))
            };
            let values = [Sql::Integer(key as i64)].into_iter().chain(COLUMNS.iter().map(held));
            let marks = vec!["?"; COLUMNS.len() + 1].join(", ");
            self.sqlite
                .execute(&format!("insert or replace into r values ({marks})"), params_from_iter(values))
                .unwrap();
        }
        self.client.upsert(COLLECTION, records).await.unwrap();
    }

    async fn delete(&self, filter: &Filter) -> (u64, u64) {
        let Condition { text, values } = Condition::of(filter);
        let there =
            self.sqlite.execute(&format!("delete from r where {text}"), params_from_iter(values)).unwrap();
        let here = self.client.delete_filter(COLLECTION, filter).await.unwrap().deleted;
        (here, there as u64)
    }

    /// The keys that a filter holds for, here and there, and what is counted here.
    async fn ask(&self, filter: &Filter) -> (Vec<u64>, Vec<u64>, u64) {
        let Condition { text, values } = Condition::of(filter);
        let mut statement =
            self.sqlite.prepare(&format!("select key from r where {text} order by key")).unwrap();
        let rows = statement.query_map(params_from_iter(values), |row| row.get::<_, i64>(0)).unwrap();
        let there = rows.map(|key| key.unwrap() as u64).collect();
        let scan = Scan::new().filter(filter.clone());
        let records: Vec<Record> =
            self.client.scan_all(COLLECTION, scan).await.unwrap().try_collect().await.unwrap();
        let number = |record: &Record| if let Key::Number(key) = record.key { key } else { u64::MAX };
        let counted = self.client.count(COLLECTION, Some(filter)).await.unwrap().count;
        (records.iter().map(number).collect(), there, counted)
    }
}

async fn compare(seed: u64, partitions: u32, seal_rows: usize) {
    let replay = format!("replay: {}={seed} cargo test --workspace --lib golden::sqlite", seed::VARIABLE);
    let dir = tempfile::tempdir().unwrap();
    let running = open(dir.path(), seal_rows).await;
    let pair = Pair::new(running.client(), partitions).await;
    let mut random = seed::generator(seed ^ u64::from(partitions));
    let mut held = 0;
    for round in 0..ROUNDS {
        pair.upsert((0..random.random_range(1..60)).map(|_| record(&mut random)).collect()).await;
        for question in 0..QUESTIONS {
            let filter = filter(&mut random, DEPTH_MAX);
            let (here, there, counted) = pair.ask(&filter).await;
            let at = format!("round {round}, question {question}: {filter:?}\n{replay}");
            assert_eq!(here, there, "{at}\nas SQL: {}", Condition::of(&filter).text);
            assert_eq!(counted, here.len() as u64, "{at}");
            held += here.len();
        }
        // Not all of them: what is deleted is about a few keys.
        let few = Filter::Keys((0..40).map(|_| Key::Number(random.random_range(0..KEYS))).collect());
        let deleted = Filter::All(vec![few, filter(&mut random, DEPTH_MAX)]);
        let (here, there) = pair.delete(&deleted).await;
        assert_eq!(here, there, "round {round}: delete {deleted:?}\n{replay}");
    }
    assert!(held > ROUNDS * QUESTIONS, "hardly anything was found: {held}");
    drop(pair);
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_drawn_at_random_hold_for_what_sqlite_says_while_rows_grow() {
    compare(seed::value(), 1, 1 << 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_drawn_at_random_hold_for_what_sqlite_says_in_sealed_segments() {
    compare(seed::value(), 4, 16).await;
}

#[test]
fn sql_says_what_a_filter_means() {
    let bounds = Bounds { gt: Some(1.into()), ..Bounds::default() };
    let parts = vec![Filter::Exists("t".into()), Filter::Range("i".into(), bounds), Filter::Any(Vec::new())];
    let filter = Filter::Not(Box::new(Filter::All(parts)));
    let expected = "(not (t is not null and coalesce(typeof(i) in ('integer', 'real') and i > ?, 0) and 0))";
    assert_eq!(Condition::of(&filter).text, expected);
    assert_eq!(glob("a\\*[x]?"), "a[*][[]x]?");
}
