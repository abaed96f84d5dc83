//! The corpora of the node's doors, replayed with changes; and, ignored, the tests that write their seeds anew.

use flotilla_tests::replay::{keep, replay};

use super::*;

#[test]
fn the_corpus_of_log_record_holds() {
    replay("log_record", 4_000, log_record);
}

#[test]
fn the_corpus_of_log_recovery_holds() {
    replay("log_recovery", 2_000, log_recovery);
}

#[test]
fn the_corpus_of_log_entry_holds() {
    replay("log_entry", 4_000, log_entry);
}

#[test]
fn the_corpus_of_machine_state_holds() {
    replay("machine_state", 4_000, machine_state);
}

#[test]
fn the_corpus_of_manifest_holds() {
    replay("manifest", 2_000, manifest);
}

#[test]
fn the_corpus_of_segment_holds() {
    replay("segment", 400, segment);
}

#[test]
fn the_corpus_of_payload_holds() {
    replay("payload", 4_000, payload);
}

#[test]
fn the_corpus_of_graph_holds() {
    replay("graph", 2_000, graph);
}

#[test]
fn the_corpus_of_snapshot_holds() {
    replay("snapshot", 1_000, snapshot);
}

#[test]
#[ignore = "writes the corpora anew"]
fn seeds() {
    keep("log_record", "seed-entry", &crate::log::fuzz::sample());
    for (n, bytes) in crate::log::fuzz::scripts().iter().enumerate() {
        keep("log_recovery", &format!("seed-{n}"), bytes);
    }
    for (n, bytes) in crate::raft::fuzz::entries().iter().enumerate() {
        keep("log_entry", &format!("seed-{n}"), bytes);
    }
    keep("machine_state", "seed-full", &crate::machine::fuzz::sample());
    let [file, header] = crate::storage::fuzz::samples();
    keep("manifest", "seed-file", &[&[0], &file[..]].concat());
    keep("manifest", "seed-body", &[&[1], &file[20..]].concat());
    keep("segment", "seed-header", &[&[2], &header[..]].concat());
    for what in 0..2 {
        for file in [0, 3, 6, 9, 12, 15, 18] {
            keep(
                "segment",
                &format!("seed-{what}-{file}"),
                &[what, 0, file, 40, 0, 3, 2, file + 1, 9, 0, 77],
            );
        }
    }
    keep("segment", "seed-whole", &[0]);
    for (n, bytes) in crate::storage::fuzz::payload_samples().iter().enumerate() {
        keep("payload", &format!("seed-{n}"), bytes);
    }
    keep("graph", "seed-small", &crate::index::fuzz::sample(3));
    keep("graph", "seed-layers", &crate::index::fuzz::sample(40));
    for (n, bytes) in crate::raft::fuzz::samples().iter().enumerate() {
        keep("snapshot", &format!("seed-{n}"), bytes);
    }
}
