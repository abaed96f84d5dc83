//! Replacing a generation of records.

use std::sync::PoisonError;

use flotilla_proto::convert::{filter_to_wire, record_to_wire};
use flotilla_proto::filter::Filter;
use flotilla_proto::record::Record;
use flotilla_proto::v1;
use futures::{Stream, StreamExt as _, stream};
use tonic::Status;

use crate::{Client, Result, Tokens, identity};

/// An acknowledged replacement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replaced {
    /// Records of the set that were written.
    pub written: u64,
    /// Records that were there, matched, and are not in the set.
    pub removed: u64,
    /// A read that carries them sees this write on any replica.
    pub tokens: Tokens,
}

impl Client {
    /// All records that match `filter` become the set that streams in, in one step for every reader: batches of at most 1,000
    /// records, each of which must match. The end of the stream completes the set. To give it up, drop the future: then,
    /// and after an error, everything is as it was. Records written one by one while the set streams in stay.
    ///
    /// ```no_run
    /// # use flotilla_client::{Client, Record, filter};
    /// # async fn example(client: Client, seen: Vec<Record>) -> Result<(), flotilla_client::Error> {
    /// let batches: Vec<Vec<Record>> = seen.chunks(1_000).map(<[Record]>::to_vec).collect();
    /// let of = filter::eq("vcenter", 17);
    /// let done = client.replace("vms", of, futures::stream::iter(batches)).await?;
    /// println!("{} there now, {} gone", done.written, done.removed);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn replace(
        &self,
        collection: &str,
        filter: Filter,
        batches: impl Stream<Item = Vec<Record>> + Send + 'static,
    ) -> Result<Replaced> {
        let first = v1::ReplaceRequest {
            collection: collection.to_owned(),
            filter: Some(filter_to_wire(&filter)),
            request: Some(identity::fresh()),
            records: Vec::new(),
        };
        let batch = |records: Vec<Record>| {
            let records = records.into_iter().map(record_to_wire).collect();
            v1::ReplaceRequest { records, ..Default::default() }
        };
        let messages = stream::iter([first]).chain(batches.map(batch));
        // Only one host can be given the batches: they come once.
        let messages = std::sync::Mutex::new(Some(messages));
        let send = |channel| {
            let messages = messages.lock().unwrap_or_else(PoisonError::into_inner).take();
            async move {
                let messages =
                    messages.ok_or_else(|| Status::unavailable("no server answered; send the set again"))?;
                Client::records(channel).replace(messages).await
            }
        };
        let answer = self.begun(send).await?.into_inner();
        let tokens = self.written(collection, answer.coverage);
        Ok(Replaced { written: answer.written, removed: answer.removed, tokens })
    }
}
