//! Appends to one other node: those of many groups over one stream.
//!
//! What waits goes out as one message, and so do the answers: a message costs far more than what it says. A heartbeat may
//! wait a little for company ([`Append::patience`]); whatever else is sent takes it along. When the stream breaks, all that
//! was asked over it fails, and the next append begins another.
//!
//! 2026-11-21: as a call each, the heartbeats and answers of 68 idle groups on three nodes took a third of a node's time.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::ids::PartitionId;
use flotilla_proto::limits::MESSAGE_BYTES_MAX;
use flotilla_proto::peer;
use flotilla_proto::peer::raft_client::RaftClient;
use flotilla_security::Keyed;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::env::{clock, task};

/// Appends that wait to be sent, at most; beyond it callers wait.
const QUEUE_MAX: usize = 1_024;
/// Appends of one message, and roughly their bytes, at most.
const TURN_MAX: usize = 256;
const TURN_BYTES_MAX: usize = 1 << 20;
/// Messages between us and the connection.
const TURNS_AHEAD: usize = 4;
/// When so many answers are due, those that nobody waits for any more are forgotten.
const PENDING_MAX: usize = 1_024;

/// The way for appends to one node; its task ends with it.
#[derive(Debug)]
pub struct Line {
    queue: mpsc::Sender<Call>,
}

/// One append.
#[derive(Debug)]
pub struct Append {
    /// The group.
    pub group: PartitionId,
    /// Vote, previous log id, commit.
    pub head: Bytes,
    /// The entries.
    pub entries: Vec<Bytes>,
    /// How long it may wait for company.
    pub patience: Duration,
}

#[derive(Debug)]
struct Call {
    append: Append,
    due: clock::Instant,
    answer: oneshot::Sender<Result<Bytes, Status>>,
}

impl Line {
    /// Over this channel, to whom `to` says. Nothing is sent before the first append.
    pub fn new(channel: Keyed, to: peer::To) -> Line {
        let (queue, waiting) = mpsc::channel(QUEUE_MAX);
        task::spawn(run(channel, to, waiting));
        Line { queue }
    }

    /// A handle that outlives the line's owner for one call.
    pub fn caller(&self) -> Caller {
        Caller(self.queue.clone())
    }
}

/// See [`Line::caller`].
pub struct Caller(mpsc::Sender<Call>);

impl Caller {
    /// Sends the append and waits for its answer, however long that takes.
    ///
    /// # Errors
    /// What the other node said; `Unavailable` if it was not reached or the stream broke.
    pub async fn append(&self, append: Append) -> Result<Bytes, Status> {
        let gone = || Status::unavailable("the way to the node has ended");
        let (answer, answered) = oneshot::channel();
        let due = clock::now() + append.patience;
        self.0.send(Call { append, due, answer }).await.map_err(|_| gone())?;
        answered.await.map_err(|_| gone())?
    }
}

async fn run(channel: Keyed, to: peer::To, mut queue: mpsc::Receiver<Call>) {
    let client = RaftClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    while let Some(first) = queue.recv().await {
        let mut talk = Talk { waiting: vec![first], ..Talk::default() };
        let why = talk.hold(client.clone(), to.clone(), &mut queue).await;
        for call in talk.waiting {
            let _ = call.answer.send(Err(why.clone()));
        }
        for answer in talk.pending.into_values() {
            let _ = answer.send(Err(why.clone()));
        }
    }
}

/// One stream, as long as it lasts.
#[derive(Default)]
struct Talk {
    waiting: Vec<Call>,
    pending: HashMap<u64, oneshot::Sender<Result<Bytes, Status>>>,
    tickets: u64,
}

impl Talk {
    /// Carries appends and answers until the stream ends; returns why.
    async fn hold(
        &mut self,
        mut client: RaftClient<Keyed>,
        to: peer::To,
        queue: &mut mpsc::Receiver<Call>,
    ) -> Status {
        let (turns, outgoing) = mpsc::channel(TURNS_AHEAD);
        let mut to = Some(to);
        let opening = self.turn(&mut to);
        // The channel is empty: the message fits.
        let _ = turns.try_send(opening);
        let mut answers = match client.append(ReceiverStream::new(outgoing)).await {
            Ok(answers) => answers.into_inner(),
            Err(why) => return why,
        };
        loop {
            let now = clock::now();
            let due = self.waiting.iter().map(|call| call.due).min();
            let is_due = due.is_some_and(|due| due <= now) || self.waiting.len() >= TURN_MAX;
            tokio::select! {
                answered = answers.message() => match answered {
                    Ok(Some(turn)) => self.take(turn),
                    Ok(None) => return Status::unavailable("the other node ended the stream"),
                    Err(why) => return why,
                },
                count = queue.recv_many(&mut self.waiting, TURN_MAX), if self.waiting.len() < TURN_MAX => {
                    if count == 0 {
                        return Status::cancelled("the node is no longer known");
                    }
                }
                room = turns.reserve(), if is_due => match room {
                    Ok(room) => room.send(self.turn(&mut to)),
                    Err(_) => return ended(&mut answers).await,
                },
                () = tokio::time::sleep_until(due.unwrap_or(now).to_tokio()), if due.is_some() && !is_due => {}
            }
        }
    }

    /// The next message: what waits, as far as it fits.
    fn turn(&mut self, to: &mut Option<peer::To>) -> peer::Appends {
        let mut bytes = 0;
        let fitting = self
            .waiting
            .iter()
            .take_while(|call| {
                let fits = bytes < TURN_BYTES_MAX;
                bytes += call.append.head.len() + call.append.entries.iter().map(Bytes::len).sum::<usize>();
                fits
            })
            .count();
        let mut appends = Vec::with_capacity(fitting);
        for Call { append, answer, .. } in self.waiting.drain(..fitting) {
            // Who asked may have given up meanwhile.
            if answer.is_closed() {
                continue;
            }
            self.tickets += 1;
            self.pending.insert(self.tickets, answer);
            let Append { group, head, entries, .. } = append;
            appends.push(peer::Append { ticket: self.tickets, group: group.0, head, entries });
        }
        if self.pending.len() > PENDING_MAX {
            self.pending.retain(|_, answer| !answer.is_closed());
        }
        peer::Appends { to: to.take(), appends }
    }

    fn take(&mut self, turn: peer::Appended) {
        for answered in turn.answers {
            if let Some(answer) = self.pending.remove(&answered.ticket) {
                let _ = answer.send(match Code::from_i32(answered.code) {
                    Code::Ok => Ok(answered.body),
                    code => Err(Status::new(code, answered.refused)),
                });
            }
        }
    }
}

/// Why a stream that takes nothing more has ended.
async fn ended(answers: &mut Streaming<peer::Appended>) -> Status {
    loop {
        match answers.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return Status::unavailable("the other node ended the stream"),
            Err(why) => return why,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;

    use flotilla_proto::peer::raft_server::{Raft, RaftServer};
    use futures::future::join_all;
    use futures::{Stream, StreamExt as _};
    use parking_lot::Mutex;
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Request, Response};

    use super::*;

    /// Answers each append with its own head; refuses those of group 7; a head `end` ends the stream.
    #[derive(Clone, Default)]
    struct Echo(Arc<Mutex<Vec<usize>>>);

    type Answers = Pin<Box<dyn Stream<Item = Result<peer::Appended, Status>> + Send>>;

    #[tonic::async_trait]
    impl Raft for Echo {
        type AppendStream = Answers;

        async fn append(
            &self,
            request: Request<Streaming<peer::Appends>>,
        ) -> Result<Response<Answers>, Status> {
            let sizes = self.0.clone();
            let answers = request.into_inner().map(move |message| {
                let message = message?;
                sizes.lock().push(message.appends.len());
                if message.appends.iter().any(|append| append.head == "end") {
                    return Err(Status::aborted("as asked"));
                }
                let answer = |append: peer::Append| match append.group {
                    7 => peer::AppendAnswer {
                        ticket: append.ticket,
                        code: Code::NotFound.into(),
                        refused: "no group 7".to_owned(),
                        ..Default::default()
                    },
                    _ => {
                        peer::AppendAnswer { ticket: append.ticket, body: append.head, ..Default::default() }
                    }
                };
                // The last first: answers come in any order.
                Ok(peer::Appended { answers: message.appends.into_iter().rev().map(answer).collect() })
            });
            Ok(Response::new(Box::pin(answers)))
        }

        async fn vote(&self, _: Request<peer::Envelope>) -> Result<Response<peer::Envelope>, Status> {
            Err(Status::unimplemented("vote"))
        }

        async fn pre_vote(&self, _: Request<peer::Envelope>) -> Result<Response<peer::Envelope>, Status> {
            Err(Status::unimplemented("pre_vote"))
        }

        async fn transfer(&self, _: Request<peer::Envelope>) -> Result<Response<peer::Envelope>, Status> {
            Err(Status::unimplemented("transfer"))
        }

        async fn leave(
            &self,
            _: Request<peer::LeaveRequest>,
        ) -> Result<Response<peer::LeaveResponse>, Status> {
            Err(Status::unimplemented("leave"))
        }

        async fn offer(
            &self,
            _: Request<peer::SnapshotOffer>,
        ) -> Result<Response<peer::SnapshotWanted>, Status> {
            Err(Status::unimplemented("offer"))
        }

        async fn send(
            &self,
            _: Request<Streaming<peer::SnapshotPiece>>,
        ) -> Result<Response<peer::SnapshotInstalled>, Status> {
            Err(Status::unimplemented("send"))
        }
    }

    async fn line() -> (Line, Echo) {
        let echo = Echo::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = tonic::transport::Server::builder().add_service(RaftServer::new(echo.clone()));
        task::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        let trust = flotilla_security::Trust::default();
        let channel = trust.connect_lazy(&crate::peers::endpoint(&address, &trust).unwrap());
        (Line::new(channel, peer::To::default()), echo)
    }

    fn append(group: u64, head: &'static str, patience: Duration) -> Append {
        Append {
            group: PartitionId(group),
            head: Bytes::from_static(head.as_bytes()),
            entries: vec![],
            patience,
        }
    }

    const LONG: Duration = Duration::from_secs(3_600);

    #[tokio::test]
    async fn the_patient_go_along_with_the_next_that_is_not() {
        let (line, echo) = line().await;
        let caller = line.caller();
        assert_eq!(caller.append(append(1, "first", LONG)).await.unwrap(), "first", "it opens the stream");
        let heads = (0..50).map(|_| append(1, "patient", LONG)).chain([append(2, "urgent", Duration::ZERO)]);
        let answers = join_all(heads.map(|append| caller.append(append))).await;
        let (urgent, patient) = answers.split_last().unwrap();
        assert_eq!(urgent.as_ref().unwrap(), "urgent");
        assert!(patient.iter().all(|answer| answer.as_ref().unwrap() == "patient"));
        assert_eq!(*echo.0.lock(), [1, 51]);
        // Alone it goes once its patience is over.
        assert_eq!(caller.append(append(1, "late", Duration::from_millis(20))).await.unwrap(), "late");
    }

    #[tokio::test]
    async fn a_refusal_is_told_and_a_broken_stream_fails_what_was_asked_over_it_only() {
        let (line, echo) = line().await;
        let caller = line.caller();
        let refused = caller.append(append(7, "x", Duration::ZERO)).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::NotFound, "no group 7"));
        let all = [append(1, "a", LONG), append(1, "end", Duration::ZERO)];
        for answer in join_all(all.map(|append| caller.append(append))).await {
            assert_eq!(answer.unwrap_err().code(), Code::Aborted);
        }
        assert_eq!(caller.append(append(1, "again", Duration::ZERO)).await.unwrap(), "again");
        assert_eq!(echo.0.lock().iter().sum::<usize>(), 4);
    }

    #[tokio::test]
    async fn who_gave_up_is_not_sent_and_a_caller_outlives_its_line() {
        let (line, echo) = line().await;
        let caller = line.caller();
        caller.append(append(1, "first", Duration::ZERO)).await.unwrap();
        assert!(tokio::time::timeout(Duration::ZERO, caller.append(append(1, "gone", LONG))).await.is_err());
        caller.append(append(1, "here", Duration::ZERO)).await.unwrap();
        assert_eq!(echo.0.lock().iter().sum::<usize>(), 2);
        drop(line);
        assert_eq!(caller.append(append(1, "still", Duration::ZERO)).await.unwrap(), "still");
    }
}
