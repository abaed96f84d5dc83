//! Configuration of a server: a YAML file, the environment over it, flags over both.
//!
//! Every key stands in one table ([`keys::KEYS`]) with its meaning, default, bounds and unit. A name that is not in it
//! refuses to start and is answered with the nearest known one, since obeying half of a file is worse than saying so.
//! All problems are reported at once, each with the place it was read from. Nothing here touches the network or the data folder.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flotilla_node::meta::autoscale;
use flotilla_proto::tenant::{self, Class, Classes, Isolation};
use flotilla_router::Hub;

use crate::{security, telemetry};

mod command;
mod file;
#[cfg(any(test, feature = "fuzz"))]
pub mod fuzz;
pub mod keys;
pub mod live;
pub mod member;
mod sections;

pub use command::ConfigArgs;
use keys::{KEYS, Key, Kind};
use member::Shard;
pub use sections::*;

/// A value as set.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// A whole number within the key's bounds.
    Number(u64),
    /// A truth value.
    Flag(bool),
    /// One of the key's words, an address or a path.
    Text(String),
    /// The shards of a cluster.
    Shards(Vec<Shard>),
}

impl std::fmt::Display for Setting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Setting::Number(number) => number.fmt(f),
            Setting::Flag(flag) => flag.fmt(f),
            Setting::Text(text) => text.fmt(f),
            Setting::Shards(shards) => {
                let texts: Vec<String> = shards.iter().map(Shard::to_string).collect();
                texts.join(",").fmt(f)
            }
        }
    }
}

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// `file:line`, the environment variable or the flag.
    pub place: String,
    /// What is wrong: names the key, the limit and the value.
    pub what: String,
}

impl Problem {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Problem {
        Problem { place: place.into(), what: what.into() }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid(pub Vec<Problem>);

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, Problem { place, what }) in self.0.iter().enumerate() {
            write!(f, "{}{place}: {what}", if i == 0 { "" } else { "\n" })?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// What was set, and from where; everything else has its default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings(BTreeMap<&'static str, (Setting, String)>);

impl Settings {
    /// Reads the file (if any), then the environment, then the flags: a later one goes before an earlier one.
    pub fn load(
        file: Option<&Path>,
        environment: impl Iterator<Item = (String, String)>,
        flags: &[(&'static str, &str, String)],
    ) -> Result<Settings, Invalid> {
        let mut settings = Settings::default();
        let mut problems = Vec::new();
        if let Some(path) = file {
            let name = path.display().to_string();
            match flotilla_node::env::fs::read(path).map(String::from_utf8) {
                Ok(Ok(text)) => settings.take_file(&name, &text, &mut problems),
                Ok(Err(_)) => problems.push(Problem::new(name, "not UTF-8 text")),
                Err(error) => problems.push(Problem::new("--config", error.to_string())),
            }
        }
        settings.take_environment(environment, &mut problems);
        settings.take_flags(flags, &mut problems);
        if problems.is_empty() { Ok(settings) } else { Err(Invalid(problems)) }
    }

    fn take_file(&mut self, name: &str, text: &str, problems: &mut Vec<Problem>) {
        let parsed = file::parse(name, text);
        problems.extend(parsed.problems);
        for (key, setting, place) in parsed.settings {
            self.0.insert(key.name, (setting, place));
        }
    }

    fn take_environment(
        &mut self,
        environment: impl Iterator<Item = (String, String)>,
        problems: &mut Vec<Problem>,
    ) {
        for (variable, text) in environment {
            let place = format!("environment {variable}");
            let is_of = |key: &&Key| keys::variable(key.name) == variable;
            match KEYS.iter().find(is_of) {
                Some(key) => self.take(key, &text, place, problems),
                // As a StatefulSet's pods have it. Our own name for the key goes before it.
                None if variable == SHARD_ID
                    && !text.is_empty()
                    && self.0.get(SHARD_KEY).is_none_or(is_of_file) =>
                {
                    if let Some(key) = keys::find(SHARD_KEY) {
                        self.take(key, &text, place, problems);
                    }
                }
                None if variable.starts_with("FLOTILLA_") => {
                    problems.extend(misspelt(&variable).map(|what| Problem::new(place, what)));
                }
                None => {}
            }
        }
    }

    fn take_flags(&mut self, flags: &[(&'static str, &str, String)], problems: &mut Vec<Problem>) {
        for (name, flag, text) in flags {
            match keys::find(name) {
                Some(key) => self.take(key, text, (*flag).to_owned(), problems),
                None => problems.push(Problem::new(*flag, format!("unknown key `{name}`"))),
            }
        }
    }

    fn take(&mut self, key: &'static Key, text: &str, place: String, problems: &mut Vec<Problem>) {
        match setting_from_text(key, text) {
            Ok(setting) => drop(self.0.insert(key.name, (setting, place))),
            Err(why) => problems.push(Problem::new(place, format!("{}: {why}", key.name))),
        }
    }

    /// The value of a key, and where it was set; `None` if it was not.
    pub fn get(&self, name: &str) -> Option<(&Setting, &str)> {
        self.0.get(name).map(|(setting, place)| (setting, place.as_str()))
    }

    /// How many keys were set.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no key was set.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn number(&self, name: &str) -> u64 {
        match (self.0.get(name), keys::find(name).map(|key| key.kind)) {
            (Some((Setting::Number(number), _)), _) => *number,
            (_, Some(Kind::Number { default, .. })) => default,
            _ => 0,
        }
    }

    fn flag(&self, name: &str) -> bool {
        match (self.0.get(name), keys::find(name).map(|key| key.kind)) {
            (Some((Setting::Flag(flag), _)), _) => *flag,
            (_, Some(Kind::Flag { default })) => default,
            _ => false,
        }
    }

    fn text(&self, name: &str) -> String {
        match (self.0.get(name), keys::find(name)) {
            (Some((Setting::Text(text), _)), _) => text.clone(),
            (_, Some(key)) => key.kind.default_text(),
            _ => String::new(),
        }
    }
}

impl Settings {
    fn path(&self, name: &str) -> Option<PathBuf> {
        Some(self.text(name)).filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    fn shards(&self) -> &[Shard] {
        match self.0.get("cluster.shards") {
            Some((Setting::Shards(shards), _)) => shards,
            _ => &[],
        }
    }

    fn hub(&self) -> Option<Hub> {
        let limits = |class: Class| {
            let limit = |name: &str| self.number(&format!("hub.tenant_limits.{}.{name}", class.name()));
            let limits = tenant::Limits {
                max_collections: limit("max_collections"),
                max_vectors_per_collection: limit("max_vectors_per_collection"),
                max_storage_bytes: limit("max_storage_bytes"),
                max_requests_per_minute: limit("max_requests_per_minute"),
            };
            (class, limits)
        };
        let said = self.text("hub.tenant_isolation");
        let isolation = Isolation::ALL.into_iter().find(|isolation| isolation.name() == said);
        let hub = Hub {
            isolation: isolation.unwrap_or_default(),
            classes: Classes(Class::ALL.into_iter().map(limits).collect()),
        };
        self.flag("hub.enabled").then_some(hub)
    }

    fn autoscale(&self) -> autoscale::Options {
        let number = |name: &str| self.number(&format!("autoscale.{name}"));
        let narrow = |name: &str| u32::try_from(number(name)).unwrap_or(u32::MAX);
        let share = |name: &str| f64::from(narrow(name)) / 100.0;
        autoscale::Options {
            up_after: Duration::from_secs(number("up_after_seconds")),
            down_after: Duration::from_secs(number("down_after_seconds")),
            cpu_up: share("cpu_up_percent"),
            cpu_down: share("cpu_down_percent"),
            memory_up: share("memory_up_percent"),
            disk_up: share("disk_up_percent"),
            fit: share("fit_percent"),
            p99: Duration::from_millis(number("p99_ms")),
            queue: number("queue_depth"),
            bulk_per_second: number("bulk_per_second"),
            replicas_max: number("replicas_max"),
            nodes_min: narrow("nodes_min"),
            nodes_max: narrow("nodes_max"),
        }
    }

    fn telemetry(&self) -> telemetry::Options {
        let text = |name: &str| Some(self.text(name)).filter(|text| !text.is_empty());
        telemetry::Options {
            otlp_endpoint: text("telemetry.otlp_endpoint"),
            sample_ratio: self.text("telemetry.sample_ratio").parse().unwrap_or_default(),
            service_name: text("telemetry.service_name"),
        }
    }

    fn security(&self) -> security::Options {
        let files = |section: &str, ca: &str| {
            let file = |name: &str| self.path(&format!("{section}.{name}"));
            security::Files { cert_file: file("cert_file"), key_file: file("key_file"), ca_file: file(ca) }
        };
        security::Options {
            api_keys_file: self.path("security.api_keys_file"),
            jwt_hs_secret_file: self.path("security.jwt.hs_secret_file"),
            jwt_rs_public_key_file: self.path("security.jwt.rs_public_key_file"),
            jwt_es_public_key_file: self.path("security.jwt.es_public_key_file"),
            jwt_audience: self.text("security.jwt.audience"),
            jwt_issuer: self.text("security.jwt.issuer"),
            cluster_key_file: self.path("security.cluster_key_file"),
            audit_file: self.path("security.audit_file"),
            audit_bytes_max: self.number("security.audit_bytes_max"),
            metrics_open: self.flag("security.metrics_open"),
            tls: files("security.tls", "client_ca_file"),
            peer_tls: files("security.peer_tls", "ca_file"),
        }
    }
}

/// The variable of a pod that says which shard it is, and the key that it stands for.
const SHARD_ID: &str = "SHARD_ID";
const SHARD_KEY: &str = "cluster.shard_id";

/// Whether a setting was read from a file.
fn is_of_file((_, place): &(Setting, String)) -> bool {
    !place.starts_with("environment ")
}

/// A variable that is almost one of ours. Others that merely start like ours are left alone: Kubernetes sets
/// `FLOTILLA_SERVICE_HOST` and the like for a service of that name.
fn misspelt(variable: &str) -> Option<String> {
    let near = |known: &String| strsim::damerau_levenshtein(variable, known) <= 2;
    let known = KEYS.iter().map(|key| keys::variable(key.name)).find(near)?;
    Some(format!("unknown variable; did you mean `{known}`?"))
}

/// The value of `key` from text; the error names the legal values and the text.
fn setting_from_text(key: &Key, text: &str) -> Result<Setting, String> {
    let refused = || format!("must be {}{}, got {text}", key.kind.legal(), unit(key));
    match key.kind {
        Kind::Number { min, max, .. } => match text.parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(Setting::Number(number)),
            _ => Err(refused()),
        },
        Kind::Flag { .. } => text.parse().map(Setting::Flag).map_err(|_| refused()),
        Kind::Word { of, .. } if of.contains(&text) => Ok(Setting::Text(text.to_owned())),
        Kind::Ratio { .. } if text.parse().is_ok_and(|ratio: f64| (0.0..=1.0).contains(&ratio)) => {
            Ok(Setting::Text(text.to_owned()))
        }
        Kind::Address { .. } if text.parse::<IpAddr>().is_ok() => Ok(Setting::Text(text.to_owned())),
        Kind::Path | Kind::Text if !text.is_empty() => Ok(Setting::Text(text.to_owned())),
        Kind::Shards => member::shards(text).map(Setting::Shards),
        Kind::Word { .. } | Kind::Address { .. } | Kind::Ratio { .. } | Kind::Path | Kind::Text => {
            Err(refused())
        }
    }
}

fn unit(key: &Key) -> String {
    if key.unit.is_empty() { String::new() } else { format!(" {}", key.unit) }
}

#[cfg(test)]
mod tests;
