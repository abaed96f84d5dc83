//! Connections: who gets through the door, what its certificate says, and certificates that change meanwhile.

use std::io;
use std::net::SocketAddr;

use flotilla_proto::refusal::Refusal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::codegen::http::Uri;
use tonic::transport::server::Connected as _;
use tower::Service as _;

use super::*;
use crate::tls::{Clients, DialOptions, Dialer, Door, Role, Stream, open};
use crate::{Secret, Trust};

/// Sends back what comes, after the name of who is there; ends with the test.
async fn echo(door: Option<Door>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let door = door.clone();
            tokio::spawn(async move {
                let mut connection = open(socket, door.as_ref()).await?;
                let name = connection
                    .identity()
                    .map_or("-".to_owned(), |who| format!("{} {:?}", who.name, who.role));
                let mut byte = [0];
                while connection.read_exact(&mut byte).await.is_ok() {
                    connection.write_all(format!("{name}\n").as_bytes()).await?;
                    connection.flush().await?;
                }
                io::Result::Ok(())
            });
        }
    });
    address
}

async fn ask(stream: &mut Stream) -> io::Result<String> {
    stream.write_all(b"?").await?;
    stream.flush().await?;
    let mut said = Vec::new();
    while said.last() != Some(&b'\n') {
        said.push(stream.read_u8().await?);
    }
    Ok(String::from_utf8_lossy(&said).trim().to_owned())
}

async fn dial(dialer: &Dialer, to: SocketAddr) -> io::Result<Stream> {
    let uri: Uri = format!("https://{to}").parse().unwrap();
    dialer.clone().call(uri).await.map(hyper_util::rt::TokioIo::into_inner)
}

fn dialer(folder: &Folder, authority: &Authority, own: Option<Pair>) -> Dialer {
    let ca_file = folder.put("authority.pem", &authority.pem);
    Dialer::new(&DialOptions { ca_file, own, expects: None }).unwrap()
}

#[tokio::test]
async fn strangers_and_plain_text_do_not_get_in_and_do_not_hold_up_who_does() {
    let folder = Folder::new();
    let (ours, theirs) = (Authority::new(), Authority::new());
    let own = ours.sign(&folder, "server", None);
    let door = Door::new(&own, &Clients::Required(folder.put("ca.pem", &ours.pem)), metrics()).unwrap();
    let at = echo(Some(door)).await;

    let mut silent = TcpStream::connect(at).await.unwrap();
    let mut plain = TcpStream::connect(at).await.unwrap();
    plain.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let with = |authority: &Authority, own| dialer(&folder, authority, own);
    let client = ours.sign(&folder, "client", Some("flotilla://router"));
    let mut good = dial(&with(&ours, Some(client)), at).await.unwrap();
    assert_eq!(ask(&mut good).await.unwrap(), "client Some(Router)");
    assert!(good.connect_info().remote.is_some());

    // With TLS 1.3 a client learns with its first answer that its certificate is refused.
    let stranger = theirs.sign(&folder, "stranger", None);
    for own in [None, Some(stranger)] {
        let refused = async { ask(&mut dial(&with(&ours, own.clone()), at).await?).await };
        refused.await.unwrap_err();
    }
    let believed = dial(&with(&theirs, None), at).await;
    assert!(believed.unwrap_err().to_string().contains("certificate"));
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest).await;
    assert!(!rest.windows(2).any(|pair| pair == b"- "), "plain text was answered: {rest:?}");
    assert!(silent.try_read(&mut [0]).is_err(), "who says nothing is still in its handshake");
    silent.shutdown().await.unwrap();
    assert_eq!(ask(&mut good).await.unwrap(), "client Some(Router)");
}

#[tokio::test]
async fn a_new_certificate_is_shown_to_new_connections_and_a_damaged_one_to_nobody() {
    let folder = Folder::new();
    let (first, second) = (Authority::new(), Authority::new());
    let own = first.sign(&folder, "server", None);
    let door = Door::new(&own, &Clients::Unasked, metrics()).unwrap();
    let (at, watched, metrics) = (echo(Some(door.clone())).await, door.watched(), metrics());
    let by_first = dialer(&folder, &first, None);
    let mut old = dial(&by_first, at).await.unwrap();
    assert_eq!(ask(&mut old).await.unwrap(), "-");

    folder.put("server.key", "no key");
    watched.refresh(&metrics);
    assert_eq!(metrics.reload_failures("certificates"), 1);
    dial(&by_first, at).await.unwrap();
    // The certificate of one pair and the key of another hold together no more than a damaged file does.
    let pair = second.sign(&folder, "server", None);
    let key = text(&pair.key_file);
    let other = first.sign(&folder, "other", None);
    folder.put("server.key", text(&other.key_file));
    watched.refresh(&metrics);
    dial(&by_first, at).await.unwrap();
    folder.put("server.key", key);
    watched.refresh(&metrics);
    dial(&by_first, at).await.unwrap_err();
    dial(&dialer(&folder, &second, None), at).await.unwrap();
    assert_eq!(ask(&mut old).await.unwrap(), "-", "a connection that was there goes on");
}

#[tokio::test]
async fn who_dials_a_node_wants_a_node() {
    let folder = Folder::new();
    let authority = Authority::new();
    let ca_file = folder.put("ca.pem", &authority.pem);
    let node = DialOptions { ca_file, own: None, expects: Some(Role::Node) };
    for (uri, is_node) in [(Some("flotilla://node"), true), (Some("flotilla://router"), false), (None, false)]
    {
        let door = Door::new(&authority.sign(&folder, "x", uri), &Clients::Unasked, metrics()).unwrap();
        let at = echo(Some(door)).await;
        assert_eq!(dial(&Dialer::new(&node).unwrap(), at).await.is_ok(), is_node, "{uri:?}");
    }
    let plain = echo(None).await;
    assert!(dial(&Dialer::new(&node).unwrap(), plain).await.is_err());
}

/// What a port of nodes says to a call with this key over a connection of this identity.
fn member(
    trust: &Trust,
    key: Option<&str>,
    identity: Option<(&str, Option<Role>)>,
) -> Result<String, Refusal> {
    let mut headers = HeaderMap::new();
    if let Some(key) = key {
        headers.insert("authorization", HeaderValue::from_str(&format!("Bearer {key}")).unwrap());
    }
    let identity =
        identity.map(|(name, role)| Arc::new(crate::tls::Identity { name: name.to_owned(), role }));
    let mut extensions = Extensions::new();
    extensions.insert(crate::tls::Connection { remote: None, identity });
    trust.nodes().unwrap().caller(&headers, &extensions).map(|caller| caller.name.clone())
}

#[tokio::test]
async fn members_show_what_is_configured_and_all_of_it() {
    let folder = Folder::new();
    let authority = Authority::new();
    let one = "cluster-key-one-0123";
    let keys = Trust::key(folder.put("key", format!("{one}\ncluster-key-two-0123"))).unwrap();
    let dialer = dialer(&folder, &authority, Some(authority.sign(&folder, "n1", Some("flotilla://node"))));
    let recorder = || Recorder::new(None, metrics());
    assert!(Trust::default().nodes().is_none() && Trust::new(None, None, recorder()).nodes().is_none());

    let by_key = Trust::new(Some(keys.clone()), None, recorder());
    assert_eq!(member(&by_key, Some("cluster-key-two-0123"), None).unwrap(), "member");
    for wrong in [None, Some(""), Some("cluster-key-one-012"), Some("cluster-key-one-01234"), Some("x")] {
        assert!(matches!(member(&by_key, wrong, None), Err(Refusal::Unauthenticated(_))), "{wrong:?}");
    }
    let (node, router) = (Some(("n2", Some(Role::Node))), Some(("r1", Some(Role::Router))));
    let by_both = Trust::new(Some(keys), Some(dialer.clone()), recorder());
    assert_eq!(member(&by_both, Some(one), node).unwrap(), "member n2");
    assert!(matches!(member(&by_both, Some(one), None), Err(Refusal::Unauthenticated(_))));
    assert!(matches!(member(&by_both, None, node), Err(Refusal::Unauthenticated(_))));
    let by_certificate = Trust::new(None, Some(dialer), recorder());
    assert_eq!(member(&by_certificate, None, node).unwrap(), "member n2");
    for other in [router, Some(("client", None))] {
        assert!(matches!(member(&by_certificate, None, other), Err(Refusal::Denied(_))), "{other:?}");
    }
    assert_eq!(by_certificate.url("h:1"), "https://h:1");
    assert_eq!(by_key.url("h:1"), "http://h:1");
    assert!(!format!("{by_key:?} {:?}", Secret::new(one.to_owned())).contains(one));
}
