//! Any method by its name, with bytes for a message: for tests that walk all methods there are.

use std::time::Duration;

use anyhow::Context as _;
use flotilla_proto::DESCRIPTORS;
use prost::Message as _;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

/// Every method of the descriptors, as `package.Service/Method`.
///
/// # Errors
/// If the descriptors cannot be read.
pub fn methods() -> anyhow::Result<Vec<String>> {
    let files = prost_types::FileDescriptorSet::decode(DESCRIPTORS).context("the descriptors")?.file;
    let mut methods = Vec::new();
    for file in &files {
        for service in &file.service {
            let path = |name: &str| format!("{}.{}/{name}", file.package(), service.name());
            methods.extend(service.method.iter().map(|method| path(method.name())));
        }
    }
    Ok(methods)
}

/// Calls a method with one message, and gives the first message of its answer; a stream that ends without one gives
/// nothing, and one that says nothing for so long, too.
///
/// # Errors
/// The server's refusal, or the connection's end.
pub async fn call(
    channel: &Channel,
    method: &str,
    message: Vec<u8>,
    within: Duration,
) -> Result<Option<Vec<u8>>, Status> {
    call_as(channel, method, message, None, within).await
}

/// The same, by a caller who shows this key.
///
/// # Errors
/// The server's refusal, or the connection's end.
pub async fn call_as(
    channel: &Channel,
    method: &str,
    message: Vec<u8>,
    key: Option<&str>,
    within: Duration,
) -> Result<Option<Vec<u8>>, Status> {
    let path = PathAndQuery::try_from(format!("/{method}")).map_err(|e| Status::internal(e.to_string()))?;
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let mut request = Request::new(futures::stream::iter([message]));
    if let Some(key) = key {
        let key = format!("Bearer {key}").parse();
        request.metadata_mut().insert("authorization", key.map_err(|_| Status::internal("no header"))?);
    }
    let first = async {
        let answer = grpc.streaming(request, path, Bytes).await?;
        answer.into_inner().message().await
    };
    match tokio::time::timeout(within, first).await {
        Ok(Err(late)) if late.code() == Code::DeadlineExceeded => Ok(None),
        Ok(answer) => answer,
        Err(_) => Ok(None),
    }
}

/// Messages as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes;

impl Codec for Bytes {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Bytes;
    type Decoder = Bytes;

    fn encoder(&mut self) -> Bytes {
        Bytes
    }

    fn decoder(&mut self) -> Bytes {
        Bytes
    }
}

impl Encoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(into, &message);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let mut message = vec![0; bytes::Buf::remaining(from)];
        bytes::Buf::copy_to_slice(from, &mut message);
        Ok(Some(message))
    }
}
