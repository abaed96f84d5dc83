//! Opening the folder: its lock, its `FORMAT` file, and each lane in it.
//!
//! `FORMAT` fixes the number of lanes and is written last when a log is made, after every lane has its first segment. So
//! without it there can be no record, and with it every lane must have a segment.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::env::{fs, task};
use crate::log::lane::Lane;
use crate::log::recovery::{self, Replayed};
use crate::log::segment::{self, SEGMENT_HEADER_BYTES};
use crate::log::writer::{Staged, Writer};
use crate::log::{OpenError, Options, Recovery};

const LANES_MAX: usize = 256;
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 4 << 10..=1 << 30;

/// Opens every lane and starts its loop.
#[allow(clippy::type_complexity)]
pub fn open(
    dir: &Path,
    options: Options,
) -> Result<(Vec<Arc<Lane>>, Vec<task::LoopEnd>, Recovery), OpenError> {
    let folder = Arc::new(fs::lock_folder(dir)?);
    let options = within_bounds(options);
    let count = match read_format(dir)? {
        Some(count) => count,
        None => make(dir, &options)?,
    };
    if !options.sync {
        tracing::warn!(folder = %dir.display(), "the log does not sync: a power cut loses acknowledged writes");
    }
    let mut recovery = Recovery::default();
    let mut writers = Vec::with_capacity(count);
    for number in 0..count {
        let per_lane = Options { cache_bytes: options.cache_bytes / count, ..options.clone() };
        writers.push(open_lane(&lane_dir(dir, number), number, per_lane, &folder, &mut recovery)?);
    }
    recovery.groups.sort_by_key(|(id, _)| *id);
    recovery.quarantined.sort_by_key(|(id, _)| *id);
    tell(&recovery);
    let lanes = writers.iter().map(|writer| writer.lane.clone()).collect();
    let mut ends = Vec::with_capacity(count);
    for writer in writers {
        ends.push(task::spawn_loop(&format!("log-lane-{}", writer.lane.number), writer.run())?);
    }
    Ok((lanes, ends, recovery))
}

fn within_bounds(options: Options) -> Options {
    Options {
        lanes: options.lanes.clamp(1, LANES_MAX),
        segment_bytes: options.segment_bytes.clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end()),
        segments_max: options.segments_max.max(2),
        ..options
    }
}

fn lane_dir(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("lane-{number}"))
}

fn format_path(dir: &Path) -> PathBuf {
    dir.join("FORMAT")
}

fn format_text(lanes: usize) -> String {
    let line = format!("flotilla log 1 lanes {lanes}");
    format!("{line} {:08x}\n", crc32fast::hash(line.as_bytes()))
}

/// The number of lanes; `None` for a folder that was never finished.
fn read_format(dir: &Path) -> Result<Option<usize>, OpenError> {
    let file = format_path(dir);
    if !fs::exists(&file)? {
        return refuse_records(dir).map(|()| None);
    }
    let handle = fs::open(&file)?;
    let mut bytes = [0; 128];
    let len = handle.read_at(&mut bytes, 0)?;
    let text = String::from_utf8_lossy(&bytes[..len]).into_owned();
    let count = text.split(' ').nth(4).and_then(|word| word.parse::<usize>().ok());
    match count.filter(|count| (1..=LANES_MAX).contains(count) && text == format_text(*count)) {
        Some(count) => Ok(Some(count)),
        None => {
            Err(OpenError::Format { file, reason: "not the format of a log this version can read".into() })
        }
    }
}

/// A folder without `FORMAT` must not hold records.
fn refuse_records(dir: &Path) -> Result<(), OpenError> {
    for name in fs::read_dir(dir)?.into_iter().filter(|name| name.starts_with("lane-")) {
        for segment in fs::read_dir(&dir.join(&name))? {
            let path = dir.join(&name).join(&segment);
            let bytes = segment::load(&fs::open(&path)?)?;
            let unused = bytes.iter().skip(SEGMENT_HEADER_BYTES).all(|byte| *byte == 0);
            if !segment.ends_with(".new") && !unused {
                let reason = format!("is missing, but {} holds records", path.display());
                return Err(OpenError::Format { file: format_path(dir), reason });
            }
        }
    }
    Ok(())
}

/// Makes a new log.
fn make(dir: &Path, options: &Options) -> io::Result<usize> {
    for name in fs::read_dir(dir)?.into_iter().filter(|name| name.starts_with("lane-")) {
        fs::remove_dir_all(&dir.join(name))?;
    }
    for number in 0..options.lanes {
        let lane = lane_dir(dir, number);
        fs::create_dir_all(&lane)?;
        segment::create(&lane, number as u32, 1, 1, 1, options.segment_bytes)?;
    }
    fs::sync_dir(dir)?;
    fs::write_atomic(&format_path(dir), format_text(options.lanes).as_bytes())?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::sync_dir(parent)?;
    }
    Ok(options.lanes)
}

fn open_lane(
    dir: &Path,
    number: usize,
    options: Options,
    folder: &Arc<fs::FolderLock>,
    recovery: &mut Recovery,
) -> io::Result<Writer> {
    fs::make_dir(dir)?;
    let mut replayed = recovery::replay(dir, number)?;
    let (active, end) = match replayed.tip.take() {
        Some(tip) => tip,
        None => begin_after_loss(dir, number, &options, &mut replayed)?,
    };
    recovery.torn.append(&mut replayed.torn);
    recovery.damage.append(&mut replayed.damage);
    recovery.records += replayed.records;
    let named = &replayed.quarantine.named;
    recovery.quarantined.extend(named.iter().map(|(id, damage)| (*id, damage.clone())));
    let healthy = replayed.groups.iter().filter(|(id, _)| !named.contains_key(id));
    recovery.groups.extend(healthy.map(|(id, group)| (*id, group.state())));
    let keeps_evidence = replayed.quarantine.unseen.is_some();
    let lane = Lane::new(number, options, replayed.groups, replayed.quarantine, replayed.segments);
    Ok(Writer {
        lane: Arc::new(lane),
        dir: dir.to_owned(),
        ledger: replayed.ledger,
        numbers: replayed.numbers,
        oldest: replayed.oldest,
        keeps_evidence,
        active,
        end,
        staged: Staged::from(replayed.next_seq),
        next_seq: replayed.next_seq,
        _folder: folder.clone(),
    })
}

/// The newest segment cannot be continued: begins another after it.
fn begin_after_loss(
    dir: &Path,
    lane: usize,
    options: &Options,
    replayed: &mut Replayed,
) -> io::Result<(Arc<segment::Segment>, u64)> {
    let number = replayed.numbers.last().copied().unwrap_or(replayed.oldest) + 1;
    let (oldest, seq) = (replayed.oldest, replayed.next_seq);
    let made = segment::create(dir, lane as u32, number, oldest, seq, options.segment_bytes)?;
    let made = Arc::new(made);
    replayed.numbers.insert(number);
    replayed.segments.insert(number, made.clone());
    Ok((made, SEGMENT_HEADER_BYTES as u64))
}

fn tell(recovery: &Recovery) {
    for torn in &recovery.torn {
        tracing::warn!(file = %torn.file.display(), offset = torn.offset, reason = %torn.reason, "cut off a torn tail");
    }
    for damage in &recovery.damage {
        tracing::error!(%damage, scope = ?damage.scope, "the log is damaged");
    }
    for (group, damage) in &recovery.quarantined {
        tracing::error!(group, %damage, "group quarantined");
    }
}
