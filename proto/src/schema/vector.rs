//! A named vector of a collection: what its values are, how they are stored, and what a record's must be to fit.

use serde::{Deserialize, Serialize};

use super::{Distance, IndexKind, at_most};
use crate::limits::*;
use crate::record::Vector;
use crate::refusal::Violation;

/// How one component is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Datatype {
    /// 32 bits.
    #[default]
    F32,
    /// 16 bits: rounded to the nearest, -65,504 to 65,504.
    F16,
    /// 8 bits: rounded to the nearest whole number, -128 to 127.
    I8,
    /// One bit: 0 or 1.
    Bit,
}

impl Datatype {
    /// The word for it in messages and files.
    pub fn name(self) -> &'static str {
        match self {
            Datatype::F32 => "f32",
            Datatype::F16 => "f16",
            Datatype::I8 => "i8",
            Datatype::Bit => "bit",
        }
    }

    /// Refuses a component that has no place in the type, or one that is not finite.
    fn check(self, field: &str, at: usize, value: f32) -> Result<(), Violation> {
        let refused = |why: &str| Err(Violation::new(field, format!("component {at} is {value}, {why}")));
        match self {
            _ if !value.is_finite() => refused("not a finite number"),
            Datatype::F16 if value.abs() > F16_MAX => refused("f16 holds -65504 to 65504"),
            Datatype::I8 if !(-128.0..=127.0).contains(&value) => refused("i8 holds -128 to 127"),
            Datatype::Bit if value != 0.0 && value != 1.0 => refused("a bit is 0 or 1"),
            _ => Ok(()),
        }
    }

    /// The greatest magnitude that is stored as 0.
    fn vanishing(self) -> f32 {
        match self {
            Datatype::F32 | Datatype::Bit => 0.0,
            Datatype::F16 => 1.0 / (1 << 25) as f32,
            Datatype::I8 => 0.5,
        }
    }
}

/// The greatest number of 16 bits.
const F16_MAX: f32 = 65_504.0;

/// What a vector is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Form {
    /// A number for each dimension.
    Dense(Datatype),
    /// Pairs of index and value: any index of 32 bits, at most [`SPARSE_PAIRS_MAX`] at a time. Compared by product.
    Sparse,
    /// Several dense vectors of the same dimensions, at most [`MULTI_VECTORS_MAX`]. How similar two of them are is the sum,
    /// over the vectors of the query, of how similar the most similar vector of the record is.
    Multi(Datatype),
}

impl Default for Form {
    /// Dense, of 32 bits.
    fn default() -> Form {
        Form::Dense(Datatype::F32)
    }
}

impl Form {
    /// How its components are stored.
    pub fn datatype(self) -> Datatype {
        match self {
            Form::Dense(datatype) | Form::Multi(datatype) => datatype,
            Form::Sparse => Datatype::F32,
        }
    }

    /// The distance of a vector whose creator names none.
    pub fn distance(self) -> Distance {
        match self {
            Form::Sparse => Distance::Dot,
            Form::Dense(Datatype::Bit) | Form::Multi(Datatype::Bit) => Distance::Hamming,
            Form::Dense(_) | Form::Multi(_) => Distance::Cosine,
        }
    }

    /// The word for it in messages.
    pub fn name(self) -> &'static str {
        match self {
            Form::Dense(_) => "dense",
            Form::Sparse => "sparse",
            Form::Multi(_) => "multi",
        }
    }
}

/// A named vector of a collection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Kept", into = "Kept")]
pub struct VectorSpec {
    /// Components, 1 to [`DIMS_MAX`]; 0 of a sparse vector.
    pub dims: u32,
    /// How near two of them are.
    pub distance: Distance,
    /// How they are searched.
    pub index: IndexKind,
    /// What they are made of.
    pub form: Form,
}

/// A [`VectorSpec`] as catalogues and segments keep it. What was there before there were forms is written as it was then.
#[derive(Serialize, Deserialize)]
struct Kept {
    dims: u32,
    distance: KeptDistance,
    index: IndexKind,
}

#[derive(Serialize, Deserialize)]
enum KeptDistance {
    Cosine,
    Dot,
    Euclidean,
    Formed(Distance, Form),
}

impl From<VectorSpec> for Kept {
    fn from(spec: VectorSpec) -> Kept {
        let VectorSpec { dims, distance, index, form } = spec;
        let distance = match distance {
            Distance::Cosine if form == Form::default() => KeptDistance::Cosine,
            Distance::Dot if form == Form::default() => KeptDistance::Dot,
            Distance::Euclidean if form == Form::default() => KeptDistance::Euclidean,
            distance => KeptDistance::Formed(distance, form),
        };
        Kept { dims, distance, index }
    }
}

impl From<Kept> for VectorSpec {
    fn from(kept: Kept) -> VectorSpec {
        let (distance, form) = match kept.distance {
            KeptDistance::Cosine => (Distance::Cosine, Form::default()),
            KeptDistance::Dot => (Distance::Dot, Form::default()),
            KeptDistance::Euclidean => (Distance::Euclidean, Form::default()),
            KeptDistance::Formed(distance, form) => (distance, form),
        };
        VectorSpec { dims: kept.dims, distance, index: kept.index, form }
    }
}

impl VectorSpec {
    /// A dense vector of 32-bit components.
    pub fn new(dims: u32, distance: Distance, index: IndexKind) -> VectorSpec {
        VectorSpec { dims, distance, index, form: Form::default() }
    }

    /// Whether segments hold it as any version of the program can read it.
    pub fn is_of_old(&self) -> bool {
        !matches!(Kept::from(*self).distance, KeptDistance::Formed(..))
    }

    /// Whether a graph over it can have codes: they stand for products of 32-bit components.
    pub fn has_codes(&self) -> bool {
        let is_product = matches!(self.distance, Distance::Cosine | Distance::Dot | Distance::Euclidean);
        matches!(self.form, Form::Dense(Datatype::F32) | Form::Multi(Datatype::F32)) && is_product
    }

    /// The score that the API shows for a distance of the index. The only place where the one becomes the other.
    pub fn score(&self, distance: f32) -> f32 {
        match self.form {
            Form::Dense(_) | Form::Sparse => self.distance.score(distance),
            Form::Multi(_) => -distance,
        }
    }

    /// The largest distance that scores at least `score`: [`VectorSpec::score`] turned around, to the last bit. Below every
    /// distance if none does.
    pub fn farthest(&self, score: f32) -> f32 {
        match self.form {
            Form::Multi(_) => -score,
            Form::Dense(_) | Form::Sparse => self.distance.farthest(score).unwrap_or(f32::NEG_INFINITY),
        }
    }

    /// Bytes of one as a message carries it, at most, roughly.
    pub fn bytes_max(&self) -> usize {
        let numbers = match self.form {
            Form::Dense(_) => self.dims as usize,
            Form::Sparse => SPARSE_PAIRS_MAX * 2,
            Form::Multi(_) => MULTI_VALUES_MAX,
        };
        numbers * 4 + 64
    }

    pub(super) fn check(&self, name: &str) -> Result<(), Violation> {
        let field = |part: &str| format!("spec.vectors[{name}].{part}");
        if self.form == Form::Sparse {
            if self.dims != 0 {
                let why = format!("a sparse vector has no dimensions: leave it 0, got {}", self.dims);
                return Err(Violation::new(field("dims"), why));
            }
            if self.distance != Distance::Dot {
                return Err(Violation::new(field("distance"), "sparse vectors are compared by dot alone"));
            }
        } else if self.dims == 0 || self.dims > DIMS_MAX {
            return Err(Violation::range(field("dims"), 1, DIMS_MAX, self.dims));
        }
        if self.form == Form::Sparse && self.index != IndexKind::Flat {
            let why = "a sparse vector has no graph: leave the index away";
            return Err(Violation::new(field("index"), why));
        }
        if (self.distance == Distance::Hamming) != (self.form.datatype() == Datatype::Bit) {
            let why = "hamming is the distance of vectors of datatype bit, and their only one";
            return Err(Violation::new(field("distance"), why));
        }
        if let IndexKind::Lsh(lsh) = self.index {
            if self.form != Form::default() {
                let why = "hashes are of vectors of datatype f32";
                return Err(Violation::new(field("index"), why));
            }
            for (part, most, given) in
                [("coarse", LSH_COARSE_MAX, lsh.coarse), ("fine", LSH_FINE_MAX, lsh.fine)]
            {
                if given == 0 || given > most {
                    return Err(Violation::range(field(&format!("lsh.{part}")), 1, most, given));
                }
            }
        }
        if let Some(hnsw) = self.index.hnsw() {
            let field = |part: &str| field(&format!("hnsw.{part}"));
            if hnsw.m < M_RANGE.0 || hnsw.m > M_RANGE.1 {
                return Err(Violation::range(field("m"), M_RANGE.0, M_RANGE.1, hnsw.m));
            }
            for (part, ef) in [("ef_construction", hnsw.ef_construction), ("ef_search", hnsw.ef_search)] {
                if ef == 0 || ef > EF_MAX {
                    return Err(Violation::range(field(part), 1, EF_MAX, ef));
                }
            }
        }
        Ok(())
    }

    /// Refuses a vector, of a record or to search by, that is of another form or breaks a limit.
    pub fn check_vector(&self, field: &str, vector: &Vector) -> Result<(), Violation> {
        match (self.form, vector) {
            (Form::Dense(_), Vector::Dense(values)) => self.check_values(field, values),
            (Form::Sparse, Vector::Sparse(pairs)) => check_pairs(field, pairs),
            (Form::Multi(_), Vector::Multi(vectors)) => self.check_several(field, vectors),
            (form, vector) => {
                let (form, found) = (form.name(), vector.form_name());
                Err(Violation::new(field, format!("expected a {form} vector, got a {found} one")))
            }
        }
    }

    fn check_several(&self, field: &str, vectors: &[Vec<f32>]) -> Result<(), Violation> {
        if vectors.is_empty() {
            return Err(Violation::new(field, "a multivector holds at least 1 vector"));
        }
        at_most(field, "vectors", MULTI_VECTORS_MAX, vectors.len())?;
        at_most(field, "components in all", MULTI_VALUES_MAX, vectors.iter().map(Vec::len).sum())?;
        for (at, values) in vectors.iter().enumerate() {
            let field = format!("{field}[{at}]");
            self.check_values(&field, values)?;
            // Their lengths are divided by in 32 bits, where a dense vector's is taken once and in 64.
            let squared: f32 = values.iter().map(|value| value * value).sum();
            let is_divided = self.distance == Distance::Cosine && self.form.datatype() == Datatype::F32;
            if is_divided && squared < f32::MIN_POSITIVE {
                return Err(Violation::new(field, "the squared length is below the range of 32-bit floats"));
            }
        }
        Ok(())
    }

    /// Refuses components of the wrong number, that are not finite or have no place in the datatype, or without a
    /// direction where the distance needs one.
    pub fn check_values(&self, field: &str, values: &[f32]) -> Result<(), Violation> {
        if values.len() != self.dims as usize {
            return Err(Violation::new(
                field,
                format!("expected {} dimensions, got {}", self.dims, values.len()),
            ));
        }
        let datatype = self.form.datatype();
        values.iter().enumerate().try_for_each(|(at, value)| datatype.check(field, at, *value))?;
        let squared: f64 = values.iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
        if self.distance == Distance::Cosine && squared == 0.0 {
            return Err(Violation::new(field, "a zero vector has no direction, and the distance is cosine"));
        }
        if self.distance == Distance::Cosine && values.iter().all(|v| v.abs() <= datatype.vanishing()) {
            let name = datatype.name();
            let why =
                format!("rounded to {name} it is zero and has no direction, and the distance is cosine");
            return Err(Violation::new(field, why));
        }
        if !(squared as f32).is_finite() {
            return Err(Violation::new(field, "the squared length exceeds the range of 32-bit floats"));
        }
        Ok(())
    }
}

/// Refuses pairs that are none, too many, not by ascending index or not finite.
fn check_pairs(field: &str, pairs: &[(u32, f32)]) -> Result<(), Violation> {
    if pairs.is_empty() {
        return Err(Violation::new(field, "a sparse vector holds at least 1 index"));
    }
    at_most(field, "indices", SPARSE_PAIRS_MAX, pairs.len())?;
    if let Some(pair) = pairs.windows(2).find(|pair| pair[0].0 >= pair[1].0) {
        let (a, b) = (pair[0].0, pair[1].0);
        return Err(Violation::new(
            field,
            format!("indices must ascend, each once, but {a} comes before {b}"),
        ));
    }
    if let Some((index, value)) = pairs.iter().find(|(_, value)| !value.is_finite()) {
        let why = format!("the value of index {index} is {value}, not a finite number");
        return Err(Violation::new(field, why));
    }
    let squared: f64 = pairs.iter().map(|(_, v)| f64::from(*v) * f64::from(*v)).sum();
    if !(squared as f32).is_finite() {
        return Err(Violation::new(field, "the squared length exceeds the range of 32-bit floats"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Hnsw, Lsh};

    #[test]
    fn sparse_and_several_vectors_are_bounded_and_in_order() {
        let sparse = VectorSpec { form: Form::Sparse, ..VectorSpec::new(0, Distance::Dot, IndexKind::Flat) };
        sparse.check("v").expect("admitted");
        let refused = |spec: &VectorSpec, vector: Vector| {
            spec.check_vector("v", &vector).expect_err("refused").to_string()
        };
        let pairs = |pairs: &[(u32, f32)]| Vector::Sparse(pairs.to_vec());
        sparse.check_vector("v", &pairs(&[(0, 1.0), (7, -2.0), (u32::MAX, 0.0)])).expect("admitted");
        assert!(refused(&sparse, pairs(&[(7, 1.0), (3, 1.0)])).contains("7 comes before 3"));
        assert!(refused(&sparse, pairs(&[(7, 1.0), (7, 1.0)])).contains("7 comes before 7"));
        assert!(refused(&sparse, pairs(&[(7, f32::NAN)])).contains("index 7 is NaN"));
        assert!(refused(&sparse, pairs(&[(7, f32::MAX)])).contains("exceeds the range"));
        assert!(refused(&sparse, pairs(&[])).contains("at least 1"));
        let many = (0..=SPARSE_PAIRS_MAX as u32).map(|index| (index, 1.0)).collect();
        assert!(refused(&sparse, Vector::Sparse(many)).contains("16385 indices, the limit is 16384"));
        assert!(
            refused(&sparse, Vector::Dense(vec![1.0])).contains("expected a sparse vector, got a dense one")
        );
        for wrong in [VectorSpec { dims: 3, ..sparse }, VectorSpec { distance: Distance::Cosine, ..sparse }] {
            wrong.check("v").expect_err("refused");
        }
        let multi = |distance| VectorSpec {
            form: Form::Multi(Datatype::F32),
            ..VectorSpec::new(2, distance, IndexKind::Flat)
        };
        let (dot, cosine) = (multi(Distance::Dot), multi(Distance::Cosine));
        dot.check_vector("v", &Vector::Multi(vec![vec![1.0, 2.0], vec![0.0, 0.0]])).expect("admitted");
        assert!(refused(&dot, Vector::Multi(vec![])).contains("at least 1 vector"));
        assert!(refused(&dot, Vector::Multi(vec![vec![1.0; 2], vec![1.0]])).contains("v[1]: expected 2"));
        assert!(refused(&cosine, Vector::Multi(vec![vec![1e-25; 2]])).contains("below the range"));
        let many = Vector::Multi(vec![vec![1.0; 2]; MULTI_VECTORS_MAX + 1]);
        assert!(refused(&dot, many).contains("2049 vectors, the limit is 2048"));
        let wide = VectorSpec { dims: DIMS_MAX, ..dot };
        let many = Vector::Multi(vec![vec![1.0; DIMS_MAX as usize]; 5]);
        assert!(refused(&wide, many).contains("327680 components in all, the limit is 262144"));
        let graph = VectorSpec { index: IndexKind::default(), ..dot };
        graph.check("v").expect("admitted");
        let hashes = VectorSpec { index: IndexKind::Lsh(Lsh::default()), ..dot };
        assert!(hashes.check("v").expect_err("refused").to_string().contains("hashes are of"));
        let graph = VectorSpec { index: IndexKind::default(), ..sparse };
        assert!(graph.check("v").expect_err("refused").to_string().contains("has no graph"));
        assert_eq!((cosine.score(-1.5), cosine.farthest(1.5)), (1.5, -1.5));
    }

    #[test]
    fn what_was_there_before_forms_is_kept_as_it_was() {
        #[derive(Serialize, Deserialize)]
        enum FormerDistance {
            Cosine,
            Dot,
            Euclidean,
        }
        #[derive(Serialize, Deserialize)]
        struct Former(u32, FormerDistance, IndexKind);
        for (distance, former) in [
            (Distance::Cosine, FormerDistance::Cosine),
            (Distance::Dot, FormerDistance::Dot),
            (Distance::Euclidean, FormerDistance::Euclidean),
        ] {
            let spec = VectorSpec::new(384, distance, IndexKind::Hnsw(Hnsw::default()));
            let bytes = postcard::to_allocvec(&Former(384, former, spec.index)).unwrap();
            assert_eq!(postcard::to_allocvec(&spec).unwrap(), bytes);
            assert_eq!(postcard::from_bytes::<VectorSpec>(&bytes).unwrap(), spec);
            assert!(spec.is_of_old());
        }
        for form in [Datatype::F32, Datatype::F16, Datatype::I8].map(Form::Dense) {
            let spec = VectorSpec { form, ..VectorSpec::new(3, Distance::Manhattan, IndexKind::Flat) };
            let bytes = postcard::to_allocvec(&spec).unwrap();
            assert_eq!(postcard::from_bytes::<VectorSpec>(&bytes).unwrap(), spec);
            assert!(!spec.is_of_old());
        }
    }

    #[test]
    fn components_must_have_a_place_in_the_datatype() {
        let spec = |datatype, distance| VectorSpec {
            form: Form::Dense(datatype),
            ..VectorSpec::new(2, distance, IndexKind::Flat)
        };
        let refused = |datatype, distance, values: [f32; 2]| {
            spec(datatype, distance).check_values("v", &values).expect_err("refused").to_string()
        };
        let admitted = |datatype, distance, values: [f32; 2]| {
            spec(datatype, distance).check_values("v", &values).expect("admitted");
        };
        assert!(refused(Datatype::F16, Distance::Dot, [0.0, 65_505.0]).contains("component 1 is 65505"));
        admitted(Datatype::F16, Distance::Dot, [65_504.0, 1e-9]);
        assert!(refused(Datatype::F16, Distance::Cosine, [1e-9, -1e-9]).contains("rounded to f16"));
        assert!(refused(Datatype::I8, Distance::Dot, [-128.5, 0.0]).contains("i8 holds -128 to 127"));
        admitted(Datatype::I8, Distance::Manhattan, [-128.0, 127.0]);
        assert!(refused(Datatype::I8, Distance::Cosine, [0.5, -0.5]).contains("rounded to i8"));
        assert!(refused(Datatype::Bit, Distance::Hamming, [0.0, 0.5]).contains("a bit is 0 or 1"));
        admitted(Datatype::Bit, Distance::Hamming, [0.0, 1.0]);
        for (datatype, distance) in [(Datatype::Bit, Distance::Dot), (Datatype::F32, Distance::Hamming)] {
            assert!(spec(datatype, distance).check("v").unwrap_err().to_string().contains("hamming"));
        }
    }
}
