//! The course of one call: which replica is asked next, when one more is asked beside it, and when to give up.

use std::time::Duration;

use flotilla_proto::ids::NodeId;
use tokio::time::Instant;
use tonic::Status;

use super::route::Route;
use super::verdict::{Verdict, is_silence, told};
use super::{Fanout, Miss, PAUSE, Whom, given_up};
use crate::admission::Deadline;
use crate::backoff::Backoff;

/// A leader that is damaged gives its lead up: that long its refusal may be out of date.
const ELECTION_MAX: Duration = Duration::from_secs(4);

/// What is done if no try has ended by a point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alarm {
    /// Ask another replica beside the first, if there are hedges left.
    Hedge,
    /// Take the nodes being asked for silent, and ask one more beside them.
    Patience,
    /// Begin the next round.
    Round,
}

/// See the module.
pub(super) struct Course<'a> {
    fanout: &'a Fanout,
    deadline: Deadline,
    verb: &'static str,
    route: Route,
    backoff: Backoff,
    /// Whether one more replica is to be asked now.
    wants: bool,
    alarm: Option<(Instant, Alarm)>,
    began: Instant,
    has_begun: bool,
    /// Whether a hedge makes no sense, or was decided on already.
    is_hedged: bool,
    hedge: Option<NodeId>,
    /// Nodes whose silence was noted.
    silent: Vec<NodeId>,
    refusal: Option<Status>,
    damage: Option<Status>,
}

impl<'a> Course<'a> {
    /// Nobody asked yet.
    pub(super) fn new(
        fanout: &'a Fanout,
        order: Vec<NodeId>,
        deadline: Deadline,
        verb: &'static str,
        whom: Whom<'_>,
    ) -> Course<'a> {
        Course {
            fanout,
            deadline,
            verb,
            route: Route::new(order),
            backoff: Backoff::new(PAUSE.0, PAUSE.1),
            wants: true,
            alarm: None,
            began: Instant::now(),
            has_begun: false,
            is_hedged: whom.is_leader() || matches!(whom, Whom::Viewer(..)),
            hedge: None,
            silent: Vec::new(),
            refusal: None,
            damage: None,
        }
    }

    /// The replica to ask now, if one is to be asked.
    ///
    /// # Errors
    /// If nobody is being asked and the time is too short for another round.
    pub(super) fn next(&mut self) -> Result<Option<NodeId>, Status> {
        if !std::mem::take(&mut self.wants) {
            return Ok(None);
        }
        let now = Instant::now();
        let health = &self.fanout.health;
        let next = self.route.next(|node| health.may_ask(node, now));
        match next {
            Some(node) => self.begins(node, now),
            None if self.route.is_exhausted() && !self.route.is_idle() => self.alarm = None,
            None => {
                let pause = self.backoff.pause(&self.fanout.chance);
                if self.route.is_idle() && self.deadline.left() <= pause {
                    return Err(self.given_up());
                }
                self.alarm = Some((now + pause, Alarm::Round));
            }
        }
        Ok(next)
    }

    fn begins(&mut self, node: NodeId, now: Instant) {
        self.fanout.health.begins(node, now);
        if std::mem::replace(&mut self.has_begun, true) {
            self.fanout.metrics.retries.inc();
        }
        if self.is_hedged && self.hedge.is_none() && self.alarm.is_some_and(|(_, why)| why == Alarm::Hedge) {
            self.hedge = Some(node);
        }
        let patience = self.fanout.patience(self.deadline);
        self.alarm = match self.fanout.hedges.after(self.verb) {
            _ if self.route.is_exhausted() => None,
            after if after < patience && self.can_hedge(now) => Some((now + after, Alarm::Hedge)),
            _ => Some((now + patience, Alarm::Patience)),
        };
    }

    fn can_hedge(&self, now: Instant) -> bool {
        !self.is_hedged && self.route.has_spare(|node| self.fanout.health.may_ask(node, now))
    }

    /// When to stop waiting for a try to end.
    pub(super) fn alarm(&self) -> Option<Instant> {
        self.alarm.map(|(at, _)| at)
    }

    /// The alarm rang.
    pub(super) fn rung(&mut self) {
        let now = Instant::now();
        self.wants = true;
        match self.alarm.map(|(_, why)| why) {
            Some(Alarm::Hedge) => {
                let is_granted = self.can_hedge(now) && self.fanout.hedges.take();
                self.is_hedged = true;
                if is_granted {
                    self.fanout.metrics.hedges.with_label_values(&[self.verb]).inc();
                } else {
                    self.wants = false;
                    self.alarm = Some((now + self.fanout.patience(self.deadline), Alarm::Patience));
                }
            }
            Some(Alarm::Patience) => self.note_silence(now),
            Some(Alarm::Round) => self.route.restart(),
            None => {}
        }
    }

    /// Those still being asked have been silent for too long.
    fn note_silence(&mut self, now: Instant) {
        for node in self.route.running() {
            if !self.silent.contains(node) {
                self.silent.push(*node);
                self.fanout.health.failed(*node, now);
            }
        }
    }

    /// `node` answered.
    pub(super) fn answered(&mut self, node: NodeId, time: Duration) {
        let now = Instant::now();
        self.route.ended(node);
        self.fanout.health.answered(node, Some(time), now);
        self.fanout.hedges.answered(self.verb, time);
        if self.hedge == Some(node) {
            self.fanout.metrics.hedges_won.with_label_values(&[self.verb]).inc();
            // A node that loses to every hedge and never answers is silent; one answer clears it.
            self.note_silence(now);
        }
    }

    /// `node` did not answer as asked.
    ///
    /// # Errors
    /// If no other replica can do better.
    pub(super) fn refused(&mut self, node: NodeId, status: Status) -> Result<(), Miss> {
        let now = Instant::now();
        self.route.ended(node);
        match is_silence(&status) {
            true => self.fanout.health.failed(node, now),
            false => self.fanout.health.answered(node, None, now),
        }
        match Verdict::on(&status) {
            Verdict::Tell => return Err(Miss::Failed(told(status))),
            Verdict::Stale(newer) => {
                self.fanout.metrics.retries.inc();
                newer.map_or(Ok(()), |newer| self.fanout.placement.learn(*newer))?;
                return Err(Miss::Stale);
            }
            Verdict::NotLeader(leader) => {
                self.route.named(leader);
                if self.route.is_leader_damaged() && now - self.began > ELECTION_MAX {
                    return Err(Miss::Failed(told(self.damage.take().unwrap_or(status))));
                }
            }
            Verdict::Damaged if self.route.damaged(node) => return Err(Miss::Failed(told(status))),
            Verdict::Damaged => self.damage = Some(status.clone()),
            Verdict::Elsewhere => {}
        }
        self.refusal = Some(status);
        self.wants = true;
        Ok(())
    }

    fn given_up(&mut self) -> Status {
        match self.damage.take() {
            Some(damage) => told(damage),
            None => given_up(self.refusal.as_ref()),
        }
    }
}
