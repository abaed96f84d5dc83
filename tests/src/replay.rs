//! Fuzz corpora as plain tests: every kept input goes through its door, and so do changed copies of them, the same ones in
//! each run.
//!
//! The corpora lie in `fuzz/corpus/<target>`; `fuzz/README.md` tells of the targets. A door is a function that takes bytes
//! and panics if its parser breaks its promise. When it does, the input is printed, with the way to keep it.
#![allow(
    clippy::panic,
    reason = "only tests call this, and a corpus that cannot be read fails the test with its path"
)]

use std::path::PathBuf;

use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::seed;

/// Bytes of a changed input, at most.
const BYTES_MAX: usize = 8 << 10;
/// Values at which lengths and counts go wrong.
const EDGES: [u64; 9] = [0, 1, 0x7f, 0x80, 0xff, 0x7fff_ffff, 0xffff_ffff, i64::MAX as u64, u64::MAX];

/// Where the inputs of a target lie.
fn folder(target: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus")).join(target)
}

/// The kept inputs of a target by name: at least one.
pub fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = folder(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    let mut inputs: Vec<(String, Vec<u8>)> = entries
        .map(|entry| {
            let path = entry.unwrap_or_else(|why| panic!("{}: {why}", folder.display())).path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            (name, std::fs::read(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display())))
        })
        .collect();
    inputs.sort();
    assert!(!inputs.is_empty(), "{}: no input", folder.display());
    inputs
}

/// Keeps an input of a target: for the tests that write the corpora anew.
pub fn keep(target: &str, name: &str, bytes: &[u8]) {
    let folder = folder(target);
    std::fs::create_dir_all(&folder).unwrap_or_else(|why| panic!("{}: {why}", folder.display()));
    let file = folder.join(name);
    std::fs::write(&file, bytes).unwrap_or_else(|why| panic!("{}: {why}", file.display()));
}

/// The environment variable that says how many changed copies there are, for a long run.
pub const VARIABLE: &str = "FLOTILLA_TEST_CHANGES";

/// Sends every kept input of `target` through `door`, then `changed` copies with a few changes each. More of them, or others,
/// if the environment says so ([`VARIABLE`], [`crate::seed::VARIABLE`]).
pub fn replay(target: &str, changed: usize, door: impl Fn(&[u8])) {
    let changed = std::env::var(VARIABLE).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(changed);
    let inputs = corpus(target);
    let send = |what: String, bytes: &[u8]| {
        let watch = Watch { target, what, bytes };
        door(watch.bytes);
    };
    for (name, bytes) in &inputs {
        send(format!("corpus file {name}"), bytes);
    }
    let mut draw = seed::generator(seed::value());
    for number in 0..changed {
        let (name, bytes) = &inputs[draw.random_range(0..inputs.len())];
        let (_, other) = &inputs[draw.random_range(0..inputs.len())];
        let mut bytes = bytes.clone();
        for _ in 0..draw.random_range(1..=4) {
            change(&mut bytes, other, &mut draw);
        }
        bytes.truncate(BYTES_MAX);
        send(format!("change {number}, of corpus file {name}"), &bytes);
    }
}

/// One change, as bit rot, a short write or a hostile hand would make it.
fn change(bytes: &mut Vec<u8>, other: &[u8], draw: &mut SmallRng) {
    let at = draw.random_range(0..=bytes.len());
    let end = (at + draw.random_range(0..=16)).min(bytes.len());
    match draw.random_range(0..8) {
        0 | 1 if at < bytes.len() => bytes[at] ^= 1 << draw.random_range(0..8),
        2 if at < bytes.len() => bytes[at] = draw.random(),
        3 => bytes.truncate(at),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let copy = bytes[at..end].to_vec();
            bytes.splice(at..at, copy);
        }
        6 => {
            let from = draw.random_range(0..=other.len());
            let to = (from + draw.random_range(0..=64)).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        _ => {
            let edge = EDGES[draw.random_range(0..EDGES.len())].to_le_bytes();
            let width = [1, 2, 4, 8][draw.random_range(0..4)];
            let end = (at + width).min(bytes.len());
            bytes[at..end].copy_from_slice(&edge[..end - at]);
        }
    }
}

/// Tells of the input that is on its way, should the door panic.
struct Watch<'a> {
    target: &'a str,
    what: String,
    bytes: &'a [u8],
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let Watch { target, what, .. } = self;
            eprintln!("target {target}, {what}; to keep it, from the repository's top:");
            eprintln!("  xxd -r -p > tests/fuzz/corpus/{target}/NAME <<< {hex}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_many_and_the_same_in_each_run() {
        let made = |seed: u64| -> Vec<Vec<u8>> {
            let mut draw = crate::seed::generator(seed);
            let mut made = vec![b"a kept input of some length".to_vec(); 200];
            made.iter_mut().for_each(|bytes| change(bytes, b"another one", &mut draw));
            made
        };
        let mut first = made(1);
        assert_eq!(first, made(1));
        first.sort();
        first.dedup();
        assert!(first.len() > 120, "{} different ones", first.len());
    }

    #[test]
    #[should_panic(expected = "the door's own words")]
    fn a_door_that_breaks_its_promise_fails_the_replay() {
        replay("scan_token", 1, |_| panic!("the door's own words"));
    }
}
