//! The recovery of a lane: written by a script and then damaged, or of records as a hostile hand would leave them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::super::GroupId;
use super::super::group::Source;
use super::super::record::{self, Draft, HEADER_BYTES, Kind};
use super::super::recovery::{self, Replayed};
use super::super::segment::{self, SEGMENT_HEADER_BYTES, Title};
use crate::fuzz::Input;

/// Steps of a script, at most.
const STEPS_MAX: usize = 64;
/// Segments of a script, at most.
const SEGMENTS_MAX: u32 = 6;

/// An even first byte: a script that writes a lane, then one that damages its files. An odd one: records that follow each
/// other with checksums that fit, whatever they say.
///
/// **Promise.** Opening never fails and never panics. Each group that is not quarantined holds exactly what it held at some
/// moment of its past, every byte of it; if that is not the last moment, a torn tail is reported, unless nothing but zeros
/// or no file is left where the rest stood. Without damage nothing is reported. A second opening finds the same, and
/// nothing torn.
pub fn log_recovery(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    if input.byte().is_multiple_of(2) { scripted(&mut input) } else { hostile(&mut input) }
}

/// What a group holds: vote, committed mark, purged index, bodies by index.
type Held = (Option<Vec<u8>>, Option<Vec<u8>>, Option<u64>, BTreeMap<u64, Vec<u8>>);
type Groups = BTreeMap<GroupId, Held>;

/// A lane being written, as the writer does it.
struct Script {
    /// Title and records of each segment.
    segments: Vec<(Title, Vec<u8>)>,
    seq: u64,
    run_start: u64,
    /// The groups after each record.
    past: Vec<Groups>,
}

impl Script {
    fn new() -> Script {
        let mut script = Script { segments: Vec::new(), seq: 1, run_start: 1, past: vec![Groups::new()] };
        script.roll();
        script
    }

    fn roll(&mut self) {
        let number = self.segments.len() as u32 + 1;
        if number > SEGMENTS_MAX {
            return;
        }
        self.run_start = self.seq;
        let title = Title { lane: 0, number, oldest: 1, salt: 77 * number, first_seq: self.seq, file_len: 0 };
        self.segments.push((title, Vec::new()));
    }

    fn push(&mut self, kind: Kind, group: GroupId, index: u64, body: &[u8]) {
        let Some((title, records)) = self.segments.last_mut() else { return };
        let run = (self.seq - self.run_start) as u16;
        record::encode(records, Draft { kind, group, index, seq: self.seq, run }, body, title.salt);
        self.seq += 1;
        let mut groups = self.past.last().cloned().unwrap_or_default();
        if kind == Kind::Removed {
            groups.remove(&group);
        } else if kind != Kind::Durable {
            let (vote, committed, purged, entries) = groups.entry(group).or_default();
            match kind {
                Kind::Entry => drop(entries.insert(index, body.to_vec())),
                Kind::Vote => *vote = Some(body.to_vec()),
                Kind::Committed => *committed = Some(body.to_vec()),
                Kind::Truncate => entries.retain(|at, _| *at <= index),
                Kind::Purge => {
                    *purged = Some(index);
                    entries.retain(|at, _| *at > index);
                }
                _ => entries.clear(),
            }
        }
        self.past.push(groups);
    }

    fn step(&mut self, [what, group, size]: [u8; 3]) {
        let group = GroupId::from(group % 3);
        let held = self.past.last().and_then(|groups| groups.get(&group).cloned()).unwrap_or_default();
        let (_, _, purged, entries) = held;
        let last = entries.keys().next_back().copied().or(purged);
        let body = vec![self.seq as u8; usize::from(size)];
        match what % 12 {
            7 => self.push(Kind::Vote, group, 0, &body),
            8 => self.push(Kind::Committed, group, 0, &body),
            9 => match last {
                Some(last) if size % 4 > 0 => {
                    let keep = last.saturating_sub(u64::from(size % 4)).max(purged.unwrap_or(0));
                    self.push(Kind::Truncate, group, keep, &[]);
                }
                _ if purged.is_none() => self.push(Kind::TruncateAll, group, 0, &[]),
                _ => {}
            },
            10 => {
                let upto = last.unwrap_or(0).saturating_sub(u64::from(size % 3)).max(purged.unwrap_or(0));
                self.push(Kind::Purge, group, upto, &body);
            }
            11 => match size % 4 {
                0 => self.roll(),
                1 => self.push(Kind::Removed, group, 0, &[]),
                2 => self.push(Kind::Durable, 0, 0, &[]),
                _ => self.run_start = self.seq,
            },
            _ => self.push(Kind::Entry, group, last.map_or(1, |last| last + 1), &body),
        }
    }

    /// The files, by number.
    fn files(self) -> (BTreeMap<u32, Vec<u8>>, Vec<Groups>) {
        let file = |(mut title, records): (Title, Vec<u8>)| {
            // Some zeros follow: a segment is reserved before it is filled.
            let len = (SEGMENT_HEADER_BYTES + records.len() + 100).next_multiple_of(64);
            title.file_len = len as u64;
            let mut bytes = title.encode();
            bytes.extend(records);
            bytes.resize(len, 0);
            (title.number, bytes)
        };
        (self.segments.into_iter().map(file).collect(), self.past)
    }
}

fn scripted(input: &mut Input<'_>) {
    let mut script = Script::new();
    for _ in 0..usize::from(input.byte()).min(STEPS_MAX) {
        script.step([input.byte(), input.byte(), input.byte()]);
    }
    let (written, past) = script.files();
    let mut files = written.clone();
    while !input.is_empty() {
        damage(&mut files, input);
    }
    let folder = crate::fuzz::folder();
    for (number, bytes) in &files {
        std::fs::write(segment::path(folder.path(), *number), bytes).expect("the folder is ours");
    }
    let found = recovery::replay(folder.path(), 0).expect("a lane always opens");
    judge(&found, &files, &past, files.keys().next_back() < written.keys().next_back());
    if files == written {
        assert!(found.torn.is_empty() && found.damage.is_empty(), "{:?} {:?}", found.torn, found.damage);
        assert!(refused(&found).is_empty() && found.records as usize + 1 == past.len());
    }
    again(folder.path(), &found, &files);
}

/// Bits, bytes, ranges or files that are not what was written.
fn damage(files: &mut BTreeMap<u32, Vec<u8>>, input: &mut Input<'_>) {
    let (what, which, at, value) = (input.byte(), input.byte(), input.short(), input.byte());
    let Some(number) = files.keys().nth(usize::from(which) % files.len().max(1)).copied() else { return };
    let Some(bytes) = files.get_mut(&number).filter(|bytes| !bytes.is_empty()) else { return };
    let at = usize::from(at) % bytes.len();
    let end = (at + usize::from(value) * 8 + 1).min(bytes.len());
    match what % 7 {
        0 | 1 => bytes[at] ^= 1 << (value % 8),
        2 => bytes[at] = value,
        3 => bytes.truncate(at),
        4 => bytes[at..end].fill(0),
        5 => {
            let to = bytes.len() - end;
            bytes.copy_within(at..end, to.min(at / 2));
        }
        _ => drop(files.remove(&number)),
    }
}

/// The groups that must not be trusted.
fn refused(found: &Replayed) -> BTreeSet<GroupId> {
    found.quarantine.named.keys().copied().collect()
}

/// What a group was found to hold.
fn held(found: &Replayed, files: &BTreeMap<u32, Vec<u8>>, id: GroupId) -> Held {
    let Some(group) = found.groups.get(&id) else { return Held::default() };
    let state = group.state();
    let mut entries = BTreeMap::new();
    for index in state.last_index.map(|last| state.first_index..=last).into_iter().flatten() {
        let Some(Source::Disk(place)) = group.source(index) else {
            panic!("entry {index} of group {id} has no place, and the group serves");
        };
        let at = place.offset as usize + HEADER_BYTES;
        entries.insert(index, files[&place.segment][at..at + place.body_len as usize].to_vec());
    }
    let owned = |mark: &Option<bytes::Bytes>| mark.as_ref().map(|bytes| bytes.to_vec());
    (owned(&group.vote), owned(&group.committed), group.purged_index(), entries)
}

fn judge(found: &Replayed, files: &BTreeMap<u32, Vec<u8>>, past: &[Groups], newest_is_gone: bool) {
    let refused = refused(found);
    assert!(refused.is_empty() || !found.damage.is_empty(), "a quarantine has its reason");
    // Zeros are what a segment holds before it is written.
    let is_shorter = newest_is_gone
        || found.tip.as_ref().is_some_and(|(tip, end)| {
            files[&tip.title.number].iter().skip(*end as usize).all(|byte| *byte == 0)
        });
    let ids: BTreeSet<GroupId> =
        past.iter().flat_map(BTreeMap::keys).chain(found.groups.keys()).copied().collect();
    for id in ids {
        let is_unseen = found.quarantine.unseen.is_some() && !found.groups.contains_key(&id);
        if refused.contains(&id) || is_unseen {
            continue;
        }
        let held = held(found, files, id);
        let was = |groups: &Groups| groups.get(&id).cloned().unwrap_or_default() == held;
        assert!(past.iter().any(was), "group {id} never held {held:?}");
        let is_whole = past.last().is_some_and(was);
        assert!(is_whole || is_shorter || !found.torn.is_empty(), "group {id} lost something unsaid");
    }
}

fn hostile(input: &mut Input<'_>) {
    let (first_seq, salt) = (input.long(), u32::from(input.byte()));
    let mut records = input.rest().to_vec();
    let (mut at, mut seq) = (0, first_seq);
    while records.len() >= at + HEADER_BYTES {
        let record = &mut records[at..];
        // Numbered as they must be, in a few groups, of kinds that there are, and with indexes at which a group's slots
        // still fit the memory of a test; the rest is theirs.
        record[20..28].copy_from_slice(&seq.to_le_bytes());
        record[12] %= 4;
        record[13..20].fill(0);
        record[30..34].fill(0);
        record[38] = 1 + record[38] % 10;
        record[39] = 0;
        let room = record.len() - HEADER_BYTES;
        let len = (record[4] as usize).min(room);
        record[4..8].copy_from_slice(&(len as u32).to_le_bytes());
        record::restamp(record, salt);
        (at, seq) = (at + HEADER_BYTES + len, seq.wrapping_add(1));
    }
    let file_len = (SEGMENT_HEADER_BYTES + records.len()) as u64;
    let title = Title { lane: 0, number: 1, oldest: 1, salt, first_seq, file_len };
    let files = BTreeMap::from([(1, [title.encode(), records].concat())]);
    let folder = crate::fuzz::folder();
    std::fs::write(segment::path(folder.path(), 1), &files[&1]).expect("the folder is ours");
    let found = recovery::replay(folder.path(), 0).expect("a lane always opens");
    again(folder.path(), &found, &files);
}

/// A second opening finds the same, and nothing to cut.
fn again(folder: &Path, found: &Replayed, files: &BTreeMap<u32, Vec<u8>>) {
    let second = recovery::replay(folder, 0).expect("a lane always opens");
    assert!(second.torn.is_empty(), "{:?} after {:?}", second.torn, found.torn);
    assert_eq!(refused(&second), refused(found));
    assert_eq!(second.quarantine.unseen.is_some(), found.quarantine.unseen.is_some());
    assert_eq!((second.records, second.next_seq), (found.records, found.next_seq));
    for id in found.groups.keys().filter(|id| !found.quarantine.named.contains_key(id)) {
        assert_eq!(held(&second, files, *id), held(found, files, *id), "group {id}");
    }
}

/// A lane of every kind of record, whole and damaged, and one of hostile records, for the corpus.
#[cfg(test)]
pub fn scripts() -> Vec<Vec<u8>> {
    let mut steps: Vec<u8> = Vec::new();
    for n in 0..24_u8 {
        // Two of three are entries; every kind of step comes.
        let what = if n % 3 == 2 { 7 + n / 3 % 5 } else { 0 };
        steps.extend([what, n, 10 + n]);
    }
    let whole = [&[0, 24], &steps[..]].concat();
    let damaged = |ops: &[[u8; 5]]| [&whole[..], &ops.concat()].concat();
    let mut records = vec![1, 1, 0, 0, 0, 0, 0, 0, 0, 9];
    for kind in 0..10 {
        let mut record = [0; HEADER_BYTES + 3];
        (record[4], record[12], record[28], record[38]) = (3, kind % 2, kind, kind);
        records.extend(record);
    }
    vec![
        whole.clone(),
        damaged(&[[0, 0, 200, 0, 3]]),
        damaged(&[[3, 1, 100, 0, 0]]),
        damaged(&[[4, 1, 80, 0, 9], [0, 0, 9, 0, 1]]),
        damaged(&[[6, 0, 0, 0, 0]]),
        records,
    ]
}
