//! Nothing is returned twice: the keys of a scan ascend.

use crate::history::History;

/// Looks at every scan.
///
/// # Errors
/// The first key that is not above the one before it.
pub fn check(history: &History) -> Result<(), String> {
    for scan in &history.scans {
        for pair in scan.keys.windows(2) {
            if pair[0] == pair[1] {
                return Err(format!(
                    "returned twice: a scan of client {} at {} µs gives key {} twice",
                    scan.client, scan.invoked, pair[0]
                ));
            }
            if pair[0] > pair[1] {
                return Err(format!(
                    "out of order: a scan of client {} at {} µs gives key {} before key {}",
                    scan.client, scan.invoked, pair[0], pair[1]
                ));
            }
        }
    }
    Ok(())
}
