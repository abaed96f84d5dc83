//! The other end of a [`Line`](crate::peers::line): a stream of appends to many groups, and of their answers.
//!
//! The appends of a message go to their groups at the same time; an answer goes out as soon as it is there, together with
//! those that came meanwhile. No more is read while [`RUNNING_MAX`] appends have no answer.

use std::pin::Pin;
use std::sync::Arc;

use flotilla_proto::ids::PartitionId;
use flotilla_proto::peer;
use flotilla_proto::refusal::Refusal;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::raft::{Doors, meant};
use crate::env::task;

/// Appends of one stream that have no answer yet, at most, before more are read.
const RUNNING_MAX: usize = 512;
/// Messages of answers that the other node has not taken yet.
const ANSWERS_AHEAD: usize = 4;

/// What goes back.
pub type Answers = Pin<Box<dyn Stream<Item = Result<peer::Appended, Status>> + Send>>;

/// Serves one stream until the other side ends it, or this node goes down.
pub(super) fn take(doors: Arc<Doors>, incoming: Streaming<peer::Appends>) -> Answers {
    let (answers, outgoing) = mpsc::channel(ANSWERS_AHEAD);
    let over = doors.meta.over();
    task::spawn(async move {
        let refused = tokio::select! {
            served = serve(doors, incoming, &answers) => served.err(),
            () = over => Some(Status::unavailable("this node is going down")),
        };
        if let Some(status) = refused {
            // Who does not listen any more need not hear why.
            let _ = answers.send(Err(status)).await;
        }
    });
    Box::pin(ReceiverStream::new(outgoing))
}

async fn serve(
    doors: Arc<Doors>,
    mut incoming: Streaming<peer::Appends>,
    answers: &mpsc::Sender<Result<peer::Appended, Status>>,
) -> Result<(), Status> {
    let mut running: FuturesUnordered<BoxFuture<'static, peer::AppendAnswer>> = FuturesUnordered::new();
    let mut is_meant = false;
    loop {
        tokio::select! {
            message = incoming.message(), if running.len() < RUNNING_MAX => {
                let Some(message) = message? else { return Ok(()) };
                if !is_meant {
                    meant(&doors.peers, message.to.as_ref())?;
                    is_meant = true;
                }
                running.extend(message.appends.into_iter().map(|append| append_to(doors.clone(), append).boxed()));
            }
            Some(first) = running.next(), if !running.is_empty() => {
                let mut ready = vec![first];
                while let Some(Some(next)) = running.next().now_or_never() {
                    ready.push(next);
                }
                if answers.send(Ok(peer::Appended { answers: ready })).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

async fn append_to(doors: Arc<Doors>, append: peer::Append) -> peer::AppendAnswer {
    let peer::Append { ticket, group, head, entries } = append;
    let answered: Result<_, Refusal> = match doors.of(PartitionId(group)) {
        Ok(door) => door.append(head, entries).await,
        Err(why) => Err(why),
    };
    match answered {
        Ok(body) => peer::AppendAnswer { ticket, body, ..Default::default() },
        Err(why) => {
            let status = Status::from(why);
            let (code, refused) = (status.code().into(), status.message().to_owned());
            peer::AppendAnswer { ticket, code, refused, ..Default::default() }
        }
    }
}
