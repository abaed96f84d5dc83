//! Patterns: `*` stands for any run of characters, also for none, `?` for one character, and a backslash takes the next
//! character as it is. A pattern is about the whole of a text: `web` matches nothing but `web`.
//!
//! Characters are Unicode's scalar values, compared as they are: no folding of case, no normal forms, no classes in brackets.
//!
//! Matching keeps one place to go back to, the latest `*`, and never more. So it takes at worst one comparison for each
//! character of the text and of the pattern, and the pattern's length is bounded ([`crate::limits::GLOB_BYTES_MAX`]).

use std::str::Chars;

/// A pattern, ready to match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    steps: Vec<Step>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Any run; never two in a row.
    Run,
    /// Any character.
    One,
    /// This character.
    Char(char),
}

/// A pattern ends in a backslash that takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the pattern ends in a lone backslash; a backslash itself is written twice")]
pub struct LoneBackslash;

impl Glob {
    /// The pattern of `text`.
    pub fn new(text: &str) -> Result<Glob, LoneBackslash> {
        let mut steps = Vec::new();
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            match char {
                '*' if steps.last() == Some(&Step::Run) => {}
                '*' => steps.push(Step::Run),
                '?' => steps.push(Step::One),
                '\\' => steps.push(Step::Char(chars.next().ok_or(LoneBackslash)?)),
                char => steps.push(Step::Char(char)),
            }
        }
        Ok(Glob { steps })
    }

    /// Whether the whole of `text` is what the pattern says.
    pub fn matches(&self, text: &str) -> bool {
        let (mut at, mut rest) = (0, text.chars());
        // Behind the latest run: the next step, and the text that the run leaves to it.
        let mut latest: Option<(usize, Chars<'_>)> = None;
        loop {
            if self.steps.get(at) == Some(&Step::Run) {
                at += 1;
                if at == self.steps.len() {
                    return true;
                }
                latest = Some((at, rest.clone()));
                continue;
            }
            let fits = match (self.steps.get(at), rest.next()) {
                (None, None) => return true,
                // A longer run would leave still less.
                (Some(_), None) => return false,
                (None, Some(_)) => false,
                (Some(Step::Char(wanted)), Some(char)) => *wanted == char,
                (Some(Step::One | Step::Run), Some(_)) => true,
            };
            match &mut latest {
                _ if fits => at += 1,
                None => return false,
                Some((step, from)) => {
                    from.next();
                    (at, rest) = (*step, from.clone());
                }
            }
        }
    }

    /// What every text that matches starts with.
    pub fn head(&self) -> String {
        let literal = |step: &Step| match step {
            Step::Char(char) => Some(*char),
            Step::Run | Step::One => None,
        };
        self.steps.iter().map_while(literal).collect()
    }

    /// The longest run of letters and digits that every text that matches has in it.
    pub fn longest_run(&self) -> String {
        let (mut longest, mut run) = (String::new(), String::new());
        for step in self.steps.iter().chain([&Step::Run]) {
            match step {
                Step::Char(char) if char.is_alphanumeric() => run.push(*char),
                _ => {
                    if run.len() > longest.len() {
                        longest = std::mem::take(&mut run);
                    }
                    run.clear();
                }
            }
        }
        longest
    }

    /// The prefix that the pattern asks for, if it asks for nothing else: characters, then one run.
    pub fn prefix(&self) -> Option<String> {
        let (last, before) = self.steps.split_last()?;
        let head = self.head();
        (*last == Step::Run && head.chars().count() == before.len()).then_some(head)
    }
}

/// Whether a pattern has to write a backslash before the character to mean it.
pub(super) fn is_special(char: char) -> bool {
    matches!(char, '*' | '?' | '\\')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        Glob::new(pattern).expect("a pattern").matches(text)
    }

    /// The definition, as short as it can be said; exponential.
    fn means(steps: &[Step], text: &[char]) -> bool {
        match (steps.split_first(), text.split_first()) {
            (None, _) => text.is_empty(),
            (Some((Step::Run, more)), None) => means(more, text),
            (Some((Step::Run, more)), Some((_, rest))) => means(more, text) || means(steps, rest),
            (Some(_), None) => false,
            (Some((Step::One, more)), Some((_, rest))) => means(more, rest),
            (Some((Step::Char(wanted), more)), Some((char, rest))) => wanted == char && means(more, rest),
        }
    }

    #[test]
    fn a_pattern_is_about_the_whole_text_by_characters() {
        for (pattern, text) in [
            ("", ""),
            ("*", ""),
            ("*", "any"),
            ("**", "any"),
            ("web", "web"),
            ("web*", "web"),
            ("web*", "web-01"),
            ("*01", "web-01"),
            ("w*b*1", "web-01"),
            ("*a*a*", "banana"),
            ("*ana", "banana"),
            ("?", "ä"),
            ("??", "日本"),
            ("*?", "日本"),
            (r"a\*b", "a*b"),
            (r"a\?\\", r"a?\"),
            (r"\a", "a"),
            ("a\nb*", "a\nb\n"),
        ] {
            assert!(matches(pattern, text), "{pattern} should match {text}");
        }
        for (pattern, text) in [
            ("", "a"),
            ("web", "web-01"),
            ("web", "aweb"),
            ("Web*", "web"),
            ("?", ""),
            ("?", "ab"),
            ("*a", "ab"),
            ("a*b*c", "a-c-b"),
            ("*ab", "a"),
            ("*aab", "aaaac"),
            (r"a\*b", "axb"),
            (r"\?", "a"),
        ] {
            assert!(!matches(pattern, text), "{pattern} should not match {text}");
        }
        assert_eq!(Glob::new(r"a\"), Err(LoneBackslash));
        assert_eq!(Glob::new(r"\\\"), Err(LoneBackslash));
    }

    #[test]
    fn a_hostile_pattern_on_a_long_text_is_answered() {
        let text = "a".repeat(1 << 16);
        assert!(!matches(&format!("{}b", "*a".repeat(100)), &text));
        assert!(!matches(&format!("*{}b", "a".repeat(200)), &text));
    }

    #[test]
    fn what_every_match_starts_with() {
        let told = |pattern: &str| {
            let glob = Glob::new(pattern).expect("a pattern");
            (glob.head(), glob.prefix())
        };
        assert_eq!(told("web*"), ("web".into(), Some("web".into())));
        assert_eq!(told(r"a\*b**"), ("a*b".into(), Some("a*b".into())));
        assert_eq!(told("*"), (String::new(), Some(String::new())));
        assert_eq!(told("we?*"), ("we".into(), None));
        assert_eq!(told("we*b"), ("we".into(), None));
        assert_eq!(told("web"), ("web".into(), None));
        assert_eq!(told(""), (String::new(), None));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, cases: 2_000, ..ProptestConfig::default() })]

        #[test]
        fn matching_is_what_the_definition_says(
            pattern in prop::collection::vec(prop::sample::select(vec!["*", "?", "a", "b", r"\*", "ä"]), 0..9),
            text in prop::collection::vec(prop::sample::select(vec!['a', 'b', '*', 'ä']), 0..12),
        ) {
            let glob = Glob::new(&pattern.concat()).expect("a pattern");
            let whole: String = text.iter().collect();
            let holds = glob.matches(&whole);
            prop_assert_eq!(holds, means(&glob.steps, &text));
            prop_assert!(!holds || whole.starts_with(&glob.head()));
            if let Some(prefix) = glob.prefix() {
                prop_assert_eq!(holds, whole.starts_with(&prefix));
            }
        }
    }
}
