//! Aggregations over several partitions.

use std::collections::BTreeMap;

use flotilla_proto::refusal::Refusal;
use flotilla_proto::v1::aggregation::{Kind, Metric, Percentiles, Terms, terms};
use tonic::Code;

use super::*;
use crate::fake::Fault;

fn wire(field: &str, kind: Kind) -> v1::Aggregation {
    v1::Aggregation { field: field.to_owned(), kind: Some(kind), aggregations: BTreeMap::new() }
}

fn request(name: &str, aggregation: v1::Aggregation) -> v1::AggregateRequest {
    let aggregations = [(name.to_owned(), aggregation)].into();
    v1::AggregateRequest { collection: "vms".into(), aggregations, ..Default::default() }
}

#[tokio::test]
async fn figures_of_all_partitions_are_one() {
    let mut house = House::with_records(200).await;
    let order = terms::Order::Value.into();
    let mut by_n = wire("cpu", Kind::Terms(Terms { size: 3, order, prefix_chars: 0 }));
    by_n.aggregations.insert("sum".into(), wire("cpu", Kind::Metric(Metric::Sum.into())));
    let mut ask = request("by_n", by_n);
    ask.aggregations.insert("all".into(), wire("cpu", Kind::Metric(Metric::Stats.into())));
    let answer = house.records.aggregate(ask).await.unwrap().into_inner();
    assert_eq!(answer.count, 200);
    let coverage = answer.coverage.unwrap();
    assert_eq!(coverage.partitions_asked, coverage.partitions_answered);
    let kind = |name: &str| answer.results[name].kind.clone().unwrap();
    let v1::aggregation_result::Kind::Stats(stats) = kind("all") else { panic!() };
    let value = |value: &v1::Value| flotilla_proto::convert::value_from_wire("v", value.clone()).unwrap();
    assert_eq!((stats.count, value(&stats.sum.unwrap())), (200, 300.into()));
    let v1::aggregation_result::Kind::Buckets(buckets) = kind("by_n") else { panic!() };
    let values: Vec<_> =
        buckets.buckets.iter().map(|b| (value(b.value.as_ref().unwrap()), b.count)).collect();
    assert_eq!(values, [(0.into(), 50), (1.into(), 50), (2.into(), 50)]);
    assert_eq!((buckets.others, buckets.error_max), (50, 0));
}

#[tokio::test]
async fn what_is_wrong_is_refused_before_a_node_is_asked() {
    let mut house = House::with_records(5).await;
    let mut refused = async |ask: v1::AggregateRequest| {
        let status = house.records.aggregate(ask).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        status.message().to_owned()
    };
    let nothing = v1::AggregateRequest { collection: "vms".into(), ..Default::default() };
    assert!(refused(nothing).await.contains("at least one is needed"));
    let fieldless = refused(request("a", wire("", Kind::Metric(Metric::Sum.into())))).await;
    assert!(fieldless.starts_with("aggregations.a.field: is missing"), "{fieldless}");
    let percents = Kind::Percentiles(Percentiles { percents: vec![50.0, f64::NAN] });
    let wrong = refused(request("p", wire("cpu", percents))).await;
    assert_eq!(wrong, "aggregations.p.percents: must be 0 to 100, got NaN");
    let size =
        refused(request("t", wire("cpu", Kind::Terms(Terms { size: 10_001, ..Terms::default() })))).await;
    assert_eq!(size, "aggregations.t.size: must be 1 to 10000, got 10001");
    let mut within = wire("cpu", Kind::Metric(Metric::Avg.into()));
    within.aggregations.insert("x".into(), wire("cpu", Kind::Metric(Metric::Avg.into())));
    assert!(refused(request("m", within)).await.contains("it makes no groups"));
    let mut deep = wire("cpu", Kind::Terms(Terms::default()));
    for _ in 0..3 {
        let inner = deep;
        deep = wire("cpu", Kind::Terms(Terms::default()));
        deep.aggregations.insert("d".into(), inner);
    }
    assert!(refused(request("d", deep)).await.contains("levels"));
    let kindless = v1::Aggregation { field: "cpu".into(), ..Default::default() };
    assert!(refused(request("k", kindless)).await.contains("what to compute is missing"));
    assert!(house.fake.seen("aggregate").is_empty());
}

#[tokio::test]
async fn a_partition_that_does_not_answer_is_told() {
    let mut house = House::with_records(50).await;
    house.fake.fault("aggregate", Fault::Refuse(Refusal::DataLoss("gone".into())));
    let ask = request("all", wire("", Kind::Metric(Metric::Count.into())));
    let refused = house.records.aggregate(ask.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");
}
