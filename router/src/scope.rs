//! Which collection a request is about, and whether its caller may see it.
//!
//! The gate in front of the port knows only the method; the collection stands in the message. Every public message says by
//! [`Names`] what it is about, and every call passes its message by a [`Scope`] before anything is done for it. Without
//! names (nobody has to say who it is) everything is seen. What is refused is refused alike, whether or not there is such a
//! collection.
//!
//! A tenant with names of its own says them, and is told them, without itself before them: grants and rights are about
//! those. [`Scope::enter`] makes the cluster's names of them, [`Scope::tell`] and [`Scope::told`] turn that around.

use flotilla_proto::access::{Entry, Right};
use flotilla_proto::refusal::{self, Refusal, Violation};
use flotilla_proto::tenant::{SEPARATOR, inside, split};
use flotilla_proto::{passed, v1};
use tonic::{Code, Request, Status};

use crate::tenant::{Hub, Member};

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

    /// The name of the collection, where it names one.
    fn name_mut(&mut self) -> Option<&mut String> {
        None
    }
}

/// Says which names of collections an answer holds.
pub(crate) trait Tells {
    /// All of them.
    fn names_mut(&mut self) -> Vec<&mut String> {
        Vec::new()
    }
}

fn name_of(collection: &mut Option<v1::Collection>) -> Option<&mut String> {
    Some(&mut collection.as_mut()?.spec.as_mut()?.name)
}

macro_rules! tells {
    ($($message:ident),* ; $($one:ident),*) => {
        $(impl Tells for v1::$message {})*
        $(impl Tells for v1::$one {
            fn names_mut(&mut self) -> Vec<&mut String> {
                name_of(&mut self.collection).into_iter().collect()
            }
        })*
    };
}

tells!(
    AggregateResponse, ApplyResponse, ControlResponse, CountResponse, DeleteCollectionResponse, DeleteResponse,
    PatchResponse, PlanResponse, ScaleResponse, SearchResponse, StatusResponse, UpsertResponse,
    UsageResponse;
    CreateCollectionResponse, GetCollectionResponse, UpdateCollectionResponse
);

impl Tells for passed::GetResponse {}
impl Tells for passed::ScanResponse {}

impl Tells for v1::ListCollectionsResponse {
    fn names_mut(&mut self) -> Vec<&mut String> {
        let specs = self.collections.iter_mut().filter_map(|collection| collection.spec.as_mut());
        specs.map(|spec| &mut spec.name).collect()
    }
}

impl Tells for v1::PlacementMap {
    fn names_mut(&mut self) -> Vec<&mut String> {
        self.collections.iter_mut().filter_map(|placement| name_of(&mut placement.collection)).collect()
    }
}

impl Tells for v1::DescribeResponse {
    fn names_mut(&mut self) -> Vec<&mut String> {
        self.placement.as_mut().map_or_else(Vec::new, Tells::names_mut)
    }
}

impl Tells for v1::MovesResponse {
    fn names_mut(&mut self) -> Vec<&mut String> {
        self.moves.iter_mut().map(|moved| &mut moved.collection).collect()
    }
}

impl Tells for v1::VerifyResponse {
    fn names_mut(&mut self) -> Vec<&mut String> {
        vec![&mut self.collection]
    }
}

macro_rules! names {
    ($($message:ident . $field:ident),* $(,)?) => {
        $(impl Names for v1::$message {
            fn about(&self) -> About<'_> {
                About::Collection(&self.$field)
            }

            fn name_mut(&mut self) -> Option<&mut String> {
                Some(&mut self.$field)
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
names!(Cluster: ApplyRequest, ControlRequest, PlanRequest, ScaleRequest);
names!(Seen: DescribeRequest, ListCollectionsRequest, MovesRequest, StatusRequest, UsageRequest, WatchRequest);

impl Names for v1::CreateCollectionRequest {
    fn about(&self) -> About<'_> {
        About::Collection(self.spec.as_ref().map_or("", |spec| &spec.name))
    }

    fn name_mut(&mut self) -> Option<&mut String> {
        self.spec.as_mut().map(|spec| &mut spec.name)
    }
}

impl Names for v1::VerifyRequest {
    fn about(&self) -> About<'_> {
        if self.collection.is_empty() { About::Cluster } else { About::Collection(&self.collection) }
    }

    fn name_mut(&mut self) -> Option<&mut String> {
        Some(&mut self.collection)
    }
}

/// Who calls, as far as that is known.
#[derive(Clone, Debug)]
pub(crate) struct Scope {
    entry: Option<Entry>,
    member: Option<Member>,
}

impl Scope {
    /// Of a request; where there are tenants, whose its caller is.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if its caller is no tenant's and does not see to the cluster as a whole.
    pub(crate) fn of<M>(request: &Request<M>, hub: Option<&Hub>) -> Result<Scope, Status> {
        let entry = request.extensions().get::<Entry>().cloned();
        let member = match (&entry, hub) {
            (Some(entry), Some(hub)) => Member::of(&entry.caller, hub)?,
            _ => None,
        };
        Ok(Scope { entry, member })
    }

    /// Whose the caller is, if it is a tenant's.
    pub(crate) fn member(&self) -> Option<&Member> {
        self.member.as_ref()
    }

    /// The tenant that has names of its own.
    fn namer(&self) -> Option<&str> {
        let member = self.member.as_ref().filter(|member| member.isolation.has_names());
        member.map(|member| member.tenant.as_str())
    }

    /// Checks a message and puts the cluster's name of what it is about into it.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if the caller may not ask this; a name that is a tenant's already.
    pub(crate) fn enter(&self, message: &mut impl Names) -> Result<(), Status> {
        self.check(message)?;
        if self.member.is_none() || !matches!(message.about(), About::Collection(_)) {
            return Ok(());
        }
        let Some(name) = message.name_mut() else { return Ok(()) };
        if name.contains(SEPARATOR) {
            let why =
                format!("character {SEPARATOR:?} is not allowed in a name; allowed are A-Z a-z 0-9 _ - .");
            return Err(Violation::new("collection", why).into());
        }
        if let Some(tenant) = self.namer() {
            *name = inside(tenant, name);
        }
        Ok(())
    }

    /// An answer with the caller's names.
    pub(crate) fn tell<T: Tells>(&self, mut answer: T) -> T {
        if self.namer().is_some() {
            for name in answer.names_mut() {
                *name = split(name).1.to_owned();
            }
        }
        answer
    }

    /// A status with the caller's names.
    pub(crate) fn told(&self, status: Status) -> Status {
        let Some(tenant) = self.namer() else { return status };
        let (theirs, ours) = ("collection `", format!("collection `{tenant}{SEPARATOR}"));
        let plain = |text: &str| text.replace(&ours, theirs);
        refusal::reworded(&status, plain, ("collection", |name: &str| split(name).1.to_owned()))
    }

    /// Whether the caller may ask this.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if not.
    fn check(&self, message: &impl Names) -> Result<(), Status> {
        let Some(entry) = &self.entry else { return Ok(()) };
        match message.about() {
            About::Cluster if self.member.is_some() => {
                let name = &entry.caller.name;
                let why = format!("{name}: belongs to a tenant, and this concerns the cluster as a whole");
                return Err(Refusal::Denied(why).into());
            }
            About::Collection(name) => entry.check(Some(name))?,
            About::Cluster => entry.check(None)?,
            About::Seen => {}
        }
        Ok(())
    }

    /// Whether the caller may know of the collection of this name in the cluster.
    pub(crate) fn sees(&self, collection: &str) -> bool {
        let (tenant, name) = split(collection);
        let is_own = self.member.is_none() || tenant == self.namer();
        let name = if self.member.is_some() { name } else { collection };
        is_own && self.entry.as_ref().is_none_or(|entry| entry.caller.sees(Right::Read, name))
    }

    /// A map without the collections that the caller may not know of, and with its names of the others.
    pub(crate) fn map(&self, mut map: v1::PlacementMap) -> v1::PlacementMap {
        map.collections.retain(|c| {
            let spec = c.collection.as_ref().and_then(|collection| collection.spec.as_ref());
            spec.is_some_and(|spec| self.sees(&spec.name))
        });
        self.tell(map)
    }

    /// The collection to be taken down with the call, if the call is to be taken down.
    pub(crate) fn noted(&self, message: &impl Names) -> Option<String> {
        let is_noted = self.entry.as_ref().is_some_and(|entry| entry.right == Right::Admin);
        match message.about() {
            About::Collection(name) if is_noted => Some(name.to_owned()),
            _ => None,
        }
    }

    /// Takes down how the call ended, if it is one to be taken down and not refused for its caller's sake.
    pub(crate) fn ended(&self, collection: Option<&str>, outcome: Code) {
        if let Some(entry) = self.entry.as_ref().filter(|_| outcome != Code::PermissionDenied) {
            entry.ended(collection, outcome);
        }
    }
}
