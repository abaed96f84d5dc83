//! The door of a server: calls that may not enter are refused before their message is read.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use tonic::codegen::{BoxFuture, Service, http};
use tonic::{Code, Status};

use super::{Caller, Right, Rights, admit};
use crate::refusal::Refusal;

/// Knows callers by what they bring along, and is told what becomes of their calls.
pub trait Authenticator: fmt::Debug + Send + Sync {
    /// Who calls: by the headers of the call, and by what the connection put in its extensions.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`] if nothing says so, or not in a way that holds.
    fn caller(
        &self,
        headers: &http::HeaderMap,
        extensions: &http::Extensions,
    ) -> Result<Arc<Caller>, Refusal>;

    /// Takes down what became of a call.
    fn note(&self, note: &Note<'_>);
}

/// What became of a call.
#[derive(Clone, Copy, Debug)]
pub struct Note<'a> {
    /// Who called, if that is known.
    pub caller: Option<&'a Caller>,
    /// What: `package.Service/Method`.
    pub method: &'a str,
    /// The collection that it was about, if it was about one.
    pub collection: Option<&'a str>,
    /// How it ended.
    pub outcome: Code,
}

/// A call that has entered, by name: in the extensions of its request.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Who calls.
    pub caller: Arc<Caller>,
    /// What: `package.Service/Method`.
    pub method: &'static str,
    /// What that takes.
    pub right: Right,
    authenticator: Arc<dyn Authenticator>,
}

impl Entry {
    /// Whether the call may be about this collection; without one, about the cluster as a whole. A refusal is taken down.
    ///
    /// # Errors
    /// [`Refusal::Denied`] if it may not.
    pub fn check(&self, collection: Option<&str>) -> Result<(), Refusal> {
        self.caller
            .check(self.right, collection)
            .inspect_err(|_| self.note(collection, Code::PermissionDenied))
    }

    /// Takes down how an administrative call ended; of others nothing.
    pub fn ended(&self, collection: Option<&str>, outcome: Code) {
        if self.right == Right::Admin {
            self.note(collection, outcome);
        }
    }

    fn note(&self, collection: Option<&str>, outcome: Code) {
        let note = Note { caller: Some(&self.caller), method: self.method, collection, outcome };
        self.authenticator.note(&note);
    }
}

/// A service behind the table of rules.
#[derive(Clone, Debug)]
pub struct Gate<S> {
    inner: S,
    port: Rights,
    authenticator: Option<Arc<dyn Authenticator>>,
}

impl<S> Gate<S> {
    /// Whoever calls has these rights at most: exactly these without an authenticator, else what it knows of the caller.
    pub fn new(inner: S, port: Rights, authenticator: Option<Arc<dyn Authenticator>>) -> Gate<S> {
        Gate { inner, port, authenticator }
    }

    /// Who enters; none if nobody has to say who it is.
    fn enter<B>(&self, request: &http::Request<B>) -> Result<Option<Entry>, Refusal> {
        let method = request.uri().path().trim_start_matches('/');
        let Some(authenticator) = &self.authenticator else {
            return admit(method, self.port).map(|_| None);
        };
        let refused = |caller: Option<&Caller>, why: Refusal| {
            let outcome = Status::from(why.clone()).code();
            authenticator.note(&Note { caller, method, collection: None, outcome });
            why
        };
        let (method, right) = admit(method, self.port).map_err(|why| refused(None, why))?;
        if right == Right::Open {
            return Ok(None);
        }
        let known = authenticator.caller(request.headers(), request.extensions());
        let caller = known.map_err(|why| refused(None, why))?;
        if !caller.has(right) {
            let why = format!("{}: {method} takes the right {right:?}, which is not granted", caller.name);
            return Err(refused(Some(&caller), Refusal::Denied(why)));
        }
        Ok(Some(Entry { caller, method, right, authenticator: authenticator.clone() }))
    }
}

impl<S, B, R> Service<http::Request<B>> for Gate<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    R: Default + Send + 'static,
{
    type Response = http::Response<R>;
    type Error = S::Error;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<B>) -> Self::Future {
        match self.enter(&request) {
            Ok(entry) => {
                if let Some(entry) = entry {
                    request.extensions_mut().insert(entry);
                }
                Box::pin(self.inner.call(request))
            }
            Err(refused) => Box::pin(std::future::ready(Ok(Status::from(refused).into_http()))),
        }
    }
}
