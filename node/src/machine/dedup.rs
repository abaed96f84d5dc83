//! The deduplication window: a request that comes twice is applied once, and answered as the first time.
//!
//! For each client the replies to its latest [`SERIALS_PER_CLIENT`] requests are kept, in any order of arrival, and for at
//! most [`CLIENTS`] clients, the longest silent one (by log index) going first. A serial at or below what was already
//! forgotten of its client is rejected: whether it was applied cannot be told any more. The window is part of the
//! machine's state: it is a function of the log alone and is written with the manifest.
//!
//! **When slots move.** A request's id covers records of several partitions, and which of them a partition saw depends on
//! where the slots were. So a partition keeps one window for the keys that were always its own, and one for each *piece* of
//! the key space that came to it by a move, which begins as a copy of the giver's (carried over after the giver was
//! frozen). A command asks the window of each piece that its keys fall into, and is applied to those that have not seen
//! it. What holds then, for a request with an id that is still remembered:
//!
//! * Each record of it is written once, however often it is sent and wherever its slot is by then: all of its records
//!   of one piece were always sent to the piece's owner together, and that owner's answer moved with the piece.
//! * A retry is answered with the log index of this partition's log: of the write, or of the import that carried it over.
//! * It is answered with as many records as it names, if they were upserted. Of a deletion that was carried over, how many
//!   records were there is known for all the giver's keys together only: the answer is that number, and at most the
//!   keys named.
//! * What names no keys, a deletion or a patch by a condition, is asked of every partition, and each counts what it did
//!   itself: what was carried over is counted by the giver, which goes on answering for it.
//!
//! Pieces are bounded ([`PIECES`]): the oldest one's keys then belong to the partition's own window, as if they had always
//! been here. A request of that age that a client sends again may be applied again.
//!
//! A request that was decided record by record is also answered with the same refusals ([`refused`]), told apart by key: they
//! too move with their piece, so whoever owns it answers for just the records it is asked about.
//!
//! 2026-11-21: it is not in the derived store. A window that runs ahead of the manifest would take replayed requests for
//! repetitions of themselves; as of the manifest, replay rebuilds it exactly.

mod refused;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use flotilla_proto::area::Area;
use flotilla_proto::ids::LogIndex;
use serde::{Deserialize, Serialize};

use self::refused::Lists;
pub use self::refused::{Refusals, Refused, Told};
use super::command::RequestId;
use super::{Rejection, Reply};

/// Clients remembered, at most.
const CLIENTS: usize = 4_096;
/// Requests remembered of each client, at most.
const SERIALS_PER_CLIENT: usize = 256;
/// Pieces that came by moves, at most.
const PIECES: usize = 64;
/// Clients carried over in one part, at most: with all their requests they fit a message.
const CARRIED_CLIENTS: usize = 128;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Client {
    last_index: LogIndex,
    forgotten: u64,
    /// serial -> (records affected, log index)
    done: BTreeMap<u64, (u64, LogIndex)>,
}

/// The window.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Window {
    clients: HashMap<u64, Client>,
    /// (log index of a client's latest request, client)
    by_index: BTreeSet<(LogIndex, u64)>,
    /// Written apart from the rest, which is older.
    #[serde(skip)]
    lists: Lists,
}

impl Window {
    /// The reply to `request` if it was seen before.
    pub fn seen(&self, request: RequestId) -> Option<Reply> {
        let client = self.clients.get(&request.client)?;
        match client.done.get(&request.serial) {
            Some(&(affected, log_index)) => Some(Reply::Written { affected, log_index }),
            None if request.serial <= client.forgotten => Some(Reply::Rejected(Rejection::TooOld {
                serial: request.serial,
                forgotten: client.forgotten,
            })),
            None => None,
        }
    }

    /// Remembers what `request`, applied at `index`, was answered.
    pub fn record(&mut self, request: RequestId, index: LogIndex, affected: u64) {
        let done = BTreeMap::from([(request.serial, (affected, index))]);
        self.add(request.client, Client { last_index: index, forgotten: 0, done });
    }

    /// What was refused of `request`, which was seen; `None` if that is forgotten.
    pub fn refused(&self, request: RequestId) -> Option<&Refusals> {
        self.lists.of(request)
    }

    /// Remembers what was refused of a request that [`Window::record`] was told of.
    fn refuse(&mut self, request: (u64, u64), index: LogIndex, refused: Option<Refusals>) {
        let is_known =
            self.clients.get(&request.0).is_some_and(|client| client.done.contains_key(&request.1));
        if is_known && refused.as_ref().is_none_or(|refused| !refused.is_empty()) {
            self.lists.keep(request, index, refused);
        }
    }

    /// All refusals, to be written down.
    pub fn told(&self) -> Vec<Told> {
        self.lists.told()
    }

    /// The piece goes: what was done to it here by requests that are remembered here as well is counted here from now on.
    fn count_in(&mut self, piece: &Piece) {
        for (id, client) in &piece.window.clients {
            let Some(own) = self.clients.get_mut(id) else { continue };
            for (serial, (affected, _)) in client.done.iter().filter(|(_, (_, at))| *at > piece.came) {
                if let Some((known, _)) = own.done.get_mut(serial) {
                    *known = known.saturating_add(*affected);
                }
            }
        }
    }

    fn add(&mut self, id: u64, more: Client) {
        let client = self.clients.entry(id).or_default();
        self.by_index.remove(&(client.last_index, id));
        client.last_index = client.last_index.max(more.last_index);
        client.forgotten = client.forgotten.max(more.forgotten);
        client.done.extend(more.done);
        while client.done.len() > SERIALS_PER_CLIENT
            && let Some((serial, _)) = client.done.pop_first()
        {
            client.forgotten = client.forgotten.max(serial);
            self.lists.forget((id, serial));
        }
        self.by_index.insert((client.last_index, id));
        if self.clients.len() > CLIENTS
            && let Some((_, silent)) = self.by_index.pop_first()
        {
            self.clients.remove(&silent);
            self.lists.forget_client(silent);
        }
    }
}

/// The window of a piece that came by a move.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Piece {
    id: u64,
    area: Area,
    window: Window,
    /// Log index of the last import that carried answers: later ones were given here. Written apart from the rest.
    #[serde(skip)]
    came: LogIndex,
}

impl Piece {
    /// Log index of the last import that carried answers, to be written down.
    pub fn came(&self) -> LogIndex {
        self.came
    }

    /// What its window refused, to be written down.
    pub fn told(&self) -> Vec<Told> {
        self.window.told()
    }
}

/// A part of a giver's window, on its way with an area.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Carried {
    area: Area,
    clients: Vec<(u64, Client)>,
}

/// What a giver's window refused, on its way with an area.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CarriedTold {
    area: Area,
    told: Vec<Told>,
}

/// The windows of a partition: see the module.
#[derive(Debug, Default, PartialEq)]
pub struct Dedup {
    /// Of the keys that were always here.
    pub own: Window,
    /// Of those that came, the newest last. Their areas are apart.
    pub pieces: Vec<Piece>,
}

/// Which window of a partition: that of its own keys, or of a piece by its place.
pub type Place = Option<usize>;

impl Dedup {
    /// The window that the key belongs to.
    pub fn place(&self, key: &[u8]) -> Place {
        self.pieces.iter().position(|piece| piece.area.contains(key))
    }

    /// Every window but that of a move which is not through.
    pub fn places(&self, unfinished: Option<u64>) -> impl Iterator<Item = Place> + '_ {
        let pieces = self.pieces.iter().enumerate().filter(move |(_, piece)| Some(piece.id) != unfinished);
        std::iter::once(None).chain(pieces.map(|(at, _)| Some(at)))
    }

    fn window(&self, place: Place) -> &Window {
        place.and_then(|at| self.pieces.get(at)).map_or(&self.own, |piece| &piece.window)
    }

    /// The reply to `request` if it was seen before, as far as this window goes.
    pub fn seen(&self, place: Place, request: RequestId) -> Option<Reply> {
        self.window(place).seen(request)
    }

    /// Whether what `request`, seen there, was answered at `log_index` was done here, and not by who gave the piece away.
    pub fn is_done_here(&self, place: Place, log_index: LogIndex) -> bool {
        place.and_then(|at| self.pieces.get(at)).is_none_or(|piece| log_index > piece.came)
    }

    /// What was refused of `request`, which this window has seen; `None` if that is forgotten.
    pub fn refused(&self, place: Place, request: RequestId) -> Option<&Refusals> {
        self.window(place).refused(request)
    }

    fn window_mut(&mut self, place: Place) -> &mut Window {
        match place.and_then(|at| self.pieces.get_mut(at)) {
            Some(piece) => &mut piece.window,
            None => &mut self.own,
        }
    }

    /// Remembers what `request`, applied at `index`, was answered.
    pub fn record(&mut self, place: Place, request: RequestId, index: LogIndex, affected: u64) {
        self.window_mut(place).record(request, index, affected);
    }

    /// Remembers what was refused of it besides.
    pub fn refuse(&mut self, place: Place, request: RequestId, index: LogIndex, refused: Refusals) {
        self.window_mut(place).refuse((request.client, request.serial), index, Some(refused));
    }

    /// Takes what [`Window::told`] and [`Piece::told`] said.
    ///
    /// # Errors
    /// If that is not of as many pieces as there are.
    pub fn read_told(&mut self, own: Vec<Told>, pieces: Vec<Vec<Told>>) -> Result<(), postcard::Error> {
        if pieces.len() != self.pieces.len() {
            return Err(postcard::Error::SerdeDeCustom);
        }
        self.own.lists = Lists::read(own);
        for (piece, told) in self.pieces.iter_mut().zip(pieces) {
            piece.window.lists = Lists::read(told);
        }
        Ok(())
    }

    /// Takes what [`Piece::came`] said.
    ///
    /// # Errors
    /// If that is not of as many pieces as there are.
    pub fn read_came(&mut self, came: Vec<LogIndex>) -> Result<(), postcard::Error> {
        if came.len() != self.pieces.len() {
            return Err(postcard::Error::SerdeDeCustom);
        }
        self.pieces.iter_mut().zip(came).for_each(|(piece, came)| piece.came = came);
        Ok(())
    }

    /// What a partition that gets `area` must know, in parts. There is one for each window at least, even if nobody wrote.
    pub(super) fn carry(&self, area: &Area) -> Vec<Carried> {
        let mut own = area.clone();
        let mut parts = Vec::new();
        for piece in &self.pieces {
            own = own.without(&piece.area);
            parts.push((piece.area.and(area), &piece.window));
        }
        parts.push((own, &self.own));
        let mut carried = Vec::new();
        for (area, window) in parts.into_iter().filter(|(area, _)| !area.is_empty()) {
            let mut clients: Vec<(u64, Client)> =
                window.clients.iter().map(|(id, client)| (*id, client.clone())).collect();
            clients.sort_unstable_by_key(|(id, _)| *id);
            carried.push(Carried { area: area.clone(), clients: Vec::new() });
            let chunks = clients.chunks(CARRIED_CLIENTS);
            carried.extend(chunks.map(|c| Carried { area: area.clone(), clients: c.to_vec() }));
        }
        carried
    }

    /// Takes a part of what came with the move `id`, by the import at `index`. Taking it again changes nothing.
    pub(super) fn absorb(&mut self, id: u64, index: LogIndex, carried: Carried) {
        let Carried { area, clients } = carried;
        let known = self.pieces.iter().position(|piece| piece.id == id && piece.area == area);
        let at = known.unwrap_or_else(|| {
            self.give(&area);
            self.pieces.push(Piece { id, area, window: Window::default(), came: 0 });
            if self.pieces.len() > PIECES {
                let oldest = self.pieces.remove(0);
                self.own.count_in(&oldest);
            }
            self.pieces.len() - 1
        });
        self.pieces[at].came = index;
        let window = &mut self.pieces[at].window;
        for (id, mut client) in clients {
            // The giver's log indexes mean nothing here.
            client.last_index = client.last_index.min(index);
            client.done.values_mut().for_each(|(_, at)| *at = index);
            window.add(id, client);
        }
    }

    /// What was refused of the requests that [`Dedup::carry`] carries, window by window; only windows that have refused.
    pub(super) fn carry_told(&self, area: &Area) -> Vec<CarriedTold> {
        let mut own = area.clone();
        let mut parts = Vec::new();
        for piece in &self.pieces {
            own = own.without(&piece.area);
            parts.push(CarriedTold { area: piece.area.and(area), told: piece.window.told() });
        }
        parts.push(CarriedTold { area: own, told: self.own.told() });
        parts.retain(|part| !part.area.is_empty() && !part.told.is_empty());
        parts
    }

    /// Takes what was refused of requests that came with the move `id` before, by the import at `index`.
    pub(super) fn absorb_told(&mut self, id: u64, index: LogIndex, carried: CarriedTold) {
        let CarriedTold { area, told } = carried;
        let Some(piece) = self.pieces.iter_mut().find(|piece| piece.id == id && piece.area == area) else {
            return;
        };
        for told in told {
            piece.window.refuse(told.request(), index, told.into_refused());
        }
    }

    /// The area is not here any more.
    pub(super) fn give(&mut self, area: &Area) {
        for piece in &mut self.pieces {
            piece.area = piece.area.without(area);
            if piece.area.is_empty() {
                self.own.count_in(piece);
            }
        }
        self.pieces.retain(|piece| !piece.area.is_empty());
    }

    /// The move came to nothing.
    pub(super) fn forget(&mut self, id: u64) {
        self.pieces.retain(|piece| piece.id != id);
    }
}

#[cfg(test)]
mod tests;
