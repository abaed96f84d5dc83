//! Days, weeks, months, quarters and years of the proleptic Gregorian calendar, for all points in time of 64 bits of
//! microseconds. The way from days to dates and back is Howard Hinnant's ("chrono-compatible low-level date algorithms",
//! 2013).

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;

/// What the calendar is cut by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A day.
    Day,
    /// Seven days, from Monday.
    Week,
    /// A month.
    Month,
    /// Three months.
    Quarter,
    /// A year.
    Year,
}

/// How points in time are cut into intervals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steps {
    /// A unit, or so many microseconds.
    pub step: Result<Unit, i64>,
    /// Where days begin: microseconds east of UTC.
    pub offset: i64,
}

impl Steps {
    /// Where the interval begins that holds `micros`; the least point in time where that is before it.
    pub fn begin(&self, micros: i64) -> i64 {
        let local = micros.saturating_add(self.offset);
        let begin = match self.step {
            Err(width) => local.div_euclid(width.max(1)).saturating_mul(width.max(1)),
            Ok(unit) => first_day(unit, local.div_euclid(DAY)).saturating_mul(DAY),
        };
        begin.saturating_sub(self.offset)
    }

    /// Where the interval after the one that begins at `begin` begins; `None` where time ends.
    pub fn next(&self, begin: i64) -> Option<i64> {
        let local = begin.checked_add(self.offset)?;
        let next = match self.step {
            Err(width) => local.checked_add(width.max(1))?,
            Ok(unit) => day_after(unit, local.div_euclid(DAY)).checked_mul(DAY)?,
        };
        next.checked_sub(self.offset)
    }
}

/// The first day (since 1970-01-01) of the unit that holds the day.
fn first_day(unit: Unit, day: i64) -> i64 {
    match unit {
        Unit::Day => day,
        // 1970-01-01 was a Thursday.
        Unit::Week => day - (day + 3).rem_euclid(7),
        Unit::Month | Unit::Quarter | Unit::Year => {
            let (year, month) = year_month(day);
            let month = match unit {
                Unit::Quarter => (month - 1) / 3 * 3 + 1,
                Unit::Year => 1,
                _ => month,
            };
            first_of(year, month)
        }
    }
}

/// The first day behind the unit that begins on this one.
fn day_after(unit: Unit, day: i64) -> i64 {
    let months = match unit {
        Unit::Day => return day + 1,
        Unit::Week => return day + 7,
        Unit::Month => 1,
        Unit::Quarter => 3,
        Unit::Year => 12,
    };
    let (year, month) = year_month(day);
    let month = month - 1 + months;
    first_of(year + month / 12, month % 12 + 1)
}

/// The year and the month, 1 to 12, of a day.
fn year_month(day: i64) -> (i64, i64) {
    let shifted = day + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month)
}

/// The first day of a month.
fn first_of(year: i64, month: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::Value;
    use crate::schema::datetime_micros;

    fn micros(text: &str) -> i64 {
        datetime_micros(&Value::from(text)).unwrap()
    }

    fn begin(step: Result<Unit, i64>, offset_minutes: i64, at: &str) -> i64 {
        Steps { step, offset: offset_minutes * 60_000_000 }.begin(micros(at))
    }

    #[test]
    fn units_begin_where_the_calendar_says() {
        let at = "2024-02-29T13:14:15.5Z";
        assert_eq!(begin(Ok(Unit::Day), 0, at), micros("2024-02-29T00:00:00Z"));
        assert_eq!(begin(Ok(Unit::Week), 0, at), micros("2024-02-26T00:00:00Z"));
        assert_eq!(begin(Ok(Unit::Month), 0, at), micros("2024-02-01T00:00:00Z"));
        assert_eq!(begin(Ok(Unit::Quarter), 0, at), micros("2024-01-01T00:00:00Z"));
        assert_eq!(begin(Ok(Unit::Year), 0, at), micros("2024-01-01T00:00:00Z"));
        assert_eq!(begin(Err(3_600_000_000), 0, at), micros("2024-02-29T13:00:00Z"));
        assert_eq!(begin(Ok(Unit::Year), 0, "1969-12-31T23:59:59Z"), micros("1969-01-01T00:00:00Z"));
    }

    #[test]
    fn days_begin_at_midnight_there() {
        assert_eq!(begin(Ok(Unit::Day), 120, "2024-03-01T22:30:00Z"), micros("2024-03-01T22:00:00Z"));
        assert_eq!(begin(Ok(Unit::Month), 120, "2024-02-29T22:30:00Z"), micros("2024-02-29T22:00:00Z"));
        assert_eq!(begin(Ok(Unit::Day), -300, "2024-03-01T04:00:00Z"), micros("2024-02-29T05:00:00Z"));
    }

    proptest! {
        #[test]
        fn every_point_in_time_lies_in_its_interval(at in any::<i64>(), offset in -1_080i64..1_080) {
            for step in [Ok(Unit::Day), Ok(Unit::Week), Ok(Unit::Month), Ok(Unit::Quarter), Ok(Unit::Year), Err(7)] {
                let steps = Steps { step, offset: offset * 60_000_000 };
                let begin = steps.begin(at);
                let near_an_end = !(i64::MIN / 2..i64::MAX / 2).contains(&at);
                prop_assert!(near_an_end || begin <= at && at - begin < 367 * DAY);
                prop_assert!(near_an_end || steps.begin(begin) == begin);
                let Some(next) = steps.next(begin).filter(|_| !near_an_end) else { continue };
                prop_assert!(next > at && steps.begin(next) == next && steps.begin(next - 1) == begin);
            }
        }

        #[test]
        fn months_are_those_of_the_calendar(day in -1_000_000i64..1_000_000) {
            let date = time::Date::from_julian_day(i32::try_from(day + 2_440_588).unwrap()).unwrap();
            prop_assert_eq!(year_month(day), (i64::from(date.year()), i64::from(u8::from(date.month()))));
            let first = date.replace_day(1).unwrap();
            prop_assert_eq!(first_day(Unit::Month, day), i64::from(first.to_julian_day()) - 2_440_588);
        }
    }
}
