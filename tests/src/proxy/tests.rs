use std::net::Ipv4Addr;

use super::*;

const WITHIN: Duration = Duration::from_secs(20);
const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A server, a proxy in front of it, and both ends of one connection through it.
async fn link() -> (Proxy, TcpStream, TcpStream) {
    let server = TcpListener::bind(LOOPBACK).await.unwrap();
    let proxy = Proxy::start(LOOPBACK, server.local_addr().unwrap()).unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(proxy.address()), server.accept());
    (proxy, near.unwrap(), far.unwrap().0)
}

async fn arrives(to: &mut TcpStream, bytes: &[u8]) {
    let mut got = vec![0; bytes.len()];
    tokio::time::timeout(WITHIN, to.read_exact(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, bytes);
}

/// Nothing has arrived, although later bytes of the other way have.
fn is_silent(at: &TcpStream) -> bool {
    matches!(at.try_read(&mut [0; 1]), Err(why) if why.kind() == io::ErrorKind::WouldBlock)
}

#[tokio::test]
async fn bytes_pass_both_ways_and_ends_pass_too() {
    let (_proxy, mut near, mut far) = link().await;
    near.write_all(b"there").await.unwrap();
    arrives(&mut far, b"there").await;
    far.write_all(b"back").await.unwrap();
    arrives(&mut near, b"back").await;
    near.shutdown().await.unwrap();
    assert_eq!(far.read(&mut [0; 1]).await.unwrap(), 0);
    far.write_all(b"still").await.unwrap();
    arrives(&mut near, b"still").await;
}

#[tokio::test]
async fn what_is_held_arrives_after_the_release() {
    let (proxy, mut near, mut far) = link().await;
    proxy.hold(&[Way::There]);
    near.write_all(b"held").await.unwrap();
    far.write_all(b"back").await.unwrap();
    arrives(&mut near, b"back").await;
    assert!(is_silent(&far));
    proxy.release();
    arrives(&mut far, b"held").await;
}

#[tokio::test]
async fn what_is_delayed_arrives_later_and_in_order() {
    let (proxy, mut near, mut far) = link().await;
    let delay = Duration::from_millis(80);
    proxy.delay(delay);
    let begin = Instant::now();
    near.write_all(b"late").await.unwrap();
    arrives(&mut far, b"late").await;
    assert!(begin.elapsed() >= delay);
    near.write_all(b"one").await.unwrap();
    proxy.delay(Duration::ZERO);
    near.write_all(b"two").await.unwrap();
    arrives(&mut far, b"onetwo").await;
}

#[tokio::test]
async fn a_half_closed_link_still_carries_the_other_way() {
    let (proxy, near, mut far) = link().await;
    proxy.half_close(Way::Back);
    let mut near = near;
    assert_eq!(tokio::time::timeout(WITHIN, near.read(&mut [0; 1])).await.unwrap().unwrap(), 0);
    near.write_all(b"there").await.unwrap();
    arrives(&mut far, b"there").await;
}

#[tokio::test]
async fn a_reset_ends_both_sides_and_new_connections_pass() {
    let server = TcpListener::bind(LOOPBACK).await.unwrap();
    let proxy = Proxy::start(LOOPBACK, server.local_addr().unwrap()).unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(proxy.address()), server.accept());
    let (mut near, (mut far, _)) = (near.unwrap(), far.unwrap());
    near.write_all(b"x").await.unwrap();
    arrives(&mut far, b"x").await;
    proxy.reset();
    for end in [&mut near, &mut far] {
        let ended = tokio::time::timeout(WITHIN, end.read(&mut [0; 1])).await.unwrap();
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }
    let (near, far) = tokio::join!(TcpStream::connect(proxy.address()), server.accept());
    near.unwrap().write_all(b"anew").await.unwrap();
    arrives(&mut far.unwrap().0, b"anew").await;
}
