//! A channel whose calls bring a key along, and the trace that they are a part of.

use std::sync::Arc;
use std::task::{Context, Poll};

use flotilla_trace::{Around, Hop};
use tonic::body::Body;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::transport::Channel;
use tower::Service;

use crate::{Secret, Watched};

/// Where the key of a call comes from.
#[derive(Clone, Debug, Default)]
enum Key {
    #[default]
    None,
    /// Always the same.
    One(HeaderValue),
    /// The first of those that stand in a file now.
    First(Arc<Watched<Vec<Secret>>>),
}

/// See the module. Without a key, and outside of a trace, it is the channel and nothing more.
#[derive(Clone, Debug)]
pub struct Keyed {
    channel: Channel,
    key: Key,
}

fn bearer(secret: &Secret) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", secret.expose())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Keyed {
    /// Brings this key along.
    ///
    /// # Errors
    /// If it cannot stand in a header.
    pub fn with(channel: Channel, key: &Secret) -> Result<Keyed, &'static str> {
        let key = bearer(key).ok_or("the key holds a character that no header may hold")?;
        Ok(Keyed { channel, key: Key::One(key) })
    }

    /// Brings the first of these keys along, as they are when the call is made.
    pub(crate) fn first(channel: Channel, keys: Arc<Watched<Vec<Secret>>>) -> Keyed {
        Keyed { channel, key: Key::First(keys) }
    }
}

impl From<Channel> for Keyed {
    fn from(channel: Channel) -> Keyed {
        Keyed { channel, key: Key::None }
    }
}

impl Service<Request<Body>> for Keyed {
    type Response = Response<Body>;
    type Error = <Channel as Service<Request<Body>>>::Error;
    type Future = Around<<Channel as Service<Request<Body>>>::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let key = match &self.key {
            Key::None => None,
            Key::One(key) => Some(key.clone()),
            Key::First(keys) => keys.get().first().and_then(bearer),
        };
        if let Some(key) = key {
            request.headers_mut().insert(AUTHORIZATION, key);
        }
        let hop = Hop::leaving(&mut request);
        hop.answering(self.channel.call(request))
    }
}
