//! Conditions on records, to be combined: `eq("cpu", 4).and(exists("owner"))`.
//!
//! A condition on a field holds if any value that the dotted path reaches satisfies it; nulls and missing fields satisfy
//! none. Or read from text: `parse("cpu = 4 and exists owner")?`, see [`text`].

pub use flotilla_proto::filter::text::{self, SyntaxError, parse};
pub use flotilla_proto::filter::{Bounds, Filter};
use flotilla_proto::record::{Key, Value};

/// A value equals `value`.
pub fn eq(field: &str, value: impl Into<Value>) -> Filter {
    Filter::Equal(field.to_owned(), value.into())
}

/// A value equals one of `values`.
pub fn any_of<V: Into<Value>>(field: &str, values: impl IntoIterator<Item = V>) -> Filter {
    Filter::In(field.to_owned(), values.into_iter().map(Into::into).collect())
}

/// A value is greater than `value`.
pub fn gt(field: &str, value: impl Into<Value>) -> Filter {
    Filter::Range(field.to_owned(), Bounds { gt: Some(value.into()), ..Bounds::default() })
}

/// A value is greater than `value` or equal.
pub fn gte(field: &str, value: impl Into<Value>) -> Filter {
    Filter::Range(field.to_owned(), Bounds { gte: Some(value.into()), ..Bounds::default() })
}

/// A value is less than `value`.
pub fn lt(field: &str, value: impl Into<Value>) -> Filter {
    Filter::Range(field.to_owned(), Bounds { lt: Some(value.into()), ..Bounds::default() })
}

/// A value is less than `value` or equal.
pub fn lte(field: &str, value: impl Into<Value>) -> Filter {
    Filter::Range(field.to_owned(), Bounds { lte: Some(value.into()), ..Bounds::default() })
}

/// A value lies from `from` (included) to `to` (not included).
pub fn between(field: &str, from: impl Into<Value>, to: impl Into<Value>) -> Filter {
    let bounds = Bounds { gte: Some(from.into()), lt: Some(to.into()), ..Bounds::default() };
    Filter::Range(field.to_owned(), bounds)
}

/// A text value starts with `prefix`.
pub fn prefix(field: &str, prefix: &str) -> Filter {
    Filter::Prefix(field.to_owned(), prefix.to_owned())
}

/// A text value is, as a whole, what the pattern says: `*` is any run of characters, `?` one, `\*` and `\?` are themselves.
pub fn glob(field: &str, pattern: &str) -> Filter {
    Filter::Glob(field.to_owned(), pattern.to_owned())
}

/// A text value holds all words of `query`, in whatever order.
pub fn matches(field: &str, query: &str) -> Filter {
    Filter::Match { field: field.to_owned(), query: query.to_owned(), any: false }
}

/// A text value holds one of the words of `query`, or several.
pub fn matches_any(field: &str, query: &str) -> Filter {
    Filter::Match { field: field.to_owned(), query: query.to_owned(), any: true }
}

/// A text value holds the words of `query` in a row.
pub fn phrase(field: &str, query: &str) -> Filter {
    Filter::Phrase(field.to_owned(), query.to_owned())
}

/// A point is no farther from this one than so many metres.
pub fn within(field: &str, lat: f64, lon: f64, radius_m: f64) -> Filter {
    Filter::Within { field: field.to_owned(), lat, lon, radius_m }
}

/// A point lies from `top` to `bottom` and eastwards from `left` to `right`, which may lie beyond the meridian of 180 degrees.
pub fn within_box(field: &str, top: f64, left: f64, bottom: f64, right: f64) -> Filter {
    Filter::WithinBox { field: field.to_owned(), top, left, bottom, right }
}

/// There is a value that is not null.
pub fn exists(field: &str) -> Filter {
    Filter::Exists(field.to_owned())
}

/// The record's key is one of these.
pub fn keys<K: Into<Key>>(keys: impl IntoIterator<Item = K>) -> Filter {
    Filter::Keys(keys.into_iter().map(Into::into).collect())
}

/// Conditions put together.
pub trait Combine: Sized {
    /// Both hold.
    fn and(self, other: Filter) -> Filter;
    /// One of them holds, or both.
    fn or(self, other: Filter) -> Filter;
    /// It does not hold.
    fn negate(self) -> Filter;
}

impl Combine for Filter {
    fn and(self, other: Filter) -> Filter {
        match self {
            Filter::All(mut parts) => {
                parts.push(other);
                Filter::All(parts)
            }
            first => Filter::All(vec![first, other]),
        }
    }

    fn or(self, other: Filter) -> Filter {
        match self {
            Filter::Any(mut parts) => {
                parts.push(other);
                Filter::Any(parts)
            }
            first => Filter::Any(vec![first, other]),
        }
    }

    fn negate(self) -> Filter {
        Filter::Not(Box::new(self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_ands_stays_flat() {
        let filter = eq("a", 1).and(exists("b")).and(prefix("c", "x").negate());
        let Filter::All(parts) = filter else { panic!("not all: {filter:?}") };
        assert_eq!(parts.len(), 3);
        assert_eq!(parts[0], Filter::Equal("a".into(), Value::Int(1)));
    }

    #[test]
    fn a_text_is_the_filter_that_is_built() {
        let built = eq("a", 1).and(glob("b", "x*y").or(exists("c")).negate());
        assert_eq!(parse(r#"a = 1 and not (b ~ "x*y" or exists c)"#), Ok(built));
        let built = matches("t", "disk full").and(matches_any("t", "raid zfs").or(phrase("t", "no space")));
        let text = r#"t match "disk full" and (t match any "raid zfs" or t phrase "no space")"#;
        assert_eq!(parse(text), Ok(built));
        let built = within("at", 52.5, 13.4, 1e3).or(within_box("at", 10.0, 170.0, -10.0, -170.0).negate());
        let text = "within(at, 52.5, 13.4, 1000) or not within_box(at, 10, 170, -10, -170)";
        assert_eq!(parse(text), Ok(built));
    }
}
