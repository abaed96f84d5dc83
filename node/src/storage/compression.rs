//! How payloads are compressed where they lie. Each sealed segment says how its own are, so a setting is one for those to come.

/// See the module.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4: fast both ways.
    #[default]
    Lz4,
    /// Zstandard at a level, 1 to 22: smaller, and slower to write the higher it is.
    Zstd(i32),
}
