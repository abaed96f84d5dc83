//! Searches for words.

use crate::fulltext::{Clause, Kin, Need, TextQuery};
use crate::limits::{FUZZY_EDITS_MAX, TEXT_KIN_MAX, TEXT_QUERY_BYTES_MAX, TEXT_WORDS_MAX};
use crate::refusal::Violation;
use crate::schema::{CollectionSpec, at_most};
use crate::{shard, v1};

/// What a user asks for, checked.
pub fn text_query_from_wire(query: &v1::TextQuery, spec: &CollectionSpec) -> Result<TextQuery, Violation> {
    let need = match v1::TextOperator::try_from(query.operator) {
        Ok(_) if query.phrase => Need::Phrase,
        Ok(v1::TextOperator::Unspecified | v1::TextOperator::Any) => Need::Any,
        Ok(v1::TextOperator::All) => Need::All,
        Err(_) => return Err(Violation::range("text.operator", 0, 2, query.operator)),
    };
    TextQuery::new(spec, &query.field, &query.query, need, query.prefix_last, query.fuzzy_edits)
}

/// The clauses that a router counts or scores by.
pub fn clauses_from_wire(at: &str, clauses: Vec<shard::TextClause>) -> Result<Vec<Clause>, Violation> {
    at_most(at, "clauses", TEXT_WORDS_MAX, clauses.len())?;
    let terms = clauses.iter().map(|clause| clause.terms.len()).sum();
    at_most(at, "terms", TEXT_KIN_MAX + TEXT_WORDS_MAX, terms)?;
    let term = |term: shard::TextTerm| {
        at_most(at, "bytes of a term", TEXT_QUERY_BYTES_MAX, term.word.len())?;
        Ok((term.word, checked_edits(at, term.edits)?))
    };
    let clause = |clause: shard::TextClause| {
        if !clause.weight.is_finite() || clause.weight < 0.0 {
            return Err(Violation::new(at, format!("a weight is {}, not a number from 0", clause.weight)));
        }
        let terms = clause.terms.into_iter().map(term).collect::<Result<_, Violation>>()?;
        Ok(Clause { terms, weight: clause.weight })
    };
    clauses.into_iter().map(clause).collect()
}

/// A clause for a node.
pub fn clause_to_wire(clause: &Clause) -> shard::TextClause {
    let term = |(word, edits): &(String, u32)| shard::TextTerm { word: word.clone(), edits: *edits };
    shard::TextClause { terms: clause.terms.iter().map(term).collect(), weight: clause.weight }
}

/// The words whose kin a router wants listed.
pub fn kin_from_wire(at: &str, kin: Vec<shard::TextKin>) -> Result<Vec<Kin>, Violation> {
    at_most(at, "words", TEXT_WORDS_MAX, kin.len())?;
    let one = |kin: shard::TextKin| {
        at_most(at, "bytes of a word", TEXT_QUERY_BYTES_MAX, kin.word.len())?;
        let edits = checked_edits(at, kin.edits)?;
        Ok(Kin::new(&kin.word, kin.prefix, u8::try_from(edits).unwrap_or(0)))
    };
    kin.into_iter().map(one).collect()
}

/// A word whose kin is wanted, for a node.
pub fn kin_to_wire(kin: &Kin) -> shard::TextKin {
    shard::TextKin { word: kin.word().to_owned(), prefix: kin.is_prefix(), edits: kin.edits().into() }
}

fn checked_edits(at: &str, edits: u32) -> Result<u32, Violation> {
    if edits > FUZZY_EDITS_MAX {
        return Err(Violation::range(format!("{at}.edits"), 0, FUZZY_EDITS_MAX, edits));
    }
    Ok(edits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::FieldType;

    fn spec() -> CollectionSpec {
        let fields = [("subject", FieldType::Text), ("cpu", FieldType::Integer)];
        CollectionSpec {
            fields: fields.map(|(path, kind)| (path.to_owned(), kind)).into(),
            ..Default::default()
        }
    }

    fn query(field: &str, query: &str) -> v1::TextQuery {
        v1::TextQuery { field: field.into(), query: query.into(), ..Default::default() }
    }

    #[test]
    fn a_query_is_words_of_a_text_field() {
        let read = |query: &v1::TextQuery| text_query_from_wire(query, &spec()).unwrap();
        let exact = |words: &[&str]| words.iter().map(|word| Kin::new(word, false, 0)).collect::<Vec<_>>();
        let plain = read(&query("subject", "Disk full, disk"));
        assert_eq!((plain.need, plain.words), (Need::Any, exact(&["disk", "full"])));
        let all = v1::TextQuery { operator: 2, prefix_last: true, fuzzy_edits: 1, ..query("subject", "a b") };
        assert_eq!(read(&all).words, [Kin::new("a", false, 1), Kin::new("b", true, 1)]);
        assert_eq!(read(&all).need, Need::All);
        let phrase = v1::TextQuery { phrase: true, ..query("subject", "no no") };
        assert_eq!((read(&phrase).need, read(&phrase).words), (Need::Phrase, exact(&["no", "no"])));
    }

    #[test]
    fn hostile_queries_are_refused_by_field_limit_and_value() {
        let base = || query("subject", "a");
        for (wrong, told) in [
            (query("cpu", "a"), "text.field: `cpu` is declared as integer"),
            (query("other", "a"), "text.field: `other` is not declared"),
            (query("", "a"), "text.field: `` is not a dotted path"),
            (query("subject", ""), "text.query: at least one word is needed"),
            (query("subject", "?! …"), "text.query: at least one word is needed"),
            (query("subject", &"a ".repeat(65)), "text.query: 65 words, the limit is 64"),
            (query("subject", &"a".repeat(5_000)), "text.query: 5000 bytes, the limit is 4096"),
            (v1::TextQuery { fuzzy_edits: 3, ..base() }, "text.fuzzy_edits: must be 0 to 2, got 3"),
            (v1::TextQuery { fuzzy_edits: u32::MAX, ..base() }, "text.fuzzy_edits: must be 0 to 2"),
            (v1::TextQuery { fuzzy_edits: 1, phrase: true, ..base() }, "text.fuzzy_edits: is 1"),
            (v1::TextQuery { operator: 7, ..base() }, "text.operator: must be 0 to 2, got 7"),
        ] {
            let refused = text_query_from_wire(&wrong, &spec()).unwrap_err().to_string();
            assert!(refused.starts_with(told), "{refused} is not {told}");
        }
    }

    #[test]
    fn clauses_and_kin_survive_the_wire_within_their_bounds() {
        let clause = Clause { terms: vec![("disk".into(), 0), ("disc".into(), 1)], weight: 1.5 };
        assert_eq!(clauses_from_wire("c", vec![clause_to_wire(&clause)]), Ok(vec![clause]));
        let kin = Kin::new("disk", true, 2);
        assert_eq!(kin_from_wire("k", vec![kin_to_wire(&kin)]), Ok(vec![kin]));
        let term = |edits| shard::TextTerm { word: "a".into(), edits };
        let of = |terms, weight| clauses_from_wire("c", vec![shard::TextClause { terms, weight }]).is_err();
        assert!(of(vec![term(3)], 1.0) && of(vec![term(0); 1_065], 1.0));
        assert!(of(vec![], f64::NAN) && of(vec![], -1.0) && of(vec![], f64::INFINITY));
        assert!(clauses_from_wire("c", vec![shard::TextClause::default(); 65]).is_err());
        assert!(kin_from_wire("k", vec![shard::TextKin { edits: 3, ..Default::default() }]).is_err());
    }
}
