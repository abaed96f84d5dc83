//! The router as a whole: its options, its parts, and the frame in which each request runs.

use std::sync::Arc;
use std::time::Duration;

use flotilla_port::{Bounds, Doors};
use flotilla_security::Trust;
use flotilla_trace::Page;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use crate::admission::{Admission, Class, Deadline, Limits};
use crate::chance::Chance;
use crate::fanout::Fanout;
use crate::line::Line;
use crate::metrics::Metrics;
use crate::placement::Placement;
use crate::pool::{INPROC, Pool};
use crate::scope::{About, Names, Scope, Tells};
use crate::tenant::figures::Figures;
use crate::tenant::{Hub, Share, Tenants};
use crate::write::ids::Ids;

/// What a router can be told.
#[derive(Clone, Debug)]
pub struct Options {
    /// Addresses asked for the map until the map names nodes: `host:port`, or `inproc`. Default: `inproc`.
    pub nodes: Vec<String>,
    /// Time of a request that names none. Default 30 s.
    pub deadline_default: Duration,
    /// Time of a request, at most. Default 10 min.
    pub deadline_max: Duration,
    /// Requests that run and wait.
    pub limits: Limits,
    /// Connections, and how long each may keep silent.
    pub bounds: Bounds,
    /// How long one replica may keep silent before the next one is asked as well; at most a third of the time left.
    /// Default 1 s.
    pub patience: Duration,
    /// Seed of jitter, of the spread over replicas and of the identities of writes: a router with the same seed does the
    /// same again. Default: none, the operating system gives one.
    pub seed: Option<u64>,
    /// What it shows the nodes. Default: nothing.
    pub trust: Trust,
    /// Whose callers are, and what that means. Default: none, nobody is a tenant.
    pub hub: Option<Hub>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            nodes: vec![INPROC.to_owned()],
            deadline_default: Duration::from_secs(30),
            deadline_max: Duration::from_secs(600),
            limits: Limits::default(),
            bounds: Bounds::default(),
            patience: Duration::from_secs(1),
            seed: None,
            trust: Trust::default(),
            hub: None,
        }
    }
}

/// The router. Serve it with [`crate::server::serve`], or in this process with [`crate::server::in_process`].
#[derive(Debug)]
pub struct Router {
    pub(crate) placement: Arc<Placement>,
    pub(crate) fanout: Fanout,
    pub(crate) admission: Admission,
    pub(crate) doors: Doors,
    pub(crate) metrics: Metrics,
    pub(crate) tenants: Tenants,
    pub(crate) chance: Arc<Chance>,
    pub(crate) ids: Ids,
    deadline_default: Duration,
    is_draining: watch::Sender<bool>,
    follower: tokio::task::JoinHandle<()>,
}

impl Router {
    /// Starts to follow the placement map; ready as soon as a node has told it. Must be called within a tokio runtime.
    /// `inproc` reaches the node of this process; metrics go to `page`.
    ///
    /// # Errors
    /// If the page holds a router's metrics already.
    pub fn start(
        options: Options,
        inproc: Option<Line>,
        page: impl Into<Page>,
    ) -> Result<Arc<Router>, prometheus::Error> {
        let doors = Doors::new(options.bounds)?;
        let page = page.into();
        doors.collectors().into_iter().try_for_each(|one| page.register(one))?;
        let figures = Figures::new(page.registry())?;
        let metrics = Metrics::new(page)?;
        let pool = Arc::new(Pool::new(inproc, options.trust.clone()));
        let chance = Arc::new(Chance::new(options.seed));
        let placement = Arc::new(Placement::new(pool.clone(), options.nodes, chance.clone()));
        let patience = options.patience;
        let Options { limits, deadline_default, deadline_max, .. } = options;
        Ok(Arc::new(Router {
            fanout: Fanout::new(pool, placement.clone(), metrics.clone(), chance.clone(), patience),
            follower: tokio::spawn(placement.clone().follow()),
            placement,
            admission: Admission::new(limits, deadline_default, deadline_max, metrics.queues.clone()),
            doors,
            metrics,
            tenants: Tenants::new(options.hub, figures, &limits),
            chance,
            ids: Ids::default(),
            deadline_default,
            is_draining: watch::Sender::new(false),
        }))
    }

    /// The placement map as this router knows it.
    pub fn placement(&self) -> &Placement {
        &self.placement
    }

    /// How many requests and connections there may be, from now on.
    pub fn limit(&self, limits: Limits, bounds: Bounds) {
        self.admission.limit(limits);
        self.doors.set(bounds);
    }

    /// Waits until a map is known.
    ///
    /// # Errors
    /// `UNAVAILABLE` if none is within `time`.
    pub async fn ready(&self, time: Duration) -> Result<(), Status> {
        self.placement.known(Deadline::after(time)).await.map(drop)
    }

    /// Ends streams that would not end by themselves.
    pub(crate) fn drain(&self) {
        self.is_draining.send_replace(true);
    }

    /// Turns true when the router goes down.
    pub(crate) fn draining(&self) -> watch::Receiver<bool> {
        self.is_draining.subscribe()
    }

    /// Who calls.
    ///
    /// # Errors
    /// `PERMISSION_DENIED` if it should be a tenant's and is not.
    pub(crate) fn scope<M>(&self, request: &Request<M>) -> Result<Scope, Status> {
        Scope::of(request, self.tenants.hub.as_ref())
    }

    /// Lets a tenant's request in that is measured and admitted piece by piece: its share is held as long as the request.
    pub(crate) async fn enter(&self, scope: &Scope, by: Deadline) -> Result<Option<Share>, Status> {
        self.tenants.count(scope, &self.fanout, by).await?;
        self.tenants.share(scope, by).await
    }

    /// Counts one message of a stream as a request of its tenant's.
    pub(crate) async fn counted(&self, scope: &Scope) -> Result<(), Status> {
        self.tenants.count(scope, &self.fanout, Deadline::after(self.deadline_default)).await
    }

    /// Runs one request: its caller's right to what it is about checked, measured, admitted, within its deadline.
    pub(crate) async fn run<M: Names, T, F>(
        &self,
        (class, operation): (Class, &'static str),
        request: Request<M>,
        work: impl FnOnce(M, Deadline) -> F,
    ) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<T, Status>>,
        T: Tells,
    {
        let came = Instant::now();
        let deadline = self.deadline(request.metadata());
        let scope = match self.scope(&request) {
            Ok(scope) => scope,
            Err(why) => return self.metrics.measure(operation, std::future::ready(Err(why))).await,
        };
        let mut message = request.into_inner();
        let noted = scope.noted(&message);
        let measured = self.metrics.measure(operation, async {
            scope.enter(&mut message)?;
            let _share = self.enter(&scope, deadline).await?;
            let collection = match (class, message.about()) {
                (Class::Read | Class::Write, About::Collection(name)) => Some(name.to_owned()),
                _ => None,
            };
            let _permit = self.admission.enter(class, deadline).await?;
            let answer = deadline.bound(work(message, deadline)).await?;
            if let Some(collection) = collection {
                self.metrics.collection(&collection, class.name(), came.elapsed());
            }
            Ok(answer)
        });
        let ended = measured.await.map_err(|why| self.tenants.told(&scope, why));
        scope.ended(noted.as_deref(), ended.as_ref().err().map_or(Code::Ok, Status::code));
        ended.map(|answer| Response::new(scope.tell(answer)))
    }

    /// Runs one piece of a stream: admitted, within the default time.
    pub(crate) async fn batch<T, F>(&self, work: impl FnOnce(Deadline) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        self.until(Deadline::after(self.deadline_default), work).await
    }

    /// Runs one piece of a stream: admitted, within the deadline.
    pub(crate) async fn until<T, F>(
        &self,
        deadline: Deadline,
        work: impl FnOnce(Deadline) -> F,
    ) -> Result<T, Status>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let _permit = self.admission.enter(Class::Background, deadline).await?;
        deadline.bound(work(deadline)).await
    }

    /// Runs a whole stream: measured, and within the time that its caller names, if any; its pieces are admitted one by one.
    pub(crate) async fn stream<T>(
        &self,
        operation: &'static str,
        metadata: &MetadataMap,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<Response<T>, Status> {
        let measured = self.metrics.measure(operation, async {
            match self.admission.asked(metadata) {
                Some(deadline) => deadline.bound(work).await,
                None => work.await,
            }
        });
        measured.await.map(Response::new)
    }

    /// The deadline of a request.
    pub(crate) fn deadline(&self, metadata: &MetadataMap) -> Deadline {
        self.admission.deadline(metadata)
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.follower.abort();
    }
}
