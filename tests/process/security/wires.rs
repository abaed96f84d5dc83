//! TLS at the public API: who is served, and a certificate that changes meanwhile.

use flotilla_tests::api::Api;
use flotilla_tests::wait::eventually;

use super::certificates::Authority;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_is_replaced_without_a_restart_and_plain_text_is_never_served() {
    let dir = crate::folder();
    let folder = dir.path();
    let (first, second) = (Authority::new(folder, "first"), Authority::new(folder, "second"));
    first.sign(folder, "server", None);
    let keys = folder.join("keys.json");
    let ops = key(&keys, "ops", &["admin"], &[]);
    let settings = format!(
        "security:\n  api_keys_file: {}\n  tls:\n    cert_file: {}\n    key_file: {}\n",
        utf8(&keys),
        utf8(&folder.join("server.pem")),
        utf8(&folder.join("server.key"))
    );
    let server = Process::up(folder, &settings);
    let url = server.url();
    assert!(url.starts_with("https://"), "{url}");
    let by = async |authority: &Authority| {
        let connected = client(&url, Some(&ops), Some(&authority.file)).await?;
        connected.list_collections().await.map(|_| connected)
    };
    let old = by(&first).await.unwrap();
    by(&second).await.map(drop).unwrap_err();
    let plain = url.replace("https://", "http://");
    let answered = match Api::connect(&plain).await {
        Ok(api) => api.list(Default::default()).await.is_ok(),
        Err(_) => false,
    };
    assert!(!answered, "plain text is served");
    let ca = utf8(&first.file);
    let listed = run(keyed(&["collections", "list", "--to", &url, "--tls-ca", ca], &ops)).unwrap();
    assert_eq!(listed.code, Some(0), "{listed:?}");
    let unbelieved = run(keyed(&["collections", "list", "--to", &url], &ops)).unwrap();
    assert!(unbelieved.code == Some(1) && unbelieved.stderr.contains("--tls-ca"), "{unbelieved:?}");

    // Damaged: what was there before is shown on.
    put(folder, "server.pem", "no certificate");
    let told = async || server.service.log().contains("damaged").then_some(());
    eventually("the damaged certificate is told", SEEN_WITHIN, told).await.unwrap();
    by(&first).await.unwrap();

    second.sign(folder, "server", None);
    let shown = async || by(&second).await.ok();
    eventually("the new certificate is shown", SEEN_WITHIN, shown).await.unwrap();
    by(&first).await.map(drop).unwrap_err();
    old.list_collections().await.expect("a connection that was there goes on");
    drop(old);
    server.terminate();
    let log = server.drained();
    hold_no_secret(&[("the log", log.as_str())], &[&ops]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_clients_need_certificates_no_call_goes_without_and_probes_do() {
    let dir = crate::folder();
    let folder = dir.path();
    let (ours, theirs) = (Authority::new(folder, "ours"), Authority::new(folder, "theirs"));
    ours.sign(folder, "server", None);
    let (cert, key) = theirs.sign(folder, "ann", None);
    let settings = format!(
        "security:\n  tls:\n    cert_file: {}\n    key_file: {}\n    client_ca_file: {}\n",
        utf8(&folder.join("server.pem")),
        utf8(&folder.join("server.key")),
        utf8(&theirs.file)
    );
    let server = Process::up(folder, &settings);
    let (url, ca) = (server.url(), utf8(&ours.file));
    let with = [
        "collections",
        "list",
        "--to",
        &url,
        "--tls-ca",
        ca,
        "--tls-cert",
        utf8(&cert),
        "--tls-key",
        utf8(&key),
    ];
    done(&with);
    let without = refused(&["collections", "list", "--to", &url, "--tls-ca", ca]);
    assert!(without.contains("a client certificate is needed"), "{without}");
    let half = refused(&["collections", "list", "--to", &url, "--tls-ca", ca, "--tls-cert", utf8(&cert)]);
    assert!(half.contains("go together"), "{half}");
    let probe = client(&url, None, Some(&ours.file)).await.unwrap();
    assert!(probe.health().await.unwrap(), "health takes no credentials");
    server.terminate();
    server.drained();
}

#[test]
fn files_that_are_missing_or_do_not_hold_together_refuse_the_start() {
    let dir = crate::folder();
    let folder = dir.path();
    let authority = Authority::new(folder, "a");
    authority.sign(folder, "one", None);
    authority.sign(folder, "two", None);
    let start = |settings: String| {
        let config = put(folder, "flotilla.yaml", settings);
        let data = folder.join("data");
        refused(&["up", "--data", utf8(&data), "--port", "0", "--config", utf8(&config)])
    };
    let tls = |cert: &str, key: &str| {
        let (cert, key) = (folder.join(cert), folder.join(key));
        format!("security:\n  tls:\n    cert_file: {}\n    key_file: {}\n", utf8(&cert), utf8(&key))
    };
    for (settings, expected) in [
        (tls("one.pem", "two.key"), "security.tls"),
        (tls("none.pem", "one.key"), "none.pem"),
        (tls("one.key", "one.pem"), "security.tls"),
        ("security:\n  tls:\n    cert_file: /x\n".to_owned(), "security.tls.key_file is missing"),
        ("security:\n  api_keys_file: /nowhere/keys\n".to_owned(), "security.api_keys_file"),
        (format!("security:\n  jwt:\n    hs_secret_file: {}\n", utf8(&folder.join("one.pem"))), "audience"),
    ] {
        let said = start(settings.clone());
        assert!(said.contains(expected) && !said.contains("PRIVATE"), "{settings}: {said}");
    }
}
