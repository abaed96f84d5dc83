//! The ladder: how far to retreat at which pressure. Pure.

/// How far the node has retreated. Each step includes those before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Step {
    /// There is room.
    #[default]
    Normal,
    /// Rows that grow in memory are sealed before they are many.
    SealEarly,
    /// Writes that would need memory are refused.
    RefuseWrites,
    /// No graph is begun and nothing is merged.
    StopBuilds,
    /// Caches are emptied and stay so; builds under way are given up.
    DropCaches,
    /// Nothing is kept for the next read, and fewer reads compute at a time.
    FromDisk,
}

/// Every step, in order.
pub const STEPS: [Step; 6] =
    [Step::Normal, Step::SealEarly, Step::RefuseWrites, Step::StopBuilds, Step::DropCaches, Step::FromDisk];

/// How far the pressure falls below where a step was taken until it is taken back.
const BACK: f64 = 0.1;

impl Step {
    /// The pressure from which on the step is taken.
    pub fn from(self) -> f64 {
        match self {
            Step::Normal => 0.0,
            Step::SealEarly => 0.7,
            Step::RefuseWrites => 0.8,
            Step::StopBuilds => 0.85,
            Step::DropCaches => 0.9,
            Step::FromDisk => 0.95,
        }
    }

    /// In words, for the log and for metrics.
    pub fn word(self) -> &'static str {
        match self {
            Step::Normal => "normal",
            Step::SealEarly => "seal_early",
            Step::RefuseWrites => "refuse_writes",
            Step::StopBuilds => "stop_builds",
            Step::DropCaches => "drop_caches",
            Step::FromDisk => "from_disk",
        }
    }

    /// Where to stand at this pressure, coming from here: up at once, back only once the pressure has fallen by a tenth below where
    /// the step was taken, so that nothing flaps.
    #[must_use]
    pub fn next(self, pressure: f64) -> Step {
        let reached = |least: f64| STEPS.iter().rev().find(|step| pressure >= step.from() - least).copied();
        let up = reached(0.0).unwrap_or_default();
        let kept = reached(BACK).unwrap_or_default();
        up.max(self.min(kept))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_taken_at_once_and_taken_back_late() {
        use Step::*;
        for (at, pressure, next) in [
            (Normal, 0.0, Normal),
            (Normal, 0.69, Normal),
            (Normal, 0.7, SealEarly),
            (Normal, 0.8, RefuseWrites),
            (Normal, 1.0, FromDisk),
            (Normal, 7.5, FromDisk),
            (SealEarly, 0.61, SealEarly),
            (SealEarly, 0.59, Normal),
            (RefuseWrites, 0.85, StopBuilds),
            (RefuseWrites, 0.71, RefuseWrites),
            (RefuseWrites, 0.69, SealEarly),
            (StopBuilds, 0.76, StopBuilds),
            (StopBuilds, 0.74, RefuseWrites),
            (StopBuilds, 0.9, DropCaches),
            (DropCaches, 0.81, DropCaches),
            (DropCaches, 0.79, StopBuilds),
            (FromDisk, 0.86, FromDisk),
            (FromDisk, 0.84, DropCaches),
            (FromDisk, 0.3, Normal),
        ] {
            assert_eq!(at.next(pressure), next, "{at:?} at {pressure}");
        }
    }

    #[test]
    fn the_way_up_and_back_passes_every_step_once() {
        let (mut at, mut way) = (Step::Normal, vec![Step::Normal]);
        let up = (0..=100).map(|percent| f64::from(percent) / 100.0);
        for pressure in up.clone().chain(up.rev()) {
            let next = at.next(pressure);
            if next != at {
                way.push(next);
            }
            at = next;
            assert_eq!(at.next(pressure), at, "it stays where it is at {pressure}");
        }
        let back = STEPS.iter().rev().skip(1).copied();
        assert_eq!(way, STEPS.iter().copied().chain(back).collect::<Vec<_>>());
    }
}
