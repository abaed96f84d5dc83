//! The judges judged: good histories pass, each kind of damage fails with its name, and on random small histories the
//! search agrees with trying every order, and on larger ones with a search that others wrote.

mod differential;
mod naive;
mod planted;
mod sets;

use crate::history::{Act, Freshness, NEVER, Operation, Outcome, Position, Value};

/// An acknowledged operation on key 7 in this interval, by the client with the number of its begin.
pub(crate) fn done(invoked: u64, returned: u64, act: Act) -> Operation {
    Operation {
        client: invoked,
        key: 7,
        act,
        outcome: Outcome::Done,
        invoked,
        returned,
        position: None,
        version: None,
    }
}

pub(crate) fn unknown(invoked: u64, act: Act) -> Operation {
    Operation { outcome: Outcome::Unknown, ..done(invoked, NEVER, act) }
}

pub(crate) fn at(operation: Operation, partition: u64, index: u64) -> Operation {
    Operation { position: Some(Position { partition, index }), ..operation }
}

pub(crate) fn put(value: u64) -> Act {
    Act::Upsert(value)
}

pub(crate) fn delete() -> Act {
    Act::Delete { existed: None }
}

pub(crate) fn read(value: Value) -> Act {
    Act::Read(value, Freshness::Linearizable)
}
