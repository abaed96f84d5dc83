//! What runs on the simulated hosts: the product's own node and router, on simulated disks and connections.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use flotilla_node::server::{ClusterOptions, Node, Options};
use flotilla_port::{Bounds, Doors, Kind};
use flotilla_router::{Router, server};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::plan::Tuning;
use crate::{net, weather};

/// Ports of a node: for routers, and for other nodes. A router listens on the first.
pub const DATA: u16 = 15_002;
pub const PEERS: u16 = 15_003;
/// A node that has no cluster to join yet asks for this long.
const JOIN_WITHIN: Duration = Duration::from_secs(600);
/// How long a leader may take to hand over.
const STEP_ASIDE_MAX: Duration = Duration::from_secs(2);

/// A member as it is started, each time anew.
#[derive(Clone, Debug)]
pub struct Member {
    /// Its host name.
    pub name: String,
    /// Whom it asks to be taken in; none: it begins the cluster.
    pub seeds: Vec<String>,
    /// Whether it learns only.
    pub is_replica: bool,
    /// Its place in the row of shard nodes: the last go first.
    pub ordinal: Option<u32>,
    /// Its settings.
    pub tuning: Tuning,
}

/// What the storm may ask of nodes, and what they tell.
#[derive(Debug, Default)]
pub struct Desk {
    orders: Mutex<BTreeMap<String, Arc<Notify>>>,
    ready: Mutex<BTreeMap<String, u64>>,
    ends: Mutex<Vec<(String, String)>>,
    nodes: Mutex<BTreeMap<String, (u64, Weak<Node>)>>,
}

impl Desk {
    /// Asks a node to hand its leaderships over.
    pub fn step_aside(&self, name: &str) {
        if let Some(order) = self.orders.lock().get(name) {
            order.notify_one();
        }
    }

    /// The number of a node that is ready, by name.
    pub fn ready(&self) -> BTreeMap<String, u64> {
        self.ready.lock().clone()
    }

    fn introduce(&self, name: &str, node: &Arc<Node>) {
        let mut nodes = self.nodes.lock();
        let life = nodes.get(name).map_or(1, |(life, _)| life + 1);
        nodes.insert(name.to_owned(), (life, Arc::downgrade(node)));
    }

    /// The nodes that run: name, the number of the life that it is, and the node.
    pub fn running(&self) -> Vec<(String, u64, Arc<Node>)> {
        let nodes = self.nodes.lock();
        let running =
            nodes.iter().filter_map(|(name, (life, node))| Some((name.clone(), *life, node.upgrade()?)));
        running.collect()
    }

    /// Nodes whose process ended by itself, and why, since the last question.
    pub fn ended(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.ends.lock())
    }
}

impl Member {
    /// Its data folder, the root of its disk.
    pub fn folder(&self) -> PathBuf {
        PathBuf::from(format!("/simulated/{}", self.name))
    }

    fn options(&self) -> Options {
        let mut options = Options::new(self.folder().join("data"));
        self.tuning.apply(&mut options);
        options.address = format!("{}:{DATA}", self.name);
        options.cluster = Some(ClusterOptions {
            peer_address: format!("{}:{PEERS}", self.name),
            seeds: self.seeds.iter().map(|name| format!("{name}:{PEERS}")).collect(),
            is_replica: self.is_replica,
            ordinal: self.ordinal,
            join_within: JOIN_WITHIN,
            ..Default::default()
        });
        options
    }

    /// The process: it ends when it cannot begin.
    pub async fn run(self, desk: Arc<Desk>) -> turmoil::Result {
        let name = self.name.clone();
        weather::enter(&name);
        let order = Arc::new(Notify::new());
        desk.orders.lock().insert(name.clone(), order.clone());
        desk.ready.lock().remove(&name);
        if let Err(why) = self.serve(&desk, &order).await {
            tracing::info!(name, %why, "the process ends");
            desk.ends.lock().push((name, why));
        }
        Ok(())
    }

    async fn serve(self, desk: &Desk, order: &Notify) -> Result<(), String> {
        let text = |why: &dyn std::fmt::Display| why.to_string();
        let data = net::listen(DATA).await.map_err(|why| text(&why))?;
        let peers = net::listen(PEERS).await.map_err(|why| text(&why))?;
        let node = Node::open(self.options()).await.map_err(|why| text(&why))?;
        let node = Arc::new(node);
        desk.introduce(&self.name, &node);
        let doors = Doors::new(Bounds::default()).map_err(|why| text(&why))?;
        let (back, behind) = (doors.door(Kind::PEERS), node.for_peers().into_axum_router());
        let behind = tokio::spawn(async move { back.serve(peers, behind, std::future::pending()).await });
        let (door, front) = (doors.door(Kind::ROUTERS), node.in_process().into_axum_router());
        let front = tokio::spawn(async move { door.serve(data, front, std::future::pending()).await });
        if node.ready(JOIN_WITHIN).await.is_ok() {
            desk.ready.lock().insert(self.name.clone(), node.id().0);
        }
        let orders = async {
            loop {
                order.notified().await;
                node.step_aside(STEP_ASIDE_MAX).await;
            }
        };
        tokio::select! {
            ended = behind => Err(format!("the peer port ended: {ended:?}")),
            ended = front => Err(format!("the data port ended: {ended:?}")),
            () = orders => Ok(()),
        }
    }
}

/// The router's process.
pub async fn route(nodes: Vec<String>) -> turmoil::Result {
    let nodes = nodes.into_iter().map(|name| format!("{name}:{DATA}")).collect();
    let options = flotilla_router::Options { nodes, ..Default::default() };
    let router = Router::start(options, None, prometheus::Registry::new())?;
    let incoming = net::listen(DATA).await?;
    server::serve(incoming, router, server::Options::default(), std::future::pending())
        .await
        .map_err(|why| why.to_string())?;
    Ok(())
}
