//! `flotilla config check | show`.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::keys::{KEYS, Key};
use super::member::Member;
use super::{Config, Setting, Settings, unit};

/// Arguments of `flotilla config`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  flotilla config show > flotilla.yaml
  flotilla config check flotilla.yaml

A file says only what differs from the defaults. The environment goes before it (server.port is FLOTILLA_SERVER_PORT), and
flags go before both. An unknown key is refused with the nearest known one.")]
pub struct ConfigArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Checks a file as a start would, without starting: exit code 1 and every problem with its line
    #[command(after_help = "Examples:\n  flotilla config check flotilla.yaml")]
    Check {
        /// The YAML file
        file: PathBuf,
    },
    /// Prints every key with its meaning, default, bounds and present value, as a file that can be used
    #[command(after_help = "Examples:
  flotilla config show > flotilla.yaml            all defaults, documented
  flotilla config show --config flotilla.yaml     what a start with this file would use, and why
  FLOTILLA_SERVER_PORT=16000 flotilla config show")]
    Show {
        /// A YAML file to read first
        #[arg(long)]
        config: Option<PathBuf>,
    },
}

impl ConfigArgs {
    /// Runs the command; the error lists every problem.
    pub fn run(self) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        match self.action {
            Action::Check { file } => {
                let settings = Settings::load(Some(&file), std::iter::empty(), &[])?;
                Member::of(&settings, Config::from(&settings).server.bind)?;
                writeln!(out, "{}: good, {} keys set", file.display(), settings.len())?;
            }
            Action::Show { config } => {
                let settings = Settings::load(config.as_deref(), std::env::vars(), &[])?;
                out.write_all(show(&settings).as_bytes())?;
            }
        }
        Ok(())
    }
}

/// All keys as a commented file that reads back as the same settings.
pub(super) fn show(settings: &Settings) -> String {
    let mut text = String::new();
    let mut open: Vec<&str> = Vec::new();
    for key in KEYS {
        let steps: Vec<&str> = key.name.split('.').collect();
        let (sections, leaf) = steps.split_at(steps.len() - 1);
        let shared = open.iter().zip(sections).take_while(|(a, b)| a == b).count();
        open.truncate(shared);
        for section in &sections[shared..] {
            text.push_str(&format!("{}{section}:\n", "  ".repeat(open.len())));
            open.push(section);
        }
        show_key(&mut text, &"  ".repeat(open.len()), leaf.concat().as_str(), key, settings);
    }
    text
}

fn show_key(text: &mut String, indent: &str, leaf: &str, key: &Key, settings: &Settings) {
    let default = match key.kind.default_text() {
        none if none.is_empty() => "no default".to_owned(),
        default => format!("default {default}"),
    };
    text.push_str(&format!("{indent}# {}\n", key.doc));
    let live = if key.is_live { ", changes without a restart" } else { "" };
    text.push_str(&format!("{indent}# {}{}, {default}{live}", key.kind.legal(), unit(key)));
    match settings.get(key.name) {
        Some((value, place)) => {
            text.push_str(&format!(". Set by {place}\n{indent}{leaf}: {}\n", yaml(value)))
        }
        None => text.push_str(&format!("\n{indent}{leaf}: {}\n", key.kind.default_text())),
    }
}

/// The value as YAML reads it back: text that could be taken for something else stands in quotes.
fn yaml(value: &Setting) -> String {
    let text = match value {
        Setting::Text(text) => text,
        Setting::Shards(_) => return format!("\"{value}\""),
        Setting::Number(_) | Setting::Flag(_) => return value.to_string(),
    };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    let is_word = text.contains('/') || KEYS.iter().any(|key| key.kind.default_text() == *text);
    if is_word && text.chars().all(is_plain) && !text.starts_with('-') {
        return text.clone();
    }
    let escaped = |c: char| match c {
        '"' | '\\' => format!("\\{c}"),
        ' '..='~' => c.to_string(),
        c => format!("\\U{:08x}", u32::from(c)),
    };
    format!("\"{}\"", text.chars().map(escaped).collect::<String>())
}
