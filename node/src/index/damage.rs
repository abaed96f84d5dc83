//! What can be wrong with the bytes of an index.

/// Why bytes were refused. An index holds nothing that its rows do not: the caller rebuilds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Too short for a header, or not an index of this kind at all.
    #[error("these bytes are not an index of this kind")]
    Foreign,
    /// Written by a format that this build does not read.
    #[error("index format version {0} is not one this build reads")]
    Version(u32),
    /// The header contradicts itself or its checksum.
    #[error("the index header is damaged")]
    Header,
    /// The bytes are not as many as the header says.
    #[error("the index should be {expected} bytes long and is {actual}")]
    Length {
        /// Bytes the header asks for.
        expected: u64,
        /// Bytes there are.
        actual: u64,
    },
    /// A layer's checksum does not match.
    #[error("layer {0} of the index does not match its checksum")]
    Checksum(usize),
    /// A layer names a vertex that does not exist.
    #[error("layer {0} of the index names a vertex that does not exist")]
    Vertex(usize),
}
