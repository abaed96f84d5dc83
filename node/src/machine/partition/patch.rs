//! Patches: records that are changed where the command stands in the log.
//!
//! What a patch meets is the record as every command before this one left it, so what was written before is shown to a view
//! first; what the command itself has changed already is held beside it. A record is left as it is, and named, if it is not there, is
//! not of the version asked for, cannot be changed in this way, or would break a rule of the collection afterwards. The
//! rules come with the command, because the collection's fields may change at another moment on another replica.
//!
//! A patch by filter is one step over all that passes, so what passes is bounded, in records and in bytes: beyond, the command is
//! rejected and nothing is changed.

use std::collections::BTreeMap;

use flotilla_proto::filter::{Compiled, Filter};
use flotilla_proto::ids::LogIndex;
use flotilla_proto::limits::{CONFLICTS_MAX, PATCH_BYTES_MAX, PATCH_MATCHES_MAX};
use flotilla_proto::patch::Edit;
use flotilla_proto::record::Key;
use flotilla_proto::schema::CollectionSpec;

use super::decided::Left;
use super::{Admitted, PartitionMachine};
use crate::machine::command::{Expect, PatchRow, RequestId, Rules};
use crate::machine::dedup::{Place, Refusals};
use crate::machine::{Refused, Rejection, Reply};
use crate::storage::row::StoredVector;
use crate::storage::{Fault, StoredRow, View};

/// Bytes of a reason, at most.
const REASON_BYTES_MAX: usize = 300;

/// A record that is left as it is, and why.
struct Unfit(String);

/// The row after the edit, unless it cannot be.
fn edited(
    mut row: StoredRow,
    edit: &Edit,
    vectors: &[StoredVector],
    spec: &CollectionSpec,
) -> Result<Result<StoredRow, Unfit>, postcard::Error> {
    let mut payload = row.decode()?;
    if let Err(stuck) = edit.apply(&mut payload) {
        return Ok(Err(Unfit(stuck.to_string())));
    }
    if let Err(violation) = spec.check_payload("record", &payload) {
        return Ok(Err(Unfit(violation.to_string())));
    }
    row.replace_payload(&payload)?;
    for vector in vectors {
        match row.vectors.binary_search_by_key(&vector.ordinal, |known| known.ordinal) {
            Ok(at) => row.vectors[at] = vector.clone(),
            Err(at) => row.vectors.insert(at, vector.clone()),
        }
    }
    Ok(Ok(row))
}

fn shortened(mut reason: String) -> String {
    let end = (0..=REASON_BYTES_MAX.min(reason.len())).rev().find(|end| reason.is_char_boundary(*end));
    reason.truncate(end.unwrap_or(0));
    reason
}

/// Why a patch of a version, or of any, is not made.
fn unmet(if_version: Option<LogIndex>, present: Option<LogIndex>) -> Option<String> {
    let expect = if_version.map_or(Expect::Present, Expect::Version);
    (!expect.holds(present)).then(|| expect.unmet(present))
}

impl PartitionMachine {
    /// The collection as far as the rules of a command say what it is.
    fn under(&self, rules: Rules) -> CollectionSpec {
        let Rules { fields, strict } = rules;
        CollectionSpec { fields, strict, ..(*self.store.spec()).clone() }
    }

    /// Everything before the command at `index`.
    fn before(&self, index: LogIndex) -> View {
        self.store.publish(index - 1);
        self.store.view()
    }

    fn garbled(&self, index: LogIndex, key: &[u8]) -> Fault {
        let reason = format!("the record of key {key:02x?} does not decode for the command at {index}");
        Fault::damaged(self.store.manifest_path(), index, reason)
    }

    /// Changes each of these records that can be.
    pub(super) fn patch(
        &mut self,
        index: LogIndex,
        request: Option<RequestId>,
        patches: Vec<PatchRow>,
        rules: Rules,
    ) -> Result<Reply, Fault> {
        let spec = self.under(rules);
        let view = self.before(index);
        let wishes = patches.into_iter().map(|patch| (patch.key.clone(), patch));
        self.decided(index, request, wishes, |machine, items| {
            let mut changed: BTreeMap<Vec<u8>, StoredRow> = BTreeMap::new();
            let mut left = Left::new();
            for item in items {
                let PatchRow { edit, vectors, if_version, .. } = &item.wish;
                let present = match changed.get(item.key()) {
                    Some(row) => Some((index, row.clone())),
                    None => stored(&view, item.key())?,
                };
                let version = present.as_ref().map(|(version, _)| *version);
                let (None, Some((_, row))) = (unmet(*if_version, version), present) else {
                    left.push(item.refused(version, unmet(*if_version, version).unwrap_or_default()));
                    continue;
                };
                match edited(row, edit, vectors, &spec).map_err(|_| machine.garbled(index, item.key()))? {
                    Ok(row) => drop(changed.insert(item.key().to_vec(), row)),
                    Err(Unfit(why)) => left.push(item.refused(version, shortened(why))),
                }
            }
            machine.write(index, changed.into_values().collect())?;
            Ok(left)
        })
    }

    /// Changes each of the records that pass that can be.
    pub(super) fn patch_matching(
        &mut self,
        index: LogIndex,
        request: Option<RequestId>,
        (filter, edit): (&Filter, &Edit),
        rules: Rules,
        layout: u64,
    ) -> Result<Reply, Fault> {
        let mut admitted = match self.standing(request) {
            Ok(admitted) => admitted,
            Err(rejection) => return Ok(Reply::Rejected(rejection)),
        };
        let spec = self.under(rules);
        if !admitted.fresh.is_empty()
            && let Err(rejection) = self.choose_matching(index, filter, &spec, layout, &mut admitted)?
        {
            return Ok(Reply::Rejected(rejection));
        }
        let again: Vec<Place> = admitted.again.iter().map(|(place, _)| *place).collect();
        let told = match self.recall_all(request, &again) {
            Ok(told) => told,
            Err(rejection) => return Ok(Reply::Rejected(rejection)),
        };
        let view = self.store.view();
        let mut changes = Vec::with_capacity(admitted.fresh.len());
        let mut bytes = 0;
        for (place, keys) in admitted.fresh {
            let change = self.change_all(index, &view, keys, edit, &spec, &mut bytes)?;
            let Some((rows, refusals)) = change else {
                let why = format!("more than {PATCH_BYTES_MAX} bytes of records of a partition are changed");
                return Ok(Reply::Rejected(Rejection::TooMuch { field: "matching".to_owned(), why }));
            };
            changes.push((place, rows, refusals));
        }
        let log_index = if changes.is_empty() { admitted.seen_at } else { index };
        let (mut affected, mut all) = (admitted.seen, told);
        for (place, rows, refusals) in changes {
            let done = self.write(index, rows)?;
            affected += done;
            all.push(refusals.clone());
            self.remember(place, request, index, done, refusals);
        }
        Ok(one_answer(affected, log_index, all))
    }

    /// The rows of these keys after the edit, and those that are left; `None` if they are too large together.
    #[allow(clippy::type_complexity)]
    fn change_all(
        &self,
        index: LogIndex,
        view: &View,
        keys: Vec<Key>,
        edit: &Edit,
        spec: &CollectionSpec,
        bytes: &mut usize,
    ) -> Result<Option<(Vec<StoredRow>, Refusals)>, Fault> {
        let (mut rows, mut refusals) = (Vec::with_capacity(keys.len()), Refusals::default());
        for key in keys.iter().map(Key::to_bytes) {
            let Some((version, row)) = stored(view, &key)? else { continue };
            match edited(row, edit, &[], spec).map_err(|_| self.garbled(index, &key))? {
                Ok(row) => {
                    *bytes = bytes.saturating_add(row.size());
                    if *bytes > PATCH_BYTES_MAX {
                        return Ok(None);
                    }
                    rows.push(row);
                }
                Err(_) if refusals.named.len() >= CONFLICTS_MAX => refusals.unnamed += 1,
                Err(Unfit(why)) => {
                    refusals.named.push(Refused { key, nth: 0, version, reason: shortened(why) });
                }
            }
        }
        Ok(Some((rows, refusals)))
    }

    /// Fills in the keys that pass, each where it belongs, if they are few enough.
    fn choose_matching(
        &mut self,
        index: LogIndex,
        filter: &Filter,
        spec: &CollectionSpec,
        layout: u64,
        admitted: &mut Admitted<Key>,
    ) -> Result<Result<(), Rejection>, Fault> {
        if layout != self.presence.layout || !self.presence.frozen.is_empty() {
            return Ok(Err(Rejection::Moved));
        }
        match Compiled::new(filter, &CollectionSpec { strict: false, ..spec.clone() }) {
            Ok(filter) => self.choose(index, &filter, admitted)?,
            Err(why) => return Ok(Err(Rejection::Unreadable(why.to_string()))),
        }
        let found: usize = admitted.fresh.iter().map(|(_, keys)| keys.len()).sum();
        if found > PATCH_MATCHES_MAX {
            let why = format!("matches {found} records of a partition, the limit is {PATCH_MATCHES_MAX}");
            return Ok(Err(Rejection::TooMuch { field: "matching.filter".to_owned(), why }));
        }
        admitted.fresh.iter_mut().for_each(|(_, keys)| keys.sort_unstable());
        Ok(Ok(()))
    }

    /// What these windows refused of a request that they have seen: the part that is about keys of theirs.
    fn recall_all(&self, request: Option<RequestId>, again: &[Place]) -> Result<Vec<Refusals>, Rejection> {
        let Some(request) = request else { return Ok(Vec::new()) };
        let dedup = self.ledger.dedup.lock();
        let told = |place: &Place| {
            let refusals = dedup.refused(*place, request);
            let Refusals { named, unnamed } =
                refusals.ok_or(Rejection::AnswerForgotten { serial: request.serial })?;
            let own = named.iter().filter(|refused| dedup.place(&refused.key) == *place);
            Ok(Refusals { named: own.cloned().collect(), unnamed: *unnamed })
        };
        again.iter().map(told).collect()
    }
}

/// The version and the row of a key.
fn stored(view: &View, key: &[u8]) -> Result<Option<(LogIndex, StoredRow)>, Fault> {
    let found = Key::from_bytes(key).map(|key| view.find(&key)).transpose()?.flatten();
    match found.and_then(|(at, row)| Some((view.segment(at)?, row))) {
        Some((segment, row)) => Ok(Some((segment.version(row), segment.stored(row)?))),
        None => Ok(None),
    }
}

/// The answer of all windows together, by key.
fn one_answer(affected: u64, log_index: LogIndex, all: Vec<Refusals>) -> Reply {
    let mut unnamed: u64 = all.iter().map(|refusals| refusals.unnamed).sum();
    let mut named: Vec<Refused> = all.into_iter().flat_map(|refusals| refusals.named).collect();
    named.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    unnamed += named.len().saturating_sub(CONFLICTS_MAX) as u64;
    named.truncate(CONFLICTS_MAX);
    let refused = named.into_iter().map(|refused| (0, refused)).collect();
    Reply::Decided { affected, log_index, refused, unnamed }
}
