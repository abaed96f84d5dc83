use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use prost::Message as _;
use tonic::Code;
use tonic::codegen::{Service, http};

use super::*;

fn described() -> BTreeSet<String> {
    let files = prost_types::FileDescriptorSet::decode(crate::DESCRIPTORS).unwrap().file;
    let mut methods = BTreeSet::new();
    for file in files {
        for service in &file.service {
            let name = |method: &prost_types::MethodDescriptorProto| {
                format!("{}.{}/{}", file.package(), service.name(), method.name())
            };
            methods.extend(service.method.iter().map(name));
        }
    }
    methods
}

#[test]
fn every_method_has_a_row_and_every_row_a_method() {
    let described = described();
    assert!(described.len() > 40, "{described:?}");
    let ruled: BTreeSet<String> = RULES.iter().map(|(method, _)| (*method).to_owned()).collect();
    let without: Vec<&String> = described.difference(&ruled).collect();
    assert!(without.is_empty(), "methods without a row: {without:?}");
    let foreign: Vec<&String> = ruled.difference(&described).filter(|m| !m.starts_with("grpc.")).collect();
    assert!(foreign.is_empty(), "rows without a method: {foreign:?}");
}

#[test]
fn rows_are_sorted_and_name_each_method_once() {
    assert!(RULES.windows(2).all(|pair| pair[0].0 < pair[1].0));
    assert!(RULES.iter().all(|(method, right)| right_of(method) == Some(*right)));
}

#[test]
fn only_what_members_say_to_each_other_takes_peer_and_only_foreign_methods_are_open() {
    for (method, right) in RULES {
        assert_eq!(*right == Peer, method.starts_with("flotilla.peer."), "{method}");
        assert_eq!(*right == Open, method.starts_with("grpc."), "{method}");
    }
}

#[test]
fn what_has_no_row_is_denied_to_everybody() {
    for caller in [Rights::DATA, Rights::PEER] {
        for method in ["", "flotilla.v1.Records", "flotilla.v1.Records/", "flotilla.v1.Records/upsert", "x/y"]
        {
            assert!(matches!(admit(method, caller), Err(Refusal::Denied(_))), "{method}");
        }
        admit("grpc.health.v1.Health/Check", caller).unwrap();
    }
    admit("flotilla.v1.Records/Upsert", Rights::DATA).unwrap();
    admit("flotilla.peer.v1.Raft/Vote", Rights::PEER).unwrap();
    admit("flotilla.v1.Records/Upsert", Rights::PEER).unwrap_err();
    admit("flotilla.peer.v1.Raft/Vote", Rights::DATA).unwrap_err();
}

/// Answers every call with "accepted".
#[derive(Clone)]
struct Behind;

impl Service<http::Request<()>> for Behind {
    type Response = http::Response<String>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<()>) -> Self::Future {
        let entry = request.extensions().get::<Entry>();
        let answer =
            entry.map_or("accepted".to_owned(), |entry| format!("{}: {:?}", entry.caller.name, entry.right));
        std::future::ready(Ok(http::Response::new(answer)))
    }
}

/// The answer's body and its gRPC status, if it has one.
fn knock(path: &str, caller: Rights) -> (String, Option<Code>) {
    through(Gate::new(Behind, caller, None), path, None)
}

/// The same, through this gate, by a caller of this name.
fn through(mut gate: Gate<Behind>, path: &str, name: Option<&str>) -> (String, Option<Code>) {
    let request = http::Request::builder().uri(path);
    let request =
        name.into_iter().fold(request, |request, name| request.header("name", name)).body(()).unwrap();
    let mut future = gate.call(request);
    let mut context = Context::from_waker(std::task::Waker::noop());
    let Poll::Ready(Ok(answer)) = future.as_mut().poll(&mut context) else { panic!("it waits") };
    let code = answer.headers().get("grpc-status").map(|code| Code::from_bytes(code.as_bytes()));
    (answer.into_body(), code)
}

#[test]
fn the_gate_lets_through_what_the_table_admits_and_nothing_else() {
    let (open, denied) = (("accepted".to_owned(), None), (String::new(), Some(Code::PermissionDenied)));
    assert_eq!(knock("/flotilla.v1.Search/Search", Rights::DATA), open);
    assert_eq!(knock("/flotilla.peer.v1.Peer/Join", Rights::PEER), open);
    assert_eq!(knock("/flotilla.peer.v1.Peer/Join", Rights::DATA), denied);
    assert_eq!(knock("/flotilla.v1.Search/Search", Rights::PEER), denied);
    assert_eq!(knock("/flotilla.v1.Search/Nothing", Rights::DATA), denied);
    assert_eq!(knock("/", Rights::DATA), denied);
}

/// Believes what the header `name` says, and remembers what it is told.
#[derive(Debug, Default)]
struct Trusting(Mutex<Vec<String>>);

fn only(role: Role, patterns: &[&str]) -> Caller {
    let collections = Collections::Named(patterns.iter().map(|name| (*name).to_owned()).collect());
    Caller {
        name: role.name().to_owned(),
        tenant: None,
        class: Default::default(),
        grants: vec![Grant { rights: role.rights(), collections }],
    }
}

impl Authenticator for Trusting {
    fn caller(&self, headers: &http::HeaderMap, _: &http::Extensions) -> Result<Arc<Caller>, Refusal> {
        let name = headers.get("name").and_then(|name| name.to_str().ok());
        let role = name.and_then(Role::of).ok_or_else(|| Refusal::Unauthenticated("who?".to_owned()))?;
        Ok(Arc::new(Caller::whole(role.name(), role.rights())))
    }

    fn note(&self, note: &Note<'_>) {
        let caller = note.caller.map_or("-", |caller| caller.name.as_str());
        self.0.lock().unwrap().push(format!("{caller} {} {:?}", note.method, note.outcome));
    }
}

#[test]
fn a_caller_has_what_its_role_gives_within_what_the_port_gives() {
    let trusting = Arc::new(Trusting::default());
    for (method, right) in RULES {
        for name in ["nobody", "read", "write", "admin"] {
            let gate = Gate::new(Behind, Rights::DATA, Some(trusting.clone()));
            let role = Role::of(name);
            let expected = match (right, role) {
                (Open, _) => ("accepted".to_owned(), None),
                (Peer, _) => (String::new(), Some(Code::PermissionDenied)),
                (_, None) => (String::new(), Some(Code::Unauthenticated)),
                (right, Some(role)) if role.rights().include(*right) => (format!("{name}: {right:?}"), None),
                _ => (String::new(), Some(Code::PermissionDenied)),
            };
            assert_eq!(through(gate, &format!("/{method}"), Some(name)), expected, "{method} by {name}");
        }
    }
    let told = std::mem::take(&mut *trusting.0.lock().unwrap());
    assert!(told.contains(&"- flotilla.v1.Records/Get Unauthenticated".to_owned()));
    assert!(told.contains(&"read flotilla.v1.Records/Upsert PermissionDenied".to_owned()));
    assert!(told.iter().all(|line| !line.ends_with("Ok")), "what entered is taken down where it ends");
}

#[test]
fn each_role_includes_the_lesser_ones_and_none_is_a_member() {
    let includes = |role: Role| [Read, Write, Admin, Peer].map(|right| role.rights().include(right));
    assert_eq!(includes(Role::Read), [true, false, false, false]);
    assert_eq!(includes(Role::Write), [true, true, false, false]);
    assert_eq!(includes(Role::Admin), [true, true, true, false]);
    assert!(Role::ALL.iter().all(|role| Role::of(role.name()) == Some(*role)));
    assert_eq!(Role::of("Admin"), None);
}

#[test]
fn a_grant_holds_for_the_collections_that_it_names() {
    let mut caller = only(Role::Read, &["docs", "logs-*"]);
    caller.grants.extend(only(Role::Write, &["docs"]).grants);
    for (right, name, is_granted) in [
        (Read, "docs", true),
        (Read, "logs-", true),
        (Read, "logs-1", true),
        (Read, "logs", false),
        (Read, "docs2", false),
        (Read, "", false),
        (Write, "docs", true),
        (Write, "logs-1", false),
        (Admin, "docs", false),
    ] {
        assert_eq!(caller.check(right, Some(name)).is_ok(), is_granted, "{right:?} on {name}");
    }
    assert!(caller.check(Read, None).is_err() && !caller.sees_all(Read) && caller.has(Write));
    let whole = Caller::whole("x", Rights::DATA);
    assert!(whole.check(Admin, None).is_ok() && whole.check(Admin, Some("any")).is_ok());
}
