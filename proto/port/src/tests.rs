use std::net::SocketAddr;

use axum::body::Body;
use axum::http::StatusCode;
use axum::routing::{get, post};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;

const SOON: Duration = Duration::from_secs(30);
const LARGE: usize = 8 << 20;

/// A port with pages: `/livez`; `/large`, an answer of 8 MiB; `/read`, which reads what it is sent; `/slow`, which ends when
/// it is told to.
struct House {
    address: SocketAddr,
    doors: Doors,
    stop: oneshot::Sender<()>,
    go: Arc<Notify>,
    serving: tokio::task::JoinHandle<()>,
}

async fn house(bounds: Bounds) -> House {
    let doors = Doors::new(bounds).unwrap();
    let go = Arc::new(Notify::new());
    let gone = go.clone();
    let read = |body: Body| async {
        match axum::body::to_bytes(body, LARGE).await {
            Ok(bytes) => (StatusCode::OK, bytes.len().to_string()),
            Err(why) => {
                let mut at: Option<&(dyn std::error::Error + 'static)> = Some(&why);
                let mut status: Option<&tonic::Status> = None;
                while let (Some(error), None) = (at, status) {
                    (at, status) = (error.source(), error.downcast_ref());
                }
                let status = status.expect("a status says why");
                (StatusCode::REQUEST_TIMEOUT, status.to_string())
            }
        }
    };
    let slow = move || async move {
        gone.notified().await;
        "slow"
    };
    let routes = axum::Router::new()
        .route("/livez", get(|| async { "alive" }))
        .route("/large", post(|| async { vec![7_u8; LARGE] }))
        .route("/read", post(read))
        .route("/slow", post(slow));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let door = doors.door(Kind::CLIENTS);
    let until = async move {
        let _ = stopped.await;
    };
    let serving = tokio::spawn(async move { door.listen(listener, routes, until).await });
    House { address, doors, stop, go, serving }
}

fn short() -> Bounds {
    let little = Duration::from_millis(100);
    Bounds { connection_timeout: little, stream_idle: little, ..Bounds::default() }
}

impl House {
    async fn dial(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// A connection of HTTP/2, and what becomes of it.
    async fn h2(&self) -> (SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
        let (send, connection) = h2::client::handshake(self.dial().await).await.unwrap();
        (send, tokio::spawn(connection))
    }

    fn closed(&self, reason: &str) -> u64 {
        self.doors.0.closed.with_label_values(&["api", reason]).get()
    }

    fn open(&self) -> i64 {
        self.doors.0.open.with_label_values(&["api"]).get()
    }
}

fn call(path: &str) -> Request<()> {
    let uri = format!("http://port{path}");
    Request::post(uri).header("content-type", "application/grpc").body(()).unwrap()
}

/// What `probe` gives, as soon as it gives something.
async fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let asking = async {
        loop {
            if let Some(found) = probe() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, asking).await.unwrap_or_else(|_| panic!("not within {SOON:?}: {what}"))
}

/// Everything until the other side closes.
async fn rest(mut stream: TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await;
    // A reset is an end too.
    let _ = read.expect("the other side closes");
    String::from_utf8_lossy(&bytes).into_owned()
}

#[tokio::test]
async fn beyond_the_bound_calls_are_told_to_wait_and_pages_are_served() {
    let house = house(Bounds { connections_max: 1, ..Bounds::default() }).await;
    let (mut first, _) = house.h2().await;
    let alive = first.send_request(call("/livez"), true).unwrap().0.await.unwrap();
    assert_eq!(alive.status(), StatusCode::METHOD_NOT_ALLOWED, "it is inside");

    let (mut second, ends) = house.h2().await;
    let refused = second.send_request(call("/livez"), true).unwrap().0.await.unwrap();
    assert_eq!(refused.headers()["grpc-status"], "8");
    assert!(refused.headers()["grpc-message"].to_str().unwrap().contains("max_connections"));
    assert!(refused.headers().contains_key("grpc-status-details-bin"), "with the time to wait");
    tokio::time::timeout(SOON, ends).await.expect("it is closed then").unwrap().unwrap();
    assert_eq!(house.closed("full"), 1);

    let mut probe = house.dial().await;
    probe.write_all(b"GET /livez HTTP/1.1\r\nhost: port\r\n\r\n").await.unwrap();
    let page = rest(probe).await;
    assert!(page.starts_with("HTTP/1.1 200") && page.ends_with("alive"), "{page}");

    // More places take effect for who comes next, and a place that is given back is one.
    house.doors.set(Bounds { connections_max: 2, ..Bounds::default() });
    let (mut third, _) = house.h2().await;
    let inside = third.send_request(call("/livez"), true).unwrap().0.await.unwrap();
    assert_eq!(inside.status(), StatusCode::METHOD_NOT_ALLOWED);
    drop((first, second, third, alive, refused, inside));
    eventually("all places are given back", || (house.open() == 0).then_some(())).await;
}

#[tokio::test]
async fn beyond_those_who_are_answered_connections_are_closed_at_once() {
    let house = house(Bounds { connections_max: 1, ..Bounds::default() }).await;
    let mut inside = house.dial().await;
    inside.write_all(b"GET").await.unwrap();
    eventually("it is inside", || (house.open() == 1).then_some(())).await;
    let mut crowd = Vec::new();
    for _ in 0..OVERFLOW_MAX + 20 {
        crowd.push(house.dial().await);
    }
    eventually("some are closed at once", || (house.closed("flood") >= 20).then_some(())).await;
    assert!(house.open() <= 1 + OVERFLOW_MAX as i64);
    assert_eq!(rest(crowd.pop().unwrap()).await, "");
    eventually("and the others soon", || (house.open() == 1).then_some(())).await;
}

#[tokio::test]
async fn who_says_nothing_is_closed() {
    let house = house(short()).await;
    let silent = house.dial().await;
    let mut dripping = house.dial().await;
    dripping.write_all(b"PRI * HT").await.unwrap();
    assert_eq!(rest(silent).await + &rest(dripping).await, "");
    assert_eq!(house.closed("silent"), 2);
    // A head of HTTP/1 that does not end, and a second one that does not come.
    for head in ["GET /livez HTTP/1.1\r\nhost: port\r\nx: y\r\n", "GET /livez HTTP/1.1\r\nhost: port\r\n\r\n"]
    {
        let mut half = house.dial().await;
        half.write_all(head.as_bytes()).await.unwrap();
        rest(half).await;
    }
    // One that has spoken HTTP/2 may keep silent: it is asked.
    let (mut quiet, _) = house.h2().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(quiet.send_request(call("/livez"), true).unwrap().0.await.is_ok());
}

#[tokio::test]
async fn who_does_not_answer_a_ping_is_closed() {
    let house = house(Bounds { keep_alive: Duration::from_millis(50), ..Bounds::default() }).await;
    let mut mute = house.dial().await;
    // The preface and empty settings, and never a word again.
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    rest(mute).await;
    eventually("its place is given back", || (house.open() == 0).then_some(())).await;
}

#[tokio::test]
async fn who_does_not_take_answers_is_closed_and_nothing_of_them_stays() {
    let house = house(short()).await;
    // The connection is read, the answer is not.
    let (mut send, ends) = house.h2().await;
    let answer = send.send_request(call("/large"), true).unwrap().0.await.unwrap();
    assert!(house.doors.0.waiting.get() > 0);
    let _ = tokio::time::timeout(SOON, ends).await.expect("it is closed").unwrap();
    let mut body = answer.into_body();
    while let Some(Ok(_)) = body.data().await {}
    // Nothing is read at all, by HTTP/1.
    let mut deaf = house.dial().await;
    deaf.write_all(b"POST /large HTTP/1.1\r\nhost: port\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    eventually("it is closed", || (house.closed("stalled") == 2).then_some(())).await;
    eventually("nothing waits", || (house.doors.0.waiting.get() == 0).then_some(())).await;
    eventually("nobody is there", || (house.open() == 0).then_some(())).await;
    assert!(rest(deaf).await.len() < LARGE);
}

#[tokio::test]
async fn who_is_owed_much_is_told_to_take_it_first() {
    let house = house(Bounds::default()).await;
    let (mut send, _) = house.h2().await;
    let mut answers = Vec::new();
    let refused = loop {
        let answer = send.send_request(call("/large"), true).unwrap().0.await.unwrap();
        if answer.headers().contains_key("grpc-status") {
            break answer;
        }
        answers.push(answer);
        assert!(answers.len() < 10, "ten answers of {LARGE} bytes wait");
    };
    assert_eq!(refused.headers()["grpc-status"], "8");
    assert!(refused.headers()["grpc-message"].to_str().unwrap().contains("take"));
    let (mut other, _) = house.h2().await;
    assert_eq!(other.send_request(call("/large"), true).unwrap().0.await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn who_takes_an_answer_in_time_gets_all_of_it() {
    let house = house(Bounds { stream_idle: Duration::from_millis(400), ..Bounds::default() }).await;
    let (mut send, _) = house.h2().await;
    let mut body = send.send_request(call("/large"), true).unwrap().0.await.unwrap().into_body();
    let mut got = 0;
    while let Some(part) = body.data().await {
        let part = part.unwrap();
        got += part.len();
        body.flow_control().release_capacity(part.len()).unwrap();
    }
    assert_eq!(got, LARGE);
    eventually("nothing waits", || (house.doors.0.waiting.get() == 0).then_some(())).await;
    assert_eq!(house.closed("stalled"), 0);
}

#[tokio::test]
async fn a_request_that_says_nothing_more_is_given_up() {
    let house = house(short()).await;
    let (mut send, _) = house.h2().await;
    let (answer, mut body) = send.send_request(call("/read"), false).unwrap();
    body.send_data(Bytes::from_static(b"a little"), false).unwrap();
    let answer = tokio::time::timeout(SOON, answer).await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::REQUEST_TIMEOUT);
    let told = answer.into_body().data().await.unwrap().unwrap();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(told.contains("stream_idle_ms"), "{told}");
    // The connection goes on.
    assert!(send.send_request(call("/livez"), true).unwrap().0.await.is_ok());
}

#[tokio::test]
async fn calls_given_up_in_masses_end_the_connection() {
    let house = house(Bounds::default()).await;
    let mut stream = house.dial().await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for call in 0..5_000_u32 {
        let id = (2 * call + 1).to_be_bytes();
        // POST, http, / and an authority of one letter; then RST_STREAM with CANCEL.
        bytes.extend_from_slice(&[0, 0, 6, 1, 5]);
        bytes.extend_from_slice(&id);
        bytes.extend_from_slice(&[0x83, 0x86, 0x84, 0x41, 1, b'p']);
        bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
        bytes.extend_from_slice(&id);
        bytes.extend_from_slice(&[0, 0, 0, 8]);
    }
    let (mut read, mut write) = stream.split();
    // It may end while we still write.
    let said = async {
        let mut said = Vec::new();
        let _ = read.read_to_end(&mut said).await;
        said
    };
    let (_, said) = tokio::join!(write.write_all(&bytes), tokio::time::timeout(SOON, said));
    let said = said.expect("the connection ends");
    assert!(said.windows(16).any(|frame| frame[3] == 7 && frame[..9].ends_with(&[0; 4])), "{said:?}");
    eventually("its place is given back", || (house.open() == 0).then_some(())).await;
    assert_eq!(house.closed("protocol"), 1);
    // Who comes from there next waits, and is served.
    let (mut send, _) = house.h2().await;
    assert!(send.send_request(call("/livez"), true).unwrap().0.await.is_ok());
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way_and_takes_nothing_more() {
    let house = house(Bounds::default()).await;
    let (mut send, _) = house.h2().await;
    let (answer, _) = send.send_request(call("/slow"), true).unwrap();
    eventually("it is under way", || (house.open() == 1).then_some(())).await;
    send.send_request(call("/livez"), true).unwrap().0.await.unwrap();
    house.stop.send(()).unwrap();
    let address = house.address;
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, refused).await.expect("nobody is let in");
    house.go.notify_one();
    assert_eq!(answer.await.unwrap().status(), StatusCode::OK);
    tokio::time::timeout(SOON, house.serving).await.expect("the port ends").unwrap();
}
