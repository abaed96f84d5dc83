//! What a process is in a cluster, by its configuration: `cluster.*` and `replication.*`.
//!
//! One file may serve all members: `cluster.shards` lists the shards, `cluster.shard_id` says which of them this one is, and
//! `flotilla up --config FILE` starts what the file tells it to be. A shard whose folder is new joins through
//! `replication.master_address`, the other shards, or what the router at `cluster.router_address` knows; the first of the
//! shards begins the cluster if nobody answers it for a while ([`BEGINS_AFTER`]). Flags go before all of this.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::Settings;

/// How long the first shard looks for the others before it begins a cluster.
pub const BEGINS_AFTER: Duration = Duration::from_secs(10);
/// Port for other nodes, where nobody says another.
pub const PEER_PORT: u16 = 15_003;
/// Shards of one file, at most.
pub const SHARDS_MAX: usize = 1_024;

/// One entry of `cluster.shards`.
#[derive(Clone, Debug, PartialEq)]
pub struct Shard {
    /// Its number.
    pub id: u32,
    /// Where its data API is reached, as `host:port`.
    pub address: String,
    /// Its share of the replicas, above 0.
    pub weight: f64,
}

impl Shard {
    /// Checks an entry.
    ///
    /// # Errors
    /// What is wrong, with the limit and the value.
    pub fn new(id: u32, address: &str, weight: f64) -> Result<Shard, String> {
        if !(weight.is_finite() && weight > 0.0) {
            return Err(format!("weight must be above 0, got {weight}"));
        }
        host_and_port(address).map_err(|why| format!("address {why}"))?;
        Ok(Shard { id, address: address.to_owned(), weight })
    }

    fn host(&self) -> &str {
        self.address.rsplit_once(':').map_or(self.address.as_str(), |(host, _)| host)
    }
}

/// As it is written in one line: `0=db-0:15002` or, with a weight, `0=db-0:15002*2`.
impl std::fmt::Display for Shard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shard { id, address, weight } = self;
        if *weight == 1.0 { write!(f, "{id}={address}") } else { write!(f, "{id}={address}*{weight}") }
    }
}

/// Reads a list of shards, written in one line with commas between them.
///
/// # Errors
/// What is wrong, with the limit and the value.
pub fn shards(text: &str) -> Result<Vec<Shard>, String> {
    let shard = |text: &str| {
        let (id, rest) = text.split_once('=').ok_or_else(|| format!("expected ID=HOST:PORT, got {text}"))?;
        let id = id.trim().parse().map_err(|_| format!("id must be a whole number, got {id}"))?;
        let (address, weight) = match rest.rsplit_once('*') {
            Some((address, weight)) => (
                address,
                weight.trim().parse().map_err(|_| format!("weight must be a number, got {weight}"))?,
            ),
            None => (rest, 1.0),
        };
        Shard::new(id, address.trim(), weight)
    };
    let shards = text.split(',').map(|text| shard(text.trim())).collect::<Result<Vec<_>, _>>()?;
    distinct(&shards)?;
    Ok(shards)
}

/// Refuses a list that is too long, or that names a number or an address twice.
///
/// # Errors
/// Which.
pub fn distinct(shards: &[Shard]) -> Result<(), String> {
    if shards.is_empty() || shards.len() > SHARDS_MAX {
        return Err(format!("must be 1 to {SHARDS_MAX} shards, got {}", shards.len()));
    }
    for (at, shard) in shards.iter().enumerate() {
        if let Some(other) =
            shards[..at].iter().find(|other| other.id == shard.id || other.address == shard.address)
        {
            return Err(format!("{shard} and {other} are one shard, or two with one address"));
        }
    }
    Ok(())
}

fn host_and_port(text: &str) -> Result<(&str, u16), String> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    let parts = parts.and_then(|(host, port)| Some((host, port.parse().ok()?)));
    parts.ok_or_else(|| format!("must be host:port, got {text}"))
}

/// The number at the end of a shard's name: a number, or the name of a pod (`db-shard-2`).
///
/// # Errors
/// If it does not end in one.
pub fn ordinal(text: &str) -> anyhow::Result<u32> {
    let digits = text.rsplit('-').next().unwrap_or(text);
    digits.parse().with_context(|| format!("`{text}` does not end in a number"))
}

/// What a process is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The whole database.
    Alone,
    /// A node that holds partitions.
    Shard,
    /// A node that only learns.
    Replica,
    /// A front without data.
    Router,
}

/// What the configuration says of this member.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// What it is.
    pub kind: Kind,
    /// Where other members reach a node.
    pub peers: SocketAddr,
    /// Members to join through, as `host:port` of their peer ports.
    pub seeds: Vec<String>,
    /// A router that may know more of them, as `host:port`.
    pub router: Option<String>,
    /// Nodes that a router asks for the placement map, as `host:port` of their data ports.
    pub nodes: Vec<String>,
    /// Its number.
    pub ordinal: Option<u32>,
    /// Name or address by which others reach it.
    pub host: Option<String>,
    /// Its share of the replicas.
    pub weight: f64,
    /// Whether it begins the cluster if no other member answers.
    pub is_first: bool,
}

impl Member {
    /// What `settings` say for a process that listens on `bind`.
    ///
    /// # Errors
    /// Keys that contradict each other, or that lack another.
    pub fn of(settings: &Settings, bind: IpAddr) -> anyhow::Result<Member> {
        let is_clustered = settings.flag("cluster.enabled") || settings.flag("replication.enabled");
        let is_replica = settings.text("replication.role") == "replica";
        let kind = match settings.text("cluster.mode").as_str() {
            _ if !is_clustered => Kind::Alone,
            "router" => Kind::Router,
            _ if is_replica => Kind::Replica,
            _ => Kind::Shard,
        };
        if kind == Kind::Router && is_replica {
            bail!("cluster.mode is router and replication.role is replica: a router holds no data");
        }
        let said = |name: &str| Some(settings.text(name)).filter(|text| !text.is_empty());
        let peers = match said("replication.bind_address") {
            Some(text) => text.parse().with_context(|| format!("replication.bind_address: {text}"))?,
            None => SocketAddr::new(bind, PEER_PORT),
        };
        let address = |name: &str| match said(name) {
            Some(text) => match host_and_port(&text) {
                Ok(_) => Ok(Some(text)),
                Err(why) => bail!("{name}: {why}"),
            },
            None => Ok(None),
        };
        let ordinal = said("cluster.shard_id").map(|text| ordinal(&text)).transpose();
        let ordinal = ordinal.context("cluster.shard_id")?;
        let shards = settings.shards();
        let own = shards.iter().find(|shard| Some(shard.id) == ordinal);
        if kind == Kind::Shard && !shards.is_empty() {
            ensure!(
                own.is_some(),
                "cluster.shard_id: must be the id of one of cluster.shards, got {}",
                said("cluster.shard_id").unwrap_or_else(|| "nothing".to_owned())
            );
        }
        // All of them listen for each other at the same port.
        let others = shards.iter().filter(|shard| Some(shard.id) != ordinal);
        let others = others.map(|shard| format!("{}:{}", shard.host(), peers.port()));
        let master = address("replication.master_address")?;
        let is_first = kind == Kind::Shard
            && master.is_none()
            && match shards.iter().map(|shard| shard.id).min() {
                Some(first) => ordinal == Some(first),
                None => ordinal == Some(0),
            };
        Ok(Member {
            kind,
            peers,
            seeds: master.into_iter().chain(others).collect(),
            router: address("cluster.router_address")?,
            nodes: shards.iter().map(|shard| shard.address.clone()).collect(),
            ordinal,
            host: own.map(|own| own.host().to_owned()),
            weight: own.map_or(1.0, |own| own.weight),
            is_first,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    fn member(text: &str) -> Result<Member, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f.yaml");
        std::fs::write(&file, text).unwrap();
        let settings = Settings::load(Some(&file), std::iter::empty(), &[]).map_err(|why| why.to_string())?;
        Member::of(&settings, IpAddr::from([127, 0, 0, 1])).map_err(|why| format!("{why:#}"))
    }

    const SHARDS: &str =
        "  shards:\n    - {id: 1, address: \"b:15002\", weight: 2}\n    - {id: 0, address: \"a:15002\"}\n";

    #[test]
    fn one_list_serves_every_member() {
        let router = member(&format!("cluster:\n  enabled: true\n  mode: router\n{SHARDS}")).unwrap();
        assert_eq!(
            (router.kind, router.nodes),
            (Kind::Router, vec!["b:15002".to_owned(), "a:15002".to_owned()])
        );
        let first = member(&format!("cluster:\n  enabled: true\n  shard_id: db-0\n{SHARDS}")).unwrap();
        assert_eq!((first.kind, first.ordinal, first.is_first), (Kind::Shard, Some(0), true));
        assert_eq!((first.seeds, first.weight), (vec!["b:15003".to_owned()], 1.0));
        let second = member(&format!(
            "replication:\n  bind_address: 127.0.0.2:7\ncluster:\n  enabled: true\n  shard_id: 1\n{SHARDS}"
        ))
        .unwrap();
        assert_eq!((second.is_first, second.weight, second.host), (false, 2.0, Some("b".to_owned())));
        assert_eq!(second.seeds, ["a:7"]);
    }

    #[test]
    fn a_replica_has_a_master_and_who_is_not_enabled_is_alone() {
        let replica = "replication:\n  enabled: true\n  role: replica\n  master_address: a:15003\n";
        let replica = member(replica).unwrap();
        assert_eq!((replica.kind, replica.seeds), (Kind::Replica, vec!["a:15003".to_owned()]));
        assert_eq!(member(&format!("cluster:\n  shard_id: 0\n{SHARDS}")).unwrap().kind, Kind::Alone);
        assert_eq!(member("").unwrap().kind, Kind::Alone);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        for (text, why) in [
            (
                "cluster:\n  enabled: true\n  mode: router\nreplication:\n  role: replica\n",
                "a router holds no data",
            ),
            ("cluster:\n  shards: []\n", "cluster.shards: must be 1 to 1024 shards, got 0"),
            ("cluster:\n  shards:\n    - {id: 0}\n", "cluster.shards: 0: address is missing"),
            ("cluster:\n  shards:\n    - {id: 0, address: a}\n", "must be host:port, got a"),
            (
                "cluster:\n  shards:\n    - {id: 0, address: \"a:1\", weight: 0}\n",
                "weight must be above 0, got 0",
            ),
            ("cluster:\n  shards:\n    - {id: 0, adress: \"a:1\"}\n", "unknown `adress`"),
            ("cluster:\n  shards: \"0=a:1, 0=b:1\"\n", "0=b:1 and 0=a:1 are one shard"),
            ("cluster:\n  shard_id: here\n", "cluster.shard_id: `here` does not end in a number"),
            ("replication:\n  master_address: a\n", "replication.master_address: must be host:port, got a"),
            ("replication:\n  bind_address: a:1\n", "replication.bind_address: a:1"),
        ] {
            let told = member(text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
        let other = member(&format!("cluster:\n  enabled: true\n  shard_id: 7\n{SHARDS}")).unwrap_err();
        assert!(other.contains("must be the id of one of cluster.shards, got 7"), "{other}");
    }
}
