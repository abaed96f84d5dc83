//! A filter over one segment: what the index knows of each part, and what is left to decide row by row.

use flotilla_proto::filter::{Compiled, Leaf};
use flotilla_proto::record::{Key, Payload};

use super::super::Fault;
use super::leaf::Leaves;
use crate::index::Bitset;

/// What is known about a condition: the rows that surely satisfy it, and those that may.
pub(super) struct Known {
    sure: Bitset,
    /// A superset of `sure`; `None`: nothing is undecided.
    maybe: Option<Bitset>,
}

impl Known {
    /// Every row is decided.
    pub(super) fn exactly(sure: Bitset) -> Known {
        Known { sure, maybe: None }
    }

    /// The rows of `maybe`, a superset of `sure`, that are not in `sure` are undecided.
    pub(super) fn between(sure: Bitset, maybe: Bitset) -> Known {
        let maybe = (maybe != sure).then_some(maybe);
        Known { sure, maybe }
    }

    fn maybe(&self) -> &Bitset {
        self.maybe.as_ref().unwrap_or(&self.sure)
    }

    fn and(&mut self, other: &Known) {
        if self.maybe.is_some() || other.maybe.is_some() {
            self.maybe.get_or_insert_with(|| self.sure.clone()).and(other.maybe());
        }
        self.sure.and(&other.sure);
    }

    fn or(&mut self, other: &Known) {
        if self.maybe.is_some() || other.maybe.is_some() {
            self.maybe.get_or_insert_with(|| self.sure.clone()).or(other.maybe());
        }
        self.sure.or(&other.sure);
    }

    fn not(self) -> Known {
        let without = |rows: &Bitset| {
            let mut rest = Bitset::full(rows.len());
            rest.and_not(rows);
            rest
        };
        Known { sure: without(self.maybe()), maybe: self.maybe.as_ref().map(|_| without(&self.sure)) }
    }

    fn is_hopeless(&self) -> bool {
        self.maybe().words().iter().all(|word| *word == 0)
    }

    fn is_certain(&self) -> bool {
        self.sure.count() == self.sure.len()
    }

    /// The rows that satisfy the condition; `decide` is asked about the undecided ones, in ascending order.
    pub(super) fn settle(self, mut decide: impl FnMut(u32) -> Result<bool, Fault>) -> Result<Bitset, Fault> {
        let mut rows = self.sure;
        if let Some(mut undecided) = self.maybe {
            undecided.and_not(&rows);
            for row in undecided.iter() {
                if decide(row)? {
                    rows.insert(row);
                }
            }
        }
        Ok(rows)
    }
}

/// A condition is looked up row by row if fewer than one row in so many is left to be decided.
const FEW: usize = 16;

/// Whether so many of a segment's rows are few.
pub(super) fn is_few(count: u64, rows: u32) -> bool {
    count.saturating_mul(FEW as u64) < u64::from(rows)
}

/// The parts of a conjunction, those first that find the fewest rows at the least cost.
fn cheapest_first<'a, 'b>(parts: &'b [Node<'a>], leaves: &Leaves) -> tantivy::Result<Vec<&'b Node<'a>>> {
    let mut costs = Vec::with_capacity(parts.len());
    for part in parts {
        let cost = match part {
            _ if parts.len() == 1 => 0,
            Node::Leaf(leaf) => leaves.cost(leaf)?,
            Node::Rows(rows) => rows.len() as u64,
            Node::All(_) | Node::Any(_) | Node::Not(_) => u64::MAX,
        };
        costs.push((cost, part));
    }
    costs.sort_by_key(|(cost, _)| *cost);
    Ok(costs.into_iter().map(|(_, part)| part).collect())
}

/// A filter whose keys were looked up in the segment.
pub(super) enum Node<'a> {
    All(Vec<Node<'a>>),
    Any(Vec<Node<'a>>),
    Not(Box<Node<'a>>),
    Leaf(&'a Leaf),
    /// The row is one of these, ascending.
    Rows(Vec<u32>),
}

impl<'a> Node<'a> {
    /// Looks the keys of `filter` up.
    pub(super) fn of(
        filter: &'a Compiled,
        row_of: &dyn Fn(&Key) -> Result<Option<u32>, Fault>,
    ) -> Result<Node<'a>, Fault> {
        let all = |parts: &'a [Compiled]| -> Result<Vec<Node<'a>>, Fault> {
            parts.iter().map(|part| Node::of(part, row_of)).collect()
        };
        Ok(match filter {
            Compiled::All(parts) => Node::All(all(parts)?),
            Compiled::Any(parts) => Node::Any(all(parts)?),
            Compiled::Not(part) => Node::Not(Box::new(Node::of(part, row_of)?)),
            Compiled::Leaf(leaf) => Node::Leaf(leaf),
            Compiled::Keys(keys) => {
                let mut rows = Vec::new();
                for key in keys {
                    rows.extend(row_of(key)?);
                }
                rows.sort_unstable();
                Node::Rows(rows)
            }
        })
    }

    /// What the index knows. At most one pair of sets per level of the filter is held at a time.
    pub(super) fn known(&self, leaves: &Leaves) -> tantivy::Result<Known> {
        Ok(match self {
            Node::All(parts) => {
                let mut parts = cheapest_first(parts, leaves)?.into_iter();
                let Some(first) = parts.next() else {
                    return Ok(Known::exactly(Bitset::full(leaves.rows())));
                };
                let mut known = first.known(leaves)?;
                for part in parts {
                    if known.is_hopeless() {
                        break;
                    }
                    let among = match part {
                        Node::Leaf(leaf) if is_few(known.maybe().count() as u64, leaves.rows) => {
                            leaves.among(leaf, known.maybe())?
                        }
                        _ => None,
                    };
                    match among {
                        Some(part) => known.and(&part),
                        None => known.and(&part.known(leaves)?),
                    }
                }
                known
            }
            Node::Any(parts) => {
                let mut known = Known::exactly(Bitset::new(leaves.rows()));
                for part in parts {
                    known.or(&part.known(leaves)?);
                    if known.is_certain() {
                        break;
                    }
                }
                known
            }
            Node::Not(part) => part.known(leaves)?.not(),
            Node::Leaf(leaf) => leaves.known(leaf)?,
            Node::Rows(rows) => Known::exactly(Bitset::with_rows(leaves.rows(), rows.iter().copied())),
        })
    }

    /// Whether a row with this payload passes.
    pub(super) fn matches(&self, row: u32, payload: &Payload) -> bool {
        match self {
            Node::All(parts) => parts.iter().all(|part| part.matches(row, payload)),
            Node::Any(parts) => parts.iter().any(|part| part.matches(row, payload)),
            Node::Not(part) => !part.matches(row, payload),
            Node::Leaf(leaf) => leaf.matches(payload),
            Node::Rows(rows) => rows.binary_search(&row).is_ok(),
        }
    }
}
