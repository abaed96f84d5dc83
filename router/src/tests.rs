//! Every public call through the real server, over a pipe, against a fake node.

mod aggregate;
mod cluster;
mod examples;
mod faults;
mod groups;
mod life;
mod pages;
mod prefixes;
mod tenants;
mod words;
mod writes;

use std::sync::Arc;

use flotilla_proto::convert::{filter_to_wire, key_to_wire, record_to_wire, spec_to_wire};
use flotilla_proto::filter::Filter;
use flotilla_proto::limits::MESSAGE_BYTES_MAX;
use flotilla_proto::record::{Key, Record};
use flotilla_proto::schema::{CollectionSpec, Distance, FieldType, IndexKind, VectorSpec};
use flotilla_proto::v1;
use flotilla_proto::v1::cluster_client::ClusterClient;
use flotilla_proto::v1::collections_client::CollectionsClient;
use flotilla_proto::v1::records_client::RecordsClient;
use flotilla_proto::v1::search_client::SearchClient;
use prometheus::Registry;
use tonic::transport::Channel;

use crate::fake::{Fake, SOON};
use crate::line::Line;
use crate::{Options, Router, inproc, server};

/// A router in front of one fake node, and clients of it.
struct House {
    fake: Fake,
    router: Arc<Router>,
    collections: CollectionsClient<Channel>,
    records: RecordsClient<Channel>,
    search: SearchClient<Channel>,
    cluster: ClusterClient<Channel>,
}

impl House {
    async fn new() -> House {
        let fake = Fake::new(1, &["inproc"]);
        let (connector, listener) = inproc::pair();
        fake.serve(listener);
        let router =
            Router::start(Options::default(), Some(Line::Wire(connector.channel().into())), Registry::new())
                .unwrap();
        router.ready(SOON).await.unwrap();
        let channel = server::in_process(router.clone(), server::Options::default());
        House {
            fake,
            router,
            collections: CollectionsClient::new(channel.clone()),
            records: RecordsClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX),
            search: SearchClient::new(channel.clone()),
            cluster: ClusterClient::new(channel),
        }
    }

    /// With the collection `vms` of three partitions.
    async fn with_collection() -> House {
        let mut house = House::new().await;
        let request = v1::CreateCollectionRequest { spec: Some(spec_to_wire(&spec("vms"))) };
        house.collections.create(request).await.unwrap();
        house
    }

    /// With records 0 to `count` in it: `cpu` = key % 4, vector on a line.
    async fn with_records(count: u64) -> House {
        let mut house = House::with_collection().await;
        for chunk in (0..count).collect::<Vec<u64>>().chunks(500) {
            house.records.upsert(upsert(chunk.iter().map(|n| record(*n)))).await.unwrap();
        }
        house
    }
}

fn spec(name: &str) -> CollectionSpec {
    let vector = VectorSpec::new(2, Distance::Euclidean, IndexKind::Flat);
    CollectionSpec {
        name: name.into(),
        vectors: [("default".into(), vector)].into(),
        fields: [("cpu".into(), FieldType::Integer)].into(),
        partitions: 3,
        strict: false,
        ..Default::default()
    }
}

fn record(n: u64) -> Record {
    Record::new(n).field("cpu", n as i64 % 4).vector("default", vec![n as f32, 0.0])
}

fn upsert(records: impl Iterator<Item = Record>) -> v1::UpsertRequest {
    let records = records.map(record_to_wire).collect();
    v1::UpsertRequest { collection: "vms".into(), records, ..Default::default() }
}

fn key(n: u64) -> v1::Key {
    key_to_wire(&Key::Number(n))
}

fn cpu(n: i64) -> Option<v1::Filter> {
    Some(filter_to_wire(&Filter::Equal("cpu".into(), n.into())))
}

fn number(record: &v1::Record) -> u64 {
    match record.key.as_ref().unwrap().kind {
        Some(v1::key::Kind::Number(n)) => n,
        _ => panic!("not a number: {record:?}"),
    }
}

fn nearest(x: f32, limit: u32) -> v1::SearchRequest {
    v1::SearchRequest {
        collection: "vms".into(),
        vector: Some(v1::Vector { values: vec![x, 0.0], ..Default::default() }),
        limit: Some(limit),
        ..Default::default()
    }
}

fn scan(limit: u32) -> v1::ScanRequest {
    v1::ScanRequest { collection: "vms".into(), limit, ..Default::default() }
}
