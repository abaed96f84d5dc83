//! `vote-goes-forward`: a replica that has voted never goes back to an earlier vote. One that did could vote twice in one term,
//! and two leaders would acknowledge writes that contradict each other.

use std::cmp::Ordering;
use std::fmt::Debug;

use super::Broken;

/// Its name.
pub const ID: &str = "vote-goes-forward";

/// Before `new` is saved in place of `old`.
///
/// # Errors
/// If it is smaller, or neither is.
pub fn check<V: PartialOrd + Debug>(old: Option<&V>, new: &V) -> Result<(), Broken> {
    let Some(old) = old else { return Ok(()) };
    match new.partial_cmp(old) {
        Some(Ordering::Equal | Ordering::Greater) => Ok(()),
        _ => Err(Broken::report(ID, format!("{new:?} is to replace {old:?}"))),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_step_back_is_found() {
        assert!(super::check(None, &1).is_ok() && super::check(Some(&1), &1).is_ok());
        assert!(super::check(Some(&2), &1).is_err() && super::check(Some(&f64::NAN), &1.0).is_err());
    }
}
