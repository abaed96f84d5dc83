//! Bad patches. Each bad patch stands behind a good one: nothing of a batch is done if one of it is wrong.

use std::collections::BTreeMap;

use flotilla_proto::v1::{self, patch_request::Target};
use flotilla_tests::api;
use tonic::Code;

use super::{Ask, OPEN, Row, coded, invalid};

type Set = Vec<(&'static str, v1::Value)>;

fn patch(set: Set, unset: &[&str]) -> v1::Patch {
    v1::Patch {
        key: Some(api::number_key(1)),
        set: set.into_iter().map(|(path, value)| (path.to_owned(), value)).collect(),
        unset: unset.iter().map(|path| (*path).to_owned()).collect(),
        ..Default::default()
    }
}

fn good() -> v1::Patch {
    patch(vec![("n", api::int(1))], &[])
}

fn ask(target: Option<Target>) -> Ask {
    Ask::Patch(v1::PatchRequest { collection: OPEN.to_owned(), target, request: None })
}

fn behind(bad: v1::Patch) -> Ask {
    ask(Some(Target::Patches(v1::PatchList { patches: vec![good(), bad] })))
}

fn matching(filter: Option<v1::Filter>, change: v1::Patch) -> Ask {
    let v1::Patch { set, unset, .. } = change;
    ask(Some(Target::Matching(v1::PatchMatching { filter, set, unset })))
}

fn deep(levels: usize) -> v1::Value {
    (0..levels).fold(api::int(1), |value, _| {
        let list = v1::ListValue { values: vec![value] };
        v1::Value { kind: Some(v1::value::Kind::List(list)) }
    })
}

pub(super) fn rows() -> Vec<Row> {
    let float = |f| v1::Value { kind: Some(v1::value::Kind::Float(f)) };
    let text = |bytes: usize| v1::Value { kind: Some(v1::value::Kind::Text("x".repeat(bytes))) };
    let vectors = BTreeMap::from([("zz".to_owned(), api::dense(vec![1.0]))]);
    let paths: Vec<String> = (0..257).map(|n| format!("f{n}")).collect();
    let many = v1::Patch { unset: paths, ..good() };
    let batch = (0..1_001).map(|_| good()).collect();
    let elsewhere = v1::PatchRequest {
        collection: "nowhere".to_owned(),
        target: Some(Target::Patches(v1::PatchList { patches: vec![good()] })),
        request: None,
    };
    let long = "p".repeat(256);
    vec![
        invalid("no target", ask(None), &["target", "patches or matching"]),
        coded("patch elsewhere", Ask::Patch(elsewhere), Code::NotFound, &["nowhere"]),
        invalid(
            "1,001 patches",
            ask(Some(Target::Patches(v1::PatchList { patches: batch }))),
            &["1001", "1000"],
        ),
        invalid("no key", behind(v1::Patch { key: None, ..good() }), &["patches[1].key"]),
        invalid("no change", behind(patch(vec![], &[])), &["patches[1]", "changes nothing"]),
        invalid(
            "empty step",
            behind(patch(vec![("a..b", api::int(1))], &[])),
            &["patches[1].set", "step is empty"],
        ),
        invalid("long path", behind(patch(vec![], &[&long])), &["patches[1].unset", "256 bytes", "255"]),
        invalid(
            "path in path",
            behind(patch(vec![("a.b", api::int(1))], &["a"])),
            &["`a.b` lies within `a`"],
        ),
        invalid("257 paths", behind(many), &["258 paths", "256"]),
        invalid(
            "not a number",
            behind(patch(vec![("x", float(f64::NAN))], &[])),
            &["patches[1].set.x", "finite"],
        ),
        invalid("too deep", behind(patch(vec![("a", deep(40))], &[])), &["patches[1].set", "32"]),
        invalid("too large", behind(patch(vec![("a", text(1 << 20))], &[])), &["patches[1].set", "1048576"]),
        invalid("strange vector", behind(v1::Patch { vectors, ..good() }), &["patches[1].vectors[zz]"]),
        invalid("no filter", matching(None, good()), &["matching.filter", "needed"]),
        invalid(
            "filter without change",
            matching(Some(api::exists("n")), patch(vec![], &[])),
            &["changes nothing"],
        ),
    ]
}
