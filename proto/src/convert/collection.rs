//! Collection descriptions.

use std::collections::BTreeMap;

use super::record::{key_from_wire, key_to_wire};
use crate::fulltext::Language;
use crate::limits::PARTITIONS_DEFAULT;
use crate::placement::CollectionPlacement;
use crate::record::Key;
use crate::refusal::Violation;
use crate::schema::{
    CollectionSpec, Datatype, Distance, FieldType, Form, Hnsw, IndexKind, Lsh, PRESETS, Quantization,
    Strategy, VectorSpec, check_delimiter,
};
use crate::v1;

/// A description with every default filled in; checked by [`CollectionSpec::check`], not here.
pub fn spec_from_wire(spec: v1::CollectionSpec) -> Result<CollectionSpec, Violation> {
    let vectors = spec
        .vectors
        .into_iter()
        .map(|(name, params)| {
            let vector = vector_from_wire(&name, params)?;
            Ok((name, vector))
        })
        .collect::<Result<_, Violation>>()?;
    let fields = fields_from_wire(("spec.fields", "spec.languages"), spec.fields, spec.languages)?;
    let partitions = if spec.partitions == 0 { PARTITIONS_DEFAULT } else { spec.partitions };
    let splits = spec.split_points.into_iter().enumerate();
    let splits = splits.map(|(n, key)| key_from_wire(&format!("spec.split_points[{n}]"), Some(key)));
    let splits: Vec<Key> = splits.collect::<Result<_, _>>()?;
    let strategy = strategy_from_wire(spec.strategy, splits, &spec.shard_delimiter)?;
    let (strict, replication_factor) = (spec.strict, spec.replication_factor);
    Ok(CollectionSpec { name: spec.name, vectors, fields, partitions, strict, replication_factor, strategy })
}

/// How keys fall into slots. A delimiter makes it one by shard keys; whoever says that strategy brings one.
fn strategy_from_wire(strategy: i32, splits: Vec<Key>, delimiter: &str) -> Result<Strategy, Violation> {
    let wrong = |why: String| Err(Violation::new("spec.shard_delimiter", why));
    let Ok(said) = v1::Strategy::try_from(strategy) else {
        return Err(Violation::new("spec.strategy", format!("{strategy} is not a strategy")));
    };
    if said != v1::Strategy::Range && !splits.is_empty() {
        return Err(Violation::new("spec.split_points", "are for strategy range only"));
    }
    let mut delimiters = delimiter.chars();
    match (said, delimiters.next(), delimiters.next()) {
        (v1::Strategy::Range, None, _) => Ok(Strategy::Range { splits }),
        (v1::Strategy::Range, ..) => {
            wrong("goes with keys that are hashed, not with strategy range".to_owned())
        }
        (v1::Strategy::ShardKey, None, _) => wrong("is missing: strategy shard_key needs one".to_owned()),
        (_, None, _) => Ok(Strategy::ConsistentHash),
        (_, Some(_), Some(_)) => wrong(format!("must be one ASCII character, got {delimiter:?}")),
        (_, Some(delimiter), None) => {
            check_delimiter(delimiter)?;
            match u8::try_from(delimiter) {
                Ok(delimiter) => Ok(Strategy::ShardKey { delimiter }),
                Err(_) => wrong(format!("must be one ASCII character, got {delimiter:?}")),
            }
        }
    }
}

/// Declared fields: their types, and the languages of some by path. `at` names the request's fields of both.
///
/// # Errors
/// What is no type and no language, and a language of what is not declared here as text.
pub fn fields_from_wire(
    at: (&str, &str),
    fields: BTreeMap<String, i32>,
    languages: BTreeMap<String, i32>,
) -> Result<BTreeMap<String, FieldType>, Violation> {
    let typed = fields.into_iter().map(|(path, kind)| {
        let kind = field_type_from_wire(at.0, &path, kind)?;
        Ok((path, kind))
    });
    let mut typed: BTreeMap<String, FieldType> = typed.collect::<Result<_, Violation>>()?;
    for (path, language) in languages {
        let wrong = |why: String| Violation::new(format!("{}[{path}]", at.1), why);
        let language =
            language_from_wire(language).ok_or_else(|| wrong(format!("{language} is not a language")))?;
        match typed.get_mut(&path) {
            Some(kind @ FieldType::Text) => *kind = language.map_or(FieldType::Text, FieldType::TextIn),
            Some(kind) => {
                return Err(wrong(format!("goes with text, the field is declared as {}", kind.name())));
            }
            None => return Err(wrong(format!("goes with a field, and {} has none of this path", at.0))),
        }
    }
    Ok(typed)
}

/// Declared fields for the wire: their types, and the languages of those that have one.
pub fn fields_to_wire(
    fields: &BTreeMap<String, FieldType>,
) -> (BTreeMap<String, i32>, BTreeMap<String, i32>) {
    let kind = |(path, kind): (&String, &FieldType)| (path.clone(), field_type_to_wire(*kind).into());
    let language = |(path, kind): (&String, &FieldType)| {
        let language: i32 = language_to_wire(kind.language()?).into();
        Some((path.clone(), language))
    };
    (fields.iter().map(kind).collect(), fields.iter().filter_map(language).collect())
}

/// The type of the declared field `path`, without its language. `at` names the request's field.
fn field_type_from_wire(at: &str, path: &str, kind: i32) -> Result<FieldType, Violation> {
    match v1::FieldType::try_from(kind) {
        Ok(v1::FieldType::Keyword) => Ok(FieldType::Keyword),
        Ok(v1::FieldType::Integer) => Ok(FieldType::Integer),
        Ok(v1::FieldType::Float) => Ok(FieldType::Float),
        Ok(v1::FieldType::Bool) => Ok(FieldType::Bool),
        Ok(v1::FieldType::Datetime) => Ok(FieldType::Datetime),
        Ok(v1::FieldType::Text) => Ok(FieldType::Text),
        Ok(v1::FieldType::Uuid) => Ok(FieldType::Uuid),
        Ok(v1::FieldType::Geo) => Ok(FieldType::Geo),
        Ok(v1::FieldType::Unspecified) | Err(_) => {
            Err(Violation::new(format!("{at}[{path}]"), format!("{kind} is not a field type")))
        }
    }
}

fn field_type_to_wire(kind: FieldType) -> v1::FieldType {
    match kind {
        FieldType::Keyword => v1::FieldType::Keyword,
        FieldType::Integer => v1::FieldType::Integer,
        FieldType::Float => v1::FieldType::Float,
        FieldType::Bool => v1::FieldType::Bool,
        FieldType::Datetime => v1::FieldType::Datetime,
        FieldType::Text | FieldType::TextIn(_) => v1::FieldType::Text,
        FieldType::Uuid => v1::FieldType::Uuid,
        FieldType::Geo => v1::FieldType::Geo,
    }
}

/// A language, or none of them; nothing for what is neither.
fn language_from_wire(language: i32) -> Option<Option<Language>> {
    let language = v1::Language::try_from(language).ok()?;
    if language == v1::Language::Unspecified {
        return Some(None);
    }
    Some(Some(Language::ALL.into_iter().find(|known| language_to_wire(*known) == language)?))
}

fn language_to_wire(language: Language) -> v1::Language {
    match language {
        Language::Arabic => v1::Language::Arabic,
        Language::Danish => v1::Language::Danish,
        Language::Dutch => v1::Language::Dutch,
        Language::English => v1::Language::English,
        Language::Finnish => v1::Language::Finnish,
        Language::French => v1::Language::French,
        Language::German => v1::Language::German,
        Language::Greek => v1::Language::Greek,
        Language::Hungarian => v1::Language::Hungarian,
        Language::Italian => v1::Language::Italian,
        Language::Norwegian => v1::Language::Norwegian,
        Language::Portuguese => v1::Language::Portuguese,
        Language::Romanian => v1::Language::Romanian,
        Language::Russian => v1::Language::Russian,
        Language::Spanish => v1::Language::Spanish,
        Language::Swedish => v1::Language::Swedish,
        Language::Turkish => v1::Language::Turkish,
    }
}

fn vector_from_wire(name: &str, params: v1::VectorParams) -> Result<VectorSpec, Violation> {
    let form = form_from_wire(name, &params)?;
    let distance = match v1::Distance::try_from(params.distance) {
        Ok(v1::Distance::Unspecified) => form.distance(),
        Ok(v1::Distance::Cosine) => Distance::Cosine,
        Ok(v1::Distance::Dot) => Distance::Dot,
        Ok(v1::Distance::Euclidean) => Distance::Euclidean,
        Ok(v1::Distance::Manhattan) => Distance::Manhattan,
        Ok(v1::Distance::Hamming) => Distance::Hamming,
        Err(_) => {
            return Err(Violation::new(
                format!("spec.vectors[{name}].distance"),
                format!("{} is not a distance", params.distance),
            ));
        }
    };
    let index = match v1::IndexKind::try_from(params.index) {
        Ok(v1::IndexKind::Unspecified) if !matches!(form, Form::Dense(_)) && params.hnsw.is_none() => {
            IndexKind::Flat
        }
        Ok(v1::IndexKind::Hnsw | v1::IndexKind::Unspecified) => {
            let hnsw = hnsw_from_wire(name, params.hnsw.unwrap_or_default())?;
            match v1::Quantization::try_from(params.quantization) {
                Ok(v1::Quantization::Scalar | v1::Quantization::Unspecified) => {
                    IndexKind::Quantized(hnsw, Quantization::Scalar)
                }
                Ok(v1::Quantization::Binary) => IndexKind::Quantized(hnsw, Quantization::Binary),
                Ok(v1::Quantization::Product) => IndexKind::Quantized(hnsw, Quantization::Product),
                Ok(v1::Quantization::None) => IndexKind::Hnsw(hnsw),
                Err(_) => {
                    return Err(Violation::new(
                        format!("spec.vectors[{name}].quantization"),
                        format!("{} is not a quantization", params.quantization),
                    ));
                }
            }
        }
        Ok(v1::IndexKind::Flat) => IndexKind::Flat,
        Ok(v1::IndexKind::Lsh) => {
            let (given, default) = (params.lsh.unwrap_or_default(), Lsh::default());
            let or = |given: u32, default: u32| if given == 0 { default } else { given };
            IndexKind::Lsh(Lsh {
                coarse: or(given.coarse, default.coarse),
                fine: or(given.fine, default.fine),
            })
        }
        Err(_) => {
            return Err(Violation::new(
                format!("spec.vectors[{name}].index"),
                format!("{} is not an index kind", params.index),
            ));
        }
    };
    let mut spec = VectorSpec { dims: params.dims, distance, index, form };
    if !spec.has_codes()
        && let Some(hnsw) = index.hnsw()
    {
        spec.index = IndexKind::Hnsw(*hnsw);
    }
    Ok(spec)
}

fn form_from_wire(name: &str, params: &v1::VectorParams) -> Result<Form, Violation> {
    let datatype = match v1::Datatype::try_from(params.datatype) {
        Ok(v1::Datatype::F32 | v1::Datatype::Unspecified) => Datatype::F32,
        Ok(v1::Datatype::F16) => Datatype::F16,
        Ok(v1::Datatype::I8) => Datatype::I8,
        Ok(v1::Datatype::Bit) => Datatype::Bit,
        Err(_) => {
            return Err(Violation::new(
                format!("spec.vectors[{name}].datatype"),
                format!("{} is not a datatype", params.datatype),
            ));
        }
    };
    match v1::VectorKind::try_from(params.kind) {
        Ok(v1::VectorKind::Dense | v1::VectorKind::Unspecified) => Ok(Form::Dense(datatype)),
        Ok(v1::VectorKind::Multi) => Ok(Form::Multi(datatype)),
        Ok(v1::VectorKind::Sparse) if datatype == Datatype::F32 => Ok(Form::Sparse),
        Ok(v1::VectorKind::Sparse) => Err(Violation::new(
            format!("spec.vectors[{name}].datatype"),
            format!("is {}; the values of sparse vectors are f32", datatype.name()),
        )),
        Err(_) => Err(Violation::new(
            format!("spec.vectors[{name}].kind"),
            format!("{} is not a kind of vector", params.kind),
        )),
    }
}

fn hnsw_from_wire(name: &str, params: v1::HnswParams) -> Result<Hnsw, Violation> {
    let base = match params.preset.as_str() {
        "" => Hnsw::default(),
        preset => match PRESETS.iter().find(|(known, _)| *known == preset) {
            Some((_, hnsw)) => *hnsw,
            None => {
                let known: Vec<&str> = PRESETS.iter().map(|(name, _)| *name).collect();
                return Err(Violation::new(
                    format!("spec.vectors[{name}].hnsw.preset"),
                    format!("there is no preset `{preset}`; there are {}", known.join(", ")),
                ));
            }
        },
    };
    let or = |given: u32, preset: u32| if given == 0 { preset } else { given };
    Ok(Hnsw {
        m: or(params.m, base.m),
        ef_construction: or(params.ef_construction, base.ef_construction),
        ef_search: or(params.ef_search, base.ef_search),
    })
}

/// A description for the wire.
pub fn spec_to_wire(spec: &CollectionSpec) -> v1::CollectionSpec {
    let vector = |v: &VectorSpec| {
        let distance = match v.distance {
            Distance::Cosine => v1::Distance::Cosine,
            Distance::Dot => v1::Distance::Dot,
            Distance::Euclidean => v1::Distance::Euclidean,
            Distance::Manhattan => v1::Distance::Manhattan,
            Distance::Hamming => v1::Distance::Hamming,
        };
        let kind = match v.form {
            Form::Dense(_) => v1::VectorKind::Dense,
            Form::Sparse => v1::VectorKind::Sparse,
            Form::Multi(_) => v1::VectorKind::Multi,
        };
        let datatype = match v.form.datatype() {
            Datatype::F32 => v1::Datatype::F32,
            Datatype::F16 => v1::Datatype::F16,
            Datatype::I8 => v1::Datatype::I8,
            Datatype::Bit => v1::Datatype::Bit,
        };
        let (index, quantization) = match v.index {
            IndexKind::OF_SERVER => (v1::IndexKind::Unspecified, v1::Quantization::Unspecified),
            IndexKind::Flat => (v1::IndexKind::Flat, v1::Quantization::Unspecified),
            IndexKind::Lsh(_) => (v1::IndexKind::Lsh, v1::Quantization::Unspecified),
            IndexKind::Hnsw(_) => (v1::IndexKind::Hnsw, v1::Quantization::None),
            IndexKind::Quantized(_, Quantization::Scalar) => (v1::IndexKind::Hnsw, v1::Quantization::Scalar),
            IndexKind::Quantized(_, Quantization::Binary) => (v1::IndexKind::Hnsw, v1::Quantization::Binary),
            IndexKind::Quantized(_, Quantization::Product) => {
                (v1::IndexKind::Hnsw, v1::Quantization::Product)
            }
        };
        let hnsw = v.index.hnsw().filter(|_| v.index != IndexKind::OF_SERVER).map(|h| v1::HnswParams {
            preset: String::new(),
            m: h.m,
            ef_construction: h.ef_construction,
            ef_search: h.ef_search,
        });
        let lsh = match v.index {
            IndexKind::Lsh(lsh) => Some(v1::LshParams { coarse: lsh.coarse, fine: lsh.fine }),
            _ => None,
        };
        v1::VectorParams {
            dims: v.dims,
            lsh,
            distance: distance.into(),
            index: index.into(),
            hnsw,
            quantization: quantization.into(),
            datatype: datatype.into(),
            kind: kind.into(),
        }
    };
    let (fields, languages) = fields_to_wire(&spec.fields);
    v1::CollectionSpec {
        name: spec.name.clone(),
        vectors: spec.vectors.iter().map(|(name, v)| (name.clone(), vector(v))).collect(),
        fields,
        languages,
        partitions: spec.partitions,
        strict: spec.strict,
        replication_factor: spec.replication_factor,
        strategy: match spec.strategy {
            Strategy::ConsistentHash => v1::Strategy::ConsistentHash.into(),
            Strategy::Range { .. } => v1::Strategy::Range.into(),
            // A program that does not know the delimiter knows no such strategy either, and refuses it.
            Strategy::ShardKey { .. } => v1::Strategy::ShardKey.into(),
        },
        split_points: match &spec.strategy {
            Strategy::ConsistentHash | Strategy::ShardKey { .. } => Vec::new(),
            Strategy::Range { splits } => splits.iter().map(key_to_wire).collect(),
        },
        shard_delimiter: match spec.strategy {
            Strategy::ShardKey { delimiter } => char::from(delimiter).to_string(),
            Strategy::ConsistentHash | Strategy::Range { .. } => String::new(),
        },
    }
}

/// A collection for the wire.
pub fn collection_to_wire(placement: &CollectionPlacement) -> v1::Collection {
    v1::Collection {
        spec: Some(spec_to_wire(&placement.spec)),
        id: placement.id.to_string(),
        epoch: placement.epoch.0,
    }
}

/// Description, incarnation and epoch of a collection.
pub fn collection_from_wire(
    collection: v1::Collection,
) -> Result<(CollectionSpec, crate::ids::CollectionId, crate::ids::Epoch), Violation> {
    let spec = collection.spec.ok_or_else(|| Violation::new("collection.spec", "is missing"))?;
    let id = collection
        .id
        .parse()
        .map_err(|_| Violation::new("collection.id", format!("`{}` is not an id", collection.id)))?;
    Ok((spec_from_wire(spec)?, id, crate::ids::Epoch(collection.epoch)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_filled_in_and_survive_the_wire() {
        let params = v1::VectorParams { dims: 8, ..Default::default() };
        let wire = v1::CollectionSpec {
            name: "c".into(),
            vectors: [("default".into(), params)].into(),
            fields: [("f".into(), v1::FieldType::Datetime.into())].into(),
            ..Default::default()
        };
        let spec = spec_from_wire(wire).unwrap();
        assert_eq!(spec.partitions, PARTITIONS_DEFAULT);
        assert_eq!(spec.vectors["default"].index, IndexKind::default());
        assert_eq!(spec_from_wire(spec_to_wire(&spec)), Ok(spec));
    }

    #[test]
    fn strategies_survive_the_wire_and_a_delimiter_goes_with_the_hash() {
        let strategies = [
            Strategy::ConsistentHash,
            Strategy::Range { splits: vec![5.into(), "k".into()] },
            Strategy::ShardKey { delimiter: b'/' },
            Strategy::ShardKey { delimiter: b' ' },
        ];
        for strategy in strategies {
            let spec = CollectionSpec { name: "c".into(), partitions: 1, strategy, ..Default::default() };
            assert_eq!(spec_from_wire(spec_to_wire(&spec)), Ok(spec));
        }
        let of = |strategy: v1::Strategy, delimiter: &str| {
            let (strategy, shard_delimiter) = (strategy.into(), delimiter.to_owned());
            spec_from_wire(v1::CollectionSpec { strategy, shard_delimiter, ..Default::default() })
        };
        let by_slash = Strategy::ShardKey { delimiter: b'/' };
        for said in [v1::Strategy::Unspecified, v1::Strategy::ConsistentHash, v1::Strategy::ShardKey] {
            assert_eq!(of(said, "/").unwrap().strategy, by_slash);
            for wrong in ["//", "ß", "\n", "\u{7f}", "a/"] {
                let why = of(said, wrong).unwrap_err().to_string();
                assert!(why.starts_with("spec.shard_delimiter: must be one ASCII character"), "{why}");
            }
        }
        assert!(of(v1::Strategy::ShardKey, "").unwrap_err().to_string().contains("is missing"));
        assert!(of(v1::Strategy::Range, "/").unwrap_err().to_string().contains("not with strategy range"));
    }

    #[test]
    fn every_type_of_field_survives_the_wire_and_a_language_goes_with_text() {
        let fields = FieldType::all().map(|kind| (kind.name().replace(':', "_"), kind)).collect();
        let spec = CollectionSpec { name: "c".into(), partitions: 1, fields, ..Default::default() };
        assert_eq!(spec_from_wire(spec_to_wire(&spec)), Ok(spec));

        let of = |kind: v1::FieldType, path: &str, language: i32| {
            let fields = [("f".to_owned(), kind.into())].into();
            fields_from_wire(("add_fields", "languages"), fields, [(path.to_owned(), language)].into())
        };
        let english = v1::Language::English.into();
        assert_eq!(of(v1::FieldType::Text, "f", english).unwrap()["f"], FieldType::TextIn(Language::English));
        assert_eq!(of(v1::FieldType::Text, "f", 0).unwrap()["f"], FieldType::Text);
        for (refused, told) in [
            (of(v1::FieldType::Text, "f", 99), "languages[f]: 99 is not a language"),
            (
                of(v1::FieldType::Text, "g", english),
                "languages[g]: goes with a field, and add_fields has none",
            ),
            (
                of(v1::FieldType::Keyword, "f", english),
                "languages[f]: goes with text, the field is declared as k",
            ),
            (of(v1::FieldType::Unspecified, "f", english), "add_fields[f]: 0 is not a field type"),
        ] {
            let refused = refused.unwrap_err().to_string();
            assert!(refused.starts_with(told), "{refused} is not {told}");
        }
    }

    #[test]
    fn every_form_survives_the_wire_and_gets_its_own_defaults() {
        let spec = |params| {
            let vectors = [("v".into(), params)].into();
            spec_from_wire(v1::CollectionSpec { name: "c".into(), vectors, ..Default::default() })
        };
        let (sparse, multi) = (v1::VectorKind::Sparse.into(), v1::VectorKind::Multi.into());
        let bit = v1::Datatype::Bit.into();
        let default = v1::VectorParams::default;
        let default_of = |dims| v1::VectorParams { dims, ..default() };
        for (params, distance, is_flat) in [
            (v1::VectorParams { kind: sparse, ..default() }, Distance::Dot, true),
            (v1::VectorParams { kind: multi, dims: 4, ..default() }, Distance::Cosine, true),
            (v1::VectorParams { kind: multi, dims: 4, datatype: bit, ..default() }, Distance::Hamming, true),
            (v1::VectorParams { dims: 4, datatype: bit, ..default() }, Distance::Hamming, false),
        ] {
            let spec = spec(params).unwrap();
            spec.check().unwrap();
            let vector = spec.vectors["v"];
            assert_eq!((vector.distance, vector.index == IndexKind::Flat), (distance, is_flat));
            assert_eq!(vector.index.quantization(), None);
            assert_eq!(spec_from_wire(spec_to_wire(&spec)), Ok(spec));
        }
        let graph = |kind, dims| {
            let index = v1::IndexKind::Hnsw.into();
            spec(v1::VectorParams { kind, dims, index, ..default() }).unwrap()
        };
        graph(multi, 4).check().unwrap();
        assert_eq!(graph(multi, 4).vectors["v"].index.quantization(), Some(Quantization::Scalar));
        assert!(graph(sparse, 0).check().unwrap_err().to_string().contains("has no graph"));
        // What is left to the server is not said.
        let vector =
            VectorSpec { dims: 4, index: IndexKind::OF_SERVER, ..spec(default_of(4)).unwrap().vectors["v"] };
        let asked = CollectionSpec { vectors: [("v".into(), vector)].into(), ..spec(default_of(4)).unwrap() };
        let said = &spec_to_wire(&asked).vectors["v"];
        assert_eq!((said.index, &said.hnsw, said.quantization), (0, &None, 0));
        let bits = spec(v1::VectorParams { kind: sparse, datatype: bit, ..default() });
        assert!(bits.unwrap_err().to_string().contains("sparse vectors are f32"));
    }

    #[test]
    fn a_preset_sets_what_is_not_named_and_an_unknown_one_is_refused() {
        let params = v1::HnswParams { preset: "fast".into(), m: 12, ..Default::default() };
        assert_eq!(hnsw_from_wire("v", params), Ok(Hnsw { m: 12, ef_construction: 100, ef_search: 50 }));
        let params = v1::HnswParams { preset: "quick".into(), ..Default::default() };
        assert!(hnsw_from_wire("v", params).unwrap_err().description.contains("fast, balanced"));
    }
}
