//! The guard of taste: layer order, banned names and calls, sizes, dead links. The numbers only ratchet: whoever lowers one
//! writes the lower one here; nothing raises one without a word in review.

// A test's helper may give up as a test does; clippy exempts only functions marked as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "tidy/source.rs"]
mod source;

use std::collections::BTreeSet;

use source::{File, names, root, tree};

/// Top level: what must be there.
const REQUIRED: &[&str] = &[
    "CHANGELOG.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "benches",
    "client",
    "deploy",
    "node",
    "proto",
    "router",
    "tests",
    ".ci",
    ".gitignore",
];
/// Top level: what may be there besides.
const ALLOWED: &[&str] =
    &["helm", ".cargo", ".config", ".rustfmt.toml", ".clippy.toml", ".deny.toml", ".gitattributes"];

/// Lines of a source file, at most.
const LINES_MAX: usize = 700;
/// Above this a file must be named in [`LONG`].
const LINES_LONG: usize = 600;
/// Long files, and the lines they may have.
const LONG: &[(&str, usize)] = &[];

/// The node's layers, lowest first: a layer uses those before it, never its neighbour or what comes after. A delete by
/// filter is planned by `query`, so the machine stands above it. `fuzz` is no part of the product: each layer's doors for
/// fuzzing, by one name.
const LAYERS: &[&[&str]] = &[
    &["planted", "invariants"],
    &["env"],
    &["room"],
    &["index", "peers"],
    &["log", "storage"],
    &["query"],
    &["machine"],
    &["raft"],
    &["worker"],
    &["partition", "meta"],
    &["service"],
    &["server"],
    &["fuzz"],
];

/// Crates that must not see each other: (crate, what it must not name).
const STRANGERS: &[(&str, &[&str])] = &[
    ("proto", &["flotilla_node", "flotilla_router", "flotilla_client", "flotilla_tests"]),
    ("node", &["flotilla_router", "flotilla_client"]),
    ("router", &["flotilla_node", "flotilla_client"]),
    ("client", &["flotilla_node", "flotilla_router"]),
];

/// Outside tests: places that give up instead of telling. (crate, how many there are)
const GIVING_UP: &[(&str, usize)] = &[("proto", 0), ("node", 0), ("router", 0), ("client", 0), ("deploy", 0)];

/// Fails with all findings at once.
fn none(findings: Vec<String>, rule: &str) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

/// This test names what it forbids.
fn is_tidy(file: &File) -> bool {
    file.path.starts_with("tests/tests/tidy")
}

/// Findings of `words` in each line of code (comments left out), as `file:line: what`.
fn lines_with(file: &File, words: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in file.product() {
        for word in words.iter().filter(|word| source::has_word(line, word)) {
            found.push(format!("{}:{number}: {word}", file.path));
        }
    }
    found
}

#[test]
fn the_top_level_is_the_agreed_one() {
    let there = names();
    let legal: BTreeSet<&str> = REQUIRED.iter().chain(ALLOWED).copied().collect();
    let stray =
        there.iter().filter(|name| !legal.contains(name.as_str())).map(|name| format!("stray: {name}"));
    let missing =
        REQUIRED.iter().filter(|name| !there.contains(**name)).map(|name| format!("missing: {name}"));
    none(stray.chain(missing).collect(), "the top level of the repository");
}

#[test]
fn files_are_short() {
    let mut wrong = Vec::new();
    for file in tree().rust() {
        let lines = file.text.lines().count();
        let ratchet = LONG.iter().find(|(path, _)| *path == file.path).map(|(_, lines)| *lines);
        let limit = ratchet.unwrap_or(LINES_LONG).min(LINES_MAX);
        if lines > limit {
            wrong.push(format!("{}: {lines} lines, the limit is {limit}", file.path));
        }
        if ratchet.is_some() && lines <= LINES_LONG {
            wrong.push(format!("{}: {lines} lines: take it out of the list", file.path));
        }
    }
    none(wrong, "long files");
}

#[test]
fn every_module_tells_its_story_at_the_door() {
    let silent = |file: &&File| !file.text.starts_with("//!") && !file.path.ends_with("/tests.rs");
    none(tree().rust().filter(silent).map(|f| f.path.clone()).collect(), "files that do not begin with //!");
}

#[test]
fn names_are_no_attics() {
    let banned = ["mod", "util", "utils", "helper", "helpers", "manager", "misc", "common"];
    let is_banned = |file: &&File| {
        let stem = file.path.trim_end_matches(".rs");
        stem.split('/').any(|step| banned.contains(&step))
    };
    none(tree().rust().filter(is_banned).map(|f| f.path.clone()).collect(), "banned module names");
}

#[test]
fn openraft_is_named_in_one_folder() {
    let elsewhere = tree().rust().filter(|f| !f.path.starts_with("node/src/raft") && !is_tidy(f));
    // A log filter has to say whose lines it means.
    let found =
        elsewhere.flat_map(|f| f.code_with("openraft")).filter(|line| !line.contains("openraft=error"));
    none(found.collect(), "openraft outside node/src/raft");
}

#[test]
fn unsafe_code_lives_in_one_folder_and_one_file() {
    let homes = [
        "node/src/index/distance.rs",
        "node/src/index/distance/",
        "node/src/env/mmap.rs",
        // The simulator answers calls of the C library.
        "tests/sim/src/taps.rs",
    ];
    let elsewhere =
        tree().rust().filter(|f| !homes.iter().any(|home| f.path.starts_with(home)) && !is_tidy(f));
    none(elsewhere.flat_map(|f| f.code_with("unsafe")).collect(), "unsafe code elsewhere");
}

#[test]
fn the_node_asks_env_for_files_time_and_chance() {
    let banned = [
        "std::fs",
        "tokio::fs",
        "SystemTime::now",
        "Instant::now",
        "getrandom",
        "rand::rng",
        "thread_rng",
        "new_v4",
    ];
    let node =
        tree().rust().filter(|f| f.path.starts_with("node/src/") && !f.path.starts_with("node/src/env"));
    none(node.flat_map(|f| lines_with(f, &banned)).collect(), "outside node/src/env");
}

#[test]
fn the_nodes_layers_point_downward() {
    let rank = |name: &str| LAYERS.iter().position(|layer| layer.contains(&name));
    let mut wrong = Vec::new();
    for file in tree().rust() {
        let Some(inside) = file.path.strip_prefix("node/src/") else { continue };
        let layer = inside.split(['/', '.']).next().unwrap_or_default();
        if layer == "lib" {
            continue;
        }
        let Some(own) = rank(layer) else {
            wrong.push(format!("{}: `{layer}` is no layer", file.path));
            continue;
        };
        for (number, line) in file.product() {
            let up = |used: &&str| **used != *layer && rank(used).is_some_and(|used| used >= own);
            wrong.extend(
                source::crate_names(line)
                    .into_iter()
                    .filter(up)
                    .map(|used| format!("{}:{number}: {used}", file.path)),
            );
        }
    }
    none(wrong, "layers that look up or sideways");
}

#[test]
fn siblings_do_not_know_each_other() {
    let mut wrong = Vec::new();
    for (folder, strangers) in STRANGERS {
        let inside = tree().rust().filter(|f| f.path.starts_with(&format!("{folder}/")));
        wrong.extend(inside.flat_map(|f| lines_with(f, strangers)));
        let manifest = std::fs::read_to_string(root().join(folder).join("Cargo.toml")).unwrap();
        let dependencies = manifest.split("[dev-dependencies]").next().unwrap_or_default();
        let named = strangers.iter().filter(|name| dependencies.contains(&name.replace('_', "-")));
        wrong.extend(named.map(|name| format!("{folder}/Cargo.toml: {name}")));
    }
    none(wrong, "crates that must not see each other");
}

#[test]
fn the_product_gives_up_ever_more_rarely() {
    let calls = [".unwrap()", ".expect(", "panic!(", "unreachable!("];
    let mut wrong = Vec::new();
    for (folder, limit) in GIVING_UP {
        let mut found = Vec::new();
        for file in tree().rust().filter(|f| f.path.starts_with(&format!("{folder}/"))) {
            for (number, line) in file.product() {
                let count = calls.iter().map(|call| line.matches(call).count()).sum();
                found.extend(std::iter::repeat_n(format!("{}:{number}: {}", file.path, line.trim()), count));
            }
        }
        if found.len() > *limit {
            wrong.push(format!(
                "{folder}: {}, the ratchet stands at {limit}\n    {}",
                found.len(),
                found.join("\n    ")
            ));
        } else if found.len() < *limit {
            wrong.push(format!("{folder}: {} only: lower the ratchet from {limit}", found.len()));
        }
    }
    none(wrong, "unwrap, expect, panic and unreachable outside tests");
}

#[test]
fn nothing_is_left_for_later() {
    let words = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X"),
        concat!("to", "do!"),
        concat!("unimpl", "emented!"),
    ];
    let mut wrong = Vec::new();
    for file in tree().texts() {
        for (number, line) in file.text.lines().enumerate() {
            let found = words.iter().filter(|word| line.contains(**word));
            wrong.extend(found.map(|word| format!("{}:{}: {word}", file.path, number + 1)));
        }
    }
    none(wrong, "words for unfinished work");
}

#[test]
fn nothing_speaks_of_the_place_it_was_made_in() {
    let words = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("/tmp/ba", "sh"),
        concat!("this ses", "sion"),
        concat!("another ses", "sion"),
        concat!("work", "tree"),
        concat!("sub", "agent"),
    ];
    let mut wrong = Vec::new();
    for file in tree().texts() {
        for (number, line) in file.text.lines().enumerate() {
            let lower = line.to_lowercase();
            let found = words.iter().filter(|word| lower.contains(**word));
            wrong.extend(found.map(|word| format!("{}:{}: {word}", file.path, number + 1)));
        }
    }
    none(wrong, "machine paths and workplaces");
}

#[test]
fn links_lead_somewhere() {
    let mut wrong = Vec::new();
    for file in tree().texts().filter(|f| f.path.ends_with(".md")) {
        let folder = root().join(&file.path).parent().unwrap().to_owned();
        for target in source::links(&file.text) {
            let path = target.split('#').next().unwrap_or_default();
            let is_elsewhere = target.contains("://") || target.starts_with("mailto:") || path.is_empty();
            if !is_elsewhere && !folder.join(path).exists() {
                wrong.push(format!("{}: {target}", file.path));
            }
        }
    }
    none(wrong, "dead links");
}
