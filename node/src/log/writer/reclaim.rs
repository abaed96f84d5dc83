//! Freeing segments, oldest first.
//!
//! A segment may go when no live entry stands in it. Marks whose newest record stands there are written again
//! at the end first, together with a note of what is given up; both are durable before the file is removed, and its
//! removal before the next one's.

use std::collections::BTreeMap;
use std::io;

use bytes::Bytes;

use super::Writer;
use crate::env::fs;
use crate::log::GroupId;
use crate::log::group::Place;
use crate::log::record::{Header, Kind};
use crate::log::segment::{self, Found};

/// Live entries by group and index: the record's header and its offset.
type Live = BTreeMap<(GroupId, u64), (Header, usize)>;

impl Writer {
    /// Removes every segment that can go, from the oldest on, up to the active one.
    pub(super) async fn reclaim(&mut self) -> io::Result<()> {
        loop {
            let Some(oldest) = self.numbers.first().copied() else { return Ok(()) };
            if oldest == self.active.title.number || self.is_evidence() {
                return Ok(());
            }
            if self.ledger.held(oldest).next().is_some() && !self.move_out(oldest).await? {
                return Ok(());
            }
            self.give_up(oldest).await?;
        }
    }

    /// Damaged segments stay while a group depends on what they show.
    fn is_evidence(&self) -> bool {
        self.keeps_evidence || !self.lane.lock().quarantine.named.is_empty()
    }

    async fn give_up(&mut self, number: u32) -> io::Result<()> {
        for (group, kind, index, body) in self.ledger.marks_in(number) {
            self.push(kind, group, index, &body).await?;
        }
        // The next one that is there: after a loss that was settled, numbers between may be missing.
        let next = self.numbers.range(number + 1..).next().copied().unwrap_or(number + 1);
        self.push(Kind::Reclaimed, 0, u64::from(next), &Bytes::new()).await?;
        self.flush(true).await?;
        self.lane.lock().segments.remove(&number);
        fs::remove_file(&segment::path(&self.dir, number))?;
        fs::sync_dir(&self.dir)?;
        self.ledger.forget(number);
        self.numbers.remove(&number);
        self.oldest = next;
        Ok(())
    }

    /// Writes the live entries of the oldest segment again at the end, if the lane has too many segments and
    /// they are few. Whether the segment is free now.
    async fn move_out(&mut self, number: u32) -> io::Result<bool> {
        let held: u64 = self.ledger.held(number).map(|(_, held)| held.bytes).sum();
        let few = held <= self.lane.options.segment_bytes / 4;
        if self.numbers.len() <= self.lane.options.segments_max || !few {
            return Ok(false);
        }
        let Some(source) = self.lane.lock().segments.get(&number).cloned() else { return Ok(false) };
        let bytes = Bytes::from_owner(segment::load(&source.file)?);
        let Some(live) = self.live(&bytes, &source) else { return Ok(false) };
        let mut moved = Vec::with_capacity(live.len());
        for ((group, index), (header, at)) in live {
            let body =
                bytes.slice(at + header.record_len() - header.body_len as usize..at + header.record_len());
            let to = self.push(Kind::Moved, group, index, &body).await?;
            let from = Place { segment: number, offset: at as u32, body_len: header.body_len };
            moved.push((group, index, from, to));
        }
        self.flush(true).await?;
        let mut shared = self.lane.lock();
        for (group, index, from, to) in moved {
            if let Some(group) = shared.groups.get_mut(&group) {
                group.relocate(index, from, to);
            }
        }
        drop(shared);
        self.ledger.forget(number);
        Ok(true)
    }

    /// The live entries in a segment's bytes; `None` if it does not read back whole.
    fn live(&self, bytes: &[u8], source: &segment::Segment) -> Option<Live> {
        let held: BTreeMap<_, _> = self.ledger.held(source.title.number).collect();
        let (mut live, mut whole) = (Live::new(), true);
        segment::walk(bytes, &source.title, false, |at, found| match found {
            Found::Record(header, _) if matches!(header.kind, Kind::Entry | Kind::Moved) => {
                let key = (header.group, header.index);
                if held.get(&key.0).is_some_and(|held| (held.first..=held.last).contains(&key.1)) {
                    // Of two records with one index the later one replaced the earlier.
                    live.insert(key, (header, at));
                }
            }
            Found::Record(..) => {}
            Found::BadBody(_) | Found::BadBytes => whole = false,
        });
        whole.then_some(live)
    }
}
