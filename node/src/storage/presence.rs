//! Which keys a state of the partition may hold although others own them, and which it may lack.
//!
//! At rest both are empty, and nothing is looked at twice. While slots move, the rows of a partition are not simply those
//! it owns: rows come before the map gives them to it, and stay a while after it gave them up. The machine says so with
//! every state that it publishes; a read holds that against what its caller's map says the partition owns.

use flotilla_proto::area::Area;

/// See the module. It belongs to one log index, as the rows of a view do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Rows of these keys may be here: whoever does not own them must not show them.
    pub strange: Area,
    /// Rows of these keys are not all here, or are no longer the newest: whoever owns them must look elsewhere.
    pub absent: Area,
    /// Writes of these keys are refused.
    pub closed: Area,
    /// Of those, the ones that wait: they are settled soon, one way or the other.
    pub frozen: Area,
    /// Grows with each change of who may write what.
    pub layout: u64,
    /// How many replacements of generations the state has taken up.
    pub generation: u64,
}

/// The state lacks keys that the caller's map gives to this partition: the one of the two is behind the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elsewhere;

impl Presence {
    /// The keys that must not be shown by an owner of `owned`.
    ///
    /// # Errors
    /// If it owns keys that are not here.
    pub fn hidden(&self, owned: &Area) -> Result<Area, Elsewhere> {
        if self.absent.overlaps(owned) {
            return Err(Elsewhere);
        }
        Ok(if self.strange.is_within(owned) { Area::Empty } else { self.strange.without(owned) })
    }
}
