//! Aggregations: what may be asked, and how what segments, partitions and replicas found becomes one answer.
//!
//! The router puts together what nodes counted apart, so what a value is, which group it makes and how two counts are added
//! stands here once: [`Datum`] is a value as aggregations see it, [`Aggregation`] a checked question, [`Tally`] what was counted.
//!
//! **Invariants.** Adding values and merging tallies gives the same, to the last bit, in any order and however the values were
//! spread: sums are exact until they are told ([`sum`]), and where a tally turns from exact values to an estimate
//! ([`quantiles`], [`distinct`]) depends on the values alone. The one exception is named: a partition that has more groups
//! than it can send leaves out the smallest, and [`Groups::error`] bounds what their counts may lack.
//!
//! What it does not do: read records (the node's query layer), or ask partitions (the router).

pub mod calendar;
mod datum;
pub mod distinct;
mod gaps;
mod moments;
pub mod quantiles;
mod spec;
pub mod sum;
mod tally;

pub use calendar::{Steps, Unit};
pub use datum::{Datum, GroupName, cut, time_value};
pub use distinct::Distinct;
pub use gaps::Room;
pub use moments::Moments;
pub use quantiles::Quantiles;
pub use spec::{Aggregation, Field, Kind, Metric, Named, Order, Span};
pub use tally::{Counted, Group, Groups, Tally, Unsound};
