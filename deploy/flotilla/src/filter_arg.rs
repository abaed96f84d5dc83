//! A filter on the command line, in either form: text, or JSON where it begins with a brace. What either means stands with
//! its parser: [`flotilla_proto::filter::text`] and [`filter_json`].

use std::fmt;

use flotilla_proto::filter::Filter;
use flotilla_proto::filter::text::{self, SyntaxError};

use crate::filter_json::{self, BadFilter};

/// Why a filter was not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    /// It is JSON, and wrong.
    Json(BadFilter),
    /// It is text, and wrong.
    Text {
        /// What is wrong.
        why: SyntaxError,
        /// The line, and a caret below the place.
        picture: String,
    },
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unread::Json(why) => why.fmt(f),
            Unread::Text { why, picture } => {
                write!(f, "{why}")?;
                picture.lines().try_for_each(|line| write!(f, "\n  {line}"))
            }
        }
    }
}

impl std::error::Error for Unread {}

/// Reads a filter. Usable as a clap value parser.
pub fn parse(argument: &str) -> Result<Filter, Unread> {
    if argument.trim_start().starts_with('{') {
        return filter_json::parse(argument).map_err(Unread::Json);
    }
    text::parse(argument).map_err(|why| {
        let picture = why.picture(argument);
        Unread::Text { why, picture }
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn both_forms_say_the_same() {
        for (text, json) in [
            ("on = true", r#"{"on": true}"#),
            ("a = 1 and b in ('x', 2.5)", r#"{"a": 1, "b": {"in": ["x", 2.5]}}"#),
            ("8 <= cpu < 64", r#" {"cpu": {"gte": 8, "lt": 64}}"#),
            (
                "name ~ 'web*' or owner is null",
                r#"{"or": [{"name": {"prefix": "web"}}, {"not": {"exists": "owner"}}]}"#,
            ),
            ("name ~ '*web'", r#"{"name": {"glob": "*web"}}"#),
            ("key in (1, 'a')", r#"{"keys": [1, "a"]}"#),
            ("true", "{}"),
        ] {
            assert_eq!(parse(text), parse(json), "{text}");
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn an_error_shows_the_place() {
        let call = |filter| ["flotilla", "count", "--collection", "vms", "--filter", filter];
        let shown = |filter| Cli::try_parse_from(call(filter)).unwrap_err().to_string();
        let text = shown("cpu >= 8 and on == true");
        let place = "column 17: equality is `=`\n  cpu >= 8 and on == true\n                  ^";
        assert!(text.contains(place), "{text}");
        let json = shown(r#"{"cpu": {"atleast": 8}}"#);
        assert!(json.contains("filter.cpu.atleast: there is no test `atleast`"), "{json}");
    }
}
