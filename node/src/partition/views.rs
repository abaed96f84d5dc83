//! Views that answered lately, by their log index: bounded in number and age, because a view keeps segments alive.

use std::collections::VecDeque;
use std::time::Duration;

use flotilla_proto::ids::LogIndex;
use parking_lot::Mutex;

use crate::env::clock;
use crate::storage::View;

const VIEWS_MAX: usize = 64;
const AGE_MAX: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Default)]
pub struct Views {
    kept: Mutex<VecDeque<(clock::Instant, View)>>,
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

    /// The view of this log index, if it is still kept.
    pub fn find(&self, at: LogIndex) -> Option<View> {
        if at == 0 {
            return None;
        }
        let kept = self.kept.lock();
        kept.iter().rev().find(|(_, view)| view.at == at).map(|(_, view)| view.clone())
    }
}
