//! Keys in their file, files that change and are damaged, and the audit log's files.

use flotilla_proto::access::{Caller, Note, Right, Rights};
use tonic::Code;

use super::*;
use crate::audit::Audit;
use crate::credentials::{GrantRow, KeyFile, Keys};
use crate::watched::{EVERY, Refresh as _, Watched, keep};

fn grants(all: &[&str]) -> Vec<GrantRow> {
    all.iter().map(|text| GrantRow::parse(text).unwrap()).collect()
}

#[test]
fn a_key_holds_until_it_ends_or_is_revoked_and_only_its_hash_is_kept() {
    let folder = Folder::new();
    let mut file = KeyFile::default();
    let first = file
        .create("app", grants(&["write:docs,logs-*", "read"]), (Some("acme".into()), None), None)
        .unwrap();
    let second = file.create("app", grants(&["write:docs"]), (None, None), Some(100)).unwrap();
    let other = file.create("ops", grants(&["admin"]), (None, None), None).unwrap();
    let path = folder.at("keys.json");
    file.save(&path).unwrap();
    let written = text(&path);
    for key in [&first, &second, &other] {
        let secret = key.expose().rsplit('_').next().unwrap();
        assert!(secret.len() == 64 && !written.contains(secret), "{written}");
    }
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

    let keys = Keys::parse(written.as_bytes()).unwrap();
    let caller = keys.find(first.expose(), 99).unwrap();
    assert!(
        caller.sees(Right::Write, "logs-7")
            && caller.sees(Right::Read, "x")
            && !caller.sees(Right::Write, "x")
    );
    assert!(caller.name.ends_with("(app)") && caller.tenant.as_deref() == Some("acme"));
    assert!(keys.find(second.expose(), 99).is_ok(), "two of one name hold at once");
    assert_eq!(keys.find(second.expose(), 100), Err("the API key has expired"));

    assert_eq!(file.revoke("app"), 2);
    assert_eq!(file.revoke("app"), 0);
    file.save(&path).unwrap();
    let keys = Keys::parse(text(&path).as_bytes()).unwrap();
    assert_eq!(keys.find(first.expose(), 1), Err("the API key is revoked"));
    assert!(keys.find(other.expose(), 1).is_ok());
    let wrong = format!("{}0", &other.expose()[..other.expose().len() - 1]);
    let wrong = if wrong == other.expose() { format!("{wrong}1") } else { wrong };
    for key in [wrong.as_str(), "", "fl_", "fl__", "fl_x_y", "x", &other.expose()[3..], &format!("{wrong} ")]
    {
        assert_eq!(keys.find(key, 1), Err("the API key is not known"), "{key}");
    }
}

#[test]
fn a_damaged_file_of_keys_is_refused_with_its_place_and_without_what_it_holds() {
    let good = |row: &str| format!(r#"{{"version":1,"keys":[{row}]}}"#);
    let hash = "ab".repeat(32);
    let row = |grants: &str, hash: &str| {
        format!(r#"{{"id":"1","name":"canary","sha256":"{hash}","grants":{grants},"created":1}}"#)
    };
    Keys::parse(good(&row(r#"[{"role":"read"}]"#, &hash)).as_bytes()).unwrap();
    let twice = format!("{0},{0}", row(r#"[{"role":"read"}]"#, &hash));
    for (text, expected) in [
        (String::new(), "is no file of keys: line 1"),
        ("{".to_owned(), "is no file of keys: line 1"),
        (r#"{"version":2}"#.to_owned(), "version: must be 1, got 2"),
        (good(r#"{"id":"canary"}"#), "is no file of keys: line 1"),
        (good(&row("[]", &hash)), "keys[0].grants: must be 1 to 64, got 0"),
        (good(&row(r#"[{"role":"root"}]"#, &hash)), "keys[0].role: must be read | write | admin, got `root`"),
        (good(&row(r#"[{"role":"read","collections":[]}]"#, &hash)), "keys[0].collections: must be 1 to 64"),
        (good(&row(r#"[{"role":"read"}]"#, "canary")), "keys[0].sha256: must be 64 hexadecimal digits"),
        (good(&row(r#"[{"role":"read"}]"#, &"zz".repeat(32))), "keys[0].sha256: must be 64"),
        (good(&twice), "keys[1].id: there is another key of this id"),
        (r#"{"version":1,"keys":[],"more":"canary"}"#.to_owned(), "is no file of keys"),
    ] {
        let refused = Keys::parse(text.as_bytes()).unwrap_err();
        assert!(refused.starts_with(expected) && !refused.contains("canary"), "{text}: {refused}");
    }
    for text in ["", "reader", "read:", "read:a,,b", "READ", "read:a\nb"] {
        assert!(GrantRow::parse(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_key_comes_in_either_header_and_everything_else_is_refused() {
    let folder = Folder::new();
    let mut file = KeyFile::default();
    let key = file.create("app", grants(&["read"]), (None, None), None).unwrap();
    let path = folder.at("keys.json");
    file.save(&path).unwrap();
    let keys = Watched::open("keys", vec![path], |bytes| Keys::parse(&bytes[0])).unwrap();
    let guarded = Callers { keys: Some(keys), ..callers() };
    let bearer = format!("Bearer {}", key.expose());
    for header in [
        ("authorization", bearer.as_str()),
        ("authorization", &format!("bearer  {} ", key.expose())),
        ("api-key", key.expose()),
    ] {
        assert!(asked(&guarded, Some(header)).unwrap().ends_with("(app)"), "{header:?}");
    }
    assert!(asked(&guarded, None).unwrap_err().contains("credentials are needed"));
    for header in [
        ("authorization", key.expose()),
        ("authorization", &format!("Basic {}", key.expose())),
        ("authorization", "Bearer"),
        ("api-key", ""),
        ("api-key", "a.b.c"),
    ] {
        assert!(asked(&guarded, Some(header)).is_err(), "{header:?}");
    }
    assert_eq!(asked(&callers(), None).unwrap(), "anybody");
}

#[test]
fn a_file_that_changes_is_read_again_and_a_damaged_one_is_told_once_and_changes_nothing() {
    let folder = Folder::new();
    let path = folder.put("n", "1");
    let parse = |bytes: &[zeroize::Zeroizing<Vec<u8>>]| {
        let text = std::str::from_utf8(&bytes[0]).map_err(|_| "no text")?;
        text.parse::<u64>().map_err(|_| "no number".to_owned())
    };
    let watched = Watched::open("keys", vec![path.clone()], parse).unwrap();
    let metrics = metrics();
    let now = || {
        watched.refresh(&metrics);
        (*watched.get(), metrics.reload_failures("keys"))
    };
    assert_eq!(now(), (1, 0));
    folder.put("n", "2");
    assert_eq!(now(), (2, 0));
    folder.put("n", "x");
    assert_eq!((now(), now()), ((2, 1), (2, 1)));
    std::fs::remove_file(&path).unwrap();
    assert_eq!(now(), (2, 2));
    folder.put("n", vec![b'1'; usize::try_from(crate::watched::FILE_BYTES_MAX).unwrap() + 1]);
    assert_eq!(now(), (2, 3));
    // The same length and, on a coarse clock, the same time: a file that takes another's place is another one.
    folder.put("n", "3");
    assert_eq!(now(), (3, 3));
    std::fs::remove_file(&path).unwrap();
    Watched::open("keys", vec![path], parse).unwrap_err();
}

#[tokio::test]
async fn the_keeper_sees_changes_by_itself() {
    let folder = Folder::new();
    let path = folder.put("key", "0123456789abcdef-one\n");
    let keys = crate::Trust::key(path).unwrap();
    let _keeper = keep(vec![keys.clone()], metrics());
    folder.put("key", "0123456789abcdef-two\n0123456789abcdef-one\n");
    let two = async {
        while keys.get().len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(EVERY * 60, two).await.unwrap();
    assert!(keys.get()[0].is(b"0123456789abcdef-two"));
    let short = crate::Trust::key(folder.put("short", "0123")).unwrap_err().to_string();
    assert!(short.contains("at least 16 bytes, got 4"), "{short}");
    assert!(crate::Trust::key(folder.put("none", "\n \n")).is_err());
}

#[test]
fn the_audit_log_turns_over_and_holds_one_line_for_each_call() {
    let folder = Folder::new();
    let path = folder.at("audit.jsonl");
    let audit = Arc::new(Audit::open(&path, 4_000, &metrics()).unwrap());
    let recorder = Recorder::new(Some(audit), metrics());
    let caller = Caller::whole("key 1 (ops)", Rights::DATA);
    let long = "n".repeat(10_000);
    for at in 0..30 {
        let collection = if at == 29 { long.as_str() } else { "do\"cs\n" };
        let note = Note {
            caller: Some(&caller).filter(|_| at % 2 == 0),
            method: "flotilla.v1.Collections/Delete",
            collection: Some(collection),
            outcome: Code::PermissionDenied,
        };
        recorder.note(&note);
    }
    drop(recorder);
    let (old, new) = (text(&folder.at("audit.jsonl.1")), text(&path));
    assert!(old.len() <= 4_000 && new.len() <= 4_000, "{} and {} bytes", old.len(), new.len());
    let lines: Vec<serde_json::Value> =
        old.lines().chain(new.lines()).map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = lines.last().unwrap();
    assert_eq!(last["collection"].as_str().unwrap().len(), 256);
    assert_eq!(last["outcome"], "PermissionDenied");
    assert!(last["caller"].is_null() && last["time"].as_str().unwrap().ends_with('Z'));
    assert_eq!(lines[lines.len() - 2]["caller"], "key 1 (ops)");
    assert_eq!(lines[lines.len() - 2]["collection"], "do\"cs\n");
}
