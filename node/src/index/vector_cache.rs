//! The vector cache: whole vectors of sealed files that are larger than memory.
//!
//! Where searches look at small codes first, the vectors themselves may stay on disk: a few scattered ones are read for each search,
//! to order what the codes found. The kernel keeps what it read by the page, of which one vector that is asked for often takes a
//! whole one. So once those files together are more than half of what the process may use, the vectors read are kept here, one
//! by one, within a bound. Below that the kernel holds all of them anyway, and this cache costs one comparison.
//!
//! One cache serves the process, as the kernel's page cache does whose place it takes. A vector is known by the number of its open file,
//! which no other ever has, so nothing has to be invalidated: what belonged to a file that is closed is asked for no more, and goes
//! first.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use moka::policy::EvictionPolicy;
use moka::sync::Cache;

use crate::env::mmap::Mmap;

/// What one vector takes beside its values.
const OVERHEAD: usize = 96;

static SHARED: OnceLock<VectorCache> = OnceLock::new();

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Bytes, at most (default 2 GiB). Zero: nothing is kept.
    pub bytes_max: u64,
    /// What goes first (default: what was used the longest ago).
    pub eviction: Eviction,
}

impl Default for Options {
    fn default() -> Options {
        Options { bytes_max: 2 << 30, eviction: Eviction::default() }
    }
}

/// What goes first where there is no space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Eviction {
    /// What was used the longest ago.
    #[default]
    Lru,
    /// What is used least often, of what was used lately (TinyLFU; Einziger, Friedman and Manes 2017).
    Lfu,
}

/// What the cache did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Vectors that were kept.
    pub hits: u64,
    /// Vectors that were read.
    pub misses: u64,
    /// Bytes kept now.
    pub bytes: u64,
}

/// Of a file, by its number, a row.
type Place = (u64, u32);

/// See the module.
#[derive(Debug)]
pub struct VectorCache {
    kept: Option<Cache<Place, Arc<[f32]>>>,
    files: AtomicU64,
    on_disk: AtomicU64,
    is_needed: AtomicBool,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl VectorCache {
    /// An empty one.
    pub fn new(options: Options) -> VectorCache {
        let policy = match options.eviction {
            Eviction::Lru => EvictionPolicy::lru(),
            Eviction::Lfu => EvictionPolicy::tiny_lfu(),
        };
        let weight = |_: &Place, vector: &Arc<[f32]>| {
            u32::try_from(size_of_val::<[f32]>(vector) + OVERHEAD).unwrap_or(u32::MAX)
        };
        let kept = Cache::builder().max_capacity(options.bytes_max).weigher(weight).eviction_policy(policy);
        VectorCache {
            kept: (options.bytes_max > 0).then(|| kept.build()),
            files: AtomicU64::new(0),
            on_disk: AtomicU64::new(0),
            is_needed: AtomicBool::new(false),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The process's own. What it is like is said once, by who asks first.
    pub fn shared(options: impl FnOnce() -> Options) -> &'static VectorCache {
        SHARED.get_or_init(|| VectorCache::new(options()))
    }

    /// The process's own, if anybody said what it is like.
    pub fn known() -> Option<&'static VectorCache> {
        SHARED.get()
    }

    /// Registers a file of vectors that stays on disk, of so many bytes.
    pub fn file(&'static self, bytes: u64) -> VectorFile {
        self.registered(bytes, None)
    }

    /// The same of a file that is mapped whole, with rows of so many bytes.
    pub fn mapped(&'static self, map: &Arc<Mmap>, row_bytes: usize) -> VectorFile {
        self.registered(map.len() as u64, Some((map.clone(), row_bytes)))
    }

    fn registered(&'static self, bytes: u64, map: Option<(Arc<Mmap>, usize)>) -> VectorFile {
        self.on_disk.fetch_add(bytes, Ordering::Relaxed);
        VectorFile { cache: self, number: self.files.fetch_add(1, Ordering::Relaxed), bytes, map }
    }

    /// Decides whether it is worth its while in a process that may use so many bytes; zero: not known.
    pub fn weigh(&self, limit: u64) {
        let is_needed = self.kept.is_some() && limit > 0 && self.on_disk.load(Ordering::Relaxed) > limit / 2;
        if self.is_needed.swap(is_needed, Ordering::Relaxed) && !is_needed {
            self.clear();
        }
    }

    /// Lets go of everything.
    pub fn clear(&self) {
        if let Some(kept) = &self.kept {
            kept.invalidate_all();
        }
    }

    /// What it did so far.
    pub fn figures(&self) -> Figures {
        let (hits, misses) = (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed));
        Figures { hits, misses, bytes: self.kept.as_ref().map_or(0, Cache::weighted_size) }
    }
}

/// An open file of vectors that stay on disk.
#[derive(Debug)]
pub struct VectorFile {
    cache: &'static VectorCache,
    number: u64,
    bytes: u64,
    /// What the disk is asked through, and a row's bytes.
    map: Option<(Arc<Mmap>, usize)>,
}

impl VectorFile {
    /// These vectors, in their order: those that are kept, and the others as `read` gives them, which are kept then. The disk is asked
    /// for all of those at once, so that they are waited for together. None if all of them are best read where they are.
    pub fn vectors<'a>(&self, rows: &[u32], read: impl Fn(u32) -> &'a [f32]) -> Option<Vec<Arc<[f32]>>> {
        let kept = self.cache.kept.as_ref().filter(|_| self.cache.is_needed.load(Ordering::Relaxed))?;
        let mut vectors: Vec<Option<Arc<[f32]>>> =
            rows.iter().map(|row| kept.get(&(self.number, *row))).collect();
        let missed = || rows.iter().zip(&vectors).filter(|(_, vector)| vector.is_none()).map(|(row, _)| *row);
        let misses = missed().count() as u64;
        if misses > 1
            && let Some((map, row_bytes)) = &self.map
        {
            missed().for_each(|row| map.ask(row as usize * row_bytes, *row_bytes));
        }
        let vectors = rows.iter().zip(&mut vectors).map(|(row, vector)| {
            vector.take().unwrap_or_else(|| {
                let vector: Arc<[f32]> = read(*row).into();
                kept.insert((self.number, *row), vector.clone());
                vector
            })
        });
        let vectors: Vec<Arc<[f32]>> = vectors.collect();
        self.cache.misses.fetch_add(misses, Ordering::Relaxed);
        self.cache.hits.fetch_add(rows.len() as u64 - misses, Ordering::Relaxed);
        Some(vectors)
    }
}

impl Drop for VectorFile {
    fn drop(&mut self) {
        self.cache.on_disk.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::index::codes::scan::rescore;
    use crate::index::{Distance, Rows, Stats};

    fn cache(bytes_max: u64, eviction: Eviction) -> &'static VectorCache {
        Box::leak(Box::new(VectorCache::new(Options { bytes_max, eviction })))
    }

    const DIMS: usize = 16;

    fn data(rows: usize) -> Vec<f32> {
        (0..rows * DIMS).map(|value| value as f32).collect()
    }

    #[test]
    fn what_is_kept_is_what_was_read_and_stays_within_its_bound() {
        for eviction in [Eviction::Lru, Eviction::Lfu] {
            let cache = cache(100 * (DIMS * 4 + OVERHEAD) as u64, eviction);
            let (data, other) = (data(1_000), vec![7.0; 1_000 * DIMS]);
            let row = |row: u32| &data[row as usize * DIMS..][..DIMS];
            let file = cache.file(64_000);
            assert!(file.vectors(&[1], row).is_none(), "memory is not known to be short");
            cache.weigh(100_000);
            for round in 0..5_u32 {
                let rows: Vec<u32> = (0..1_000).map(|n| (n * 7 + round) % 1_000).collect();
                let vectors = file.vectors(&rows, row).unwrap();
                assert!(rows.iter().zip(&vectors).all(|(at, vector)| vector[..] == *row(*at)));
            }
            let figures = cache.figures();
            assert_eq!(figures.hits + figures.misses, 5_000);
            assert!(figures.misses >= 4_000, "{figures:?}");
            // Another file has vectors of its own at the same rows.
            let second = cache.file(64_000);
            let vectors = second.vectors(&[3], |at| &other[at as usize * DIMS..][..DIMS]).unwrap();
            assert_eq!(vectors[0][..], [7.0; DIMS]);
            cache.kept.as_ref().unwrap().run_pending_tasks();
            assert!(cache.figures().bytes <= 100 * (DIMS * 4 + OVERHEAD) as u64);
        }
    }

    #[test]
    fn what_is_ordered_by_kept_vectors_is_what_is_ordered_by_the_rows() {
        let mut draw = SmallRng::seed_from_u64(0x5EED);
        let data: Vec<f32> = (0..500 * DIMS).map(|_| draw.random_range(-1.0..1.0)).collect();
        let rows = Rows::new(&data, DIMS).unwrap();
        let cache = cache(200 * (DIMS * 4 + OVERHEAD) as u64, Eviction::Lru);
        let file = cache.file(data.len() as u64 * 4);
        cache.weigh(1_000);
        for distance in [Distance::Euclidean, Distance::Manhattan, Distance::Dot, Distance::Cosine] {
            for _ in 0..50 {
                let query: Vec<f32> = (0..DIMS).map(|_| draw.random_range(-1.0..1.0)).collect();
                let best: Vec<u32> =
                    (0..draw.random_range(0..90)).map(|_| draw.random_range(0..500)).collect();
                let found =
                    |rows| rescore(rows, distance, &query, 10, best.iter().copied(), &mut Stats::default());
                assert_eq!(found(rows), found(rows.of_file(Some(&file))), "{distance:?}");
            }
        }
        let figures = cache.figures();
        assert!(figures.hits > 500 && figures.misses > 500, "{figures:?}");
    }

    #[test]
    fn what_is_missed_of_a_mapped_file_is_asked_for_and_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vectors");
        let data = data(1_000);
        crate::env::fs::write_atomic(&path, bytemuck::cast_slice(&data)).unwrap();
        let map = Arc::new(Mmap::open(&path).unwrap());
        let cache = cache(1 << 20, Eviction::Lru);
        let file = cache.mapped(&map, DIMS * 4);
        cache.weigh(1_000);
        let values: &[f32] = bytemuck::cast_slice(&map);
        let row =
            |row: u32| values.get(row as usize * DIMS..).and_then(|rest| rest.get(..DIMS)).unwrap_or(&[]);
        for rows in [&[][..], &[3], &[999, 3, 500, 500], &[1_000, u32::MAX, 0]] {
            let vectors = file.vectors(rows, row).unwrap();
            let whole = |at: u32| &data[at as usize * DIMS..][..DIMS];
            let wanted = rows.iter().map(|at| if *at < 1_000 { whole(*at) } else { &[] });
            assert!(wanted.eq(vectors.iter().map(|vector| &vector[..])), "{rows:?}");
        }
        assert_eq!((cache.figures().hits, cache.figures().misses), (1, 7));
    }

    #[test]
    fn hot_vectors_are_kept_and_everything_is_let_go_of() {
        let cache = cache(1 << 20, Eviction::Lru);
        let (data, file) = (data(10), cache.file(1_000));
        let row = |row: u32| &data[row as usize * DIMS..][..DIMS];
        cache.weigh(1_000);
        (0..10).for_each(|_| drop(file.vectors(&[1, 2, 3], row)));
        assert_eq!((cache.figures().hits, cache.figures().misses), (27, 3));
        cache.clear();
        drop(file.vectors(&[1], row));
        assert_eq!(cache.figures().misses, 4);
        // Closed files do not count.
        drop(file);
        cache.weigh(1_000);
        assert!(cache.file(10).vectors(&[1], row).is_none());
        assert!(VectorCache::new(Options { bytes_max: 0, eviction: Eviction::Lru }).kept.is_none());
    }
}
