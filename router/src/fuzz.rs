//! The doors for fuzzing of what a router parses itself. See `flotilla_proto::fuzz` for the messages.
//!
//! Compiled for tests and under the feature `fuzz` only.

pub use crate::read::fuzz::scan_token;

#[cfg(test)]
mod tests {
    use flotilla_tests::replay::{keep, replay};

    use super::*;

    #[test]
    fn the_corpus_of_scan_token_holds() {
        replay("scan_token", 4_000, scan_token);
    }

    #[test]
    #[ignore = "writes the corpus anew"]
    fn seeds() {
        for (name, key) in [("empty", ""), ("one", "k"), ("two", "ké"), ("long", &"key".repeat(400))] {
            keep("scan_token", &format!("seed-key-{name}"), format!("k{key}").as_bytes());
            keep(
                "scan_token",
                &format!("seed-token-{name}"),
                format!("t{}", crate::read::fuzz::sample(key)).as_bytes(),
            );
        }
    }
}
