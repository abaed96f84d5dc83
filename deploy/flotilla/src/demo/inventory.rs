//! An inventory of virtual machines, made up from a seed: 5 vCenters, 400 hosts, any number of machines.
//!
//! Machine `i` depends on the seed and `i` alone, so that a larger inventory begins with the smaller one, and the same
//! arguments give the same records on every machine (a golden test pins them).

use flotilla_proto::record::{Payload, Record, Value};

use super::text_vector::text_vector;
use crate::datetime::rfc3339;

/// vCenters.
pub const VCENTERS: u64 = 5;
/// Hosts, spread evenly over clusters of 20.
pub const HOSTS: u64 = 400;
const HOSTS_PER_CLUSTER: u64 = 20;
const CITIES: [&str; 5] = ["frankfurt", "london", "singapore", "virginia", "oregon"];

/// What a machine is for: name stem, words of its description, tag.
const ROLES: [(&str, &str, &str); 12] = [
    ("web", "web server behind the load balancer", "frontend"),
    ("api", "application server of the public api", "frontend"),
    ("db", "relational database server with nightly dumps", "database"),
    ("cache", "in-memory cache for sessions", "cache"),
    ("mq", "message broker of the event bus", "messaging"),
    ("build", "continuous integration build worker", "ci"),
    ("mail", "mail relay and spam filter", "mail"),
    ("ldap", "directory server for logins", "identity"),
    ("mon", "monitoring and log collection", "observability"),
    ("file", "file server of the office", "storage"),
    ("vdi", "virtual desktop", "desktop"),
    ("bak", "backup proxy with tape access", "backup"),
];
const STAGES: [(&str, &str, u64); 4] = [
    ("production", "prod", 50),
    ("staging", "stage", 20),
    ("testing", "test", 15),
    ("development", "dev", 15),
];
const GUESTS: [&str; 8] = [
    "Ubuntu Linux (64-bit)",
    "Debian GNU/Linux 12 (64-bit)",
    "Red Hat Enterprise Linux 9 (64-bit)",
    "SUSE Linux Enterprise 15 (64-bit)",
    "Rocky Linux 9 (64-bit)",
    "Microsoft Windows Server 2019 (64-bit)",
    "Microsoft Windows Server 2022 (64-bit)",
    "FreeBSD 14 (64-bit)",
];
const OWNERS: [&str; 10] = [
    "platform",
    "payments",
    "search",
    "logistics",
    "billing",
    "identity",
    "mobile",
    "data",
    "office",
    "security",
];
const EXTRA_TAGS: [&str; 6] = ["pci", "dmz", "gdpr", "legacy", "critical", "ephemeral"];
const SIZES: [(u64, &str); 4] = [(4, "low"), (16, "moderate"), (64, "high"), (256, "very high")];

/// An inventory.
#[derive(Clone, Copy, Debug)]
pub struct Inventory {
    seed: u64,
    machines: u64,
}

impl Inventory {
    /// An inventory of so many machines.
    pub fn new(seed: u64, machines: u64) -> Inventory {
        Inventory { seed, machines }
    }

    /// Every machine as a record with its vector `default`.
    pub fn records(self) -> impl Iterator<Item = Record> {
        (0..self.machines).map(move |i| machine(self.seed, i))
    }
}

/// SplitMix64: the next number depends on the state alone, and the code never changes.
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub(crate) fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn percent(&mut self, share: u64) -> bool {
        self.below(100) < share
    }
}

fn machine(seed: u64, i: u64) -> Record {
    let mut draw = Draw(seed ^ i.wrapping_mul(0xd134_2543_de82_ef95));
    let (stem, purpose, tag) = draw.of(&ROLES);
    let (stage, short_stage) = stage(&mut draw);
    let host = draw.below(HOSTS);
    let owner = draw.of(&OWNERS);
    let guest = draw.of(&GUESTS);
    let size = draw.below(SIZES.len() as u64) as usize;
    let (memory_gb, size_word) = SIZES[size];
    let cpu = (2_u64 << size) << draw.below(2);
    let memory_mb = (memory_gb << draw.below(2)) * 1_024;
    let name = format!("{stem}-{short_stage}-{i:06}");
    let city = CITIES[vcenter(host) as usize];
    let description = format!(
        "{purpose} in {stage} for team {owner}, {size_word} memory, {cpu} cpus, {guest}, located in {city}, {name}"
    );
    let vector = text_vector(&description);
    let mut tags = vec![tag.into(), short_stage.into()];
    if draw.percent(30) {
        tags.push(draw.of(&EXTRA_TAGS).into());
    }
    let hardware = Payload::from([
        ("version".to_owned(), Value::Int(13 + draw.below(9) as i64)),
        ("firmware".to_owned(), draw.of(&["bios", "efi"]).into()),
    ]);
    let mut record = Record::new(format!("vm-{i:06}"))
        .vector("default", vector)
        .field("name", name)
        .field("power_state", if draw.percent(80) { "on" } else { draw.of(&["off", "suspended"]) })
        .field("guest_os", guest)
        .field("cpu", cpu as i64)
        .field("memory_mb", memory_mb as i64)
        .field("disk_gb", (20 + 10 * draw.below(200)) as i64)
        .field("ip", format!("10.{}.{}.{}", vcenter(host), draw.below(256), 1 + draw.below(254)))
        .field("tools_version", format!("12.{}.{}", draw.below(6), draw.below(10)))
        .field("created", created(&mut draw))
        .field("description", description);
    record.payload.insert("tags".to_owned(), Value::List(tags));
    record.payload.insert("hardware".to_owned(), Value::Map(hardware));
    // One machine in twenty belongs to nobody, so that `exists` has something to tell apart.
    if !draw.percent(5) {
        record.payload.insert("owner".to_owned(), owner.into());
    }
    with_place(record, host)
}

fn stage(draw: &mut Draw) -> (&'static str, &'static str) {
    let mut point = draw.below(STAGES.iter().map(|(_, _, weight)| weight).sum());
    for (name, short, weight) in STAGES {
        if point < weight {
            return (name, short);
        }
        point -= weight;
    }
    (STAGES[0].0, STAGES[0].1)
}

fn vcenter(host: u64) -> u64 {
    host / HOSTS_PER_CLUSTER % VCENTERS
}

fn with_place(record: Record, host: u64) -> Record {
    let vcenter = vcenter(host);
    let city = CITIES[vcenter as usize];
    record
        .field("vcenter", format!("vcenter-{}", vcenter + 1))
        .field("datacenter", format!("dc-{city}"))
        .field("cluster", format!("cluster-{:02}", host / HOSTS_PER_CLUSTER))
        .field("host", format!("esx-{host:03}.{city}.example"))
}

/// A second between 2018 and 2026.
fn created(draw: &mut Draw) -> String {
    const FROM: u64 = 1_514_764_800;
    const SPAN: u64 = 8 * 365 * 86_400;
    let second = FROM + draw.below(SPAN);
    rfc3339((second * 1_000_000) as i64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn digest(records: impl Iterator<Item = Record>) -> u64 {
        let mut h = 0xcbf2_9ce4_8422_2325_u64;
        for record in records {
            let text = crate::json::payload_to(&record.payload).to_string();
            for byte in record.key.to_bytes().iter().chain(text.as_bytes()) {
                h = (h ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
            }
        }
        h
    }

    #[test]
    fn the_inventory_is_pinned() {
        assert_eq!(digest(Inventory::new(7, 500).records()), GOLDEN);
        assert_ne!(digest(Inventory::new(8, 500).records()), GOLDEN);
    }

    const GOLDEN: u64 = 1_157_477_084_449_851_939;

    #[test]
    fn a_larger_inventory_begins_with_the_smaller_one() {
        let large = Inventory::new(1, 300).records().take(100);
        assert!(Inventory::new(1, 100).records().eq(large));
    }

    #[test]
    fn every_part_of_the_world_occurs() {
        let texts = |field: &str| -> BTreeSet<String> {
            let values = Inventory::new(7, 5_000).records().map(|r| crate::json::value_to(&r.payload[field]));
            values.map(|value| value.to_string()).collect()
        };
        assert_eq!(texts("vcenter").len() as u64, VCENTERS);
        assert_eq!(texts("host").len() as u64, HOSTS);
        assert_eq!(texts("cluster").len() as u64, HOSTS / HOSTS_PER_CLUSTER);
        assert_eq!(texts("power_state").len(), 3);
    }

    #[test]
    fn every_record_fits_the_collection_of_the_demo() {
        let spec = crate::demo::collection("vms");
        spec.check().unwrap();
        for record in Inventory::new(7, 200).records() {
            spec.check_record("record", &record).unwrap();
        }
    }
}
