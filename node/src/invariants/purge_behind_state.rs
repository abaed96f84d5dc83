//! `purge-behind-state`: an entry leaves the front of the log only when the durable state holds what it did. Otherwise a
//! restart has neither, and the write is gone.

use flotilla_proto::ids::LogIndex;

use super::Broken;

/// Its name.
pub const ID: &str = "purge-behind-state";

/// Before entries up to `upto` are purged; `durable` is the last entry that the state on disk holds.
///
/// # Errors
/// If the state on disk does not reach so far.
pub fn check(durable: LogIndex, upto: LogIndex) -> Result<(), Broken> {
    if upto > durable {
        let found = format!("entries up to {upto} are to be purged, the state on disk reaches to {durable}");
        return Err(Broken::report(ID, found));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_purge_beyond_the_state_is_found() {
        assert!(super::check(4, 4).is_ok() && super::check(4, 5).is_err());
    }
}
