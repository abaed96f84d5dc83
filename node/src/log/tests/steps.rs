//! A power cut after every step: a log works on a disk that stops after the first, the second, the third … call that changes
//! something. Whatever it told to be durable is there afterwards, and nothing that was never written.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::*;
use crate::env::sim::{Cut, Disk};
use crate::log::LogEntry;

/// What a group was told to be durable, and what may be there besides.
#[derive(Debug, Default)]
struct Told {
    /// By index: the entry told to be durable last, and those written and not told of since.
    entries: BTreeMap<u64, (Option<LogEntry>, Vec<Option<LogEntry>>)>,
    votes: Vec<Bytes>,
    first: u64,
}

impl Told {
    /// What may be there of this index.
    fn may_be(&self, index: u64, found: Option<&LogEntry>) -> bool {
        let Some((durable, tried)) = self.entries.get(&index) else { return found.is_none() };
        durable.as_ref() == found || tried.iter().any(|tried| tried.as_ref() == found)
    }
}

/// Appends, cuts off, purges, votes and rolls, until the disk stops.
async fn work(lanes: &Lanes, told: &mut BTreeMap<u64, Told>) -> Option<()> {
    let groups: Vec<GroupLog> = (1..=2).map(|id| lanes.group(id).unwrap()).collect();
    for round in 0..14u64 {
        for (id, log) in (1..).zip(&groups) {
            let told: &mut Told = told.entry(id).or_default();
            let next = log.state().ok()?.last_index.map_or(told.first, |last| last + 1);
            let new: Vec<LogEntry> =
                (next..next + 1 + round % 3).map(|index| entry(index, round, 90)).collect();
            for entry in &new {
                told.entries.entry(entry.index).or_default().1.push(Some(entry.clone()));
            }
            let (tell, answer) = oneshot::channel();
            log.append(new.clone(), move |result| drop(tell.send(result))).await.ok()?;
            answer.await.ok()?.ok()?;
            for entry in new {
                told.entries.insert(entry.index, (Some(entry), vec![]));
            }
            if round % 5 == 4 {
                let vote = Bytes::from(format!("vote {round}"));
                told.votes.push(vote.clone());
                log.save_vote(vote.clone()).await.ok()?;
                told.votes = vec![vote];
            }
            if round % 4 == 3 {
                let last = log.state().ok()?.last_index? - 1;
                told.entries.range_mut(last + 1..).for_each(|(_, (_, tried))| tried.push(None));
                log.truncate_after(Some(last)).await.ok()?;
                drop(told.entries.split_off(&(last + 1)));
            }
            if round % 6 == 5 {
                let upto = log.state().ok()?.last_index? - 2;
                told.entries.range_mut(..=upto).for_each(|(_, (_, tried))| tried.push(None));
                told.first = upto + 1;
                log.purge(upto, Bytes::from_static(b"mark")).await.ok()?;
                told.entries = told.entries.split_off(&(upto + 1));
            }
        }
    }
    Some(())
}

async fn crash(after: u64, cut: Cut) -> bool {
    let disk = Disk::mount(PathBuf::from(format!("/simulated/log-{cut:?}")), after);
    let home = disk.root().join("log");
    let mut told = BTreeMap::new();
    disk.stop_after(after);
    if let Ok((lanes, _)) = Lanes::open(&home, small()) {
        // A disk that has stopped ends the work.
        let _ = work(&lanes, &mut told).await;
        disk.stop_after(0);
        lanes.close().await;
    }
    let is_over = disk.counts().changes < after;
    disk.cut(cut);
    let context = format!("{cut:?} after step {after}");
    let (lanes, recovery) = Lanes::open(&home, small()).unwrap_or_else(|why| panic!("{context}: {why}"));
    assert!(recovery.damage.is_empty() && recovery.quarantined.is_empty(), "{context}: {recovery:?}");
    for (id, told) in &told {
        let log = lanes.group(*id).unwrap();
        let found: BTreeMap<u64, LogEntry> =
            log.read(0..u64::MAX, u64::MAX).unwrap().into_iter().map(|entry| (entry.index, entry)).collect();
        let end = found.keys().chain(told.entries.keys()).max().map_or(0, |last| last + 1);
        for index in 0..end {
            let there = found.get(&index);
            assert!(
                told.may_be(index, there),
                "{context}: group {id} has {there:?}, told {:?}",
                told.entries.get(&index)
            );
        }
        if let Some(vote) = log.vote().unwrap() {
            assert!(told.votes.contains(&vote), "{context}: {vote:?} of {:?}", told.votes);
        } else {
            assert!(
                told.votes.len() < 2 || told.entries.is_empty(),
                "{context}: a vote is gone: {:?}",
                told.votes
            );
        }
        append(&log, vec![entry(log.state().unwrap().last_index.map_or(told.first, |last| last + 1), 99, 9)])
            .await;
    }
    lanes.close().await;
    disk.remove();
    is_over
}

#[tokio::test]
async fn a_power_cut_after_any_step_loses_nothing_that_was_durable() {
    for cut in [Cut::Clean, Cut::Torn] {
        let mut after = 1;
        while !crash(after, cut).await {
            after += 1;
        }
        assert!(after > 100, "{after} steps: the sweep meets all of it");
    }
}
