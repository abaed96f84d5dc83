//! The guide is a test: every command that the README or a help text shows is parsed, and its limits are the limits.

use clap::CommandFactory as _;
use flotilla_proto::limits::*;

use super::*;

const README: &str = include_str!("../../../../README.md");

/// Splits a line as a shell does, as far as examples go: blanks, single quotes, `$(...)`, `>` and `|` end it.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let (mut quoted, mut depth) = (false, 0);
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            '>' | '|' if !quoted && depth == 0 => break,
            ' ' if !quoted && depth == 0 => words.push(String::new()),
            c => {
                depth = depth + i32::from(c == '(') - i32::from(c == ')');
                words.last_mut().unwrap().push(c);
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

fn parse(line: &str) {
    // What stands behind two blanks explains the example.
    let example = line.trim().split("   ").next().unwrap();
    let mut words = words(example.strip_prefix("$ ").unwrap_or(example));
    for word in &mut words {
        if word.starts_with("$(") {
            *word = "1".to_owned();
        }
    }
    let mut words = words.into_iter().skip_while(|word| word != "flotilla").peekable();
    if words.peek().is_some() {
        Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{example}\n{error}"));
    }
}

fn examples(command: &clap::Command, shown: &mut Vec<String>) {
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    assert!(
        command.get_name() == "help" || help.contains("Examples:"),
        "{} shows no example",
        command.get_name()
    );
    let lines = help.lines().filter(|line| line.starts_with("  ") && line.contains("flotilla"));
    shown.extend(lines.map(str::to_owned));
    command.get_subcommands().for_each(|command| examples(command, shown));
}

#[test]
fn every_command_shows_examples_that_parse() {
    let mut command = Cli::command();
    command.build();
    command.debug_assert();
    let mut shown = Vec::new();
    examples(&Cli::command(), &mut shown);
    assert!(shown.len() > 30, "{}", shown.len());
    shown.iter().for_each(|line| parse(line));
}

#[test]
fn every_command_of_the_readme_parses() {
    let blocks = README.split("```").skip(1).step_by(2);
    let shell = blocks.filter(|block| block.starts_with("sh\n") || block.starts_with("console\n"));
    let lines: Vec<&str> = shell.flat_map(str::lines).filter(|line| line.starts_with("flotilla ")).collect();
    assert!(lines.len() > 8, "{}", lines.len());
    lines.into_iter().for_each(parse);
}

/// Arguments of a command, parsed as the command line is.
pub(crate) fn parsed<T: clap::Args>(arguments: &[String]) -> anyhow::Result<T> {
    let command = T::augment_args(clap::Command::new("flotilla").no_binary_name(true));
    Ok(T::from_arg_matches(&command.try_get_matches_from(arguments)?)?)
}

#[test]
fn the_limits_of_the_readme_are_the_limits() {
    let table = README.split("## Limits").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| ")).skip(1);
    let told: Vec<u64> = rows.map(|row| row.split('|').nth(1).unwrap().trim().parse().unwrap()).collect();
    let known = [
        u64::from(DIMS_MAX),
        VECTORS_MAX as u64,
        FIELDS_MAX as u64,
        NAME_BYTES_MAX as u64,
        KEY_BYTES_MAX as u64,
        PAYLOAD_BYTES_MAX as u64,
        PAYLOAD_DEPTH_MAX as u64,
        BATCH_MAX as u64,
        PATCH_PATHS_MAX as u64,
        PATCH_MATCHES_MAX as u64,
        PATCH_BYTES_MAX as u64,
        REPLACE_BYTES_MAX,
        REPLACES_OPEN_MAX as u64,
        PROJECTION_MAX as u64,
        u64::from(LIMIT_MAX),
        EXAMPLES_MAX as u64,
        u64::from(GROUP_SIZE_MAX),
        AGGREGATIONS_MAX as u64,
        AGGREGATION_DEPTH_MAX as u64,
        u64::from(TERMS_MAX),
        GROUPS_MAX as u64,
        RANGES_MAX as u64,
        PERCENTS_MAX as u64,
        GROUP_BYTES_MAX as u64,
        u64::from(EF_MAX),
        OVERSAMPLING_MAX as u64,
        FILTER_DEPTH_MAX as u64,
        FILTER_NODES_MAX as u64,
        FILTER_VALUES_MAX as u64,
        GLOB_BYTES_MAX as u64,
        TEXT_QUERY_BYTES_MAX as u64,
        TEXT_WORDS_MAX as u64,
        TEXT_WORD_BYTES_MAX as u64,
        TEXT_KIN_MAX as u64,
        u64::from(FUZZY_EDITS_MAX),
        u64::from(HIGHLIGHT_FRAGMENTS_MAX),
        u64::from(HIGHLIGHT_CHARS_MAX),
        FILTER_TEXT_BYTES_MAX as u64,
        COLLECTIONS_MAX as u64,
        u64::from(PARTITIONS_MAX),
        MESSAGE_BYTES_MAX as u64,
    ];
    assert_eq!(told, known);
}
