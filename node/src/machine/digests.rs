//! The rolling digests at the last log indexes that a leader asked for, and for a while the views there.
//!
//! A `Digest` command is applied by every replica at one log index. What it leaves here is no state of the machine: it is
//! gone after a restart, and who asks then is told so and asks at a newer index. A view keeps segments alive, so views are
//! few and go after [`VIEW_AGE_MAX`]: whoever owns this calls [`Digests::expire`] after [`Digests::view_kept`].

use std::collections::VecDeque;
use std::time::Duration;

use flotilla_proto::ids::LogIndex;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::env::clock::{self, Instant};
use crate::storage::{Digest, View};

/// Digests remembered, at most.
const DIGESTS_MAX: usize = 16;
/// Views kept, at most.
const VIEWS_MAX: usize = 2;
/// How long a view waits for the one who asked for it.
pub const VIEW_AGE_MAX: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug, Default)]
pub struct Digests {
    held: Mutex<Held>,
    kept: Notify,
}

#[derive(Debug, Default)]
struct Held {
    rolling: VecDeque<(LogIndex, Digest)>,
    views: VecDeque<(Instant, View)>,
}

impl Digests {
    /// Remembers the digest of a view at `index`; the view itself too where it is to be read.
    pub fn record(&self, index: LogIndex, view: View, is_deep: bool) {
        let mut held = self.held.lock();
        held.rolling.retain(|(at, _)| *at != index);
        held.rolling.push_back((index, view.digest()));
        if held.rolling.len() > DIGESTS_MAX {
            held.rolling.pop_front();
        }
        if is_deep {
            held.views.push_back((clock::now(), view));
            if held.views.len() > VIEWS_MAX {
                held.views.pop_front();
            }
            self.kept.notify_one();
        }
    }

    /// The rolling digest at this log index, if it is still remembered.
    pub fn rolling(&self, index: LogIndex) -> Option<Digest> {
        self.held.lock().rolling.iter().find(|(at, _)| *at == index).map(|(_, digest)| *digest)
    }

    /// The view at this log index, if it is still kept.
    pub fn view(&self, index: LogIndex) -> Option<View> {
        self.held.lock().views.iter().find(|(_, view)| view.at == index).map(|(_, view)| view.clone())
    }

    /// Waits until a view was kept.
    pub async fn view_kept(&self) {
        self.kept.notified().await;
    }

    /// Lets go of the views that waited long enough. Whether others still wait.
    pub fn expire(&self) -> bool {
        let mut held = self.held.lock();
        held.views.retain(|(since, _)| since.elapsed() < VIEW_AGE_MAX);
        !held.views.is_empty()
    }
}
