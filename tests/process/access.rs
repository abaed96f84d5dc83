//! Who may call what, at the real ports: every method of the descriptors is served on the port that is its own and refused
//! on every other, and an empty message ends nothing and changes nothing.

use std::time::Duration;

use flotilla_proto::access::{RULES, Right};
use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use flotilla_tests::cluster::{Cluster, Shape};
use flotilla_tests::rpc;
use flotilla_tests::seed::unit_vector;
use tonic::{Code, Status};

const COLLECTION: &str = "kept";
const DIMS: usize = 4;
/// A stream that has said nothing for so long is served.
const SILENT: Duration = Duration::from_secs(2);

const HEALTH: &str = "grpc.health.v1.";

/// A port, and the services that it serves, by the start of their names.
struct Port {
    name: &'static str,
    api: Api,
    serves: &'static [&'static str],
}

impl Port {
    /// Calls the method with an empty message; what is wrong with the answer, if anything.
    async fn knock(&self, method: &str) -> Option<String> {
        let answer = rpc::call(&self.api.channel(), method, vec![], SILENT).await;
        let is_served = self.serves.iter().any(|service| method.starts_with(service));
        let is_right = match answer.as_ref().map_err(Status::code) {
            Err(Code::Unimplemented | Code::PermissionDenied) => !is_served,
            // A handler that panics ends the stream without a status of its own.
            Err(Code::Internal | Code::Unknown | Code::Cancelled) => false,
            _ => is_served,
        };
        let expected = if is_served { "it is to be served" } else { "it is to be refused" };
        (!is_right).then(|| format!("{method} on the {}: {expected}, got {answer:?}", self.name))
    }
}

/// What an empty message must not change.
async fn fingerprint(client: &Api) -> Vec<String> {
    let mut request = api::search(COLLECTION, unit_vector(77, DIMS), 10);
    (request.exact, request.with_payload) = (true, true);
    vec![
        format!("{:?}", client.list(v1::ListCollectionsRequest {}).await.unwrap()),
        format!("{:?}", client.scan_all(COLLECTION, None).await.unwrap()),
        format!("{:?}", client.search(request).await.unwrap().hits),
        format!("{:?}", client.placement().await.unwrap()),
        format!("{:?}", client.moves(v1::MovesRequest {}).await.unwrap()),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_is_served_on_its_own_port_and_refused_on_others() {
    let _alone = crate::cluster::alone().await;
    let mut cluster = Cluster::start(crate::binary(), Shape::of(1, 0, 1)).await.unwrap();
    let client = cluster.client().await.unwrap();
    let spec = Some(api::collection(COLLECTION, DIMS as u32, vec![("n", v1::FieldType::Integer)]));
    client.create(v1::CreateCollectionRequest { spec }).await.unwrap();
    cluster.led(COLLECTION, &[]).await.unwrap();
    let row = |n: u64| api::record(api::number_key(n), unit_vector(n, DIMS), vec![("n", api::int(n as i64))]);
    client.put(COLLECTION, (0..30).map(row).collect()).await.unwrap();

    let node = cluster.node(0);
    let peers = format!("http://{}", node.peer_address());
    let ports = [
        Port {
            name: "router's port",
            api: client.clone(),
            serves: &["flotilla.v1.", HEALTH, "grpc.reflection.v1."],
        },
        Port {
            name: "node's data port",
            api: Api::connect(&node.url()).await.unwrap(),
            serves: &["flotilla.shard.v1.", HEALTH],
        },
        Port {
            name: "node's peer port",
            api: Api::connect(&peers).await.unwrap(),
            serves: &["flotilla.peer.v1."],
        },
    ];
    let before = fingerprint(&client).await;
    let mut methods = rpc::methods().unwrap();
    methods
        .extend(RULES.iter().filter(|(_, right)| *right == Right::Open).map(|(name, _)| (*name).to_owned()));
    let mut wrong = Vec::new();
    for port in &ports {
        for method in &methods {
            wrong.extend(port.knock(method).await);
        }
        for unknown in ["flotilla.v1.Records/Nothing", "flotilla.v2.Records/Upsert", "x"] {
            let answer = rpc::call(&port.api.channel(), unknown, vec![], SILENT).await;
            if answer.as_ref().map_err(Status::code) != Err(Code::PermissionDenied) {
                wrong.push(format!("{unknown} on the {}: not denied: {answer:?}", port.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {} calls:\n{}", wrong.len(), methods.len() * 3, wrong.join("\n"));
    assert_eq!(before, fingerprint(&client).await, "an empty message changed something");
    println!("{} methods on {} ports", methods.len(), ports.len());
    drop((client, ports));
    cluster.terminate(0).await.unwrap();
}
