use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;

use super::*;

fn point(lat: f64, lon: f64) -> Point {
    Point::new(lat, lon).unwrap()
}

fn payload(value: Value) -> Payload {
    Payload::from([("at".to_owned(), value)])
}

fn map(lat: impl Into<Value>, lon: impl Into<Value>) -> Value {
    Value::Map(Payload::from([("lat".to_owned(), lat.into()), ("lon".to_owned(), lon.into())]))
}

/// The points of a value, and how many things are none.
fn points(value: Value) -> (Vec<(f64, f64)>, usize) {
    let (mut points, mut others) = (Vec::new(), 0);
    reach_points(&payload(value), &["at".to_owned()], &mut |point| {
        match point {
            Ok(point) => points.push((point.lat(), point.lon())),
            Err(_) => others += 1,
        }
        false
    });
    (points, others)
}

#[test]
fn a_point_is_a_map_or_two_numbers_longitude_first() {
    let list = |items: Vec<Value>| Value::List(items);
    for (value, expected, others) in [
        (map(52.5, 13.4), vec![(52.5, 13.4)], 0),
        (map(52, -13), vec![(52.0, -13.0)], 0),
        (list(vec![13.4.into(), 52.5.into()]), vec![(52.5, 13.4)], 0),
        (list(vec![13.into(), 52.5.into()]), vec![(52.5, 13.0)], 0),
        (list(vec![map(1, 2), Value::Null, map(3, 4)]), vec![(1.0, 2.0), (3.0, 4.0)], 0),
        (list(vec![list(vec![2.into(), 1.into()]), map(3, 4)]), vec![(1.0, 2.0), (3.0, 4.0)], 0),
        (list(vec![list(vec![list(vec![2.into(), 1.into()])])]), vec![(1.0, 2.0)], 0),
        (list(vec![]), vec![], 0),
        (Value::Null, vec![], 0),
        (map(90, -180), vec![(90.0, 180.0)], 0),
        (map(-0.0, -0.0), vec![(0.0, 0.0)], 0),
        // What is none.
        (map(90.5, 0), vec![], 1),
        (map(0, -180.5), vec![], 1),
        (map(f64::NAN, 0), vec![], 1),
        (map(0, f64::INFINITY), vec![], 1),
        (map("52", 13), vec![], 1),
        (map(Value::Null, 13), vec![], 1),
        (list(vec![13.4.into(), 91.into()]), vec![], 1),
        (list(vec![13.4.into()]), vec![], 1),
        (list(vec![13.4.into(), 52.5.into(), 30.into()]), vec![], 3),
        (list(vec![13.4.into(), Value::Null]), vec![], 1),
        (Value::Map(Payload::new()), vec![], 1),
        ("52.5,13.4".into(), vec![], 1),
        (7.into(), vec![], 1),
        (true.into(), vec![], 1),
    ] {
        assert_eq!(points(value.clone()), (expected, others), "{value:?}");
    }
    assert!(points(map(-0.0, 0)).0[0].0.is_sign_positive());
}

#[test]
fn what_is_no_point_is_told() {
    let why = |value: Value| {
        let mut told = String::new();
        reach_points(&payload(value), &["at".to_owned()], &mut |point| {
            told = point.expect_err("no point");
            true
        });
        told
    };
    assert_eq!(why(map(91, 0)), "the latitude must be -90 to 90, got 91");
    assert_eq!(why(map(0, -181.5)), "the longitude must be -180 to 180, got -181.5");
    assert_eq!(why(map("x", 0)), "`lat` is of type text, no number");
    assert!(
        why(Value::Map(Payload::new())).starts_with("`lat` is missing; a point is {\"lat\": .., \"lon\"")
    );
    assert!(why(7.into()).starts_with("a value of type integer is no point; a point is"));
}

#[test]
fn a_path_leads_through_maps_and_lists_to_points() {
    let offices = Value::List(vec![
        Value::Map(Payload::from([("at".to_owned(), Value::List(vec![2.into(), 1.into()]))])),
        Value::Map(Payload::from([("at".to_owned(), map(3, 4))])),
        7.into(),
    ]);
    let payload = Payload::from([("offices".to_owned(), offices)]);
    let mut found = Vec::new();
    reach_points(&payload, &["offices".to_owned(), "at".to_owned()], &mut |point| {
        found.extend(point.map(|point| (point.lat(), point.lon())));
        false
    });
    assert_eq!(found, [(1.0, 2.0), (3.0, 4.0)]);
}

#[test]
fn distances_are_those_of_great_circles() {
    let degree = EARTH_RADIUS_M * PI / 180.0;
    let berlin = point(52.52, 13.405);
    for (a, b, expected) in [
        (point(0.0, 0.0), point(0.0, 1.0), degree),
        (point(0.0, 0.0), point(1.0, 0.0), degree),
        (point(0.0, 179.5), point(0.0, -179.5), degree),
        (point(60.0, 0.0), point(60.0, 180.0), 60.0 * degree),
        (point(90.0, 10.0), point(90.0, -120.0), 0.0),
        (point(90.0, 0.0), point(-90.0, 77.0), 180.0 * degree),
        (point(0.0, 0.0), point(0.0, 180.0), 180.0 * degree),
        (point(10.0, -180.0), point(10.0, 180.0), 0.0),
        (berlin, berlin, 0.0),
        // Berlin to Paris.
        (berlin, point(48.8566, 2.3522), 877_464.6),
    ] {
        let found = a.distance_m(b);
        assert!((found - expected).abs() < 1.0, "{a:?} {b:?} {found} {expected}");
        assert_eq!(found.to_bits(), b.distance_m(a).to_bits());
    }
}

#[test]
fn circles_hold_what_is_near_enough() {
    let circle = |lat, lon, radius| Region::circle(lat, lon, radius).unwrap();
    assert!(circle(52.52, 13.405, 0.0).holds(point(52.52, 13.405)));
    assert!(!circle(52.52, 13.405, 0.0).holds(point(52.52, 13.406)));
    assert!(circle(0.0, 180.0, 0.0).holds(point(0.0, -180.0)));
    assert!(circle(90.0, 0.0, 0.0).holds(point(90.0, 123.0)));
    assert!(circle(0.0, 179.9, 30_000.0).holds(point(0.0, -179.9)));
    assert!(!circle(0.0, 179.9, 20_000.0).holds(point(0.0, -179.9)));
    assert!(circle(89.9, 0.0, 30_000.0).holds(point(89.9, 180.0)));
    for radius in [20_015_115.0, 1e300] {
        assert!(circle(-33.0, 20.0, radius).holds(point(33.0, -160.0)), "{radius}");
    }
}

#[test]
fn boxes_go_eastwards_and_hold_their_edges() {
    let holds = |(top, left, bottom, right): (f64, f64, f64, f64), lat, lon| {
        Region::rectangle(top, left, bottom, right).unwrap().holds(point(lat, lon))
    };
    let (europe, pacific) = ((60.0, -10.0, 35.0, 30.0), (10.0, 170.0, -10.0, -170.0));
    for (lat, lon, expected) in
        [(50.0, 0.0, true), (60.0, -10.0, true), (35.0, 30.0, true), (61.0, 0.0, false)]
    {
        assert_eq!(holds(europe, lat, lon), expected, "{lat} {lon}");
    }
    for (lon, expected) in
        [(175.0, true), (180.0, true), (-180.0, true), (-170.0, true), (170.0, true), (0.0, false)]
    {
        assert_eq!(holds(pacific, 0.0, lon), expected, "{lon}");
    }
    for lon in [-180.0, 180.0, 0.0, 77.0] {
        assert!(holds((90.0, -180.0, -90.0, 180.0), 90.0, lon));
    }
    assert!(holds((1.0, -180.0, -1.0, -170.0), 0.0, 180.0));
    assert!(holds((1.0, 170.0, -1.0, 180.0), 0.0, -180.0));
    assert!(holds((1.0, 180.0, -1.0, -180.0), 0.0, 180.0));
    assert!(!holds((1.0, 180.0, -1.0, -180.0), 0.0, 179.0));
}

#[test]
fn arguments_that_are_none_are_named() {
    let circle = |lat, lon, radius| Region::circle(lat, lon, radius).unwrap_err();
    let rectangle = |top, left, bottom, right| Region::rectangle(top, left, bottom, right).unwrap_err();
    for (bad, name, why) in [
        (circle(91.0, 0.0, 1.0), "lat", "the latitude must be -90 to 90, got 91"),
        (circle(f64::NAN, 0.0, 1.0), "lat", "got NaN"),
        (circle(0.0, 181.0, 1.0), "lon", "the longitude must be -180 to 180, got 181"),
        (circle(0.0, 0.0, -1.0), "radius_m", "the radius must be 0 metres or more, got -1"),
        (circle(0.0, 0.0, f64::INFINITY), "radius_m", "got inf"),
        (rectangle(-91.0, 0.0, 0.0, 0.0), "top", "got -91"),
        (rectangle(1.0, -181.0, 0.0, 0.0), "left", "got -181"),
        (rectangle(1.0, 0.0, 2.0, 0.0), "bottom", "must not lie north of the top, 1, got 2"),
        (rectangle(1.0, 0.0, f64::NEG_INFINITY, 0.0), "bottom", "got -inf"),
        (rectangle(1.0, 0.0, 0.0, f64::NAN), "right", "got NaN"),
    ] {
        assert!(bad.name == name && bad.why.contains(why), "{bad:?} is not {name}: {why}");
    }
}

fn degrees(most: i32) -> impl Strategy<Value = f64> {
    let edges = vec![-f64::from(most), f64::from(most), 0.0, 1e-7, f64::from(most) - 1e-9];
    prop_oneof![
        4 => (-most * 1_000..=most * 1_000).prop_map(|milli| f64::from(milli) / 1_000.0),
        2 => select(edges),
    ]
}

fn radius() -> impl Strategy<Value = f64> {
    prop_oneof![
        2 => select(vec![0.0, 1.0, 1e3, 1e6, 10_007_543.0, 20_015_000.0, 20_015_115.0, 1e9]),
        3 => 0.0..2.1e7_f64,
        2 => 0.0..1e5_f64,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x67_656f),
        ..ProptestConfig::default()
    })]

    /// What an index looks at holds all that passes, near the poles and the date line too.
    #[test]
    fn the_ranges_of_a_region_hold_its_points(
        (lat, lon, radius) in (degrees(90), degrees(180), radius()),
        (north, east, far) in (-1.0..1.0_f64, -1.0..1.0_f64, any::<bool>()),
        (top, left, bottom, right) in (degrees(90), degrees(180), degrees(90), degrees(180)),
    ) {
        // Near the edge of the circle, as a rule.
        let reach = radius / EARTH_RADIUS_M * 180.0 / PI;
        let near = (lat + north * reach).clamp(-90.0, 90.0);
        let aside = (lon + east * reach * if far { 4.0 } else { 1.0 } + 540.0).rem_euclid(360.0) - 180.0;
        let other = point(near, aside.clamp(-180.0, 180.0));
        let (top, bottom) = (top.max(bottom), top.min(bottom));
        for region in [
            Region::circle(lat, lon, radius).unwrap(),
            Region::rectangle(top, left, bottom, right).unwrap(),
        ] {
            for point in [other, point(top, left), point(bottom, right), point(lat, lon)] {
                if region.holds(point) {
                    prop_assert!(region.lat_range().contains(&point.lat()), "{region:?} {point:?}");
                    let ranges = region.lon_ranges();
                    prop_assert!(
                        ranges.iter().any(|range| range.contains(&point.lon())),
                        "{region:?} {point:?} {ranges:?}"
                    );
                }
            }
        }
    }

    /// The haversine says what the distance says, but for rounding.
    #[test]
    fn a_circle_holds_what_is_no_farther(a in (degrees(90), degrees(180)), b in (degrees(90), degrees(180)), radius in radius()) {
        let (a, b) = (point(a.0, a.1), point(b.0, b.1));
        let away = a.distance_m(b);
        // Around the other end of the earth half a metre is less than the haversine can tell.
        if (away - radius).abs() > 1.0 {
            let circle = Region::circle(a.lat(), a.lon(), radius).unwrap();
            prop_assert_eq!(circle.holds(b), away < radius, "{} {}", away, radius);
        }
    }
}
