//! The commands of the binary, as a user types them.

use std::path::Path;

use flotilla_tests::api::{self, text_of};
use flotilla_tests::process::{Finished, command, run};
use flotilla_tests::seed::unit_vector;
use flotilla_tests::server::Server;

const ROWS: usize = 300;
const DIMS: usize = 8;

/// Runs the binary with these arguments, which must end well; returns what it printed.
fn done(args: &[&str]) -> String {
    let Finished { code, stdout, stderr } = run(command(crate::binary(), args)).unwrap();
    assert_eq!(code, Some(0), "{args:?}\nstdout: {stdout}\nstderr: {stderr}");
    stdout
}

fn command_code(args: &[&str]) -> Option<i32> {
    run(command(crate::binary(), args)).unwrap().code
}

#[test]
fn help_names_every_command_and_each_has_examples() {
    let help = done(&["--help"]);
    for name in [
        "demo",
        "up",
        "import",
        "export",
        "query",
        "search",
        "scan",
        "count",
        "collections",
        "verify",
        "keys",
        "config",
    ] {
        assert!(help.contains(&format!("  {name} ")), "the help lacks `{name}`:\n{help}");
        let own = done(&[name, "--help"]);
        assert!(own.contains("Usage: flotilla"), "{own}");
        assert!(own.contains(&format!("flotilla {name}")), "the help of `{name}` has no example:\n{own}");
    }
    assert!(done(&["--version"]).starts_with("flotilla "));
    let wrong = run(command(crate::binary(), &["serve"])).unwrap();
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

#[test]
fn the_demo_shows_its_parts_and_ends_well() {
    let shown = done(&["demo", "--rows", "2000"]);
    let lower = shown.to_lowercase();
    for part in [
        "2000",
        "nearest to",
        "where",
        "a page",
        "count",
        " ms",
        "again from disk",
        "the same answers",
        "flotilla up --data",
    ] {
        assert!(lower.contains(part), "the demo does not show {part:?}:\n{shown}");
    }
}

fn vector(row: usize) -> Vec<f32> {
    unit_vector(row as u64, DIMS)
}

fn write_files(dir: &Path) -> (String, String) {
    let line = |row: usize| {
        format!(
            "{{\"id\": \"r{row:03}\", \"group\": {}, \"name\": \"row {row}\", \"nested\": {{\"odd\": {}}}}}\n",
            row % 10,
            row % 2 == 1
        )
    };
    let records = dir.join("records.jsonl");
    std::fs::write(&records, (0..ROWS).map(line).collect::<String>()).unwrap();
    let mut head = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({ROWS}, {DIMS}), }}");
    while !(10 + head.len() + 1).is_multiple_of(64) {
        head.push(' ');
    }
    head.push('\n');
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend_from_slice(&(head.len() as u16).to_le_bytes());
    bytes.extend_from_slice(head.as_bytes());
    bytes.extend((0..ROWS).flat_map(vector).flat_map(f32::to_le_bytes));
    let vectors = dir.join("vectors.npy");
    std::fs::write(&vectors, bytes).unwrap();
    let utf8 = |path: &Path| path.to_str().unwrap().to_owned();
    (utf8(&records), utf8(&vectors))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_can_be_searched_scanned_and_counted() {
    let dir = crate::folder();
    let (records, vectors) = write_files(dir.path());
    let server = Server::start(crate::binary(), &dir.path().join("data"), &[]).unwrap();
    let url = server.url();
    let run = |command: &'static str, args: &[&str]| {
        let mut all = vec![command, "--to", &url, "--collection", "docs"];
        all.extend(args);
        done(&all)
    };
    let import = ["--records", &records, "--vectors", &vectors, "--key", "id", "--create"];
    let report = run("import", &import);
    let report = report.lines().last().unwrap_or_default().to_owned();
    assert!(report.contains("\"records\":300") && report.contains("\"rejected\":0"), "{report}");

    assert!(run("count", &[]).contains("\"count\":300"));
    assert!(run("count", &["--filter", "{\"group\": {\"gte\": 8}}"]).contains("\"count\":60"));
    assert!(run("count", &["--filter", "{\"nested.odd\": true}"]).contains("\"count\":150"));

    // A replica alone is equal to itself; its digest is told all the same.
    let told = run("verify", &[]);
    assert!(told.lines().count() > 2 && told.lines().skip(2).all(|line| line.ends_with("yes")), "{told}");
    let deep = run("verify", &["--deep", "--output", "json"]);
    assert!(deep.contains("\"equal\":true") && !deep.contains("false"), "{deep}");
    let unknown = ["verify", "--to", &url, "--collection", "nothing"];
    assert_eq!(command_code(&unknown), Some(1));

    let page = run("scan", &["--limit", "3", "--filter", "{\"group\": 7}"]);
    let keys: Vec<bool> =
        page.lines().zip(["r007", "r017", "r027"]).map(|(line, key)| line.contains(key)).collect();
    assert_eq!(keys, [true; 3], "{page}");
    assert_eq!(run("scan", &["--all"]).lines().count(), ROWS);

    let found = run("search", &["--vector-file", &vectors, "--row", "299", "--limit", "3", "--with-payload"]);
    let first = found.lines().find(|line| line.contains(" r")).unwrap_or_default();
    assert!(first.contains("1.0000  r299"), "{found}");

    let client = server.client().await.unwrap();
    let mut request = api::search("docs", vector(123), 1);
    (request.exact, request.with_payload) = (true, true);
    let hits = client.search(request).await.unwrap().hits;
    let record = hits[0].record.as_ref().unwrap();
    assert_eq!(text_of(record, "name"), Some("row 123"), "{record:?}");

    // Once more: the same keys, so the same records.
    run("import", &import[..6]);
    assert!(run("count", &[]).contains("\"count\":300"));
    drop(client);
    server.terminate().unwrap();
}

#[test]
fn a_command_without_a_server_says_so() {
    let ended =
        run(command(crate::binary(), &["count", "--to", "http://127.0.0.1:1", "--collection", "c"])).unwrap();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("no server answers at http://127.0.0.1:1"), "{}", ended.stderr);
    assert_eq!(ended.stderr.lines().count(), 1, "{}", ended.stderr);
}
