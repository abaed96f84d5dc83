//! `/prepare-downscale`: how whoever takes pods away asks a shard node first, as Grafana's rollout-operator does.
//!
//! `POST`: the node is to go, with those of higher ordinals. 200 and `{"timestamp": SECONDS}` since when nothing would be lost with it; until
//! then 503, and its replicas move away meanwhile: ask again. `DELETE`: it stays after all; nothing happens if it was not to go.
//! `GET` says how it stands and changes nothing. So the operator's webhook refuses a downscale, and its delayed downscale waits,
//! until the data is elsewhere.
//!
//! Both take the right to administer all of the cluster, where callers have to say who they are. The time is known to this process
//! only: after a restart it is a later one, which makes the operator wait longer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::Request;
use axum::http::StatusCode;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use flotilla_node::server::{Node, Standing};
use flotilla_proto::access::Authenticator;
use flotilla_proto::refusal::Refusal;
use flotilla_router::server::{may_administer, may_see_metrics};
use serde_json::json;

const PATH: &str = "/prepare-downscale";
/// How long the meta group may take to answer; the operator's webhook waits for ten seconds.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// When to ask again while replicas move.
const RETRY_SECONDS: &str = "5";

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    State,
    Go,
    Stay,
}

/// The node, who may ask, and since when it is released, in seconds of Unix time; 0: it is not.
struct Downscale {
    node: Arc<Node>,
    operators: Option<Arc<dyn Authenticator>>,
    released: AtomicU64,
}

/// The page, over this node.
pub fn route(node: Arc<Node>, operators: Option<Arc<dyn Authenticator>>) -> axum::Router {
    let state = Arc::new(Downscale { node, operators, released: AtomicU64::new(0) });
    let ask = |asked: Asked| {
        let state = state.clone();
        move |request: Request| {
            let may = state.may(asked, &request);
            async move {
                match may {
                    Ok(()) => state.answer(asked).await,
                    Err(why) => denied(&why),
                }
            }
        }
    };
    axum::Router::new().route(PATH, get(ask(Asked::State)).post(ask(Asked::Go)).delete(ask(Asked::Stay)))
}

impl Downscale {
    fn may(&self, asked: Asked, request: &Request) -> Result<(), Refusal> {
        let guard = self.operators.as_deref();
        match asked {
            Asked::State => may_see_metrics(guard, request),
            Asked::Go | Asked::Stay => may_administer(guard, request),
        }
    }

    async fn answer(&self, asked: Asked) -> Response {
        let standing = match asked {
            Asked::State => self.node.standing(ANSWER_MAX).await,
            Asked::Go => self.node.leave(ANSWER_MAX).await,
            Asked::Stay => self.node.stay(ANSWER_MAX).await,
        };
        match standing {
            Ok(standing) => self.told(asked, standing),
            Err(why) => refused(&why),
        }
    }

    fn told(&self, asked: Asked, standing: Standing) -> Response {
        let released = self.since(standing.is_released);
        let body = body(standing, released);
        let kind = (CONTENT_TYPE, "application/json");
        if asked == Asked::Go && released.is_none() {
            return (StatusCode::SERVICE_UNAVAILABLE, [kind, (RETRY_AFTER, RETRY_SECONDS)], body)
                .into_response();
        }
        (StatusCode::OK, [kind], body).into_response()
    }

    /// Since when, if it is released: the same answer as long as it stays so.
    fn since(&self, is_released: bool) -> Option<u64> {
        if !is_released {
            self.released.store(0, Ordering::Relaxed);
            return None;
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs().max(1));
        let first = self.released.compare_exchange(0, now, Ordering::Relaxed, Ordering::Relaxed);
        Some(first.map_or_else(|known| known, |_| now))
    }
}

fn body(standing: Standing, released: Option<u64>) -> String {
    let state = match (released, standing.is_leaving) {
        (Some(_), _) => "released",
        (None, true) => "draining",
        (None, false) => "stays",
    };
    let told = json!({"timestamp": released.unwrap_or(0), "state": state, "replicas": standing.replicas});
    format!("{told}\n")
}

fn denied(why: &Refusal) -> Response {
    let is_known = matches!(why, Refusal::Denied(_));
    let code = if is_known { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
    (code, [(CONTENT_TYPE, "text/plain")], format!("{why}\n")).into_response()
}

fn refused(why: &Refusal) -> Response {
    let code = match why {
        Refusal::Invalid(_) | Refusal::NotFound(..) => StatusCode::CONFLICT,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    (code, [(CONTENT_TYPE, "text/plain")], format!("{why}\n")).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_told_in_a_word_and_a_time() {
        let standing = |is_leaving, is_released| Standing { is_leaving, replicas: 2, is_released };
        let said = |standing, released| {
            serde_json::from_str::<serde_json::Value>(&body(standing, released)).unwrap()
        };
        assert_eq!(
            said(standing(true, false), None),
            json!({"timestamp": 0, "state": "draining", "replicas": 2})
        );
        assert_eq!(said(standing(false, false), None)["state"], "stays");
        assert_eq!(
            said(standing(true, true), Some(7)),
            json!({"timestamp": 7, "state": "released", "replicas": 2})
        );
    }
}
