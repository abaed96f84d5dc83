//! A number for a filter, to look it up by.

use std::hash::{DefaultHasher, Hash as _, Hasher};

use super::{Compiled, Scalar, Test};

impl Scalar {
    fn print(&self, hasher: &mut impl Hasher) {
        match self {
            Scalar::Bool(truth) => truth.hash(hasher),
            Scalar::Int(whole) | Scalar::Time(whole) => whole.hash(hasher),
            // Of the two zeros, which are equal, one.
            Scalar::Float(float) => (float + 0.0).to_bits().hash(hasher),
            Scalar::Text(text) => text.hash(hasher),
        }
    }
}

impl Test {
    fn print(&self, hasher: &mut impl Hasher) {
        std::mem::discriminant(self).hash(hasher);
        match self {
            Test::In(wanted) => wanted.iter().for_each(|scalar| scalar.print(hasher)),
            Test::Range { from, to } => {
                for (bound, is_inclusive) in [from, to].into_iter().flatten() {
                    bound.print(hasher);
                    is_inclusive.hash(hasher);
                }
            }
            Test::Prefix(prefix) => prefix.hash(hasher),
            Test::Match { words, any } => (words, any).hash(hasher),
            Test::Phrase(words) => words.hash(hasher),
            // They are told apart when they are compared.
            Test::Glob(_) | Test::Exists | Test::OtherGroup(_) | Test::Within(_) => {}
        }
    }
}

impl Compiled {
    /// A number that equal filters have in common, and other ones hardly ever: what a filter is looked up by before it is compared.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.print(&mut hasher);
        hasher.finish()
    }

    fn print(&self, hasher: &mut impl Hasher) {
        std::mem::discriminant(self).hash(hasher);
        match self {
            Compiled::All(parts) | Compiled::Any(parts) => {
                parts.len().hash(hasher);
                parts.iter().for_each(|part| part.print(hasher));
            }
            Compiled::Not(part) => part.print(hasher),
            Compiled::Leaf(leaf) => {
                leaf.field.hash(hasher);
                leaf.test.print(hasher);
            }
            Compiled::Keys(keys) => keys.len().hash(hasher),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::filter::Filter;
    use crate::record::Value;
    use crate::schema::CollectionSpec;

    #[test]
    fn equal_filters_share_it_and_others_do_not() {
        let compiled = |filter: &Filter| Compiled::new(filter, &CollectionSpec::default()).unwrap();
        let equal = |field: &str, value: Value| Filter::Equal(field.into(), value);
        let zeros = [0.0, -0.0].map(|zero| compiled(&equal("a", Value::from(zero))));
        assert!(zeros[0] == zeros[1] && zeros[0].fingerprint() == zeros[1].fingerprint());
        let others = [
            equal("a", Value::from(1_i64)),
            equal("b", Value::from(1_i64)),
            equal("a", Value::from(2_i64)),
            equal("a", Value::from("1")),
            Filter::Not(Box::new(equal("a", Value::from(1_i64)))),
            Filter::All(vec![equal("a", Value::from(1_i64)), equal("b", Value::from(1_i64))]),
            Filter::Any(vec![equal("a", Value::from(1_i64)), equal("b", Value::from(1_i64))]),
        ];
        let prints: std::collections::BTreeSet<u64> =
            others.iter().map(|filter| compiled(filter).fingerprint()).collect();
        assert_eq!(prints.len(), others.len());
    }
}
