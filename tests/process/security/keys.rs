//! API keys and tokens: every public method by every kind of caller, keys that change, and what is written about it.

use std::collections::BTreeMap;

use flotilla_proto::access::{RULES, Right};
use flotilla_proto::v1;
use flotilla_tests::api::{self, Api};
use flotilla_tests::wait::eventually;
use flotilla_tests::{http, rpc};
use prost::Message as _;
use tonic::Code;

use super::*;

/// Each public method: by whom it is admitted, of those who read, write and administer `docs`.
const TABLE: &[(&str, [bool; 3])] = &[
    ("flotilla.v1.Cluster/Apply", ADMIN),
    ("flotilla.v1.Cluster/Control", ADMIN),
    ("flotilla.v1.Cluster/Describe", ALL),
    ("flotilla.v1.Cluster/Moves", ALL),
    ("flotilla.v1.Cluster/Plan", ADMIN),
    ("flotilla.v1.Cluster/Scale", ADMIN),
    ("flotilla.v1.Cluster/Status", ALL),
    ("flotilla.v1.Cluster/Usage", ALL),
    ("flotilla.v1.Cluster/Verify", ADMIN),
    ("flotilla.v1.Cluster/Watch", ALL),
    ("flotilla.v1.Collections/Create", ADMIN),
    ("flotilla.v1.Collections/Delete", ADMIN),
    ("flotilla.v1.Collections/Get", ALL),
    ("flotilla.v1.Collections/List", ALL),
    ("flotilla.v1.Collections/Update", ADMIN),
    ("flotilla.v1.Records/Aggregate", ALL),
    ("flotilla.v1.Records/Count", ALL),
    ("flotilla.v1.Records/Delete", WRITERS),
    ("flotilla.v1.Records/Get", ALL),
    ("flotilla.v1.Records/Patch", WRITERS),
    ("flotilla.v1.Records/Replace", WRITERS),
    ("flotilla.v1.Records/Scan", ALL),
    ("flotilla.v1.Records/ScanStream", ALL),
    ("flotilla.v1.Records/Upsert", WRITERS),
    ("flotilla.v1.Records/UpsertStream", WRITERS),
    ("flotilla.v1.Search/Search", ALL),
];
const ALL: [bool; 3] = [true, true, true];
const WRITERS: [bool; 3] = [false, true, true];
const ADMIN: [bool; 3] = [false, false, true];

/// Methods about no single collection: whoever sees any may call these, and is shown what it may see.
const SEEN: &[&str] = &[
    "flotilla.v1.Cluster/Describe",
    "flotilla.v1.Cluster/Moves",
    "flotilla.v1.Cluster/Status",
    "flotilla.v1.Cluster/Usage",
    "flotilla.v1.Cluster/Watch",
    "flotilla.v1.Collections/List",
];
/// Methods about the cluster: only who may do something to everything.
const WHOLE: &[&str] = &[
    "flotilla.v1.Cluster/Apply",
    "flotilla.v1.Cluster/Control",
    "flotilla.v1.Cluster/Plan",
    "flotilla.v1.Cluster/Scale",
];

/// A message about the collection `docs`, that changes nothing.
fn message(method: &str) -> Vec<u8> {
    let named = v1::GetCollectionRequest { name: "docs".to_owned() };
    match method {
        // Not one that is there: the caller who may is not refused.
        "flotilla.v1.Collections/Delete" => {
            v1::DeleteCollectionRequest { name: "docs-no-more".to_owned() }.encode_to_vec()
        }
        "flotilla.v1.Collections/Create" => {
            let spec = Some(api::collection("docs", 4, vec![]));
            v1::CreateCollectionRequest { spec }.encode_to_vec()
        }
        _ if SEEN.contains(&method) || WHOLE.contains(&method) => vec![],
        // The collection is the first field of all others.
        _ => named.encode_to_vec(),
    }
}

/// The code of a call, `Ok` for what is served, whatever it says then.
async fn code(api: &Api, method: &str, key: Option<&str>) -> Code {
    let silent = Duration::from_millis(500);
    let answer = rpc::call_as(&api.channel(), method, message(method), key, silent).await;
    match answer.map_err(|status| status.code()) {
        Err(code @ (Code::Unauthenticated | Code::PermissionDenied)) => code,
        Err(Code::Internal | Code::Unknown | Code::Cancelled | Code::Unavailable) => Code::Internal,
        _ => Code::Ok,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_public_method_admits_whom_the_table_says_and_nobody_else() {
    let dir = crate::folder();
    let file = dir.path().join("keys.json");
    let new = |name: &str, grants: &[&str], more: &[&str]| key(&file, name, grants, more);
    let (read, write) = (new("r", &["read:docs*"], &[]), new("w", &["write:docs*"], &[]));
    let (admin, whole) = (new("a", &["admin:docs*"], &[]), new("ops", &["admin"], &[]));
    let (other, gone) = (new("o", &["admin:other"], &[]), new("gone", &["admin"], &[]));
    let expired = new("old", &["admin"], &["--days", "0"]);
    done(&["keys", "revoke", "--file", utf8(&file), "gone"]);
    let wrong =
        format!("{}{}", &whole[..whole.len() - 4], if whole.ends_with("0000") { "1111" } else { "0000" });
    let server = Process::up(dir.path(), &format!("security:\n  api_keys_file: {}\n", utf8(&file)));

    let ops = client(&server.url(), Some(&whole), None).await.unwrap();
    for name in ["docs", "other"] {
        let api = Api::connect(&server.url()).await.unwrap();
        let spec = v1::CreateCollectionRequest { spec: Some(api::collection(name, 4, vec![])) };
        let channel = api.channel();
        let (method, whole) = ("flotilla.v1.Collections/Create", Some(whole.as_str()));
        rpc::call_as(&channel, method, spec.encode_to_vec(), whole, CALL_WITHIN).await.unwrap();
    }

    let api = Api::connect(&server.url()).await.unwrap();
    let table: BTreeMap<&str, [bool; 3]> = TABLE.iter().copied().collect();
    let public: Vec<String> =
        rpc::methods().unwrap().into_iter().filter(|name| name.starts_with("flotilla.v1.")).collect();
    assert_eq!(public.len(), table.len(), "{public:?}");
    let mut failed = Vec::new();
    for method in &public {
        let Some([reads, writes, administers]) = table.get(method.as_str()) else {
            failed.push(format!("{method} has no row"));
            continue;
        };
        let granted = |is_granted: bool| if is_granted { Code::Ok } else { Code::PermissionDenied };
        let (is_seen, is_whole) = (SEEN.contains(&method.as_str()), WHOLE.contains(&method.as_str()));
        for (who, key, expected) in [
            ("nobody", None, Code::Unauthenticated),
            ("a wrong key", Some(&wrong), Code::Unauthenticated),
            ("an expired key", Some(&expired), Code::Unauthenticated),
            ("a revoked key", Some(&gone), Code::Unauthenticated),
            ("read", Some(&read), granted(*reads)),
            ("write", Some(&write), granted(*writes)),
            ("admin", Some(&admin), granted(*administers && !is_whole)),
            ("admin of all", Some(&whole), Code::Ok),
            ("admin of another collection", Some(&other), granted(is_seen)),
        ] {
            let got = code(&api, method, key.map(String::as_str)).await;
            if got != expected {
                failed.push(format!("{method} by {who}: expected {expected:?}, got {got:?}"));
            }
        }
    }
    for (method, right) in RULES.iter().filter(|(_, right)| *right == Right::Open) {
        if code(&api, method, None).await != Code::Ok {
            failed.push(format!("{method} ({right:?}) takes credentials"));
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), public.len() * 9, failed.join("\n"));

    // What a caller may not see is not listed, and its absence looks like its presence.
    let others = client(&server.url(), Some(&other), None).await.unwrap();
    let names: Vec<String> =
        others.list_collections().await.unwrap().into_iter().map(|c| c.spec.name).collect();
    assert_eq!(names, ["other"]);
    let (map, _) = others.describe().await.unwrap();
    assert_eq!(map.collections.iter().map(|c| c.spec.name.as_str()).collect::<Vec<_>>(), ["other"]);
    let hidden = others.count("docs", None).await.unwrap_err();
    let absent = others.count("nowhere", None).await.unwrap_err();
    assert_eq!(hidden.to_string().replace("docs", "nowhere"), absent.to_string());
    assert_eq!(ops.list_collections().await.unwrap().len(), 2);

    // Commands take the key from a file or from the environment.
    put(dir.path(), "key", &read);
    let to = server.url();
    let listed = done(&["collections", "list", "--to", &to, "--api-key-file", utf8(&dir.path().join("key"))]);
    assert!(listed.contains("docs") && !listed.contains("other"), "{listed}");
    let counted = run(keyed(&["count", "--to", &to, "--collection", "docs"], &read)).unwrap();
    assert_eq!(counted.code, Some(0), "{counted:?}");
    let without = refused(&["count", "--to", &to, "--collection", "docs"]);
    assert!(without.contains("credentials are needed"), "{without}");
    server.terminate();
    server.drained();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_change_without_a_restart_and_nothing_tells_a_secret() {
    let dir = crate::folder();
    let (file, audit) = (dir.path().join("keys.json"), dir.path().join("audit.jsonl"));
    let (ops, app) = (key(&file, "ops", &["admin"], &[]), key(&file, "app", &["read"], &[]));
    let token_secret = "canary-0123456789abcdef-0123456789";
    let tokens = put(dir.path(), "hs", token_secret);
    let settings = format!(
        "security:\n  api_keys_file: {}\n  audit_file: {}\n  metrics_open: false\n  jwt:\n    hs_secret_file: {}\n    \
         audience: flotilla\n",
        utf8(&file),
        utf8(&audit),
        utf8(&tokens)
    );
    let server = Process::up(dir.path(), &settings);
    let api = Api::connect(&server.url()).await.unwrap();
    let list = async |key: &str| code(&api, "flotilla.v1.Collections/List", Some(key)).await;
    let seen = async |what: &str, key: &str, expected: Code| {
        let seen = async || (list(key).await == expected).then_some(());
        eventually(what, SEEN_WITHIN, seen).await.unwrap();
    };
    assert_eq!((list(&ops).await, list(&app).await), (Code::Ok, Code::Ok));
    let by_token = token(token_secret, "read");
    assert_eq!(list(&by_token).await, Code::Ok);
    assert_eq!(list(&token("another-secret-of-32-bytes-or-more", "read")).await, Code::Unauthenticated);

    let next = key(&file, "app", &["read"], &[]);
    seen("the new key is taken", &next, Code::Ok).await;
    assert_eq!(list(&app).await, Code::Ok, "two keys of one name hold at once");
    let id = app.split('_').nth(1).unwrap();
    done(&["keys", "revoke", "--file", utf8(&file), id]);
    seen("the old key is refused", &app, Code::Unauthenticated).await;
    assert_eq!(list(&next).await, Code::Ok);

    // A damaged file changes nothing, and is counted.
    let good = std::fs::read(&file).unwrap();
    put(dir.path(), "keys.json", "{\"version\":1,\"keys\":[{\"canary-broken\":1}]}");
    let failures = "flotilla_security_reload_failures_total{what=\"keys\"} 1";
    let (address, admin) = (server.address(), ops.clone());
    let page = async || {
        let admin = admin.clone();
        let got = tokio::task::spawn_blocking(move || metrics_as(address, &admin)).await.unwrap();
        Some(got).filter(|page| page.contains(failures))
    };
    let page = eventually("the damaged file is counted", SEEN_WITHIN, page).await.unwrap();
    assert_eq!((list(&ops).await, list(&app).await), (Code::Ok, Code::Unauthenticated));
    put(dir.path(), "keys.json", good);
    for open in ["/livez", "/readyz"] {
        assert_eq!(http::get(address, open).unwrap().status, 200);
    }
    assert_eq!(http::get(address, "/metrics").unwrap().status, 401);

    let made =
        run(keyed(&["collections", "delete", "nothing", "--yes", "--to", &server.url()], &ops)).unwrap();
    assert!(made.code == Some(1) && made.stderr.contains("nothing"), "{made:?}");
    server.terminate();
    let log = server.drained();
    let written = std::fs::read_to_string(&audit).unwrap();
    let deletion =
        written.lines().find(|line| line.contains("flotilla.v1.Collections/Delete")).expect(&written);
    assert!(deletion.contains("(ops)") && deletion.contains("\"nothing\"") && deletion.contains("NotFound"));
    assert!(written.contains("Unauthenticated"), "{written}");
    let shown = done(&["config", "show", "--config", utf8(&dir.path().join("flotilla.yaml"))]);
    let kept = std::fs::read_to_string(&file).unwrap();
    let texts = [
        ("the log", log.as_str()),
        ("the audit log", written.as_str()),
        ("config show", shown.as_str()),
        ("the metrics", page.as_str()),
        ("the file of keys", kept.as_str()),
    ];
    hold_no_secret(&texts, &[&ops, &app, &next, token_secret, &by_token, "canary"]);
}

/// A token by HS256.
fn token(secret: &str, role: &str) -> String {
    let exp = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1_000;
    let claims = format!(r#"{{"sub":"ann","role":"{role}","aud":"flotilla","exp":{exp}}}"#);
    let text = format!("{}.{}", base64(br#"{"alg":"HS256","typ":"JWT"}"#), base64(claims.as_bytes()));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.as_bytes());
    format!("{text}.{}", base64(ring::hmac::sign(&key, text.as_bytes()).as_ref()))
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        let digits = (0..=group.len()).map(|at| (bits >> (18 - 6 * at)) as usize & 63);
        text.extend(digits.map(|digit| char::from(DIGITS[digit])));
    }
    text
}

/// `/metrics`, asked for with a key.
fn metrics_as(address: SocketAddr, key: &str) -> String {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(CALL_WITHIN)).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\nHost: {address}\r\napi-key: {key}\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}
