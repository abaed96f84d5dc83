//! What a literal means: numbers, keys, texts and patterns.

use super::Wrong;
use super::lexer::abridged;
use crate::filter::glob::is_special;
use crate::record::{Key, Value};

/// The number that is written so; an integer if it has neither a fraction nor an exponent.
pub(super) fn number(at: usize, written: &str) -> Result<Value, Wrong> {
    if written.contains(['.', 'e', 'E']) {
        match written.parse::<f64>() {
            Ok(float) if float.is_finite() => Ok(Value::Float(float)),
            _ => Err(Wrong::at(at, format!("{} is too large for a float", abridged(written)))),
        }
    } else {
        let whole = written.parse().map(Value::Int);
        whole.map_err(|_| {
            let what = format!(
                "{} does not fit an integer, {} to {}; with `.0` behind it is a float",
                abridged(written),
                i64::MIN,
                i64::MAX
            );
            Wrong::at(at, what)
        })
    }
}

/// The key that is this number.
pub(super) fn number_key(at: usize, written: &str) -> Result<Key, Wrong> {
    written.parse().map(Key::Number).map_err(|_| {
        let what = format!("a key is text or a whole number, 0 to {}, not {}", u64::MAX, abridged(written));
        Wrong::at(at, what)
    })
}

/// The text between quotes, of which the first byte behind the quote is at `at`.
pub(super) fn text(at: usize, inside: &str) -> Result<String, Wrong> {
    let mut text = String::with_capacity(inside.len());
    unescape(at, inside, |place, char, escape| match escape {
        Escape::Pattern => {
            Err(Wrong::at(place, format!("\\{char} is an escape of patterns only, after `~`")))
        }
        Escape::None | Escape::Text => {
            text.push(char);
            Ok(())
        }
    })?;
    Ok(text)
}

/// The pattern between quotes: a special character that is escaped, in whatever way, keeps a backslash before it.
pub(super) fn pattern(at: usize, inside: &str) -> Result<String, Wrong> {
    let mut pattern = String::with_capacity(inside.len());
    unescape(at, inside, |_, char, escape| {
        if escape != Escape::None && is_special(char) {
            pattern.push('\\');
        }
        pattern.push(char);
        Ok(())
    })?;
    Ok(pattern)
}

/// How a character was written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Escape {
    /// As itself.
    None,
    /// By an escape that every text knows.
    Text,
    /// By one of patterns: `\*` or `\?`.
    Pattern,
}

/// Hands each character to `each`, with the byte where it is written.
fn unescape(
    at: usize,
    inside: &str,
    mut each: impl FnMut(usize, char, Escape) -> Result<(), Wrong>,
) -> Result<(), Wrong> {
    let mut chars = inside.char_indices();
    while let Some((offset, char)) = chars.next() {
        let place = at + offset;
        if char != '\\' {
            each(place, char, Escape::None)?;
            continue;
        }
        match chars.next().map(|(_, escaped)| escaped) {
            Some('n') => each(place, '\n', Escape::Text)?,
            Some('r') => each(place, '\r', Escape::Text)?,
            Some('t') => each(place, '\t', Escape::Text)?,
            Some(char @ ('"' | '\'' | '\\')) => each(place, char, Escape::Text)?,
            Some(char @ ('*' | '?')) => each(place, char, Escape::Pattern)?,
            Some('u') => {
                let (char, len) = code_point(chars.as_str())
                    .ok_or_else(|| Wrong::at(place, "a character by its number is written \\u{1f600}"))?;
                // The digits and brackets are one byte each.
                chars.nth(len - 1);
                each(place, char, Escape::Text)?;
            }
            other => {
                let told = other.map_or(String::new(), String::from);
                let what = format!(
                    "\\{told} is no escape; there are \\n \\r \\t \\\" \\' \\\\ \\u{{…}}, a backslash is \\\\"
                );
                return Err(Wrong::at(place, what));
            }
        }
    }
    Ok(())
}

/// The character of `{1f600}` at the start of `rest`, and how many bytes that takes.
fn code_point(rest: &str) -> Option<(char, usize)> {
    let rest = rest.strip_prefix('{')?;
    let end = rest.bytes().take(7).position(|byte| byte == b'}')?;
    let digits = rest.get(..end)?;
    let is_number = (1..=6).contains(&digits.len()) && digits.chars().all(|char| char.is_ascii_hexdigit());
    let number = is_number.then(|| u32::from_str_radix(digits, 16).ok())??;
    Some((char::from_u32(number)?, digits.len() + 2))
}
