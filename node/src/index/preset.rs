//! The four named settings of the graph index.

use super::hnsw::Params;

/// A named trade between build time, memory and recall.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Preset {
    /// m 8, ef_construction 100, ef_search 50.
    Fast,
    /// m 16, ef_construction 200, ef_search 100.
    #[default]
    Balanced,
    /// m 32, ef_construction 400, ef_search 200.
    HighRecall,
    /// m 64, ef_construction 800, ef_search 400.
    MaximumRecall,
}

impl Preset {
    /// All presets, cheapest first.
    pub const ALL: [Self; 4] = [Self::Fast, Self::Balanced, Self::HighRecall, Self::MaximumRecall];

    /// The name that users write.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Balanced => "balanced",
            Self::HighRecall => "high_recall",
            Self::MaximumRecall => "maximum_recall",
        }
    }

    /// The preset of a name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|preset| preset.name() == name)
    }

    /// How to build the graph.
    pub fn params(self) -> Params {
        let (m, ef_construction) = match self {
            Self::Fast => (8, 100),
            Self::Balanced => (16, 200),
            Self::HighRecall => (32, 400),
            Self::MaximumRecall => (64, 800),
        };
        Params { m, ef_construction, seed: Params::SEED }
    }

    /// The default `ef` of a search.
    pub fn ef_search(self) -> usize {
        match self {
            Self::Fast => 50,
            Self::Balanced => 100,
            Self::HighRecall => 200,
            Self::MaximumRecall => 400,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip_and_search_is_half_of_construction() {
        for preset in Preset::ALL {
            assert_eq!(Preset::from_name(preset.name()), Some(preset));
            assert_eq!(preset.ef_search() * 2, usize::from(preset.params().ef_construction));
        }
        assert_eq!(Preset::from_name("turbo"), None);
    }
}
