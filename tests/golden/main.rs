//! Golden scripts: what a database answers, written down, and asked of every way that it may hold the records.
//!
//! Each file of `scripts` is run against an embedded database ([`run`]) with 1 and with 4 partitions, with all rows still
//! growing and after each write is sealed; the answers must be the same and those written down. [`sqlite`] draws filters at
//! random and compares with SQLite. Compiled as tests of the package `flotilla`, which has the whole database in a process:
//!
//! ```text
//! cargo test --workspace --lib golden
//! FLOTILLA_GOLDEN=write cargo test --workspace --lib golden     # writes down what is answered now
//! ```
//!
//! The language of the scripts stands at [`script`].

// A test's helper may give up as a test does; clippy exempts only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod run;
mod script;
mod sqlite;

use std::time::Duration;

use flotilla_client::Client;
use flotilla_tests::wait::eventually;

use crate::embedded::{Embedded, Options};

const SOON: Duration = Duration::from_secs(60);

/// A database over a folder that seals after so many rows.
async fn open(folder: &std::path::Path, seal_rows: usize) -> Embedded {
    let mut options = Options::new(folder.to_owned());
    options.node.store.seal_rows = seal_rows;
    // Of a test: its log is worth no wait.
    options.node.log.sync = false;
    Embedded::start(options).await.unwrap()
}

/// Waits until fewer rows grow than are sealed at once.
async fn sealed(client: &Client, collection: &str) {
    let probe = async || {
        let (_, status) = client.get_collection(collection).await.unwrap();
        (status.growing_records == 0).then_some(())
    };
    eventually("all rows are sealed", SOON, probe).await.unwrap();
}
