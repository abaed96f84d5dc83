//! One bit per value of a row, and what its bits stand for.
//!
//! ```text
//! sketch     a bit per value, set where it is above zero, padded with zeros to a multiple of 8 bytes
//!            add, scale, error   f32 each, as beside links (see [`fan`](super::fan))
//!            ones     u32   how many bits are set
//!            zeros up to the next multiple of 16
//! ```
//!
//! With 384 dims a sketch is 64 bytes, one cache line.

/// Bytes of what stands behind the bits.
const FACTORS: usize = 16;

/// What a row's signs are worth.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Factors {
    /// What the row adds to each of its distances.
    pub add: f32,
    /// What a sum of signs is multiplied with to be a product.
    pub scale: f32,
    /// How far that is off, for a query of length one.
    pub error: f32,
}

/// A sketch where it lies.
#[derive(Clone, Copy, Debug)]
pub struct Sketch<'a> {
    /// Bits, lowest first, in words of 8 bytes.
    pub bits: &'a [u8],
    /// What they are worth.
    pub factors: Factors,
    /// How many are set.
    pub ones: u32,
}

/// Bytes of the bits.
pub fn bits_len(dims: usize) -> usize {
    dims.div_ceil(64) * 8
}

/// Bytes of a sketch.
pub fn len(dims: usize) -> usize {
    (bits_len(dims) + FACTORS).next_multiple_of(16)
}

/// Writes the sketch of a centred and rotated row of this length, which adds this to its distances.
pub fn write(row: &[f32], length: f32, add: f32, to: &mut [u8]) {
    let Some((bits, rest)) = to.split_at_mut_checked(bits_len(row.len())) else { return };
    let mut ones = 0;
    for (byte, eight) in bits.iter_mut().zip(row.chunks(8)) {
        *byte = eight.iter().enumerate().fold(0u8, |byte, (at, value)| byte | u8::from(*value > 0.0) << at);
        ones += byte.count_ones();
    }
    let dims = row.len() as f32;
    // The product of the row's direction and of its signs' direction.
    let alike = row.iter().map(|value| value.abs()).sum::<f32>() / (length * dims.sqrt());
    let (scale, error) = if alike > 0.0 && alike.is_finite() {
        let error = ((1.0 - alike * alike).max(0.0) / (alike * alike * (dims - 1.0).max(1.0))).sqrt();
        (length / (alike * dims.sqrt()), length * error)
    } else {
        (0.0, 0.0)
    };
    let words = [add.to_bits(), scale.to_bits(), error.to_bits(), ones];
    rest.chunks_exact_mut(4).zip(words).for_each(|(to, word)| to.copy_from_slice(&word.to_le_bytes()));
}

/// Reads a sketch of so many values; one that is not there is far from everything.
#[inline]
pub fn read(bytes: &[u8], dims: usize) -> Sketch<'_> {
    let parts = bytes.split_at_checked(bits_len(dims)).and_then(|(bits, rest)| {
        let [add, scale, error, ones] = *rest.as_chunks::<4>().0.first_chunk::<4>()?;
        let [add, scale, error] = [add, scale, error].map(f32::from_le_bytes);
        Some(Sketch { bits, factors: Factors { add, scale, error }, ones: u32::from_le_bytes(ones) })
    });
    let far = Factors { add: f32::INFINITY, scale: 0.0, error: 0.0 };
    parts.unwrap_or(Sketch { bits: &[], factors: far, ones: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let row: Vec<f32> = (0..70).map(|at| if at % 3 == 0 { 1.0 } else { -0.5 }).collect();
        let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
        let mut bytes = vec![0; len(70)];
        assert_eq!((bits_len(70), bytes.len()), (16, 32));
        write(&row, length, 0.25, &mut bytes);
        let sketch = read(&bytes, 70);
        assert_eq!((sketch.ones, sketch.factors.add), (24, 0.25));
        assert!((0..70).all(|at| sketch.bits[at / 8] >> (at % 8) & 1 == u8::from(at % 3 == 0)));
        // The row's own product is its length squared: what the scale makes of the sum of its signs' products.
        let own = sketch.factors.scale * row.iter().map(|value| value.abs()).sum::<f32>();
        assert!((own - length * length).abs() < 1e-3, "{own}");
    }

    #[test]
    fn nothing_is_far_away_and_a_row_without_length_is_itself() {
        assert_eq!(read(&[], 70).factors.add, f32::INFINITY);
        let mut bytes = vec![0; len(8)];
        write(&[0.0; 8], 0.0, 0.5, &mut bytes);
        assert_eq!(read(&bytes, 8).factors, Factors { add: 0.5, scale: 0.0, error: 0.0 });
    }
}
