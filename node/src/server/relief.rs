//! Relief: looks at memory and disk some times a second, and makes room where they run short.
//!
//! What each step of the [ladder](crate::room::ladder) means is done here or asked of who does it: from `seal_early` on the largest
//! of the segments that grow is sealed, one after the other; from `refuse_writes` on writes are refused where they come in
//! ([`Room::admits`]) and states that answered a while ago are let go of; from `stop_builds` on workers begin nothing
//! ([`Room::may_build`]); `drop_caches` gives up builds under way and empties what is kept for the next asker; `from_disk` lets go of
//! every kept state too and computes half as many reads at a time. Sealed segments are read through maps, whose pages the kernel
//! drops by itself: once nothing else is kept, all that is answered comes from disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::env::{fs, task};
use crate::index::vector_cache::VectorCache;
use crate::partition::Replica;
use crate::partition::registry::Registry;
use crate::room::{Room, Step};

const EVERY: Duration = Duration::from_millis(250);
/// The disk and the processors are looked at once in so many times.
const SLOW_LOOKS: u64 = 4;
/// A segment that grows is sealed early if it has so many bytes.
const SEAL_LEAST: u64 = 1 << 20;
/// How old a state may be that is kept for the second phase of a search, while memory is short.
const VIEW_AGE_MAX: Duration = Duration::from_secs(2);

/// See the module.
pub(super) struct Relief {
    room: Arc<Room>,
    registry: Arc<Registry>,
    folder: PathBuf,
    /// Reads that may compute at one time, and how many of them are held back at the last step.
    reads: (Arc<Semaphore>, u32),
    held: Option<OwnedSemaphorePermit>,
}

impl Relief {
    /// Over the node's replicas and its data folder; of `reads` so many are held back at the last step.
    pub fn new(registry: Arc<Registry>, folder: &Path, reads: (Arc<Semaphore>, u32)) -> Relief {
        Relief { room: registry.room().clone(), registry, folder: folder.to_owned(), reads, held: None }
    }

    /// Runs until the task is aborted.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for look in 0_u64.. {
            ticks.tick().await;
            if look % SLOW_LOOKS == 0 {
                self.room.sample_cpu();
                self.look_at_disk().await;
            }
            let (before, now) = self.room.sample_memory();
            if let Some(vectors) = VectorCache::known() {
                vectors.weigh(self.room.memory().1);
            }
            self.tell(before, now);
            self.relieve(before, now).await;
        }
    }

    async fn look_at_disk(&self) {
        let folder = self.folder.clone();
        let looked = task::spawn_cpu(move || Ok((fs::free_bytes(&folder)?, fs::whole_bytes(&folder)?)));
        let looked: Result<std::io::Result<(u64, u64)>, _> = looked.await;
        match looked {
            Ok(Ok((free, whole))) => {
                if self.room.take_disk(free, whole) {
                    match self.room.has_disk() {
                        Err(why) => tracing::warn!(%why, "writes are refused"),
                        Ok(()) => tracing::info!(free, "the disk has room again: writes are taken"),
                    }
                }
            }
            Ok(Err(why)) => tracing::warn!(%why, "the disk does not say what is free"),
            Err(lost) => tracing::warn!(%lost, "the disk was not looked at"),
        }
    }

    fn tell(&self, before: Step, now: Step) {
        let ((used, limit), step) = (self.room.memory(), now.word());
        if now > before {
            tracing::warn!(used, limit, step, "memory is short");
        } else if now < before {
            tracing::info!(used, limit, step, "memory is less short");
        }
    }

    async fn relieve(&mut self, before: Step, now: Step) {
        if now < Step::FromDisk {
            self.held = None;
        }
        if now == Step::Normal {
            return;
        }
        let replicas = self.registry.serving();
        if now >= Step::DropCaches {
            self.registry.answers().clear();
            VectorCache::known().into_iter().for_each(VectorCache::clear);
            replicas.iter().for_each(|replica| replica.drop_caches());
        }
        if now >= Step::DropCaches && before < Step::DropCaches {
            replicas.iter().for_each(|replica| replica.give_up_builds());
        }
        if now == Step::FromDisk && self.held.is_none() {
            let (reads, count) = &self.reads;
            self.held = reads.clone().try_acquire_many_owned(*count).ok();
        }
        if now >= Step::RefuseWrites {
            let is_last = now == Step::FromDisk;
            let age_max = if is_last { Duration::ZERO } else { VIEW_AGE_MAX };
            replicas.iter().for_each(|replica| replica.let_go_of_views(age_max, is_last));
        }
        let largest =
            replicas.iter().map(|replica| (replica.growing_bytes(), replica)).max_by_key(|(bytes, _)| *bytes);
        if let Some((bytes, replica)) = largest.filter(|(bytes, _)| *bytes >= SEAL_LEAST) {
            seal(replica, bytes).await;
        }
    }
}

async fn seal(replica: &Replica, bytes: u64) {
    tracing::debug!(partition = replica.id().0, bytes, "sealed early, to free memory");
    if let Err(why) = replica.seal_early().await {
        tracing::debug!(partition = replica.id().0, %why, "the growing rows are not frozen");
    }
}
