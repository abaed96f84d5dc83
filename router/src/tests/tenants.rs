//! Tenants at the port: names of their own in and out, who needs one, how many requests they may make, and what is told of them.

use flotilla_proto::access::{Authenticator, Caller, Collections, Grant, Note, Rights, Role};
use flotilla_proto::refusal::{Refusal, tenant_limit};
use flotilla_proto::tenant::{Class, Isolation, Limits};
use tonic::codegen::http::{Extensions, HeaderMap};
use tonic::{Code, Request, Status};

use super::*;
use crate::Hub;

/// Whoever says `TENANT` is that tenant's admin, `ops` an operator; `guest` reads and is nobody's.
#[derive(Debug)]
struct Named;

impl Authenticator for Named {
    fn caller(&self, headers: &HeaderMap, _: &Extensions) -> Result<Arc<Caller>, Refusal> {
        let name = headers.get("who").and_then(|who| who.to_str().ok());
        let name = name.ok_or_else(|| Refusal::Unauthenticated("who?".into()))?;
        let grant = Grant { rights: Role::Read.rights(), collections: Collections::All };
        let whole = Caller::whole(name, Rights::DATA);
        Ok(Arc::new(match name {
            "ops" => whole,
            "guest" => Caller { grants: vec![grant], ..whole },
            tenant => Caller { tenant: Some(tenant.to_owned()), ..whole },
        }))
    }

    fn note(&self, _: &Note<'_>) {}
}

/// A message of somebody's.
fn by<M>(who: &str, message: M) -> Request<M> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("who", who.parse().unwrap());
    request
}

async fn hub(isolation: Isolation) -> House {
    let fake = Fake::new(1, &["inproc"]);
    let (connector, listener) = inproc::pair();
    fake.serve(listener);
    let hub = Some(Hub { isolation, ..Hub::default() });
    let line = Line::Wire(connector.channel().into());
    let limits = crate::admission::Limits { core: 1, running_max: 4, waiting_max: 4 };
    let options = Options { hub, limits, ..Options::default() };
    let router = Router::start(options, Some(line), Registry::new()).unwrap();
    router.ready(SOON).await.unwrap();
    let front = server::Options { authenticator: Some(Arc::new(Named)), ..server::Options::default() };
    let channel = server::in_process(router.clone(), front);
    House {
        fake,
        router,
        collections: CollectionsClient::new(channel.clone()),
        records: RecordsClient::new(channel.clone()),
        search: SearchClient::new(channel.clone()),
        cluster: ClusterClient::new(channel),
    }
}

impl House {
    async fn make(&mut self, who: &str, name: &str) -> Result<v1::Collection, Status> {
        let request = v1::CreateCollectionRequest { spec: Some(spec_to_wire(&spec(name))) };
        Ok(self.collections.create(by(who, request)).await?.into_inner().collection.unwrap())
    }

    async fn listed(&mut self, who: &str) -> Vec<String> {
        let answer = self.collections.list(by(who, v1::ListCollectionsRequest {})).await.unwrap();
        answer.into_inner().collections.into_iter().map(|c| c.spec.unwrap().name).collect()
    }

    async fn counted(&mut self, who: &str, name: &str) -> Result<u64, Status> {
        let request = v1::CountRequest { collection: name.into(), ..Default::default() };
        Ok(self.records.count(by(who, request)).await?.into_inner().count)
    }
}

#[tokio::test]
async fn two_tenants_use_one_name_and_neither_sees_the_others() {
    let mut house = hub(Isolation::Collection).await;
    for who in ["acme", "beta"] {
        let made = house.make(who, "vms").await.unwrap();
        assert_eq!(made.spec.unwrap().name, "vms");
    }
    house.make("beta", "only").await.unwrap();
    house.records.upsert(by("acme", upsert((0..7).map(record)))).await.unwrap();
    assert_eq!(
        (house.counted("acme", "vms").await.unwrap(), house.counted("beta", "vms").await.unwrap()),
        (7, 0)
    );
    assert_eq!(house.listed("acme").await, ["vms"]);
    assert_eq!(house.listed("beta").await, ["only", "vms"]);
    assert_eq!(house.listed("ops").await, ["acme/vms", "beta/only", "beta/vms"]);
    assert_eq!(house.counted("ops", "acme/vms").await.unwrap(), 7);

    // A refusal says what its caller said, and is the same whether or not another tenant has such a collection.
    let mut said = Vec::new();
    for name in ["only", "none"] {
        let refused = house.counted("acme", name).await.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        said.push(format!("{refused:?}").replace(name, "NAME"));
        assert!(!format!("{refused:?}").contains("acme"), "{refused:?}");
    }
    assert_eq!(said[0], said[1]);
    let again = house.make("acme", "vms").await.unwrap_err();
    assert_eq!((again.code(), again.message()), (Code::AlreadyExists, "collection `vms` exists already"));
    for name in ["beta/vms", "acme/vms", "/vms", "../beta/vms"] {
        assert_eq!(house.counted("acme", name).await.unwrap_err().code(), Code::InvalidArgument, "{name}");
        assert_eq!(house.make("acme", name).await.unwrap_err().code(), Code::InvalidArgument, "{name}");
    }

    let map = house.cluster.describe(by("acme", v1::DescribeRequest {})).await.unwrap().into_inner();
    let shown = format!("{:?}", map.placement.unwrap().collections);
    assert!(shown.contains("\"vms\"") && !shown.contains("beta") && !shown.contains("acme/"), "{shown}");
    let named = v1::DeleteCollectionRequest { name: "vms".into() };
    house.collections.delete(by("beta", named)).await.unwrap();
    assert_eq!(house.counted("acme", "vms").await.unwrap(), 7);
}

#[tokio::test]
async fn streams_enter_as_single_calls_do() {
    let mut house = hub(Isolation::Storage).await;
    house.make("acme", "vms").await.unwrap();
    let batches = || futures::stream::iter([upsert((0..5).map(record)), upsert((5..9).map(record))]);
    house.records.upsert_stream(by("acme", batches())).await.unwrap();
    assert_eq!(house.counted("acme", "vms").await.unwrap(), 9);
    let refused = house.records.upsert_stream(by("beta", batches())).await.unwrap_err();
    assert!(refused.code() == Code::NotFound && refused.message().contains("`vms`"), "{refused:?}");
    let mut pages = house.records.scan_stream(by("acme", scan(0))).await.unwrap().into_inner();
    let mut seen = 0;
    while let Some(page) = pages.message().await.unwrap() {
        seen += page.items.len();
    }
    assert_eq!(seen, 9);
    assert_eq!(house.records.scan_stream(by("beta", scan(0))).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn who_is_nobodys_may_do_nothing_but_operate_and_a_tenant_may_not() {
    let mut house = hub(Isolation::Collection).await;
    let refused = house.collections.list(by("guest", v1::ListCollectionsRequest {})).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = house.collections.list(by("No Tenant", v1::ListCollectionsRequest {})).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let plan = house.cluster.plan(by("acme", v1::PlanRequest::default())).await.unwrap_err();
    assert_eq!(plan.code(), Code::PermissionDenied);
    let all = house.cluster.verify(by("acme", v1::VerifyRequest::default())).await.unwrap_err();
    assert_eq!(all.code(), Code::PermissionDenied);
    // The fake node plans nothing: the operator's question reached it.
    let plan = house.cluster.plan(by("ops", v1::PlanRequest::default())).await.unwrap_err();
    assert_eq!(plan.code(), Code::Unimplemented);
}

#[tokio::test]
async fn without_isolation_names_are_everybodys_but_not_those_that_were_ever_a_tenants_own() {
    let mut house = hub(Isolation::None).await;
    house.make("acme", "vms").await.unwrap();
    assert_eq!(house.counted("beta", "vms").await.unwrap(), 0);
    house.fake.change(true, |map| {
        let mut own = map.collections[0].clone();
        own.id = uuid::Uuid::from_u128(77);
        own.spec.name = "acme/own".into();
        map.collections.push(own);
        map.epoch.0 += 1;
        map.collections.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
    });
    let by_then = house.fake.map().epoch;
    house.router.placement().wait_for(by_then, crate::admission::Deadline::after(SOON)).await.unwrap();
    assert_eq!(house.listed("ops").await, ["acme/own", "vms"]);
    assert_eq!(house.listed("beta").await, ["vms"]);
    assert_eq!(house.counted("beta", "acme/own").await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn requests_beyond_the_limit_are_told_which_one_and_another_tenant_goes_on() {
    let mut house = hub(Isolation::Collection).await;
    house.fake.limit(Limits { max_requests_per_minute: 60, ..Class::Default.limits() });
    let mut refused = None;
    for _ in 0..20 {
        if let Err(status) = house.collections.list(by("acme", v1::ListCollectionsRequest {})).await {
            refused = Some(status);
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(tenant_limit(&refused).as_deref(), Some("max_requests_per_minute"));
    assert!(refused.message().contains("tenant `acme`") && refused.message().contains("60"), "{refused:?}");
    assert_eq!(house.listed("beta").await, [""; 0]);
    assert_eq!(house.listed("ops").await, [""; 0]);
    let text = house.router.metrics.page().answer(&Default::default()).unwrap().1;
    assert!(text.contains("flotilla_tenant_requests_total{tenant=\"beta\"} 1\n"), "{text}");
    assert!(
        text.contains("flotilla_tenant_refused_total{limit=\"max_requests_per_minute\",tenant=\"acme\"}")
    );
}

#[tokio::test]
async fn one_tenants_flood_takes_its_share_of_the_permits_and_no_more() {
    let mut house = hub(Isolation::Collection).await;
    house.make("acme", "vms").await.unwrap();
    house.make("beta", "vms").await.unwrap();
    // One permit of four is the tenant's; one request may wait for it, the third is refused.
    house.fake.fault("count", crate::fake::Fault::Hang);
    house.fake.fault("count", crate::fake::Fault::Hang);
    house.fake.fault("count", crate::fake::Fault::Hang);
    let ask = |records: &RecordsClient<Channel>| {
        let mut records = records.clone();
        let request = v1::CountRequest { collection: "vms".into(), ..Default::default() };
        tokio::spawn(async move { records.count(by("acme", request)).await.map(drop) })
    };
    let first = ask(&house.records);
    until(|| !house.fake.seen("count").is_empty()).await;
    let (second, third) = (ask(&house.records), ask(&house.records));
    let (refused, waits) = match futures::future::select(second, third).await {
        futures::future::Either::Left((ended, other)) => (ended, other),
        futures::future::Either::Right((ended, other)) => (ended, other),
    };
    let refused = refused.unwrap().unwrap_err();
    assert_eq!(tenant_limit(&refused).as_deref(), Some("concurrent_requests"), "{refused:?}");
    house.search.search(by("beta", nearest(0.0, 1))).await.unwrap();
    first.abort();
    waits.abort();
}

/// Waits for something that is about to be so.
async fn until(is_so: impl Fn() -> bool) {
    tokio::time::timeout(SOON, async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn usage_is_told_to_the_tenant_itself_and_of_all_to_operators() {
    let mut house = hub(Isolation::Collection).await;
    house.make("acme", "vms").await.unwrap();
    house.make("beta", "vms").await.unwrap();
    house.records.upsert(by("acme", upsert((0..7).map(record)))).await.unwrap();
    let mut usage = async |who: &str, tenant: &str| {
        let request = v1::UsageRequest { tenant: tenant.into() };
        Ok::<_, Status>(house.cluster.usage(by(who, request)).await?.into_inner().tenants)
    };
    let own = usage("acme", "").await.unwrap();
    assert_eq!((own.len(), own[0].tenant.as_str(), own[0].collections), (1, "acme", 1));
    assert_eq!((own[0].records, own[0].vectors), (7, 7));
    assert_eq!(own[0].limits.unwrap().max_collections, 100);
    assert!(own[0].requests_last_minute >= 3);
    assert_eq!(usage("ops", "").await.unwrap().len(), 2);
    assert_eq!(usage("ops", "beta").await.unwrap()[0].records, 0);
    assert_eq!(usage("acme", "beta").await.unwrap_err().code(), Code::PermissionDenied);
}
