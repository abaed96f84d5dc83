//! Random histories, with reopening and crash copies, against a plain map of what a log is.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Append { group: u64, count: u64, len: usize },
    Truncate { group: u64, back: u64 },
    Purge { group: u64, ahead: u64 },
    Vote { group: u64 },
    Committed { group: u64 },
    Remove { group: u64 },
    Reopen,
    Crash,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    entries: BTreeMap<u64, LogEntry>,
    next: u64,
    purged: Option<(u64, Bytes)>,
    vote: Option<Bytes>,
    committed: Option<Bytes>,
}

fn step() -> impl Strategy<Value = Step> {
    let group = 0..5u64;
    prop_oneof![
        8 => (group.clone(), 1..12u64, 0..400usize).prop_map(|(group, count, len)| Step::Append { group, count, len }),
        2 => (group.clone(), 0..15u64).prop_map(|(group, back)| Step::Truncate { group, back }),
        3 => (group.clone(), 0..40u64).prop_map(|(group, ahead)| Step::Purge { group, ahead }),
        2 => group.clone().prop_map(|group| Step::Vote { group }),
        1 => group.clone().prop_map(|group| Step::Committed { group }),
        1 => group.prop_map(|group| Step::Remove { group }),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

impl Model {
    fn last(&self) -> Option<u64> {
        self.entries.keys().next_back().copied()
    }
}

fn compare(log: &GroupLog, model: &Model, context: &str) {
    assert_eq!(all(log), model.entries.values().cloned().collect::<Vec<_>>(), "{context}");
    let state = log.state().unwrap();
    assert_eq!(state.last_index, model.last(), "{context}");
    assert_eq!(state.purged, model.purged, "{context}");
    assert_eq!(log.vote().unwrap(), model.vote, "{context}");
    assert_eq!(log.committed().unwrap(), model.committed, "{context}");
}

/// Writes rubbish after the last record of a lane, if its last segment has room.
fn tear(files: &[std::path::PathBuf]) -> bool {
    let newest = files.last().unwrap();
    let mut bytes = std::fs::read(newest).unwrap();
    // Beyond zeros that may belong to the last record.
    let end = used(newest).max(64) + 8;
    let fits = end + 50 <= bytes.len();
    if fits {
        bytes[end..end + 50].fill(0xa5);
        std::fs::write(newest, bytes).unwrap();
    }
    fits
}

async fn run(steps: Vec<Step>) {
    let options = Options { lanes: 2, ..small() };
    let root = swift_dir();
    let mut folder = root.path().join("0");
    let (mut lanes, _) = open(&folder, options.clone());
    let mut models: BTreeMap<u64, Model> = BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        let life = at as u64;
        match step {
            Step::Append { group, count, len } => {
                let model = models.entry(*group).or_default();
                let new: Vec<_> = (0..*count).map(|i| entry(model.next + i, life, *len)).collect();
                append(&lanes.group(*group).unwrap(), new.clone()).await;
                model.next += count;
                model.entries.extend(new.into_iter().map(|entry| (entry.index, entry)));
            }
            Step::Truncate { group, back } => {
                let model = models.entry(*group).or_default();
                let floor = model.purged.as_ref().map_or(0, |(index, _)| index + 1);
                model.next = model.next.saturating_sub(*back).max(floor);
                drop(model.entries.split_off(&model.next));
                lanes.group(*group).unwrap().truncate_after(model.next.checked_sub(1)).await.unwrap();
            }
            Step::Purge { group, ahead } => {
                let model = models.entry(*group).or_default();
                let first = model.entries.keys().next().copied().unwrap_or(model.next);
                let (upto, id) = (first + ahead, Bytes::from(format!("id {life}")));
                lanes.group(*group).unwrap().purge(upto, id.clone()).await.unwrap();
                if model.purged.as_ref().is_none_or(|(index, _)| *index < upto) {
                    model.purged = Some((upto, id));
                    model.entries = model.entries.split_off(&(upto + 1));
                    model.next = model.next.max(upto + 1);
                }
            }
            Step::Vote { group } => {
                let vote = Bytes::from(format!("vote {life}"));
                lanes.group(*group).unwrap().save_vote(vote.clone()).await.unwrap();
                models.entry(*group).or_default().vote = Some(vote);
            }
            Step::Committed { group } => {
                let mark = Bytes::from(format!("committed {life}"));
                lanes.group(*group).unwrap().save_committed(mark.clone()).unwrap();
                models.entry(*group).or_default().committed = Some(mark);
            }
            Step::Remove { group } => {
                lanes.remove_group(*group).await.unwrap();
                models.remove(group);
            }
            Step::Reopen => {
                lanes.close().await;
                let (again, recovery) = open(&folder, options.clone());
                assert!(recovery.torn.is_empty() && recovery.damage.is_empty(), "{recovery:?}");
                lanes = again;
            }
            Step::Crash => {
                // A copy of a folder in motion would not be one moment's state, so the loops end first; then
                // half a record is left at the end of a lane.
                lanes.close().await;
                let next = root.path().join(format!("{}", at + 1));
                copy_folder(&folder, &next);
                folder = next;
                let torn = tear(&segment_files(&folder.join("lane-1")));
                let (again, recovery) = open(&folder, options.clone());
                assert!(
                    recovery.damage.is_empty() && recovery.torn.len() == usize::from(torn),
                    "{recovery:?}"
                );
                lanes = again;
            }
        }
        for (id, model) in &models {
            compare(&lanes.group(*id).unwrap(), model, &format!("group {id} after step {at}: {step:?}"));
        }
    }
    lanes.close().await;
    let (lanes, recovery) = open(&folder, options);
    assert!(recovery.damage.is_empty() && recovery.quarantined.is_empty(), "{recovery:?}");
    for (id, model) in &models {
        compare(&lanes.group(*id).unwrap(), model, &format!("group {id} at the end"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_history_reads_back(steps in proptest::collection::vec(step(), 1..80)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(run(steps));
    }
}
