use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

fn cut(text: &str) -> Vec<(u32, String)> {
    words(text).map(|written| (written.place, written.lowered())).collect()
}

#[test]
fn words_are_runs_of_letters_and_digits_in_lower_case() {
    let told = |words: &[&str]| (0..).zip(words.iter().map(|word| (*word).to_owned())).collect::<Vec<_>>();
    assert_eq!(
        cut("Upload failed: disk-07 is FULL!"),
        told(&["upload", "failed", "disk", "07", "is", "full"])
    );
    assert_eq!(cut("Größe ÄÖ 日本 naïve"), told(&["größe", "äö", "日本", "naïve"]));
    // Each character by itself, so the last sigma of a word is no other one.
    assert_eq!(cut("ΟΔΟΣ"), told(&["οδοσ"]));
    assert_eq!(cut(""), []);
    assert_eq!(cut(" -_.,;\u{301}"), []);
}

#[test]
fn a_long_run_is_dropped_and_keeps_its_place() {
    let (most, more) = ("a".repeat(TEXT_WORD_BYTES_MAX), "a".repeat(TEXT_WORD_BYTES_MAX + 1));
    assert_eq!(cut(&format!("x {more} {most} y")), [(0, "x".into()), (2, most), (3, "y".into())]);
    assert!(query_words("q", &format!("x {more} y"), None, false).is_ok());
    for query in [format!("x {more} y"), format!("{more} y"), format!("x {more}")] {
        let refused = query_words("q", &query, None, true).unwrap_err().to_string();
        assert!(refused.contains("at most 39 bytes"), "{refused}");
    }
}

#[test]
fn queries_without_words_or_too_long_are_refused() {
    let refused = |query: &str| query_words("text.query", query, None, false).unwrap_err().to_string();
    for query in ["", "   ", "?!…", &"é".repeat(40)] {
        assert!(refused(query).contains("text.query: at least one word is needed"), "{query}");
    }
    assert!(refused(&"a ".repeat(TEXT_WORDS_MAX + 1)).contains("65 words, the limit is 64"));
    assert!(refused(&"!".repeat(TEXT_QUERY_BYTES_MAX + 1)).contains("4097 bytes, the limit is 4096"));
    assert_eq!(query_words("q", "Disk disk", None, true).unwrap(), ["disk", "disk"]);
}

#[test]
fn words_of_a_language_count_by_their_stems() {
    let stems = |language, text: &str| -> Vec<String> {
        words(text).map(|written| written.term(Some(language))).collect()
    };
    for (language, text, expected) in [
        (
            Language::English,
            "Uploading UPLOADED uploads, connections",
            &["upload", "upload", "upload", "connect"][..],
        ),
        (Language::German, "Häuser Haus", &["haus", "haus"]),
        (Language::French, "continuer continua", &["continu", "continu"]),
        (Language::Russian, "книги книга", &["книг", "книг"]),
    ] {
        assert_eq!(stems(language, text), expected, "{language:?}");
    }
    for language in Language::ALL {
        assert!(stems(language, "7 07 日本").iter().all(|stem| !stem.is_empty()), "{language:?}");
        assert_eq!(language.declared(), format!("text:{}", language.name()));
    }
    let query = query_words("q", "uploads uploading", Some(Language::English), true);
    assert_eq!(query.unwrap(), ["upload", "upload"]);
    assert_eq!(query_words("q", "uploads", None, true).unwrap(), ["uploads"]);
}

/// How often the words stand in a row in one of the values.
fn naive(values: &[String], phrase: &[&str]) -> usize {
    let rows = values.iter().map(|value| value.split(' ').collect::<Vec<_>>());
    rows.map(|row| row.windows(phrase.len()).filter(|window| *window == phrase).count()).sum()
}

/// Edits, by the table.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut table = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            table[i][j] = match (i, j) {
                (0, far) | (far, 0) => far,
                _ => {
                    let replaced = table[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    replaced.min(table[i - 1][j] + 1).min(table[i][j - 1] + 1)
                }
            };
        }
    }
    table[a.len()][b.len()]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 500,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x70_6872_6173),
        ..ProptestConfig::default()
    })]

    #[test]
    fn phrases_are_counted_as_by_looking(
        values in prop::collection::vec("[ab]( [abc]){0,9}", 0..4),
        phrase in "[ab]( [ab]){0,3}",
    ) {
        let phrase: Vec<&str> = phrase.split(' ').collect();
        let mut places = PlacesOf::default();
        for value in &values {
            places.add(value, None, |word| {
                let same = phrase.iter().enumerate().filter(|(_, other)| **other == word);
                same.map(|(place, _)| 1 << place).sum()
            });
        }
        prop_assert_eq!(places.phrases(phrase.len()) as usize, naive(&values, &phrase));
    }

    #[test]
    fn kin_are_as_many_edits_away_as_the_table_says(word in "[abä]{0,6}", other in "[abä]{0,8}", most in 0_u8..3) {
        let away = edits(&word, &other);
        let kin = (away <= usize::from(most)).then_some(away as u8);
        prop_assert_eq!(Kin::new(&word, false, most).edits_to(&other), kin);
        let begins = other.starts_with(&word);
        prop_assert_eq!(Kin::new(&word, true, most).edits_to(&other), if begins { Some(0) } else { kin });
    }

    #[test]
    fn any_text_is_cut_into_words_that_are_cut_no_further(text in any::<String>()) {
        for written in words(&text) {
            prop_assert_eq!(&text[written.range()], written.text);
            prop_assert!(!written.text.is_empty() && written.text.chars().all(char::is_alphanumeric));
        }
    }
}

proptest! {
    // A stemmer that gives up takes every replica with it.
    #![proptest_config(ProptestConfig {
        cases: 4_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(0x73_7465_6d73),
        ..ProptestConfig::default()
    })]

    /// Also what no language has: stemmers were made for words of theirs.
    #[test]
    fn every_word_has_a_stem_in_every_language(
        text in prop_oneof![
            any::<String>(),
            "[a-zäöüßéèçñåøæœ]{1,30}",
            "[a-ce-gi-suy']{0,12}(ness|ement|ational|ungen|issimo|amente|heiten)?",
            "[\\u{370}-\\u{3ff}\\u{400}-\\u{45f}\\u{620}-\\u{652}ıİşğ]{1,20}",
        ],
    ) {
        for language in Language::ALL {
            for written in words(&text) {
                let stem = written.term(Some(language));
                prop_assert!(!stem.is_empty());
                prop_assert_eq!(written.term(Some(language)), stem);
            }
        }
    }
}
