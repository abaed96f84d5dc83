use std::collections::BTreeSet;
use std::convert::Infallible;
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

    fn call(&mut self, _: http::Request<()>) -> Self::Future {
        std::future::ready(Ok(http::Response::new("accepted".to_owned())))
    }
}

/// The answer's body and its gRPC status, if it has one.
fn knock(path: &str, caller: Rights) -> (String, Option<Code>) {
    let mut gate = Gate::new(Behind, caller);
    let request = http::Request::builder().uri(path).body(()).unwrap();
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
