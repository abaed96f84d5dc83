//! Opening a lane: replay every record in order, and judge what does not read back.
//!
//! Pure but for reading the files, cutting a torn tail and removing half-made segments. A lane always opens;
//! what is wrong with it comes back as [`Damage`] and as the groups that must not be trusted. The evidence is not a
//! file of its own: damaged segments are kept while a group depends on them, so the next opening finds the
//! same. A group counts as free of a damage once it was removed after it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use super::group::{Group, Place, Slot};
use super::ledger::Ledger;
use super::record::{self, Draft, HEADER_BYTES, Header, Kind};
use super::segment::{self, End, Found, Segment, Title};
use super::{Damage, GroupId, Scope, TornTail};
use crate::env::fs;
use crate::env::mmap::Pages;

/// The groups of a lane that must be rebuilt.
#[derive(Debug, Default)]
pub struct Quarantine {
    /// Groups with records in the lane, and why.
    pub named: HashMap<GroupId, Damage>,
    /// Set: a group without any record in the lane may have lost them all.
    pub unseen: Option<Damage>,
}

/// A lane as its files tell it.
#[derive(Debug)]
pub struct Replayed {
    pub ledger: Ledger,
    pub groups: HashMap<GroupId, Group>,
    /// Readable segments.
    pub segments: BTreeMap<u32, Arc<Segment>>,
    /// All segments, unreadable ones too.
    pub numbers: BTreeSet<u32>,
    /// The newest segment, if it can be continued, and the offset to continue at.
    pub tip: Option<(Arc<Segment>, u64)>,
    pub next_seq: u64,
    /// The oldest segment that must be there.
    pub oldest: u32,
    pub quarantine: Quarantine,
    /// A damage that concerned all groups is settled: all of them were removed since.
    pub settled: bool,
    pub torn: Vec<TornTail>,
    pub damage: Vec<Damage>,
    pub records: u64,
}

/// Replays lane number `lane` in `dir`. `Err` only if the folder cannot be listed or a torn tail not be cut.
pub fn replay(dir: &Path, lane: usize) -> io::Result<Replayed> {
    let numbers = list(dir)?;
    let mut replay = Replay::new(dir, lane);
    replay.expect_first(&numbers);
    for number in &numbers {
        let is_last = numbers.last() == Some(number);
        replay.segment(*number, is_last)?;
    }
    Ok(replay.finish(numbers))
}

/// The segments in a folder; half-made ones are removed.
fn list(dir: &Path) -> io::Result<BTreeSet<u32>> {
    let mut numbers = BTreeSet::new();
    for name in fs::read_dir(dir)? {
        if name.ends_with(".new") {
            fs::remove_file(&dir.join(&name))?;
        } else if let Some(number) = segment::number_of(&name) {
            numbers.insert(number);
        }
    }
    Ok(numbers)
}

struct Replay<'a> {
    dir: &'a Path,
    lane: usize,
    out: Replayed,
    /// The segment before: its number and its end, if it could be read.
    before: Option<(u32, Option<(PathBuf, End)>)>,
    /// First damage that may concern any group.
    lane_damage: Option<Damage>,
    /// First damage of an entry, by group: bad only if the entry is still needed at the end.
    suspects: HashMap<GroupId, Damage>,
    /// The oldest segment at the time the newest one was made.
    oldest_told: u32,
}

/// A segment's file, all its bytes, and its title.
type Opened = (fs::File, Pages, Title);

impl<'a> Replay<'a> {
    fn new(dir: &'a Path, lane: usize) -> Replay<'a> {
        let out = Replayed {
            ledger: Ledger::default(),
            groups: HashMap::new(),
            segments: BTreeMap::new(),
            numbers: BTreeSet::new(),
            tip: None,
            next_seq: 1,
            oldest: 1,
            quarantine: Quarantine::default(),
            settled: false,
            torn: Vec::new(),
            damage: Vec::new(),
            records: 0,
        };
        Replay { dir, lane, out, before: None, lane_damage: None, suspects: HashMap::new(), oldest_told: 1 }
    }

    fn expect_first(&mut self, numbers: &BTreeSet<u32>) {
        if numbers.is_empty() {
            self.damage_lane(self.dir.to_owned(), 0, "the lane has no segment".into());
        }
    }

    fn damage_lane(&mut self, file: PathBuf, offset: u64, reason: String) {
        let damage = Damage { file, offset, reason, scope: Scope::Lane(self.lane) };
        self.out.damage.push(damage.clone());
        self.lane_damage.get_or_insert(damage);
        self.out.ledger.forget_removed();
    }

    fn segment(&mut self, number: u32, is_last: bool) -> io::Result<()> {
        let path = segment::path(self.dir, number);
        match self.open(&path, number, is_last)? {
            Ok((file, bytes, title)) => {
                self.join(number, &title);
                self.oldest_told = self.oldest_told.max(title.oldest);
                let mut unsure = segment::SEGMENT_HEADER_BYTES;
                let mut end = segment::walk(&bytes, &title, is_last, |at, found| {
                    if let Found::Record(header, _) = &found
                        && header.kind == Kind::Durable
                    {
                        unsure = at;
                    }
                    self.take(&path, number, at, found);
                });
                let segment = Arc::new(Segment { file, title });
                if is_last {
                    let tail = bytes.get(unsure..end.offset).unwrap_or_default();
                    self.end_lane(&segment, &path, &mut end, tail)?;
                }
                self.out.next_seq = end.next_seq;
                self.out.segments.insert(number, segment);
                self.before = Some((number, Some((path, end))));
            }
            Err(reason) => {
                self.damage_lane(path, 0, reason);
                // More than its records can have used.
                self.out.next_seq += 1 << 32;
                self.before = Some((number, None));
            }
        }
        Ok(())
    }

    /// The segment's file and bytes, or what is wrong with them. A device that does not answer is not damage: it may answer at
    /// the next start, and a lane that went on without its newest segment would have thrown it away.
    fn open(&self, path: &Path, number: u32, is_last: bool) -> io::Result<Result<Opened, String>> {
        let opened = if is_last { fs::open_write(path) } else { fs::open(path) };
        let read = opened.and_then(|file| segment::load(&file).map(|bytes| (file, bytes)));
        let (file, bytes) = match read {
            Ok(read) => read,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => {
                return Ok(Err(error.to_string()));
            }
            Err(error) => return Err(error),
        };
        let title = Title::decode(&bytes, self.lane as u32, number);
        Ok(title.map(|title| (file, bytes, title)))
    }

    /// Checks that a segment continues the one before.
    fn join(&mut self, number: u32, title: &Title) {
        let Some((before, end)) = self.before.take() else { return };
        if before + 1 != number {
            let reason = format!("segments {} to {} are missing", before + 1, number - 1);
            self.damage_lane(self.dir.to_owned(), 0, reason);
        } else if let Some((path, end)) = end
            && end.next_seq != title.first_seq
        {
            let why = end.torn.unwrap_or_else(|| "zeros".into());
            let reason =
                format!("records {} to {} are missing: {why}", end.next_seq, title.first_seq.wrapping_sub(1));
            self.damage_lane(path, end.offset as u64, reason);
        }
    }

    /// Ends the newest segment where its valid records end, and makes sure that they are durable before anybody
    /// builds on them. `tail` are those behind the last mark that says that all before it is: they are written once more,
    /// for after a sync that failed the system takes them for written, shows them, and syncs them no more.
    ///
    /// What is damaged further ahead, now or later, is known for damage, and not for another torn tail, by a record of a later run. It may
    /// be one of those that are cut off, so a mark of a run of its own takes their place first.
    fn end_lane(
        &mut self,
        segment: &Arc<Segment>,
        path: &Path,
        end: &mut End,
        tail: &[u8],
    ) -> io::Result<()> {
        segment.file.write_at(tail, (end.offset - tail.len()) as u64)?;
        if let Some(reason) = end.torn.clone() {
            self.out.torn.push(TornTail { file: path.to_owned(), offset: end.offset as u64, reason });
            let has_room = (end.offset + HEADER_BYTES) as u64 <= segment.title.file_len;
            if has_room {
                segment.file.sync_all()?;
                let mut mark = Vec::with_capacity(HEADER_BYTES);
                let draft = Draft { kind: Kind::Durable, group: 0, index: 0, seq: end.next_seq, run: 0 };
                record::encode(&mut mark, draft, &[], segment.title.salt);
                segment.file.write_at(&mark, end.offset as u64)?;
                segment.file.sync_all()?;
                *end = End { offset: end.offset + HEADER_BYTES, next_seq: end.next_seq + 1, torn: None };
                self.out.records += 1;
            }
            segment.file.set_len(end.offset as u64)?;
            segment.file.preallocate(segment.title.file_len)?;
        }
        segment.file.sync_all()?;
        self.out.tip = Some((segment.clone(), end.offset as u64));
        Ok(())
    }

    fn take(&mut self, path: &Path, number: u32, at: usize, found: Found<'_>) {
        match found {
            Found::Record(header, body) => {
                self.out.records += 1;
                let is_entry = matches!(header.kind, Kind::Entry | Kind::Moved);
                let body = if is_entry { Bytes::new() } else { Bytes::copy_from_slice(body) };
                self.out.ledger.apply(&header, &body, number);
                let place = Place { segment: number, offset: at as u32, body_len: header.body_len };
                self.apply(&header, body, Slot::at(place));
            }
            Found::BadBody(header) => self.bad_body(path, at, &header),
            Found::BadBytes => {
                self.damage_lane(path.to_owned(), at as u64, "bytes that are no record".into())
            }
        }
    }

    fn bad_body(&mut self, path: &Path, at: usize, header: &Header) {
        let reason =
            format!("the body of record {} ({:?}) does not match its checksum", header.seq, header.kind);
        let scope = Scope::Group(header.group);
        let damage = Damage { file: path.to_owned(), offset: at as u64, reason, scope };
        self.out.damage.push(damage.clone());
        let group = self.out.groups.entry(header.group).or_default();
        let spoilt = match header.kind {
            Kind::Entry => {
                group.replay_entry(header.index, Slot::MISSING);
                &mut self.suspects
            }
            Kind::Moved if group.source(header.index).is_some() => &mut self.suspects,
            Kind::Moved => {
                group.replay_moved(header.index, Slot::MISSING);
                &mut self.suspects
            }
            _ => &mut self.out.quarantine.named,
        };
        spoilt.entry(header.group).or_insert(damage);
    }

    fn apply(&mut self, header: &Header, body: Bytes, slot: Slot) {
        match header.kind {
            Kind::Durable | Kind::Reclaimed => return,
            Kind::Removed => {
                self.out.groups.remove(&header.group);
                self.out.quarantine.named.remove(&header.group);
                self.suspects.remove(&header.group);
                return;
            }
            _ => {}
        }
        let group = self.out.groups.entry(header.group).or_default();
        match header.kind {
            Kind::Entry => group.replay_entry(header.index, slot),
            Kind::Moved => group.replay_moved(header.index, slot),
            Kind::Vote => group.vote = Some(body),
            Kind::Committed => group.committed = Some(body),
            Kind::Truncate => drop(group.truncate(Some(header.index))),
            Kind::TruncateAll => drop(group.truncate(None)),
            Kind::Purge => drop(group.purge(header.index, body)),
            Kind::Durable | Kind::Reclaimed | Kind::Removed => {}
        }
    }

    fn finish(mut self, numbers: BTreeSet<u32>) -> Replayed {
        let expected = self.oldest_told.max(self.out.ledger.reclaimed);
        let first = numbers.first().copied();
        if let Some(first) = first.filter(|first| *first > expected) {
            // A loss before everything that was read: removals that were read came after it.
            let removed = std::mem::take(&mut self.out.ledger.removed);
            let reason = format!("segments {expected} to {} are missing", first - 1);
            self.damage_lane(self.dir.to_owned(), 0, reason);
            self.out.ledger.removed = removed;
        }
        self.judge();
        self.out.oldest = match first {
            Some(first) if first <= expected || self.out.settled => first,
            _ => expected,
        };
        self.out.numbers = numbers;
        self.out
    }

    /// Decides which groups must not be trusted.
    fn judge(&mut self) {
        let named = &mut self.out.quarantine.named;
        for (id, group) in &mut self.out.groups {
            group.check();
            if let Some(misfit) = &group.misfit {
                let known = self.suspects.get(id).or(self.lane_damage.as_ref()).cloned();
                named.entry(*id).or_insert(known.unwrap_or_else(|| Damage {
                    file: self.dir.to_owned(),
                    offset: 0,
                    reason: misfit.clone(),
                    scope: Scope::Group(*id),
                }));
            }
        }
        let Some(damage) = self.lane_damage.clone() else { return };
        for id in self.out.groups.keys() {
            if !self.out.ledger.removed.contains(id) {
                named.entry(*id).or_insert_with(|| damage.clone());
            }
        }
        self.out.settled = named.is_empty() && !self.out.ledger.removed.is_empty();
        if !self.out.settled {
            self.out.quarantine.unseen = Some(damage);
        }
    }
}
