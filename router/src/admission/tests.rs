use std::pin::Pin;

use flotilla_tests::seed::Seed;
use futures::future::BoxFuture;
use rand::Rng as _;
use rand::rngs::SmallRng;
use tonic::Code;

use super::*;
use crate::metrics::Metrics;

const LONG: Duration = Duration::from_secs(60);

fn gate(core: usize, running_max: usize, waiting_max: usize) -> (Admission, Metrics) {
    let metrics = Metrics::new(Default::default()).unwrap();
    let limits = Limits { core, running_max, waiting_max };
    (Admission::new(limits, LONG, LONG, metrics.queues.clone()), metrics)
}

fn waiting(metrics: &Metrics) -> i64 {
    Class::ALL.iter().map(|class| metrics.queues.waiting.with_label_values(&[class.name()]).get()).sum()
}

#[test]
fn timeouts_are_read_as_the_protocol_writes_them() {
    assert_eq!(timeout("1500m"), Some(Duration::from_millis(1_500)));
    assert_eq!(timeout("2M"), Some(Duration::from_secs(120)));
    assert_eq!(timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
    for wrong in ["", "5", "S", "123456789S", "-1S", "1X", "é"] {
        assert_eq!(timeout(wrong), None, "{wrong}");
    }
}

#[tokio::test(start_paused = true)]
async fn beyond_the_queue_a_request_is_told_to_wait() {
    let (gate, metrics) = gate(1, 1, 0);
    let deadline = Deadline::after(LONG);
    let first = gate.enter(Class::Read, deadline).await.unwrap();
    let refused = gate.enter(Class::Read, deadline).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let advice = tonic_types::StatusExt::get_details_retry_info(&refused).unwrap();
    assert_eq!(advice.retry_delay, Some(RETRY_AFTER));
    drop(first);
    assert!(gate.enter(Class::Read, deadline).await.is_ok());
    assert_eq!(waiting(&metrics), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_in_the_queue_waits_no_longer_than_its_deadline() {
    let (gate, metrics) = gate(1, 1, 8);
    let first = gate.enter(Class::Read, Deadline::after(LONG)).await.unwrap();
    let late = gate.enter(Class::Read, Deadline::after(Duration::from_millis(5))).await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert_eq!(waiting(&metrics), 0);
    drop(first);
    let over = gate.enter(Class::Read, Deadline::after(Duration::ZERO)).await.unwrap_err();
    assert_eq!(over.code(), Code::DeadlineExceeded, "its time was up before it came");
    assert!(gate.enter(Class::Read, Deadline::after(LONG)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_comes_too_late_is_handed_on() {
    let (gate, _metrics) = gate(1, 1, 8);
    let first = gate.enter(Class::Read, Deadline::after(LONG)).await.unwrap();
    let mut late = Box::pin(gate.enter(Class::Read, Deadline::after(Duration::from_millis(5))));
    let mut next = Box::pin(gate.enter(Class::Read, Deadline::after(LONG)));
    assert!(futures::poll!(late.as_mut()).is_pending() && futures::poll!(next.as_mut()).is_pending());
    tokio::time::advance(Duration::from_millis(6)).await;
    // Handed to the first, whose time is up by now.
    drop(first);
    assert_eq!(late.await.unwrap_err().code(), Code::DeadlineExceeded);
    assert!(next.await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn lower_limits_hold_for_those_who_come_and_higher_ones_for_those_who_wait() {
    let (gate, _metrics) = gate(1, 2, 8);
    let deadline = Deadline::after(LONG);
    let both = [gate.enter(Class::Read, deadline).await, gate.enter(Class::Read, deadline).await];
    gate.limit(Limits { core: 1, running_max: 1, waiting_max: 8 });
    let mut third = Box::pin(gate.enter(Class::Read, deadline));
    let [first, second] = both;
    drop(first);
    assert!(futures::poll!(third.as_mut()).is_pending(), "one runs, and only one may");
    gate.limit(Limits { core: 1, running_max: 2, waiting_max: 8 });
    let third = third.await;
    assert!(third.is_ok() && second.is_ok());
}

/// What the gate is to do, said in the plainest way.
struct Model {
    limits: Limits,
    running: Vec<Class>,
    /// Who waits, in the order in which they came.
    waiting: Vec<(u64, Class)>,
}

impl Model {
    fn count(&self, class: Class) -> usize {
        self.running.iter().filter(|c| **c == class).count()
    }

    /// Who runs next, one after the other.
    fn hand_out(&mut self) -> Vec<u64> {
        let mut handed = Vec::new();
        while self.running.len() < self.limits.running_max {
            let first = |may: &dyn Fn(Class) -> bool| {
                Class::ALL.into_iter().find_map(|class| {
                    self.waiting.iter().position(|(_, c)| *c == class).filter(|_| may(class))
                })
            };
            let by_core = first(&|class| self.count(class) < self.limits.core);
            let Some(at) = by_core.or_else(|| first(&|_| true)) else { break };
            let (id, class) = self.waiting.remove(at);
            self.running.push(class);
            handed.push(id);
        }
        handed
    }
}

type Entering<'a> = BoxFuture<'a, Result<Permit<'a>, Status>>;

/// Polls all who wait; those who have their turn.
async fn turns<'a>(entering: &mut Vec<(u64, Class, Entering<'a>)>) -> Vec<(u64, Class, Permit<'a>)> {
    // A task that never yields is told that nothing is ready.
    tokio::task::yield_now().await;
    let mut came = Vec::new();
    let mut at = 0;
    while at < entering.len() {
        let (id, class, future) = &mut entering[at];
        match futures::poll!(Pin::new(future)) {
            std::task::Poll::Ready(permit) => {
                came.push((*id, *class, permit.unwrap()));
                drop(entering.remove(at));
            }
            std::task::Poll::Pending => at += 1,
        }
    }
    came
}

fn some_limits(random: &mut SmallRng) -> Limits {
    let (core, running_max) = (random.random_range(1..4), random.random_range(1..12));
    Limits { core, running_max, waiting_max: random.random_range(0..6) }
}

#[tokio::test(start_paused = true)]
async fn the_gate_does_what_the_model_says_whatever_comes() {
    let seed = Seed::of("admission::tests::the_gate_does_what_the_model_says_whatever_comes");
    for round in 0..60 {
        let mut random = seed.generator(round);
        let limits = some_limits(&mut random);
        let (gate, metrics) = gate(limits.core, limits.running_max, limits.waiting_max);
        let mut model = Model { limits, running: Vec::new(), waiting: Vec::new() };
        let mut permits: Vec<(u64, Class, Permit<'_>)> = Vec::new();
        let mut entering: Vec<(u64, Class, Entering<'_>)> = Vec::new();
        for id in 0..400 {
            let mut handed = Vec::new();
            match random.random_range(0..10) {
                0..=4 => {
                    let class = Class::ALL[random.random_range(0..4)];
                    let mut future: Entering<'_> = Box::pin(gate.enter(class, Deadline::after(LONG)));
                    let queued = model.waiting.iter().filter(|(_, c)| *c == class).count();
                    match futures::poll!(Pin::new(&mut future)) {
                        std::task::Poll::Ready(Ok(permit)) => {
                            assert!(model.running.len() < model.limits.running_max, "one too many runs");
                            model.running.push(class);
                            permits.push((id, class, permit));
                        }
                        std::task::Poll::Ready(Err(refused)) => {
                            assert_eq!(refused.code(), Code::ResourceExhausted);
                            assert!(model.running.len() >= model.limits.running_max);
                            assert!(queued >= model.limits.waiting_max, "refused before the queue was full");
                        }
                        std::task::Poll::Pending => {
                            assert!(queued < model.limits.waiting_max, "one too many waits");
                            model.waiting.push((id, class));
                            entering.push((id, class, future));
                        }
                    }
                }
                5..=7 if !permits.is_empty() => {
                    let (_, class, permit) = permits.swap_remove(random.random_range(0..permits.len()));
                    drop(permit);
                    let at = model.running.iter().position(|c| *c == class).unwrap();
                    model.running.swap_remove(at);
                    handed = model.hand_out();
                }
                8 if !entering.is_empty() => {
                    let (id, _, future) = entering.swap_remove(random.random_range(0..entering.len()));
                    drop(future);
                    model.waiting.retain(|(waits, _)| *waits != id);
                }
                9 => {
                    model.limits = some_limits(&mut random);
                    gate.limit(model.limits);
                    handed = model.hand_out();
                }
                _ => {}
            }
            // One who was handed a permit may go in this very moment: it goes to the next one then.
            if random.random_bool(0.2)
                && let Some(goes) = handed.pop()
            {
                let (_, class, future) =
                    entering.swap_remove(entering.iter().position(|e| e.0 == goes).unwrap());
                drop(future);
                let at = model.running.iter().position(|c| *c == class).unwrap();
                model.running.swap_remove(at);
                handed.extend(model.hand_out());
            }
            let came = turns(&mut entering).await;
            let mut ids: Vec<u64> = came.iter().map(|(id, ..)| *id).collect();
            ids.sort_unstable();
            handed.sort_unstable();
            assert_eq!(ids, handed, "round {round}, step {id}");
            permits.extend(came);
            for class in Class::ALL {
                let running = metrics.queues.running.with_label_values(&[class.name()]).get();
                assert_eq!(running, model.count(class) as i64, "round {round}, step {id}: {class:?}");
            }
            assert_eq!(waiting(&metrics), model.waiting.len() as i64);
        }
        drop(entering);
        drop(permits);
        assert_eq!(waiting(&metrics), 0, "permits and places came back");
        assert!(gate.enter(Class::Background, Deadline::after(LONG)).await.is_ok());
    }
}

#[tokio::test(start_paused = true)]
async fn a_class_that_is_flooded_keeps_no_other_from_running() {
    let (gate, _metrics) = gate(1, 4, 100);
    let mut running: Vec<(u64, Class, Permit<'_>)> = Vec::new();
    let mut entering: Vec<(u64, Class, Entering<'_>)> = Vec::new();
    let enter = |id, class| -> (u64, Class, Entering<'_>) {
        (id, class, Box::pin(gate.enter(class, Deadline::after(LONG))))
    };
    for id in 0..50 {
        entering.push(enter(id, Class::Read));
    }
    running.extend(turns(&mut entering).await);
    entering.push(enter(100, Class::Background));
    entering.push(enter(101, Class::Write));
    entering.push(enter(102, Class::System));
    assert!(turns(&mut entering).await.is_empty());
    let mut order = Vec::new();
    while order.len() < 4 {
        // A read ends and another one comes.
        drop(running.remove(0));
        entering.push(enter(200 + order.len() as u64, Class::Read));
        let came = turns(&mut entering).await;
        order.extend(came.iter().map(|(_, class, _)| *class));
        running.extend(came);
    }
    assert_eq!(order, [Class::System, Class::Write, Class::Background, Class::Read]);
}
