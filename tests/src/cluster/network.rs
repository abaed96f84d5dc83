//! A network of its own for a test, whose links can be cut: one network namespace for each node, joined by a bridge.
//!
//! Everything lives inside a namespace that only the test's process is in, so nothing is left behind and no other test is
//! disturbed: the test starts itself again under `unshare` ([`enter`]), makes a bridge there, and for each node a child
//! namespace with one cable to the bridge. Routers and the test itself stand on the bridge.
//!
//! A cut from A to B is a wrong hardware address for B, written down in A: A's packets go out and nobody takes them, while
//! what B sends still arrives. So a cut can be one-way, and no side is told; both ways make a full one.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::process::{Finished, Service, clean, run};

/// Set in the process that runs inside.
const INSIDE: &str = "FLOTILLA_TEST_NAMESPACE";
/// The address of the bridge; nodes count from 1.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 254);
/// Nobody's.
const NOBODY: &str = "02:00:00:00:ff:fe";
/// The start of a way into a network where this process may do as it likes.
const UNSHARE: &[&str] = &["unshare", "--net"];
/// The same for somebody who is not root.
const UNSHARE_AS_USER: &[&str] = &["unshare", "--user", "--map-root-user", "--net"];

/// Where a test finds itself.
#[derive(Debug)]
pub enum Entered {
    /// Inside: go on.
    Inside(Network),
    /// Outside; the test ran inside, and this came of it.
    Ran(Finished),
    /// There are no such namespaces on this machine, and why.
    Impossible(String),
}

/// Runs the test with this name again inside a network of its own, or says that this is the inside.
///
/// # Errors
/// If the test cannot be started again, or its network not be made.
pub fn enter(test: &str) -> anyhow::Result<Entered> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(Entered::Inside(Network::new()?));
    }
    let mut refusals = String::new();
    for way in [UNSHARE, UNSHARE_AS_USER] {
        // Whether a bridge, a cable and a namespace within can be made is told by making them.
        let probe = "ip link add probe type bridge && ip link add v0 type veth peer name v1 && unshare --net true \
                     && command -v nsenter";
        match run_all(&[way, &["sh", "-c", probe]].concat()) {
            Ok(_) => return Ok(Entered::Ran(again(way, test)?)),
            Err(why) => refusals += &format!("{}: {}; ", way.join(" "), why.to_string().trim()),
        }
    }
    Ok(Entered::Impossible(refusals))
}

/// This program, under `way`, with this test alone.
fn again(way: &[&str], test: &str) -> anyhow::Result<Finished> {
    let program = std::env::current_exe().context("the test's own program")?;
    let mut inside = Command::new(way[0]);
    inside.args(&way[1..]).arg(program).args(["--exact", test, "--nocapture"]);
    inside.env(INSIDE, "1");
    run(inside)
}

/// Runs a command that must succeed; returns what it said.
fn run_all(words: &[&str]) -> anyhow::Result<String> {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    let Finished { code, stdout, stderr } = run(command)?;
    ensure!(code == Some(0), "{}: {}", words.join(" "), stderr.trim());
    Ok(stdout)
}

/// The network: a bridge, and a namespace for each node.
pub struct Network {
    /// Each a process that does nothing but keep its namespace.
    namespaces: Vec<Service>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Network of {} nodes", self.namespaces.len())
    }
}

fn address(place: usize) -> Ipv4Addr {
    let [a, b, c, _] = GATEWAY.octets();
    Ipv4Addr::new(a, b, c, u8::try_from(place + 1).unwrap_or(u8::MAX - 1))
}

impl Network {
    /// A bridge in this process's namespace.
    fn new() -> anyhow::Result<Network> {
        let script = format!(
            "set -e; ip link set lo up; ip link add bridge0 type bridge; ip addr add {GATEWAY}/24 dev bridge0; \
             ip link set bridge0 up"
        );
        run_all(&["sh", "-c", &script])?;
        Ok(Network { namespaces: vec![] })
    }

    /// The address that the test has itself.
    pub(super) fn gateway(&self) -> IpAddr {
        IpAddr::V4(GATEWAY)
    }

    /// The address of the node at this place; its namespace is made if it is not there yet.
    pub(super) fn host(&mut self, place: usize) -> anyhow::Result<IpAddr> {
        while self.namespaces.len() <= place {
            let place = self.namespaces.len();
            let mut holder = Command::new("unshare");
            // It says a word once it is inside; then it is there to be joined.
            holder.args(["--net", "sh", "-c", "ip link set lo up; echo inside; exec sleep 100000"]);
            let mut holder = Service::spawn(holder)?;
            holder.ready_line().context("a namespace for a node")?;
            let (id, address) = (holder.id(), address(place));
            let script = format!(
                "set -e; ip link add cable{place} type veth peer name eth0 netns {id}; \
                 ip link set cable{place} master bridge0 up; \
                 nsenter --net=/proc/{id}/ns/net sh -c 'ip addr add {address}/24 dev eth0; ip link set eth0 up'"
            );
            run_all(&["sh", "-c", &script])?;
            self.namespaces.push(holder);
        }
        Ok(IpAddr::V4(address(place)))
    }

    /// The binary in the namespace of this node.
    pub(super) fn command(&self, place: usize, binary: &Path, args: &[&str]) -> anyhow::Result<Command> {
        let holder = self.namespaces.get(place).context("no such namespace")?;
        let mut command = Command::new("nsenter");
        clean(&mut command).arg(format!("--net=/proc/{}/ns/net", holder.id())).arg(binary).args(args);
        Ok(command)
    }

    /// From now on nothing that the node `from` sends reaches the node `to`.
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn cut(&self, from: usize, to: usize) -> anyhow::Result<()> {
        self.inside(from, &format!("ip neigh replace {} lladdr {NOBODY} dev eth0 nud permanent", address(to)))
    }

    /// Undoes [`Network::cut`].
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn heal(&self, from: usize, to: usize) -> anyhow::Result<()> {
        self.inside(from, &format!("ip neigh del {} dev eth0", address(to)))
    }

    /// Cuts a node off from all other nodes, both ways; those on the bridge (routers, the test) still reach it.
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn isolate(&self, place: usize) -> anyhow::Result<()> {
        self.others(place).try_for_each(|other| {
            self.cut(place, other)?;
            self.cut(other, place)
        })
    }

    /// Undoes [`Network::isolate`].
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn rejoin(&self, place: usize) -> anyhow::Result<()> {
        self.others(place).try_for_each(|other| {
            self.heal(place, other)?;
            self.heal(other, place)
        })
    }

    /// Pulls a node's cable, so that nobody reaches it, or puts it back.
    ///
    /// # Errors
    /// If it cannot be done.
    pub fn plug(&self, place: usize, is_in: bool) -> anyhow::Result<()> {
        let state = if is_in { "up" } else { "down" };
        run_all(&["ip", "link", "set", &format!("cable{place}"), state]).map(drop)
    }

    fn others(&self, place: usize) -> impl Iterator<Item = usize> {
        (0..self.namespaces.len()).filter(move |other| *other != place)
    }

    fn inside(&self, place: usize, script: &str) -> anyhow::Result<()> {
        let holder = self.namespaces.get(place).context("no such namespace")?;
        let namespace = format!("--net=/proc/{}/ns/net", holder.id());
        run_all(&["nsenter", &namespace, "sh", "-c", script]).map(drop)
    }
}
