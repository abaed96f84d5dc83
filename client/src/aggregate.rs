//! Aggregate: figures over records, and over groups of them.

use std::collections::BTreeMap;

use flotilla_proto::convert::{filter_to_wire, value_from_wire, value_to_wire};
use flotilla_proto::record::Value;
use flotilla_proto::v1;
pub use flotilla_proto::v1::aggregation::date_histogram::Unit;
use flotilla_proto::v1::aggregation::{
    self, Cardinality, DateHistogram, Histogram, Kind, Metric, Percentiles, Range, Ranges, Terms,
};
use flotilla_proto::v1::aggregation_result::{self, Kind as Told};

use crate::{Client, Error, Filter, Read, Result};

/// What to count: some aggregations by name, over the records that pass.
///
/// ```
/// use flotilla_client::{Aggregate, Aggregation, filter};
///
/// let by_owner = Aggregation::terms("owner").size(5).with("cores", Aggregation::sum("cpu"));
/// let ask = Aggregate::new().filter(filter::eq("power_state", "on")).with("owners", by_owner);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Aggregate {
    filter: Option<v1::Filter>,
    aggregations: BTreeMap<String, v1::Aggregation>,
    read: Read,
}

impl Aggregate {
    /// Nothing yet: at least one aggregation is needed.
    pub fn new() -> Aggregate {
        Aggregate::default()
    }

    /// Only over what passes `filter`.
    pub fn filter(mut self, filter: Filter) -> Aggregate {
        self.filter = Some(filter_to_wire(&filter));
        self
    }

    /// With this aggregation too.
    pub fn with(mut self, name: &str, aggregation: Aggregation) -> Aggregate {
        self.aggregations.insert(name.to_owned(), aggregation.0);
        self
    }

    /// Where and how fresh to read, as far as this read says otherwise than its client.
    pub fn read(mut self, read: Read) -> Aggregate {
        self.read = read;
        self
    }
}

/// One figure, or one way to group. See `flotilla/v1/aggregate.proto` for what each means exactly.
#[derive(Clone, Debug)]
pub struct Aggregation(v1::Aggregation);

impl Aggregation {
    pub(crate) fn into_wire(self) -> v1::Aggregation {
        self.0
    }

    fn new(field: &str, kind: Kind) -> Aggregation {
        Aggregation(v1::Aggregation {
            field: field.to_owned(),
            kind: Some(kind),
            aggregations: BTreeMap::new(),
        })
    }

    fn metric(field: &str, metric: Metric) -> Aggregation {
        Aggregation::new(field, Kind::Metric(metric.into()))
    }

    /// How many values the field has; of no field (""), how many records there are.
    pub fn count(field: &str) -> Aggregation {
        Aggregation::metric(field, Metric::Count)
    }

    /// The exact sum of the field's numbers.
    pub fn sum(field: &str) -> Aggregation {
        Aggregation::metric(field, Metric::Sum)
    }

    /// The mean.
    pub fn avg(field: &str) -> Aggregation {
        Aggregation::metric(field, Metric::Avg)
    }

    /// The least.
    pub fn min(field: &str) -> Aggregation {
        Aggregation::metric(field, Metric::Min)
    }

    /// The greatest.
    pub fn max(field: &str) -> Aggregation {
        Aggregation::metric(field, Metric::Max)
    }

    /// All of these.
    pub fn stats(field: &str) -> Aggregation {
        Aggregation::metric(field, Metric::Stats)
    }

    /// The values at these percents, 0 to 100; none named: the usual ones.
    pub fn percentiles(field: &str, percents: &[f64]) -> Aggregation {
        Aggregation::new(field, Kind::Percentiles(Percentiles { percents: percents.to_vec() }))
    }

    /// How many different values the field has.
    pub fn cardinality(field: &str) -> Aggregation {
        Aggregation::new(field, Kind::Cardinality(Cardinality {}))
    }

    /// A group for each value of the field: the ten largest, unless said otherwise.
    pub fn terms(field: &str) -> Aggregation {
        Aggregation::new(field, Kind::Terms(Terms::default()))
    }

    /// A group for each range of values, its end not in it; `None`: no bound.
    pub fn ranges(
        field: &str,
        ranges: impl IntoIterator<Item = (Option<Value>, Option<Value>)>,
    ) -> Aggregation {
        let range = |(from, to): (Option<Value>, Option<Value>)| Range {
            name: String::new(),
            from: from.as_ref().map(value_to_wire),
            to: to.as_ref().map(value_to_wire),
        };
        let ranges = ranges.into_iter().map(range).collect();
        Aggregation::new(field, Kind::Ranges(Ranges { ranges }))
    }

    /// Groups of numbers, `interval` wide.
    pub fn histogram(field: &str, interval: f64) -> Aggregation {
        Aggregation::new(field, Kind::Histogram(Histogram { interval, ..Default::default() }))
    }

    /// Groups of points in time, by the calendar in UTC.
    pub fn by_date(field: &str, unit: Unit) -> Aggregation {
        Aggregation::new(
            field,
            Kind::DateHistogram(DateHistogram { unit: unit.into(), ..Default::default() }),
        )
    }

    /// Groups of points in time, of so many milliseconds each.
    pub fn by_time(field: &str, interval_ms: u64) -> Aggregation {
        Aggregation::new(field, Kind::DateHistogram(DateHistogram { interval_ms, ..Default::default() }))
    }

    /// Of histograms: also the groups without a record that lie between others, at most 100,000. Of nothing else.
    pub fn with_empty(mut self) -> Aggregation {
        match &mut self.0.kind {
            Some(Kind::Histogram(asked)) => asked.with_empty = true,
            Some(Kind::DateHistogram(asked)) => asked.with_empty = true,
            _ => {}
        }
        self
    }

    /// Of terms: so many groups, 1 to 10,000. Of nothing else.
    pub fn size(mut self, size: u32) -> Aggregation {
        if let Some(Kind::Terms(terms)) = &mut self.0.kind {
            terms.size = size;
        }
        self
    }

    /// Of terms: by value and not the largest first. Of nothing else.
    pub fn in_order_of_values(mut self) -> Aggregation {
        if let Some(Kind::Terms(terms)) = &mut self.0.kind {
            terms.order = aggregation::terms::Order::Value.into();
        }
        self
    }

    /// Of terms: text by its first so many characters. Of nothing else.
    pub fn prefix(mut self, chars: u32) -> Aggregation {
        if let Some(Kind::Terms(terms)) = &mut self.0.kind {
            terms.prefix_chars = chars;
        }
        self
    }

    /// Within each group, this aggregation too.
    pub fn with(mut self, name: &str, aggregation: Aggregation) -> Aggregation {
        self.0.aggregations.insert(name.to_owned(), aggregation.0);
        self
    }
}

/// The answer to an [`Aggregate`].
#[derive(Clone, Debug, PartialEq)]
pub struct Aggregated {
    /// Records that pass the filter.
    pub count: u64,
    /// What was asked for, by name.
    pub results: BTreeMap<String, Figure>,
    /// Which partitions answered, and which did not.
    pub coverage: v1::Coverage,
}

/// The result of an aggregation.
#[derive(Clone, Debug, PartialEq)]
pub enum Figure {
    /// Of one metric; null where there is no number.
    Value(Value),
    /// Of all metrics.
    Stats {
        /// Values.
        count: u64,
        /// Their sum; none of points in time.
        sum: Option<Value>,
        /// Their mean.
        avg: Option<Value>,
        /// The least.
        min: Option<Value>,
        /// The greatest.
        max: Option<Value>,
    },
    /// Of percentiles.
    Percentiles {
        /// Percents and values.
        values: Vec<(f64, f64)>,
        /// How far a value may be off, as a part of itself; 0: exact.
        relative_error: f64,
    },
    /// Of a cardinality.
    Cardinality {
        /// Different values.
        value: u64,
        /// The standard error, as a part of it; 0: exact.
        relative_error: f64,
    },
    /// Of terms, ranges and histograms.
    Buckets {
        /// In the order of the answer.
        buckets: Vec<Bucket>,
        /// Records of groups that are not listed, counted in each of theirs.
        others: u64,
        /// The counts may be too small by so much; 0: exact.
        error_max: u64,
    },
}

/// A group of records.
#[derive(Clone, Debug, PartialEq)]
pub struct Bucket {
    /// Its value, where it begins, or its range's name.
    pub value: Value,
    /// Its records.
    pub count: u64,
    /// What was asked for within it.
    pub results: BTreeMap<String, Figure>,
}

impl Client {
    /// Counts over the records that pass.
    pub async fn aggregate(&self, collection: &str, ask: Aggregate) -> Result<Aggregated> {
        let Aggregate { filter, aggregations, read } = ask;
        let read = self.read(collection, read);
        let collection = collection.to_owned();
        let message = v1::AggregateRequest { collection, filter, aggregations, read: Some(read.to_wire()) };
        let send = |channel, request| async move { Client::records(channel).aggregate(request).await };
        let answer = self.repeated(message, read.preferred(), send).await?;
        Ok(Aggregated {
            count: answer.count,
            results: figures(answer.results)?,
            coverage: answer.coverage.unwrap_or_default(),
        })
    }
}

pub(crate) fn figures(results: BTreeMap<String, v1::AggregationResult>) -> Result<BTreeMap<String, Figure>> {
    results.into_iter().map(|(name, result)| Ok((name, figure(result)?))).collect()
}

fn figure(result: v1::AggregationResult) -> Result<Figure> {
    let one = |value: v1::Value| value_from_wire("result", value).map_err(Error::nonsense);
    let some = |value: Option<v1::Value>| value.map(one).transpose();
    Ok(match result.kind {
        None => Figure::Value(Value::Null),
        Some(Told::Value(value)) => Figure::Value(one(value)?),
        Some(Told::Stats(stats)) => Figure::Stats {
            count: stats.count,
            sum: some(stats.sum)?,
            avg: some(stats.avg)?,
            min: some(stats.min)?,
            max: some(stats.max)?,
        },
        Some(Told::Percentiles(told)) => Figure::Percentiles {
            values: told.percents.into_iter().zip(told.values).collect(),
            relative_error: told.relative_error,
        },
        Some(Told::Cardinality(told)) => {
            Figure::Cardinality { value: told.value, relative_error: told.relative_error }
        }
        Some(Told::Buckets(told)) => Figure::Buckets {
            buckets: told.buckets.into_iter().map(bucket).collect::<Result<_>>()?,
            others: told.others,
            error_max: told.error_max,
        },
    })
}

fn bucket(bucket: aggregation_result::Bucket) -> Result<Bucket> {
    let value = value_from_wire("bucket.value", bucket.value.unwrap_or_default()).map_err(Error::nonsense)?;
    Ok(Bucket { value, count: bucket.count, results: figures(bucket.results)? })
}
