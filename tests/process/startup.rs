//! What keeps a server from starting is one line on standard error and exit code 1, and harms nobody else.

use std::net::TcpListener;
use std::path::Path;

use flotilla_proto::v1;
use flotilla_tests::api;
use flotilla_tests::process::{Finished, command, run};
use flotilla_tests::server::Server;

/// Starts `flotilla up` with these arguments, which must be refused; returns the line.
fn refused(args: &[&str]) -> String {
    let mut up = vec!["up"];
    up.extend(args);
    let Finished { code, stdout, stderr } = run(command(crate::binary(), &up)).unwrap();
    assert_eq!(code, Some(1), "{args:?}\nstdout: {stdout}\nstderr: {stderr}");
    assert!(stdout.is_empty(), "{args:?} said {stdout}");
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "{args:?} said not one line:\n{stderr}");
    for noise in ["panicked", "backtrace", "Os {", "Error(", "unwrap"] {
        assert!(!stderr.contains(noise), "{args:?} shows its inside: {stderr}");
    }
    lines[0].to_owned()
}

fn holds(line: &str, words: &[&str]) {
    for word in words {
        assert!(line.contains(word), "the line lacks {word:?}: {line}");
    }
}

fn utf8(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The settings, which must be refused.
fn refused_settings(text: &str) -> String {
    let dir = crate::folder();
    let file = dir.path().join("flotilla.yaml");
    std::fs::write(&file, text).unwrap();
    let data = dir.path().join("data");
    let line = refused(&["--data", utf8(&data), "--port", "0", "--config", utf8(&file)]);
    assert!(!data.exists(), "a folder was made before the settings were read");
    line
}

#[test]
fn bad_settings_are_named_with_their_line() {
    holds(&refused_settings("storage: [unclosed\n"), &["flotilla.yaml", "not YAML"]);
    holds(
        &refused_settings("storage:\n  seal_row: 100\n"),
        &["flotilla.yaml:2", "seal_row", "storage.seal_rows"],
    );
    holds(&refused_settings("log:\n  lanes: 0\n"), &["flotilla.yaml:2", "log.lanes", "1 to 256", "got 0"]);
    holds(&refused_settings("storage:\n  sync: maybe\n"), &["storage.sync", "true | false", "maybe"]);
    holds(
        &refused_settings("replication:\n  role: slave\n"),
        &["replication.role", "master | replica", "slave"],
    );
    holds(&refused_settings("7\n"), &["expected keys"]);
    let dir = crate::folder();
    let missing = dir.path().join("missing.yaml");
    let line = refused(&["--data", utf8(&dir.path().join("data")), "--config", utf8(&missing)]);
    holds(&line, &["--config", "missing.yaml"]);
}

#[test]
fn a_bind_beyond_this_machine_needs_consent() {
    let dir = crate::folder();
    let line = refused(&["--data", utf8(dir.path()), "--port", "0", "--bind", "0.0.0.0"]);
    holds(&line, &["0.0.0.0", "--insecure-bind"]);
}

#[test]
fn no_folder_named_is_refused() {
    holds(&refused(&["--port", "0"]), &["--data"]);
}

#[test]
fn a_port_in_use_is_told_before_a_folder_is_made() {
    let dir = crate::folder();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let data = dir.path().join("data");
    let line = refused(&["--data", utf8(&data), "--port", &port]);
    holds(&line, &["port", &port, "in use"]);
    assert!(!data.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_in_use_is_refused_and_its_user_goes_on() {
    let dir = crate::folder();
    let data = dir.path().join("data");
    let server = Server::start(crate::binary(), &data, &[]).unwrap();
    let client = server.client().await.unwrap();
    let spec = api::collection("c", 2, vec![]);
    client.create(v1::CreateCollectionRequest { spec: Some(spec) }).await.unwrap();
    let line = refused(&["--data", utf8(&data), "--port", "0"]);
    holds(&line, &[utf8(&data), "in use by another process"]);
    let record = api::record(api::key("k"), vec![1.0, 0.0], vec![]);
    client.put("c", vec![record]).await.unwrap();
    server.terminate().unwrap();
    let server = Server::start(crate::binary(), &data, &[]).unwrap();
    assert_eq!(server.client().await.unwrap().total("c", None).await.unwrap(), 1);
    server.terminate().unwrap();
}

#[test]
fn a_folder_of_a_newer_format_is_left_alone() {
    let dir = crate::folder();
    let data = dir.path().join("data");
    Server::start(crate::binary(), &data, &[]).unwrap().terminate().unwrap();
    let file = data.join("NODE");
    let identity = std::fs::read_to_string(&file).unwrap();
    assert!(identity.starts_with("format 2\n"), "{identity}");
    std::fs::write(&file, identity.replacen("format 2\n", "format 99\n", 1)).unwrap();
    let line = refused(&["--data", utf8(&data), "--port", "0"]);
    holds(&line, &[utf8(&data), "99", "newer"]);
    std::fs::write(&file, &identity).unwrap();
    Server::start(crate::binary(), &data, &[]).unwrap().terminate().unwrap();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), identity, "the node's identity changed");
}

#[test]
fn a_damaged_identity_is_not_replaced() {
    let dir = crate::folder();
    let data = dir.path().join("data");
    Server::start(crate::binary(), &data, &[]).unwrap().terminate().unwrap();
    std::fs::write(data.join("NODE"), "format one\n").unwrap();
    holds(&refused(&["--data", utf8(&data), "--port", "0"]), &["NODE"]);
    assert_eq!(std::fs::read_to_string(data.join("NODE")).unwrap(), "format one\n");
}

#[test]
fn a_file_in_the_folders_place_is_refused() {
    let dir = crate::folder();
    let file = dir.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    holds(&refused(&["--data", utf8(&file), "--port", "0"]), &[utf8(&file)]);
    let below = file.join("data");
    holds(&refused(&["--data", utf8(&below), "--port", "0"]), &[utf8(&below)]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
}

#[test]
fn a_folder_that_cannot_be_written_is_refused() {
    // No user, root neither, can make a folder in /proc.
    if !Path::new("/proc/self").exists() {
        println!("SKIPPED: there is no /proc here");
        return;
    }
    holds(&refused(&["--data", "/proc/flotilla-test", "--port", "0"]), &["/proc/flotilla-test"]);
}
