//! Values of the types that have more than one spelling, and what is none of them.

use flotilla_proto::filter::Filter;
use flotilla_proto::record::{Payload, Value};
use proptest::prelude::*;
use proptest::sample::select;

/// Few UUIDs, each in several spellings.
pub(super) fn uuid() -> impl Strategy<Value = Value> {
    let id = select(vec![0, 1, 2, 0x0191_d2a4_7b3c_7def_8abc_0123_4567_89ab_u128, u128::MAX]);
    (id, 0..6).prop_map(|(id, form)| {
        let plain = format!("{id:032x}");
        let hyphened = [&plain[..8], &plain[8..12], &plain[12..16], &plain[16..20], &plain[20..]].join("-");
        Value::from(match form {
            0 => plain,
            1 => plain.to_uppercase(),
            2 => hyphened.to_uppercase(),
            3 => format!("{{{hyphened}}}"),
            4 => format!("URN:uuid:{hyphened}"),
            _ => hyphened,
        })
    })
}

/// What looks like a UUID and is none.
pub(super) fn no_uuid() -> impl Strategy<Value = Value> {
    let texts = vec![
        "",
        "0191d2a4",
        "{00000000-0000-0000-0000-000000000000",
        "0000000000000000000000000000000g",
        "urn:uuid:",
    ];
    prop_oneof![select(texts).prop_map(Value::from), Just(7.into()), Just(true.into())]
}

fn degrees(most: i32) -> impl Strategy<Value = f64> {
    let edges = vec![f64::from(-most), f64::from(most), -0.0, 0.0, f64::from(most) - 1e-9];
    prop_oneof![
        3 => (-most..=most).prop_map(f64::from),
        1 => select(edges),
        1 => (-most * 10..=most * 10).prop_map(|tenth| f64::from(tenth) / 10.0),
    ]
}

fn pair(lat: f64, lon: f64, is_map: bool) -> Value {
    // Whole degrees stand as integers.
    let number = |degrees: f64| match degrees.fract() == 0.0 {
        true => Value::Int(degrees as i64),
        false => Value::Float(degrees),
    };
    match is_map {
        true => Value::Map(Payload::from([("lat".into(), number(lat)), ("lon".into(), number(lon))])),
        false => Value::List(vec![number(lon), number(lat)]),
    }
}

/// Points in both forms, at the poles and on the meridian of 180 degrees too.
pub(super) fn point() -> impl Strategy<Value = Value> {
    (degrees(90), degrees(180), any::<bool>()).prop_map(|(lat, lon, is_map)| pair(lat, lon, is_map))
}

/// What looks like a point and is none.
pub(super) fn no_point() -> impl Strategy<Value = Value> {
    let map = |lat: Value, lon: Value| Value::Map(Payload::from([("lat".into(), lat), ("lon".into(), lon)]));
    select(vec![
        map(91.into(), 0.into()),
        map(0.into(), (-180.5).into()),
        map("1".into(), 0.into()),
        map(Value::Null, 0.into()),
        Value::Map(Payload::from([("lat".into(), 1.into())])),
        Value::List(vec![0.into(), 91.into()]),
        Value::List(vec![0.into()]),
        Value::List(vec![0.into(), 1.into(), 2.into()]),
        Value::List(vec![0.into(), Value::Null]),
        7.into(),
        "0,0".into(),
    ])
}

/// Regions near points, around poles and across the meridian of 180 degrees.
pub(super) fn region(path: String) -> impl Strategy<Value = Filter> {
    let radius = prop_oneof![select(vec![0.0, 1.0, 111_195.1, 2e6, 1.0e7, 20_015_114.0, 3e7]), 0.0..2e7_f64,];
    let (field, same) = (Just(path.clone()), Just(path));
    prop_oneof![
        (field, degrees(90), degrees(180), radius).prop_map(|(field, lat, lon, radius_m)| Filter::Within {
            field,
            lat,
            lon,
            radius_m
        }),
        (same, degrees(90), degrees(180), degrees(90), degrees(180)).prop_map(
            |(field, one, left, other, right)| {
                let (top, bottom) = (one.max(other), one.min(other));
                Filter::WithinBox { field, top, left, bottom, right }
            }
        ),
    ]
}
