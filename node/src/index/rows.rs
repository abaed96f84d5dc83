//! A borrowed block of vectors.

use super::vector_cache::VectorFile;

/// The most rows one block may have: row numbers share a word with a mark bit during a graph search.
pub const MAX_ROWS: usize = (1 << 31) - 1;

/// Vectors of equal length in one contiguous, row-major slice. Where the distance is one of narrower values, a row's words
/// hold those, packed, and its dims are its words.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    data: &'a [f32],
    dims: usize,
    file: Option<&'a VectorFile>,
}

/// The slice does not divide into rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{values} values are not whole rows of {dims} dims (or are more than {MAX_ROWS} rows)")]
pub struct Ragged {
    /// Values in the slice.
    pub values: usize,
    /// Dims asked for.
    pub dims: usize,
}

impl<'a> Rows<'a> {
    /// Looks at `data` as rows of `dims` values.
    ///
    /// # Errors
    /// [`Ragged`] when `dims` is 0, `data` is not a whole number of rows, or there are more than [`MAX_ROWS`].
    pub fn new(data: &'a [f32], dims: usize) -> Result<Self, Ragged> {
        if dims == 0 || !data.len().is_multiple_of(dims) || data.len() / dims > MAX_ROWS {
            return Err(Ragged { values: data.len(), dims });
        }
        Ok(Self { data, dims, file: None })
    }

    /// The same, of a file that stays on disk.
    #[must_use]
    pub fn of_file(self, file: Option<&'a VectorFile>) -> Self {
        Self { file, ..self }
    }

    /// The file, if they stay on disk.
    pub fn file(&self) -> Option<&'a VectorFile> {
        self.file
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.data.len() / self.dims
    }

    /// True when there are no rows.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Values per row.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// All values, row after row.
    pub fn data(&self) -> &'a [f32] {
        self.data
    }

    /// One row; an empty slice when there is no such row.
    #[inline]
    pub fn row(&self, row: u32) -> &'a [f32] {
        let start = row as usize * self.dims;
        self.data.get(start..start + self.dims).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divides_into_rows() {
        let data = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let rows = Rows::new(&data, 3).unwrap();
        assert_eq!((rows.len(), rows.dims()), (2, 3));
        assert_eq!(rows.row(1), &[4.0, 5.0, 6.0]);
        assert!(rows.row(2).is_empty());
        assert!(rows.row(u32::MAX).is_empty());
    }

    #[test]
    fn refuses_what_does_not_divide() {
        assert_eq!(Rows::new(&[1.0; 5], 2).unwrap_err(), Ragged { values: 5, dims: 2 });
        assert!(Rows::new(&[], 0).is_err());
        assert!(Rows::new(&[], 7).unwrap().is_empty());
    }
}
