//! The door of a server: calls that may not enter are refused before their message is read.

use std::task::{Context, Poll};

use tonic::Status;
use tonic::codegen::{BoxFuture, Service, http};

use super::{Rights, admit};

/// A service behind the table of rules.
#[derive(Clone, Debug)]
pub struct Gate<S> {
    inner: S,
    caller: Rights,
}

impl<S> Gate<S> {
    /// Whoever calls has these rights.
    pub fn new(inner: S, caller: Rights) -> Gate<S> {
        Gate { inner, caller }
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

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let method = request.uri().path().trim_start_matches('/');
        match admit(method, self.caller) {
            Ok(()) => Box::pin(self.inner.call(request)),
            Err(refused) => Box::pin(std::future::ready(Ok(Status::from(refused).into_http()))),
        }
    }
}
