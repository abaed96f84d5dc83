//! How the processes of a cluster know each other: by a key that all of them have, by certificates of the cluster's own
//! authority, or by both. What is configured is required.
//!
//! A certificate says in a URI what its process is: `flotilla://node` or `flotilla://router`. A node's peer port takes nodes
//! only, its data port routers, too; who dials expects a node. So a client's certificate, though of the same authority,
//! opens neither. The file of the key may hold several lines: the first one is sent, each is taken, so that a key is
//! replaced without a stop.

use std::path::PathBuf;
use std::sync::Arc;

use flotilla_proto::access::{Authenticator, Caller, Note, Rights};
use flotilla_proto::refusal::Refusal;
use tonic::codegen::http::{Extensions, HeaderMap};
use tonic::transport::{Channel, Endpoint};

use crate::audit::Recorder;
use crate::callers::brought;
use crate::tls::{Connection, Dialer, Role};
use crate::{Fault, Keyed, Secret, Watched};

/// Bytes of a cluster's key, at least.
const KEY_BYTES_MIN: usize = 16;

/// What a process shows and asks for. By default nothing of either.
#[derive(Clone, Debug, Default)]
pub struct Trust {
    key: Option<Arc<Watched<Vec<Secret>>>>,
    dialer: Option<Dialer>,
    recorder: Option<Recorder>,
}

impl Trust {
    /// With a key, with certificates, or with both; refused calls go to the recorder.
    pub fn new(key: Option<Arc<Watched<Vec<Secret>>>>, dialer: Option<Dialer>, recorder: Recorder) -> Trust {
        Trust { key, dialer, recorder: Some(recorder) }
    }

    /// Reads the file of the cluster's key.
    ///
    /// # Errors
    /// If it cannot be read, or holds none.
    pub fn key(file: PathBuf) -> Result<Arc<Watched<Vec<Secret>>>, Fault> {
        Watched::open("cluster key", vec![file], |bytes| {
            let keys = Secret::lines(bytes.first().map_or(&[], |bytes| bytes.as_slice()))?;
            if keys.is_empty() {
                return Err("holds no key".to_owned());
            }
            match keys.iter().map(|key| key.expose().len()).find(|bytes| *bytes < KEY_BYTES_MIN) {
                Some(short) => Err(format!("a key must have at least {KEY_BYTES_MIN} bytes, got {short}")),
                None => Ok(keys),
            }
        })
    }

    /// The URL of a member's `host:port`.
    pub fn url(&self, address: &str) -> String {
        let scheme = if self.dialer.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }

    /// A channel to a member that is dialled when it is first used.
    pub fn connect_lazy(&self, endpoint: &Endpoint) -> Keyed {
        self.over(match &self.dialer {
            Some(dialer) => endpoint.connect_with_connector_lazy(dialer.clone()),
            None => endpoint.connect_lazy(),
        })
    }

    /// Calls over this channel, with our key.
    pub fn over(&self, channel: Channel) -> Keyed {
        match &self.key {
            Some(keys) => Keyed::first(channel, keys.clone()),
            None => channel.into(),
        }
    }

    /// Who stands at a port that only nodes may call.
    pub fn nodes(&self) -> Option<Arc<dyn Authenticator>> {
        self.members(&[Role::Node])
    }

    /// Who stands at a port that nodes and routers may call.
    pub fn members_all(&self) -> Option<Arc<dyn Authenticator>> {
        self.members(&[Role::Node, Role::Router])
    }

    fn members(&self, roles: &'static [Role]) -> Option<Arc<dyn Authenticator>> {
        let recorder = self.recorder.clone()?;
        if self.key.is_none() && self.dialer.is_none() {
            return None;
        }
        let roles = self.dialer.as_ref().map(|_| roles);
        Some(Arc::new(Members { key: self.key.clone(), roles, recorder }))
    }
}

#[derive(Debug)]
struct Members {
    key: Option<Arc<Watched<Vec<Secret>>>>,
    /// What a certificate must say, if there must be one.
    roles: Option<&'static [Role]>,
    recorder: Recorder,
}

impl Authenticator for Members {
    fn caller(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Arc<Caller>, Refusal> {
        let refused = |why: &str| Err(Refusal::Unauthenticated(why.to_owned()));
        if let Some(keys) = &self.key {
            let brought = brought(headers).unwrap_or_default().as_bytes();
            // All are compared, whichever it is.
            if keys.get().iter().filter(|key| key.is(brought)).count() == 0 {
                return refused("the cluster's key is needed (security.cluster_key_file)");
            }
        }
        let mut name = "member".to_owned();
        if let Some(roles) = self.roles {
            let identity = extensions.get::<Connection>().and_then(|connection| connection.identity.as_ref());
            let Some(identity) = identity else {
                return refused("a certificate of the cluster is needed (security.peer_tls)");
            };
            if !identity.role.is_some_and(|role| roles.contains(&role)) {
                let roles = roles.iter().map(|role| role.uri()).collect::<Vec<_>>().join(" or ");
                let why = format!("the certificate of {} does not name the URI {roles}", identity.name);
                return Err(Refusal::Denied(why));
            }
            name = format!("member {}", identity.name);
        }
        Ok(Arc::new(Caller::whole(name, Rights::CLUSTER)))
    }

    fn note(&self, note: &Note<'_>) {
        self.recorder.note(note);
    }
}
