//! Collections.

use std::collections::BTreeMap;

use flotilla_proto::convert::{collection_from_wire, fields_to_wire, spec_to_wire};
use flotilla_proto::ids::{CollectionId, Epoch};
use flotilla_proto::schema::{CollectionSpec, FieldType};
use flotilla_proto::v1;

use crate::{Client, Error, ReadPreference, Result};

/// A collection that exists.
#[derive(Clone, Debug, PartialEq)]
pub struct Collection {
    /// What it is.
    pub spec: CollectionSpec,
    /// Its incarnation: another one each time a collection is made, also under an old name.
    pub id: CollectionId,
    /// The epoch at which it last changed.
    pub epoch: Epoch,
}

impl Collection {
    fn from_wire(collection: Option<v1::Collection>) -> Result<Collection> {
        let collection = collection.ok_or_else(|| Error::nonsense("it holds no collection"))?;
        let (spec, id, epoch) = collection_from_wire(collection).map_err(Error::nonsense)?;
        Ok(Collection { spec, id, epoch })
    }
}

impl Client {
    /// Makes a collection; once this returns, the server behind this client knows it.
    pub async fn create_collection(&self, spec: &CollectionSpec) -> Result<Collection> {
        let message = v1::CreateCollectionRequest { spec: Some(spec_to_wire(spec)) };
        let send = |channel, request| async move { Client::collections(channel).create(request).await };
        let answer = self.once(message, send).await?;
        Collection::from_wire(answer.collection)
    }

    /// A collection and its status, summed over the partitions that answered (see its coverage).
    pub async fn get_collection(&self, name: &str) -> Result<(Collection, v1::CollectionStatus)> {
        let message = v1::GetCollectionRequest { name: name.to_owned() };
        let send = |channel, request| async move { Client::collections(channel).get(request).await };
        let answer = self.repeated(message, ReadPreference::Master, send).await?;
        Ok((Collection::from_wire(answer.collection)?, answer.status.unwrap_or_default()))
    }

    /// All collections, by name.
    pub async fn list_collections(&self) -> Result<Vec<Collection>> {
        let message = v1::ListCollectionsRequest {};
        let send = |channel, request| async move { Client::collections(channel).list(request).await };
        let answer = self.repeated(message, ReadPreference::Master, send).await?;
        answer.collections.into_iter().map(|c| Collection::from_wire(Some(c))).collect()
    }

    /// Declares further fields, and sets the default `ef` of searches by vector name. What is not named stays.
    pub async fn update_collection(
        &self,
        name: &str,
        add_fields: &BTreeMap<String, FieldType>,
        ef_search: &BTreeMap<String, u32>,
    ) -> Result<Collection> {
        let (fields, languages) = fields_to_wire(add_fields);
        let message = v1::UpdateCollectionRequest {
            name: name.to_owned(),
            add_fields: fields,
            languages,
            ef_search: ef_search.clone(),
        };
        let send = |channel, request| async move { Client::collections(channel).update(request).await };
        let answer = self.once(message, send).await?;
        Collection::from_wire(answer.collection)
    }

    /// Deletes a collection with all its records.
    pub async fn delete_collection(&self, name: &str) -> Result<()> {
        let message = v1::DeleteCollectionRequest { name: name.to_owned() };
        let send = |channel, request| async move { Client::collections(channel).delete(request).await };
        self.once(message, send).await?;
        Ok(())
    }
}
