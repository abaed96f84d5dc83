//! What a collection is: its vectors, its declared fields, and what a record must be to fit.
//!
//! The same checks run at the router (so that a batch with one bad record writes nothing at all) and at the node
//! (which trusts no caller).

mod field;
mod vector;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::geo;
use crate::limits::*;
use crate::record::{Key, Payload, Record, Value, Vector};
use crate::refusal::Violation;
use crate::ring::{shard_key, slot_of};
use crate::tenant::check_collection;

pub use field::{FieldType, datetime_micros, uuid_of, uuid_text};
pub use vector::{Datatype, Form, VectorSpec};

/// How near two vectors are. Inside, a distance (smaller is nearer); at the API, a score (larger is better).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Distance {
    /// 1 - cosine similarity; the score is the similarity.
    Cosine,
    /// Minus the dot product; the score is the product.
    Dot,
    /// Squared euclidean; the score is minus the euclidean distance.
    Euclidean,
    /// The sum of absolute differences; the score is minus that.
    Manhattan,
    /// Of bits: how many differ; the score is minus that.
    Hamming,
}

impl Distance {
    /// The score that the API shows for a distance of the index. The only place where the one becomes the other.
    pub fn score(self, distance: f32) -> f32 {
        match self {
            Distance::Cosine => 1.0 - distance,
            Distance::Dot => -distance,
            Distance::Euclidean => -distance.max(0.0).sqrt(),
            Distance::Manhattan | Distance::Hamming => -distance,
        }
    }

    /// The largest distance that scores at least `score`: [`Distance::score`] turned around, to the last bit. `None` if
    /// no distance does, not even minus infinity (or if `score` is NaN).
    pub fn farthest(self, score: f32) -> Option<f32> {
        let is_near = |distance: f32| self.score(distance) >= score;
        // The score never grows with the distance, so the bits of a float, put in order, can be halved.
        let (mut near, mut far) = (rank(f32::NEG_INFINITY), rank(f32::INFINITY));
        if !is_near(f32::NEG_INFINITY) {
            return None;
        }
        if is_near(f32::INFINITY) {
            return Some(f32::INFINITY);
        }
        while far - near > 1 {
            let middle = near + (far - near) / 2;
            if is_near(ranked(middle)) { near = middle } else { far = middle }
        }
        Some(ranked(near))
    }
}

/// The place of a float among all floats.
fn rank(float: f32) -> i64 {
    let bits = i64::from(float.to_bits() & !SIGN);
    if float.is_sign_negative() { -bits - 1 } else { bits }
}

/// The float at a place: [`rank`] turned around.
fn ranked(rank: i64) -> f32 {
    let bits = |magnitude: i64| u32::try_from(magnitude).unwrap_or(0);
    if rank < 0 { f32::from_bits(bits(-rank - 1) | SIGN) } else { f32::from_bits(bits(rank)) }
}

const SIGN: u32 = 1 << 31;

/// Parameters of a hierarchical navigable small world graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hnsw {
    /// Links per vertex above level 0; twice as many on level 0.
    pub m: u32,
    /// Candidates kept while building.
    pub ef_construction: u32,
    /// Candidates kept while searching, unless the request says otherwise.
    pub ef_search: u32,
}

/// The named presets: (name, m, ef_construction, ef_search).
pub const PRESETS: [(&str, Hnsw); 4] = [
    ("fast", Hnsw { m: 8, ef_construction: 100, ef_search: 50 }),
    ("balanced", Hnsw { m: 16, ef_construction: 200, ef_search: 100 }),
    ("high_recall", Hnsw { m: 32, ef_construction: 400, ef_search: 200 }),
    ("maximum_recall", Hnsw { m: 64, ef_construction: 800, ef_search: 400 }),
];

impl Default for Hnsw {
    /// The preset `balanced`.
    fn default() -> Hnsw {
        PRESETS[1].1
    }
}

/// Which index a vector gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum IndexKind {
    /// A graph whose searches read whole vectors.
    Hnsw(Hnsw),
    /// An exact scan.
    Flat,
    /// A graph whose searches look at codes first.
    Quantized(Hnsw, Quantization),
    /// Hashes in buckets.
    Lsh(Lsh),
}

/// Locality-sensitive hashing in two levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lsh {
    /// Hash functions that number a bucket.
    pub coarse: u32,
    /// Hash functions that tell the rows of a bucket apart.
    pub fine: u32,
}

impl Default for Lsh {
    fn default() -> Lsh {
        Lsh { coarse: 16, fine: 64 }
    }
}

/// What a search of a graph looks at before it reads whole vectors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Quantization {
    /// Eight bits for each value, and one-bit sketches of neighbours; what is found is ordered by whole vectors.
    #[default]
    Scalar,
    /// One-bit sketches alone; what they find is ordered by whole vectors, which may stay on disk.
    Binary,
    /// A byte for each eight values (product quantization); what is found is ordered by whole vectors, which may stay on disk.
    Product,
}

impl IndexKind {
    /// In a request to create a collection: what the server gives vectors of which nothing is said. It is never what one has.
    pub const OF_SERVER: IndexKind =
        IndexKind::Quantized(Hnsw { m: 0, ef_construction: 0, ef_search: 0 }, Quantization::Scalar);

    /// The parameters of its graph, if it is one.
    pub fn hnsw(&self) -> Option<&Hnsw> {
        match self {
            IndexKind::Hnsw(hnsw) | IndexKind::Quantized(hnsw, _) => Some(hnsw),
            IndexKind::Flat | IndexKind::Lsh(_) => None,
        }
    }

    /// The same, to change them.
    pub fn hnsw_mut(&mut self) -> Option<&mut Hnsw> {
        match self {
            IndexKind::Hnsw(hnsw) | IndexKind::Quantized(hnsw, _) => Some(hnsw),
            IndexKind::Flat | IndexKind::Lsh(_) => None,
        }
    }

    /// What its searches look at first, if anything.
    pub fn quantization(&self) -> Option<Quantization> {
        match self {
            IndexKind::Quantized(_, quantization) => Some(*quantization),
            IndexKind::Hnsw(_) | IndexKind::Flat | IndexKind::Lsh(_) => None,
        }
    }
}

impl Default for IndexKind {
    /// A quantized graph with the preset `balanced`.
    fn default() -> IndexKind {
        IndexKind::Quantized(Hnsw::default(), Quantization::default())
    }
}

/// A collection as its creator described it, with every default filled in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectionSpec {
    /// Its name.
    pub name: String,
    /// Vectors by name; may be empty: records without vectors.
    pub vectors: BTreeMap<String, VectorSpec>,
    /// Declared fields by dotted path.
    pub fields: BTreeMap<String, FieldType>,
    /// Partitions.
    pub partitions: u32,
    /// Refuse undeclared payload fields.
    pub strict: bool,
    /// Voting replicas of each partition, one of [`REPLICATION_FACTORS`]; 0: the server's default.
    pub replication_factor: u32,
    /// How keys fall into partitions.
    pub strategy: Strategy,
}

/// How keys fall into slots, and so into partitions: each slot has one owner.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strategy {
    /// By the pinned hash, into [`SLOTS`] slots.
    #[default]
    ConsistentHash,
    /// By order: a slot is the range from one split point up to the next.
    Range {
        /// The first key of each range but the first, ascending.
        splits: Vec<Key>,
    },
    /// By the pinned hash of a part of the key: of a text key what stands before the first delimiter
    /// ([`shard_key`](crate::ring::shard_key)). Keys with that part in common share a slot.
    ShardKey {
        /// An ASCII character.
        delimiter: u8,
    },
}

impl Strategy {
    /// How many slots there are.
    pub fn slots(&self) -> usize {
        match self {
            Strategy::ConsistentHash | Strategy::ShardKey { .. } => SLOTS,
            Strategy::Range { splits } => splits.len() + 1,
        }
    }

    /// The slot of `key`.
    pub fn slot(&self, key: &Key) -> usize {
        match self {
            Strategy::ConsistentHash => crate::ring::slot(key),
            Strategy::Range { splits } => splits.partition_point(|split| split <= key),
            Strategy::ShardKey { delimiter } => slot_of(shard_key(&key.to_bytes(), *delimiter)),
        }
    }

    /// The slots that text keys beginning with `prefix` may be in.
    pub fn slots_of_prefix(&self, prefix: &str) -> std::ops::Range<usize> {
        match self {
            Strategy::ShardKey { delimiter } if prefix.as_bytes().contains(delimiter) => {
                let slot = self.slot(&Key::Text(prefix.to_owned()));
                slot..slot + 1
            }
            Strategy::ConsistentHash | Strategy::ShardKey { .. } => 0..SLOTS,
            Strategy::Range { splits } => {
                let first = self.slot(&Key::Text(prefix.to_owned()));
                let is_within = |split: &Key| matches!(split, Key::Text(text) if text.starts_with(prefix));
                let further = splits.iter().skip(first).take_while(|split| is_within(split)).count();
                first..first + further + 1
            }
        }
    }

    /// Whether keys are spread by their hash, so that partitions own as much each.
    pub fn is_hashed(&self) -> bool {
        match self {
            Strategy::ConsistentHash | Strategy::ShardKey { .. } => true,
            Strategy::Range { .. } => false,
        }
    }

    fn check(&self, partitions: u32) -> Result<(), Violation> {
        let splits = match self {
            Strategy::ConsistentHash => return Ok(()),
            Strategy::ShardKey { delimiter } => return check_delimiter(char::from(*delimiter)),
            Strategy::Range { splits } => splits,
        };
        splits.iter().try_for_each(|key| check_key("spec.split_points", key))?;
        if let Some(pair) = splits.windows(2).find(|pair| pair[0] >= pair[1]) {
            let why = format!("must ascend, but `{}` comes before `{}`", pair[0], pair[1]);
            return Err(Violation::new("spec.split_points", why));
        }
        let wanted = partitions as usize;
        if splits.len() + 1 < wanted || splits.len() >= SLOTS {
            let why =
                format!("{wanted} partitions need {wanted} to {SLOTS} ranges, got {}", splits.len() + 1);
            return Err(Violation::new("spec.split_points", why));
        }
        Ok(())
    }
}

impl CollectionSpec {
    /// The declared type of the field at `path`, which a request names as its `at`; none if it is not declared.
    ///
    /// # Errors
    /// If it is no path, or if the collection is strict and does not declare it.
    pub fn kind_of(&self, at: &str, path: &str) -> Result<Option<FieldType>, Violation> {
        check_path(at, path)?;
        let kind = self.fields.get(path).copied();
        if self.strict && kind.is_none() {
            let known: Vec<&str> = self.fields.keys().map(String::as_str).collect();
            let why = format!(
                "collection `{}` is strict and does not declare `{path}`; it declares [{}]",
                self.name,
                known.join(", ")
            );
            return Err(Violation::new(at, why));
        }
        Ok(kind)
    }

    /// Refuses a description that breaks a limit or contradicts itself.
    pub fn check(&self) -> Result<(), Violation> {
        check_collection("spec.name", &self.name)?;
        at_most("spec.vectors", "vectors", VECTORS_MAX, self.vectors.len())?;
        at_most("spec.fields", "fields", FIELDS_MAX, self.fields.len())?;
        if self.partitions == 0 || self.partitions > PARTITIONS_MAX {
            return Err(Violation::range("spec.partitions", 1, PARTITIONS_MAX, self.partitions));
        }
        if self.replication_factor != 0 && !REPLICATION_FACTORS.contains(&self.replication_factor) {
            let why = format!("must be one of {REPLICATION_FACTORS:?}, got {}", self.replication_factor);
            return Err(Violation::new("spec.replication_factor", why));
        }
        self.strategy.check(self.partitions)?;
        for (name, vector) in &self.vectors {
            check_name("spec.vectors", name)?;
            vector.check(name)?;
        }
        self.check_fields()
    }

    fn check_fields(&self) -> Result<(), Violation> {
        for path in self.fields.keys() {
            check_path("spec.fields", path)?;
            let inside = |other: &&String| {
                other.len() > path.len() && other.starts_with(path) && other.as_bytes()[path.len()] == b'.'
            };
            if let Some(other) = self.fields.keys().find(inside) {
                return Err(Violation::new(
                    "spec.fields",
                    format!("field `{path}` cannot hold both values and the declared field `{other}`"),
                ));
            }
        }
        Ok(())
    }

    /// The vector that a request means: the named one; without a name the only one, or `default`.
    pub fn vector(&self, name: &str) -> Result<(&str, &VectorSpec), Violation> {
        let found = match name {
            "" if self.vectors.len() == 1 => self.vectors.iter().next(),
            "" => self.vectors.get_key_value("default"),
            name => self.vectors.get_key_value(name),
        };
        found.map(|(name, spec)| (name.as_str(), spec)).ok_or_else(|| {
            let known: Vec<&str> = self.vectors.keys().map(String::as_str).collect();
            Violation::new(
                "vector_name",
                format!("collection `{}` has no vector `{name}`; it has [{}]", self.name, known.join(", ")),
            )
        })
    }

    /// Refuses a record that does not fit. `at` names its place in the request, such as `records[3]`.
    pub fn check_record(&self, at: &str, record: &Record) -> Result<(), Violation> {
        check_key(&format!("{at}.key"), &record.key)?;
        if let Some(when) = record.expires_at_ms.filter(|when| !(1..=EXPIRES_AT_MS_MAX).contains(when)) {
            return Err(Violation::range(format!("{at}.expires_at_ms"), 1, EXPIRES_AT_MS_MAX, when));
        }
        self.check_vectors(at, &record.vectors)?;
        self.check_payload(at, &record.payload)
    }

    /// Refuses vectors that the collection does not have, or that do not fit.
    pub fn check_vectors(&self, at: &str, vectors: &BTreeMap<String, Vector>) -> Result<(), Violation> {
        for (name, values) in vectors {
            let field = format!("{at}.vectors[{name}]");
            let Some(spec) = self.vectors.get(name) else {
                return Err(Violation::new(
                    field,
                    format!("collection `{}` has no vector of this name", self.name),
                ));
            };
            spec.check_vector(&field, values)?;
        }
        Ok(())
    }

    /// Refuses a payload that breaks a limit or does not fit the declared fields.
    pub fn check_payload(&self, at: &str, payload: &Payload) -> Result<(), Violation> {
        let bytes = check_shape(&format!("{at}.payload"), payload, 1)?;
        at_most(&format!("{at}.payload"), "bytes", PAYLOAD_BYTES_MAX, bytes)?;
        for (path, kind) in &self.fields {
            let steps: Vec<String> = path.split('.').map(str::to_owned).collect();
            if let Some(why) = misfit(*kind, payload, &steps) {
                return Err(Violation::new(format!("{at}.payload.{path}"), why));
            }
        }
        if self.strict { self.check_declared(at, payload) } else { Ok(()) }
    }

    fn check_declared(&self, at: &str, payload: &Payload) -> Result<(), Violation> {
        for name in payload.keys() {
            let declared = |path: &String| path.split('.').next() == Some(name);
            if !self.fields.keys().any(declared) {
                return Err(Violation::new(
                    format!("{at}.payload.{name}"),
                    format!("collection `{}` is strict and declares no field of this name", self.name),
                ));
            }
        }
        Ok(())
    }
}

/// Why what a path reaches does not fit a field of this type; none if it does.
fn misfit(kind: FieldType, payload: &Payload, steps: &[String]) -> Option<String> {
    let mut wrong = None;
    if kind == FieldType::Geo {
        geo::reach_points(payload, steps, &mut |point| {
            wrong = point.err().map(|why| format!("declared as geo: {why}"));
            wrong.is_some()
        });
    } else {
        crate::record::reach(payload, steps, &mut |value| {
            wrong = (!kind.admits(value)).then(|| {
                let found = value.type_name();
                format!("declared as {}, the value is of type {found}{}", kind.name(), kind.hint())
            });
            wrong.is_some()
        });
    }
    wrong
}

/// Refuses a name that is empty, too long, starts with a dot or holds other than `A-Z a-z 0-9 _ - .`.
pub fn check_name(field: &str, name: &str) -> Result<(), Violation> {
    if name.is_empty() {
        return Err(Violation::new(field, "a name has at least 1 character"));
    }
    at_most(field, "bytes", NAME_BYTES_MAX, name.len())?;
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if let Some(bad) = name.chars().find(|c| !legal(*c)) {
        return Err(Violation::new(
            field,
            format!("character {bad:?} is not allowed in a name; allowed are A-Z a-z 0-9 _ - ."),
        ));
    }
    if name.starts_with('.') {
        return Err(Violation::new(field, "a name does not start with a dot"));
    }
    Ok(())
}

/// Refuses a dotted path with an empty step, or too long.
pub fn check_path(field: &str, path: &str) -> Result<(), Violation> {
    at_most(field, "bytes", NAME_BYTES_MAX, path.len())?;
    if path.split('.').any(str::is_empty) {
        return Err(Violation::new(field, format!("`{path}` is not a dotted path: a step is empty")));
    }
    Ok(())
}

/// Refuses what is no delimiter of shard keys.
pub(crate) fn check_delimiter(delimiter: char) -> Result<(), Violation> {
    if delimiter.is_ascii() && !delimiter.is_ascii_control() {
        return Ok(());
    }
    let why = format!("must be one ASCII character that can be printed, got {delimiter:?}");
    Err(Violation::new("spec.shard_delimiter", why))
}

/// Refuses a beginning of text keys that is empty, or longer than they are.
pub fn check_key_prefix(field: &str, prefix: &str) -> Result<(), Violation> {
    if prefix.is_empty() {
        return Err(Violation::new(field, "has at least 1 byte; for all records, leave it out"));
    }
    at_most(field, "bytes", KEY_BYTES_MAX, prefix.len())
}

/// Refuses an empty or too long text key.
pub fn check_key(field: &str, key: &Key) -> Result<(), Violation> {
    match key {
        Key::Text(text) if text.is_empty() => Err(Violation::new(field, "a text key has at least 1 byte")),
        Key::Text(text) => at_most(field, "bytes", KEY_BYTES_MAX, text.len()),
        Key::Number(_) => Ok(()),
    }
}

/// Refuses a time to live beyond [`TTL_MS_MAX`]; 0 is none.
pub fn check_ttl(ttl_ms: u64) -> Result<(), Violation> {
    if ttl_ms <= TTL_MS_MAX { Ok(()) } else { Err(Violation::range("ttl_ms", 0, TTL_MS_MAX, ttl_ms)) }
}

/// Refuses more than `max` of something.
pub fn at_most(field: &str, what: &str, max: usize, got: usize) -> Result<(), Violation> {
    if got <= max { Ok(()) } else { Err(Violation::new(field, format!("{got} {what}, the limit is {max}"))) }
}

/// Refuses values nested too deep or with a float that is not finite; returns their size in bytes, roughly as stored.
pub fn check_values(at: &str, values: &Payload) -> Result<usize, Violation> {
    check_shape(at, values, 1)
}

fn check_shape(at: &str, fields: &Payload, depth: usize) -> Result<usize, Violation> {
    at_most(at, "levels", PAYLOAD_DEPTH_MAX, depth)?;
    let mut bytes = 1;
    for (name, value) in fields {
        at_most(at, "bytes in a field's name", NAME_BYTES_MAX, name.len())?;
        bytes += name.len() + 1 + check_value(&format!("{at}.{name}"), value, depth)?;
    }
    Ok(bytes)
}

fn check_value(at: &str, value: &Value, depth: usize) -> Result<usize, Violation> {
    Ok(match value {
        Value::Null | Value::Bool(_) => 2,
        Value::Int(_) | Value::Float(_) => 9,
        Value::Text(text) => text.len() + 2,
        Value::List(items) => {
            at_most(at, "levels", PAYLOAD_DEPTH_MAX, depth + 1)?;
            let mut bytes = 2;
            for item in items {
                bytes += check_value(at, item, depth + 1)?;
            }
            bytes
        }
        Value::Map(fields) => check_shape(at, fields, depth + 1)?,
    })
    .and_then(|bytes| match value {
        Value::Float(f) if !f.is_finite() => {
            Err(Violation::new(at, format!("the value is {f}, not a finite number")))
        }
        _ => Ok(bytes),
    })
}

#[cfg(test)]
mod tests;
