//! Where the replicas' folders are.
//!
//! ```text
//! <data>/partitions/17         a partition
//! <data>/tenants/acme/18       one of a tenant whose storage is kept apart
//! <data>/tenants/acme/18.old   beside a folder, what becomes of it: see `inbox`, and `.dropped` for one on its way out
//! ```
//!
//! Where a folder is follows from its collection when it is made, and from the disk ever after: what is there stays where it
//! is, whatever is configured by then. A tenant's name is a name of a folder, and is checked as one before it becomes that
//! ([`check_tenant`](flotilla_proto::tenant::check_tenant)).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use flotilla_proto::ids::PartitionId;
use flotilla_proto::tenant::{Isolation, Tenancy, check_tenant};
use parking_lot::RwLock;

use crate::env::fs;

/// Behind the name of a folder that is on its way out.
const DROPPED: &str = ".dropped";

/// The name under which a folder goes.
pub(super) fn dropped(folder: &Path) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(DROPPED);
    PathBuf::from(name)
}

/// The partition that a folder belongs to, itself or beside its own.
fn id_of(name: &str) -> Option<PartitionId> {
    name.split('.').next()?.parse().ok().map(PartitionId)
}

/// See the module.
pub(super) struct Folders {
    partitions: PathBuf,
    tenants: PathBuf,
    /// Of tenants, where they are; all others are where they always were.
    apart: RwLock<BTreeMap<PartitionId, PathBuf>>,
}

impl Folders {
    /// Looks at the disk.
    pub fn new(partitions: PathBuf) -> Folders {
        let tenants = partitions.with_file_name("tenants");
        let mut apart = BTreeMap::new();
        for tenant in fs::read_dir(&tenants).unwrap_or_default() {
            let home = tenants.join(&tenant);
            for id in fs::read_dir(&home).unwrap_or_default().iter().filter_map(|name| id_of(name)) {
                apart.insert(id, home.join(id.to_string()));
            }
        }
        Folders { partitions, tenants, apart: RwLock::new(apart) }
    }

    /// The folder of a partition.
    pub fn of(&self, id: PartitionId) -> PathBuf {
        let apart = self.apart.read().get(&id).cloned();
        apart.unwrap_or_else(|| self.partitions.join(id.to_string()))
    }

    /// The same, for one that is about to be opened: a new one of a tenant whose storage is kept apart goes there.
    pub fn choose(&self, id: PartitionId, tenancy: Option<&Tenancy>) -> PathBuf {
        let tenancy = tenancy.filter(|tenancy| tenancy.isolation == Isolation::Storage);
        if let Some(tenancy) = tenancy.filter(|tenancy| check_tenant("tenant", &tenancy.tenant).is_ok())
            && !self.on_disk().contains(&id)
        {
            let folder = self.tenants.join(&tenancy.tenant).join(id.to_string());
            self.apart.write().insert(id, folder);
        }
        self.of(id)
    }

    /// Partitions that have a folder here, be it one that is on its way out, or only what lay beside it: a power cut may keep the
    /// end of a removal and lose what came before it.
    pub fn on_disk(&self) -> BTreeSet<PartitionId> {
        let names = |home: &Path| fs::read_dir(home).unwrap_or_default();
        let tenants = names(&self.tenants).into_iter().map(|tenant| self.tenants.join(tenant));
        let homes = [self.partitions.clone()].into_iter().chain(tenants);
        homes
            .flat_map(|home| names(&home).iter().filter_map(|name| id_of(name)).collect::<Vec<_>>())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use flotilla_proto::tenant::Class;

    use super::*;

    fn tenancy(tenant: &str, isolation: Isolation) -> Tenancy {
        let limits = Class::Default.limits();
        Tenancy { tenant: tenant.into(), class: Class::Default, isolation, limits, is_full: false }
    }

    #[test]
    fn a_folder_is_found_where_it_was_made_whatever_its_owner_is_by_then() {
        let data = tempfile::tempdir().unwrap();
        let open = || Folders::new(data.path().join("partitions"));
        let apart = tenancy("acme", Isolation::Storage);
        let first = open().choose(PartitionId(1), Some(&apart));
        assert_eq!(first, data.path().join("tenants/acme/1"));
        std::fs::create_dir_all(&first).unwrap();
        let plain = open().choose(PartitionId(2), Some(&tenancy("acme", Isolation::Collection)));
        assert_eq!(plain, data.path().join("partitions/2"));
        std::fs::create_dir_all(&plain).unwrap();

        let folders = open();
        assert_eq!(folders.of(PartitionId(1)), first);
        assert_eq!(folders.choose(PartitionId(1), None), first);
        assert_eq!(folders.choose(PartitionId(2), Some(&apart)), plain);
        assert_eq!(folders.on_disk(), [PartitionId(1), PartitionId(2)].into());
        // In the middle of a state's replacement, or on its way out, it is no other partition.
        std::fs::rename(&first, data.path().join("tenants/acme/1.old")).unwrap();
        assert_eq!(open().of(PartitionId(1)), first);
        std::fs::rename(data.path().join("tenants/acme/1.old"), dropped(&first)).unwrap();
        assert_eq!((open().of(PartitionId(1)), open().on_disk().len()), (first.clone(), 2));
        std::fs::rename(dropped(&first), data.path().join("tenants/acme/1.out-00ff")).unwrap();
        assert_eq!(
            open().on_disk(),
            [PartitionId(1), PartitionId(2)].into(),
            "what lay beside it is to go, too"
        );
    }

    #[test]
    fn a_name_that_is_no_tenants_names_no_folder() {
        let data = tempfile::tempdir().unwrap();
        let folders = Folders::new(data.path().join("partitions"));
        for wrong in ["", "..", "a/b", "/etc"] {
            let chosen = folders.choose(PartitionId(1), Some(&tenancy(wrong, Isolation::Storage)));
            assert_eq!(chosen, data.path().join("partitions/1"), "{wrong}");
        }
    }
}
