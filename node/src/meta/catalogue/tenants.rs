//! Whose collections are: what a tenant may make, and what its limits are.
//!
//! Each collection of a tenant carries its limits, so whatever changes them changes the collections. A tenant is known by its
//! collections: one without any is nobody here, and is counted by routers alone.

use std::collections::BTreeSet;

use flotilla_proto::ids::Epoch;
use flotilla_proto::tenant::{Class, Classes, Limit, Tenancy, split};

use super::{Catalogue, Outcome, Owner, Refused};

impl Catalogue {
    /// What a new collection of this name has of its owner.
    pub(super) fn tenancy(&self, name: &str, owner: Option<Owner>) -> Result<Option<Tenancy>, Refused> {
        let Some(Owner { tenant, class, isolation }) = owner else {
            return match split(name).0 {
                None => Ok(None),
                Some(tenant) => {
                    let why = format!("`{name}` is a name of tenant `{tenant}`, which alone makes it");
                    Err(Refused::Invalid("spec.name".to_owned(), why))
                }
            };
        };
        let limits = self.classes.limits(class);
        let is_full = self.owned_by(&tenant).any(|tenancy| tenancy.is_full);
        let tenancy = Tenancy { tenant, class, isolation, limits, is_full };
        tenancy.check(name)?;
        let has = self.owned_by(&tenancy.tenant).count() as u64;
        if has >= limits.max_collections {
            let (limit, max) = (Limit::Collections, limits.max_collections);
            return Err(Refused::Limited { tenant: tenancy.tenant, limit, max });
        }
        Ok(Some(tenancy))
    }

    /// What each collection of this tenant says of it.
    fn owned_by<'a>(&'a self, tenant: &'a str) -> impl Iterator<Item = &'a Tenancy> {
        self.map.collections.iter().filter_map(|c| c.tenancy.as_ref()).filter(move |t| t.tenant == tenant)
    }

    /// The limits of each class.
    pub(super) fn set_classes(&mut self, classes: Classes) -> Outcome {
        self.classes = classes;
        self.each_tenancy(|_| {})
    }

    /// The class that a tenant is of.
    pub(super) fn classify(&mut self, tenant: &str, class: Class) -> Outcome {
        self.each_tenancy(|tenancy| {
            if tenancy.tenant == tenant {
                tenancy.class = class;
            }
        })
    }

    /// Who stores as much as it may.
    pub(super) fn set_full(&mut self, tenants: &BTreeSet<String>) -> Outcome {
        self.each_tenancy(|tenancy| tenancy.is_full = tenants.contains(&tenancy.tenant))
    }

    /// Changes what collections say of their owners, and their limits with it. Those that changed are of a new epoch.
    fn each_tenancy(&mut self, change: impl Fn(&mut Tenancy)) -> Outcome {
        let Catalogue { map, classes, .. } = self;
        let next = Epoch(map.epoch.0 + 1);
        for placement in &mut map.collections {
            let Some(tenancy) = placement.tenancy.as_mut() else { continue };
            let former = tenancy.clone();
            change(tenancy);
            tenancy.limits = classes.limits(tenancy.class);
            if *tenancy != former {
                (placement.epoch, map.epoch) = (next, next);
            }
        }
        Outcome::Epoch(map.epoch)
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::ids::NodeId;
    use flotilla_proto::placement::Node;
    use flotilla_proto::schema::CollectionSpec;
    use flotilla_proto::tenant::{Isolation, Limits};
    use uuid::Uuid;

    use super::super::Change;
    use super::*;

    fn owner(tenant: &str, class: Class) -> Owner {
        Owner { tenant: tenant.into(), class, isolation: Isolation::Collection }
    }

    fn create(catalogue: &mut Catalogue, name: &str, owner: Owner) -> Result<Outcome, Refused> {
        let spec = CollectionSpec { name: name.into(), partitions: 1, ..Default::default() };
        let id = Uuid::from_u128(catalogue.map.epoch.0.into());
        catalogue.change(Change::CreateFor { id, spec, alive: vec![NodeId(1)], owner })
    }

    /// One node, and two collections for each tenant.
    fn limited() -> Catalogue {
        let mut catalogue = Catalogue::default();
        catalogue.change(Change::Introduce(Node::new(NodeId(0), Uuid::from_u128(1), "inproc"))).unwrap();
        let limits = Limits { max_collections: 2, ..Class::Default.limits() };
        let mut classes = Classes::default();
        classes.0.insert(Class::Default, limits);
        catalogue.change(Change::Classes(classes)).unwrap();
        catalogue
    }

    #[test]
    fn a_tenant_makes_as_many_collections_as_its_class_may_and_another_one_is_not_hindered() {
        let mut catalogue = limited();
        let acme = || owner("acme", Class::Default);
        create(&mut catalogue, "acme/a", acme()).unwrap();
        assert!(matches!(create(&mut catalogue, "acme/a", acme()), Err(Refused::Exists(_))));
        create(&mut catalogue, "acme/b", acme()).unwrap();
        let third = create(&mut catalogue, "acme/c", acme());
        let expected = Refused::Limited { tenant: "acme".into(), limit: Limit::Collections, max: 2 };
        assert_eq!(third, Err(expected));
        create(&mut catalogue, "beta/a", owner("beta", Class::Default)).unwrap();
        catalogue.change(Change::Delete { name: "acme/a".into() }).unwrap();
        create(&mut catalogue, "acme/c", acme()).unwrap();
        // A tenant of a larger class goes on, and its collections with it.
        create(&mut catalogue, "acme/d", owner("acme", Class::Enterprise)).unwrap();
    }

    #[test]
    fn a_name_of_a_tenant_is_made_by_that_tenant_alone() {
        let mut catalogue = limited();
        for name in ["acme/a", "a", "../a", "beta/acme/a"] {
            let refused = create(&mut catalogue, name, owner("beta", Class::Default));
            assert!(matches!(refused, Err(Refused::Invalid(..))), "{name}: {refused:?}");
        }
        let spec = CollectionSpec { name: "acme/a".into(), partitions: 1, ..Default::default() };
        let nobodys = Change::Create { id: Uuid::nil(), spec, alive: vec![NodeId(1)] };
        assert!(matches!(catalogue.change(nobodys), Err(Refused::Invalid(..))));
    }

    #[test]
    fn changed_limits_reach_the_collections_and_unchanged_ones_make_no_epoch() {
        let mut catalogue = limited();
        create(&mut catalogue, "acme/a", owner("acme", Class::Default)).unwrap();
        create(&mut catalogue, "beta/a", owner("beta", Class::Default)).unwrap();
        let epoch = catalogue.map.epoch;
        let classes = catalogue.classes.clone();
        assert_eq!(catalogue.change(Change::Classes(classes)), Ok(Outcome::Epoch(epoch)));
        let classify = Change::Classify { tenant: "acme".into(), class: Class::Enterprise };
        let next = Epoch(epoch.0 + 1);
        assert_eq!(catalogue.change(classify), Ok(Outcome::Epoch(next)));
        let of = |catalogue: &Catalogue, name: &str| catalogue.map.collection(name).unwrap().clone();
        let (acme, other) = (of(&catalogue, "acme/a"), of(&catalogue, "beta/a"));
        assert_eq!(acme.tenancy.unwrap().limits, Class::Enterprise.limits());
        assert_eq!((acme.epoch, other.epoch < next), (next, true));
        catalogue.change(Change::Full(["beta".to_owned()].into())).unwrap();
        let is_full = |name: &str| of(&catalogue, name).tenancy.unwrap().is_full;
        assert_eq!((is_full("acme/a"), is_full("beta/a")), (false, true));
    }
}
