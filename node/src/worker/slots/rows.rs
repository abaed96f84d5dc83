//! Reading the rows of an area out of a view, in the order of keys, some at a time.

use flotilla_proto::area::Area;
use flotilla_proto::record::Key;
use flotilla_proto::refusal::Refusal;

use crate::env::task;
use crate::query::{self, Stretch};
use crate::storage::{Fault, SegmentView, StoredRow, View};

/// Keys looked at in one go.
const LOOK: usize = 4_096;

/// Rows of an area, and where the reading stands.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// The rows.
    pub rows: Vec<StoredRow>,
    /// The last key looked at; none if there is none behind.
    pub after: Option<Vec<u8>>,
    /// Keys looked at.
    pub looked: u64,
    /// Live rows of the view.
    pub live: u64,
}

/// Runs `work` beside the tasks.
pub(super) async fn read<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Refusal> {
    match task::spawn_cpu(work).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(fault)) => Err(Refusal::DataLoss(fault.to_string())),
        Err(lost) => Err(Refusal::Internal(lost.to_string())),
    }
}

/// Looks at the keys behind `after`, page by page; `take` says of each page whether there is room for more. Returns the
/// last key looked at, or none at the end.
fn walk(
    view: &View,
    after: Option<Vec<u8>>,
    mut take: impl FnMut(&dyn SegmentView, Key, u32) -> Result<bool, Fault>,
) -> Result<Option<Vec<u8>>, Fault> {
    let segments: Vec<&dyn SegmentView> = view.segments().collect();
    let mut after = after.and_then(|key| Key::from_bytes(&key));
    loop {
        let (page, more) = query::scan(&segments, None, &Stretch::after(after.clone()), LOOK)?;
        for (segment, row) in page {
            let segment = segments[segment];
            let key = segment.key(row)?;
            after = Some(key.clone());
            if !take(segment, key, row)? {
                return Ok(after.map(|key| key.to_bytes()));
            }
        }
        if !more {
            return Ok(None);
        }
    }
}

/// The rows of `area` behind `after`, up to about so many rows and bytes.
pub(super) fn run(
    view: &View,
    area: &Area,
    after: Option<Vec<u8>>,
    rows_max: usize,
    bytes_max: usize,
) -> Result<Run, Fault> {
    let mut run = Run { live: view.live(), ..Run::default() };
    let mut bytes = 0;
    run.after = walk(view, after, |segment, key, row| {
        run.looked += 1;
        if area.contains(&key.to_bytes()) {
            let row = segment.stored(row)?;
            bytes += row.size();
            run.rows.push(row);
        }
        Ok(run.rows.len() < rows_max && bytes < bytes_max)
    })?;
    Ok(run)
}

/// The first keys of `area` behind `after`.
pub(super) fn keys(
    view: &View,
    area: &Area,
    after: Option<Vec<u8>>,
    keys_max: usize,
) -> Result<Vec<Vec<u8>>, Fault> {
    let mut found = Vec::new();
    walk(view, after, |_, key, _| {
        let key = key.to_bytes();
        if area.contains(&key) {
            found.push(key);
        }
        Ok(found.len() < keys_max)
    })?;
    Ok(found)
}

/// Rows as they are now, keys that are gone, and the bytes of both.
type Current = (Vec<StoredRow>, Vec<Vec<u8>>, usize);

/// The rows of these keys, up to about so many bytes, and the keys that have none; and how many keys were looked at.
pub(super) fn of_keys(view: &View, keys: &[Vec<u8>], bytes_max: usize) -> Result<Current, Fault> {
    let (mut rows, mut gone, mut bytes) = (Vec::new(), Vec::new(), 0);
    for (looked, bytes_of) in keys.iter().enumerate() {
        if bytes >= bytes_max {
            return Ok((rows, gone, looked));
        }
        let found = Key::from_bytes(bytes_of).map(|key| view.find(&key)).transpose()?.flatten();
        match found.and_then(|(at, row)| Some((view.segment(at)?, row))) {
            Some((segment, row)) => {
                let row = segment.stored(row)?;
                bytes += row.size();
                rows.push(row);
            }
            None => gone.push(bytes_of.clone()),
        }
    }
    Ok((rows, gone, keys.len()))
}
