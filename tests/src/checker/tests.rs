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
        base: None,
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

/// A register as the definition has it: the value written last, and the base below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Register {
    value: Value,
    base: Value,
}

impl Register {
    /// What a read shows.
    pub(crate) fn shows(self) -> (Value, Value) {
        (self.value, self.base)
    }

    /// The register after an operation; none if its answer does not fit.
    pub(crate) fn after(self, operation: &Operation) -> Option<Register> {
        let there = self.value.is_some();
        match operation.act {
            Act::Upsert(value) => Some(Register { value: Some(value), base: Some(value) }),
            Act::UpsertIf(value, expect) => {
                expect.holds(self.value).then_some(Register { value: Some(value), base: Some(value) })
            }
            Act::Patch(value, expect) => {
                (there && expect.holds(self.value)).then_some(Register { value: Some(value), ..self })
            }
            Act::Refused { expect, existed } => {
                (existed == there && !expect.holds(self.value)).then_some(self)
            }
            Act::Delete { existed } => {
                existed.is_none_or(|existed| existed == there).then_some(Register::default())
            }
            Act::Expire(value) => (self.base == Some(value)).then_some(Register::default()),
            Act::Read(value, _) => {
                let fits = operation.base.is_none() || operation.base == self.base;
                (fits && value == self.value).then_some(self)
            }
        }
    }
}
