//! The stored form of payloads (postcard, as serde derives it for [`Value`](crate::record::Value)), read where it lies: a value is
//! stepped over, cut out or passed on without being built.
//!
//! A payload is the number of its fields, and then each one's name and value. A value is the number of its kind and what that
//! holds: whole numbers in zigzag, text behind its length, lists and maps behind their counts.

use crate::limits::NESTING_MAX;

/// Levels of values that are stepped through.
pub(crate) const LEVELS_MAX: usize = NESTING_MAX + 1;

/// The bytes are no payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no payload")]
pub struct Garbled;

/// A value, as far as it can be told without what is below it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Head<'a> {
    /// A null.
    Null,
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A float.
    Float(f64),
    /// A text.
    Text(&'a str),
    /// A list of so many values, which follow.
    List(u64),
    /// A map of so many fields, which follow: names and values in turn.
    Map(u64),
}

/// Reads a value's head, and leaves `at` behind it.
pub fn head<'a>(at: &mut &'a [u8]) -> Result<Head<'a>, Garbled> {
    Ok(match varint(at)? {
        0 => Head::Null,
        1 => match take(at, 1)? {
            [0] => Head::Bool(false),
            [1] => Head::Bool(true),
            _ => return Err(Garbled),
        },
        2 => {
            let zigzag = varint(at)?;
            Head::Int((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
        }
        3 => Head::Float(f64::from_le_bytes(take(at, 8)?.try_into().map_err(|_| Garbled)?)),
        4 => Head::Text(text(at)?),
        5 => Head::List(varint(at)?),
        6 => Head::Map(varint(at)?),
        _ => return Err(Garbled),
    })
}

/// Steps over a value.
pub fn step_over(at: &mut &[u8]) -> Result<(), Garbled> {
    step(at, LEVELS_MAX)
}

fn step(at: &mut &[u8], depth: usize) -> Result<(), Garbled> {
    let depth = depth.checked_sub(1).ok_or(Garbled)?;
    match varint(at)? {
        0 => Ok(()),
        1 => take(at, 1).map(drop),
        2 => varint(at).map(drop),
        3 => take(at, 8).map(drop),
        4 => step_over_text(at),
        5 => {
            let count = varint(at)?;
            (0..count).try_for_each(|_| step(at, depth))
        }
        6 => {
            let count = varint(at)?;
            (0..count).try_for_each(|_| {
                step_over_text(at)?;
                step(at, depth)
            })
        }
        _ => Err(Garbled),
    }
}

/// Whether it is text is not looked at: who wants to know reads it.
fn step_over_text(at: &mut &[u8]) -> Result<(), Garbled> {
    let len = varint(at)?;
    take(at, len).map(drop)
}

/// A text behind its length.
pub fn text<'a>(at: &mut &'a [u8]) -> Result<&'a str, Garbled> {
    let len = varint(at)?;
    std::str::from_utf8(take(at, len)?).map_err(|_| Garbled)
}

/// A count or a length.
pub fn varint(at: &mut &[u8]) -> Result<u64, Garbled> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = at.split_first().ok_or(Garbled)?;
        *at = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Garbled)
}

fn take<'a>(at: &mut &'a [u8], bytes: u64) -> Result<&'a [u8], Garbled> {
    let bytes = usize::try_from(bytes).map_err(|_| Garbled)?;
    let (taken, rest) = at.split_at_checked(bytes).ok_or(Garbled)?;
    *at = rest;
    Ok(taken)
}
