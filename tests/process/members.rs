//! A cluster out of one file of settings: every process is `flotilla up --config FILE`, and the file says what it is.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use flotilla_tests::cluster::ports;
use flotilla_tests::process::{Service, command};
use flotilla_tests::wait::eventually;

const SOON: Duration = Duration::from_secs(60);
const SHARDS: u8 = 3;

fn host(shard: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, shard + 1).into()
}

/// A file that holds for all of them, and where each keeps its records.
struct Fleet {
    dir: tempfile::TempDir,
    file: PathBuf,
    peer_port: u16,
}

impl Fleet {
    fn new() -> Fleet {
        let dir = crate::folder();
        let hosts: Vec<IpAddr> = (0..SHARDS).map(host).collect();
        let (port, peer_port) = (ports::free(&hosts).unwrap(), ports::free(&hosts).unwrap());
        let shard =
            |shard| format!("    - {{id: {shard}, address: \"{}:{port}\", weight: 1.5}}\n", host(shard));
        let shards: String = (0..SHARDS).map(shard).collect();
        let text = format!(
            "server:\n  port: {port}\ncluster:\n  enabled: true\n  partitions: 2\n  shards:\n{shards}  \
             sharding:\n    replication_factor: 2\n"
        );
        let file = dir.path().join("fleet.yaml");
        std::fs::write(&file, text).unwrap();
        Fleet { dir, file, peer_port }
    }

    fn up(&self, name: &str, flags: &[&str], variables: &[(&str, String)]) -> Service {
        let data = self.dir.path().join(name);
        let args = ["up", "--config", utf8(&self.file), "--data", utf8(&data)];
        let mut command = command(crate::binary(), &[&args, flags].concat());
        Service::spawn({
            command.envs(variables.iter().map(|(name, value)| (name, value)));
            command
        })
        .unwrap()
    }

    fn shard(&self, shard: u8) -> Service {
        let at = host(shard);
        let variables = [
            ("SHARD_ID", format!("fleet-shard-{shard}")),
            ("FLOTILLA_SERVER_BIND", at.to_string()),
            ("FLOTILLA_REPLICATION_BIND_ADDRESS", format!("{at}:{}", self.peer_port)),
        ];
        self.up(&format!("shard-{shard}"), &[], &variables)
    }
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The address in a ready line.
fn address(line: &str) -> &str {
    line.split(" on http://").nth(1).unwrap().split([',', ' ']).next().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_file_makes_a_cluster() {
    let fleet = Fleet::new();
    // Those that are not the first wait for it.
    let mut shards: Vec<Service> = [1, 2, 0].into_iter().map(|shard| fleet.shard(shard)).collect();
    for shard in &mut shards {
        let line = shard.ready_line().unwrap();
        assert!(line.starts_with("flotilla node "), "{line}");
    }
    let mode = [("FLOTILLA_CLUSTER_MODE", "router".to_owned())];
    let mut router = fleet.up("none", &["--port", "0"], &mode);
    let line = router.ready_line().unwrap();
    assert!(line.starts_with("flotilla router ready on "), "{line}");
    let router_at = address(&line).to_owned();

    let client = Api::connect(&format!("http://{router_at}")).await.unwrap();
    let spec = v1::CollectionSpec { partitions: 0, replication_factor: 0, ..api::collection("c", 4, vec![]) };
    let created = client.create(v1::CreateCollectionRequest { spec: Some(spec) }).await.unwrap();
    let spec = created.collection.unwrap().spec.unwrap();
    assert_eq!((spec.partitions, spec.replication_factor), (2, 2), "as the file says");
    client
        .put("c", (0..50).map(|n| api::record(api::number_key(n), vec![1.0; 4], vec![])).collect())
        .await
        .unwrap();

    // A replica knows the router only.
    let variables = [
        ("FLOTILLA_REPLICATION_ROLE", "replica".to_owned()),
        ("FLOTILLA_CLUSTER_ROUTER_ADDRESS", router_at),
        ("FLOTILLA_REPLICATION_BIND_ADDRESS", "127.0.0.1:0".to_owned()),
    ];
    let mut replica = fleet.up("replica", &["--port", "0"], &variables);
    let line = replica.ready_line().unwrap();
    assert!(line.starts_with("flotilla replica 4 ready on "), "{line}");

    // The first shard is the same member again, and begins nothing.
    shards.pop().unwrap().kill9();
    shards.push(fleet.shard(0));
    let line = shards[2].ready_line().unwrap();
    let map = client.placement().await.unwrap();
    assert_eq!(map.nodes.len(), usize::from(SHARDS) + 1);
    let first = map.nodes.iter().find(|node| node.ordinal == Some(0)).unwrap();
    assert!(line.starts_with(&format!("flotilla node {} ready", first.id)), "{line}");
    let weights: Vec<f64> =
        map.nodes.iter().filter(|node| node.ordinal.is_some()).map(|node| node.weight).collect();
    assert_eq!(weights, [1.5; SHARDS as usize]);
    eventually("all records are counted", SOON, async || {
        client.total("c", None).await.ok().filter(|total| *total == 50)
    })
    .await
    .unwrap();
}

#[test]
fn what_contradicts_itself_is_refused() {
    let fleet = Fleet::new();
    let refused = |args: &[&str], variables: &[(&str, &str)]| {
        let data = fleet.dir.path().join("refused");
        let all = [args, &["--config", utf8(&fleet.file), "--data", utf8(&data)]].concat();
        let mut command = command(crate::binary(), &all);
        command.envs(variables.iter().copied());
        let done = flotilla_tests::process::run(command).unwrap();
        assert_eq!(done.code, Some(1));
        done.stderr
    };
    let said = refused(&["up"], &[]);
    assert!(
        said.contains("cluster.shard_id: must be the id of one of cluster.shards, got nothing"),
        "{said}"
    );
    let said = refused(&["node"], &[("FLOTILLA_CLUSTER_MODE", "router")]);
    assert!(said.contains("cluster.mode is router: start it by flotilla router"), "{said}");
    let said = refused(&["up"], &[("FLOTILLA_CLUSTER_SHARDS", "0=here")]);
    assert!(said.contains(
        "environment FLOTILLA_CLUSTER_SHARDS: cluster.shards: address must be host:port, got here"
    ));
}
