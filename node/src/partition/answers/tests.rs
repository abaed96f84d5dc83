use flotilla_proto::schema::CollectionSpec;

use super::*;

const TTL: Duration = Duration::from_secs(300);

fn cache(bytes_max: u64, ttl: Duration) -> Arc<Answers> {
    Arc::new(Answers::new(Options { bytes_max, ttl, ..Options::default() }, Arc::default()))
}

fn scene(serial: u64) -> Scene {
    Scene { serial, curtain: None }
}

struct Asker {
    answers: Arc<Answers>,
    spec: Arc<CollectionSpec>,
}

impl Asker {
    fn new(answers: Arc<Answers>) -> Asker {
        Asker { answers, spec: Arc::default() }
    }

    fn question(&self, n: u64) -> Question {
        Question::new(PartitionId(1), n.to_le_bytes().to_vec(), self.spec.clone())
    }

    fn flight(&self, n: u64, serial: u64) -> Flight {
        match self.answers.find(&self.question(n), &scene(serial)) {
            Found::Nothing(Some(flight)) => flight,
            _ => panic!("question {n} of state {serial} is not to be computed"),
        }
    }

    /// Asks, and computes if it has to; whether it had to.
    fn computes(&self, n: u64, serial: u64) -> bool {
        match self.answers.find(&self.question(n), &scene(serial)) {
            Found::Kept(answer) => {
                assert_eq!(*answer, *answer_of(n, serial), "question {n} of state {serial}");
                false
            }
            Found::Coming(_) => panic!("nobody computes"),
            Found::Nothing(flight) => {
                flight.unwrap().begun().done(&answer_of(n, serial));
                true
            }
        }
    }
}

/// One that names the question and the state.
fn answer_of(n: u64, serial: u64) -> Arc<Answer> {
    let hit = PartialHit { key: Key::Number(n), distance: 0.0, version: serial };
    Arc::new(Answer { hits: vec![hit], ..Answer::default() })
}

#[test]
fn what_is_asked_again_of_the_same_state_is_kept() {
    let asker = Asker::new(cache(1 << 20, TTL));
    assert!(asker.computes(1, 7) && asker.computes(1, 7), "asked once says little");
    assert!(!asker.computes(1, 7));
    assert!(asker.computes(1, 8), "another state");
    assert!(!asker.computes(1, 8));
    assert!(asker.computes(1, 7), "its place was taken");
    assert!(asker.computes(2, 7), "another question");
    let other = Asker { spec: Arc::default(), answers: asker.answers.clone() };
    assert!(other.computes(1, 7), "read by another description");
    let curtain = Some(Arc::new(Curtain::default()));
    let behind = Scene { serial: 7, curtain };
    assert!(matches!(other.answers.find(&other.question(1), &behind), Found::Nothing(_)), "some are hidden");
    let figures = asker.answers.figures();
    assert_eq!((figures.hits, figures.shared, figures.misses), (2, 0, 7));
    assert_eq!(figures.answers, 1);
    assert_eq!(asker.answers.bytes_of(PartitionId(1)), figures.bytes);
    asker.answers.clear();
    assert_eq!(asker.answers.figures().bytes, 0);
    assert!(asker.computes(1, 7));
}

#[test]
fn an_answer_is_kept_no_longer_than_it_may() {
    let asker = Asker::new(cache(1 << 20, Duration::ZERO));
    for _ in 0..4 {
        assert!(asker.computes(1, 7));
    }
}

#[test]
fn what_was_used_the_longest_ago_goes_first_and_the_bound_holds() {
    let each = bytes_of(&answer_of(0, 0)) + 8;
    let bytes_max = 8 * each * SHELVES as u64;
    let asker = Asker::new(cache(bytes_max, TTL));
    for n in 0..4_000 {
        asker.computes(n, 1);
        asker.computes(n, 1);
        assert!(!asker.computes(n, 1), "{n} is kept");
        assert!(!asker.computes(0, 1), "it is used again and again");
        assert!(asker.answers.figures().bytes <= bytes_max);
    }
    let figures = asker.answers.figures();
    assert!(figures.answers > 4 * SHELVES as u64, "{figures:?}");
    assert!(asker.computes(1, 1), "long unused");
    let none = Asker::new(cache(0, TTL));
    assert!(!none.answers.is_on());
}

#[test]
fn nothing_is_kept_while_memory_is_short() {
    let room = Arc::<Room>::default();
    let asker = Asker::new(Arc::new(Answers::new(Options::default(), room.clone())));
    asker.computes(1, 1);
    asker.computes(1, 1);
    assert!(!asker.computes(1, 1));
    room.take_memory(91, 100);
    assert!(!asker.answers.is_on());
    room.take_memory(10, 100);
    assert!(asker.answers.is_on());
    asker.answers.clear();
    assert!(asker.computes(1, 1) && asker.computes(1, 1) && asker.computes(1, 1), "12 bytes are an eighth");
}

#[tokio::test]
async fn one_computes_and_the_others_wait_whoever_began() {
    let asker = Asker::new(cache(1 << 20, TTL));
    let flight = asker.flight(1, 7);
    let Found::Coming(coming) = asker.answers.find(&asker.question(1), &scene(7)) else {
        panic!("it is coming")
    };
    assert!(
        matches!(asker.answers.find(&asker.question(1), &scene(8)), Found::Nothing(None)),
        "another state"
    );
    let alive = Arc::downgrade(&flight.alive());
    let begun = flight.begun();
    assert_eq!(alive.strong_count(), 1, "who began it is gone, who waits is not");
    begun.done(&answer_of(1, 7));
    assert_eq!(coming.answer().await, Some(answer_of(1, 7)));
    assert_eq!(alive.strong_count(), 0);
    assert_eq!(asker.answers.figures().shared, 1);
}

#[tokio::test]
async fn a_flight_that_fails_sends_those_who_wait_to_begin_anew() {
    let asker = Asker::new(cache(1 << 20, TTL));
    let begun = asker.flight(1, 7).begun();
    assert!(
        matches!(asker.answers.find(&asker.question(1), &scene(7)), Found::Nothing(Some(_))),
        "nobody waits for it"
    );
    drop(begun);
    let flight = asker.flight(1, 7);
    let Found::Coming(coming) = asker.answers.find(&asker.question(1), &scene(7)) else {
        panic!("it is coming")
    };
    drop(flight.begun());
    assert_eq!(coming.answer().await, None);
    drop(asker.flight(1, 7));
}
