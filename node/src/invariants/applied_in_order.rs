//! `applied-in-order`: entry n is applied right after entry n - 1. A gap loses writes, a repetition does them twice, and the
//! replicas part.

use flotilla_proto::ids::LogIndex;

use super::Broken;

/// Its name.
pub const ID: &str = "applied-in-order";

/// Before the entry at `next` is applied to a state that ends with `last`.
///
/// # Errors
/// If it is not the next one.
pub fn check(last: Option<LogIndex>, next: LogIndex) -> Result<(), Broken> {
    match last {
        Some(last) if next != last + 1 => {
            Err(Broken::report(ID, format!("entry {next} comes after entry {last}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn gaps_and_repetitions_are_found() {
        assert!(super::check(None, 0).is_ok() && super::check(Some(4), 5).is_ok());
        assert!(super::check(Some(4), 4).is_err() && super::check(Some(4), 6).is_err());
    }
}
