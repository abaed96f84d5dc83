//! Points, as a column of latitudes and one of longitudes.
//!
//! The index finds the rows with a latitude and a longitude that the region may have. Of a row with one point the columns hold
//! that point to the last bit, and it is held against the region as any other; of a row with several they do not tell which
//! longitude belongs to which latitude, so its payload decides.

use flotilla_proto::geo::{Point, Region};
use tantivy::fastfield::Column;

use super::numbers::{Wanted, scan};
use crate::index::Bitset;

/// The points of a field; no columns: no row has one.
pub(super) struct Points {
    pub(super) lat: Option<Column<f64>>,
    pub(super) lon: Option<Column<f64>>,
}

impl Points {
    /// The rows with a point of the region: those that surely have one, and with them those that may.
    pub(super) fn within(&self, region: &Region, rows: u32) -> (Bitset, Bitset) {
        let none = || Bitset::new(rows as usize);
        let (Some(lat), Some(lon)) = (&self.lat, &self.lon) else { return (none(), none()) };
        let (mut near, mut aside) = (none(), none());
        scan(lat, &Wanted::Range(region.lat_range()), rows, &mut near);
        for range in region.lon_ranges() {
            scan(lon, &Wanted::Range(range), rows, &mut aside);
        }
        near.and(&aside);
        let (mut sure, mut several) = (none(), none());
        for row in near.iter() {
            match (only(lat, row), only(lon, row)) {
                (Some(lat), Some(lon)) if Point::new(lat, lon).is_ok_and(|point| region.holds(point)) => {
                    sure.insert(row);
                }
                (Some(_), Some(_)) => {}
                _ => {
                    several.insert(row);
                }
            }
        }
        several.or(&sure);
        (sure, several)
    }
}

/// The value of a row that has just one.
fn only(column: &Column<f64>, row: u32) -> Option<f64> {
    let mut values = column.values_for_doc(row);
    let first = values.next()?;
    values.next().is_none().then_some(first)
}
