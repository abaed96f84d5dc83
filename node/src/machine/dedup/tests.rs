use flotilla_proto::record::Key;
use flotilla_proto::schema::Strategy;

use super::*;

fn id(client: u64, serial: u64) -> RequestId {
    RequestId { client, serial }
}

#[test]
fn a_request_is_answered_as_the_first_time_in_any_order() {
    let mut window = Window::default();
    window.record(id(1, 6), 10, 3);
    window.record(id(1, 5), 11, 4);
    assert_eq!(window.seen(id(1, 6)), Some(Reply::Written { affected: 3, log_index: 10 }));
    assert_eq!(window.seen(id(1, 5)), Some(Reply::Written { affected: 4, log_index: 11 }));
    assert_eq!(window.seen(id(1, 7)), None);
    assert_eq!(window.seen(id(2, 5)), None);
}

#[test]
fn a_forgotten_serial_is_rejected_and_never_applied_again() {
    let mut window = Window::default();
    for serial in 1..=SERIALS_PER_CLIENT as u64 + 2 {
        window.record(id(1, serial), serial, 1);
    }
    assert_eq!(window.seen(id(1, 2)), Some(Reply::Rejected(Rejection::TooOld { serial: 2, forgotten: 2 })));
    assert!(matches!(window.seen(id(1, 3)), Some(Reply::Written { .. })));
}

#[test]
fn the_longest_silent_client_goes_first_and_the_window_stays_bounded() {
    let mut window = Window::default();
    for client in 0..CLIENTS as u64 + 10 {
        window.record(id(client, 1), client + 1, 1);
    }
    assert_eq!(window.clients.len(), CLIENTS);
    assert_eq!(window.by_index.len(), CLIENTS);
    assert_eq!(window.seen(id(9, 1)), None);
    assert!(window.seen(id(10, 1)).is_some());
}

#[test]
fn the_encoding_of_a_window_is_the_old_one() {
    let mut window = Window::default();
    window.record(id(7, 3), 12, 2);
    type Old = (HashMap<u64, (u64, u64, BTreeMap<u64, (u64, u64)>)>, BTreeMap<u64, u64>);
    let bytes = postcard::to_stdvec(&window).unwrap();
    let (clients, by_index): Old = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(clients[&7], (12, 0, BTreeMap::from([(3, (2, 12))])));
    assert_eq!(by_index, BTreeMap::from([(12, 7)]));
}

fn key(number: u64) -> Vec<u8> {
    Key::Number(number).to_bytes()
}

/// The keys below 10, below 20, and so on.
fn tens(slots: &[usize]) -> Area {
    let splits = vec![10.into(), 20.into(), 30.into()];
    Area::of(&Strategy::Range { splits }, slots.iter().copied())
}

#[test]
fn answers_move_with_their_keys_and_others_do_not() {
    let (mut giver, mut taker) = (Dedup::default(), Dedup::default());
    giver.record(None, id(1, 1), 50, 4);
    taker.record(None, id(1, 1), 7, 2);
    taker.record(None, id(1, 2), 8, 2);
    for part in giver.carry(&tens(&[1])) {
        taker.absorb(3, 9, part.clone());
        taker.absorb(3, 9, part);
    }
    let (own, came) = (taker.place(&key(25)), taker.place(&key(15)));
    assert_eq!((own, came), (None, Some(0)));
    assert_eq!(taker.seen(came, id(1, 1)), Some(Reply::Written { affected: 4, log_index: 9 }));
    assert_eq!(taker.seen(came, id(1, 2)), None, "the giver never saw it");
    assert_eq!(taker.seen(own, id(1, 2)), Some(Reply::Written { affected: 2, log_index: 8 }));
    assert_eq!(taker.places(None).collect::<Vec<_>>(), [None, Some(0)]);
    assert_eq!(taker.places(Some(3)).collect::<Vec<_>>(), [None]);
}

#[test]
fn an_area_of_several_origins_moves_on_with_the_answers_of_each() {
    let (first, mut second, mut third) = (Dedup::default(), Dedup::default(), Dedup::default());
    second.record(None, id(1, 1), 5, 1);
    first.carry(&tens(&[1])).into_iter().for_each(|part| second.absorb(1, 6, part));
    second.record(Some(0), id(1, 2), 7, 1);
    second.carry(&tens(&[1, 2])).into_iter().for_each(|part| third.absorb(2, 3, part));
    let (a, b) = (third.place(&key(15)), third.place(&key(25)));
    assert!(a.is_some() && b.is_some() && a != b);
    assert!(third.seen(a, id(1, 2)).is_some() && third.seen(a, id(1, 1)).is_none());
    assert!(third.seen(b, id(1, 1)).is_some() && third.seen(b, id(1, 2)).is_none());
    third.give(&tens(&[1]));
    assert_eq!(third.place(&key(15)), None);
    assert!(third.place(&key(25)).is_some());
    third.forget(2);
    assert_eq!(third.place(&key(25)), None);
}

/// What a partition would count of a request about all keys.
fn counted(dedup: &Dedup, request: RequestId) -> u64 {
    let seen = |place| match dedup.seen(place, request) {
        Some(Reply::Written { affected, log_index }) if dedup.is_done_here(place, log_index) => affected,
        _ => 0,
    };
    dedup.places(None).map(seen).sum()
}

#[test]
fn what_names_no_keys_is_counted_where_it_was_done_however_its_keys_move() {
    let (mut first, mut second, mut third) = (Dedup::default(), Dedup::default(), Dedup::default());
    first.record(None, id(1, 1), 50, 4);
    first.carry(&tens(&[1, 2])).into_iter().for_each(|part| second.absorb(1, 6, part));
    second.record(None, id(1, 1), 7, 2);
    assert_eq!((counted(&first, id(1, 1)), counted(&second, id(1, 1))), (4, 2), "not what came along");
    for place in [None, Some(0)] {
        second.record(place, id(1, 2), 8, 3);
    }
    assert_eq!(counted(&second, id(1, 2)), 6);
    // A part of the piece goes on, then the rest: what was done here stays counted here, once.
    for (n, slot) in (2..).zip([1, 2]) {
        second.carry(&tens(&[slot])).into_iter().for_each(|part| third.absorb(n, n, part));
        second.give(&tens(&[slot]));
        assert_eq!((counted(&second, id(1, 2)), counted(&third, id(1, 2))), (6, 0));
        assert_eq!((counted(&second, id(1, 1)), counted(&third, id(1, 1))), (2, 0));
    }
    assert!(second.pieces.is_empty() && third.pieces.len() == 2);
}
