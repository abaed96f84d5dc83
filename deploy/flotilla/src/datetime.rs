//! Points in time as RFC 3339 text, which is how payloads carry them; and spans of time as a user types them.

use std::time::Duration;

use flotilla_proto::limits::TTL_MS_MAX;

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// Text of a number of microseconds since 1970, in UTC: `2026-01-31T07:08:09Z`, with a fraction only where there is
/// one. `None` outside the years 0 to 9999, which RFC 3339 cannot tell.
pub fn rfc3339(micros: i64) -> Option<String> {
    let (days, rest) = (micros.div_euclid(DAY), micros.rem_euclid(DAY));
    let (year, month, day) = date(days);
    if !(0..=9999).contains(&year) {
        return None;
    }
    let (seconds, fraction) = (rest / SECOND, rest % SECOND);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let fraction = match (fraction, fraction % 1_000) {
        (0, _) => String::new(),
        (_, 0) => format!(".{:03}", fraction / 1_000),
        _ => format!(".{fraction:06}"),
    };
    Some(format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"))
}

/// Year, month and day of a number of days since 1970-01-01, in the proleptic Gregorian calendar. Counts from
/// 0000-03-01, so that a leap day ends its year, in eras of 400 years.
fn date(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// A span of time: a whole number and a unit, `s`, `m`, `h`, `d` or `w`. Usable as a clap value parser.
pub fn span(word: &str) -> Result<Duration, String> {
    let units = [('s', 1), ('m', 60), ('h', 3_600), ('d', 86_400), ('w', 604_800)];
    let unit = units.iter().find(|(unit, _)| word.ends_with(*unit));
    let number =
        unit.and_then(|(unit, _)| word.strip_suffix(*unit)).and_then(|digits| digits.parse::<u64>().ok());
    let (Some((_, seconds)), Some(number)) = (unit, number) else {
        return Err(format!("`{word}` is no span of time: a whole number and s, m, h, d or w, such as 30d"));
    };
    let span = number.checked_mul(*seconds).filter(|span| (1..=TTL_MS_MAX / 1_000).contains(span));
    span.map(Duration::from_secs)
        .ok_or_else(|| format!("`{word}` must be 1s to {}d", TTL_MS_MAX / 86_400_000))
}

#[cfg(test)]
mod tests {
    use flotilla_proto::record::Value;
    use flotilla_proto::schema::datetime_micros;

    use super::*;

    #[test]
    fn known_instants() {
        for (micros, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (-1, "1969-12-31T23:59:59.999999Z"),
            (951_782_400 * SECOND, "2000-02-29T00:00:00Z"),
            (1_767_225_599_500_000, "2025-12-31T23:59:59.500Z"),
        ] {
            assert_eq!(rfc3339(micros).as_deref(), Some(text));
        }
        assert_eq!(rfc3339(i64::MAX), None);
        assert_eq!(rfc3339(i64::MIN), None);
    }

    #[test]
    fn spans_have_a_number_and_a_unit() {
        for (word, seconds) in
            [("45s", 45), ("90m", 5_400), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600)]
        {
            assert_eq!(span(word), Ok(Duration::from_secs(seconds)));
        }
        for word in ["", "30", "d", "-1d", "1.5h", "0s", "1 d", "5é", "36526d", "99999999999999999999w"] {
            assert!(span(word).is_err(), "{word}");
        }
    }

    #[test]
    fn the_schema_reads_back_what_is_written() {
        for step in -700..700 {
            let micros = step * 31 * DAY + step * 1_234_567;
            let text = rfc3339(micros).unwrap();
            assert_eq!(datetime_micros(&Value::Text(text)), Some(micros));
        }
    }
}
