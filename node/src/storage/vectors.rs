//! The stored form of a vector, and the one place where a vector turns into it and back.
//!
//! Every vector is kept as a run of 32-bit words, in the log, in memory and in files:
//!
//! * **dense**: a word for each component of 32 bits; of 16 bits two to a word, of 8 bits four, of one bit 32 (bit `i` is bit
//!   `i % 8` of byte `i / 8`). What is left of the last word is zero;
//! * **sparse**: for each pair a word that is the index and a word that is the value;
//! * **multi**: one dense vector behind the other.
//!
//! A word is an `f32` by its type and mere bits by its meaning: only the distance of the vector makes sense of it.
//!
//! **Cosine.** The index compares unit vectors of 32-bit components. A vector whose length is within [`UNIT_SLACK`] of 1 is
//! stored as it is; any other is divided by its length, and the length is kept so that a read can give back what was written
//! (to within rounding). Narrower components and those of several vectors are never scaled: their distance divides by the
//! lengths.

use flotilla_proto::record::Vector;
use flotilla_proto::schema::{self, Datatype, Form, VectorSpec};

use crate::index::distance::half::{from_half, to_half};
use crate::index::lists::pairs;
use crate::index::{Distance, Measure};

/// How far from 1 the length of a cosine vector may be for it to be stored unscaled.
pub const UNIT_SLACK: f64 = 1e-6;

/// Words of what rows are made of: a dense vector, one of several, or a pair of a sparse one.
pub fn words(spec: &VectorSpec) -> usize {
    let dims = spec.dims as usize;
    if spec.form == Form::Sparse {
        return 2;
    }
    match spec.form.datatype() {
        Datatype::F32 => dims,
        Datatype::F16 => dims.div_ceil(2),
        Datatype::I8 => dims.div_ceil(4),
        Datatype::Bit => dims.div_ceil(32),
    }
}

/// How two rows are compared; of pairs nothing.
pub fn distance(spec: &VectorSpec) -> Distance {
    let measure = match spec.distance {
        schema::Distance::Cosine => Measure::Angle,
        schema::Distance::Dot => Measure::Dot,
        schema::Distance::Euclidean => Measure::Euclidean,
        schema::Distance::Manhattan => Measure::Manhattan,
        schema::Distance::Hamming => return Distance::Hamming,
    };
    match (spec.form.datatype(), measure) {
        (Datatype::F16, measure) => Distance::Half(measure),
        (Datatype::I8, measure) => Distance::Byte(measure),
        (_, Measure::Angle) if matches!(spec.form, Form::Multi(_)) => Distance::Angle,
        (_, Measure::Angle) => Distance::Cosine,
        (_, Measure::Dot) => Distance::Dot,
        (_, Measure::Euclidean) => Distance::Euclidean,
        (_, Measure::Manhattan) => Distance::Manhattan,
    }
}

/// Whether vectors are brought to unit length.
pub fn is_scaled(spec: &VectorSpec) -> bool {
    distance(spec) == Distance::Cosine
}

/// The words of a vector that fits the spec, and what to multiply them with to get what the user wrote.
pub fn pack(spec: &VectorSpec, vector: &Vector) -> (Vec<f32>, f32) {
    match vector {
        Vector::Dense(values) if is_scaled(spec) => unit(values),
        vector => (query(spec, vector), 1.0),
    }
}

/// The words of a vector to search by, at the length that its user gave it.
pub fn query(spec: &VectorSpec, vector: &Vector) -> Vec<f32> {
    match vector {
        Vector::Dense(values) => narrowed(spec.form.datatype(), values),
        Vector::Sparse(pairs) => {
            pairs.iter().flat_map(|(index, value)| [f32::from_bits(*index), *value]).collect()
        }
        Vector::Multi(vectors) => {
            vectors.iter().flat_map(|values| narrowed(spec.form.datatype(), values)).collect()
        }
    }
}

/// The vector of such words.
pub fn unpack(spec: &VectorSpec, found: &[f32], norm: f32) -> Vector {
    let dims = spec.dims as usize;
    match spec.form {
        Form::Dense(datatype) => Vector::Dense(widened(datatype, found, dims, norm)),
        Form::Sparse => Vector::Sparse(pairs(found).collect()),
        Form::Multi(datatype) => {
            let vectors = found.chunks(words(spec).max(1));
            Vector::Multi(vectors.map(|values| widened(datatype, values, dims, norm)).collect())
        }
    }
}

/// Whether the words can be those of a vector of the spec.
pub fn fits(spec: &VectorSpec, found: &[f32]) -> bool {
    match spec.form {
        Form::Dense(_) => found.len() == words(spec),
        Form::Sparse => {
            found.len().is_multiple_of(2) && !found.is_empty() && pairs(found).is_sorted_by(|a, b| a.0 < b.0)
        }
        Form::Multi(_) => found.len().is_multiple_of(words(spec).max(1)) && !found.is_empty(),
    }
}

/// Whether a record has a list of rows rather than one.
pub fn is_list(spec: &VectorSpec) -> bool {
    !matches!(spec.form, Form::Dense(_))
}

/// The components packed into words.
fn narrowed(datatype: Datatype, values: &[f32]) -> Vec<f32> {
    match datatype {
        Datatype::F32 => values.to_vec(),
        Datatype::F16 => {
            let mut words = vec![0.0; values.len().div_ceil(2)];
            let halves: &mut [u16] = bytemuck::cast_slice_mut(&mut words);
            halves.iter_mut().zip(values).for_each(|(half, value)| *half = to_half(*value));
            words
        }
        Datatype::I8 => {
            let mut words = vec![0.0; values.len().div_ceil(4)];
            let bytes: &mut [i8] = bytemuck::cast_slice_mut(&mut words);
            bytes.iter_mut().zip(values).for_each(|(byte, value)| *byte = value.round_ties_even() as i8);
            words
        }
        Datatype::Bit => {
            let mut words = vec![0.0; values.len().div_ceil(32)];
            let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
            for (byte, values) in bytes.iter_mut().zip(values.chunks(8)) {
                let set = values.iter().enumerate().filter(|(_, value)| **value != 0.0);
                *byte = set.fold(0, |byte, (at, _)| byte | 1 << at);
            }
            words
        }
    }
}

fn widened(datatype: Datatype, words: &[f32], dims: usize, norm: f32) -> Vec<f32> {
    match datatype {
        Datatype::F32 if norm == 1.0 => words.to_vec(),
        Datatype::F32 => words.iter().map(|value| value * norm).collect(),
        Datatype::F16 => {
            let halves: &[u16] = bytemuck::cast_slice(words);
            halves.iter().take(dims).map(|half| from_half(*half)).collect()
        }
        Datatype::I8 => {
            let bytes: &[i8] = bytemuck::cast_slice(words);
            bytes.iter().take(dims).map(|byte| f32::from(*byte)).collect()
        }
        Datatype::Bit => {
            let bytes: &[u8] = bytemuck::cast_slice(words);
            let bits = bytes.iter().flat_map(|byte| (0..8).map(move |at| byte >> at & 1));
            bits.take(dims).map(f32::from).collect()
        }
    }
}

/// The vector at length 1, and its former length; unchanged, with 1, if it was of unit length or has no direction.
pub fn unit(values: &[f32]) -> (Vec<f32>, f32) {
    let length = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>().sqrt();
    if (length - 1.0).abs() <= UNIT_SLACK || length == 0.0 || !length.is_finite() {
        return (values.to_vec(), 1.0);
    }
    let scaled = values.iter().map(|v| (f64::from(*v) / length) as f32).collect();
    (scaled, (length as f32).max(f32::MIN_POSITIVE))
}

#[cfg(test)]
mod tests {
    use flotilla_proto::schema::IndexKind;

    use super::*;

    #[test]
    fn a_unit_vector_is_kept_to_the_bit() {
        let third = 1.0_f32 / 3.0_f32.sqrt();
        let (values, norm) = unit(&[third, third, third]);
        assert_eq!((values, norm), (vec![third; 3], 1.0));
        let (tiny, norm) = unit(&[1e-30, 0.0]);
        assert_eq!(tiny, [1.0, 0.0]);
        assert!(norm > 0.0);
    }

    #[test]
    fn narrow_components_come_back_rounded() {
        let spec = |datatype, distance, dims| VectorSpec {
            form: Form::Dense(datatype),
            ..VectorSpec::new(dims, distance, IndexKind::Flat)
        };
        let round = |spec: &VectorSpec, values: &[f32]| {
            let (words, norm) = pack(spec, &Vector::Dense(values.to_vec()));
            assert!(fits(spec, &words) && norm == 1.0);
            let vector = unpack(spec, &words, norm);
            (words.len(), vector.dense().unwrap().to_vec())
        };
        let half = spec(Datatype::F16, schema::Distance::Cosine, 3);
        assert_eq!(round(&half, &[0.1, -2.0, 65_504.0]), (2, vec![0.099_975_586, -2.0, 65_504.0]));
        let byte = spec(Datatype::I8, schema::Distance::Dot, 5);
        assert_eq!(round(&byte, &[-128.0, 127.0, 0.5, 1.5, -0.7]), (2, vec![-128.0, 127.0, 0.0, 2.0, -1.0]));
        let bit = spec(Datatype::Bit, schema::Distance::Hamming, 35);
        let values: Vec<f32> = (0..35).map(|n| f32::from(u8::from(n % 3 == 0))).collect();
        assert_eq!(round(&bit, &values), (2, values.clone()));
        let (words, _) = pack(&bit, &Vector::Dense(values));
        assert_eq!(bytemuck::cast_slice::<f32, u8>(&words)[0], 0b0100_1001, "the first eight");
    }

    #[test]
    fn lists_come_back_and_others_do_not_fit() {
        let sparse =
            VectorSpec { form: Form::Sparse, ..VectorSpec::new(0, schema::Distance::Dot, IndexKind::Flat) };
        let multi = VectorSpec {
            form: Form::Multi(Datatype::I8),
            ..VectorSpec::new(5, schema::Distance::Cosine, IndexKind::Flat)
        };
        let pairs = Vector::Sparse(vec![(0, 1.5), (0x7fc0_0001, -2.0), (u32::MAX, 0.0)]);
        let several = Vector::Multi(vec![vec![1.0, 2.0, 3.0, 4.0, -5.0], vec![0.0, 0.0, 1.0, 0.0, 0.0]]);
        for (spec, vector, words) in [(&sparse, pairs, 6), (&multi, several, 4)] {
            let (packed, norm) = pack(spec, &vector);
            assert_eq!((packed.len(), norm, unpack(spec, &packed, norm)), (words, 1.0, vector));
            assert!(fits(spec, &packed) && !fits(spec, &packed[1..]) && !fits(spec, &[]));
        }
        let falling: Vec<f32> =
            [(7, 1.0_f32), (7, 2.0)].iter().flat_map(|(i, v)| [f32::from_bits(*i), *v]).collect();
        assert!(!fits(&sparse, &falling));
    }
}
