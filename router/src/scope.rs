//! Which collection a request is about, and whether its caller may see it.
//!
//! The gate in front of the port knows only the method; the collection stands in the message. Every public message says by
//! [`Names`] what it is about, and every call passes its message by a [`Scope`] before anything is done for it. Without
//! names (nobody has to say who it is) everything is seen. What is refused is refused alike, whether or not there is such a
//! collection.

use flotilla_proto::access::{Entry, Right};
use flotilla_proto::v1;
use futures::{Stream, StreamExt as _};
use tonic::{Code, Request, Status};

/// What a request is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum About<'a> {
    /// One collection.
    Collection(&'a str),
    /// The cluster as a whole, and with it every collection.
    Cluster,
    /// Whatever its caller may see: the answer holds nothing else.
    Seen,
}

/// Says what a request is about.
pub(crate) trait Names {
    /// See [`About`].
    fn about(&self) -> About<'_>;
}

macro_rules! names {
    ($($message:ident . $field:ident),* $(,)?) => {
        $(impl Names for v1::$message {
            fn about(&self) -> About<'_> {
                About::Collection(&self.$field)
            }
        })*
    };
    ($about:ident: $($message:ident),* $(,)?) => {
        $(impl Names for v1::$message {
            fn about(&self) -> About<'_> {
                About::$about
            }
        })*
    };
}

names!(
    AggregateRequest.collection,
    CountRequest.collection,
    DeleteCollectionRequest.name,
    DeleteRequest.collection,
    GetCollectionRequest.name,
    GetRequest.collection,
    PatchRequest.collection,
    ReplaceRequest.collection,
    ScanRequest.collection,
    SearchRequest.collection,
    UpdateCollectionRequest.name,
    UpsertRequest.collection,
);
names!(Cluster: ApplyRequest, ControlRequest, PlanRequest);
names!(Seen: DescribeRequest, ListCollectionsRequest, MovesRequest, WatchRequest);

impl Names for v1::CreateCollectionRequest {
    fn about(&self) -> About<'_> {
        About::Collection(self.spec.as_ref().map_or("", |spec| &spec.name))
    }
}

impl Names for v1::VerifyRequest {
    fn about(&self) -> About<'_> {
        if self.collection.is_empty() { About::Cluster } else { About::Collection(&self.collection) }
    }
}

/// Who calls, as far as that is known.
#[derive(Clone, Debug)]
pub(crate) struct Scope(Option<Entry>);

impl Scope {
    /// Of a request.
    pub(crate) fn of<M>(request: &Request<M>) -> Scope {
        Scope(request.extensions().get::<Entry>().cloned())
    }

    /// Whether the caller may ask this.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if not.
    pub(crate) fn check(&self, message: &impl Names) -> Result<(), Status> {
        let Some(entry) = &self.0 else { return Ok(()) };
        match message.about() {
            About::Collection(name) => entry.check(Some(name))?,
            About::Cluster => entry.check(None)?,
            About::Seen => {}
        }
        Ok(())
    }

    /// Each message of a stream, checked.
    pub(crate) fn each<M: Names>(
        &self,
        messages: impl Stream<Item = Result<M, Status>> + Unpin,
    ) -> impl Stream<Item = Result<M, Status>> + Unpin {
        messages.map(|message| message.and_then(|message| self.check(&message).map(|()| message)))
    }

    /// A stream whose first message says what all of it is about; that one is checked.
    pub(crate) fn first<M: Names>(
        &self,
        messages: impl Stream<Item = Result<M, Status>> + Unpin,
    ) -> impl Stream<Item = Result<M, Status>> + Unpin {
        let mut is_checked = false;
        messages.map(move |message| {
            let message = message?;
            if !std::mem::replace(&mut is_checked, true) {
                self.check(&message)?;
            }
            Ok(message)
        })
    }

    /// Whether the caller may know of this collection.
    pub(crate) fn sees(&self, collection: &str) -> bool {
        self.0.as_ref().is_none_or(|entry| entry.caller.sees(Right::Read, collection))
    }

    /// A map without the collections that the caller may not know of.
    pub(crate) fn map(&self, mut map: v1::PlacementMap) -> v1::PlacementMap {
        map.collections.retain(|c| {
            let spec = c.collection.as_ref().and_then(|collection| collection.spec.as_ref());
            spec.is_some_and(|spec| self.sees(&spec.name))
        });
        map
    }

    /// The collection to be taken down with the call, if the call is to be taken down.
    pub(crate) fn noted(&self, message: &impl Names) -> Option<String> {
        let is_noted = self.0.as_ref().is_some_and(|entry| entry.right == Right::Admin);
        match message.about() {
            About::Collection(name) if is_noted => Some(name.to_owned()),
            _ => None,
        }
    }

    /// Takes down how the call ended, if it is one to be taken down and not refused for its caller's sake.
    pub(crate) fn ended(&self, collection: Option<&str>, outcome: Code) {
        if let Some(entry) = self.0.as_ref().filter(|_| outcome != Code::PermissionDenied) {
            entry.ended(collection, outcome);
        }
    }
}
