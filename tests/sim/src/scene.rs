//! A cluster on its simulated hosts, with its clients, before its first step: what a storm and a crash point have in common.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flotilla_node::env::sim::{self, Disk};
use flotilla_tests::checker;
use flotilla_tests::history::{History, Recorder};
use turmoil::{Builder, Sim};
use xxhash_rust::xxh3::Xxh3;

use crate::host::{Desk, Member};
use crate::plan::Plan;
use crate::work::Stage;
use crate::{host, net, taps, weather, work};

/// How long a cluster may take to begin.
const BEGINS_WITHIN: Duration = Duration::from_secs(60);
/// How long it may take after its last fault until calls succeed and replicas are equal.
pub const HEALS_WITHIN: Duration = Duration::from_secs(10);
/// Calls that must succeed after the last fault before clients may rest.
pub const PROGRESS: usize = 30;

/// See the module.
pub struct Scene {
    /// Hosts and the network.
    pub sim: Sim<'static>,
    /// Host names of the members: shard nodes, then learners.
    pub names: Vec<String>,
    /// Their disks.
    pub disks: Vec<Arc<Disk>>,
    /// What nodes are asked and tell.
    pub desk: Arc<Desk>,
    /// What clients are asked and tell.
    pub stage: Arc<Stage>,
    /// What clients saw.
    pub recorder: Arc<Recorder>,
}

impl Scene {
    /// Sets up what the plan says. Once per process: much of what it sets is the process's.
    pub fn of(plan: &Plan) -> Scene {
        tracing::info!(?plan, "begins");
        sim::enter(sim::World {
            connect: net::connect,
            skew: weather::skew,
            effort: weather::effort,
            sync: weather::sync,
        });
        flotilla_router::pool::dial_by(net::connect);
        let mut sim = Builder::new()
            .rng_seed(plan.seed)
            .simulation_duration(Duration::from_secs(3_600))
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::ZERO)
            .max_message_latency(plan.latency)
            .tcp_capacity(4_096)
            .enable_random_order()
            .build();

        let names: Vec<String> = (1..=plan.nodes)
            .map(|n| format!("node{n}"))
            .chain((1..=plan.learners).map(|n| format!("learner{n}")))
            .collect();
        let disks: Vec<Arc<Disk>> = (0..)
            .zip(&names)
            .map(|(n, name)| {
                Disk::mount(format!("/simulated/{name}"), plan.seed.wrapping_mul(31).wrapping_add(n))
            })
            .collect();
        let (desk, stage, recorder) =
            (Arc::new(Desk::default()), Arc::new(Stage::default()), Arc::new(Recorder::default()));
        for (at, name) in names.iter().enumerate() {
            let member = Member {
                name: name.clone(),
                seeds: if at == 0 { vec![] } else { names[..plan.nodes].to_vec() },
                is_replica: at >= plan.nodes,
                ordinal: u32::try_from(at).ok().filter(|_| at < plan.nodes),
                tuning: plan.tuning.clone(),
            };
            let desk = desk.clone();
            sim.host(name.as_str(), move || member.clone().run(desk.clone()));
        }
        for n in 1..=plan.routers {
            let nodes = names[..plan.nodes].to_vec();
            sim.host(format!("router{n}"), move || host::route(nodes.clone()));
        }
        sim.client("clients", work::run(plan.clone(), stage.clone(), recorder.clone()));
        Scene { sim, names, disks, desk, stage, recorder }
    }

    /// Waits until the cluster is there, with its collection.
    ///
    /// # Errors
    /// What it lacks for too long.
    pub fn begin(&mut self) -> Result<(), String> {
        while !self.stage.is_set.load(Ordering::SeqCst) {
            weather::step(&mut self.sim);
            if self.sim.elapsed() > BEGINS_WITHIN {
                return Err(format!("the cluster does not begin: {}", self.stage.lacks.lock()));
            }
        }
        Ok(())
    }

    /// Judges what clients saw, if the run came to its end.
    pub fn judge(&self, outcome: Result<(), String>) -> Result<checker::Tally, String> {
        let history = self.recorder.history();
        match outcome.and_then(|()| checker::check(&history)) {
            Err(why) => Err(format!("{why}\nthe last failures:{}", last_failures(&history))),
            good => good,
        }
    }

    /// Everything that clients saw, what the disks did and how much chance was asked for, as one number.
    pub fn trace(&self) -> u64 {
        let (mut hash, history) = (Xxh3::new(), self.recorder.history());
        for call in &history.calls {
            hash.update(format!("{call:?}").as_bytes());
        }
        for operation in &history.operations {
            hash.update(format!("{operation:?}").as_bytes());
        }
        for disk in &self.disks {
            hash.update(format!("{:?}", disk.counts()).as_bytes());
        }
        hash.update(&taps::drawn().to_le_bytes());
        hash.update(&net::made().to_le_bytes());
        hash.digest()
    }
}

fn last_failures(history: &History) -> String {
    let failures: Vec<String> = history.failures().map(|call| format!("\n  {call}")).collect();
    failures[failures.len().saturating_sub(8)..].concat()
}
