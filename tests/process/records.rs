//! Records without vectors, as a user of the command line has them: imported, grouped, put in order, searched by words,
//! patched; the same after the process was killed.

use std::path::Path;

use flotilla_tests::process::{Finished, command, run};
use flotilla_tests::server::Server;

const ROWS: usize = 1_500;

/// Runs a command of the binary, which must end well; returns what it printed.
fn done(args: &[&str]) -> String {
    let Finished { code, stdout, stderr } = run(command(crate::binary(), args)).unwrap();
    assert_eq!(code, Some(0), "{args:?}\nstdout: {stdout}\nstderr: {stderr}");
    stdout
}

/// Rows of five owners, of 8 to 64 cores, of whom every seventh has a disk that is full; as CSV.
fn write_rows(dir: &Path) -> String {
    let mut text = "id,owner.team,cores,created,note\n".to_owned();
    for row in 0..ROWS {
        let note = if row % 7 == 0 { "the disk is FULL, again" } else { "nothing to tell, \"really\"" };
        let quoted = note.replace('"', "\"\"");
        let created = format!("2026-{:02}-15T08:00:00Z", row % 12 + 1);
        text.push_str(&format!(
            "vm-{row:04},team-{},{},{created},\"{quoted}\"\n",
            row % 5,
            (row % 8 + 1) * 8
        ));
    }
    let path = dir.join("rows.csv");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The answers to a fixed set of questions, without how long they took.
fn answers(url: &str) -> Vec<String> {
    let of = |args: &[&str]| {
        let mut all = vec![args[0], "--to", url, "--collection", "vms"];
        all.extend(&args[1..]);
        let shown = done(&all);
        let lines = shown.lines().filter(|line| !line.contains(" ms") && !line.contains("\"ms\""));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    vec![
        of(&[
            "aggregate",
            "--by",
            "owner.team",
            "--by",
            "created:quarter",
            "--avg",
            "cores",
            "--distinct",
            "note",
        ]),
        of(&["aggregate", "--by", "cores:every=16", "--order", "value"]),
        of(&["scan", "--order-by", "cores", "--descending", "--limit", "40"]),
        of(&[
            "query",
            "note match \"disk full\" and cores >= 32",
            "--fields",
            "owner.team,cores",
            "--output",
            "csv",
        ]),
        of(&["query", "note ~ \"*FULL*\"", "--count"]),
        of(&["search", "--text", "full disk", "--text-field", "note", "--limit", "5", "--output", "table"]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_grouped_ordered_found_and_changed_and_survive_a_kill() {
    let dir = crate::folder();
    let (rows, data, settings) =
        (write_rows(dir.path()), dir.path().join("data"), crate::small_settings(dir.path()));
    let server = Server::start(crate::binary(), &data, &["--config", &settings]).unwrap();
    let url = server.url();
    let create = ["collections", "create", "vms", "--to", &url, "--partitions", "3"];
    let fields = ["owner.team:keyword", "cores:integer", "created:datetime", "note:text"];
    done(&create.into_iter().chain(fields.iter().flat_map(|field| ["--field", field])).collect::<Vec<_>>());
    let import = ["import", "--to", &url, "--collection", "vms", "--records", &rows, "--key", "id"];
    assert!(done(&import).contains("\"records\":1500"));

    let by_team = ["aggregate", "--to", &url, "--collection", "vms", "--by", "owner.team", "--sum", "cores"];
    let shown = done(&by_team);
    // 300 rows of a team, whose cores go round evenly: 8 to 64, 36 on the mean, but for the last round.
    let cores =
        |team: usize| (0..ROWS).filter(|row| row % 5 == team).map(|row| (row % 8 + 1) * 8).sum::<usize>();
    for team in 0..5 {
        let line = shown.lines().find(|line| line.contains(&format!("team-{team}"))).unwrap_or_default();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words, [format!("team-{team}"), "300".to_owned(), cores(team).to_string()], "{shown}");
    }
    let full = ["query", "--to", &url, "--collection", "vms", "note ~ \"*FULL*\"", "--count"];
    assert!(done(&full).contains("215"), "{}", done(&full));

    // What is there stays as it is, and a patch changes what a filter finds.
    let insert = [&import[..], &["--mode", "insert"]].concat();
    assert!(done(&insert).contains("\"conflicts\":1500"));
    let patch =
        ["patch", "--to", &url, "--collection", "vms", "--filter", "note match \"full\" and cores = 8"];
    done(&[&patch[..], &["--set", "state=\"cleaned\""]].concat());
    let cleaned = (0..ROWS).filter(|row| row % 7 == 0 && row % 8 == 0).count();
    let count = ["query", "--to", &url, "--collection", "vms", "state = \"cleaned\"", "--count"];
    assert!(done(&count).contains(&cleaned.to_string()), "{}", done(&count));

    let before = answers(&url);
    server.kill9();
    let server = Server::start(crate::binary(), &data, &["--config", &settings]).unwrap();
    assert_eq!(answers(&server.url()), before);
    server.terminate().unwrap();
}
