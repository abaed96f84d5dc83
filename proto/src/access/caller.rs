//! Who calls, and what its grants give: a role on some collections, or on all.
//!
//! A grant says both at once, so that a caller may write to one collection and only read another. Pure: where a caller comes
//! from (a key, a token, a certificate) is known to whoever made it.

use super::{Right, Rights};
use crate::refusal::Refusal;
use crate::tenant::Class;

/// A set of rights that has a name: each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Sees records and collections.
    Read,
    /// Changes records, too.
    Write,
    /// Changes collections and the cluster, too.
    Admin,
}

impl Role {
    /// All, the least first.
    pub const ALL: [Role; 3] = [Role::Read, Role::Write, Role::Admin];

    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Role::Read => "read",
            Role::Write => "write",
            Role::Admin => "admin",
        }
    }

    /// The role of this name.
    pub fn of(name: &str) -> Option<Role> {
        Role::ALL.into_iter().find(|role| role.name() == name)
    }

    /// What it gives.
    pub fn rights(self) -> Rights {
        match self {
            Role::Read => Rights(&[Right::Read]),
            Role::Write => Rights(&[Right::Read, Right::Write]),
            Role::Admin => Rights::DATA,
        }
    }
}

/// Which collections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Collections {
    /// Every one, those to come too, and the cluster as a whole.
    All,
    /// Those whose name is one of these, or begins with one of these that ends in `*`.
    Named(Vec<String>),
}

impl Collections {
    /// Whether this one is among them.
    pub fn include(&self, name: &str) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some(start) => name.starts_with(start),
            None => name == pattern,
        };
        match self {
            Collections::All => true,
            Collections::Named(patterns) => patterns.iter().any(fits),
        }
    }
}

/// Some rights on some collections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The rights.
    pub rights: Rights,
    /// On these.
    pub collections: Collections,
}

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its name, as the audit log tells it; never a secret.
    pub name: String,
    /// The tenant that it belongs to.
    pub tenant: Option<String>,
    /// The class of that tenant, by which it is limited.
    pub class: Class,
    /// What it may do.
    pub grants: Vec<Grant>,
}

impl Caller {
    /// One with these rights on everything.
    pub fn whole(name: impl Into<String>, rights: Rights) -> Caller {
        Caller {
            name: name.into(),
            tenant: None,
            class: Class::Default,
            grants: vec![Grant { rights, collections: Collections::All }],
        }
    }

    /// Whether it has this right on anything at all.
    pub fn has(&self, right: Right) -> bool {
        self.grants.iter().any(|grant| grant.rights.include(right))
    }

    /// Whether it has this right on the collection.
    pub fn sees(&self, right: Right, collection: &str) -> bool {
        self.grants.iter().any(|grant| grant.rights.include(right) && grant.collections.include(collection))
    }

    /// Whether it has this right on everything.
    pub fn sees_all(&self, right: Right) -> bool {
        self.grants.iter().any(|grant| grant.rights.include(right) && grant.collections == Collections::All)
    }

    /// Whether it may do this to the collection; without one, to the cluster as a whole.
    ///
    /// # Errors
    /// [`Refusal::Denied`]: the same one whether or not there is such a collection.
    pub fn check(&self, right: Right, collection: Option<&str>) -> Result<(), Refusal> {
        let (is_granted, whom) = match collection {
            Some(name) => (self.sees(right, name), format!("on the collection `{name}`")),
            None => (self.sees_all(right), "on all collections".to_owned()),
        };
        if is_granted {
            return Ok(());
        }
        Err(Refusal::Denied(format!(
            "{}: this takes the right {right:?} {whom}, which is not granted",
            self.name
        )))
    }
}
