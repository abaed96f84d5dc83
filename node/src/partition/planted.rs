//! A bug that tests plant: builds with debug assertions acknowledge a write before it is committed if
//! `FLOTILLA_TEST_ACK_BEFORE_COMMIT` is `1`. Who checks histories must find it; a release does not contain it.

use std::sync::Arc;
use std::sync::OnceLock;

use bytes::Bytes;

use crate::env::task;
use crate::machine::{PartitionMachine, Reply};
use crate::raft::Group;

/// Whether the bug is planted.
pub(super) fn acknowledges_early() -> bool {
    static PLANTED: OnceLock<bool> = OnceLock::new();
    *PLANTED.get_or_init(|| std::env::var("FLOTILLA_TEST_ACK_BEFORE_COMMIT").is_ok_and(|value| value == "1"))
}

/// Proposes, and answers as if that were enough.
pub(super) fn propose_early(group: Arc<Group<PartitionMachine>>, command: Bytes) -> Reply {
    let log_index = group.applied() + 1;
    task::spawn(async move { group.propose(command).await });
    Reply::Written { affected: 1, log_index }
}
