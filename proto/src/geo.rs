//! Points on the earth and what lies within a distance or between meridians and parallels, once for all: replicas apply a
//! delete by such a condition each on their own.
//!
//! **A point** is a map with the numbers `lat` and `lon` (whatever else it has), or a list of just two numbers, longitude first
//! as GeoJSON has it. A field may hold several points in a list; a list of two numbers is always one point, so it never
//! stands for two of anything. Latitudes go from -90 to 90, longitudes from -180 to 180, in degrees; the meridians -180 and 180 are
//! the same one, and 180 stands for both.
//!
//! **A distance** is that of the great circle between two points of a sphere with the earth's mean radius
//! ([`EARTH_RADIUS_M`]), by the haversine formula (Sinnott, "Virtues of the haversine", 1984): at most about 0.5 % off the distance
//! on the ellipsoid. **A box** lies between two parallels and from its left meridian eastwards to its right one, all of
//! them included; with its left greater than its right it crosses the meridian of 180 degrees. Longitudes count as they are written,
//! at the poles too.
//!
//! **To the last bit.** What is compared is made with additions, multiplications and divisions, and with the sine and cosine of
//! [`libm`], not of whichever system a replica runs on. No distance is ever worked out from the value that is compared.

use std::f64::consts::PI;
use std::ops::RangeInclusive;

use crate::record::{Payload, Value};

/// The earth's mean radius in metres: a third of twice the equatorial one and the polar one (IUGG).
pub const EARTH_RADIUS_M: f64 = 6_371_008.8;

/// Degrees by which a range that is to hold a circle is wider than the circle: about a metre, far more than rounding costs.
const MARGIN: f64 = 1e-5;

/// A point on the earth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point {
    lat: f64,
    lon: f64,
}

impl Point {
    /// The point of these degrees.
    ///
    /// # Errors
    /// Which of them is none.
    pub fn new(lat: f64, lon: f64) -> Result<Point, String> {
        check_degrees("latitude", lat, 90.0)?;
        check_degrees("longitude", lon, 180.0)?;
        // Neither -0 nor two names of one meridian.
        let lon = if lon == -180.0 { 180.0 } else { lon };
        Ok(Point { lat: lat + 0.0, lon: lon + 0.0 })
    }

    /// The point that a value is.
    fn of(value: &Value) -> Result<Point, String> {
        match value {
            Value::Map(fields) => {
                let degrees = |name: &str| {
                    let value = fields.get(name).ok_or_else(|| format!("`{name}` is missing{FORMS}"))?;
                    number(value)
                        .ok_or_else(|| format!("`{name}` is of type {}, no number", value.type_name()))
                };
                Point::new(degrees("lat")?, degrees("lon")?)
            }
            other => Err(format!("a value of type {} is no point{FORMS}", other.type_name())),
        }
    }

    /// Degrees north of the equator.
    pub fn lat(self) -> f64 {
        self.lat
    }

    /// Degrees east of Greenwich, above -180.
    pub fn lon(self) -> f64 {
        self.lon
    }

    /// Metres to another point, along the great circle.
    pub fn distance_m(self, other: Point) -> f64 {
        2.0 * EARTH_RADIUS_M * libm::asin(haversine(self, other).min(1.0).sqrt())
    }
}

/// What a point looks like.
const FORMS: &str = "; a point is {\"lat\": .., \"lon\": ..} or [lon, lat]";

fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Int(whole) => Some(*whole as f64),
        Value::Float(float) => Some(*float),
        _ => None,
    }
}

fn check_degrees(what: &str, degrees: f64, most: f64) -> Result<(), String> {
    // Written so that what is not a number is refused.
    if (-most..=most).contains(&degrees) {
        return Ok(());
    }
    Err(format!("the {what} must be -{most} to {most}, got {degrees}"))
}

fn radians(degrees: f64) -> f64 {
    degrees * (PI / 180.0)
}

/// The cosine of a latitude; 0 at the poles, which all meridians share.
fn cos_lat(lat: f64) -> f64 {
    if lat.abs() == 90.0 { 0.0 } else { libm::cos(radians(lat)) }
}

/// The square of the sine of half the angle between two points: grows as their distance does.
fn haversine(a: Point, b: Point) -> f64 {
    let apart = (a.lon - b.lon).abs();
    let apart = if apart > 180.0 { 360.0 - apart } else { apart };
    let north = libm::sin(radians(a.lat - b.lat) / 2.0);
    let east = libm::sin(radians(apart) / 2.0);
    north * north + cos_lat(a.lat) * cos_lat(b.lat) * (east * east)
}

/// Hands each point that the path reaches to `seen`, and why for whatever else that is not null; stops, returning true, as soon as
/// `seen` returns true. Steps as [`crate::record::reach`] does, but for a list of two numbers at the end, which is one point.
pub fn reach_points(
    payload: &Payload,
    path: &[String],
    seen: &mut impl FnMut(Result<Point, String>) -> bool,
) -> bool {
    match path.split_first() {
        Some((name, rest)) => payload.get(name).is_some_and(|value| descend(value, rest, seen)),
        None => false,
    }
}

fn descend(value: &Value, path: &[String], seen: &mut impl FnMut(Result<Point, String>) -> bool) -> bool {
    match (value, path.split_first()) {
        (Value::List(items), step) => match pair(items).filter(|_| step.is_none()) {
            Some((lon, lat)) => seen(Point::new(lat, lon)),
            None => items.iter().any(|item| descend(item, path, seen)),
        },
        (Value::Map(fields), Some((name, rest))) => {
            fields.get(name).is_some_and(|value| descend(value, rest, seen))
        }
        (Value::Null, _) | (_, Some(_)) => false,
        (value, None) => seen(Point::of(value)),
    }
}

/// The two numbers of a list that is a point.
fn pair(items: &[Value]) -> Option<(f64, f64)> {
    let [first, second] = items else { return None };
    Some((number(first)?, number(second)?))
}

/// An argument of a condition that is none: its name, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadArgument {
    /// Its name.
    pub name: &'static str,
    /// What is wrong.
    pub why: String,
}

/// Some of the earth's surface.
#[derive(Clone, Debug, PartialEq)]
pub enum Region {
    /// The points no farther from one than so many metres.
    Circle {
        /// The one.
        center: Point,
        /// The metres.
        radius_m: f64,
        /// The haversine of the radius.
        most: f64,
    },
    /// The points between two parallels and, eastwards, two meridians.
    Box {
        /// The northern parallel.
        top: f64,
        /// The western meridian.
        left: f64,
        /// The southern parallel.
        bottom: f64,
        /// The eastern meridian.
        right: f64,
    },
}

impl Region {
    /// The points no farther than `radius_m` metres from one.
    ///
    /// # Errors
    /// The first argument that is none.
    pub fn circle(lat: f64, lon: f64, radius_m: f64) -> Result<Region, BadArgument> {
        argument("lat", check_degrees("latitude", lat, 90.0))?;
        let center = argument("lon", Point::new(lat, lon))?;
        if !(radius_m.is_finite() && radius_m >= 0.0) {
            let why = format!("the radius must be 0 metres or more, got {radius_m}");
            return Err(BadArgument { name: "radius_m", why });
        }
        let angle = radius_m / EARTH_RADIUS_M;
        let half = libm::sin(angle / 2.0);
        let most = if angle >= PI { 1.0 } else { half * half };
        Ok(Region::Circle { center, radius_m, most })
    }

    /// The points from `top` to `bottom` and, eastwards, from `left` to `right`.
    ///
    /// # Errors
    /// The first argument that is none.
    pub fn rectangle(top: f64, left: f64, bottom: f64, right: f64) -> Result<Region, BadArgument> {
        argument("top", check_degrees("latitude", top, 90.0))?;
        argument("left", check_degrees("longitude", left, 180.0))?;
        argument("bottom", check_degrees("latitude", bottom, 90.0))?;
        argument("right", check_degrees("longitude", right, 180.0))?;
        if bottom > top {
            let why = format!("the bottom must not lie north of the top, {top}, got {bottom}");
            return Err(BadArgument { name: "bottom", why });
        }
        // No -0: a column does not take it for 0.
        let [top, left, bottom, right] = [top, left, bottom, right].map(|degrees| degrees + 0.0);
        Ok(Region::Box { top, left, bottom, right })
    }

    /// Whether a point lies in it.
    pub fn holds(&self, point: Point) -> bool {
        match self {
            Region::Circle { center, most, .. } => haversine(*center, point).min(1.0) <= *most,
            Region::Box { top, left, bottom, right } => {
                let is_between = (*bottom..=*top).contains(&point.lat);
                is_between && meridians(*left, *right).iter().any(|range| range.contains(&point.lon))
            }
        }
    }

    /// Latitudes that hold those of all its points.
    pub fn lat_range(&self) -> RangeInclusive<f64> {
        match self {
            Region::Circle { center, radius_m, .. } => {
                let reach = degrees_of(*radius_m);
                (center.lat - reach).max(-90.0)..=(center.lat + reach).min(90.0)
            }
            Region::Box { top, bottom, .. } => *bottom..=*top,
        }
    }

    /// Longitudes that hold those of all its points.
    pub fn lon_ranges(&self) -> Vec<RangeInclusive<f64>> {
        match self {
            Region::Circle { center, radius_m, .. } => around(*center, degrees_of(*radius_m)),
            Region::Box { left, right, .. } => meridians(*left, *right),
        }
    }
}

fn argument<T>(name: &'static str, checked: Result<T, String>) -> Result<T, BadArgument> {
    checked.map_err(|why| BadArgument { name, why })
}

/// The angle of so many metres, and a little more.
fn degrees_of(radius_m: f64) -> f64 {
    (radius_m / EARTH_RADIUS_M).min(PI) * (180.0 / PI) + MARGIN
}

/// All longitudes from one eastwards to another.
fn meridians(left: f64, right: f64) -> Vec<RangeInclusive<f64>> {
    match left <= right {
        // Of points on the meridian of 180 degrees.
        true if left == -180.0 => vec![left..=right, 180.0..=180.0],
        true => vec![left..=right],
        false => vec![left..=180.0, -180.0..=right],
    }
}

/// Longitudes that hold a circle of so many degrees: all of them where it holds a pole.
fn around(center: Point, reach: f64) -> Vec<RangeInclusive<f64>> {
    let all = vec![-180.0..=180.0];
    if center.lat.abs() + reach >= 90.0 {
        return all;
    }
    let east = libm::asin((libm::sin(radians(reach)) / cos_lat(center.lat)).min(1.0)) * (180.0 / PI) + MARGIN;
    let (from, to) = (center.lon - east, center.lon + east);
    match (from <= -180.0, to >= 180.0) {
        (true, true) => all,
        (true, false) => vec![-180.0..=to, (from + 360.0).min(180.0)..=180.0],
        (false, true) => vec![from..=180.0, -180.0..=(to - 360.0).max(-180.0)],
        (false, false) => vec![from..=to],
    }
}

#[cfg(test)]
mod tests;
