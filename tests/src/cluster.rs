//! A whole cluster as real processes: shard nodes, replicas and routers, each with its own ports and data folder.
//!
//! [`Cluster::start`] brings it up and waits until every member is in the placement map. A [`Member`] can then be killed,
//! stopped in its tracks, drained and started again where it was; what its process logged stays readable, and is printed when
//! the test fails. Questions about the inside (who leads, how far is a replica) go to the nodes' own status, not to a router.
//!
//! By default everything is on loopback. Nodes may be reached through links that misbehave ([`member::Links`]). On a [`network::Network`] each node has an address of its own, and links between
//! nodes can be cut.

pub mod disk;
pub mod member;
pub mod memory;
mod moves;
pub mod network;
pub mod ports;
pub mod tracer;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use flotilla_proto::{peer, v1};

use self::disk::Disk;
use self::member::{Launch, Member, Role};
use self::network::Network;
use crate::api::Api;
use crate::process::InFlight;
use crate::wait::eventually;

/// How long a cluster may take for what it does by itself: elect, join, catch up.
pub const SETTLES_WITHIN: Duration = Duration::from_secs(40);
/// Log lines of each member that a failing test shows.
const LOG_LINES: usize = 40;
/// A folder to which a failing test writes the whole logs.
const LOGS_VARIABLE: &str = "FLOTILLA_TEST_LOGS";

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Shard nodes.
    pub nodes: usize,
    /// Learner-only nodes.
    pub replicas: usize,
    /// Routers.
    pub routers: usize,
    /// Settings of every node, as YAML.
    pub settings: &'static str,
    /// Environment of every node.
    pub environment: Vec<(&'static str, String)>,
    /// The data folder of the first node, if it is to be one that is there already.
    pub first_folder: Option<PathBuf>,
    /// Data folders, by place, that are not to be in the cluster's own folder.
    pub elsewhere: BTreeMap<usize, PathBuf>,
    /// Whether others reach each node through links that misbehave when told to.
    pub has_links: bool,
    /// Whether shard nodes have ordinals: their places.
    pub has_ordinals: bool,
}

impl Shape {
    /// So many shard nodes, replicas and routers, with the ordinary settings.
    pub fn of(nodes: usize, replicas: usize, routers: usize) -> Shape {
        Shape {
            nodes,
            replicas,
            routers,
            settings: "",
            environment: vec![],
            first_folder: None,
            elsewhere: BTreeMap::new(),
            has_links: false,
            has_ordinals: false,
        }
    }
}

/// A running cluster. Every process ends with it.
pub struct Cluster {
    launch: Launch,
    dir: tempfile::TempDir,
    elsewhere: BTreeMap<usize, PathBuf>,
    nodes: Vec<Member>,
    routers: Vec<Member>,
}

impl Cluster {
    /// Starts a cluster on loopback and waits until it is whole.
    ///
    /// # Errors
    /// If a process does not get ready, or does not become a member.
    pub async fn start(binary: &Path, shape: Shape) -> anyhow::Result<Cluster> {
        Cluster::start_on(binary, shape, None).await
    }

    /// The same on a network whose links can be cut.
    ///
    /// # Errors
    /// If a process does not get ready, or does not become a member.
    pub async fn start_on(binary: &Path, shape: Shape, network: Option<Network>) -> anyhow::Result<Cluster> {
        let dir = tempfile::tempdir().context("a temporary folder")?;
        let config = dir.path().join("flotilla.yaml");
        std::fs::write(&config, shape.settings).context("writing the settings")?;
        let binary = binary.to_owned();
        let (environment, has_links) = (shape.environment.clone(), shape.has_links);
        let has_ordinals = shape.has_ordinals;
        let launch = Launch { binary, config, environment, network, has_links, has_ordinals };
        let elsewhere = shape.elsewhere.clone();
        let mut cluster = Cluster { launch, dir, elsewhere, nodes: vec![], routers: vec![] };
        cluster.add_first(shape.first_folder.clone()).await?;
        let roles = std::iter::repeat_n(Role::Node, shape.nodes.saturating_sub(1));
        let roles: Vec<Role> = roles.chain(std::iter::repeat_n(Role::Replica, shape.replicas)).collect();
        cluster.add(&roles).await?;
        for _ in 0..shape.routers {
            cluster.add_router().await?;
        }
        if shape.routers > 0 {
            cluster.is_whole(shape.nodes + shape.replicas).await?;
        }
        Ok(cluster)
    }

    async fn add_first(&mut self, folder: Option<PathBuf>) -> anyhow::Result<()> {
        let folder = folder.unwrap_or_else(|| self.folder(0));
        let mut first = Member::new(Role::Node, 0, folder, vec![]);
        first.start(&mut self.launch).await?;
        self.nodes.push(first);
        Ok(())
    }

    fn folder(&self, place: usize) -> PathBuf {
        let own = || self.dir.path().join(format!("node-{place}"));
        self.elsewhere.get(&place).cloned().unwrap_or_else(own)
    }

    /// Adds nodes and replicas that join by the first node; returns their places. All start at once.
    ///
    /// # Errors
    /// If one does not get ready.
    pub async fn add(&mut self, roles: &[Role]) -> anyhow::Result<Vec<usize>> {
        let seeds = vec!["--seed".to_owned(), self.nodes[0].advertised().1.to_string()];
        let begin = self.nodes.len();
        for role in roles {
            let place = self.nodes.len();
            let folder = self.folder(place);
            let mut member = Member::new(*role, place, folder, seeds.clone());
            member.spawn(&mut self.launch)?;
            self.nodes.push(member);
        }
        for place in begin..self.nodes.len() {
            self.nodes[place].ready(&mut self.launch).await?;
        }
        Ok((begin..self.nodes.len()).collect())
    }

    /// Adds a router that knows all nodes; returns its place.
    ///
    /// # Errors
    /// If it does not get ready.
    pub async fn add_router(&mut self) -> anyhow::Result<usize> {
        let place = self.routers.len();
        let shards = self.nodes.iter().filter(|node| node.role() == Role::Node);
        let known = shards.flat_map(|node| ["--node".to_owned(), node.advertised().0.to_string()]).collect();
        let folder = self.dir.path().join(format!("router-{place}"));
        let mut router = Member::new(Role::Router, place, folder, known);
        router.start(&mut self.launch).await?;
        self.routers.push(router);
        Ok(place)
    }

    /// Waits until so many nodes are in the placement map, and as many of them as can vote in the meta group.
    async fn is_whole(&self, nodes: usize) -> anyhow::Result<()> {
        let shards = self.nodes.iter().filter(|node| node.role() == Role::Node).count();
        let client = self.client().await?.within(Duration::from_secs(5));
        let what = format!("{nodes} nodes are in the map, {} in the meta group", shards.min(3));
        eventually(&what, SETTLES_WITHIN, async || {
            let map = client.placement().await.ok()?;
            (map.nodes.len() == nodes && map.meta.len() >= shards.min(3)).then_some(())
        })
        .await
    }

    /// A node or replica, by its place: shard nodes first.
    pub fn node(&self, place: usize) -> &Member {
        &self.nodes[place]
    }

    /// All nodes and replicas.
    pub fn nodes(&self) -> &[Member] {
        &self.nodes
    }

    /// A router.
    pub fn router(&self, place: usize) -> &Member {
        &self.routers[place]
    }

    /// The routers' addresses, as clients take them.
    pub fn urls(&self) -> Vec<String> {
        self.routers.iter().map(Member::url).collect()
    }

    /// A connection to the first router.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn client(&self) -> anyhow::Result<Api> {
        Api::connect(&self.routers[0].url()).await
    }

    /// The network, if there is one.
    pub fn network(&self) -> Option<&Network> {
        self.launch.network.as_ref()
    }

    /// SIGKILL.
    pub fn kill9(&mut self, place: usize) {
        self.nodes[place].kill9();
    }

    /// SIGKILL of a router.
    pub fn kill9_router(&mut self, place: usize) {
        self.routers[place].kill9();
    }

    /// Whether the process of a running node has ended by itself.
    pub fn has_ended(&mut self, place: usize) -> bool {
        self.nodes[place].has_ended()
    }

    /// SIGSTOP: the process keeps its connections and does nothing.
    ///
    /// # Errors
    /// If it does not run.
    pub fn pause(&self, place: usize) -> anyhow::Result<()> {
        self.nodes[place].pause()
    }

    /// Where a node or a router panicked, in any of its lives: the line that says so and the one that says why.
    pub fn panics(&self) -> Vec<String> {
        let of = |member: &Member| {
            let log = member.log();
            let lines: Vec<&str> = log.lines().collect();
            let found = (0..lines.len()).filter(|at| lines[*at].contains("panicked at"));
            found.map(|at| lines[at..lines.len().min(at + 2)].join(" ")).collect::<Vec<_>>()
        };
        self.nodes.iter().chain(&self.routers).flat_map(of).collect()
    }

    /// Cuts the power of a disk and of the nodes upon it, and gives the disk its power again. The nodes stay down.
    ///
    /// They are frozen first, for a machine without power does not hear of its disk: a sync that is under way when an ext4 is
    /// shut down may end well although its data are gone (seen with Linux 6.18, in some ten of a hundred cuts).
    ///
    /// # Errors
    /// If one of them does not run, or the machine cannot.
    pub fn power_cut(&mut self, disk: &Disk, places: &[usize]) -> anyhow::Result<()> {
        for place in places {
            self.nodes[*place].freeze(InFlight::Calls)?;
        }
        disk.cut()?;
        places.iter().for_each(|place| self.kill9(*place));
        disk.replug()
    }

    /// Cuts the power of the disk of a node that goes on; no call of it is under way meanwhile (see [`Cluster::power_cut`]).
    ///
    /// # Errors
    /// If it does not run, or the machine cannot.
    pub fn disk_dies(&self, disk: &Disk, place: usize) -> anyhow::Result<()> {
        self.nodes[place].freeze(InFlight::Nothing)?;
        disk.cut()?;
        self.resume(place)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// If it does not run.
    pub fn resume(&self, place: usize) -> anyhow::Result<()> {
        self.nodes[place].resume()
    }

    /// SIGTERM, and the whole drain.
    ///
    /// # Errors
    /// If it does not end in time and in order.
    pub async fn terminate(&mut self, place: usize) -> anyhow::Result<()> {
        self.nodes[place].terminate().await
    }

    /// Starts a node that has ended where it was: same folder, same ports.
    ///
    /// # Errors
    /// If it does not get ready.
    pub async fn restart(&mut self, place: usize) -> anyhow::Result<()> {
        self.nodes[place].start(&mut self.launch).await
    }

    /// Starts a router that has ended where it was.
    ///
    /// # Errors
    /// If it does not get ready.
    pub async fn restart_router(&mut self, place: usize) -> anyhow::Result<()> {
        self.routers[place].start(&mut self.launch).await
    }

    /// Starts all that have ended, at once: none may need another to be ready first.
    ///
    /// # Errors
    /// If one does not get ready.
    pub async fn restart_all(&mut self) -> anyhow::Result<()> {
        let ended: Vec<usize> =
            (0..self.nodes.len()).filter(|place| !self.nodes[*place].is_running()).collect();
        for place in &ended {
            self.nodes[*place].spawn(&mut self.launch)?;
        }
        for place in ended {
            self.nodes[place].ready(&mut self.launch).await?;
        }
        Ok(())
    }

    /// What each running node says of its replicas, by node id; those that do not answer are not in it.
    pub async fn statuses(&self) -> BTreeMap<u64, peer::StatusResponse> {
        let asked = self.nodes.iter().filter(|node| node.is_running()).map(Member::status);
        let answers = futures::future::join_all(asked).await;
        answers.into_iter().flatten().map(|status| (status.node, status)).collect()
    }

    /// The node that leads each partition, as the nodes themselves say. Group 0, if they tell, is the meta group.
    pub async fn leaders(&self) -> BTreeMap<u64, u64> {
        let mut leaders = BTreeMap::new();
        for (node, status) in self.statuses().await {
            let leads = status.replicas.iter().filter(|replica| replica.is_leader);
            leaders.extend(leads.map(|replica| (replica.partition, node)));
        }
        leaders
    }

    /// The place of the node with this id.
    ///
    /// # Errors
    /// If there is none.
    pub fn place_of(&self, id: u64) -> anyhow::Result<usize> {
        let place = self.nodes.iter().position(|node| node.id() == id);
        place.with_context(|| format!("no node has the id {id}"))
    }

    /// The place of the node that leads most partitions of a collection.
    ///
    /// # Errors
    /// If not every partition has a leader in time.
    pub async fn busiest(&self, collection: &str) -> anyhow::Result<usize> {
        let leaders = self.led(collection, &[]).await?;
        let mut counts: BTreeMap<u64, usize> = BTreeMap::new();
        leaders.values().for_each(|node| *counts.entry(*node).or_default() += 1);
        let busiest = counts.iter().max_by_key(|(_, count)| **count).context("there are no partitions")?;
        self.place_of(*busiest.0)
    }

    /// Waits until every partition of a collection is led by a node that is none of these places; returns the leaders.
    ///
    /// # Errors
    /// If that does not come.
    pub async fn led(&self, collection: &str, not_by: &[usize]) -> anyhow::Result<BTreeMap<u64, u64>> {
        let placement = self.placement(collection).await?;
        let wanted: BTreeSet<u64> = placement.partitions.iter().map(|partition| partition.id).collect();
        let not_by: Vec<u64> = not_by.iter().map(|place| self.nodes[*place].id()).collect();
        eventually("every partition has a leader", SETTLES_WITHIN, async || {
            let mut leaders = self.leaders().await;
            leaders.retain(|partition, node| wanted.contains(partition) && !not_by.contains(node));
            (leaders.len() == wanted.len()).then_some(leaders)
        })
        .await
    }

    /// How long it takes from now until every partition of a collection is led by another node than this one.
    ///
    /// # Errors
    /// If that does not come.
    pub async fn failover(&self, collection: &str, without: usize) -> anyhow::Result<Duration> {
        let begin = Instant::now();
        self.led(collection, &[without]).await?;
        Ok(begin.elapsed())
    }

    /// Where a collection's partitions are.
    ///
    /// # Errors
    /// If no router tells in time.
    pub async fn placement(&self, collection: &str) -> anyhow::Result<v1::CollectionPlacement> {
        let client = self.client().await?.within(Duration::from_secs(5));
        eventually(&format!("the placement of {collection} is told"), SETTLES_WITHIN, async || {
            let map = client.placement().await.ok()?;
            let is_named = |c: &v1::CollectionPlacement| {
                let spec = c.collection.as_ref().and_then(|collection| collection.spec.as_ref());
                spec.is_some_and(|spec| spec.name == collection)
            };
            map.collections.into_iter().find(is_named)
        })
        .await
    }

    /// Waits until all replicas of a collection have applied the same log: nobody may be writing. All nodes run.
    ///
    /// # Errors
    /// If that does not come, with who is how far.
    pub async fn caught_up(&self, collection: &str) -> anyhow::Result<()> {
        let mut last = String::new();
        let met = eventually("all replicas have applied the same", SETTLES_WITHIN, async || {
            let placement = self.placement(collection).await.ok()?;
            let statuses = self.statuses().await;
            last = behind(&placement, &statuses)?;
            last.is_empty().then_some(())
        })
        .await;
        met.with_context(|| last)
    }

    /// The cluster's own proof that replicas are equal: asks for it until every replica has answered, and none may differ.
    ///
    /// # Errors
    /// If a replica differs, or does not answer in time.
    pub async fn verified(&self, collection: &str) -> anyhow::Result<()> {
        let client = self.client().await?.within(Duration::from_secs(20));
        let mut last = String::new();
        let met = eventually("every replica gives a digest", SETTLES_WITHIN, async || {
            let placement = self.placement(collection).await.ok()?;
            let wanted: usize =
                placement.partitions.iter().map(|p| p.replicas.len() + p.learners.len()).sum();
            let answers = client.verify(collection, true).await;
            last = format!("{wanted} digests wanted: {answers:?}");
            let digests: Vec<v1::ReplicaDigest> =
                answers.ok()?.into_iter().flat_map(|a| a.replicas).collect();
            let is_whole = digests.len() >= wanted && digests.iter().all(|digest| digest.error.is_empty());
            is_whole.then_some(digests)
        })
        .await;
        let mut by_partition: BTreeMap<u64, BTreeSet<(u64, String)>> = BTreeMap::new();
        for digest in met.with_context(|| last)? {
            let seen = by_partition.entry(digest.partition).or_default();
            seen.insert((digest.log_index, digest.digest));
        }
        let differ = by_partition.iter().find(|(_, digests)| digests.len() != 1);
        ensure!(differ.is_none(), "replicas differ: {differ:?}");
        Ok(())
    }
}

/// Which replicas are not where the others of their partition are; none if a partition is not told of at all.
fn behind(
    placement: &v1::CollectionPlacement,
    statuses: &BTreeMap<u64, peer::StatusResponse>,
) -> Option<String> {
    let mut told = String::new();
    for partition in &placement.partitions {
        let mut applied = BTreeMap::new();
        for node in partition.replicas.iter().chain(&partition.learners) {
            let replica = statuses.get(node)?.replicas.iter().find(|r| r.partition == partition.id);
            applied.insert(*node, replica.map(|r| (r.applied, r.records, r.quarantined.clone())));
        }
        let first = applied.values().next()?;
        let is_sound = first.as_ref().is_some_and(|(_, _, quarantined)| quarantined.is_empty());
        if !is_sound || applied.values().any(|other| other != first) {
            told += &format!("partition {}: (applied, records) by node: {applied:?}\n", partition.id);
        }
    }
    Some(told)
}

/// Whether the nodes do not know the question at all.
impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let folder = std::env::var_os(LOGS_VARIABLE).map(PathBuf::from);
        for member in self.nodes.iter().chain(&self.routers) {
            let log = member.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- {}: the last of {} lines", member.name(), lines.len());
            eprintln!("{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
            if let Some(folder) = &folder {
                // Best effort: the test fails already.
                let _ = std::fs::create_dir_all(folder);
                let _ = std::fs::write(folder.join(format!("{}.log", member.name())), &log);
            }
        }
    }
}
