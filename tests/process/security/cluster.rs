//! Inside a cluster: members know each other by certificates and by the cluster's key, and nobody else gets in.

use flotilla_client::{CollectionSpec, Distance, IndexKind, Key, Record, Search, VectorSpec};
use flotilla_security::tls::{DialOptions, Dialer, Pair};
use flotilla_tests::rpc;
use flotilla_tests::wait::eventually;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::certificates::Authority;
use super::*;

const CLUSTER_KEY: &str = "canary-cluster-key-0123456789";

fn member(folder: &Path, name: &str, more: &str) -> PathBuf {
    let at = |file: &str| folder.join(file).display().to_string();
    let text = format!(
        "security:\n  cluster_key_file: {}\n  peer_tls:\n    cert_file: {}\n    key_file: {}\n    ca_file: {}\n{more}",
        at("cluster-key"),
        at(&format!("{name}.pem")),
        at(&format!("{name}.key")),
        at("cluster.pem")
    );
    put(folder, &format!("{name}.yaml"), text)
}

fn node(folder: &Path, number: usize, config: &Path, seeds: &[String]) -> Process {
    let data = folder.join(format!("n{number}"));
    let mut args =
        vec!["node", "--data", utf8(&data), "--port", "0", "--peer-port", "0", "--config", utf8(config)];
    args.extend(seeds.iter().flat_map(|seed| ["--seed", seed.as_str()]));
    Process::start(&args)
}

/// A channel to this address, that shows this certificate.
async fn channel(to: SocketAddr, authority: &Authority, own: Option<(PathBuf, PathBuf)>) -> Option<Channel> {
    let own = own.map(|(cert_file, key_file)| Pair { cert_file, key_file });
    let dialer = Dialer::new(&DialOptions { ca_file: authority.file.clone(), own, expects: None }).unwrap();
    Endpoint::from_shared(format!("https://{to}")).unwrap().connect_with_connector(dialer).await.ok()
}

async fn code(channel: &Channel, method: &str, key: Option<&str>) -> Code {
    rpc::call_as(channel, method, vec![], key, CALL_WITHIN)
        .await
        .map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_by_certificate_and_key_serve_and_nobody_else_gets_in() {
    let _alone = crate::cluster::alone().await;
    let dir = crate::folder();
    let folder = dir.path();
    let (cluster, public) = (Authority::new(folder, "cluster"), Authority::new(folder, "public"));
    let strangers = Authority::new(folder, "strangers");
    let as_node = cluster.sign(folder, "node", Some("flotilla://node"));
    let as_router = cluster.sign(folder, "router", Some("flotilla://router"));
    let as_client = cluster.sign(folder, "client", None);
    let as_stranger = strangers.sign(folder, "stranger", Some("flotilla://node"));
    public.sign(folder, "front", None);
    put(folder, "cluster-key", CLUSTER_KEY);
    let keys = folder.join("keys.json");
    let app = key(&keys, "app", &["admin:docs"], &[]);
    let front = format!(
        "  api_keys_file: {}\n  tls:\n    cert_file: {}\n    key_file: {}\n",
        utf8(&keys),
        utf8(&folder.join("front.pem")),
        utf8(&folder.join("front.key"))
    );
    let (of_nodes, of_router) = (member(folder, "node", ""), member(folder, "router", &front));

    let mut nodes = vec![node(folder, 0, &of_nodes, &[])];
    let seeds = [nodes[0].peers().to_string()];
    nodes.extend([1, 2].map(|number| node(folder, number, &of_nodes, &seeds)));
    let data: Vec<String> = nodes.iter().map(|node| node.address().to_string()).collect();
    let mut args = vec!["router", "--port", "0", "--config", utf8(&of_router)];
    args.extend(data.iter().flat_map(|address| ["--node", address.as_str()]));
    let router = Process::start(&args);
    assert!(router.url().starts_with("https://") && nodes[0].url().starts_with("https://"));

    let client = client(&router.url(), Some(&app), Some(&public.file)).await.unwrap();
    let whole = async || {
        let (map, _) = client.describe().await.ok()?;
        (map.nodes.len() == 3 && map.meta.len() == 3).then_some(())
    };
    eventually("three nodes are in the meta group", SEEN_WITHIN, whole).await.unwrap();
    let spec = CollectionSpec {
        name: "docs".into(),
        vectors: [("default".into(), VectorSpec::new(2, Distance::Dot, IndexKind::default()))].into(),
        partitions: 2,
        replication_factor: 3,
        ..Default::default()
    };
    client.create_collection(&spec).await.unwrap();
    let record = |n: u64| Record::new(n).vector("default", vec![n as f32, 1.0]);
    client.upsert("docs", (0..50).map(record).collect()).await.unwrap();
    let found = client.search("docs", Search::new(vec![1.0, 0.0]).limit(1)).await.unwrap();
    assert_eq!(found.hits[0].record.key, Key::from(49_u64));

    let (peers, ports) = (nodes[0].peers(), nodes[0].address());
    let (peer, shard) = ("flotilla.peer.v1.Peer/Status", "flotilla.shard.v1.Meta/Describe");
    let good = Some(CLUSTER_KEY);
    for (who, at, own, method, key, expected) in [
        ("a node at the peer port", peers, Some(&as_node), peer, good, Some(Code::Ok)),
        ("a node without the key", peers, Some(&as_node), peer, None, Some(Code::Unauthenticated)),
        (
            "a node with an API key",
            peers,
            Some(&as_node),
            peer,
            Some(app.as_str()),
            Some(Code::Unauthenticated),
        ),
        ("a client at the peer port", peers, Some(&as_client), peer, good, Some(Code::PermissionDenied)),
        ("a router at the peer port", peers, Some(&as_router), peer, good, Some(Code::PermissionDenied)),
        ("nobody at the peer port", peers, None, peer, good, None),
        ("a stranger at the peer port", peers, Some(&as_stranger), peer, good, None),
        ("a router at the data port", ports, Some(&as_router), shard, good, Some(Code::Ok)),
        ("a client at the data port", ports, Some(&as_client), shard, good, Some(Code::PermissionDenied)),
        ("nobody at the data port", ports, None, shard, good, Some(Code::Unauthenticated)),
        ("a stranger at the data port", ports, Some(&as_stranger), shard, good, None),
        ("a probe at the data port", ports, None, "grpc.health.v1.Health/Check", None, Some(Code::Ok)),
    ] {
        let got = match channel(at, &cluster, own.cloned()).await {
            Some(channel) => Some(code(&channel, method, key).await),
            None => None,
        };
        // A handshake that the server refuses ends the connection, now or at its first call.
        let got = got.filter(|code| !matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled));
        assert_eq!(got, expected, "{who}");
    }

    drop(client);
    router.terminate();
    let mut logs = vec![router.drained()];
    nodes.iter().for_each(Process::terminate);
    logs.extend(nodes.into_iter().map(|node| node.service.stopped().unwrap()));
    for log in &logs {
        hold_no_secret(&[("a log", log.as_str())], &[CLUSTER_KEY, &app]);
    }
}
