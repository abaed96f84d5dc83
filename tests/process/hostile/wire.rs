//! What is not even a request: messages beyond the bound, nesting beyond the decoder, bytes that are no gRPC.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use flotilla_tests::seed::Seed;
use flotilla_tests::server::Server;
use rand::Rng as _;
use tonic::Code;

use super::OPEN;

const CONNECTIONS: u64 = 60;
const BYTES_MAX: usize = 8192;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A message of more than 64 MiB, and one nested deeper than any decoder follows.
pub(super) async fn too_large(client: &Api) -> Option<String> {
    let large = api::record(api::key("large"), vec![1.0; 4], vec![("x", api::text("x".repeat(65 << 20)))]);
    match client.put(OPEN, vec![large]).await {
        Err(refused)
            if matches!(
                refused.code(),
                Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument
            ) && refused.message().contains("67108864") => {}
        other => return Some(format!("a message of 65 MiB: {other:?}")),
    }
    let deep = (0..400).fold(api::exists("n"), |inner, _| api::not(inner));
    let request = v1::CountRequest { collection: OPEN.to_owned(), filter: Some(deep), read: None };
    match client.count(request).await {
        Err(_) => None,
        Ok(_) => Some("a filter of 400 levels is counted".to_owned()),
    }
}

/// Sends `bytes` and reads whatever comes back, for a moment.
fn throw(server: &Server, bytes: &[u8]) {
    let Ok(mut stream) = TcpStream::connect_timeout(&server.address(), Duration::from_secs(5)) else {
        return;
    };
    let patience = Some(Duration::from_millis(30));
    if stream.set_read_timeout(patience).and(stream.set_write_timeout(patience)).is_ok() {
        // The server may close at any byte.
        let _ = stream.write_all(bytes);
        let _ = stream.read(&mut [0; 1024]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_are_no_grpc_do_not_end_it() {
    let seed = Seed::of("hostile::wire::");
    let dir = crate::folder();
    let server = Server::start(crate::binary(), &dir.path().join("data"), &[]).unwrap();
    let client = server.client().await.unwrap();
    for connection in 0..CONNECTIONS {
        let mut draw = seed.generator(connection);
        let mut bytes: Vec<u8> = match connection % 4 {
            0 => Vec::new(),
            1 => PREFACE.to_vec(),
            2 => b"POST /flotilla.v1.Records/Upsert HTTP/1.1\r\ncontent-type: application/grpc\r\n".to_vec(),
            _ => b"GET /metrics HTTP/1.1\r\n".to_vec(),
        };
        let random = draw.random_range(0..BYTES_MAX);
        bytes.extend((0..random).map(|_| draw.random::<u8>()));
        throw(&server, &bytes);
    }
    throw(&server, &[PREFACE, &frame_too_long()].concat());
    let idle: Vec<TcpStream> = (0..64).filter_map(|_| TcpStream::connect(server.address()).ok()).collect();
    let list = client.list(v1::ListCollectionsRequest {}).await.unwrap();
    assert!(list.collections.is_empty());
    server.client().await.unwrap().list(v1::ListCollectionsRequest {}).await.unwrap();
    drop(idle);
    server.terminate().unwrap();
}

/// A SETTINGS frame that claims 16 MiB.
fn frame_too_long() -> Vec<u8> {
    let mut frame = vec![0xff, 0xff, 0xff, 0x04, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&[0xaa; 4096]);
    frame
}
