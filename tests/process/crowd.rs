//! Too many connections, slow ones, silent ones and malicious ones: a client that asks all the time goes on being answered,
//! memory stays within a bound, and every refusal is a status with advice. And limits that change while the server runs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use flotilla_proto::v1;
use flotilla_proto::v1::records_client::RecordsClient;
use flotilla_tests::api::{self, Api};
use flotilla_tests::http;
use flotilla_tests::seed::unit_vector;
use flotilla_tests::server::Server;
use flotilla_tests::wait::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::transport::Endpoint;
use tonic::{Code, Status};

const SOON: Duration = Duration::from_secs(120);
const RECORDS: u64 = 1_000;
const PLACES: usize = 40;
/// What the process may take beyond what it has at rest: answers that wait, at most, and room for everything else.
const MEMORY_MAX_KB: u64 = (256 << 10) + (128 << 10);
/// Each attack goes on until so many others were served.
const SERVED_MEANWHILE: usize = 1_000;
/// What may come over a connection of those who do not read: less than an answer.
const UNREAD_MAX: u32 = 65_535;
/// The preface and empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

fn settings(dir: &Path, text: &str) -> String {
    let file = dir.join("flotilla.yaml");
    std::fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// Bounds under which a test need not wait for long.
fn short(places: usize) -> String {
    format!(
        "server:\n  max_connections: {places}\n  connection_timeout_ms: 500\n  keep_alive_ms: 500\n  stream_idle_ms: 1000\n"
    )
}

async fn filled(client: &Api) {
    let spec = Some(api::collection("crowd", 4, vec![]));
    client.create(v1::CreateCollectionRequest { spec }).await.unwrap();
    let text = "x".repeat(1_000);
    for batch in 0..RECORDS / 500 {
        let record = |n: u64| {
            api::record(api::number_key(n), unit_vector(n, 4), vec![("text", api::text(text.as_str()))])
        };
        client.put("crowd", (batch * 500..(batch + 1) * 500).map(record).collect()).await.unwrap();
    }
}

/// A client that asks all the time. Each answer has to be there, whatever else happens.
struct Canary {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    asking: tokio::task::JoinHandle<Vec<Duration>>,
}

impl Canary {
    fn sings(client: &Api) -> Canary {
        let (client, is_over, answered) =
            (client.clone(), Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let (over, count) = (is_over.clone(), answered.clone());
        let asking = tokio::spawn(async move {
            let mut times = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let keys = vec![api::number_key(times.len() as u64 % RECORDS)];
                let began = Instant::now();
                let request = v1::GetRequest { collection: "crowd".into(), keys, ..Default::default() };
                let answer = client.get(request).await.unwrap_or_else(|why| panic!("the canary: {why}"));
                times.push(began.elapsed());
                count.fetch_add(1, Ordering::Relaxed);
                assert_eq!(answer.records.len(), 1);
            }
            times
        });
        Canary { is_over, answered, asking }
    }

    /// Whether it was answered often enough to tell a hundredth of its answers; or died.
    fn has_sung(&self) -> bool {
        self.answered.load(Ordering::Relaxed) >= SERVED_MEANWHILE || self.asking.is_finished()
    }

    /// How often it was answered meanwhile, and within which time all but a hundredth of the answers came.
    async fn ends(self, during: &str) -> (usize, Duration) {
        self.is_over.store(true, Ordering::Relaxed);
        let mut times = self.asking.await.unwrap();
        times.sort_unstable();
        let p99 = times.get(times.len().saturating_sub(1) * 99 / 100).copied().unwrap_or_default();
        println!("{during}: {} answers, p99 {p99:?}", times.len());
        (times.len(), p99)
    }
}

fn memory_kb(server: &Server) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// The sum of a metric's lines whose labels hold these words.
fn metric(server: &Server, name: &str, words: &[&str]) -> u64 {
    let page = http::get(server.address(), "/metrics").unwrap();
    let lines =
        page.body.lines().filter(|line| line.starts_with(name) && words.iter().all(|w| line.contains(w)));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
}

/// Dials, says that, and reads until the server ends it.
async fn ended(address: SocketAddr, say: impl AsRef<[u8]>) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    let _ = stream.write_all(say.as_ref()).await;
    let mut sink = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut sink)).await;
    // With an error, too.
    let _ = read
        .unwrap_or_else(|_| panic!("nobody ended what began with {:?}", say.as_ref().first_chunk::<16>()));
}

/// Says a byte at a time until nobody listens any more.
async fn drips(address: SocketAddr, say: &'static [u8]) {
    let Ok(mut stream) = TcpStream::connect(address).await else { return };
    let began = Instant::now();
    for byte in say.iter().cycle() {
        if stream.write_all(&[*byte]).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        assert!(began.elapsed() < SOON, "nobody ended what came a byte at a time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Opens streams over a connection that lets little come unread, and never reads the first of them: what came of it soon is all
/// that may come, and the others get no more, until the server ends the connection.
async fn stares(url: String, streams: usize) {
    let endpoint = Endpoint::from_shared(url).unwrap();
    let Ok(channel) = endpoint.initial_connection_window_size(UNREAD_MAX).connect().await else { return };
    let mut open = Vec::new();
    for _ in 0..streams {
        let request =
            v1::ScanRequest { collection: "crowd".into(), with_payload: true, ..Default::default() };
        match RecordsClient::new(channel.clone()).scan_stream(request).await {
            Ok(stream) => open.push(stream.into_inner()),
            Err(why) => assert!(is_advice(&why), "{why:?}"),
        }
    }
    for stream in open.iter_mut().skip(1) {
        while let Ok(Some(_)) = stream.message().await {}
    }
}

/// A refusal that says what to do, or a connection that was closed.
fn is_advice(why: &Status) -> bool {
    match why.code() {
        Code::ResourceExhausted => why.message().contains("try again in"),
        code => matches!(code, Code::Unavailable | Code::Cancelled | Code::Unknown | Code::Internal),
    }
}

/// Calls that are given up at once, in one connection.
fn resets(calls: u32) -> Vec<u8> {
    let mut head = vec![0x83, 0x86, 0x41, 1, b'p'];
    for (name, value) in [(0x04_u8, "/flotilla.v1.Records/Get"), (0x0f, "application/grpc")] {
        head.push(name);
        // The name of the second is number 31 of the table: 15 and 16 more.
        if name == 0x0f {
            head.push(16);
        }
        head.push(value.len() as u8);
        head.extend_from_slice(value.as_bytes());
    }
    let mut bytes = HELLO.to_vec();
    for call in 0..calls {
        let id = (2 * call + 1).to_be_bytes();
        bytes.extend_from_slice(&[0, 0, head.len() as u8, 1, 4]);
        bytes.extend_from_slice(&id);
        bytes.extend_from_slice(&head);
        bytes.extend_from_slice(&[0, 0, 4, 3, 0]);
        bytes.extend_from_slice(&id);
        bytes.extend_from_slice(&[0, 0, 0, 8]);
    }
    bytes
}

/// A wave of them; it ends when the server has ended all of its connections.
fn attackers(attack: &str, server: &Server) -> JoinSet<()> {
    let (address, mut crowd) = (server.address(), JoinSet::new());
    match attack {
        "more than there are places" => {
            for _ in 0..10 * PLACES {
                // A byte, for which the system asks again: who says nothing is not told if the listener had no place for it.
                crowd.spawn(ended(address, b"P"));
            }
        }
        "a byte at a time" => {
            for _ in 0..PLACES / 4 {
                crowd.spawn(drips(address, b"GET /livez HTTP/1.1\r\nhost: x\r\nx: y\r\n"));
                crowd.spawn(drips(address, HELLO));
            }
        }
        "nothing is read" => {
            for _ in 0..PLACES / 4 {
                crowd.spawn(stares(server.url(), 16));
            }
        }
        "resets" => {
            let bytes: Arc<[u8]> = resets(20_000).into();
            for _ in 0..4 {
                crowd.spawn(ended(address, bytes.clone()));
            }
        }
        "no pong" => {
            for _ in 0..PLACES / 2 {
                crowd.spawn(ended(address, HELLO));
            }
        }
        other => panic!("nobody knows how to attack by {other}"),
    }
    crowd
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_a_crowd_does_others_are_served() {
    let dir = crate::folder();
    let args = ["--config", &settings(dir.path(), &short(PLACES))];
    let server = Server::start(crate::binary(), &dir.path().join("data"), &args).unwrap();
    let client = server.client().await.unwrap();
    filled(&client).await;
    let canary = Canary::sings(&client);
    eventually("it is served", SOON, async || canary.has_sung().then_some(())).await.unwrap();
    let (_, alone) = canary.ends("at rest").await;
    let at_rest = memory_kb(&server);

    for attack in ["more than there are places", "a byte at a time", "nothing is read", "resets", "no pong"] {
        let canary = Canary::sings(&client);
        let (mut most, began) = (0, Instant::now());
        while most == 0 || !canary.has_sung() {
            assert!(began.elapsed() < SOON, "{attack}: others are served too slowly");
            let mut crowd = attackers(attack, &server);
            while let Some(left) = {
                most = most.max(memory_kb(&server));
                tokio::time::timeout(Duration::from_millis(50), crowd.join_next())
                    .await
                    .unwrap_or(Some(Ok(())))
            } {
                left.unwrap();
            }
        }
        let (answered, p99) = canary.ends(attack).await;
        assert!(answered >= SERVED_MEANWHILE, "{attack}: nobody else was served");
        println!("{attack}: p99 is {:.2} times that at rest", p99.as_secs_f64() / alone.as_secs_f64());
        println!("{attack}: {at_rest} kB at rest, {most} kB at most");
        assert!(most < at_rest + MEMORY_MAX_KB, "{attack}: {at_rest} kB at rest, {most} kB at most");
    }
    assert!(metric(&server, "flotilla_connections_closed_total", &["api", "full"]) > 0);
    assert!(metric(&server, "flotilla_connections_closed_total", &["api", "silent"]) > 0);
    assert!(metric(&server, "flotilla_connections_closed_total", &["api", "stalled"]) > 0);
    assert!(metric(&server, "flotilla_connections_closed_total", &["api", "protocol"]) > 0);
    // Nothing of it stays: there are places, and no answer waits.
    eventually("all are gone", SOON, async || {
        let open = metric(&server, "flotilla_connections{", &["api"]);
        (open <= 2 && metric(&server, "flotilla_answer_bytes_waiting", &[]) == 0).then_some(())
    })
    .await
    .unwrap();
    server.client().await.unwrap().total("crowd", None).await.unwrap();
    let log = server.terminate().unwrap();
    assert!(log.contains("connections are refused"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_idle_connections_cost_little() {
    let dir = crate::folder();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let files: usize = files.split_whitespace().nth(3).unwrap().parse().unwrap();
    // The server has as many files as this process, which other tests need some of.
    let many = 10_000.min((files - 200) * 2 / 3);
    // However long it takes until all are inside, those that came first are not asked meanwhile whether they live.
    let text = format!(
        "server:\n  max_connections: {}\n  connection_timeout_ms: 600000\n  keep_alive_ms: 3600000\n",
        many + 3
    );
    let args = ["--config", &settings(dir.path(), &text)];
    let server = Server::start(crate::binary(), &dir.path().join("data"), &args).unwrap();
    let client = server.client().await.unwrap();
    filled(&client).await;
    let at_rest = memory_kb(&server);
    let canary = Canary::sings(&client);
    let mut idle = Vec::new();
    for _ in 0..many {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        stream.write_all(HELLO).await.unwrap();
        idle.push(stream);
    }
    eventually("all are inside", SOON, async || {
        (metric(&server, "flotilla_connections{", &["api"]) > many as u64).then_some(())
    })
    .await
    .unwrap();
    let (answered, _) = canary.ends("beside idle connections").await;
    assert!(answered > 0);
    // Those beyond are told so.
    let mut inside = Vec::new();
    let refused = eventually("there is no place left", SOON, async || {
        let client = server.client().await.ok()?;
        let asked = client.total("crowd", None).await;
        inside.push(client);
        asked.err()
    });
    let refused = refused.await.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("max_connections") && is_advice(&refused), "{refused}");
    drop(inside);
    let most = memory_kb(&server);
    println!("{many} idle connections: {at_rest} kB before, {most} kB with them");
    // 64 KiB for each.
    assert!(most < at_rest + 64 * many as u64, "{at_rest} kB before, {most} kB with {many} connections");
    drop(idle);
    eventually("all are gone", SOON, async || {
        (metric(&server, "flotilla_connections{", &["api"]) <= 3).then_some(())
    })
    .await
    .unwrap();
    server.terminate().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_change_while_the_server_runs() {
    let dir = crate::folder();
    let file = settings(dir.path(), "server:\n  max_connections: 100\n");
    let server = Server::start(crate::binary(), &dir.path().join("data"), &["--config", &file]).unwrap();
    let client = server.client().await.unwrap();
    filled(&client).await;
    let asked = async || -> Result<u64, Status> {
        server.client().await.map_err(|why| Status::unavailable(why.to_string()))?.total("crowd", None).await
    };
    assert_eq!(asked().await.unwrap(), RECORDS);

    settings(dir.path(), "server:\n  max_connections: 1\n");
    let refused = eventually("nobody else is let in", SOON, async || asked().await.err()).await.unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("max_connections") && is_advice(&refused), "{refused}");
    assert_eq!(client.total("crowd", None).await.unwrap(), RECORDS, "who is inside stays");
    assert!(http::get(server.address(), "/livez").unwrap().body.contains("alive"), "a probe is answered");

    // A file that is not in order changes nothing, and is logged once; so is a key that waits for the next start.
    settings(dir.path(), "server:\n  max_connections: none\n");
    let told = async |what: &str| {
        eventually(what, SOON, async || server.log().contains(what).then_some(())).await.unwrap();
    };
    told("the old one stays in force").await;
    assert_eq!(asked().await.unwrap_err().code(), Code::ResourceExhausted);
    settings(dir.path(), "server:\n  max_connections: 100\nlog:\n  lanes: 8\n");
    eventually("they are let in again", SOON, async || asked().await.ok()).await.unwrap();
    told("takes effect at the next start").await;
    let log = server.terminate().unwrap();
    assert_eq!(log.matches("the old one stays in force").count(), 1, "{log}");
}
