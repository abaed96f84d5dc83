//! Views that answered lately, by their log index: bounded in number and age, because a view keeps segments alive.
//!
//! The newest ones are kept anyway, for the second phase of a search. Those of **scans** are kept apart, as long as pages are
//! asked of them: a write between two pages would soon push them out.

use std::collections::VecDeque;
use std::time::Duration;

use flotilla_proto::ids::LogIndex;
use parking_lot::Mutex;

use crate::env::clock;
use crate::storage::View;

const VIEWS_MAX: usize = 64;
const AGE_MAX: Duration = Duration::from_secs(30);
/// Views of scans, at most; the one that was used the longest ago gives way.
const SCANS_MAX: usize = 32;
/// How long a scan's view waits for its next page.
const SCAN_IDLE_MAX: Duration = Duration::from_secs(60);

type Kept = VecDeque<(clock::Instant, View)>;

/// See the module.
#[derive(Default)]
pub struct Views {
    kept: Mutex<Kept>,
    /// By when they were used last.
    scans: Mutex<Kept>,
}

impl Views {
    /// Keeps the view, and gives it back. Two views of one log index say the same: the older one stays.
    pub fn keep(&self, view: View) -> View {
        let mut kept = self.kept.lock();
        while kept.front().is_some_and(|(since, _)| since.elapsed() > AGE_MAX) {
            kept.pop_front();
        }
        if kept.back().is_none_or(|(_, newest)| newest.at != view.at) {
            if kept.len() == VIEWS_MAX {
                kept.pop_front();
            }
            kept.push_back((clock::now(), view.clone()));
        }
        view
    }

    /// Keeps the view for the pages that follow.
    pub fn keep_for_scan(&self, view: &View) {
        let mut scans = self.scans.lock();
        let_go(&mut scans);
        scans.retain(|(_, known)| known.at != view.at);
        if scans.len() == SCANS_MAX {
            scans.pop_front();
        }
        scans.push_back((clock::now(), view.clone()));
    }

    /// Lets go of views that no scan came back for.
    pub fn expire(&self) {
        let_go(&mut self.scans.lock());
    }

    /// Lets go of views that are kept for the second phase of a search and older than this, and of those of scans too if `all`.
    pub fn let_go(&self, age_max: Duration, all: bool) {
        self.kept.lock().retain(|(since, _)| since.elapsed() < age_max);
        if all {
            self.scans.lock().clear();
        }
    }

    /// The view of this log index, if it is still kept.
    pub fn find(&self, at: LogIndex) -> Option<View> {
        if at == 0 {
            return None;
        }
        let find = |kept: &Mutex<Kept>| {
            let kept = kept.lock();
            kept.iter().rev().find(|(_, view)| view.at == at).map(|(_, view)| view.clone())
        };
        find(&self.scans).or_else(|| find(&self.kept))
    }
}

fn let_go(scans: &mut Kept) {
    while scans.front().is_some_and(|(used, _)| used.elapsed() > SCAN_IDLE_MAX) {
        scans.pop_front();
    }
}
