//! `committed-stays`: an entry that is known to be committed is never cut off the end of the log. Whoever cuts it off has lost an
//! acknowledged write, or is about to take another in its place.

use flotilla_proto::ids::LogIndex;

use super::Broken;

/// Its name.
pub const ID: &str = "committed-stays";

/// Before everything behind `last` is cut off (all, if there is none); `committed` is the last entry known to be committed.
///
/// # Errors
/// If a committed entry would go.
pub fn check(committed: Option<LogIndex>, last: Option<LogIndex>) -> Result<(), Broken> {
    if committed > last {
        let found = format!("entries behind {last:?} are to be cut off, committed up to {committed:?}");
        return Err(Broken::report(ID, found));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_cut_below_what_is_committed_is_found() {
        assert!(super::check(None, None).is_ok() && super::check(Some(4), Some(4)).is_ok());
        assert!(super::check(Some(4), Some(3)).is_err() && super::check(Some(0), None).is_err());
    }
}
