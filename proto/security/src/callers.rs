//! Who calls at the public API: an API key, a token or the certificate of the connection says so.
//!
//! A key or token comes as `authorization: Bearer ...` or `api-key: ...`; a token has dots, a key has none. If certificates
//! of clients are asked for, a call needs one whatever else it brings; it is the caller only where there are neither keys nor
//! tokens. Where nothing is configured but an audit log, everybody is `anybody` and may do everything, as without.

use std::sync::Arc;

use flotilla_proto::access::{Authenticator, Caller, Note, Rights};
use flotilla_proto::refusal::Refusal;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{Extensions, HeaderMap};

use crate::audit::Recorder;
use crate::credentials::Keys;
use crate::jwt::Tokens;
use crate::tls::Connection;
use crate::watched::Watched;

/// The header of a key beside `authorization`.
pub const API_KEY: &str = "api-key";

/// See the module.
#[derive(Debug)]
pub struct Callers {
    /// The file of keys.
    pub keys: Option<Arc<Watched<Keys>>>,
    /// What tokens are checked by.
    pub tokens: Option<Tokens>,
    /// Whether connections must bring a certificate.
    pub needs_certificate: bool,
    /// Where calls are taken down.
    pub recorder: Recorder,
}

/// The key or token of a call.
pub(crate) fn brought(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let (scheme, rest) = value.to_str().ok()?.split_once(' ')?;
        return scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim());
    }
    headers.get(API_KEY)?.to_str().ok().map(str::trim)
}

fn refused(why: impl std::fmt::Display) -> Refusal {
    Refusal::Unauthenticated(why.to_string())
}

impl Callers {
    fn find(&self, brought: &str) -> Result<Arc<Caller>, Refusal> {
        let none = Keys::default();
        let held = self.keys.as_ref().map(|keys| keys.get());
        let keys = held.as_deref().unwrap_or(&none);
        if brought.contains('.') {
            let tokens = self.tokens.as_ref().ok_or_else(|| refused("tokens are not taken here"))?;
            return tokens.find(brought, keys).map_err(refused);
        }
        keys.find(brought, crate::unix_seconds()).map_err(refused)
    }
}

impl Authenticator for Callers {
    fn caller(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Arc<Caller>, Refusal> {
        let identity = extensions.get::<Connection>().and_then(|connection| connection.identity.as_ref());
        if self.needs_certificate && identity.is_none() {
            return Err(refused("a client certificate is needed: connect with one (--tls-cert, --tls-key)"));
        }
        let are_named = self.keys.is_some() || self.tokens.is_some();
        match (brought(headers), identity) {
            (Some(brought), _) if are_named => self.find(brought),
            (None, _) if are_named => Err(refused(
                "credentials are needed: send an API key or a token as `authorization: Bearer ...` \
                 (--api-key-file, FLOTILLA_API_KEY)",
            )),
            (_, Some(identity)) => {
                Ok(Arc::new(Caller::whole(format!("certificate of {}", identity.name), Rights::DATA)))
            }
            (_, None) => Ok(Arc::new(Caller::whole("anybody", Rights::DATA))),
        }
    }

    fn note(&self, note: &Note<'_>) {
        self.recorder.note(note);
    }
}
