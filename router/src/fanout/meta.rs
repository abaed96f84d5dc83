//! Calls to the meta group.

use std::time::Duration;

use flotilla_proto::ids::NodeId;
use flotilla_proto::refusal::Refusal;
use flotilla_proto::shard::meta_client::MetaClient;
use tonic::{Response, Status};

use super::verdict::{Verdict, is_silence, never_left, told};
use super::{Fanout, PAUSE, with_timeout};
use crate::admission::Deadline;
use crate::backoff::Backoff;
use crate::line::Line;

/// Whether sending a call a second time is harmless when the first one's fate is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resend {
    /// It only asks.
    Freely,
    /// Only if the first one was refused, or never left.
    IfRefused,
}

impl Fanout {
    /// One call to the meta group, by whichever node leads it: the one that answered last is asked first, then those that
    /// vote, then the others.
    pub(crate) async fn meta<T, F, M>(
        &self,
        deadline: Deadline,
        resend: Resend,
        message: M,
        send: impl Fn(MetaClient<Line>, tonic::Request<M>) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
        M: Clone,
    {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        let mut addresses = self.meta_addresses();
        loop {
            let address = addresses.pop().ok_or_else(|| Status::unavailable("no node is known"))?;
            let client = self.pool.meta(&address)?;
            let sent = send(client, with_timeout(message.clone(), deadline.for_next_hop()));
            let status = match self.in_time(resend, deadline, sent).await {
                Ok(answer) => {
                    *self.meta_leader.lock() = Some(address);
                    return Ok(answer.into_inner());
                }
                Err(status) => status,
            };
            let leader = match Verdict::on(&status) {
                Verdict::NotLeader(leader) => leader,
                Verdict::Elsewhere if resend == Resend::Freely || never_left(&status) => None,
                _ => return Err(told(status)),
            };
            if is_silence(&status) || leader.is_some() {
                self.meta_leader.lock().take_if(|known| *known == address);
            }
            let mut pause = Duration::ZERO;
            if addresses.is_empty() {
                pause = backoff.pause(&self.chance);
                addresses = self.meta_addresses();
            }
            self.pause(pause, deadline, &status).await?;
            let map = self.placement.map();
            if let Some(node) = leader.and_then(|id: NodeId| map.as_ref()?.node(id)) {
                addresses.retain(|other| *other != node.address);
                addresses.push(node.address.clone());
            }
        }
    }

    /// The end of one try. One that only asks is given up when the next node might answer sooner.
    async fn in_time<T>(
        &self,
        resend: Resend,
        deadline: Deadline,
        sent: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let patience = self.patience(deadline);
        match resend {
            Resend::IfRefused => sent.await,
            Resend::Freely => tokio::time::timeout(patience, sent).await.unwrap_or_else(|_| {
                Err(Refusal::Unavailable("a node of the meta group did not answer in time".into()).into())
            }),
        }
    }

    /// Where to ask, the first one last.
    fn meta_addresses(&self) -> Vec<String> {
        let mut addresses = self.placement.addresses();
        addresses.reverse();
        if let Some(leader) = self.meta_leader.lock().clone()
            && let Some(at) = addresses.iter().position(|address| *address == leader)
        {
            let leader = addresses.remove(at);
            addresses.push(leader);
        }
        addresses
    }
}
