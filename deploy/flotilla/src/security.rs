//! From the keys `security.*` to the doors, the callers and the trust of a server.
//!
//! `up` and `router` serve the public API: they know callers, and `security.tls` encrypts. `node` is called by members of its
//! cluster only: `security.peer_tls` encrypts both its ports, the peer port takes nobody without a certificate, and the
//! data port lets probes in without one. A router shows its nodes `security.peer_tls` and the cluster's key, too.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use flotilla_proto::access::Authenticator;
use flotilla_router::server as front;
use flotilla_security::audit::{Audit, Recorder};
use flotilla_security::credentials::Keys;
use flotilla_security::jwt::Tokens;
use flotilla_security::tls::{Clients, DialOptions, Dialer, Door, Pair, Role};
use flotilla_security::watched::{Keeper, Refresh, keep};
use flotilla_security::{Callers, Metrics, Trust, Watched, jwt};
use prometheus::Registry;

use crate::config::Config;

/// `security.*`
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The file of API keys.
    pub api_keys_file: Option<PathBuf>,
    /// The shared secret of tokens by HS256.
    pub jwt_hs_secret_file: Option<PathBuf>,
    /// The public key of tokens by RS256.
    pub jwt_rs_public_key_file: Option<PathBuf>,
    /// The public key of tokens by ES256.
    pub jwt_es_public_key_file: Option<PathBuf>,
    /// Whom tokens must be meant for.
    pub jwt_audience: String,
    /// Who must have made them; empty: anybody.
    pub jwt_issuer: String,
    /// The key that all members of a cluster have.
    pub cluster_key_file: Option<PathBuf>,
    /// The audit log.
    pub audit_file: Option<PathBuf>,
    /// Its size, at most.
    pub audit_bytes_max: u64,
    /// Whether `/metrics` takes no credentials.
    pub metrics_open: bool,
    /// Certificate, key and authority of the public API.
    pub tls: Files,
    /// Certificate, key and authority between members of a cluster.
    pub peer_tls: Files,
}

/// Files of TLS.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Files {
    /// The own certificate.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// The authority of the others.
    pub ca_file: Option<PathBuf>,
}

impl Files {
    /// The own certificate and its key, if there is one.
    fn own(&self, section: &str) -> anyhow::Result<Option<Pair>> {
        match (&self.cert_file, &self.key_file) {
            (Some(cert), Some(key)) => Ok(Some(Pair { cert_file: cert.clone(), key_file: key.clone() })),
            (None, None) if self.ca_file.is_none() => Ok(None),
            (None, _) => anyhow::bail!("{section}.cert_file is missing: the section's other keys need it"),
            (_, None) => anyhow::bail!("{section}.key_file is missing: {section}.cert_file needs it"),
        }
    }
}

impl Options {
    /// Whether the public API knows its callers and is encrypted.
    pub fn guards_public(&self) -> bool {
        let jwt = &[&self.jwt_hs_secret_file, &self.jwt_rs_public_key_file, &self.jwt_es_public_key_file];
        let has_credentials = self.api_keys_file.is_some()
            || self.tls.ca_file.is_some()
            || jwt.iter().any(|file| file.is_some());
        has_credentials && self.tls.cert_file.is_some()
    }

    /// Whether callers of the public API say who they are by keys or tokens.
    pub fn names_callers(&self) -> bool {
        self.api_keys_file.is_some() || self.jwt().is_wanted()
    }

    /// Whether a node knows the members of its cluster and is encrypted.
    pub fn guards_members(&self) -> bool {
        self.peer_tls.cert_file.is_some()
    }

    fn jwt(&self) -> jwt::Options {
        jwt::Options {
            hs_secret_file: self.jwt_hs_secret_file.clone(),
            rs_public_key_file: self.jwt_rs_public_key_file.clone(),
            es_public_key_file: self.jwt_es_public_key_file.clone(),
            audience: self.jwt_audience.clone(),
            issuer: self.jwt_issuer.clone(),
        }
    }
}

/// Refuses to be reached from other machines by anybody and in plain text, unless that was asked for.
pub fn refuse_open_bind(bind: IpAddr, is_guarded: bool, is_wanted: bool) -> anyhow::Result<()> {
    if !bind.is_loopback() && !is_guarded && !is_wanted {
        anyhow::bail!(
            "refusing to listen on {bind}: without credentials anybody who reaches the port may do anything, and without \
             TLS anybody on the way may read along; set security.api_keys_file and security.tls (a node: \
             security.peer_tls), bind to 127.0.0.1, or say --insecure-bind"
        );
    }
    Ok(())
}

/// Refuses tenants where nobody has to say who it is.
pub fn refuse_nameless(config: &Config) -> anyhow::Result<()> {
    if config.hub.is_some() && !config.security.names_callers() {
        anyhow::bail!(
            "hub.enabled: nobody would be a tenant's: set security.api_keys_file, or a key of security.jwt"
        );
    }
    Ok(())
}

/// What stands at the ports of a server. Its files are looked at for changes as long as it is there.
#[derive(Debug)]
pub struct Security {
    /// Who knows the callers of the public API.
    pub callers: Option<Arc<dyn Authenticator>>,
    /// What encrypts the public API.
    pub door: Option<Door>,
    /// What is shown to other members of the cluster, and asked of them.
    pub trust: Trust,
    /// What encrypts a node's data port and its peer port.
    pub member_doors: Option<(Door, Door)>,
    /// Whether `/metrics` takes no credentials.
    pub metrics_open: bool,
    metrics: Metrics,
    _keeper: Keeper,
}

impl Security {
    /// Reads every file. `role` is what the process is in a cluster, if it is in one. Within a tokio runtime.
    ///
    /// # Errors
    /// If a file is damaged, or a key of the configuration lacks another.
    pub fn open(options: &Options, role: Option<Role>) -> anyhow::Result<Security> {
        let metrics = Metrics::new()?;
        let mut watched: Vec<Arc<dyn Refresh>> = Vec::new();
        let audit = options.audit_file.as_deref();
        let audit = audit.map(|path| Audit::open(path, options.audit_bytes_max, &metrics)).transpose();
        let audit = audit.context("security.audit_file")?;
        let recorder = Recorder::new(audit.map(Arc::new), metrics.clone());
        // A node serves no public API: the files of that may not even be there.
        let is_public = role != Some(Role::Node);
        let is_asked = is_public || !options.metrics_open;
        let callers = if is_asked { callers(options, &recorder, &mut watched)? } else { None };
        let door = if is_public { public_door(options, &metrics, &mut watched)? } else { None };
        let (trust, member_doors) = match role {
            Some(role) => members(options, role, (recorder, &metrics), &mut watched)?,
            None => (Trust::default(), None),
        };
        let metrics_open = options.metrics_open;
        let keeper = keep(watched, metrics.clone());
        Ok(Security { callers, door, trust, member_doors, metrics_open, metrics, _keeper: keeper })
    }

    /// Has its counters told.
    ///
    /// # Errors
    /// If the registry holds them already.
    pub fn register(&self, registry: &Registry) -> Result<(), prometheus::Error> {
        registry.register(Box::new(self.metrics.clone()))
    }

    /// Puts it in front of the public API.
    pub fn guard(&self, front: &mut front::Options) {
        front.authenticator = self.callers.clone();
        front.door = self.door.clone();
        front.metrics_open = self.metrics_open;
    }
}

/// Who knows the callers of the public API; nobody, if there is nothing to know them by and nowhere to write it.
fn callers(
    options: &Options,
    recorder: &Recorder,
    watched: &mut Vec<Arc<dyn Refresh>>,
) -> anyhow::Result<Option<Arc<dyn Authenticator>>> {
    let read = |file: PathBuf| {
        Watched::open("keys", vec![file], |bytes| {
            Keys::parse(bytes.first().map_or(&[], |bytes| bytes.as_slice()))
        })
    };
    let keys = options.api_keys_file.clone().map(read).transpose().context("security.api_keys_file")?;
    watched.extend(keys.clone().map(|keys| keys as Arc<dyn Refresh>));
    let jwt = options.jwt();
    let tokens = jwt.is_wanted().then(|| Tokens::open(&jwt)).transpose().context("security.jwt")?;
    watched.extend(tokens.as_ref().map(Tokens::watched));
    let needs_certificate = options.tls.ca_file.is_some();
    if keys.is_none() && tokens.is_none() && !needs_certificate && options.audit_file.is_none() {
        return Ok(None);
    }
    Ok(Some(Arc::new(Callers { keys, tokens, needs_certificate, recorder: recorder.clone() })))
}

/// What encrypts the public API, if anything does.
fn public_door(
    options: &Options,
    metrics: &Metrics,
    watched: &mut Vec<Arc<dyn Refresh>>,
) -> anyhow::Result<Option<Door>> {
    let Some(own) = options.tls.own("security.tls")? else { return Ok(None) };
    let clients = options.tls.ca_file.clone().map_or(Clients::Unasked, Clients::Asked);
    let door = Door::new(&own, &clients, metrics.clone()).context("security.tls")?;
    watched.push(door.watched());
    Ok(Some(door))
}

/// What members show each other, and for a node what encrypts its data port and its peer port.
fn members(
    options: &Options,
    role: Role,
    (recorder, metrics): (Recorder, &Metrics),
    watched: &mut Vec<Arc<dyn Refresh>>,
) -> anyhow::Result<(Trust, Option<(Door, Door)>)> {
    let key = options.cluster_key_file.clone().map(Trust::key).transpose();
    let key = key.context("security.cluster_key_file")?;
    watched.extend(key.clone().map(|key| key as Arc<dyn Refresh>));
    let Some(own) = options.peer_tls.own("security.peer_tls")? else {
        return Ok((Trust::new(key, None, recorder), None));
    };
    let ca_file = options.peer_tls.ca_file.clone().context("security.peer_tls.ca_file is missing")?;
    let dial = DialOptions { ca_file: ca_file.clone(), own: Some(own.clone()), expects: Some(Role::Node) };
    let dialer = Dialer::new(&dial).context("security.peer_tls")?;
    watched.push(dialer.watched());
    let mut doors = None;
    if role == Role::Node {
        let door = |clients| Door::new(&own, &clients, metrics.clone()).context("security.peer_tls");
        let (data, peers) = (door(Clients::Asked(ca_file.clone()))?, door(Clients::Required(ca_file))?);
        watched.extend([data.watched(), peers.watched()]);
        doors = Some((data, peers));
    }
    Ok((Trust::new(key, Some(dialer), recorder), doors))
}

/// `https` if there is a door, else `http`.
pub fn scheme(door: Option<&Door>) -> &'static str {
    if door.is_some() { "https" } else { "http" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Settings};

    fn options(set: &[&'static str]) -> Options {
        let flags: Vec<_> = set.iter().map(|key| (*key, "--flag", "/x".to_owned())).collect();
        Config::from(&Settings::load(None, std::iter::empty(), &flags).unwrap()).security
    }

    #[test]
    fn a_port_is_guarded_by_credentials_and_tls_together() {
        let (keys, cert, ca) =
            ("security.api_keys_file", "security.tls.cert_file", "security.tls.client_ca_file");
        for (set, is_public, is_member) in [
            (&[][..], false, false),
            (&[keys], false, false),
            (&[cert], false, false),
            (&[keys, cert], true, false),
            (&[cert, ca], true, false),
            (&["security.jwt.es_public_key_file", cert], true, false),
            (&["security.audit_file", cert], false, false),
            (&["security.cluster_key_file"], false, false),
            (&["security.peer_tls.cert_file"], false, true),
        ] {
            let options = options(set);
            assert_eq!(
                (options.guards_public(), options.guards_members()),
                (is_public, is_member),
                "{set:?}"
            );
        }
    }

    #[test]
    fn only_a_guarded_port_is_reached_from_elsewhere_unless_that_is_wanted() {
        let (here, everywhere) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0]));
        refuse_open_bind(here, false, false).unwrap();
        refuse_open_bind(everywhere, true, false).unwrap();
        refuse_open_bind(everywhere, false, true).unwrap();
        let refused = refuse_open_bind(everywhere, false, false).unwrap_err().to_string();
        assert!(refused.contains("--insecure-bind") && refused.contains("security.tls"), "{refused}");
    }
}
