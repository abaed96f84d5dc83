//! The repository's files as the rules look at them: whole texts, and the lines of code that are neither comment nor test.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Endings of the files that rules about text look at.
const TEXTS: &[&str] =
    &["rs", "md", "toml", "yaml", "yml", "proto", "sh", "py", "ts", "json", "Dockerfile", "run", "gitignore"];
/// What stands above an item of tests: the second of doors for fuzzing, which assert as tests do.
const TEST_MARKS: [&str; 2] = ["#[cfg(test)]", "#[cfg(any(test, feature = \"fuzz\"))]"];

/// A text file; the path is relative to the repository, with slashes.
pub struct File {
    pub path: String,
    pub text: String,
    is_test: bool,
}

/// All text files.
pub struct Tree(Vec<File>);

/// The repository's top.
pub fn root() -> PathBuf {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    Path::new(&here).parent().unwrap().to_owned()
}

/// The repository, read once.
pub fn tree() -> &'static Tree {
    static TREE: OnceLock<Tree> = OnceLock::new();
    TREE.get_or_init(read)
}

/// Names at the top level, but for what the repository ignores.
pub fn names() -> BTreeSet<String> {
    let ignored = ignored();
    let entries = std::fs::read_dir(root()).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name != ".git" && !ignored.contains(name)).collect()
}

/// Plain names in `.gitignore`.
fn ignored() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join(".gitignore")).unwrap_or_default();
    text.lines()
        .map(|line| line.trim_matches('/').to_owned())
        .filter(|name| !name.contains(['*', '/']))
        .collect()
}

fn read() -> Tree {
    let mut files = Vec::new();
    let ignored = ignored();
    for name in names() {
        walk(&root().join(name), &ignored, &mut files);
    }
    let tests: BTreeSet<String> = files.iter().flat_map(test_modules).collect();
    for file in &mut files {
        let stem = file.path.trim_end_matches(".rs");
        let is_below = |test: &String| stem == test || stem.starts_with(&format!("{test}/"));
        file.is_test = stem.starts_with("tests/") || stem.contains("/tests/") || tests.iter().any(is_below);
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Tree(files)
}

fn walk(path: &Path, ignored: &BTreeSet<String>, files: &mut Vec<File>) {
    let name = path.file_name().unwrap().to_string_lossy().into_owned();
    if ignored.contains(&name) || path.is_symlink() {
        return;
    }
    if path.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            walk(&entry.unwrap().path(), ignored, files);
        }
    } else if name.rsplit('.').next().is_some_and(|ending| TEXTS.contains(&ending)) {
        let relative = path.strip_prefix(root()).unwrap().to_string_lossy().replace('\\', "/");
        let text = std::fs::read_to_string(path).unwrap_or_else(|why| panic!("{relative}: {why}"));
        files.push(File { path: relative, text, is_test: false });
    }
}

/// Modules that a file declares for tests only, as paths without ending.
fn test_modules(file: &File) -> Vec<String> {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let home = match name {
        "lib.rs" | "main.rs" => folder.to_owned(),
        name => format!("{folder}/{}", name.trim_end_matches(".rs")),
    };
    let lines: Vec<&str> = file.text.lines().map(str::trim).collect();
    let declared = lines.windows(2).filter(|pair| TEST_MARKS.contains(&pair[0])).filter_map(|pair| {
        let declaration = pair[1].trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        declaration.strip_prefix("mod ")?.strip_suffix(';')
    });
    declared.map(|module| format!("{home}/{module}")).collect()
}

impl Tree {
    pub fn texts(&self) -> impl Iterator<Item = &File> {
        self.0.iter()
    }

    pub fn rust(&self) -> impl Iterator<Item = &File> {
        self.0.iter().filter(|file| file.path.ends_with(".rs"))
    }
}

impl File {
    /// Lines of code, numbered, without comments: tests too.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(n, line)| (n + 1, line));
        lines.map(|(n, line)| (n, line.split(" // ").next().unwrap_or(line))).filter(|(_, line)| {
            let start = line.trim_start();
            !start.starts_with("//")
        })
    }

    /// Places where the code has this word, tests too.
    pub fn code_with(&self, word: &str) -> Vec<String> {
        let found = self.code().filter(|(_, line)| has_word(line, word));
        found.map(|(number, line)| format!("{}:{number}: {}", self.path, line.trim())).collect()
    }

    /// Lines of code, numbered, without comments and tests.
    pub fn product(&self) -> Vec<(usize, &str)> {
        let mut kept = Vec::new();
        let mut lines = self.code().filter(|_| !self.is_test);
        while let Some((number, line)) = lines.next() {
            if !TEST_MARKS.contains(&line.trim()) {
                kept.push((number, line));
                continue;
            }
            // The item that the mark belongs to: its one line, or all to the brace that closes it at the same indent.
            let close = format!("{}}}", &line[..line.len() - line.trim_start().len()]);
            let mut is_first = true;
            for (_, line) in lines.by_ref().filter(|(_, line)| !line.trim_start().starts_with("#[")) {
                let is_one_line = is_first && (line.trim_end().ends_with(';') || line.ends_with("{}"));
                if is_one_line || line == close {
                    break;
                }
                is_first = false;
            }
        }
        kept
    }
}

/// Whether `line` has `word` standing alone.
pub fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && !after.is_some_and(is_part)
    })
}

/// The names that follow `crate::` in a line, those in braces too.
pub fn crate_names(line: &str) -> Vec<&str> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut names = Vec::new();
    for (at, path) in line.match_indices("crate::") {
        let rest = &line[at + path.len()..];
        let is_ours = !line[..at].ends_with(|c: char| is_part(c) || c == '$');
        if !is_ours {
            continue;
        }
        match rest.strip_prefix('{') {
            Some(group) => {
                let group = group.split('}').next().unwrap_or_default();
                names.extend(group.split(',').map(|name| name.trim().split("::").next().unwrap_or_default()));
            }
            None => names.push(rest.split(|c: char| !is_part(c)).next().unwrap_or_default()),
        }
    }
    names
}

/// Targets of the links of a Markdown text, outside code.
pub fn links(text: &str) -> Vec<String> {
    let mut is_code = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            is_code = !is_code;
        } else if !is_code {
            let parts = line.split("](").skip(1);
            found.extend(parts.filter_map(|part| Some(part.split_once(')')?.0.to_owned())));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> File {
        File { path: "node/src/a.rs".into(), text: text.into(), is_test: false }
    }

    #[test]
    fn comments_and_tests_are_no_product() {
        let text = "//! door\nfn a() {} // aside\n#[cfg(test)]\nmod tests;\nfn b() {}\n#[cfg(test)]\n\
                    #[allow(x)]\nmod more {\n    fn c() {}\n}\nfn d() {}\n#[cfg(test)]\nfn e() {}\nfn f() {}\n\
                    #[cfg(any(test, feature = \"fuzz\"))]\npub mod fuzz;\n";
        let file = file(text);
        let kept: Vec<(usize, &str)> = file.product();
        assert_eq!(kept, [(2, "fn a() {}"), (5, "fn b() {}"), (11, "fn d() {}"), (14, "fn f() {}")]);
        assert_eq!(file.code_with("c").len(), 1);
        assert_eq!(test_modules(&file), ["node/src/a/tests", "node/src/a/fuzz"]);
    }

    #[test]
    fn names_behind_crate_are_found() {
        assert_eq!(crate_names("use crate::{log, raft::Group};"), ["log", "raft"]);
        assert_eq!(crate_names("let a = crate::env::now() + crate::index::X;"), ["env", "index"]);
        assert!(crate_names("pub(crate) fn a() { $crate::b!() }").is_empty());
    }

    #[test]
    fn words_stand_alone_and_links_outside_code() {
        assert!(has_word("unsafe { a }", "unsafe") && !has_word("unsafe_op", "unsafe"));
        assert_eq!(links("a [b](c.md#d) [e](f)\n```\n[g](h)\n```\n"), ["c.md#d", "f"]);
    }
}
