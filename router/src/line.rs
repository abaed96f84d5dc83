//! How a call gets to a node: over a connection, or straight into the services of this process.
//!
//! Both take the same requests and give the same answers, encoded alike, so everything above is the same code in every tier.
//! Straight in there are no frames, windows and connections: a call costs its messages and nothing else. It runs on a task of
//! its own, as one that came over a connection would, and ends when its caller goes.

use std::task::{Context, Poll};

use flotilla_security::Keyed;
use flotilla_trace::Hop;
use futures::future::BoxFuture;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tonic::service::Routes;

use crate::pool::INPROC;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// See the module.
#[derive(Clone, Debug)]
pub enum Line {
    /// Over a connection.
    Wire(Keyed),
    /// Into the services of this process.
    Here(Routes),
}

impl tower::Service<Request<Body>> for Line {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Line::Wire(channel) => channel.poll_ready(context).map_err(Into::into),
            Line::Here(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        match self {
            Line::Wire(channel) => {
                let sent = channel.call(request);
                Box::pin(async { sent.await.map_err(Into::into) })
            }
            Line::Here(routes) => {
                let leaves = Hop::leaving(&mut request);
                let arrives = Hop::arriving(&request, INPROC, false);
                let answered = tower::Service::call(routes, request);
                let mut running = Running(tokio::spawn(arrives.answering(answered)));
                Box::pin(leaves.answering(async move {
                    match (&mut running.0).await {
                        Ok(Ok(answer)) => Ok(answer),
                        Ok(Err(never)) => match never {},
                        Err(why) => Err(Status::internal(format!("the call was lost: {why}")).into()),
                    }
                }))
            }
        }
    }
}

/// A call that ends when its caller goes.
struct Running<T>(JoinHandle<T>);

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;

    use super::*;

    #[tokio::test]
    async fn services_of_this_process_answer_and_refuse_as_over_a_connection() {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter.set_service_status("here", tonic_health::ServingStatus::Serving).await;
        let mut client = HealthClient::new(Line::Here(Routes::new(health)));
        let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
        let answer = client.check(ask("here")).await.unwrap().into_inner();
        assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
        assert_eq!(client.check(ask("nobody")).await.unwrap_err().code(), Code::NotFound);
        let mut nothing = HealthClient::new(Line::Here(Routes::default()));
        assert_eq!(nothing.check(ask("here")).await.unwrap_err().code(), Code::Unimplemented);
    }
}
