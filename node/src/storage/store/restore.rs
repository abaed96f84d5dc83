//! Opening a partition's folder.

use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;
use flotilla_proto::schema::CollectionSpec;
use parking_lot::Mutex;

use super::{Committed, Options, Restored, State, Store, segment_dir};
use crate::env::fs;
use crate::storage::growing::Growing;
use crate::storage::manifest::{MANIFEST, Manifest, SegmentEntry};
use crate::storage::sealed::{Sealed, is_graph_file};
use crate::storage::shape::{Shapes, shapes};
use crate::storage::{Digest, Fault};

impl Store {
    /// Opens the folder, or makes an empty store in one that is not there yet. Maps files and reads the small ones;
    /// builds nothing. What no manifest names (left by a crash) is removed.
    ///
    /// # Errors
    /// What is damaged, by file; [`Fault::Newer`] if a newer program wrote it. The folder is left as it is.
    pub fn open(dir: &Path, spec: Arc<CollectionSpec>, options: Options) -> Result<(Store, Restored), Fault> {
        let manifest = find_manifest(dir)?;
        let shapes = shapes(&spec);
        let sealed = manifest.segments.iter().map(|entry| open_segment(dir, entry, &shapes));
        let sealed: Vec<Arc<Sealed>> = sealed.collect::<Result<_, _>>()?;
        remove_orphans(dir, &manifest)?;
        let applied = manifest.applied;
        let state = State {
            spec,
            shapes,
            sealed,
            frozen: VecDeque::new(),
            growing: Growing::default(),
            growing_number: manifest.next_number,
            next_number: manifest.next_number + 1,
            written: applied,
            digest: Digest::default(),
            durable: applied,
            busy: BTreeSet::new(),
            retired: Vec::new(),
            presence: Arc::default(),
        };
        let machine = Arc::new(manifest.machine.clone());
        let store = Store {
            dir: dir.to_owned(),
            options,
            published: ArcSwap::from_pointee(state.published(applied)),
            sealing: Mutex::new(()),
            commit: Mutex::new(Committed { applied, machine }),
            state: Mutex::new(state),
            under_way: Default::default(),
            #[cfg(test)]
            skips_delete: Default::default(),
        };
        Ok((store, Restored { applied, machine: manifest.machine }))
    }
}

/// The manifest; a first one is written into a folder that holds no store. A folder with segments and no manifest lost
/// it: the first manifest is older than any segment.
fn find_manifest(dir: &Path) -> Result<Manifest, Fault> {
    let io = |error: std::io::Error| Fault::io(dir, &error);
    fs::make_dir(dir).map_err(io)?;
    if fs::exists(&dir.join(MANIFEST)).map_err(io)? {
        // What a failed sync left undone must not be built upon.
        fs::sync_dir(dir).map_err(io)?;
        return Manifest::read(dir);
    }
    if fs::read_dir(dir).map_err(io)?.iter().any(|name| segment_number(name).is_some()) {
        return Err(Fault::damaged(dir.join(MANIFEST), 0, "missing, although there are segments"));
    }
    let first = Manifest { next_number: 1, ..Manifest::default() };
    first.write(dir)?;
    Ok(first)
}

fn segment_number(name: &str) -> Option<u64> {
    name.strip_prefix("seg-")?.parse().ok()
}

fn open_segment(dir: &Path, entry: &SegmentEntry, shapes: &Shapes) -> Result<Arc<Sealed>, Fault> {
    let folder = segment_dir(dir, entry.number);
    let sealed = Sealed::open(&folder, shapes, &entry.graphs)?;
    if (sealed.number(), sealed.rows()) != (entry.number, entry.rows) {
        return Err(Fault::damaged(folder, 0, "not the segment that the manifest means"));
    }
    // Whatever deleted them lies at or before `applied`, and every view to come at or behind it.
    for row in entry.tombstones(dir)? {
        sealed.mark(row, 1);
    }
    Ok(Arc::new(sealed))
}

fn remove_orphans(dir: &Path, manifest: &Manifest) -> Result<(), Fault> {
    let io = |error: std::io::Error| Fault::io(dir, &error);
    let mut removed = false;
    for name in fs::read_dir(dir).map_err(io)? {
        let is_staged = name == format!("{MANIFEST}.new");
        let orphan = segment_number(&name)
            .filter(|number| manifest.segments.iter().all(|entry| entry.number != *number));
        if orphan.is_some() {
            tracing::info!(folder = %dir.join(&name).display(), "removes a segment that no manifest names");
            fs::remove_dir_all(&dir.join(&name)).map_err(io)?;
        } else if is_staged {
            fs::remove_file(&dir.join(&name)).map_err(io)?;
        }
        removed |= orphan.is_some() || is_staged;
    }
    for entry in &manifest.segments {
        let folder = segment_dir(dir, entry.number);
        for name in fs::read_dir(&folder).map_err(io)? {
            let named = entry.graphs.iter().any(|graph| graph.file.name == name);
            if is_graph_file(&name) && !named {
                fs::remove_file(&folder.join(&name)).map_err(io)?;
            }
        }
    }
    if removed { fs::sync_dir(dir).map_err(io) } else { Ok(()) }
}
